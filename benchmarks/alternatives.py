"""Compares our server with its alternatives, as RESULTS.md shows it, with goals.

python benchmarks/alternatives.py mid       # throughput and decode steps against every peer that is installed
python benchmarks/alternatives.py int8      # --quantize int8 against llama.cpp's Q8_0
python benchmarks/alternatives.py full      # the real model's shape against the tutorial's server
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from checkpoints import CHECKPOINTS, converted
from compare import compare, note
from environments import ENVIRONMENTS
from figures import Row
from peer import PeerError, Skipped
from report import Goal, Section, emit


@dataclass(frozen=True)
class Aim:
    """A goal for one figure against one peer at one level."""

    peer: str
    at_once: int
    figure: str
    """All are ours divided by the peer's; `tokens/s` should be large, `first token` and `step` small."""
    limit: float

    def goal(self, rows: Sequence[Row]) -> Goal:
        """Compares the figure with the limit, if the peer is installed."""
        row = next((row for row in rows if (row.peer, row.at_once) == (self.peer, self.at_once)), None)
        what = f"{self.figure} by {self.peer}'s at {self.at_once}"
        if self.figure == "tokens/s":
            return Goal.at_least(what, self.limit, row.tokens_per_s_ratio if row else None)
        ratio = None if row is None else row.step_ratio if self.figure == "step" else row.first_token_ratio
        return Goal.at_most(what, self.limit, ratio)


@dataclass(frozen=True)
class Experiment:
    """What to compare, with which peers, and how."""

    title: str
    shape: str
    peers: tuple[str, ...]
    levels: tuple[int, ...]
    aims: tuple[Aim, ...]
    flags: str = ""
    gguf: tuple[str, ...] = ()


def _steps(peer: str, *limits: float) -> tuple[Aim, ...]:
    return tuple(Aim(peer, level, "step", limit) for level, limit in zip((1, 4, 16, 32), limits, strict=True))


EXPERIMENTS = {
    "mid": Experiment(
        "Beside the alternatives",
        "mid",
        ("tutorial", "static", "continuous", "llamacpp", "vllm"),
        (1, 4, 16, 32),
        (
            Aim("tutorial", 16, "tokens/s", 7),
            Aim("tutorial", 32, "tokens/s", 8),
            Aim("tutorial", 16, "first token", 0.1),
            Aim("continuous", 16, "tokens/s", 1.7),
            Aim("continuous", 32, "tokens/s", 2),
            *(Aim("vllm", level, "tokens/s", 1.8) for level in (4, 16, 32)),
            *_steps("llamacpp", 1.25, 1.1, 0.8, 0.8),
        ),
        gguf=("f32",),
    ),
    "int8": Experiment(
        "Beside llama.cpp with 8-bit weights",
        "mid",
        ("llamacpp_q8_0",),
        (1, 4, 16, 32),
        _steps("llamacpp_q8_0", 1.8, 1.0, 0.85, 0.85),
        flags="--quantize int8",
        gguf=("q8_0",),
    ),
    "full": Experiment(
        "In the real model's shape",
        "full",
        ("tutorial",),
        (8,),
        (Aim("tutorial", 8, "tokens/s", 2.5),),
    ),
}


def measure(options: argparse.Namespace) -> Section:
    experiment = EXPERIMENTS[options.experiment]
    directory = converted(experiment.shape, options.checkpoints, experiment.gguf)
    asked = argparse.Namespace(
        directory=directory,
        peers=experiment.peers,
        levels=experiment.levels,
        rounds=options.rounds,
        prompt_tokens=64,
        tokens=64,
        greedy=False,
        threads=options.threads,
        ours=experiment.flags,
        environments=options.environments,
        seed=options.seed,
    )
    rows: list[Row] = []
    absent: list[str] = []
    for found in compare(asked):
        if isinstance(found, Row):
            rows.append(found)
        else:
            note(found)
            absent.append(found)
    return section(options, experiment, rows, absent)


def section(options: argparse.Namespace, experiment: Experiment, rows: list[Row], absent: list[str]) -> Section:
    """The results and goals."""
    flags = f" with {experiment.flags}" if experiment.flags else ""
    return Section(
        title=experiment.title,
        about=f"`index-grpc serve`{flags} over gRPC and each peer take the same rounds in turn on the "
        f"{experiment.shape} checkpoint: so many prompts at once, 64 tokens in, 64 out, default sampling. "
        f"Ours / theirs, and the ratio; medians of {options.rounds}.",
        command=f"python benchmarks/alternatives.py {options.experiment} --rounds {options.rounds}",
        columns=["peer", "at once", "tokens/s", "", "first token, s", "", "decode step, ms", ""],
        rows=[_cells(row) for row in rows],
        goals=[aim.goal(rows) for aim in experiment.aims],
        notes=absent,
        data={"rows": [asdict(row) for row in rows]},
    )


def _cells(row: Row) -> list[str]:
    ours, theirs = row.ours, row.theirs
    cells = [row.peer, str(row.at_once)]
    cells += [f"{ours.tokens_per_s:.0f} / {theirs.tokens_per_s:.0f}", f"×{row.tokens_per_s_ratio:.2f}"]
    cells += [f"{ours.first_token_s:.3f} / {theirs.first_token_s:.3f}", f"×{row.first_token_ratio:.2f}"]
    if row.step_ratio is None or ours.step_s is None or theirs.step_s is None:
        return [*cells, "–", "–"]
    return [*cells, f"{ours.step_s * 1e3:.1f} / {theirs.step_s * 1e3:.1f}", f"×{row.step_ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--rounds", type=int, default=3, help="the medians count (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for each side (default: all cores)")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="default: benchmarks/.checkpoints")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="default: benchmarks/.environments")
    parser.add_argument("--seed", type=int, default=0)
    try:
        emit(measure(parser.parse_args()))
    except (Skipped, PeerError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
