"""The style of the pictures."""

from typing import Any

from matplotlib.axes import Axes

TEAL, BLUE, ORANGE, PURPLE = "#0f8b8d", "#2f6fb5", "#d9822b", "#7a5195"
RED, GREY, INK = "#c0392b", "#6b7280", "#1f2933"
DOTS_PER_INCH = 150

STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#c9ced6",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.14,
    "figure.constrained_layout.w_pad": 0.14,
    "font.size": 10,
    "grid.color": "#e9ecf0",
    "legend.columnspacing": 1.2,
    "legend.fontsize": 9,
    "legend.labelcolor": GREY,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 5.5,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "ytick.left": False,
}


def titled(axes: Axes, title: str, unit: str) -> None:
    """Writes a panel's title at its left and its unit at the axis."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, pad=24)
    axes.set_ylabel(unit)
    axes.set_axisbelow(True)


def legend(axes: Axes) -> None:
    """Draws the legend below the title, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.012, 0.995), ncols=8, borderaxespad=0.0, handlelength=1.5)
