"""Baselines of what has an order: the last value with a difference, and symbols by themselves.

    Last      p(x) = prod_{t <= s} p_1(x_t) prod_{t > s} p_d(x_t - x_{t-s} | x_t possible)       s = 1: a random walk
    Unigram   p(x) = prod_i p(x_i),  one law for all places;  after END only PAD

p_1 and p_d are histograms, one for each channel (of pixels, one for all). A forecast by `Last` has the last value in
its middle, or that of a season ago where s is a season, and grows wider as a random walk does. A gap is filled from
what is known before it, whatever comes after: exact where nothing does, an estimate elsewhere. `Unigram` is exact
throughout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.baselines.entries import BINS, below, card, histogram, log_density, quantile
from pofx.data import Data
from pofx.kinds.base import Variable
from pofx.kinds.ending import Ending
from pofx.model import Conditional, Given, Model, Quality, Report, Unsupported, Value
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

    def _terms(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p of each step given what is known before, `(B, T)`; a gap hands on the value before it."""
        steps = self._apart(x)
        seen = torch.ones_like(steps, dtype=torch.bool) if observed is None else self._apart(observed)
        before, have = self._before(steps, seen)
        parts = []
        for c in range(self.channels):
            first = self._log_p(steps[:, :, c], torch.zeros_like(steps[:, :, c]), c, 0)
            later = self._log_p(steps[:, :, c], before[:, :, c], c, 1)
            parts.append(torch.where(seen[:, :, c], torch.where(have[:, :, c], later, first), 0.0).sum(-1))
        return torch.stack(parts).sum(0)

    def _before(self, steps: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The last known value a season (or several) before each step, and whether there is one."""
        before, have = torch.zeros_like(steps), torch.zeros_like(seen)
        for t in range(self.season, steps.shape[1]):
            k = t - self.season
            before[:, t] = torch.where(seen[:, k], steps[:, k], before[:, k])
            have[:, t] = seen[:, k] | have[:, k]
        return before, have

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

    def _gone_on(self, x: Tensor, observed: Tensor, rng: Rng) -> Tensor:
        """What is not known drawn step by step, each from the one before; what comes after does not count."""
        steps, seen = self._apart(x).clone(), self._apart(observed)
        for t in range(steps.shape[1]):
            for c in range(self.channels):
                if t < self.season:
                    drawn = self._drawn(torch.zeros_like(steps[:, t, c]), c, 0, rng)
                else:
                    drawn = self._drawn(steps[:, t - self.season, c], c, 1, rng)
                steps[:, t, c] = torch.where(seen[:, t, c], steps[:, t, c], drawn)
        return torch.where(observed, x, steps.reshape(x.shape).to(x.dtype))

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype)
        return self._gone_on(x, torch.zeros_like(x, dtype=torch.bool), rng)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        return Value(self._terms(x, observed).sum(1), self._quality(observed))

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        def sample(n: int, rng: Rng) -> Tensor:
            rows, seen = (t.repeat(n, *[1] * (t.ndim - 1)) for t in (x, observed))
            return self._gone_on(rows, seen, rng).reshape(n, *x.shape)

        def log_prob(full: Tensor) -> Value:
            return Value((self._terms(full) - self._terms(full, observed)).sum(1), self._quality(observed))

        return Conditional(sample, log_prob, self._quality(observed))

    def _quality(self, observed: Tensor | None) -> Quality:
        """Exact where whole first steps are known and nothing else: elsewhere a gap does not look ahead."""
        if observed is None:
            return Quality.EXACT
        steps = observed.flatten(2) if observed.ndim > 2 else observed.unsqueeze(-1)
        known = steps.all(-1).int().cumprod(1).sum(1)
        whole = bool((steps.sum((1, 2)) == known * steps.shape[-1]).all())
        return Quality.EXACT if whole else Quality.ESTIMATE


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
        if observed is None or self.ending is None:
            entries = self._entries(x)
            return Value((entries if observed is None else torch.where(observed.flatten(1), entries, 0.0)).sum(1))
        codes, seen = x.flatten(1).long(), observed.flatten(1)
        last, pad = self._ends(codes, seen)
        place = torch.arange(codes.shape[1])
        known = torch.where(seen & (codes != self.ending.pad), self.log_p[codes], 0.0).sum(1)
        goes_on = torch.log1p(-self.log_p[self.ending.end].exp())
        cut = (codes == self.ending.end) & (place < last[:, None])  # symbols after END, or after PAD, are none
        wrong = seen & (cut | ((place > pad[:, None]) & (codes != self.ending.pad)))
        inner = ((~seen & (place < last[:, None])).sum(1)) * goes_on
        free, ended = (pad - last - 1).clamp_min(0), self._closed(codes, seen, last)
        must = torch.where((pad < codes.shape[1]) & ~ended, torch.log1p(-torch.exp(free * goes_on)), 0.0)
        return Value(torch.where(wrong.any(1), -math.inf, known + inner + must))

    def _ends(self, codes: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The last place where something else than PAD is known (-1: none), and the first where PAD is (D: none)."""
        assert self.ending is not None
        place, pad = torch.arange(codes.shape[1]), codes == self.ending.pad
        last = torch.where(seen & ~pad, place, -1).amax(1)
        return last, torch.where(seen & pad, place, codes.shape[1]).amin(1)

    def _closed(self, codes: Tensor, seen: Tensor, last: Tensor) -> Tensor:
        """Whether the last known symbol is END."""
        assert self.ending is not None
        at = codes.gather(1, last.clamp_min(0)[:, None])[:, 0]
        return (last >= 0) & (at == self.ending.end)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = torch.zeros(count, self.space.size, dtype=torch.long)
        return self._filled(x, torch.zeros_like(x, dtype=torch.bool), rng).reshape(count, *self.space.shape)

    def _filled(self, x: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        drawn = rng.categorical(self.log_p.expand(*x.shape, -1))
        codes = torch.where(seen, x, drawn)
        if self.ending is None:
            return codes.to(self.space.torch_dtype)
        going = self.log_p.clone()
        going[self.ending.end] = -math.inf
        inner = rng.categorical(going.expand(*x.shape, -1))
        last, pad = self._ends(x, seen)
        place, width = torch.arange(x.shape[1]), (pad - last - 1).clamp_min(1).double()
        # where PAD is known the end lies before it: its place is drawn first
        p = self.log_p[self.ending.end].exp()
        share = rng.uniform((len(x),), torch.float64) * (1 - (1 - p) ** width)
        end = last + 1 + (torch.log1p(-share) / torch.log1p(-p)).floor().long()
        closed = (pad < x.shape[1]) & ~self._closed(x, seen, last)
        before = (place < last[:, None]) | (closed[:, None] & (place < end[:, None]))
        codes = torch.where(seen, x, torch.where(before, inner, drawn))
        codes = torch.where(closed[:, None] & (place == end[:, None]), self.ending.end, codes)
        return torch.where(self.ending.after(codes), self.ending.pad, codes).to(self.space.torch_dtype)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        codes, seen = x.flatten(1).long(), observed.flatten(1)

        def sample(n: int, rng: Rng) -> Tensor:
            rows = self._filled(codes.repeat(n, 1), seen.repeat(n, 1), rng)
            return torch.where(observed, x, rows.reshape(n, *x.shape))

        def log_prob(full: Tensor) -> Value:
            return self.log_prob(full).shifted(-self.log_prob(full, observed=observed).value)

        return Conditional(sample, log_prob)


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
