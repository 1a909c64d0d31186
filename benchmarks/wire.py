"""Tokens per second over gRPC, compared with those of the engine directly: what gRPC costs.

One side is a server, with callers in a separate process. The other side is the same engine, in a thread beside the
event loop as by default, with the same callers in the same process. Callers make their next request as soon as they are
answered. The sides take turns of TURN_SECONDS on the same cores. Each round starts all processes anew: the location of
a process's memory changes its speed by one or two per cent, for as long as it lives.

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
from turns import Counter, Side, continued
from wire_side import PROMPT_TOKENS

SCRIPT = Path(__file__).with_name("wire_side.py")
TURN_SECONDS = 0.6
"""About eight steps."""
TURNS = 20
"""Turns of each side in a round."""
INTERVALS = (1, 4)
"""Tokens in a message."""
DIRECTLY = "directly"


@contextmanager
def callers(counter: Path, options: argparse.Namespace, *flags: str) -> Iterator[int]:
    """Starts a process with callers and yields its id."""
    sizes = ["--streams", str(options.streams), "--max-tokens", str(options.max_tokens)]
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(counter), *sizes, *flags])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[list[Side]]:
    """The side with the engine alone, then a side for each interval; all are warm and stopped."""
    model = str(converted("mid", gguf=()) / "llama")
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        sides: list[Side] = []

        def add(name: str, pids: list[int], *flags: str) -> None:
            pid = stack.enter_context(callers(place / name, options, *flags))
            side = Side(name, [pid, *pids], Counter(place / name))
            stack.enter_context(continued([side]))
            side.warm_up(options.streams * options.max_tokens)
            sides.append(side)

        add(DIRECTLY, [], "--model", model)
        for interval in INTERVALS:
            size = ["--max-sequences", str(options.streams), "--stream-interval", str(interval)]
            served = stack.enter_context(as_process("--model", model, "--no-prefix-reuse", *size))
            add(label(interval), [served.process.pid], "--address", served.address)
        yield sides


def label(interval: int) -> str:
    """The name of a server's side."""
    return "over the wire" + (f", {interval} tokens a message" if interval > 1 else "")


def measure(options: argparse.Namespace) -> Section:
    rounds: list[dict[str, float]] = []
    for number in range(options.rounds):
        with opened(options) as sides:
            turns = [{side.name: side.turn(TURN_SECONDS) for side in sides} for _ in range(TURNS)]
        rounds.append({name: statistics.mean(turn[name] for turn in turns) for name in turns[0]})
        speeds = ", ".join(f"{speed:.0f} {name}" for name, speed in rounds[-1].items())
        print(f"round {number + 1} of {options.rounds}: tokens/s {speeds}", file=sys.stderr)
    shares = {name: statistics.median(one[name] / one[DIRECTLY] for one in rounds) for name in rounds[0]}
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return Section(
        title="The wire",
        about=f"{options.streams} callers on the mid checkpoint, who ask again once they are answered, {PROMPT_TOKENS} "
        f"tokens in and {options.max_tokens} out: through the engine, and over gRPC from another process on the "
        f"same cores, as by default and with `--stream-interval {INTERVALS[-1]}`. They take turns of "
        f"{TURN_SECONDS:g} s, {TURNS} each in a round; the others stand still meanwhile. All start anew in each round.",
        command=f"python benchmarks/wire.py --streams {options.streams} --max-tokens {options.max_tokens} "
        f"--rounds {options.rounds}",
        columns=["", "tokens/s", "share"],
        rows=[[name, f"{speed:.0f}", f"{shares[name]:.1%}"] for name, speed in medians.items()],
        goals=[Goal.at_least(f"over the wire at {options.streams} streams", 95, shares[label(1)] * 100, " %")],
        data={"rounds": rounds, "shares": shares},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer (default 64)")
    parser.add_argument("--rounds", type=int, default=9, help="the median counts (default 9)")
    emit(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
