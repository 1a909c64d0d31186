"""Runs the experiments and writes their results to `RESULTS.md`, each with its machine and versions.

An experiment that is not run keeps its last results; `results.json` has all of them. For experiments that depend on the
instruction set, results with AVX2 are kept apart: those of a machine that has nothing newer, or is limited to AVX2.

    python benchmarks/bench.py                       # all; about an hour with every peer installed
    python benchmarks/bench.py wire conversations    # only these
    python benchmarks/bench.py --avx2                # with every side limited to AVX2
    python benchmarks/bench.py --list
    python benchmarks/bench.py gpu --found FILE      # keeps what gpu.py printed on another machine
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isa import AVX2, has_more_than_avx2, held_to_avx2
from picture import DRAWN, draw

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results.json", HERE / "RESULTS.md"

EXPERIMENTS = {
    "alternatives": ["alternatives.py", "mid"],
    "int8": ["alternatives.py", "int8"],
    "quality": ["quality.py"],
    "full": ["alternatives.py", "full"],
    "memory": ["memory_floor.py", "full"],
    "wire": ["wire.py"],
    "conversations": ["conversations.py"],
    "fairness": ["fairness.py"],
    "steps": ["step_cost.py"],
    "start": ["start.py", "--full"],
    "streams": ["concurrency.py"],
    "loss": ["engine_loss.py"],
    "health": ["health_latency.py"],
    "abuse": ["abuse.py"],
    "gpu": ["gpu.py"],
}
"""Script and arguments of each experiment, in the order of the page."""

COMPUTING = ("alternatives", "int8", "full", "memory", "wire", "conversations", "fairness")
"""The experiments whose results depend most on the instruction set."""

AVX2_ONLY = " with AVX2"
"""The end of the keys of results that used nothing newer than AVX2."""

NEEDS_CUDA = "gpu"
NOT_MEASURED = f"""\
## On a GPU

Not measured yet. It needs one: `python benchmarks/{" ".join(EXPERIMENTS[NEEDS_CUDA])}`, eight minutes.
"""

PACKAGES = ("index-grpc", "torch", "transformers", "grpcio", "protobuf")

INTRODUCTION = """\
# Results

Written by `make bench`, which `python benchmarks/bench.py --help` explains. Ratios are of runs taken in turn on one
machine; absolute times do not carry over to another. What did not come out as hoped stands here too.
"""

PICTURES = {"": HERE / "RESULTS.png", AVX2_ONLY: HERE / "RESULTS-avx2.png"}
"""The pictures, by the end of the keys of the results that they show."""

AVX2_INTRODUCTION = """\
# With AVX2

On a processor that has nothing newer, or with every side held to it (`make bench ARGS=--avx2`; how stands in `isa.py`).
"""


def run(name: str) -> dict[str, Any]:
    """Runs one experiment and returns its section. Raises CalledProcessError."""
    script, *arguments = EXPERIMENTS[name]
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    *told, last = done.stdout.splitlines()
    print("\n".join(told), flush=True)
    return dated(last, datetime.datetime.now(datetime.UTC))


def found(path: Path) -> dict[str, Any]:
    """The section that an experiment printed to a file, dated by the file."""
    return dated(path.read_text().splitlines()[-1], datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC))


def dated(printed: str, when: datetime.datetime) -> dict[str, Any]:
    """The section in an experiment's last line, with the day and, unless it names a machine, with this one."""
    section: dict[str, Any] = json.loads(printed)
    return section | {"when": f"{when:%Y-%m-%d}", "machine": section["data"].get("machine") or machine()}


