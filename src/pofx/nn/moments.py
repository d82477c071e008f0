"""Moments: every coordinate in units of its own deviation, measured on the first batches of a fit.

    v = (u - m) / d,    m, d = mean and deviation of the entries seen,    d >= floor

A chart has one mean and one scale for a whole picture; its edge, which hardly varies, needs units of its own. After
`BATCHES` batches both are held, so that what is trained on them stands still.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BATCHES = 50


class Moments(nn.Module):
    """u (B, *shape) <-> v (B, *shape).

    Args:
        shape: of one u.
        floor: the least deviation; a constant coordinate has none.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor
    batches: Tensor

    def __init__(self, shape: Sequence[int], floor: float = 0.03) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("square", torch.ones(*shape))  # the mean of u^2
        self.register_buffer("seen", torch.zeros(*shape))  # entries
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def deviation(self) -> Tensor:
        """d, of one u."""
        return (self.square - self.mean.square()).clamp_min(self.floor**2).sqrt()

    def measure(self, u: Tensor, observed: Tensor | None = None) -> None:
        """Take u (B, *shape) into account, while it is one of the first batches."""
        if not self.training or int(self.batches) >= BATCHES:
            return
        counted = torch.ones_like(u) if observed is None else observed.to(u.dtype)
        u = u.detach() if observed is None else torch.where(observed, u.detach(), 0.0)
        self.seen += counted.sum(0)
        weight = 1 / self.seen.clamp_min(1)
        self.mean += weight * (u - counted * self.mean).sum(0)
        self.square += weight * (u.square() - counted * self.square).sum(0)
        self.batches += 1

    def forward(self, u: Tensor) -> Tensor:
        """v of u."""
        return (u - self.mean) / self.deviation

    def inverse(self, v: Tensor) -> Tensor:
        """u of v."""
        return self.mean + self.deviation * v
