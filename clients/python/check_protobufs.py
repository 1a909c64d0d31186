"""Checks that the client works with the major versions of protobuf that it supports, each in its own environment.

For each version it makes an environment, installs the client's wheel there with that protobuf, imports the stubs,
converts a message to bytes and back, and calls a server on the loopback. Prints one line for each version. Needs a
package index.
"""

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CLIENT = Path(__file__).resolve().parent
PROTOBUFS = ["4.25", "5.29", "6.33", "7.36"]

PROBE = """
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import grpc
from index_grpc_client import Client, user
from index_grpc_client.v1 import chat_pb2, chat_pb2_grpc

class Echo(chat_pb2_grpc.ChatServiceServicer):
    def Chat(self, request, context):
        return chat_pb2.ChatResponse(response=request.prompt, history=request.history)

    def ChatStream(self, request, context):
        yield chat_pb2.ChatStreamResponse(delta=request.prompt, start=chat_pb2.Start(model="echo"))
        yield chat_pb2.ChatStreamResponse(finish=chat_pb2.Finish(reason=chat_pb2.FINISH_REASON_STOP))

request = chat_pb2.ChatRequest(prompt="世界", sampling=chat_pb2.SamplingParams(temperature=0))
assert chat_pb2.ChatRequest.FromString(request.SerializeToString()) == request

server = grpc.server(ThreadPoolExecutor(4))
chat_pb2_grpc.add_ChatServiceServicer_to_server(Echo(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with Client(f"127.0.0.1:{port}", timeout=30) as client:
    answer = client.chat("世界", history=[user("Hi")], temperature=0)
    assert (answer.text, answer.history) == ("世界", (user("Hi"),)), answer
    with client.chat_stream("世界") as stream:
        assert [chunk.delta for chunk in stream] == ["世界", ""]
    assert stream.result().text == "世界"
server.stop(None).wait()
print(*(f"{name} {version(name)}" for name in ("protobuf", "grpcio", "grpcio-health-checking")), sep=", ")
"""


def build_wheel(folder: Path) -> Path:
    """Returns the client's wheel. It is built in the folder from a copy, because building leaves files behind."""
    source = shutil.copytree(CLIENT, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def check(wheel: Path, protobuf: str, folder: Path) -> bool:
    """Returns whether the wheel works with the protobuf, and prints the result."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary",
        ":all:",
        str(wheel),
        f"protobuf=={protobuf}.*",
    ]
    for command in (install, [python, "-W", "error", "-c", PROBE]):
        run = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        if run.returncode:
            sys.stdout.write(f"protobuf {protobuf}: FAILED\n{run.stdout}{run.stderr}")
            return False
    sys.stdout.write(f"protobuf {protobuf}: ok ({run.stdout.strip()})\n")
    return True


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        results = [check(wheel, protobuf, folder / protobuf) for protobuf in PROTOBUFS]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
