"""A checkpoint as a plain Llama: vLLM, if it is installed, generates the same tokens as this service."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest
from index_grpc_client import AsyncClient

from tests.conftest import serving, settings
from tests.export.test_llama import PROMPTS, exported

VLLM = Path(__file__).parents[2] / "benchmarks" / ".environments" / "vllm" / "bin" / "python"

ASKS_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    options = {"dtype": "float32", "max_model_len": 512, "kv_cache_memory_bytes": 2**28, "enforce_eager": True}
    llm = LLM(sys.argv[1], **options)
    asked = [[{"role": "user", "content": prompt}] for prompt in sys.argv[3:]]
    found = llm.chat(asked, SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=40), use_tqdm=False)
    with open(sys.argv[2], "w") as file:
        json.dump([output.outputs[0].token_ids for output in found], file, default=list)
"""


@pytest.mark.timeout(600)
@pytest.mark.skipif(not VLLM.exists(), reason="vLLM is not installed; make peers installs it")
async def test_vllm_gives_the_same_greedy_tokens(tmp_path: Path) -> None:
    llama = exported("demo", tmp_path / "demo", "--format", "llama")
    script, output = tmp_path / "ask.py", tmp_path / "tokens.json"
    script.write_text(ASKS_VLLM)
    command = [str(VLLM), str(script), str(llama), str(output), *PROMPTS]
    quiet = os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    done = await asyncio.to_thread(subprocess.run, command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    async with serving(settings("demo")) as (_, address), AsyncClient(address) as client:
        ours = [
            await client.chat(prompt, temperature=0, repetition_penalty=1.0, max_tokens=40, logprobs=True)
            for prompt in PROMPTS
        ]
    expected = [[token.token_id for token in answer.logprobs] for answer in ours]
    assert json.loads(output.read_text()) == expected
