"""The model on the kernels of `index_grpc.native`: float32 on an x86 CPU.

Weights are stored in 16 bits if that loses nothing, as with a bfloat16 checkpoint, or in 8 bits on request; the
arithmetic is always float32. Every token has the same bits in any batch and however its prompt is cut.
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
"""Builds of the library, best first, by the CPU capability in PyTorch, which ATEN_CPU_CAPABILITY can lower."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """A build of the library, and whether it multiplies on the CPU's matrix unit (AMX)."""

    build: str
    library: ctypes.CDLL
    tiles: bool

    def __str__(self) -> str:
        return f"{self.build}, amx" if self.tiles else self.build

    @property
    def arithmetic(self) -> str:
        """The instructions that the results' last bits depend on, and the compiler that chose them."""
        return f"{self} {native.compiler(self.library)}"

    def fit(self, config: ModelConfig) -> bool:
        """Returns whether heads and rows fill whole registers and few enough query heads share a key-value head."""
        lanes, group = self.library.index_lanes(), config.num_heads // config.num_kv_heads
        return not (config.head_dim % lanes or config.hidden_size % lanes) and group <= native.MOST_QUERIES

    def storage(self, weight: Tensor, *, as_int8: bool) -> int:
        """Returns the best storage format of a weight in bfloat16 or float32."""
        if as_int8:
            return native.INT8
        if weight.dtype == torch.bfloat16:
            return native.BFLOAT16_TILES if self.tiles else native.BFLOAT16
        return native.FLOAT32


def all_kernels() -> list[Kernels]:
    """Returns all kernels that were built and that this CPU can run, best first."""
    found = []
    for build in BUILDS.get(torch.backends.cpu.get_cpu_capability(), ()) if platform.machine() == "x86_64" else ():
        library = native.open_library(build)
        if library is not None:
            found += [
                Kernels(build, library, tiles) for tiles in ((True, False) if library.index_has_tiles() else (False,))
            ]
    return found


def find_kernels() -> Kernels | None:
    """Returns the best kernels for this CPU, or None if there are none."""
    return next(iter(all_kernels()), None)


class NativeLlama:
    """A model ready to compute. Only one thread may use it at a time."""

    rows_independent = True
    cuts_independent = True
    answers_like_prompts = True
    block_tokens: int = native.BLOCK_TOKENS
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: ModelConfig, kernels: Kernels, num_threads: int) -> None:
        """Creates the model without weights, which `load_native` sets."""
        self.config, self._kernels, self._library = config, kernels, kernels.library
        self.software = f"native kernels ({kernels}), {num_threads} {'thread' if num_threads == 1 else 'threads'}"
        self.arithmetic, self.weights_digest = kernels.arithmetic, ""
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
        """Takes over the embedding table [vocab_size, hidden_size], bfloat16 or float32."""
        self._embedding = table.contiguous()
        is_bfloat16 = table.dtype == torch.bfloat16
        self._library.index_set_embedding(self._handle, self._embedding.data_ptr(), is_bfloat16, *table.shape)

    def set_norm(self, layer: int, number: int, weight: Tensor) -> None:
        """Copies a norm's weight. `native.library` lists the norms' numbers."""
        weight = weight.float().contiguous()
        _check(self._library.index_set_norm(self._handle, layer, number, weight.data_ptr(), len(weight)))

    def set_matrix(self, layer: int, number: int, weight: Tensor, as_int8: bool) -> None:
        """Copies a weight [outputs, inputs] into the layout of the kernels."""
        weight = shortened(weight).contiguous()
        storage, is_bfloat16 = self._kernels.storage(weight, as_int8=as_int8), weight.dtype == torch.bfloat16
        place = (self._handle, layer, number)
        _check(self._library.index_set_matrix(*place, weight.data_ptr(), is_bfloat16, *weight.shape, storage))

    def new_cache(self) -> BlockCache:
        """Returns an empty cache for this model's keys and values."""
        return BlockCache(self.config)

    def forward(self, token_ids: Sequence[int], places: Sequence[BlockPlace], sampled: Sequence[int]) -> Tensor:
        """See TorchLlama.forward. The next call overwrites the logits."""
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
        tensors = (table.params, table.token_counts.occurred, table.token_counts.counts)
        state = native.SlotTable(*(tensor.data_ptr() for tensor in tensors))
        rows = native.DrawnRows(logits.data_ptr(), logits.stride(0), _numbers(slots), _numbers(steps))
        ids = (c_int32 * len(slots))()
        _check(self._library.index_draw(self._handle, state, rows, len(slots), self.config.vocab_size, ids))
        if native.NOT_A_NUMBER in ids:
            raise FloatingPointError("the model's output is not a number")
        return list(ids)

    def read(self, floats: Tensor) -> float:
        """Reads a float32 tensor with all threads, as fast as memory allows, and returns its approximate sum."""
        total = c_float()
        _check(self._library.index_read(self._handle, floats.data_ptr(), floats.nbytes, ctypes.byref(total)))
        return total.value


def shortened(weight: Tensor) -> Tensor:
    """Returns the weight in bfloat16 if that is exact, else in float32."""
    short = weight.bfloat16()
    return short if weight.dtype == torch.bfloat16 or torch.equal(short.float(), weight.float()) else weight.float()


def _numbers(numbers: Sequence[int]) -> "Array[c_int32]":
    return (c_int32 * len(numbers))(*numbers)


def _check(result: object) -> None:
    if not result:
        raise MemoryError("not enough memory")
