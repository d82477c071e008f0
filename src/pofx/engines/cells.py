"""Cells: one column of numbers or codes as a few hundred places, and the exact law inside each place.

    p(x) = P(cell of x) p(x | cell)
    inside    1 / width (a density), or step / width (the mass of one value of the grid)
    first, last without an end    rate exp(-rate |x - edge|), or its mass on the grid: an exponential tail

Codes 0 .. K-1 are cells of their own. Of numbers, cells hold about equally many rows; a value that fills a cell by
itself (a point mass) is one, so that a column of mostly zeros keeps its zeros. Knows no data types.
Reference: equal-frequency histograms, Scott 1992; the cells of UnmaskingTrees, McCarter 2024 (arXiv:2407.05593).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pofx.randomness import Rng

Array = np.ndarray[Any, Any]
MOST = 255  # codes of a feature; the next one says that it is missing
TINY = 1e-12  # the least mean distance of a tail, in spreads
FINEST = 1e-3  # width of the narrowest cell of a density, in spreads: repeated values must not make a spike


class Cells(nn.Module):
    """The cells of one column.

    Args:
        levels: K of a column of codes; 0 for numbers.
        step: the grid of the numbers; 0 for a density.
        low, high: where its first bin begins and its last one ends; infinite where it has no end.
    """

    edges: Tensor
    rates: Tensor
    feature: Tensor

    def __init__(self, levels: int, step: float, low: float, high: float) -> None:
        super().__init__()
        self.levels, self.step, self.low, self.high = levels, step, low, high
        self.register_buffer("edges", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("rates", torch.ones(2, dtype=torch.float64))
        self.register_buffer("feature", torch.zeros(max(levels, 1), dtype=torch.uint8))

    @classmethod
    def of(cls, v: Any) -> Cells:
        """The cells of a variable (support, levels, resolution, low, high); ends are those of its outermost bins."""
        if v.discrete:
            return cls(v.levels, 0.0, -0.5, v.levels - 0.5)
        low = -math.inf if v.low is None else v.low - v.resolution / 2
        high = math.inf if v.high is None or v.support != "bounded" else v.high + v.resolution / 2
        return cls(0, v.resolution, low, high)

    @property
    def count(self) -> int:
        """The number of cells."""
        return self.levels or len(self.edges) + 1

    def fit(self, x: Array, cells: int, ordered: bool) -> None:
        """Choose the cells by rows x `(N,)`: about `cells` of them, for numbers; codes keep theirs."""
        if self.levels:
            seen = np.bincount(x.astype(int), minlength=self.levels)
        elif len(x):
            edges = self._edges(x, cells)
            self.edges = torch.from_numpy(edges)
            beyond = (edges.min() - x, x - edges.max()) if len(edges) else ()
            rates = [self._rate(t, TINY * _spread(x)) for t in beyond] or [1.0, 1.0]
            self.rates = torch.tensor(rates, dtype=torch.float64)
            seen = np.bincount(self.place(torch.from_numpy(x)).numpy(), minlength=self.count)
        else:
            seen = np.zeros(1)
        self.feature = torch.from_numpy(_features(seen, ordered))

    def place(self, x: Tensor) -> Tensor:
        """The cell of each x `(N,)`, long; whatever stands outside gets some cell."""
        if self.levels:
            return x.long().clamp(0, self.levels - 1)
        return torch.searchsorted(self.edges, x.double().contiguous(), right=True)

    def inside(self, x: Tensor) -> Tensor:
        """Whether x `(N,)` is a code, or lies between the ends."""
        if self.levels:
            return (x >= 0) & (x < self.levels) & (x == x.round())
        return (x > self.low) & (x < self.high)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x | its cell), `(N,)`."""
        if self.levels:
            return torch.zeros(len(x), dtype=torch.float64, device=x.device)
        x, cell, unit = x.double(), self.place(x), math.log(self.step) if self.step else 0.0
        bounds = self._bounds(x.device)
        out = unit - (bounds[cell + 1] - bounds[cell]).log()
        for side, last in ((0, 0), (1, self.count - 1)):
            if bounds[0 if side == 0 else -1].isinf():
                edge = self.edges[0] if side == 0 else self.edges[-1]
                out = torch.where(cell == last, self._log_tail((x - edge).abs(), self.rates[side]), out)
        return out

    def span(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P(below x | its cell) and P(not above x | its cell), `(N,)` each; equal for a density."""
        if self.levels:
            return torch.zeros(len(x), dtype=torch.float64, device=x.device), torch.ones_like(x, dtype=torch.float64)
        x, bounds = x.double(), self._bounds(x.device)
        low, high = bounds[self.place(x)], bounds[self.place(x) + 1]
        return self._below(x - self.step / 2, low, high), self._below(x + self.step / 2, low, high)

    def below(self, x: Tensor) -> Tensor:
        """P(below x | its cell) of any places x `(N,)` among numbers, float64."""
        x, bounds = x.double(), self._bounds(x.device)
        cell = self.place(x)
        return self._below(x, bounds[cell], bounds[cell + 1])

    def _below(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        p = (x - low) / (high - low)
        p = torch.where(high.isinf(), -torch.expm1(-self.rates[1] * (x - low)), p)
        return torch.where(low.isinf(), torch.exp(-self.rates[0] * (high - x)), p).clamp(0, 1)

    def draw(self, cell: Tensor, rng: Rng) -> Tensor:
        """One x of each cell `(N,)`, float64."""
        return self.at(cell, rng.uniform((len(cell),), torch.float64))

    def at(self, cell: Tensor, p: Tensor) -> Tensor:
        """The quantile p `(N,)` of the law inside each cell `(N,)`, float64."""
        if self.levels:
            return cell.double()
        bounds = self._bounds(cell.device)
        low, high = bounds[cell], bounds[cell + 1]
        x = low + p * (high - low)
        x = torch.where(high.isinf(), low - torch.log1p(-p) / self.rates[1], x)
        x = torch.where(low.isinf(), high + p.clamp_min(1e-300).log() / self.rates[0], x)
        if not self.step:
            return torch.minimum(torch.maximum(x, low), torch.nextafter(high, low))
        x = torch.round(x / self.step) * self.step
        return torch.minimum(torch.maximum(x, low + self.step / 2), high - self.step / 2)

    def middle(self) -> Tensor:
        """The mean of each cell, `(cells,)`."""
        if self.levels:
            return torch.arange(self.levels, dtype=torch.float64, device=self.feature.device)
        bounds = self._bounds(self.edges.device)
        middle = (bounds[1:] + bounds[:-1]) / 2
        if bounds[0].isinf():
            middle[0] = bounds[1] - 1 / self.rates[0]
        if bounds[-1].isinf():
            middle[-1] = bounds[-2] + 1 / self.rates[1]
        return middle

    def codes(self, x: Tensor) -> Tensor:
        """x `(N,)` as a feature of later columns, uint8 below MOST."""
        return self.feature[self.place(x)]

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if prefix + "edges" in state:  # the number of cells is only known from the file
            self.edges = torch.empty_like(state[prefix + "edges"])
            self.feature = torch.empty_like(state[prefix + "feature"])
        super()._load_from_state_dict(state, prefix, *rest)

    def _bounds(self, device: torch.device) -> Tensor:
        ends = torch.tensor([self.low, self.high], dtype=torch.float64, device=device)
        return torch.cat([ends[:1], self.edges, ends[1:]])

    def _log_tail(self, distance: Tensor, rate: Tensor) -> Tensor:
        if not self.step:
            return rate.log() - rate * distance
        k = torch.round(distance / self.step - 0.5)
        return torch.log(-torch.expm1(-rate * self.step)) - rate * self.step * k

    def _rate(self, beyond: Array, least: float) -> float:
        """One over the mean distance of the rows beyond an edge."""
        beyond = beyond[beyond > 0]
        mean = float(beyond.mean()) if len(beyond) else self.step
        return 1 / max(mean, self.step / 2, least)

    def _edges(self, x: Array, cells: int) -> Array:
        """Edges between neighbouring cells, never at a value of the grid."""
        grid = self.step or FINEST * _spread(x)
        values, counts = np.unique(np.rint(x / grid), return_counts=True)
        groups = _groups(counts, max(len(x) / cells, 1.0))
        edges: list[float] = []
        if math.isinf(self.low) and len(groups) and groups[0][2]:
            edges.append(values[0] - 0.5)  # a point mass is no tail
        elif self.low < (values[0] - 0.75) * grid and not math.isinf(self.low):
            edges.append(values[0] - 0.5)
        for (_, last, heavy), (first, _, next_heavy) in zip(groups[:-1], groups[1:], strict=True):
            a, b = values[last] + 0.5, values[first] - 0.5
            if heavy and next_heavy and b > a:
                edges += [a, b]
            else:
                edges.append(a if heavy else b if next_heavy else np.floor((values[last] + values[first]) / 2) + 0.5)
        if (math.isinf(self.high) and groups[-1][2]) or (
            not math.isinf(self.high) and self.high > (values[-1] + 0.75) * grid
        ):
            edges.append(values[-1] + 0.5)
        at = np.unique(np.array(edges or [np.median(values) + 0.5], dtype=np.float64)) * grid
        return at[(at > self.low) & (at < self.high)]


def _spread(x: Array) -> float:
    low, high = np.quantile(x, [0.25, 0.75])
    spread = min(float(x.std()), float(high - low) / 1.35) or float(x.std())
    return spread or max(abs(float(x.mean())), 1.0)


def _groups(counts: Array, size: float) -> list[tuple[int, int, bool]]:
    """Runs of neighbouring values with about `size` rows: (first, last, whether it is one heavy value)."""
    groups: list[tuple[int, int, bool]] = []
    first, total = 0, 0.0
    for i, n in enumerate(counts):
        if n >= max(size, 2) and len(counts) > 1:
            if i > first:
                groups.append((first, i - 1, False))
            groups.append((i, i, True))
            first, total = i + 1, 0.0
            continue
        total += n
        if total >= size:
            groups.append((first, i, False))
            first, total = i + 1, 0.0
    if first < len(counts):
        groups.append((first, len(counts) - 1, False))
    return groups


def _features(seen: Array, ordered: bool) -> Array:
    """A code below MOST for each cell: neighbours share one where cells are too many, or the rare ones do."""
    n = len(seen)
    if n <= MOST:
        return np.arange(n, dtype=np.uint8)
    if ordered:
        return (np.arange(n) * MOST // n).astype(np.uint8)
    rank = np.empty(n, dtype=int)
    rank[np.argsort(-seen, kind="stable")] = np.arange(n)
    return np.minimum(rank, MOST - 1).astype(np.uint8)
