"""Compiles the real model's kernels without a GPU: `python -m tests.cuda.compiling 90 bfloat16 232448 1,64 512`.

Takes a compute capability, a number format, the bytes of shared memory of a program there, and sizes of steps: rows of
answers, tokens of prompts. Prints, as JSON, how much shared memory each kernel uses, and how much local memory a thread
of it, where numbers lie for which there are no registers. Triton must not interpret.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from index_grpc.cuda import decode_attention, embedding, linear, linear_few, norm, prefill_attention, sampling
from index_grpc.cuda.decode_attention import Rows, Scratch
from index_grpc.cuda.prefill_attention import Tokens
from index_grpc.cuda.sampling import NUM_PARAMS, Draws, SlotState, draw
from index_grpc.engine.cuda.shapes import MOST_PROMPTS, Shapes
from index_grpc.model.card import Card
from index_grpc.model.config import ModelConfig
from index_grpc.model.cuda import CudaLlama
from index_grpc.model.weights import LlamaWeights

KERNELS = [
    decode_attention._decode_attention,
    embedding._embed,
    linear._linear,
    linear_few.linear_few,
    norm._normed,
    prefill_attention._keep,
    prefill_attention._prefill_attention,
    sampling._candidates,
    sampling._draw,
]
TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8"}
NOWHERE = torch.device("meta")
CONFIG = ModelConfig(1, 2048, 5888, 16, 16, 128, 65029, 4096)
"""One layer of Index-1.9B."""
MAX_SEQUENCES = 256


class Launches:
    """Records launches instead of running them: each kernel with everything that the compiler is told."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {}

    def collect(self) -> None:
        """Records all launches from now on."""
        for kernel in KERNELS:
            kernel.run = self._note(kernel)

    def _note(self, kernel: Any) -> Callable[..., None]:
        def run(*arguments: Any, grid: object, warmup: bool, **named: Any) -> None:
            values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
            options = {name: value for name, value in values.items() if name not in kernel.arg_names}
            told = {parameter.name: _told(parameter, values[parameter.name]) for parameter in kernel.params}
            self.found[repr((kernel.__name__, told, options))] = (kernel, told, options)

        return run


def _told(parameter: Any, value: Any) -> tuple[str, Any, bool]:
    """An argument's type, its value if the compiler knows it, and whether it knows that 16 divides it."""
    if parameter.is_constexpr:
        return "constexpr", value, False
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}", None, True
    if isinstance(value, float):
        return "fp32", None, False
    return "i32", None, not parameter.do_not_specialize and value % 16 == 0


def _compile(
    kernel: Any, told: dict[str, tuple[str, Any, bool]], options: dict[str, Any], capability: int
) -> tuple[int, int]:
    """Compiles a kernel; returns the bytes of shared memory of its programs and of local memory of their threads."""
    constants = {(place,): one[1] for place, one in enumerate(told.values()) if one[0] == "constexpr"}
    attributes = {(place,): [["tt.divisibility", 16]] for place, one in enumerate(told.values()) if one[2]}
    source = triton.compiler.ASTSource(kernel, {name: one[0] for name, one in told.items()}, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (stack_bytes,) = re.findall(r"STACK:(\d+)", usage)
    return int(compiled.metadata.shared), int(stack_bytes)


def _launch_all(model: CudaLlama, shapes: Shapes, num_rows: list[int], num_tokens: list[int]) -> None:
    """Launches the kernels of steps of these sizes."""
    cache = model.new_cache(64, MAX_SEQUENCES + 1)
    scratch = Scratch(MAX_SEQUENCES, CONFIG.num_heads, CONFIG.head_dim, CONFIG.context_length, NOWHERE)
    numbers, history = _new(MAX_SEQUENCES, NUM_PARAMS, dtype=torch.float32), _new(MAX_SEQUENCES, CONFIG.vocab_size)
    state = SlotState(numbers, history.bool(), history.float(), _new(MAX_SEQUENCES))
    for size in num_rows:
        rows = Rows(_new(size), _new(size), _new(size * scratch.splits), _new(1))
        logits = model.decode(_new(size), rows, state.last_ids, cache, scratch, shapes.decode(size), _logits(size))
        draw(logits, Draws(rows.slots, _new(size).float(), _new(size)), state, _new(size), model.overlaps)
    for size in num_tokens:
        tokens = Tokens(_new(size), _new(size), _new(size // 64 + MOST_PROMPTS, 2))
        most = min(size, MOST_PROMPTS)
        logits = model.prefill(_new(size), tokens, _new(most).long(), cache, shapes.prefill(size), _logits(most))
        draw(logits, Draws(_new(most), _new(most).float(), _new(most)), state, _new(most))


def _logits(num_rows: int) -> torch.Tensor:
    return _new(num_rows, CONFIG.vocab_size, dtype=torch.float32)


def _new(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=NOWHERE)


@torch.inference_mode()
def main(capability: int, dtype: torch.dtype, most_bytes: int, num_rows: list[int], num_tokens: list[int]) -> None:
    """Prints the name of each kernel that a step launches, with its bytes of shared and of local memory."""
    model = CudaLlama(CONFIG, LlamaWeights(CONFIG).to_empty(device=NOWHERE).to(dtype))
    model.card = Card(divmod(capability, 10), most_bytes)
    launches = Launches()
    launches.collect()
    _launch_all(model, Shapes(dtype, model.card), num_rows, num_tokens)
    found = [(one[0].__name__, *_compile(*one, capability)) for one in launches.found.values()]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    sizes = [[int(size) for size in argument.split(",") if size] for argument in sys.argv[4:]]
    main(int(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3]), *sizes)
