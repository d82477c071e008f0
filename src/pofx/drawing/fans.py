"""Fans: what is known, and what may follow: series as bands that widen, clips as frames, texts as lines.

Offers `fan_figure`, `frames_figure` and `texts_figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.pixels import hang, pixels
from pofx.drawing.style import ACCENT, BRANCH, INK, MUTED, REAL, blank, plain
from pofx.drawing.values import short, spread_out
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
ROWS, CHANNELS, SHARES = 4, 4, (0.5, 0.9)  # series and channels drawn; bands that are always there
BEFORE = 5  # steps of the past shown for each step ahead
FRAMES, LETTERS, LINES = 12, 92, 24  # of a strip of a clip; in a line of text; of text


def fan_figure(past: Array, draws: Array, names: Sequence[str], quantiles: Sequence[float]) -> Figure:
    """A panel for each series and channel: the past, the middle of what may follow, and bands round it.

    Args:
        past: `(N, P, C)`, NaN where a step is missing; P may be 0.
        draws: `(M, N, H, C)`.
        names: of the channels.
        quantiles: levels asked for; those that are symmetric make bands of their own.
    """
    rows, across = min(past.shape[0], ROWS), min(len(names), CHANNELS)
    ahead = draws.shape[2]
    known = past[:, max(0, past.shape[1] - BEFORE * ahead) :]
    shares = sorted({*SHARES, *(round(1 - 2 * q, 6) for q in quantiles if q < 0.5 and _has(quantiles, 1 - q))})
    drawing = blank(max(3.4 * across, 6.4), 2.1 * rows + 0.5)
    grid = drawing.subplots(rows, across, squeeze=False, sharex=True)
    for n, line in enumerate(grid):
        for c, axes in enumerate(line):
            _fan(axes, known[n, :, c], draws[:, n, :, c], shares)
            words = [f"series {n}"] * (past.shape[0] > 1) + [short(names[c])] * (len(names) > 1)
            plain(axes, ", ".join(words))
    for axes in grid[-1]:
        axes.set_xlabel("steps from now", fontsize=8.5, color=MUTED)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    drawing.legend(
        handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8, labelcolor=INK
    )
    return drawing


def _has(levels: Sequence[float], wanted: float) -> bool:
    return any(abs(level - wanted) < 1e-9 for level in levels)


def _fan(axes: Any, past: Array, draws: Array, shares: Sequence[float]) -> None:
    before, steps = np.arange(-len(past) + 1, 1), np.arange(1, draws.shape[1] + 1)
    last = past[-1:] if len(past) and np.isfinite(past[-1]) else np.zeros(0)
    at = np.concatenate([np.zeros(len(last)), steps])  # the fan opens where the past ends

    def joined(line: Array) -> Array:
        return np.concatenate([last, line])

    axes.plot(before, past, ".-" if len(past) < 60 else "-", color=REAL, linewidth=1.2, markersize=3, label="past")
    for share in sorted(shares, reverse=True):
        low, high = np.quantile(draws, [0.5 - share / 2, 0.5 + share / 2], axis=0)
        axes.fill_between(
            at, joined(low), joined(high), color=_paler(share), linewidth=0, label=f"{share:.0%} of futures"
        )
    middle = np.median(draws, axis=0)
    axes.plot(at, joined(middle), ".-" if len(at) == 1 else "-", color=ACCENT, linewidth=1.6, label="median")
    axes.axvline(0, color=BRANCH, linewidth=0.8, zorder=0)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _paler(share: float) -> tuple[float, ...]:
    """The colour of a band: the wider, the nearer to paper."""
    from matplotlib.colors import to_rgb

    depth = 0.15 + 0.9 * (1 - share)
    return tuple(1 - depth * (1 - c) for c in to_rgb(ACCENT))


def frames_figure(past: Tensor, draws: Tensor, space: Space) -> Figure:
    """Clips: frames of the past, then of their median, and of a draw.

    Args:
        past: `(N, P, H, W, C)`.
        draws: `(M, N, ahead, H, W, C)`.
        space: of a clip.
    """
    rows, ahead = min(past.shape[0], 3), draws.shape[2]
    after = spread_out(ahead, FRAMES // 2)
    before = list(range(past.shape[1]))[-(FRAMES - len(after)) :]
    shown = []
    for n in range(rows):
        for then in (draws[:, n].double().median(0).values, draws[0, n]):
            shown.append(np.concatenate([pixels(past[n, before], space), pixels(then[after], space)]))
    labels = [words for n in range(rows) for words in (f"clip {n}: median", "a draw")]
    times = [str(t - past.shape[1] + 1) for t in before] + [f"+{t + 1}" for t in after]
    high = 0.8 * space.shape[1] / space.shape[2]
    drawing = blank(0.8 * len(times) + 1.2, (high + 0.05) * len(shown) + 0.8, "compressed")
    axes = drawing.subplots()
    hang(axes, np.stack(shown), labels, times, below=True)
    axes.set_xlabel("frames from now: up to 0 known, then foretold", fontsize=8.5, color=MUTED)
    return drawing


def texts_figure(prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Figure:
    """What was said in blue, and how it may go on.

    Args:
        prompts: N beginnings.
        texts: M draws of N texts each, which begin with their prompts.
    """
    lines: list[tuple[str, str]] = []
    for n, prompt in enumerate(prompts[:ROWS]):
        for drawn in texts[:ROWS]:
            lines += [*_wrapped(prompt, drawn[n]), ("", "")]
    lines = lines[:LINES]
    drawing = blank(7.4, 0.2 * len(lines) + 0.3)
    axes = drawing.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(lines), -0.5))
    for k, (said, new) in enumerate(lines):
        plainly: dict[str, Any] = {"family": "monospace", "fontsize": 7.5, "va": "center", "parse_math": False}
        axes.text(0, k, said, color=ACCENT, fontweight="bold", **plainly)
        axes.text(0, k, " " * len(said) + new, color=INK, **plainly)
    return drawing


def _wrapped(prompt: str, text: str) -> list[tuple[str, str]]:
    """Lines of a text, each as the part that belongs to the prompt and the rest."""
    known = len(prompt) if text.startswith(prompt) else 0
    shown, found = text.replace("\n", "↵").replace("\t", " "), []
    for start in range(0, min(len(shown), 5 * LETTERS), LETTERS):
        part = shown[start : start + LETTERS]
        cut = min(max(known - start, 0), len(part))
        found.append((part[:cut], part[cut:]))
    return found
