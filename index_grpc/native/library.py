"""The C interface of `kernels.cpp`, declared for Python."""

import ctypes
import re
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from index_grpc.errors import StartupError

BLOCK_TOKENS = 64
"""Positions of a block of keys and values: [layers, 2, kv heads, BLOCK_TOKENS, head size], float32."""

NOT_A_NUMBER = -1
"""What `index_draw` returns in place of a token if a score is NaN or the highest one is not finite."""

INTERFACE = 2
"""The version of SIGNATURES; to be raised with each change of them, here and in `kernels.cpp`."""

OTHER_SOURCES = "was built from other sources; install index-grpc again"

MOST_QUERIES = 64
"""The most query heads that may share a key-value head."""

FLOAT32, BFLOAT16, INT8, BFLOAT16_TILES = range(4)
"""The storage formats of a matrix's weights; tiles are for the CPU's matrix unit."""

QKV, OUTPUT, GATE_UP, DOWN = 0, 1, 2, 3
"""Numbers of a layer's matrices."""

INPUT_NORM, POST_ATTENTION_NORM = 0, 1
"""Numbers of a layer's norms."""

MODEL = -1
"""In place of a layer's index, stands for the head and the final norm."""

NUMBERS = POINTER(c_int32)
"""An array of int32 numbers."""


class Shape(ctypes.Structure):
    """The model's sizes."""

    _fields_ = [
        ("num_layers", c_int32),
        ("hidden_size", c_int32),
        ("intermediate_size", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("vocab_size", c_int32),
        ("rms_norm_eps", c_float),
    ]


class SlotTable(ctypes.Structure):
    """The sampling parameters and token histories of all slots; see `model.drawing.SlotTable`."""

    _fields_ = [("params", c_void_p), ("occurred", c_void_p), ("counts", c_void_p)]


class DrawnRows(ctypes.Structure):
    """Rows of logits, with the slot of each and the index in its answer of the token to draw."""

    _fields_ = [
        ("logits", c_void_p),
        ("logits_stride", c_int64),
        ("slots", NUMBERS),
        ("steps", NUMBERS),
    ]


SIGNATURES = {
    "index_lanes": (c_int, []),
    "index_block_tokens": (c_int, []),
    "index_most_queries": (c_int, []),
    "index_has_tiles": (c_int, []),
    "index_logits_stride": (c_int64, [c_int]),
    "index_create": (c_void_p, [POINTER(Shape), c_int]),
    "index_destroy": (None, [c_void_p]),
    "index_set_embedding": (None, [c_void_p, c_void_p, c_int, c_int, c_int]),
    "index_set_rotary": (None, [c_void_p, c_void_p, c_void_p]),
    "index_set_norm": (c_int, [c_void_p, c_int, c_int, c_void_p, c_int]),
    "index_set_matrix": (c_int, [c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_int, c_int]),
    "index_forward": (
        c_int,
        [c_void_p, NUMBERS, POINTER(c_void_p), NUMBERS, c_int, NUMBERS, c_int, c_void_p, c_int64],
    ),
    "index_draw": (c_int, [c_void_p, POINTER(SlotTable), POINTER(DrawnRows), c_int, c_int, NUMBERS]),
    "index_read": (c_int, [c_void_p, c_void_p, c_int64, POINTER(c_float)]),
}


def open_library(build: str) -> ctypes.CDLL | None:
    """Opens the library of a build; None if it was not built. Raises StartupError if it is of other sources."""
    found = (Path(__file__).with_name(f"{build}{suffix}") for suffix in EXTENSION_SUFFIXES)
    path = next((path for path in found if path.exists()), None)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "index_interface") or library.index_interface() != INTERFACE:
        raise StartupError(f"{path} {OTHER_SOURCES}")
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    built = (library.index_block_tokens(), library.index_most_queries())
    if built != (BLOCK_TOKENS, MOST_QUERIES):
        raise StartupError(f"{path} {OTHER_SOURCES}")
    return library


def compiler(library: ctypes.CDLL) -> str:
    """Returns the name and version that the compiler left in the library, such as `gcc12.2.0`; empty if it left none.

    Another compiler may join products and sums differently, which changes the last bits of results.
    """
    found = re.findall(rb"(GCC|clang)(?:: \([^)]*\)| version) ([0-9.]+)", Path(library._name).read_bytes())
    return b" ".join(sorted({b"%s%s" % each for each in found})).decode().lower()
