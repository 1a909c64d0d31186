"""Draws the speed of our server and its alternatives, by the number of requests at once."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from index_grpc.bench.style import BLUE, DOTS_PER_INCH, GREY, ORANGE, PURPLE, RED, STYLE, TEAL, titled

DRAWN = ("alternatives", "int8")
"""The experiments whose sections a picture needs."""

OURS = "index-grpc"
LOOKS: dict[str, dict[str, Any]] = {
    OURS: {"color": TEAL, "linewidth": 3.0},
    f"{OURS} int8": {"color": TEAL, "linestyle": "--"},
    "vLLM": {"color": BLUE},
    "llama.cpp": {"color": ORANGE},
    "llama.cpp Q8_0": {"color": ORANGE, "linestyle": "--"},
    "transformers, continuous batching": {"color": PURPLE},
    "transformers, static batch": {"color": GREY},
    "the tutorial's way": {"color": RED},
}
NAMES = {
    "tutorial": "the tutorial's way",
    "static": "transformers, static batch",
    "continuous": "transformers, continuous batching",
    "llamacpp": "llama.cpp",
    "llamacpp_q8_0": "llama.cpp Q8_0",
    "vllm": "vLLM",
}

Lines = dict[str, dict[int, float]]
"""By name: a figure by the number of requests at once."""


def lines(rows: list[dict[str, Any]], figure: str, ours: str = OURS) -> Lines:
    """A figure of each peer, and of ours, which is the median over the passes with all peers."""
    found: Lines = {ours: {}}
    for level in sorted({row["at_once"] for row in rows}):
        values = [one["ours"][figure] for row in rows if row["at_once"] == level for one in row["passes"]]
        found[ours][level] = statistics.median(value for value in values if value is not None)
    for row in rows:
        if row["theirs"][figure] is not None:
            found.setdefault(NAMES[row["peer"]], {})[row["at_once"]] = row["theirs"][figure]
    return found


def draw(sections: dict[str, Any], path: Path) -> None:
    """Writes the picture: throughput, time to first token, and decode steps, also with 8-bit weights.

    `sections` has an entry for each of DRAWN, which is None if there are no results; if one is None, nothing is drawn.
    """
    if not all(sections.values()):
        return
    floats, eight_bits = (sections[name]["data"]["rows"] for name in DRAWN)
    steps = lines(floats, "step_s")
    steps = {name: steps[name] for name in (OURS, "llama.cpp", "vLLM") if name in steps}
    steps |= lines(eight_bits, "step_s", f"{OURS} int8")
    with rc_context(STYLE):
        figure = Figure(figsize=(13.5, 5.2), layout="constrained")
        axes = figure.subplots(1, 3)
        _panel(axes[0], lines(floats, "tokens_per_s"), "Throughput", "tokens/s", lambda value: value)
        _panel(axes[1], lines(floats, "first_token_s"), "Time to first token, mean", "ms", lambda value: value * 1e3)
        _panel(axes[2], steps, "Decode step, all streams", "ms", lambda value: value * 1e3)
        handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        shown = [name for name in LOOKS if name in handles]
        figure.legend([handles[name] for name in shown], shown, loc="outside lower center", ncols=4, handlelength=3.2)
        figure.savefig(path, dpi=DOTS_PER_INCH)


def _panel(axes: Axes, found: Lines, title: str, unit: str, scaled: Callable[[float], float]) -> None:
    for name, values in found.items():
        axes.plot(list(values), [scaled(value) for value in values.values()], marker="o", label=name, **LOOKS[name])
    titled(axes, title, unit)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({level for values in found.values() for level in values})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(FixedLocator(list(_ones_twos_fives())))
    axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("asked at once")


def _ones_twos_fives() -> Iterator[float]:
    for power in range(6):
        yield from (10**power, 2 * 10**power, 5 * 10**power)
