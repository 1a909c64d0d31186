"""Draws a run as a picture. Needs matplotlib, the extra `index-grpc[plot]`; uses none of its global state."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from index_grpc.bench.measure import Figures, Spread
from index_grpc.bench.plan import Mode, Plan
from index_grpc.bench.plot_turns import by_turn, prompt_tokens_by_turn
from index_grpc.bench.report import heading, number
from index_grpc.bench.run import Run
from index_grpc.bench.style import BLUE, DOTS_PER_INCH, GREY, ORANGE, PURPLE, RED, STYLE, TEAL, legend, titled

WIDE = 8
"""From this factor between levels the axis is logarithmic: on a linear one they would crowd at the left."""

Panel = Callable[[Axes], object]


def draw(run: Run, levels: Sequence[Figures], path: Path) -> None:
    """Writes the picture in the format that the path's suffix names."""
    shown = sorted((level for level in levels if level.num_completed), key=lambda level: level.level)
    panels = _panels(run, shown)
    num_rows = (len(panels) + 1) // 2
    with rc_context(STYLE):
        figure = Figure(figsize=(11.5, 1.3 + 3.5 * num_rows), layout="constrained")
        title, _, details = heading(run).partition("\n")
        mark = "   (interrupted)" if any(level.interrupted for level in levels) else ""
        figure.suptitle(f"{title}{mark}\n", x=0.012, ha="left", fontsize=15, fontweight="bold", linespacing=1.25)
        axes = figure.subplots(num_rows, 2, squeeze=False)
        for place, panel in zip(axes.flat, panels, strict=True):
            panel(place)
        figure.canvas.draw()  # places the title, so that the details can go under it
        figure.text(0.012, _under_title(figure), f"{_loop(run.plan)} · {details}", color=GREY, fontsize=10, va="top")
        figure.savefig(path, dpi=DOTS_PER_INCH)


def _panels(run: Run, levels: Sequence[Figures]) -> list[Panel]:
    plan = run.plan
    over_levels: list[Panel] = [
        lambda axes: _throughput(axes, plan, levels),
        lambda axes: _gaps(axes, plan, levels),
    ]
    if plan.mode is Mode.CONVERSATIONS:
        turns: list[Panel] = [lambda axes: by_turn(axes, levels), lambda axes: prompt_tokens_by_turn(axes, levels[-1])]
        return turns + (over_levels if len(levels) > 1 else [])
    first = [level.time_to_first_token_s for level in levels]
    whole = [level.end_to_end_s for level in levels]
    throughput, gaps = over_levels
    return [
        throughput,
        lambda axes: _latency(axes, plan, levels, "Time to first token", first, BLUE),
        gaps,
        lambda axes: _latency(axes, plan, levels, "End to end", whole, PURPLE),
    ]


def _loop(plan: Plan) -> str:
    return {Mode.OPEN: "open loop, Poisson arrivals", Mode.CLOSED: "closed loop", Mode.CONVERSATIONS: "conversations"}[
        plan.mode
    ]


def _under_title(figure: Figure) -> float:
    """Returns the height below the title's first line, as a fraction of the figure's height."""
    return 1 - 0.46 / float(figure.get_size_inches()[1])


def _throughput(axes: Axes, plan: Plan, levels: Sequence[Figures]) -> None:
    xs, ys = [level.level for level in levels], [level.output_tokens_per_s for level in levels]
    axes.plot(xs, ys, color=TEAL, marker="o", label="over the whole level, its beginning and end included")
    axes.fill_between(xs, ys, color=TEAL, alpha=0.08, linewidth=0)
    for level in levels:
        _mark(axes, level, number(level.output_tokens_per_s), TEAL, points_up=8)
        if errors := sum(level.errors.values()):
            _mark(axes, level, f"{errors} error{'s' if errors > 1 else ''}", RED, points_up=-16)
    axes.margins(y=0.18)
    titled(axes, "Throughput", "tokens/s out")
    legend(axes)
    _x_axis(axes, plan, xs)


def _mark(axes: Axes, level: Figures, text: str, colour: str, points_up: float) -> None:
    """Writes a text at a level's throughput that can be read even over a line."""
    place, halo = (level.level, level.output_tokens_per_s), [withStroke(linewidth=3, foreground="white")]
    look: dict[str, Any] = {"color": colour, "fontsize": 9, "ha": "center", "path_effects": halo}
    axes.annotate(text, place, (0, points_up), textcoords="offset points", **look)


def _gaps(axes: Axes, plan: Plan, levels: Sequence[Figures]) -> None:
    scale = _latency(axes, plan, levels, "Gap between messages", [level.gap_s for level in levels], ORANGE)
    pairs = [(level.level, level.time_per_token_s.p50 * scale) for level in levels if level.time_per_token_s]
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    axes.plot(xs, ys, color=GREY, linestyle=(0, (4, 2)), linewidth=1.4, label="time per token, p50")
    legend(axes)


def _latency(
    axes: Axes, plan: Plan, levels: Sequence[Figures], title: str, spreads: Sequence[Spread | None], colour: str
) -> float:
    """Draws the median as a line, with bands up to the 95th and 99th percentiles. Returns the axis' units a second."""
    found = [(level.level, spread) for level, spread in zip(levels, spreads, strict=True) if spread]
    scale, unit = (1.0, "s") if max((spread.p99 for _, spread in found), default=0.0) >= 10 else (1000.0, "ms")
    xs = [x for x, _ in found]
    p50, p95, p99 = ([getattr(spread, name) * scale for _, spread in found] for name in ("p50", "p95", "p99"))
    axes.plot(xs, p50, color=colour, marker="o", label="p50")
    axes.fill_between(xs, p50, p95, color=colour, alpha=0.28, linewidth=0, label="to p95")
    axes.fill_between(xs, p95, p99, color=colour, alpha=0.12, linewidth=0, label="to p99")
    axes.vlines(xs, p50, p99, color=colour, alpha=0.45, linewidth=1)
    titled(axes, title, unit)
    _x_axis(axes, plan, xs)
    legend(axes)
    return scale


def _x_axis(axes: Axes, plan: Plan, xs: Sequence[float]) -> None:
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("requests/s asked for" if plan.mode is Mode.OPEN else "concurrency: requests open at once")
    if max(xs, default=1) >= WIDE * min(xs, default=1):
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(xs)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
