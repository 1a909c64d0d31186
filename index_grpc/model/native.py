"""The model on the kernels of `index_grpc.native`: float32 on an x86 processor.

Weights are stored in 16 bits where nothing is lost by it, as with a bfloat16 checkpoint, or, if asked for, in 8 bits;
the arithmetic is float32 always. Every token has the same bits in any batch and however its prompt is cut.
"""

import ctypes
import platform
from collections.abc import Sequence
from ctypes import Array, c_float, c_int32, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from index_grpc.model.blocks import BlockCache, BlockPlace
from index_grpc.model.config import ModelConfig
from index_grpc.model.drawing import SlotTable
from index_grpc.model.llama import rotary_tables
from index_grpc.native import library as native

BUILDS = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}
"""Builds of the library, best first, by what PyTorch says of the processor; ATEN_CPU_CAPABILITY can lower it."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """A build of the library, and whether it multiplies on the processor's matrix unit."""

    build: str
    library: ctypes.CDLL
    tiles: bool

    def __str__(self) -> str:
        return f"{self.build}, amx" if self.tiles else self.build

    def fit(self, config: ModelConfig) -> bool:
        """Whether they can compute a model of this shape: heads and rows of whole registers, not too many together."""
        lanes, group = self.library.index_lanes(), config.num_heads // config.num_kv_heads
        return not (config.head_dim % lanes or config.hidden_size % lanes) and group <= native.MOST_QUERIES

    def storage(self, weight: Tensor, *, as_int8: bool) -> int:
        """How a weight, bfloat16 or float32, is best stored."""
        if as_int8:
            return native.INT8
        if weight.dtype == torch.bfloat16:
            return native.BFLOAT16_TILES if self.tiles else native.BFLOAT16
        return native.FLOAT32


def all_kernels() -> list[Kernels]:
    """Every way to compute that this processor has and that was built, best first."""
    found = []
    for build in BUILDS.get(torch.backends.cpu.get_cpu_capability(), ()) if platform.machine() == "x86_64" else ():
        library = native.open_library(build)
        if library is not None:
            found += [
                Kernels(build, library, tiles) for tiles in ((True, False) if library.index_has_tiles() else (False,))
            ]
    return found


def find_kernels() -> Kernels | None:
    """The best kernels for this processor, or None if there are none."""
    return next(iter(all_kernels()), None)


class NativeLlama:
    """A model ready to compute. Used from one thread at a time."""

    rows_independent = True
    cuts_independent = True
    answers_like_prompts = True
    block_tokens: int = native.BLOCK_TOKENS
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: ModelConfig, kernels: Kernels, num_threads: int) -> None:
        """Holds no weights yet; see `load_native`."""
        self.config, self._kernels, self._library = config, kernels, kernels.library
        self.engine = f"native kernels ({kernels}), {num_threads} {'thread' if num_threads == 1 else 'threads'}"
        shape = native.Shape(
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
        )
        library = self._library
        self._handle: Any = library.index_create(ctypes.byref(shape), num_threads)
        _check(self._handle)
        self._rotary = rotary_tables(config, self.device, torch.float32)
        library.index_set_rotary(self._handle, *(table.data_ptr() for table in self._rotary))
        self._logits_stride: int = library.index_logits_stride(config.vocab_size)
        self._logits = torch.empty(0, self._logits_stride)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._library.index_destroy(handle)

    def set_embedding(self, table: Tensor) -> None:
        """Takes over the table [vocab_size, hidden_size], bfloat16 or float32."""
        self._embedding = table.contiguous()
        is_bfloat16 = table.dtype == torch.bfloat16
        self._library.index_set_embedding(self._handle, self._embedding.data_ptr(), is_bfloat16, *table.shape)

    def set_norm(self, layer: int, number: int, weight: Tensor) -> None:
        """Copies a norm's weight; see `native.library` for the numbers."""
        weight = weight.float().contiguous()
        _check(self._library.index_set_norm(self._handle, layer, number, weight.data_ptr(), len(weight)))

    def set_matrix(self, layer: int, number: int, weight: Tensor, as_int8: bool) -> None:
        """Copies a weight [outputs, inputs], laid out for the kernels."""
        weight = shortened(weight).contiguous()
        storage, is_bfloat16 = self._kernels.storage(weight, as_int8=as_int8), weight.dtype == torch.bfloat16
        place = (self._handle, layer, number)
        _check(self._library.index_set_matrix(*place, weight.data_ptr(), is_bfloat16, *weight.shape, storage))

    def new_cache(self) -> BlockCache:
        """An empty cache for this model's keys and values."""
        return BlockCache(self.config)

    def forward(self, token_ids: Sequence[int], places: Sequence[BlockPlace], sampled: Sequence[int]) -> Tensor:
        """See TorchLlama.forward; the logits stand where the next call writes its own."""
        if len(sampled) > len(self._logits):
            self._logits = torch.empty(len(sampled), self._logits_stride)
        addresses = [address for place in places for address in place.addresses]
        spans = [number for place in places for number in (len(place.addresses), place.start, place.count)]
        work = (_numbers(token_ids), (c_void_p * len(addresses))(*addresses), _numbers(spans), len(places))
        out = (_numbers(sampled), len(sampled), self._logits.data_ptr(), self._logits_stride)
        _check(self._library.index_forward(self._handle, *work, *out))
        return self._logits[: len(sampled), : self.config.vocab_size]

    def draw(self, logits: Tensor, table: SlotTable, slots: Sequence[int], steps: Sequence[int]) -> list[int]:
        """See Draw."""
        tensors = (table.knobs, table.token_counts.occurred, table.token_counts.counts)
        state = native.SlotTable(*(tensor.data_ptr() for tensor in tensors))
        rows = native.DrawnRows(logits.data_ptr(), logits.stride(0), _numbers(slots), _numbers(steps))
        ids = (c_int32 * len(slots))()
        _check(self._library.index_draw(self._handle, state, rows, len(slots), self.config.vocab_size, ids))
        if native.NOT_A_NUMBER in ids:
            raise FloatingPointError("the model's output is not a number")
        return list(ids)

    def read(self, floats: Tensor) -> float:
        """Reads a float32 tensor with all threads and returns its sum, roughly: what memory allows at best."""
        total = c_float()
        _check(self._library.index_read(self._handle, floats.data_ptr(), floats.nbytes, ctypes.byref(total)))
        return total.value


def shortened(weight: Tensor) -> Tensor:
    """The weight in bfloat16 if that says the same, else in float32."""
    short = weight.bfloat16()
    return short if weight.dtype == torch.bfloat16 or torch.equal(short.float(), weight.float()) else weight.float()


def _numbers(numbers: Sequence[int]) -> "Array[c_int32]":
    return (c_int32 * len(numbers))(*numbers)


def _check(result: object) -> None:
    if not result:
        raise MemoryError("not enough memory")
