"""Server reflection, by which tools such as grpcurl find the services without a .proto file."""

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
"""Both versions have the same messages; grpcio-reflection ships only the older one."""
NAMES = [f"{package}.ServerReflection" for package in (V1, V1ALPHA)]


def add_reflection(server: grpc.aio.Server, *services: str) -> None:
    """Registers reflection for the services and for itself, under both of its names."""
    names, pool = [*services, *NAMES], _with_v1()
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)  # type: ignore[attr-defined] # its stubs lack it
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in NAMES:
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))


def _with_v1() -> descriptor_pool.DescriptorPool:
    """Adds the newer version to the default pool, a copy of the older one under its own name, and returns the pool."""
    pool = descriptor_pool.Default()
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = f"{V1.replace('.', '/')}/reflection.proto", V1
    file.ClearField("options")
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = field.type_name.replace(f".{V1ALPHA}.", f".{V1}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{V1ALPHA}.", f".{V1}.")
        method.output_type = method.output_type.replace(f".{V1ALPHA}.", f".{V1}.")
    pool.AddSerializedFile(file.SerializeToString())
    return pool
