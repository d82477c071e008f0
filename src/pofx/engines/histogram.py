"""Histograms: columns of numbers as codes of bins with about equal numbers of rows, and back.

    x  ->  b(x), the bin          p(x) = P(b) q(x | b),      q = 1 / width inside, exp(-d / s) / s in an open tail

With a resolution r edges lie between the grid's values and q is the mass of the cell of width r around x; without, q is
a density. A column with ends has uniform end bins, one without has exponential ones whose s is the mean excess.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.randomness import Rng

NARROWEST = 0.01  # the least width of a bin, and of s, in standard deviations: repeated values must not make a spike


class Histogram:
    """The bins of one column.

    Args:
        edges: between the bins, ascending, at least one.
        tails: s of the first and of the last bin.
        low, high: the ends of the column, or -inf and inf.
        step: r, or 0 for a density.
    """

    def __init__(self, edges: Tensor, tails: Tensor, low: float, high: float, step: float) -> None:
        self.edges, self.tails, self.low, self.high, self.step = edges, tails, low, high, step

    @classmethod
    def fitted(cls, x: Tensor, bins: int, low: float, high: float, step: float, scale: float) -> Histogram:
        """The bins of values x (N,), at most `bins`."""
        least = max(NARROWEST * scale, step)
        x = x if len(x) else torch.tensor([max(low, min(high, 0.0))], dtype=torch.float64)
        wanted = torch.quantile(x[: 2**20].double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
        edges: list[float] = []
        for e in wanted.tolist():
            e = (math.floor(e / step) + 0.5) * step if step else e
            if low + least / 2 < e < high - least / 2 and (not edges or e - edges[-1] >= least * (1 - 1e-9)):
                edges.append(e)
        if not edges:
            middle = (low + high) / 2 if math.isfinite(low + high) else float(x.median())
            edges = [(math.floor(middle / step) + 0.5) * step if step else middle]
        kept = torch.tensor(edges, dtype=torch.float64)
        excess = [(kept[0] - x)[x < kept[0]], (x - kept[-1])[x > kept[-1]]]
        tails = [max(float(d.mean()) if len(d) else least, least) for d in excess]
        return cls(kept, torch.tensor(tails, dtype=torch.float64), low, high, step)

    @property
    def bins(self) -> int:
        """How many there are."""
        return len(self.edges) + 1

    def code(self, x: Tensor) -> Tensor:
        """The bin of each x."""
        return torch.searchsorted(self.edges, x.double().contiguous())

    def log_inside(self, x: Tensor) -> Tensor:
        """log q(x | its bin); -inf outside the ends."""
        x, b = x.double(), self.code(x)
        borders = torch.cat([x.new_tensor([self.low]), self.edges, x.new_tensor([self.high])])
        width = borders[b + 1] - borders[b]
        log_q = (math.log(self.step) if self.step else 0.0) - width.log()
        tail = torch.where(b == 0, self.tails[0], self.tails[1])
        d = torch.where(b == 0, self.edges[0] - x, x - self.edges[-1]) - self.step / 2
        end = torch.log(-torch.expm1(-self.step / tail)) if self.step else -tail.log()
        log_q = torch.where(torch.isinf(width), end - d / tail, log_q)
        return log_q.masked_fill((x < self.low) | (x > self.high), -torch.inf)

    def sample(self, b: Tensor, rng: Rng) -> Tensor:
        """x of each bin."""
        u = rng.uniform(tuple(b.shape), torch.float64)
        borders = torch.cat([u.new_tensor([self.low]), self.edges, u.new_tensor([self.high])])
        low, high = borders[b], borders[b + 1]
        down, up = self.edges[0] + self.tails[0] * torch.log1p(-u), self.edges[-1] - self.tails[1] * torch.log1p(-u)
        x = torch.where(torch.isinf(low), down, torch.where(torch.isinf(high), up, low + u * (high - low)))
        return torch.round(x / self.step) * self.step if self.step else x
