"""The command `index-grpc` in a separate process."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from index_grpc import __version__
from index_grpc.cli import main
from index_grpc.settings import ServeSettings
from tests.checkpoints import make_checkpoint
from tests.process import no_traceback, serving


def failing(*arguments: str) -> tuple[int, list[str]]:
    """Runs the command; returns its exit code and its output."""
    with serving(*arguments) as process:
        code = process.exit_code(60)
    assert not any("Traceback" in line for line in process.lines)
    assert [line for line in process.lines if line.startswith("error: ")] == process.lines[-1:]
    return code, process.lines


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--print-config"], ["health", "--help"]])
def test_output_that_cannot_be_written_is_one_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "index_grpc.cli", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: No space left on device\n")


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = failing("--port", str(port))
    assert code == 1
    assert lines[-1].startswith(f"error: cannot listen on 127.0.0.1:{port}: another program listens there; ")


def test_models_that_cannot_be_loaded(checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "pytorch_model.bin").write_bytes(b"nothing like it")
    wanted = {
        ("--model", str(tmp_path / "nowhere")): ("neither a directory nor a hub id", "nowhere"),
        ("--model", str(broken)): ("pytorch_model.bin",),
        ("--model", str(checkpoint), "--device", "cuda:99"): ("cuda:99", "use --device cpu"),
    }
    for arguments, texts in wanted.items():
        code, lines = failing("--port", "0", *arguments)
        assert code == 1
        assert all(text in lines[-1] for text in texts)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--port", "70000"], "--port is 70000; it should be less than or equal to 65535"),
        (["--port", "abc"], "'abc' is not a valid integer"),
        (["--max-sequences", "0"], "--max-sequences is 0; it should be greater than or equal to 1"),
        (["--grace-seconds", "nan"], "--grace-seconds is nan; it should be "),
        (["--device", "tpu"], "--device is 'tpu'; allowed is auto, cpu, cuda or cuda:N"),
        (["--dtype", "int8"], "'int8' is not one of 'auto', 'float32', 'bfloat16'"),
        (["--metrics-port", "abc"], "'abc' is not a valid integer"),
        (["--metrics-host", "0.0.0.0"], "--metrics-host goes with --metrics-port; add it"),
        (["--model", ""], "--model is ''; it should have at least 1 character"),
        (["--tls-cert", "cert.pem"], "--tls-cert and --tls-key go together; give both"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca goes with --tls-cert and --tls-key; add them"),
        (
            ["--unix-socket", "s", "--tls-cert", "c", "--tls-key", "k"],
            "--unix-socket needs no encryption; leave --tls-cert and --tls-key out, or add the --http-port to encrypt",
        ),
        (["--unix-socket-mode", "666"], "--unix-socket-mode goes with --unix-socket"),
        (
            ["--unix-socket", "s", "--unix-socket-mode", "rw"],
            "--unix-socket-mode is 'rw'; allowed are three octal digits, such as 660",
        ),
        (
            ["--kv-memory-fraction", "0.5", "--kv-memory-bytes", "1000"],
            "--kv-memory-fraction and --kv-memory-bytes say the same in two ways; leave one out",
        ),
        (["--no-open-health"], "--no-open-health goes with --api-keys-file; add it"),
        (["--colour"], "No such option '--colour'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_flag_is_one_line(arguments: list[str], error: str) -> None:
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert error in line


def test_a_bad_environment_variable_is_one_line_too() -> None:
    result = CliRunner().invoke(main, ["serve"], env={"INDEX_GRPC_MAX_WAITING": "-1"})
    assert result.exit_code == 2
    assert result.stderr == "error: INDEX_GRPC_MAX_WAITING is -1; it should be greater than or equal to 0\n"


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "damaged", hidden_size=64, num_layers=1)
    tensors = torch.load(directory / "pytorch_model.bin", weights_only=True)
    tensors["model.norm.weight"].fill_(float("nan"))
    torch.save(tensors, directory / "pytorch_model.bin")
    with serving("--model", str(directory), "--port", "0") as process:
        process.wait_for("^error: the model cannot answer a trial prompt .*; is the checkpoint damaged")
        assert process.exit_code() == 1
        assert no_traceback(process.lines)


def test_kubernetes_does_not_choose_the_port() -> None:
    """For a Service named index-grpc, Kubernetes sets INDEX_GRPC_PORT to something else."""
    for port, wrong in (("tcp://10.0.0.1:50051", "threads"), ("nonsense", "port")):  # the first error
        environment = {"INDEX_GRPC_PORT": port, "INDEX_GRPC_THREADS": "nonsense"}
        result = CliRunner().invoke(main, ["serve"], env=environment)
        assert f"--{wrong}" in result.stderr


def test_help_lists_each_flag_with_its_default() -> None:
    result = CliRunner().invoke(main, ["serve", "--help"], terminal_width=200)
    assert result.exit_code == 0
    entries = [" ".join(entry.split()) for entry in result.stdout.split("\n  --")]
    for name, field in ServeSettings.model_fields.items():
        (line,) = [entry for entry in entries if entry.startswith(f"{name.replace('_', '-')} ")]
        assert f"INDEX_GRPC_{name.upper()}" in line
        flag, default = name.replace("_", "-"), field.default
        if isinstance(default, bool):
            default = flag if default else f"no-{flag}"
        assert f"default: {default}]" in line or field.default is None
        assert str(field.description).replace(" ", "") in line.replace(" ", "")  # lines break at hyphens too


def test_without_a_command_it_shows_its_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output
    assert CliRunner().invoke(main, ["--version"]).output == f"index-grpc, version {__version__}\n"


def test_help_and_bad_flags_do_not_wait_for_heavy_imports() -> None:
    program = (
        "import sys; from index_grpc.cli import main\n"
        "for arguments in (['--help'], ['serve', '--help'], ['download', '--help'], ['serve', '--port', '-1']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stderr.splitlines())
    assert "pydantic" in imported
    assert not imported & {"torch", "grpc", "transformers", "numpy", "uvloop", "sentencepiece", "huggingface_hub"}
