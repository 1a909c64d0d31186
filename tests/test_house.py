"""The rules of the code: which layer may import which, and how long files may be. Reads the code without running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "index_grpc"
CLIENT = ROOT / "clients" / "python" / "index_grpc_client"

COMMON = {f"index_grpc.{name}" for name in ("__version__", "datatypes", "errors", "logs", "machine", "settings")}
"""What every layer may import, or import from."""
LAYERS = {
    "settings": {"index_grpc.settings"},
    "logs": {"index_grpc.logs"},
    "native": {"index_grpc.native"},
    "cuda": {"index_grpc.cuda"},
    "model": {"index_grpc.model", "index_grpc.native", "index_grpc.cuda"},
    "text": {"index_grpc.text"},
    "engine": {"index_grpc.engine", "index_grpc.model", "index_grpc.cuda"},
    "chat": {"index_grpc.text", "index_grpc.engine", "index_grpc.chat"},
    "bench": {"index_grpc.bench"},
    "export": {"index_grpc.export", "index_grpc.model", "index_grpc.text"},
    "configuration": {"index_grpc.configuration"},
    "access": {"index_grpc.access"},
    "server": {"index_grpc.access", "index_grpc.text", "index_grpc.engine", "index_grpc.chat", "index_grpc.server"},
    "http": {
        "index_grpc.access",
        "index_grpc.text",
        "index_grpc.engine",
        "index_grpc.chat",
        "index_grpc.server",
        "index_grpc.http",
    },
}
"""What each layer may import besides COMMON, which all may import. The modules in TOP may import everything."""
TOP = {"__main__", "cli", "commands", "engine_process", "launch", "loading", "start"}

THIRD_PARTY = {
    "torch": (
        "cuda",
        "model",
        "export",
        "engine/cuda",
        "engine/runner.py",
        "engine/sampler.py",
        "loading",
    ),
    "triton": ("cuda",),
    "numpy": ("cuda", "engine/cuda", "export/gguf_file.py", "bench/measure.py"),
    "accelerate": ("model",),
    "safetensors": ("model", "export/llama.py"),
    "transformers": ("export/llama.py",),
    "gguf": ("export/gguf_file.py", "export/gguf_vocabulary.py"),
    "huggingface_hub": ("model",),
    "sentencepiece": ("text/tokenizer.py", "export/gguf_vocabulary.py"),
    "grpc": ("server", "http/problem.py", "commands/health.py"),
    "google": ("server", "http"),
    "grpc_reflection": ("server/reflection.py",),
    "grpc_health": ("server", "commands/health.py"),
    "prometheus_client": ("server/metrics",),
    "index_grpc_client": ("server", "http", "bench", "commands/health.py"),
    "index_grpc_client.v1": ("server", "http"),
    "pydantic": ("settings", "configuration", "access/keys.py", "http"),
    "pydantic_core": ("settings", "access/keys.py", "http"),
    "click": ("cli.py", "commands", "configuration", "bench", "access/command.py", "export/command.py"),
    "psutil": ("machine.py",),
    "uvloop": ("commands/serve.py", "bench/command.py"),
    "tqdm": ("export",),
    "opentelemetry": ("server/tracing.py",),
    "starlette": ("http",),
    "uvicorn": ("http/port.py", "http/timeouts.py"),
    "h11": ("http/malformed.py", "http/timeouts.py"),
    "matplotlib": ("bench/plot.py", "bench/plot_turns.py", "bench/style.py"),
}
"""Where each library, or a part of it, may be imported: folders or files. One that is not listed may be nowhere."""

LONGEST_FILE = 300
LONG_FUNCTION = 30
MOST_LONG_FUNCTIONS = 0.1


def sources(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "_pb2" not in path.name]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def permitted_places(name: str) -> tuple[str, ...]:
    """Where a module may be imported: as THIRD_PARTY says of it, or of the package around it that is listed."""
    while name and name not in THIRD_PARTY:
        name = name.rpartition(".")[0]
    return THIRD_PARTY.get(name, ())


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_in(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def is_common(name: str) -> bool:
    return name in COMMON or name.rpartition(".")[0] in COMMON


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_only_itself_and_those_below(path: Path) -> None:
    if layer(path) in TOP:
        return
    allowed = LAYERS.get(layer(path), set())
    ours = [name for name in imports(path) if name.split(".")[0] == "index_grpc"]
    assert [name for name in ours if not is_common(name) and not is_in(name, allowed)] == []


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_are_imported_only_where_they_may_be(path: Path) -> None:
    place = str(path.relative_to(PACKAGE))
    strays = [
        name
        for name in imports(path)
        if name.split(".")[0] not in {"index_grpc", *sys.stdlib_module_names}
        and not any(place == permitted or place.startswith(f"{permitted}/") for permitted in permitted_places(name))
    ]
    assert strays == []


def test_the_server_and_the_command_line_import_no_torch() -> None:
    """Importing torch would take seconds before the port opens, or before `--help`."""
    code = "import sys, index_grpc.cli, index_grpc.server.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_and_functions_are_short() -> None:
    paths = [*sources(PACKAGE), *sources(CLIENT), *sources(ROOT / "tests"), *sources(ROOT / "demo")]
    too_long = {str(path): count for path in paths if (count := len(path.read_text().splitlines())) > LONGEST_FILE}
    assert not too_long
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for path in paths for node in functions(path)]
    assert sum(length >= LONG_FUNCTION for length in lengths) / len(lengths) < MOST_LONG_FUNCTIONS


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Triton compiles it; Triton has its own types."""
    return any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_every_return_is_annotated() -> None:
    paths = [*sources(PACKAGE), *sources(CLIENT)]
    bare = [
        f"{path}:{node.lineno}"
        for path in paths
        for node in functions(path)
        if node.returns is None and not is_kernel(node)
    ]
    assert bare == []
