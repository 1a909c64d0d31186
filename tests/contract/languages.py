"""The languages whose programs test the contract: what each needs, and how its programs are built and run."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import google.rpc

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "contract"
"""Where programs are built: each language in a copy of its folder, with the contract in `protos` beside them."""
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

NODE_20 = "node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'"
GENERATOR = {"protoc --version": "protobuf-compiler", "command -v grpc_cpp_plugin": "protobuf-compiler-grpc"}


@dataclass(frozen=True, slots=True)
class Language:
    """A folder beside this file with a Makefile and programs."""

    folder: str
    needs: dict[str, str]
    """Shell lines that succeed if something is installed, and the Debian packages that install it."""
    programs: dict[str, str]
    """Shell lines by the program's name; {address} is the server's."""

    @property
    def workplace(self) -> Path:
        """The folder in which it is built and run."""
        return BUILD / self.folder

    def missing(self) -> list[str]:
        """Debian packages that are missing or too old."""
        return [package for probe, package in self.needs.items() if shell(probe, BUILD).returncode != 0]

    def build(self) -> None:
        """Builds what is out of date. Raises AssertionError with make's last output if that fails."""
        copy_contract()
        source, made = Path(__file__).parent / self.folder, shutil.ignore_patterns("generated", "node_modules")
        shutil.copytree(source, self.workplace, ignore=made, dirs_exist_ok=True)
        make = shell("make -j2", self.workplace)
        assert make.returncode == 0, make.stderr[-2000:]


LANGUAGES = [
    Language(
        folder="node",
        needs={NODE_20: "nodejs", "npm --version": "npm", "make --version": "make"},
        programs={
            "grpc-js": "node grpc_js.mjs {address} ../protos",
            "connect-grpc": "node connect.mjs grpc http://{address}",
        },
    ),
    Language(
        folder="cpp",
        needs=GENERATOR
        | {"g++ --version": "g++", "make --version": "make", "pkg-config --version": "pkg-config"}
        | {"pkg-config --exists grpc++": "libgrpc++-dev", "pkg-config --exists protobuf": "libprotobuf-dev"},
        programs={"c++": "./calls {address}"},
    ),
    Language(
        folder="ruby",
        needs=GENERATOR | {"ruby -e 'require \"grpc\"'": "ruby-grpc", "make --version": "make"},
        programs={"ruby": "ruby -I generated calls.rb {address}"},
    ),
]
BY_PROGRAM = {program: language for language in LANGUAGES for program in language.programs}
BY_FOLDER = {language.folder: language for language in LANGUAGES}


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell line in the folder, with our programs on the PATH, for at most five minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    # The suite itself may run under make; with these variables another make would print more.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS")}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=inherited | {"PATH": PATH} | environment,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def copy_contract() -> None:
    """Copies the contract, and the protos of its error details, to where the generators look for them."""
    shutil.rmtree(BUILD / "protos", ignore_errors=True)
    shutil.copytree(ROOT / "protos", BUILD / "protos")
    (installed,) = google.rpc.__path__
    details = BUILD / "protos" / "google" / "rpc"
    details.mkdir(parents=True, exist_ok=True)
    for name in ("status.proto", "error_details.proto"):
        shutil.copy2(Path(installed) / name, details)
