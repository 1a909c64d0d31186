"""Writes index.pb, by which Envoy translates JSON: the contract, and the details of its errors with it."""

import sys
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from index_grpc_client.v1 import chat_pb2

OUTPUT = Path(__file__).with_name("index.pb")


def with_dependencies(*files: FileDescriptor) -> dict[str, FileDescriptor]:
    """The files and what they import, by name; each after those that it imports."""
    found: dict[str, FileDescriptor] = {}
    for file in files:
        found |= with_dependencies(*file.dependencies) | {file.name: file}
    return found


def main() -> None:
    described = FileDescriptorSet()
    roots = (chat_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR)
    for file in with_dependencies(*roots).values():
        file.CopyToProto(described.file.add())
    OUTPUT.write_bytes(described.SerializeToString(deterministic=True))
    sys.stderr.write(f"{len(described.file)} files described in {OUTPUT}\n")


if __name__ == "__main__":
    main()
