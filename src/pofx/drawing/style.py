"""Style: the colours and the type of every picture.

Offers `blank` (an empty figure), `plain` (axes without what is not data), `png` (a figure as bytes) and the colours.
Nothing here or beside it knows a model: arrays in, a matplotlib Figure out, which nothing global remembers.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE, BRANCH, PAPER, SOFT = "#1f2328", "#6a7078", "#dcdfe3", "#aeb4bb", "#ffffff", "#f6f7f8"
REAL, ACCENT, HOLE = "#5b6169", "#0b5cad", (247, 226, 186)
PALETTE = (
    "#8a6d3b", "#b8722c", "#7d8f2f", "#2f6db5", "#c2487a", "#1f8f84", "#6c54b3", "#c0392b", "#3d8b3d", "#a05a9c",
    "#4f7f9f", "#9a7d0a",
)  # fmt: skip


def blank(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """An empty figure on white paper (a dark page would show through), inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor=PAPER)


def plain(axes: Any, title: str = "") -> None:
    """Take away what is not data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(BRANCH)
    axes.tick_params(labelsize=8, colors=MUTED, length=3)
    axes.xaxis.label.set(size=8.5, color=MUTED)
    axes.yaxis.label.set(size=8.5, color=MUTED)
    if title:
        axes.set_title(title, fontsize=10, loc="left", color=INK)


def png(drawing: Figure, dpi: int = 110) -> bytes:
    """A figure as the bytes of a PNG file."""
    out = io.BytesIO()
    drawing.savefig(out, format="png", dpi=dpi)
    return out.getvalue()
