"""Server reflection, by which tools such as grpcurl find the services without a .proto file."""

from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
"""Both versions have the same messages; grpcio-reflection ships only the older one."""
NAMES = [f"{package}.ServerReflection" for package in (V1, V1ALPHA)]


def add_reflection(server: grpc.aio.Server, *services: str) -> None:
    """Registers reflection for the services and for itself, under both of its names."""
    names, pool = [*services, *NAMES], SymbolPool(_with_v1())
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)  # type: ignore[attr-defined] # its stubs lack it
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in NAMES:
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))


class SymbolPool:
    """A pool of descriptors that finds the files of methods too, as reflection's contract asks; protobuf's does not."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else is the pool's own
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - its name in the library
        """Returns the file that defines the symbol. Raises KeyError if there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


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
