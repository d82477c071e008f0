"""N-grams: counts of symbols after contexts of growing length, smoothed and put on top of each other.

    P_k(w | u_1 .. u_k) = kept(u, w) share(u) + rest(u) P_{k-1}(w | u_1 .. u_{k-1}),      P_{-1} = 1 / K
    "kneser-ney"       kept = n - D(n),  share = 1 / N,        rest = sum of the D / N       n below the top: how many
                                                                                             longer contexts w has had
    "witten-bell"      kept = n,         share = 1 / (N + T),  rest = T / (N + T)            T different symbols seen
    "jelinek-mercer"   kept = n,         share = L / N,        rest = 1 - L                  L by EM on held-out events

u_1 is the nearest symbol; a context that was never seen leaves P to the shorter one, so every P sums to one. D(1), D(2)
and D(3 or more) are estimated from how many n-grams were seen once, twice, three and four times. A context is a number:
its place in a sorted table of (number of the shorter context, symbol), so nothing is hashed and nothing collides.

References: Jelinek and Mercer 1980; Witten and Bell 1991; Kneser and Ney 1995; Chen and Goodman 1999 (modified
Kneser-Ney, interpolated).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMOOTHINGS = ("kneser-ney", "witten-bell", "jelinek-mercer")
FIELDS = ("contexts", "pairs", "kept", "share", "rest")
BUCKETS = 24  # of log2 N, for the weights of Jelinek and Mercer
ROUNDS = 15  # of their EM


@dataclass(frozen=True)
class Level:
    """The contexts of one length.

    Args:
        contexts: sorted (number of the shorter context) * (symbols + 1) + symbol, (U,).
        pairs: sorted (number of the context) * symbols + target, (P,).
        kept: of each pair. share, rest: of each context.
    """

    contexts: Tensor
    pairs: Tensor
    kept: Tensor
    share: Tensor
    rest: Tensor


@dataclass(frozen=True)
class Events:
    """What is counted or asked about: root (M,) long, context (M, order - 1) nearest first, target (M,).

    Symbols are 0 .. symbols - 1, and `symbols` stands for "outside"; where a context is -1 it ends.
    """

    root: Tensor
    context: Tensor
    target: Tensor
    count: Tensor | None = None  # how often each was seen; None: once

    @property
    def counts(self) -> Tensor:
        """How often each was seen, (M,)."""
        return torch.ones_like(self.target) if self.count is None else self.count

    def packed(self, symbols: int) -> Events:
        """The different ones, with their counts, where an event fits into one number; else the same events."""
        radix, roots = symbols + 2, int(self.root.max()) + 1 if len(self.root) else 1
        if roots * radix ** self.context.shape[1] * symbols >= 2**62:
            return Events(self.root, self.context, self.target, self.counts)
        key = self.root
        for column in self.context.unbind(1):
            key = key * radix + column + 1
        key, which = torch.unique(key * symbols + self.target, return_inverse=True)
        count = torch.zeros_like(key).index_add_(0, which, self.counts)
        target, key, columns = key % symbols, key // symbols, []
        for _ in range(self.context.shape[1]):
            columns.append(key % radix - 1)
            key = key // radix
        context = torch.stack(columns[::-1], 1) if columns else self.context[: len(key)]
        return Events(key, context, target, count)


def joined(parts: list[Events], symbols: int) -> Events:
    """All of them together."""
    names = ("root", "context", "target", "counts")
    return Events(*(torch.cat([getattr(e, name) for e in parts]) for name in names)).packed(symbols)


class NGrams:
    """Smoothed n-grams.

    Args:
        symbols: K, the number of symbols.
        order: 1 + the longest context.
        smoothing: one of SMOOTHINGS.
    """

    def __init__(self, symbols: int, order: int, smoothing: str) -> None:
        self.symbols, self.order, self.smoothing = symbols, order, smoothing
        self.levels: list[Level] = []

    def fit(self, events: Events, held_out: Events) -> None:
        """Count all; those `held_out` weigh the levels first, where the smoothing wants that."""
        weights = None
        if self.smoothing == "jelinek-mercer" and len(events.target):
            self._count(events, torch.full((self.order, BUCKETS), 0.5, dtype=torch.float64))
            weights = self._weights(held_out)
        elif self.smoothing == "jelinek-mercer":
            weights = torch.full((self.order, BUCKETS), 0.5, dtype=torch.float64)
        self._count(joined([events, held_out], self.symbols), weights)

    def log_prob(self, events: Events, options: Tensor) -> Tensor:
        """log P of the targets, (M,) nats; the shortest context knows `options` (M,) symbols."""
        return self._interpolate(self._numbers(events.root, events.context), events.target, options).log()

    def log_masses(self, root: Tensor, context: Tensor, options: int) -> Tensor:
        """log P of the first `options` symbols, (M, options), all that this place knows."""
        numbers = [n[:, None] for n in self._numbers(root, context)]
        target = torch.arange(options, device=root.device).expand(len(root), -1)
        return self._interpolate(numbers, target, torch.full_like(target, options)).log()

    # counting
    def _count(self, events: Events, weights: Tensor | None) -> None:
        self.levels, numbers, known = [], events.root, torch.ones_like(events.root, dtype=torch.bool)
        tables, reached = [torch.unique(events.root)], []
        for k in range(self.order):
            if k:
                symbol = events.context[:, k - 1]
                known = known & (symbol >= 0)
                keys = torch.where(known, numbers * (self.symbols + 1) + symbol, -1)
                tables.append(torch.unique(keys[known]))
                numbers = torch.where(known, torch.searchsorted(tables[k], keys), -1)
            else:
                numbers = torch.searchsorted(tables[0], numbers)
            reached.append(numbers)
        pairs, counts = self._pairs(reached, events, tables)
        for k in range(self.order):
            own = None if weights is None else weights[k]
            self.levels.append(self._smoothed(tables[k], pairs[k], counts[k], own))

    def _pairs(self, reached: list[Tensor], events: Events, tables: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level the different pairs and their counts, which below the top count contexts for Kneser-Ney."""
        target = events.target
        pairs: list[Tensor] = [target] * self.order
        counts: list[Tensor] = [target] * self.order
        for k in reversed(range(self.order)):
            seen = reached[k] >= 0
            keys, often = reached[k] * self.symbols + target, events.counts
            if self.smoothing == "kneser-ney" and k + 1 < self.order:
                ends = seen & (reached[k + 1] < 0)  # nothing longer has counted these
                longer, symbol = pairs[k + 1] // self.symbols, pairs[k + 1] % self.symbols
                shorter = tables[k + 1][longer] // (self.symbols + 1)
                keys = torch.cat([shorter * self.symbols + symbol, keys[ends]])
                often = torch.cat([torch.ones_like(shorter), often[ends]])
            else:
                keys, often = keys[seen], often[seen]
            pairs[k], which = torch.unique(keys, return_inverse=True)
            counts[k] = torch.zeros_like(pairs[k]).index_add_(0, which, often)
        return pairs, counts

    def _smoothed(self, contexts: Tensor, pairs: Tensor, counts: Tensor, weights: Tensor | None) -> Level:
        n, of = counts.double(), pairs // self.symbols
        total = torch.zeros(len(contexts), dtype=torch.float64).index_add_(0, of, n)
        if self.smoothing == "kneser-ney":
            discount = _discounts(counts)[counts.clamp_max(3) - 1]
            rest = torch.zeros_like(total).index_add_(0, of, discount)
            return Level(contexts, pairs, n - discount, 1 / total, rest / total)
        if self.smoothing == "witten-bell":
            types = torch.zeros_like(total).index_add_(0, of, torch.ones_like(n))
            return Level(contexts, pairs, n, 1 / (total + types), types / (total + types))
        assert weights is not None
        own = weights[_bucket(total)]
        return Level(contexts, pairs, n, own / total, 1 - own)

    def _weights(self, events: Events) -> Tensor:
        """The weight of each level for each size of a context, (order, BUCKETS), by EM."""
        numbers = self._numbers(events.root, events.context)
        shares, buckets = [], []
        for level, number in zip(self.levels, numbers, strict=True):
            if not len(level.contexts):  # nothing is this long
                shares.append(torch.zeros(len(number), dtype=torch.float64))
                buckets.append(torch.full_like(number, -1))
                continue
            at = number.clamp_min(0)
            total = (1 - level.rest[at]) / level.share[at]
            shares.append(torch.where(number >= 0, self._kept(level, number, events.target) / total, 0.0))
            buckets.append(torch.where(number >= 0, _bucket(total), -1))
        weights = torch.full((self.order, BUCKETS), 0.5, dtype=torch.float64)
        for _ in range(ROUNDS):
            weights = _improved(weights, shares, buckets, 1 / self.symbols, events.counts.double())
        return weights

    # asking
    def _numbers(self, root: Tensor, context: Tensor) -> list[Tensor]:
        """The number of the context of each length, (M,) each; -1 where it was never seen."""
        numbers: list[Tensor] = []
        for k, level in enumerate(self.levels):
            if k == 0:
                keys = root
            else:
                ends = (numbers[-1] < 0) | (context[:, k - 1] < 0)
                keys = torch.where(ends, -1, numbers[-1] * (self.symbols + 1) + context[:, k - 1])
            place, found = _found(level.contexts, keys)
            numbers.append(torch.where(found, place, -1))
        return numbers

    def _kept(self, level: Level, number: Tensor, target: Tensor) -> Tensor:
        keys = torch.where(number >= 0, number * self.symbols + target, -1)
        place, found = _found(level.pairs, keys)
        return torch.where(found, level.kept[place], 0.0) if len(level.kept) else torch.zeros_like(keys).double()

    def _interpolate(self, numbers: list[Tensor], target: Tensor, options: Tensor) -> Tensor:
        p = 1 / options.double()
        for level, number in zip(self.levels, numbers, strict=True):
            if not len(level.contexts):
                continue
            at = number.clamp_min(0)
            longer = self._kept(level, number, target) * level.share[at] + level.rest[at] * p
            p = torch.where(number >= 0, longer, p)
        return p


