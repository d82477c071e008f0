"""Letters: texts symbol by symbol, each in a cell whose colour is a number.

Offers `spelt` (what is written for each code of a text) and `letters` (texts in cells, broken into lines).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pofx.drawing.style import INK, MUTED, PAPER
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.kinds.ending import Ending

Array = np.ndarray[Any, np.dtype[Any]]
ACROSS, FEWEST, LINES = 64, 24, 40  # cells of a line, at most and at least, and lines
MARKS = {"\n": "↵", "\t": "→", "\r": "↵"}
END = "∎"
LETTER = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 8, "parse_math": False}


def spelt(x: Tensor, space: Space) -> list[list[str]]:
    """What is written for each code of each text `(N, T)`, up to its end, which has a mark of its own."""
    kind, ending = KINDS[space.kind], Ending.of(space)
    lengths = ending.lengths(x).tolist() if ending else [space.size] * len(x)
    out = []
    for row, length in zip(x.detach().cpu().long(), lengths, strict=True):
        parts = kind.spelt(row[:length, None], "", space) if length else []  # type: ignore[attr-defined]
        out.append([str(part) for part in parts] + [END] * (length < space.size))
    return out


def letters(
    axes: Any, texts: Sequence[Sequence[str]], values: Sequence[Array], labels: Sequence[str], **colours: Any
) -> Any:
    """Texts below each other, cut where the lines run out; gives the image of the cells.

    Args:
        axes: which they fill.
        texts: what is written for each code.
        values: one for each code, NaN for no colour.
        labels: of the texts, beside their first lines.
        colours: `cmap` and `norm` of the values.
    """
    cells, starts, number = laid_out(texts, values)
    image = axes.imshow(np.stack(number), aspect="auto", interpolation="nearest", **colours)
    shade = image.cmap(image.norm(np.nan_to_num(np.stack(number))))[..., :3] @ np.array([0.299, 0.587, 0.114])
    known = np.isfinite(np.stack(number))
    for line, text in enumerate(cells):
        for place, letter in enumerate(text):
            if letter != " ":
                dark = known[line, place] and shade[line, place] < 0.5
                axes.text(place, line, letter, color=PAPER if dark else INK, **LETTER)
    kept = [(start, label) for start, label in zip(starts, labels, strict=False)]
    axes.set_yticks([start for start, _ in kept], [label for _, label in kept], fontsize=8, color=MUTED)
    axes.set_ylim(max(len(cells), 3) - 0.5, -0.5)  # one line is as high as one of many
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return image


def laid_out(texts: Sequence[Sequence[str]], values: Sequence[Array]) -> tuple[list[str], list[int], list[Array]]:
    """Lines of letters, all as long as the longest, where each text begins, and the numbers of the cells of a line."""
    across = int(np.clip(max(len("".join(map(_visible, text))) for text in texts), FEWEST, ACROSS))
    lines: list[str] = []
    starts: list[int] = []
    numbers: list[Array] = []
    for text, value in zip(texts, values, strict=True):
        if len(lines) >= LINES:
            break
        if lines:
            lines.append(" " * across)
            numbers.append(np.full(across, np.nan))
        starts.append(len(lines))
        flat = "".join(_visible(part) for part in text) or " "
        parts = [np.full(len(_visible(p)), v) for p, v in zip(text, value, strict=False)]
        own = np.concatenate(parts) if parts else np.full(1, np.nan)
        for begin in range(0, len(flat), across):
            lines.append(flat[begin : begin + across].ljust(across))
            part = own[begin : begin + across]
            numbers.append(np.concatenate([part, np.full(across - len(part), np.nan)]))
    return lines[:LINES], starts, numbers[:LINES]


def _visible(part: str) -> str:
    return "".join(MARKS.get(c, c if c.isprintable() else "·") for c in part) or "·"
