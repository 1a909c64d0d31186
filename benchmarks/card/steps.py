"""The time of each kernel in a decode step, by PyTorch's profiler and with the loop in this process."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from report import aligned
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from card.ceilings import seconds
from card.sizes import Sizes
from index_grpc.datatypes import SamplingParams, TokenRequest
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import Cancel, Submit
from index_grpc.engine.scheduler import Scheduler
from index_grpc.loading import load_runner
from index_grpc.settings import ServeSettings
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

MOST_KERNELS = 25
NUM_STEPS, NUM_WARMUP_STEPS = 8, 8
ANSWER_TOKENS = 256
LONGEST_NAME = 90


@dataclass(frozen=True)
class Kernel:
    """A kernel's means for a step."""

    name: str
    calls: float
    microseconds: float


def tables(settings: ServeSettings, sizes: Sizes, levels: Sequence[int]) -> Iterator[str]:
    """Yields a table of the slowest kernels for each level."""
    loaded = load_runner(settings)
    for level in levels:
        loop = Loop(Scheduler(loaded.limits), loaded.runner, deliver=lambda news: None)
        begin(loop, level, sizes.prompt_tokens)
        microseconds = 1e6 * statistics.median(seconds(loop.step) for _ in range(NUM_STEPS))
        kernels = sorted(profiled(loop, loaded.runner.model.device), key=lambda one: -one.microseconds)
        for number in range(level):
            loop.apply(Cancel(number))
        while loop.is_busy:
            loop.step()
        loop.check_for_leaks()
        total = sum(kernel.microseconds for kernel in kernels)
        head = [f"a step of {microseconds:.0f} µs at {level}; its kernels, {total:.0f} µs", "calls", "µs"]
        cells = [[one.name[:LONGEST_NAME], f"{one.calls:.1f}", f"{one.microseconds:.1f}"] for one in kernels]
        yield aligned([head, *cells[:MOST_KERNELS]])


def begin(loop: Loop, level: int, prompt_tokens: int) -> None:
    """Lets `level` sequences begin to decode, and makes some steps."""
    prompt = [NUM_CONTROL_IDS] * prompt_tokens
    for number in range(level):
        request = TokenRequest("profile", prompt, SamplingParams(seed=number), ANSWER_TOKENS)
        loop.apply(Submit(number, request))
    while not all(sequence.num_generated for sequence in loop.sequences.values()):
        loop.step()
    for _ in range(NUM_WARMUP_STEPS):
        loop.step()


def profiled(loop: Loop, device: torch.device) -> list[Kernel]:
    """The kernels of some steps; without CUDA, the operators on the processor instead."""
    has_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_cuda else [])]) as found:
        for _ in range(NUM_STEPS):
            loop.step()
    events = [event for event in found.key_averages() if (event.device_type == DeviceType.CUDA) == has_cuda]
    return [_kernel(event, event.self_device_time_total if has_cuda else event.self_cpu_time_total) for event in events]


def _kernel(event: Any, microseconds: float) -> Kernel:  # noqa: ANN401 - the profiler's types are not exported
    return Kernel(str(event.key), event.count / NUM_STEPS, microseconds / NUM_STEPS)
