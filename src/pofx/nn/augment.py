"""Augmentation that can be differentiated: real rows and fakes are moved alike before a critic sees them.

    translation   shifted by up to an eighth of each side; what comes in from outside is 0
    cutout        a square of half the side at a random place is 0
    brightness    all values of a row raised by b ~ U(-1/2, 1/2)
    jitter        every value moved by a twentieth of a standard normal number (vectors have nothing else)

Since fakes are moved too, and gradients pass through, the generator learns the data and not the moved data, and a
critic of few rows cannot learn them by heart.

Reference: Zhao 2020, arXiv:2006.10738.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..randomness import Rng

MOVES = ("translation", "cutout", "brightness", "jitter")
OF_PICTURES = MOVES[:3]
SHIFT, HOLE, BRIGHTER, JITTER = 0.125, 0.5, 1.0, 0.05


def augmented(x: Tensor, moves: Sequence[str], rng: Rng, values: int | None = None) -> Tensor:
    """Rows x (B, C, H, W) or (B, d), moved.

    Args:
        moves: names out of `MOVES`; "jitter" alone fits vectors.
        rng: of the moves, one for each row.
        values: how many leading channels (or entries) hold values; the others (a mask) are not made brighter.
    """
    values = x.shape[1] if values is None else values
    for move in moves:
        if move == "translation":
            x = _translated(x, rng)
        elif move == "cutout":
            x = x * _kept(x, rng)
        else:
            seen, ones = x[:, :values], (len(x), *[1] * (x.ndim - 1))
            bright = move == "brightness"
            noise = BRIGHTER * (rng.uniform(ones) - 0.5) if bright else JITTER * rng.normal(tuple(seen.shape))
            x = torch.cat([seen + noise, x[:, values:]], 1)
    return x


def _translated(x: Tensor, rng: Rng) -> Tensor:
    """Each row shifted by whole pixels, with zeros coming in."""
    B, _, H, W = x.shape
    reach = [int(n * SHIFT + 0.5) for n in (H, W)]
    shift = [rng.integers(2 * r + 1, (B,)).to(x.device) for r in reach]
    x = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    rows = shift[0][:, None] + torch.arange(H, device=x.device)
    columns = shift[1][:, None] + torch.arange(W, device=x.device)
    batch = torch.arange(B, device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _kept(x: Tensor, rng: Rng) -> Tensor:
    """0 in a square of each row, 1 elsewhere, (B, 1, H, W)."""
    B, _, H, W = x.shape
    inside = []
    for n in (H, W):
        size = int(n * HOLE + 0.5)
        start = rng.integers(n + 1 - size % 2, (B,)).to(x.device) - size // 2
        at = torch.arange(n, device=x.device)
        inside.append((at >= start[:, None]) & (at < start[:, None] + size))
    return (~(inside[0][:, :, None] & inside[1][:, None, :])).to(x.dtype)[:, None]
