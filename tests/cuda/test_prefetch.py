"""Which bytes are prefetched; the instruction itself is only compiled here, since the interpreter has none."""

from typing import Any

import pytest
import torch
import triton.language as tl

from index_grpc.cuda import prefetch as module
from index_grpc.cuda.prefetch import prefetch

PROGRAMS, CHUNK_BYTES = 4, 64


@pytest.fixture
def prefetched(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The address and size of each prefetch, with smaller numbers of programs and bytes."""
    if device.type == "cuda":
        pytest.skip("a GPU prefetches, but does not tell what")
    found: list[tuple[int, int]] = []

    def record(asm: str, constraints: str, args: list[Any], *_: object, **__: object) -> None:
        addresses, sizes = (argument.handle.data.tolist() for argument in args)
        found.extend((address, size) for address, size in zip(addresses, sizes, strict=True) if size)

    monkeypatch.setattr(module, "PROGRAMS", PROGRAMS)
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(tl, "inline_asm_elementwise", record)
    return found


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("num_programs", [PROGRAMS, PROGRAMS + 3])
def test_the_last_programs_prefetch_the_beginning_of_each_part(
    prefetched: list[tuple[int, int]], parts: int, num_programs: int
) -> None:
    weight = torch.zeros(parts, 4096, dtype=torch.bfloat16)
    prefetch[(num_programs,)](weight, weight.shape[1], parts)
    each = PROGRAMS * 8 * CHUNK_BYTES // parts
    wanted = [part.data_ptr() + place for part in weight for place in range(0, each, CHUNK_BYTES)]
    assert sorted(prefetched) == [(address, CHUNK_BYTES) for address in wanted]


def test_nothing_beyond_a_part_is_prefetched(prefetched: list[tuple[int, int]]) -> None:
    weight = torch.zeros(1, 100, dtype=torch.bfloat16)
    prefetch[(1,)](weight, weight.shape[1], 1)
    assert sorted(prefetched) == [(weight.data_ptr() + place, CHUNK_BYTES) for place in (0, 64, 128)]


def test_misaligned_parts_are_left_alone(prefetched: list[tuple[int, int]]) -> None:
    weight = torch.zeros(2, 33, dtype=torch.bfloat16)
    prefetch[(1,)](weight, weight.shape[1], 2)
    assert prefetched == [(weight.data_ptr(), CHUNK_BYTES)]
