"""Tokens per second through gRPC against the engine's door: what the wire costs.

On one side a server, and callers in a process of their own; on the other the same engine, beside the event loop as it
is by default, asked through its door by the same callers in the same process. Callers ask again as soon as they are
answered. The sides take turns of TURN_SECONDS on the same cores.

    python benchmarks/wire.py --streams 64 --rounds 9
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoints import converted
from report import Goal, Section, emit
from serving import as_process
from turns import Counter, Side, let_go
from wire_side import PROMPT_TOKENS

SCRIPT = Path(__file__).with_name("wire_side.py")
TURN_SECONDS = 0.6
"""Some eight steps."""
TURNS = 30
"""Of each side in a round."""
DIRECTLY, OVER_WIRE = "directly", "over the wire"


@contextmanager
def callers(counter: Path, options: argparse.Namespace, *flags: str) -> Iterator[int]:
    """A process that asks; its number."""
    sizes = ["--streams", str(options.streams), "--max-tokens", str(options.max_tokens)]
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(counter), *sizes, *flags])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[tuple[Side, Side]]:
    """Both sides, warm and standing still."""
    model = str(converted("mid", gguf=()) / "llama")
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        flags = ["--model", model, "--max-sequences", str(options.streams), "--no-prefix-reuse"]
        served = stack.enter_context(as_process(*flags))
        asking = stack.enter_context(callers(place / "wire", options, "--address", served.address))
        wire = Side(OVER_WIRE, [asking, served.process.pid], Counter(place / "wire"))
        stack.enter_context(let_go([wire]))
        wire.warm_up(options.streams * options.max_tokens)
        pid = stack.enter_context(callers(place / "directly", options, "--model", model))
        direct = Side(DIRECTLY, [pid], Counter(place / "directly"))
        direct.warm_up(options.streams * options.max_tokens)
        yield direct, wire


def measure(options: argparse.Namespace) -> Section:
    rounds: list[tuple[float, float]] = []
    with opened(options) as sides:
        for number in range(options.rounds):
            turns = [[side.turn(TURN_SECONDS) for side in sides] for _ in range(TURNS)]
            direct, wire = (statistics.mean(speeds) for speeds in zip(*turns, strict=True))
            rounds.append((direct, wire))
            told = f"{direct:.0f} {DIRECTLY}, {wire:.0f} {OVER_WIRE}, {wire / direct:.1%}"
            print(f"round {number + 1} of {options.rounds}: tokens/s {told}", file=sys.stderr)
    share = statistics.median(wire / direct for direct, wire in rounds)
    medians = [statistics.median(way) for way in zip(*rounds, strict=True)]
    return Section(
        title="The wire",
        about=f"{options.streams} callers on the mid checkpoint, who ask again once they are answered, {PROMPT_TOKENS} "
        f"tokens in and {options.max_tokens} out: through the engine's door, and over gRPC from another process on the "
        f"same cores. The two take turns of {TURN_SECONDS:g} s, {TURNS} each in a round; one stands still meanwhile.",
        command=f"python benchmarks/wire.py --streams {options.streams} --max-tokens {options.max_tokens} "
        f"--rounds {options.rounds}",
        columns=["", DIRECTLY, OVER_WIRE, "share"],
        rows=[["tokens/s", f"{medians[0]:.0f}", f"{medians[1]:.0f}", f"{share:.1%}"]],
        goals=[Goal.at_least(f"over the wire at {options.streams} streams", 95, share * 100, " %")],
        data={"rounds": rounds, "share": share},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer (default 64)")
    parser.add_argument("--rounds", type=int, default=9, help="the median counts (default 9)")
    emit(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
