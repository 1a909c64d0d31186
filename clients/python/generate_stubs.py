"""Generates the Python stubs and the shipped copy of the contract from `protos/`.

The generator is old on purpose. Its code can be imported with every protobuf from 4.25 on, while code of a current
generator refuses older versions of protobuf, and the client must work with the version that its users have. The
generator needs its own environment, and so does the plugin that writes the type stubs. The first run makes both under
`build/`.
"""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
PROTO = "index/v1/chat.proto"
PACKAGE = ROOT / "clients" / "python" / "index_grpc_client"
BUILD = ROOT / "build" / "protos"
GENERATOR = ["grpcio-tools==1.62.3", "setuptools<80"]
TYPER = ["mypy-protobuf==5.1.0"]


def environment(name: str, requirements: list[str]) -> Path:
    """Returns the `bin` folder of an environment with the requirements. Makes the environment if it does not exist."""
    folder = BUILD / name
    done = folder / "done"
    if not done.exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *requirements], check=True)
        done.touch()
    return folder / "bin"


def generate(output: Path) -> None:
    """Runs the compiler, which writes `index/v1/chat_pb2*.py(i)` into the folder `output`."""
    compiler, typer = environment("generator", GENERATOR), environment("typer", TYPER)
    output.mkdir(parents=True, exist_ok=True)
    flags = [f"--{kind}_out={output}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = [f"--plugin=protoc-gen-{kind}={typer}/protoc-gen-{kind}" for kind in ("mypy", "mypy_grpc")]
    command = [str(compiler / "python"), "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
    subprocess.run([*command, *plugins, *flags, PROTO], check=True)


def install(output: Path) -> None:
    """Copies the generated files, with their imports adapted, and the contract into the client package."""
    for source in sorted((output / "index" / "v1").iterdir()):
        text = source.read_text()
        text = re.sub(r"\bfrom index\.v1 import", "from index_grpc_client.v1 import", text)
        text = re.sub(r"\bimport index\.v1\.chat_pb2\b", "import index_grpc_client.v1.chat_pb2", text)
        text = re.sub(r"(?<!\w)index\.v1\.chat_pb2\.", "index_grpc_client.v1.chat_pb2.", text)
        (PACKAGE / "v1" / source.name).write_text(text)
    shipped = PACKAGE / "protos" / PROTO
    shipped.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROTOS / PROTO, shipped)


def main() -> None:
    output = BUILD / "output"
    shutil.rmtree(output, ignore_errors=True)
    generate(output)
    install(output)
    sys.stderr.write(f"stubs written to {PACKAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
