"""The descriptors with which Envoy translates JSON are those of the current contract."""

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from index_grpc_client.v1 import chat_pb2

DESCRIPTORS = Path(__file__).resolve().parents[1] / "deploy" / "envoy" / "index.pb"


def test_envoy_knows_the_contract() -> None:
    described = {file.name: file for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file}
    contract = FileDescriptorProto()
    chat_pb2.DESCRIPTOR.CopyToProto(contract)
    assert described[contract.name] == contract, "run `make descriptors`"
    assert {name for file in described.values() for name in file.dependency} <= described.keys()