def machine() -> str:
    """The processor, the system and the versions, in one line."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    units = [unit for unit in ("avx2", "avx512f", "avx512_vnni", "amx_bf16") if unit in flags]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    processor = f"{len(names)} × {names[0] if names else platform.processor()} ({', '.join(units)})"
    held = "; held to AVX2" if held_to_avx2() and has_more_than_avx2() else ""
    return f"{processor}{held}; Python {platform.python_version()}, {versions}"


def page(sections: dict[str, dict[str, Any]]) -> str:
    """All results as Markdown."""
    parts = [
        INTRODUCTION,
        *_shown(PICTURES[""]),
        *(_section(sections[name]) for name in EXPERIMENTS if name in sections),
    ]
    if NEEDS_CUDA not in sections:
        parts.append(NOT_MEASURED)
    with_avx2 = [_section(sections[key]) for name in EXPERIMENTS if (key := f"{name}{AVX2_ONLY}") in sections]
    if with_avx2:
        parts += [AVX2_INTRODUCTION, *_shown(PICTURES[AVX2_ONLY]), *with_avx2]
    return "\n".join(parts)


def possible() -> list[str]:
    """All experiments for which this machine has a device."""
    from torch import cuda  # slow to import, and not needed if experiments are named

    if cuda.is_available():
        return list(EXPERIMENTS)
    print(f"{NEEDS_CUDA} is left out: there is no CUDA device here", file=sys.stderr)
    return [name for name in EXPERIMENTS if name != NEEDS_CUDA]


def _key(name: str) -> str:
    """The key of an experiment's results if it is run now on this machine."""
    avx2_only = name in COMPUTING and (held_to_avx2() or not has_more_than_avx2())
    return f"{name}{AVX2_ONLY}" if avx2_only else name


def _shown(picture: Path) -> list[str]:
    what = "throughput, time to first token and decode step of index-grpc and its alternatives"
    return [f"![{what}]({picture.name})\n"] if picture.exists() else []


def _section(section: dict[str, Any]) -> str:
    table = [section["columns"], ["---", *["---:"] * (len(section["columns"]) - 1)], *section["rows"]]
    lines = [f"## {section['title']}", "", section["about"], "", *(f"| {' | '.join(row)} |" for row in table), ""]
    lines += [f"- {_goal(goal)}" for goal in section["goals"]] + [f"- {note}" for note in section["notes"]]
    lines += ["", f"{section['when']}, {section['machine']}. `{section['command']}`", ""]
    return "\n".join(lines)


def _goal(goal: dict[str, Any]) -> str:
    missed = "; **missed**" if goal["is_met"] is False else ""
    return f"{goal['what']}: **{goal['found']}** (goal {goal['limit']}{missed})"


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--list", action="store_true", help="print the experiments and how each is run alone")
    parser.add_argument("--avx2", action="store_true", help="hold every side to AVX2")
    parser.add_argument("--found", type=Path, metavar="FILE", help="keep what the one named printed, do not run it")
    options = parser.parse_args()
    unknown = [name for name in options.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    if options.avx2 and (others := set(options.experiments) - set(COMPUTING)):
        parser.error(f"--avx2 is for {', '.join(COMPUTING)}; not for {', '.join(sorted(others))}")
    if options.found and options.experiments != [NEEDS_CUDA]:
        parser.error(f"--found goes with {NEEDS_CUDA}, whose findings alone tell their machine")
    return options


def main() -> None:
    options = parse()
    if options.list:
        print("\n".join(f"{name:<15}python benchmarks/{' '.join(words)}" for name, words in EXPERIMENTS.items()))
        return
    if options.avx2:
        os.environ.update(AVX2)
    sections: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed: list[str] = []
    for name in options.experiments or (COMPUTING if options.avx2 else possible()):
        print(f"=== {name}", file=sys.stderr, flush=True)
        try:
            sections[_key(name)] = found(options.found) if options.found else run(name)
        except subprocess.CalledProcessError as error:
            print(f"{name} ended with {error.returncode}; its last findings stay", file=sys.stderr)
            failed.append(name)
            continue
        RESULTS.write_text(json.dumps(sections, indent=1, ensure_ascii=False) + "\n")
        for ending, picture in PICTURES.items():
            draw({experiment: sections.get(f"{experiment}{ending}") for experiment in DRAWN}, picture)
        PAGE.write_text(page(sections))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
