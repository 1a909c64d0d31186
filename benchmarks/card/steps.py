"""Where a decode step's time goes, kernel by kernel, by PyTorch's profiler and with the loop in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from report import aligned
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from card.sizes import Sizes
from index_grpc.contract import SamplingParams, TokenRequest
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import Cancel, Submit
from index_grpc.engine.scheduler import Scheduler
from index_grpc.loading import LoadedRunner, load_runner
from index_grpc.settings import ServeSettings
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

MOST_KERNELS = 25
NUM_STEPS, NUM_WARMUP_STEPS = 8, 8
ANSWER_TOKENS = 256
LONGEST_NAME = 90


@dataclass(frozen=True)
class Kernel:
    """What ran in a step, on average."""

    name: str
    calls: float
    microseconds: float


def tables(settings: ServeSettings, sizes: Sizes, levels: Sequence[int]) -> Iterator[str]:
    """The kernels that take longest, at each level."""
    loaded = load_runner(settings)
    for level in levels:
        kernels = sorted(profiled(loaded, level, sizes.prompt_tokens), key=lambda one: -one.microseconds)
        total = sum(kernel.microseconds for kernel in kernels)
        cells = [[one.name[:LONGEST_NAME], f"{one.calls:.1f}", f"{one.microseconds:.1f}"] for one in kernels]
        head = [f"a decode step at {level}: {total:.0f} µs", "calls", "µs"]
        yield aligned([head, *cells[:MOST_KERNELS]])


def profiled(loaded: LoadedRunner, level: int, prompt_tokens: int) -> list[Kernel]:
    """Kernels of steps in which so many sequences decode."""
    loop = Loop(Scheduler(loaded.limits), loaded.runner, deliver=lambda news: None)
    prompt = [NUM_CONTROL_IDS] * prompt_tokens
    for number in range(level):
        request = TokenRequest("profile", prompt, SamplingParams(seed=number), ANSWER_TOKENS)
        loop.follow(Submit(number, request))
    while not all(sequence.num_generated for sequence in loop.sequences.values()):
        loop.step()
    for _ in range(NUM_WARMUP_STEPS):
        loop.step()
    has_cuda = loaded.runner.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_cuda else [])]
    with profile(activities=activities) as found:
        for _ in range(NUM_STEPS):
            loop.step()
    for number in range(level):
        loop.follow(Cancel(number))
    loop.check_books()
    return [kernel for event in found.key_averages() if (kernel := _kernel(event, has_cuda)) is not None]


def _kernel(event: Any, has_cuda: bool) -> Kernel | None:  # noqa: ANN401 - the profiler's types are not exported
    """An event of the device, or None; without CUDA the processor's operators stand for kernels."""
    if (event.device_type == DeviceType.CUDA) != has_cuda:
        return None
    total = event.self_device_time_total if has_cuda else event.self_cpu_time_total
    return Kernel(str(event.key), event.count / NUM_STEPS, float(total) / NUM_STEPS)
