"""The committed stubs, and the files that are shipped beside them, agree with the contract."""

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from index_grpc_client.v1 import chat_pb2

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = "index/v1/chat.proto"
REMEDY = "the stubs are stale: run clients/python/generate_stubs.py"
SHIPPED = resources.files("index_grpc_client") / "protos"


def comparable(file: FileDescriptorProto) -> FileDescriptorProto:
    """Returns the file with only that left in it that means something to a program."""
    file.ClearField("source_code_info")
    file.DiscardUnknownFields()  # buf's notes to itself
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")  # a compiler may write it or leave it to the reader; it follows the name
    return file


@pytest.fixture(scope="module")
def compiled() -> FileDescriptorProto:
    """The contract as it is compiled now."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    assert buf, "the test extra brings buf"
    run = subprocess.run([buf, "build", "-o", "-#format=binpb"], cwd=ROOT, capture_output=True, check=True)
    [contract] = [file for file in FileDescriptorSet.FromString(run.stdout).file if file.name == CONTRACT]
    return comparable(contract)


def test_the_stubs_are_fresh(compiled: FileDescriptorProto) -> None:
    assert comparable(FileDescriptorProto.FromString(chat_pb2.DESCRIPTOR.serialized_pb)) == compiled, REMEDY


def test_the_shipped_contract_equals_the_one_in_protos() -> None:
    assert (SHIPPED / CONTRACT).read_bytes() == (ROOT / "protos" / CONTRACT).read_bytes(), REMEDY
