"""What the runner for CUDA keeps besides the model: inputs of steps, sizes of steps, and the state of slots."""

import random
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from index_grpc.cuda.decode_attention import work_items
from index_grpc.cuda.pool import BlockPool
from index_grpc.cuda.prefill_attention import programs_of
from index_grpc.datatypes import SamplingParams, TokenRequest
from index_grpc.engine.cuda.inputs import NUM_STAGES, Inputs, as_ints
from index_grpc.engine.cuda.shapes import Shapes, at_least, decode_sizes, prefill_sizes
from index_grpc.engine.cuda.slots import Slots
from index_grpc.engine.sequence import Sequence
from index_grpc.model.card import Card

VOCAB, CONTEXT = 40, 320
SIZES = {"ids": 5, "positions": 1, "items": 7}


def test_numbers_that_are_sent_arrive_under_their_names(device: torch.device) -> None:
    """Even if it is sent more often in a row than there are host buffers."""
    inputs, rng = Inputs(device, **SIZES), random.Random(1)
    for _ in range(3 * NUM_STAGES):
        runs = {name: [rng.randrange(-9, 1 << 30) for _ in range(rng.randint(1, most))] for name, most in SIZES.items()}
        inputs.send(**runs)
        assert {name: inputs.of(name, len(run)).tolist() for name, run in runs.items()} == runs


def test_floats_sent_as_integers_keep_their_bits(device: torch.device) -> None:
    inputs, numbers = Inputs(device, numbers=3), [0.1, 1 / 3, 0.999]
    inputs.send(numbers=as_ints(numbers))
    found = inputs.of("numbers", 3).view(torch.float32)
    assert np.array_equal(found.cpu().numpy(), np.array(numbers, dtype=np.float32))


