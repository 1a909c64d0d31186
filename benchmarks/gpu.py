"""Our engine and server on a GPU, compared with the most that the GPU can do, and with the peers.

Uses random weights in the real model's shape, in bfloat16. Each part prints its results to standard error as it goes.
The table comes last, then one JSON object; after Ctrl-C they have the results so far. Everything takes less than eight
minutes on a GPU of 48 GB or more.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only ours,prefill --levels 1,64
    python benchmarks/gpu.py --only "" --profile      # where a decode step's time goes
    python benchmarks/gpu.py --smoke                  # the same code, with small sizes on the processor
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import uvloop
from card.goals import goals
from card.row import COLUMNS, CONTINUOUS, STATIC, TUTORIAL
from card.run import PARTS, Plan, Run
from card.sizes import CARD, SMOKE
from checkpoints import CHECKPOINTS
from report import Section, emit

from index_grpc import __version__

PEERS = (TUTORIAL, STATIC, CONTINUOUS)


def measure(options: argparse.Namespace, directory: Path) -> Section:
    sizes = SMOKE if options.smoke else CARD
    plan = Plan(
        sizes=sizes,
        only=options.only,
        levels=options.levels or sizes.levels,
        seconds=options.seconds,
        rounds=options.rounds,
        peers=options.peers,
        peer_seconds=options.peer_seconds,
        profile=options.profile,
    )
    run = Run(plan, directory)
    try:
        uvloop.run(run.measure())
    except KeyboardInterrupt:
        run.note("interrupted: what had been found until then is here")
    return section(run, smoke=options.smoke)


def section(run: Run, *, smoke: bool) -> Section:
    """The results; those of a processor are compared with no goal."""
    sizes, found = run.plan.sizes, run.ceilings
    return Section(
        title="The way through, without a GPU" if smoke else "On a GPU",
        about=f"Random weights in the {sizes.shape} shape, prompts of about {sizes.prompt_tokens} tokens, default "
        f"sampling; long contexts begin with {sizes.long_prompt_tokens}, and prompts alone are {sizes.num_prefills} of "
        f"{sizes.prefill_tokens}, timed until the last of them has its first token. The ceiling of a decode step is to "
        "read all weights but the embedding's and all contexts' keys and values as fast as a large copy; that of "
        "prompts alone is the rate of a large matrix product; that of gRPC is the engine alone.",
        command=shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        columns=COLUMNS,
        rows=[row.cells for row in run.rows],
        goals=[] if smoke else goals(run.rows),
        notes=run.notes,
        data={
            "machine": f"{found.card}, {os.cpu_count()} cores; {found.versions}, index-grpc {__version__}",
            "seconds": time.perf_counter() - run.started,
            "ceilings": asdict(found),
            "rows": [asdict(row) for row in run.rows],
            "profile": run.profile,
        },
    )


def listed(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A function that reads known names, separated by commas; there may be none."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(filter(None, text.split(",")))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return names

    return read


def numbers(text: str) -> tuple[int, ...]:
    """Reads numbers separated by commas. Raises ValueError."""
    return tuple(int(part) for part in text.split(","))


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=listed(PARTS), default=PARTS, help=f"parts of {','.join(PARTS)}; default: all")
    parser.add_argument("--levels", type=numbers, help="how many ask the engine at once (default 1,8,32,64,128,256)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of these levels (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="over the wire, the median counts (default 3)")
    parser.add_argument("--peers", type=listed(PEERS), default=PEERS, help=f"of {','.join(PEERS)}; default: all")
    parser.add_argument("--peer-seconds", type=float, default=90.0, help="for each, its start included (default 90)")
    parser.add_argument("--profile", action="store_true", help="show the kernels of decode steps at 1 and 64, too")
    parser.add_argument("--smoke", action="store_true", help="try the way through, small and on the processor")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="default: benchmarks/.checkpoints")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.smoke:
        with TemporaryDirectory() as directory:
            emit(measure(options, Path(directory)))
    elif torch.cuda.is_available():
        emit(measure(options, options.checkpoints / CARD.shape / "random_llama"))
    else:
        remedy = "run this where one is, or try the way through with --smoke"
        sys.exit(f"PyTorch {torch.__version__} sees no CUDA device here; {remedy}")


if __name__ == "__main__":
    main()
