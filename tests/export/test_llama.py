"""A checkpoint as a plain Llama: other engines generate the same tokens as this service."""

import errno
import json
import os
import pty
import subprocess
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from index_grpc_client import AsyncClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from index_grpc.cli import main
from index_grpc.datatypes import Message, Role
from index_grpc.model.hub import DEMO_DIRECTORY
from index_grpc.text.layout import prompt_ids
from index_grpc.text.tokenizer import Tokenizer
from tests.checkpoints import make_checkpoint
from tests.conftest import serving, settings
from tests.process import INDEX_GRPC
from tests.terminal import shown

PROMPTS = ["你好", "Who are you?", "讲个故事", "Count to five.", "What's  up?\n😀"]
CONVERSATIONS = [
    [("user", "你好")],
    [("user", "  spaces  first\nand a line"), ("assistant", "答 yes 😀"), ("user", "龘 and blue")],
    [("system", "Be kind."), ("user", "Hi"), ("assistant", ""), ("user", "讲个故事 ")],
]


def exported(model: Path | str, directory: Path, *options: str) -> Path:
    """Runs the export command and returns the directory that it prints."""
    command = ["export", str(model), "--output", str(directory), *options]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported demo model."""
    return exported("demo", tmp_path_factory.mktemp("llama") / "demo", "--format", "llama")


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[AsyncClient]:
    """A client of a server with the demo model."""
    async with serving(settings("demo")) as (_, address), AsyncClient(address) as client:
        yield client


async def greedy(client: AsyncClient, prompt: str) -> list[int]:
    answer = await client.chat(prompt, temperature=0, repetition_penalty=1.0, max_tokens=40, logprobs=True)
    return [token.token_id for token in answer.logprobs]


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_transformers_gives_the_same_greedy_tokens(llama: Path, client: AsyncClient, prompt: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    model: Any = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=40)
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == await greedy(client, prompt)


async def test_this_service_gives_the_same_tokens_from_the_export(llama: Path, client: AsyncClient) -> None:
    async with serving(settings(llama)) as (_, address), AsyncClient(address) as other:
        assert [await greedy(other, prompt) for prompt in PROMPTS] == [
            await greedy(client, prompt) for prompt in PROMPTS
        ]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_its_chat_template_gives_the_same_prompt_ids(llama: Path, conversation: list[tuple[str, str]]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    messages = [{"role": role, "content": content} for role, content in conversation]
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    expected = [Message(Role(role), content) for role, content in conversation]
    assert found == prompt_ids(Tokenizer.load(DEMO_DIRECTORY), expected)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_checkpoint_without_a_template_gets_the_models(tmp_path: Path, conversation: list[tuple[str, str]]) -> None:
    source = make_checkpoint(tmp_path / "bare")
    (source / "tokenizer_config.json").unlink()
    tokenizer: Any = AutoTokenizer.from_pretrained(exported(source, tmp_path / "llama", "--format", "llama"))
    messages = [{"role": role, "content": content} for role, content in conversation]
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    expected = [Message(Role(role), content) for role, content in conversation]
    assert found == prompt_ids(Tokenizer.load(source), expected)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[" * 10_000, "[]"], ids=["cut", "nested", "list"])
def test_a_broken_file_beside_the_weights_is_named(tmp_path: Path, name: str, content: str) -> None:
    source = make_checkpoint(tmp_path / "source")
    (source / name).write_text(content)
    result = CliRunner().invoke(main, ["export", str(source), "--format", "llama", "--output", str(tmp_path / "new")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"error: {source / name}: ")


def test_every_id_that_ends_an_answer_ends_it_there_too(llama: Path) -> None:
    assert json.loads((llama / "generation_config.json").read_text())["eos_token_id"] == [0, 2, 3, 4]


def test_weights_go_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.export.llama.SHARD_BYTES", 2**20)
    directory = exported("demo", tmp_path / "demo", "--format", "llama")
    assert len(list(directory.glob("model-*.safetensors"))) > 3
    assert AutoModelForCausalLM.from_pretrained(directory).num_parameters() > 3e6


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["demo", "--format", "llama", "--type", "f32"], "--type f32 is for --format gguf"),
        (["no-such-model", "--format", "llama"], "neither a directory nor a hub id"),
        (["demo", "--format", "onnx"], "'llama', 'gguf'"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(main, ["export", *arguments, "--output", str(tmp_path / "new")])
    assert result.exit_code != 0
    assert problem in result.stderr
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["export", "demo", "--format", "llama", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free space there, or name another --output"),
        (errno.ENOENT, "No such file or directory; name an --output that this user may create and write"),
    ],
)
def test_a_remedy_fits_why_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(source: Path, output: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("index_grpc.export.write.write_llama", fail)
    output = tmp_path / "new"
    result = CliRunner().invoke(main, ["export", "demo", "--format", "llama", "--output", str(output)])
    assert (result.exit_code, result.stderr) == (1, f"error: cannot write to {output}: {remedy}\n")


@pytest.mark.parametrize("kind", ["llama", "gguf"])
def test_progress_is_shown_at_a_terminal_only(tmp_path: Path, kind: str) -> None:
    def written(name: str, stderr: int) -> "subprocess.Popen[str]":
        command = [INDEX_GRPC, "export", "demo", "--format", kind, "--output", str(tmp_path / name)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)

    with written("piped", subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.startswith(str(tmp_path / "piped")), err) == (0, True, "")
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))  # a bar has no room in a terminal without columns
    with written("shown", end) as process:
        shown(terminal, "57/57")
        process.communicate(timeout=60)
    os.close(terminal)
    os.close(end)
