"""Sizes: how many bytes the same rows take, by general compressors and by a model.

Offers `packed` (numbers as few bytes as they fit in), `sizes_of` (bytes by zlib and xz) and `sizes_figure`.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pofx.drawing.style import ACCENT, BRANCH, INK, PAPER, blank, plain
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEAST = "#b8541a"


def packed(x: Tensor, space: Space) -> bytes:
    """x `(N, *event)` row after row: codes, and numbers in steps of their resolution, in as few whole bytes as hold
    them; a column with a number off that grid as float64.
    """
    flat, columns = x.detach().cpu().double().reshape(len(x), space.size).numpy(), []
    for j in range(space.size):
        v = space.variable(j)
        step = 1.0 if v.discrete else v.resolution
        codes = np.round(flat[:, j] / step) if step else flat[:, j] + 0.5
        if not np.allclose(codes * (step or 1.0), flat[:, j], rtol=0, atol=1e-6 * (step or 1.0)):
            columns.append(np.ascontiguousarray(flat[:, j : j + 1]).view(np.uint8))
            continue
        top = v.levels - 1 if v.discrete else float(np.ptp(codes))
        width = next((w for w in (1, 2, 4) if top < 256**w), 8)
        whole = (codes if v.discrete else codes - codes.min()).astype(f"<u{width}")
        columns.append(whole[:, None].view(np.uint8))
    return np.concatenate(columns, 1).tobytes()


def sizes_of(raw: bytes) -> dict[str, int]:
    """Bytes as they are, by zlib and by xz, each at its best."""
    return {"zlib": len(zlib.compress(raw, 9)), "xz": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))}


def sizes_figure(sizes: Mapping[str, int], entries: int, ideal: float, title: str) -> Figure:
    """Bars of bytes, the last of which is the model's; a line at the least that the model could need.

    Args:
        sizes: name -> bytes, from the top.
        entries: what the bits of each are divided by, at least 1.
        ideal: bytes, -log2 p / 8.
        title: what was made small.
    """
    drawing = blank(6.8, 0.42 * len(sizes) + 1.35)
    axes = drawing.subplots()
    lengths = list(sizes.values())
    axes.barh(range(len(sizes)), lengths, 0.66, color=[BRANCH] * (len(sizes) - 1) + [ACCENT])
    room = max(*lengths, ideal)
    backed = {"boxstyle": "square,pad=0.15", "facecolor": PAPER, "edgecolor": "none"}
    for k, length in enumerate(lengths):
        words = f"{length:,} bytes = {8 * length / entries:.3g} bits per entry"
        axes.annotate(
            words, (length, k), (6, 0), textcoords="offset points", fontsize=8, va="center", color=INK, bbox=backed
        )
    axes.axvline(ideal, color=LEAST, linewidth=1.4, linestyle=(0, (4, 2)))
    words = f"{ideal:,.0f} bytes: −log2 p, the least that this model could need"
    left = ideal > 0.7 * room
    axes.annotate(
        words, (ideal, len(sizes) - 0.42), (-4 if left else 4, 0), textcoords="offset points", fontsize=8, color=LEAST,
        ha="right" if left else "left", va="top", annotation_clip=False,
    )  # fmt: skip
    axes.set_yticks(range(len(sizes)), list(sizes), color=INK)
    axes.set(ylim=(len(sizes) - 0.1, -0.6), xlim=(0, 1.6 * room), xlabel="bytes; the model itself is not counted")
    plain(axes, title)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return drawing
