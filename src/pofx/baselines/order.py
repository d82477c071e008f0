"""Baselines of what has an order: the last value with a difference, and symbols by themselves.

    Last      p(x) = prod_{t <= s} p_1(x_t) prod_{t > s} p_d(x_t - x_{t-s} | x_t possible)       s = 1: a random walk
    Unigram   p(x) = prod_i p(x_i),  one law for all places;  after END only PAD

p_1 and p_d are histograms, one for each channel (of pixels, one for all). A forecast by `Last` has the last value in
its middle, or that of a season ago where s is a season, and grows wider as a random walk does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.baselines.entries import BINS, below, card, histogram, log_density, quantile
from pofx.data import Data
from pofx.kinds.base import Variable
from pofx.kinds.ending import Ending
from pofx.model import Conditional, Given, Model, Report, Unsupported, Value
from pofx.randomness import Rng

Table = tuple[Tensor, Tensor]


class Last(Model):
    """Every step is the one before, and a difference: last value, last frame, last sample.

    Args:
        season: steps back; more than 1 repeats a season.
    """

    card = card("the last value and a difference; the least that memory must add", "pairs of observed steps")

    def __init__(self, *, season: int = 1) -> None:
        super().__init__()
        if season < 1:
            raise ValueError(f"last: season is {season}; expected at least 1 step.")
        self.season = season

    def _build(self) -> None:
        if len(self.space.shape) < 1 or self.space.layout not in ("sequence", "grid"):
            raise Unsupported(f"last: x of shape {self.space.shape} ({self.space.layout}) has no order.")
        if any(v.support == "category" for v in self.space.variables):
            raise Unsupported("last: categories have no differences; 'unigram' knows symbols.")
        self.channels = 1 if self.space.shared else self.space.size // self.space.shape[0]
        tables = torch.zeros(2, 2, self.channels, BINS + 1, dtype=torch.float64)  # start or difference, edges or shares
        self.register_buffer("tables", tables)

    def _variable(self, channel: int) -> Variable:
        return self.space.variable(channel)

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        x, seen = self._apart(train.x), None if train.observed is None else self._apart(train.observed)
        seen = torch.ones_like(x, dtype=torch.bool) if seen is None else seen
        change, both = x[:, self.season :] - x[:, : -self.season], seen[:, self.season :] & seen[:, : -self.season]
        for c in range(self.channels):
            step = _step(self._variable(c))
            for k, (values, known) in enumerate(((x, seen), (change, both))):
                found = values[:, :, c][known[:, :, c]]
                if not len(found):
                    raise Unsupported(f"last: no two observed steps are {self.season} apart.")
                self.tables[k, 0, c], self.tables[k, 1, c] = histogram(found, step)
        report({"step": 1, "loss": -float(self.log_prob(train.x[:1000]).value.mean())})

    def _apart(self, x: Tensor) -> Tensor:
        """`(B, T, channels, entries of a channel)`, float64 (of a mask: bool)."""
        steps = x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1)
        steps = steps.reshape(len(x), self.space.shape[0], self.channels, -1)
        return steps if x.dtype == torch.bool else steps.double()

    def _terms(self, x: Tensor) -> Tensor:
        """log p of each step given those before, `(B, T)`."""
        steps = self._apart(x)
        before = torch.zeros_like(steps)
        before[:, self.season :] = steps[:, : -self.season]
        parts = []
        for c in range(self.channels):
            first = self._log_p(steps[:, : self.season, c], before[:, : self.season, c], c, 0)
            later = self._log_p(steps[:, self.season :, c], before[:, self.season :, c], c, 1)
            parts.append(torch.cat([first, later], 1).sum(-1))
        return torch.stack(parts).sum(0)

    def _log_p(self, x: Tensor, before: Tensor, channel: int, which: int) -> Tensor:
        v, table = self._variable(channel), self._table(which, channel)
        step, (low, high) = _step(v), _ends(v)
        if step == 0:
            return log_density(x - before, *table)
        mass = below(x - before + step / 2, *table) - below(x - before - step / 2, *table)
        room = _below(high - before, table, 1.0) - _below(low - before, table, 0.0)
        return mass.clamp_min(1e-300).log() - room.clamp_min(1e-300).log()

    def _table(self, which: int, channel: int) -> Table:
        return self.tables[which, 0, channel], self.tables[which, 1, channel]

    def _drawn(self, before: Tensor, channel: int, which: int, rng: Rng) -> Tensor:
        v, table = self._variable(channel), self._table(which, channel)
        step, (low, high) = _step(v), _ends(v)
        start, end = _below(low - before, table, 0.0), _below(high - before, table, 1.0)
        x = before + quantile(start + (end - start) * rng.uniform(tuple(before.shape), torch.float64), *table)
        if step == 0:
            return x
        x = torch.round(x / step) * step
        return x.clamp(low + step / 2, high - step / 2) if v.discrete else x

    def _gone_on(self, x: Tensor, known: Tensor, rng: Rng) -> Tensor:
        """Steps drawn one after the other where a row does not know them (`known` `(B,)` first steps)."""
        steps = self._apart(x).clone()
        for t in range(steps.shape[1]):
            new = known <= t
            for c in range(self.channels):
                if t < self.season:
                    drawn = self._drawn(torch.zeros_like(steps[:, t, c]), c, 0, rng)
                else:
                    drawn = self._drawn(steps[:, t - self.season, c], c, 1, rng)
                steps[new, t, c] = drawn[new]
        return steps.reshape(x.shape).to(x.dtype)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype)
        return self._gone_on(x, torch.zeros(count, dtype=torch.long), rng)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        terms = self._terms(x)
        if observed is None:
            return Value(terms.sum(1))
        known = self._known(observed)
        return Value((terms * (torch.arange(terms.shape[1]) < known[:, None])).sum(1))

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        known = self._known(observed)

        def sample(n: int, rng: Rng) -> Tensor:
            rows = self._gone_on(x.repeat(n, *[1] * (x.ndim - 1)), known.repeat(n), rng).reshape(n, *x.shape)
            return torch.where(observed, x, rows)

        def log_prob(full: Tensor) -> Value:
            terms = self._terms(full)
            return Value((terms * (torch.arange(terms.shape[1]) >= known[:, None])).sum(1))

        return Conditional(sample, log_prob)

    def _known(self, observed: Tensor) -> Tensor:
        """How many first steps each row knows, where it knows nothing else."""
        steps = observed.flatten(2) if observed.ndim > 2 else observed.unsqueeze(-1)
        known = steps.all(-1).int().cumprod(1).sum(1)
        if not bool((steps.sum((1, 2)) == known * steps.shape[-1]).all()):
            raise Unsupported("last: it goes on from whole first steps; gaps between them it does not fill.")
        return known


class Unigram(Model):
    """Every symbol by itself, by one law for all places; END and PAD end a document as they must.

    Args:
        smoothing: pseudo-count of every code.
    """

    card = card("symbols by themselves; the least that their order must add")

    def __init__(self, *, smoothing: float = 0.5) -> None:
        super().__init__()
        self.smoothing = smoothing

    def _build(self) -> None:
        if not (self.space.shared and self.space.discrete):
            raise Unsupported("unigram: it knows one law of symbols for all entries; 'independent' has one for each.")
        self.ending = Ending.of(self.space)
        self.register_buffer("log_p", torch.zeros(self.space.variables[0].levels, dtype=torch.float64))

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        x, levels = train.x.flatten(1).long(), len(self.log_p)
        seen = torch.ones_like(x, dtype=torch.bool) if train.observed is None else train.observed.flatten(1)
        counts = torch.bincount(x[seen], minlength=levels).double() + self.smoothing
        if self.ending:
            counts[self.ending.pad] = 0.0  # it follows END, and nothing else
        self.log_p.copy_((counts / counts.sum()).log())
        report({"step": 1, "loss": -float(self.log_prob(train.x).value.mean())})

    def _entries(self, x: Tensor) -> Tensor:
        codes = x.flatten(1).long()
        if self.ending is None:
            return self.log_p[codes]
        after = self.ending.after(codes)
        padded = torch.where(codes == self.ending.pad, 0.0, -math.inf).double()
        return torch.where(after, padded, self.log_p[codes])

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        entries = self._entries(x)
        if observed is None:
            return Value(entries.sum(1))
        return Value(torch.where(self._mask(observed), entries, 0.0).sum(1))

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = torch.zeros(count, self.space.size, dtype=torch.long)
        return self._filled(x, torch.zeros_like(x, dtype=torch.bool), rng).reshape(count, *self.space.shape)

    def _filled(self, x: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        drawn = rng.categorical(self.log_p.expand(*x.shape, -1))
        codes = torch.where(seen, x, drawn)
        if self.ending:
            codes = torch.where(self.ending.after(codes), self.ending.pad, codes)
        return codes.to(self.space.torch_dtype)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        codes, seen = x.flatten(1).long(), self._mask(observed)

        def sample(n: int, rng: Rng) -> Tensor:
            rows = self._filled(codes.repeat(n, 1), seen.repeat(n, 1), rng)
            return torch.where(observed, x, rows.reshape(n, *x.shape))

        return Conditional(sample, lambda full: Value(torch.where(seen, 0.0, self._entries(full)).sum(1)))

    def _mask(self, observed: Tensor) -> Tensor:
        """Which places are known, `(B, D)`; of documents that end, a beginning."""
        seen = observed.flatten(1)
        if self.ending and not bool((seen.int().cumprod(1).sum(1) == seen.sum(1)).all()):
            raise Unsupported("unigram: documents that end are known from their beginning on, or not at all.")
        return seen


def _step(v: Variable) -> float:
    return 1.0 if v.discrete else v.resolution


def _ends(v: Variable) -> tuple[float, float]:
    """Between which x lies, with the halves of its outer bins."""
    half = _step(v) / 2
    if v.discrete:
        return -half, v.levels - 1 + half
    return -math.inf if v.low is None else v.low - half, math.inf if v.high is None else v.high + half


def _below(x: Tensor, table: Table, end: float) -> Tensor:
    """The distribution function, which is `end` at infinity."""
    return torch.full_like(x, end) if bool(x.isinf().any()) else below(x, *table)
