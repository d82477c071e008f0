"""Baselines that know no order: every entry by itself, a copy of the training set, and noise.

    Independent   p(x) = prod_j p_j(x_j)      every entry by its own histogram
    Copy          draws rows of the training set; p(x) = count(x) / N, so an unseen row has probability 0
    Uniform       the same probability for every x in the Space

Offers these three, and the histograms of numbers that the others share.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pofx.data import Data
from pofx.model import Card, Conditional, Given, Model, Report, Unsupported, Value
from pofx.randomness import Rng

BINS = 64


def card(summary: str, incomplete: str = "ignores missing entries") -> Card:
    """The card of a baseline."""
    return Card(
        density="exact, fast", sampling="fast", training="closed form", latents="none", architecture="table",
        branch=("explicit", "tractable"), incomplete=incomplete, summary=summary, reference="baseline", given=False,
        tier="proven",
    )  # fmt: skip


class Independent(Model):
    """Every entry by itself: smoothed counts of its codes, or a histogram of equal-mass bins with exponential tails.

    Args:
        smoothing: pseudo-count of every code.
    """

    card = card("every entry drawn by itself; the least that dependence must add")

    def __init__(self, *, smoothing: float = 0.5) -> None:
        super().__init__()
        self.smoothing = smoothing

    def _build(self) -> None:
        variables = [self.space.variable(i) for i in range(self.space.size)]
        self.codes = [i for i, v in enumerate(variables) if v.discrete]
        self.reals = [i for i, v in enumerate(variables) if not v.discrete]
        widest = max([variables[i].levels for i in self.codes], default=1)
        self.register_buffer("log_p", torch.zeros(len(self.codes), widest, dtype=torch.float64))
        self.register_buffer("edges", torch.zeros(len(self.reals), BINS + 1, dtype=torch.float64))
        self.register_buffer("shares", torch.zeros(len(self.reals), BINS + 1, dtype=torch.float64))
        steps = [variables[i].resolution for i in self.reals]
        self.register_buffer("step", torch.tensor(steps, dtype=torch.float64), persistent=False)

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        x = train.x.flatten(1).double()
        seen = torch.ones_like(x, dtype=torch.bool) if train.observed is None else train.observed.flatten(1)
        for row, i in enumerate(self.codes):
            levels = self.space.variable(i).levels
            counts = torch.bincount(x[seen[:, i], i].long(), minlength=levels).double() + self.smoothing
            self.log_p[row] = -torch.inf
            self.log_p[row, :levels] = (counts / counts.sum()).log()
        for row, i in enumerate(self.reals):
            self.edges[row], self.shares[row] = histogram(x[seen[:, i], i], float(self.step[row]))
        report({"step": 1, "loss": -float(self.log_prob(train.x, observed=train.observed).value.mean())})

    def _entries(self, x: Tensor) -> Tensor:
        flat, out = x.flatten(1).double(), torch.zeros(len(x), self.space.size, dtype=torch.float64)
        if self.codes:
            code = flat[:, self.codes].long().clamp(0, self.log_p.shape[1] - 1)
            out[:, self.codes] = self.log_p.gather(1, code.T).T
        for row, i in enumerate(self.reals):
            step, table = float(self.step[row]), (self.edges[row], self.shares[row])
            if step > 0:
                mass = below(flat[:, i] + step / 2, *table) - below(flat[:, i] - step / 2, *table)
                out[:, i] = mass.clamp_min(1e-300).log()
            else:
                out[:, i] = log_density(flat[:, i], *table)
        return out

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        entries = self._entries(x)
        return Value((entries if observed is None else entries * observed.flatten(1)).sum(1))

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = torch.zeros(count, self.space.size, dtype=torch.float64)
        for row, i in enumerate(self.codes):
            x[:, i] = rng.categorical(self.log_p[row].expand(count, -1)).double()
        for row, i in enumerate(self.reals):
            value = quantile(rng.uniform((count,), torch.float64), self.edges[row], self.shares[row])
            step = float(self.step[row])
            x[:, i] = torch.round(value / step) * step if step > 0 else value
        return x.reshape(count, *self.space.shape).to(self.space.torch_dtype)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        def sample(n: int, rng: Rng) -> Tensor:
            drawn = self._sample(n * len(x), {}, rng).reshape(n, *x.shape)
            return torch.where(observed, x, drawn.to(x.dtype))

        return Conditional(sample, lambda full: Value((self._entries(full) * ~observed.flatten(1)).sum(1)))


class Copy(Model):
    """Draws rows of the training set: perfect samples that were never made. It must be flagged."""

    card = card("a copy of the training set; it must be caught", "complete rows only")

    def _build(self) -> None:
        self.register_buffer("rows", torch.zeros(0, *self.space.shape, dtype=self.space.torch_dtype))

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        complete = torch.ones(len(train), dtype=torch.bool)
        complete = complete if train.observed is None else train.observed.flatten(1).all(1)
        if not bool(complete.any()):
            raise Unsupported("copy: no training row is complete.")
        self.rows = train.x[complete].clone()
        report({"step": 1, "loss": math.log(len(self.rows))})

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        return self.rows[rng.integers(len(self.rows), (count,))]

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        seen = (torch.ones_like(x, dtype=torch.bool) if observed is None else observed).flatten(1)
        known, flat = self.rows.flatten(1), x.flatten(1)
        counts = [int(((known == row) | ~mask).all(1).sum()) for row, mask in zip(flat, seen, strict=True)]
        return Value(torch.tensor(counts, dtype=torch.float64).log() - math.log(len(known)))


class Uniform(Model):
    """Every x in the Space is equally likely; a real entry is uniform over the range of all rows, as levels are."""

    card = card("uniform noise; what knowing only the Space is worth")

    def _build(self) -> None:
        self.register_buffer("low", torch.zeros(self.space.size, dtype=torch.float64))
        self.register_buffer("high", torch.ones(self.space.size, dtype=torch.float64))

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        x = data.x.flatten(1).double()
        seen = torch.ones_like(x, dtype=torch.bool) if data.observed is None else data.observed.flatten(1)
        for i in range(self.space.size):
            v, values = self.space.variable(i), x[seen[:, i], i]
            half = v.resolution / 2  # the bins of the extreme values belong to the range
            low, high = (-0.5, v.levels - 0.5) if v.discrete else (values.min() - half, values.max() + half)
            self.low[i], self.high[i] = low, high
        self.high.copy_(torch.maximum(self.high, self.low + 1e-9))
        train = data.part("train")
        report({"step": 1, "loss": -float(self.log_prob(train.x, observed=train.observed).value.mean())})

    def _levels(self) -> Tensor:
        variables = [self.space.variable(i) for i in range(self.space.size)]
        steps = torch.tensor([1.0 if v.discrete or v.density else v.resolution for v in variables]).double()
        return steps.log() - (self.high - self.low).log()

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = self.low + (self.high - self.low) * rng.uniform((count, self.space.size), torch.float64)
        for i in range(self.space.size):
            v = self.space.variable(i)
            if v.discrete:
                x[:, i] = torch.round(x[:, i]).clamp(0, v.levels - 1)
            elif v.resolution > 0:
                x[:, i] = torch.round(x[:, i] / v.resolution) * v.resolution
        return x.reshape(count, *self.space.shape).to(self.space.torch_dtype)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        flat = x.flatten(1).double()
        inside = (flat >= self.low) & (flat <= self.high)
        entries = torch.where(inside, self._levels(), -torch.inf)
        return Value(entries.sum(1) if observed is None else torch.where(observed.flatten(1), entries, 0.0).sum(1))


# a share of TAIL of the mass lies beyond each end, falling exponentially over the range's outer eighth
TAIL = 1e-3


def histogram(x: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """A piecewise linear distribution function through (edge_k, F_k): BINS bins of equal mass, at least a step wide."""
    levels = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    edges = torch.quantile(x[torch.linspace(0, len(x) - 1, min(len(x), 100_000)).long()], levels)
    if step > 0:  # edges stand between the rounded values
        edges = torch.cat([edges[:1] - step / 2, edges[1:] + step / 2])
    edges = torch.unique(edges)
    if len(edges) == 1:
        edges = torch.cat([edges, edges + 1e-6])
    shares = (torch.searchsorted(x.sort().values, edges, right=True).double()) / len(x)
    shares[0], shares[-1] = 0, 1
    masses = (shares.diff() * len(x) + 0.5) / (len(x) + 0.5 * (len(edges) - 1))
    cumulative = TAIL + (1 - 2 * TAIL) * torch.cat([masses.new_zeros(1), masses.cumsum(0)])
    pad = BINS + 1 - len(edges)
    return torch.cat([edges, edges[-1:].expand(pad)]), torch.cat([cumulative, cumulative[-1:].expand(pad)])


def below(x: Tensor, edges: Tensor, shares: Tensor) -> Tensor:
    """The distribution function at x, of any shape."""
    inside = torch.from_numpy(np.interp(x.numpy(), edges.numpy(), shares.numpy()))
    width = (edges[-1] - edges[0]) / 8
    below, above = TAIL * ((x - edges[0]) / width).exp(), 1 - TAIL * ((edges[-1] - x) / width).exp()
    return torch.where(x < edges[0], below, torch.where(x > edges[-1], above, inside))


def log_density(x: Tensor, edges: Tensor, shares: Tensor) -> Tensor:
    """The logarithm of its slope."""
    last = int((edges < edges[-1]).sum())
    k = torch.searchsorted(edges, x.contiguous()).clamp(1, last) - 1
    inside = (shares[k + 1] - shares[k]).log() - (edges[k + 1] - edges[k]).log()
    width = (edges[-1] - edges[0]) / 8
    outside = math.log(TAIL) - width.log() - torch.maximum(edges[0] - x, x - edges[-1]) / width
    return torch.where((x < edges[0]) | (x > edges[-1]), outside, inside)


def quantile(p: Tensor, edges: Tensor, shares: Tensor) -> Tensor:
    """The inverse of `below`."""
    inside = torch.from_numpy(np.interp(p.numpy(), shares.numpy(), edges.numpy()))
    width = (edges[-1] - edges[0]) / 8
    low, high = edges[0] + width * (p / TAIL).log(), edges[-1] - width * ((1 - p) / TAIL).log()
    return torch.where(p < TAIL, low, torch.where(p > 1 - TAIL, high, inside))
