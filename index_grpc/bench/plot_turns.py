"""The panels for conversations, which show what happens as the history grows."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from index_grpc.bench.measure import Figures
from index_grpc.bench.style import TEAL, legend, titled


def by_turn(axes: Axes, levels: Sequence[Figures]) -> None:
    """Draws the time to first token by turn: a line for each level's median, with a band up to the 95th percentile."""
    for place, level in enumerate(levels):
        colour = colormaps["YlGnBu"](0.95 - 0.6 * (len(levels) - 1 - place) / len(levels))  # busier levels are darker
        turns = [turn.turn for turn in level.turns]
        p50, p95 = (
            [getattr(turn.time_to_first_token_s, name) * 1000 for turn in level.turns] for name in ("p50", "p95")
        )
        axes.fill_between(turns, p50, p95, color=colour, alpha=0.2, linewidth=0)
        axes.plot(turns, p50, color=colour, marker="o", label=f"{'' if place else 'concurrency '}{level.level:g}")
    titled(axes, "Time to first token, p50 with a band to p95", "ms")
    axes.set_ylim(bottom=0)
    _turn_axis(axes)


def prompt_tokens_by_turn(axes: Axes, level: Figures) -> None:
    """Draws how the prompt grows by turn, and how much of it the server had computed before."""
    turns = [turn.turn for turn in level.turns]
    cached = [turn.cached_prompt_tokens for turn in level.turns]
    computed = [turn.prompt_tokens - turn.cached_prompt_tokens for turn in level.turns]
    axes.bar(turns, cached, color=TEAL, alpha=0.35, label="cached")
    axes.bar(turns, computed, bottom=cached, color=TEAL, label="computed")
    titled(axes, f"Prompt, mean at concurrency {level.level:g}", "tokens")
    _turn_axis(axes)


def _turn_axis(axes: Axes) -> None:
    axes.set_xlabel("turn")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    legend(axes)
