"""A checkpoint as a GGUF file: its contents, and that llama.cpp, if it is installed, gives the same answers."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
from index_grpc_client import AsyncClient

from index_grpc.export.weights import PlainWeights
from index_grpc.model.config import read_config
from index_grpc.model.hub import DEMO_DIRECTORY
from tests.conftest import serving, settings
from tests.export.test_llama import PROMPTS, exported

LLAMACPP = Path(__file__).parents[2] / "benchmarks" / ".environments" / "llamacpp" / "bin" / "python"

ASKS_LLAMACPP = """
import json, sys
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=512, logits_all=True, verbose=False)
for prompt in sys.argv[2:]:
    messages = [{"role": "user", "content": prompt}]
    options = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": 40}
    print(json.dumps(llama.create_chat_completion(messages, **options)["choices"][0]["message"]["content"]))
"""


def field(reader: gguf.GGUFReader, name: str) -> Any:
    found = reader.get_field(name)
    assert found is not None, name
    return found.contents()


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 0.0), ("bf16", 0.0), ("f16", 1e-3), ("q8_0", 2e-2)])
def test_weights_are_those_of_the_folded_model(tmp_path: Path, dtype: str, tolerance: float) -> None:
    path = exported("demo", tmp_path, "--format", "gguf", "--type", dtype)
    assert path == tmp_path / f"demo-{dtype}.gguf"
    weights = PlainWeights(DEMO_DIRECTORY, read_config(DEMO_DIRECTORY))
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(found) == len(weights.shapes)
    for name, ours in (
        ("output.weight", "lm_head.weight"),
        ("blk.2.ffn_up.weight", "model.layers.2.mlp.up_proj.weight"),
    ):
        stored = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        assert numpy.allclose(stored, weights.read(ours).float().numpy(), rtol=0, atol=tolerance)


def test_query_rows_are_in_the_order_of_rotary_pairs(tmp_path: Path) -> None:
    config = read_config(DEMO_DIRECTORY)
    reader = gguf.GGUFReader(exported("demo", tmp_path, "--format", "gguf", "--type", "f32"))
    (stored,) = (tensor.data for tensor in reader.tensors if tensor.name == "blk.0.attn_q.weight")
    ours = PlainWeights(DEMO_DIRECTORY, config).read("model.layers.0.self_attn.q_proj.weight").float().numpy()
    assert numpy.array_equal(stored[1], ours[config.head_dim // 2])


def test_the_vocabulary_and_the_layout_are_in_it(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(exported("demo", tmp_path, "--format", "gguf"))
    assert field(reader, "tokenizer.ggml.tokens")[:5] == ["<unk>", "<s>", "</s>", "reserved_0", "reserved_1"]
    assert len(field(reader, "tokenizer.ggml.tokens")) == read_config(DEMO_DIRECTORY).vocab_size
    assert field(reader, "tokenizer.ggml.token_type")[3] == gguf.TokenType.CONTROL
    assert "reserved_0" in field(reader, "tokenizer.chat_template")
    assert field(reader, "tokenizer.ggml.add_space_prefix") is False
    assert field(reader, "general.file_type") == gguf.LlamaFileType.MOSTLY_BF16


@pytest.mark.skipif(not LLAMACPP.exists(), reason="llama.cpp is not installed; make peers installs it")
async def test_llamacpp_says_the_same(tmp_path: Path) -> None:
    path = exported("demo", tmp_path, "--format", "gguf", "--type", "f32")
    command = [str(LLAMACPP), "-c", ASKS_LLAMACPP, str(path), *PROMPTS]
    output = (await asyncio.to_thread(subprocess.check_output, command, text=True)).splitlines()
    async with serving(settings("demo")) as (_, address), AsyncClient(address) as client:
        texts = [
            (await client.chat(prompt, temperature=0, repetition_penalty=1.0, max_tokens=40)).text for prompt in PROMPTS
        ]
    assert [json.loads(line) for line in output] == texts
