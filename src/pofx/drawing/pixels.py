"""Pixels: pictures as bytes to look at, and sheets of them.

Grey pictures that are mostly dark stand in ink on paper, as their kind draws them. Offers `pictured`, `pixels`,
`enlarged`, `sheet` (many pictures as one) and `hang` (a sheet in axes, with words beside it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pofx.drawing.style import INK, MUTED
from pofx.kinds.base import Space

Array = np.ndarray[Any, np.dtype[Any]]


def pictured(space: Space) -> bool:
    """Whether x is a picture (H, W, C) for the eye: neither a solid nor a spectrum, which have three axes, too."""
    return space.kind == "image"


def pixels(x: Tensor, space: Space) -> Array:
    """x `(..., H, W, C)`, levels or their means, as bytes `(..., H, W, 3)`."""
    white = float(space.meta.get("white", 255))
    values = (x.detach().cpu().double().numpy() / white).clip(0, 1)
    if values.shape[-1] != 3:
        values = np.repeat(values[..., :1], 3, -1)
        values = 1 - values if inked(space) else values
    return (values * 255).round().astype(np.uint8)


def inked(space: Space) -> bool:
    """Whether grey pictures are mostly dark, and so are drawn in ink on paper."""
    return space.kind == "image" and space.variables[0].mean < 0.4 * float(space.meta.get("white", 255))


def enlarged(picture: Array, times: int) -> Array:
    """Bytes `(..., H, W, 3)` with every pixel as a square of `times`."""
    return picture.repeat(times, -3).repeat(times, -2)


def sheet(pictures: Array, gap: int = 1) -> Array:
    """Bytes `(R, K, H, W, 3)` as one picture of R lines with K each, white between them."""
    lines, across, h, w, _ = pictures.shape
    out = np.full((lines * (h + gap) - gap, across * (w + gap) - gap, 3), 255, dtype=np.uint8)
    for r in range(lines):
        for k in range(across):
            top, left = r * (h + gap), k * (w + gap)
            out[top : top + h, left : left + w] = pictures[r, k]
    return out


def hang(
    axes: Any, pictures: Array, lines: Sequence[str] = (), columns: Sequence[str] = (), below: bool = False
) -> Any:
    """Show a sheet of `(R, K, H, W, 3)`, its lines named on the left, its columns above or below; gives the image."""
    rows, across, h, w, _ = pictures.shape
    gap = max(1, h // 14)
    image = axes.imshow(sheet(pictures, gap), interpolation="nearest")
    axes.set_yticks([r * (h + gap) + (h - 1) / 2 for r in range(rows)] if lines else [], list(lines) or None)
    axes.set_xticks([k * (w + gap) + (w - 1) / 2 for k in range(across)] if columns else [], list(columns) or None)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.tick_params(axis="x", labelsize=7.5, labelcolor=MUTED)
    if not below:
        axes.xaxis.tick_top()
        axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)
    return image