def _found(table: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each key in a sorted table, and whether it is there."""
    place = torch.searchsorted(table, keys.contiguous()).clamp_max(max(len(table) - 1, 0))
    return place, (table[place] == keys) & (keys >= 0) if len(table) else torch.zeros_like(keys, dtype=torch.bool)


def _discounts(counts: Tensor) -> Tensor:
    """D(1), D(2), D(3 or more), from how many pairs were seen once, twice, three and four times."""
    n1, n2, n3, n4 = (max(float((counts == k).sum()), 0.5) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return torch.tensor([min(max(d, 0.1), 0.95 * k) for k, d in enumerate(raw, 1)], dtype=torch.float64)


def _bucket(total: Tensor) -> Tensor:
    return total.clamp_min(1).log2().long().clamp_max(BUCKETS - 1)


def _improved(weights: Tensor, shares: list[Tensor], buckets: list[Tensor], base: float, often: Tensor) -> Tensor:
    """One round of EM: which level explains each held-out event."""
    left, parts = torch.ones_like(shares[0]), []
    own = [torch.where(b >= 0, w[b.clamp_min(0)], 0.0) for w, b in zip(weights, buckets, strict=True)]
    for w, share in zip(reversed(own), reversed(shares), strict=True):  # from the longest context down
        parts.append(left * w * share)
        left = left * (1 - w)
    p = sum(parts) + left * base
    new, below = weights.clone(), left * base / p * often
    for k, part in enumerate(reversed(parts)):
        mine, seen = part / p * often, buckets[k] >= 0
        below = below + mine  # what this level and those below it explain
        top, all_ = (
            torch.full((BUCKETS,), start, dtype=torch.float64).index_add_(0, buckets[k][seen], t[seen])
            for start, t in ((0.5, mine), (1.0, below))
        )
        new[k] = top / all_
    return new
