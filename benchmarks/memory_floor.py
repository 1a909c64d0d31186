"""A decode step of a single sequence against reading the same number of bytes: how close it is to the memory's speed.

Reads and steps take turns. Each read has as many bytes as the weights of one step, and uses as many threads.

    python benchmarks/memory_floor.py full --rounds 15
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from checkpoints import converted
from report import Goal, Section, emit

from index_grpc.loading import load_runner
from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.memory import in_large_pages
from index_grpc.model.native import NativeLlama
from index_grpc.settings import ServeSettings

CONTEXT = 64


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(options: argparse.Namespace) -> Section:
    directory = converted(options.shape, gguf=()) / "llama"
    settings = ServeSettings(model=str(directory), max_sequences=1, quantize=options.quantize)
    model = load_runner(settings).runner.model
    assert isinstance(model, NativeLlama), "only the native kernels can be told to read"
    config = model.config
    num_weights = num_parameters(config) - config.vocab_size * config.hidden_size  # of the embedding only a row is read
    floats = in_large_pages(torch.empty(num_weights // 2)).fill_(1.0)  # as many bytes as in bfloat16
    cache = model.new_cache()
    blocks = range(-(-2 * CONTEXT // model.block_tokens))
    model.forward([7] * CONTEXT, [cache.place(blocks, 0, CONTEXT)], [])
    reads, steps = [], []
    for number in range(options.rounds + 2):
        reads.append(seconds(partial(model.read, floats)))
        steps.append(seconds(partial(model.forward, [7], [cache.place(blocks, CONTEXT + number, 1)], [0])))
        print(f"round {number + 1}: read {reads[-1] * 1e3:.1f} ms, step {steps[-1] * 1e3:.1f} ms", file=sys.stderr)
    return section(options, num_weights, reads[2:], steps[2:])


def section(options: argparse.Namespace, num_weights: int, reads: list[float], steps: list[float]) -> Section:
    """The results: medians. A step that had to read float32 weights would take at least twice as long as the read."""
    read, step = statistics.median(reads), statistics.median(steps)
    share = statistics.median(one / other for one, other in zip(reads, steps, strict=True))
    return Section(
        title=f"Beside memory's speed, {options.shape} shape",
        about=f"One sequence decodes with a context of {CONTEXT} tokens; in turn with the steps, all threads read as "
        "many bytes as the weights take in bfloat16, in which a checkpoint's weights lose nothing.",
        command=f"python benchmarks/memory_floor.py {options.shape} --quantize {options.quantize}",
        columns=["", "ms", "GB/s", "by the step"],
        rows=[
            _row("reading the weights in bfloat16", read, f"{2 * num_weights / read / 1e9:.1f}", share),
            _row("reading them in float32 would take", 2 * read, "", 2 * share),
            _row("a decode step", step, "", 1.0),
        ],
        goals=[Goal.at_least("reading the weights in float32 by the step", 95, 2 * share * 100, " %")],
        data={"reads_s": reads, "steps_s": steps, "num_weights": num_weights},
    )


def _row(what: str, seconds: float, speed: str, share: float) -> list[str]:
    return [what, f"{seconds * 1e3:.1f}", speed, f"{share:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=("mid", "full"))
    parser.add_argument("--quantize", choices=("none", "int8"), default="none")
    parser.add_argument("--rounds", type=int, default=15, help="the median counts (default 15)")
    emit(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