@given(st.integers(1, 2000), st.data())
def test_the_smallest_recorded_step_that_fits_is_chosen(most: int, data: st.DataObject) -> None:
    """For any number of rows there is a recorded step that holds them, and none is larger than the maximum."""
    size = data.draw(st.integers(1, most))
    for sizes in (decode_sizes(most), prefill_sizes(most)):
        assert sizes == sorted(set(sizes))
        assert max(sizes) == most
        assert size <= at_least(size, sizes)
        assert not [one for one in sizes if size <= one < at_least(size, sizes)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "card",
    [Card((0, 0), 0), *(Card((major, 0), kib * 1024) for major, kib in [(8, 99), (8, 163), (9, 227), (10, 227)])],
    ids=str,
)
def test_tiles_are_powers_of_two(card: Card, dtype: torch.dtype) -> None:
    """Kernels need that. Tiles for few rows hold all rows."""
    shapes = Shapes(dtype, card)
    for size in range(1, 257):
        products = shapes.decode(size)
        tiles = [products.qkv, products.output, products.gate_up, products.down, products.head]
        for one in [*tiles, shapes.prefill(size)]:
            assert all(number & (number - 1) == 0 for number in (one.rows, one.columns, one.depth))
        assert all(one.rows >= size for one in tiles if one.rows < 16)


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_attention_has_an_item_for_each_split_of_each_row(lengths: list[int]) -> None:
    """The items are in order; 0 is an unused row."""
    splits = -(-1000 // 64)
    wanted = [(row, split) for row, length in enumerate(lengths) for split in range(-(-length // 64))]
    assert [divmod(item, splits) for item in work_items(lengths, splits).tolist()] == wanted


@given(st.lists(st.integers(0, 300), max_size=20))
def test_attention_has_a_program_for_each_few_tokens_of_each_prompt(counts: list[int]) -> None:
    programs = programs_of(counts)
    covered = [range(first, first + count) for first, count in programs]
    assert [token for one in covered for token in one] == list(range(sum(counts)))
    ends = list(accumulate(counts, initial=0))
    assert all(0 < len(one) <= 64 and not any(one.start < end < one.stop for end in ends) for one in covered)


class ScheduledSlots:
    """Slots, and the sequences in them, which the test moves as a scheduler would."""

    def __init__(self, device: torch.device) -> None:
        self.cache = BlockPool(50, 3, CONTEXT, heads=(1, 1, 16), device=device, dtype=torch.float32)
        self.slots = Slots(2, VOCAB, self.cache, device)

    def begin(self, number: int, slot: int, sampling: SamplingParams | None = None) -> Sequence:
        request = TokenRequest("x", [number, number + 1], sampling or SamplingParams(), max_tokens=9)
        return Sequence(number, request, longest=CONTEXT, slot=slot, num_prefill=2)

    def step(self, sequence: Sequence, *blocks: int) -> None:
        """A step in which the sequence takes blocks, computes all its tokens and draws a new one."""
        sequence.blocks += blocks
        span = sequence.next_span(len(sequence.ids) - sequence.num_computed)
        self.slots.update([span])
        sequence.num_computed = span.end
        sequence.append(span.step + 20, now=1.0)
        place = torch.tensor([sequence.slot], device=self.slots.device)
        self.slots.token_counts.add(place, torch.tensor([span.step + 20], device=self.slots.device))

    def check(self, sequence: Sequence) -> None:
        """Checks that the device knows the whole sequence and nothing else."""
        slot, known = sequence.slot, self.slots.state
        assert self.cache.tables[slot, : len(sequence.blocks)].tolist() == sequence.blocks
        assert known.occurred[slot].nonzero()[:, 0].tolist() == sorted(set(sequence.ids))
        counts = torch.bincount(torch.tensor(sequence.ids[2:]), minlength=VOCAB)
        assert known.counts[slot].tolist() == counts.tolist()


def test_a_slot_follows_its_growing_sequence(device: torch.device) -> None:
    scheduled = ScheduledSlots(device)
    one, other = scheduled.begin(1, slot=0), scheduled.begin(5, slot=1)
    for blocks in ([7], [], [3, 9], [4]):
        scheduled.step(one, *blocks)
        scheduled.step(other, *(block + 20 for block in blocks))
        scheduled.check(one)
        scheduled.check(other)


def test_a_slot_keeps_nothing_of_its_previous_sequence(device: torch.device) -> None:
    scheduled = ScheduledSlots(device)
    before = scheduled.begin(1, slot=0, sampling=SamplingParams(temperature=0.5))
    scheduled.step(before, 7, 8, 9)
    after = scheduled.begin(5, slot=0, sampling=SamplingParams(temperature=1.5))
    scheduled.step(after, 2)
    scheduled.check(after)
    assert float(scheduled.slots.state.params[0, 0]) == 1.5


def test_a_preempted_sequence_begins_again_with_its_answer_so_far(device: torch.device) -> None:
    """It has the same slot but other blocks."""
    scheduled = ScheduledSlots(device)
    sequence = scheduled.begin(1, slot=0)
    for blocks in ([7, 8], [], [9]):
        scheduled.step(sequence, *blocks)
    sequence.num_preemptions, sequence.num_computed, sequence.blocks = 1, 0, [4]
    scheduled.step(sequence, 5)
    scheduled.check(sequence)


def test_an_update_that_failed_is_sent_again(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next chunk of a prompt would be written to the blocks of the slot's previous sequence."""
    scheduled = ScheduledSlots(device)
    scheduled.step(scheduled.begin(1, slot=0), 7, 8)
    after = scheduled.begin(5, slot=0)
    after.blocks.append(3)
    span = after.next_span(1)
    assert not span.samples
    with monkeypatch.context() as patch:
        patch.setattr(scheduled.cache, "tables", NoMemory(scheduled.cache.tables))
        with pytest.raises(MemoryError):
            scheduled.slots.update([span])
    scheduled.slots.update([span])
    assert scheduled.cache.tables[0, :1].tolist() == [3]


class NoMemory:
    """A table to which nothing can be written."""

    def __init__(self, table: torch.Tensor) -> None:
        self.shape = table.shape

    def view(self, *_: int) -> None:
        raise MemoryError
