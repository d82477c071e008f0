"""Donors: the law of a column given the rest of its row, from rows that fall into the same leaf of a tree.

    y = f(x) + b r(x) + c (e_i - r(x))     f: a stack;  e_i = y_i - f_i of a row i in or near the leaf of x, in one tree
                                           drawn at random;  r: the mean of such e_i over all trees

f_i is made without row i. b and c are such that, for rows that trees did not see, f + b r has the least squared error
and draws lie as far from it as y does: so what trees find in the errors helps by as much as it is worth, and intervals
are as wide as they must be. Twenty rows or more lend, and few only where that makes the draws much better by the score
E|y' - y| - E|y' - y''| / 2: where rows are there nearly twice. Where y has few values, or some that stand out, the
nearest of those that occur is taken. Categories are drawn from f.
References: Doove, van Buuren and Dusseldorp 2014 (draws from leaves); Little 1988 (predictive mean matching);
Meinshausen 2006 (leaves as a law); Breiman 1996 (stacking); Gneiting and Raftery 2007 (the score).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pofx.engines.regressors import Array, Stack
from pofx.randomness import Rng

FEW = 20  # different values, which are lent as they are
ATOM, AMONG, BESIDE = 0.02, 4, 4  # so are they where one has that share, so many times that of those beside it
LEAST, WORTH = (1, 20), 0.97  # rows that lend at least: many, but where few make a better score by this factor
RANKS = 16  # errors of which one is taken by its rank
QUICK = 16  # trees, where they will soon be grown again or time is up


class Donors(Stack):
    """The law of one column given the others.

    Args:
        trees: of the forest.
        least: rows that lend to a row at least; None takes 20, or 1 where that makes draws much better.
    """

    error: Tensor
    usual: Tensor
    value: Tensor
    facts: Tensor

    def __init__(self, trees: int = 64, least: int | None = None) -> None:
        super().__init__(trees)
        self.trees, self.lending = trees, LEAST if least is None else (least,)
        none = torch.zeros(0, dtype=torch.float64)
        self._keep(error=none, usual=none.clone(), value=none.clone(), facts=torch.zeros(2, dtype=torch.float64))

    def learn(
        self, x: Array, y: Array, weight: Array, sure: Array, discrete: bool, rng: Rng, quick: bool = False
    ) -> float:
        """Take rows x `(K, N, F)` in K versions, y `(N, M)`; returns the mean squared error of held-out predictions.

        Rows count by `weight` for the stack and by `sure`, `(N,)`, for b and c. A discrete y takes no values but those
        that occur. Quick: few trees and no kernel.
        """
        self.forest.trees = min(QUICK, self.trees) if quick else self.trees
        error = y - self.fit(x, y, weight, rng, kernel=not quick)
        if y.shape[1] == 1:
            value, self.error = torch.from_numpy(np.ascontiguousarray(y[:, 0])), torch.from_numpy(error[:, 0])
            self.value = value.unique() if discrete or repeats(value) else value[:0]
            scores = [self._lend(least, sure, rng) for least in self.lending]
            if scores[0] < WORTH * scores[-1]:
                self._lend(self.lending[0], sure, rng)
        self.forest.forget()
        return float((np.square(error).mean(1) * weight).sum() / weight.sum())

    def _lend(self, least: int, weight: Array, rng: Rng) -> float:
        """Let so many rows lend at least; the continuous ranked probability score of draws for rows held out."""
        self.forest.lend(least)
        self.usual = self.forest.inside(self.error)
        leaf, out = (torch.from_numpy(t) for t in self.forest.held)
        lent = self.error[torch.stack([self.forest.lender(at.unsqueeze(1), rng) for at in leaf])]
        w, e = torch.from_numpy(weight), self.error
        held = out * w
        r = (self.usual[leaf] * out).sum(0) / out.sum(0).clamp_min(1)
        b = ((w * e * r).sum() / (w * r.square()).sum().clamp_min(1e-12)).clamp(0, 1)
        far = (w * (e - b * r).square()).sum() / w.sum()
        c = (far * held.sum() / (held * (lent - r).square()).sum().clamp_min(1e-12)).sqrt().clamp(0.5, 2)
        self.facts = torch.stack([b, c])
        drawn, both = b * r + c * (lent - r), held[1:] * out[:-1]
        apart = (drawn[1:] - e).abs() - (drawn[1:] - drawn[:-1]).abs() / 2
        return float((both * apart).sum() / both.sum().clamp_min(1e-12))

    def draw(self, x: Tensor, rng: Rng, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """For rows `(N, F)` the mean of y and one draw, `(N, 1)` each; or a quantile, at levels `(N,)` in (0, 1)."""
        lent = 1 if level is None else RANKS
        means, r, e = x.new_zeros(len(x), 1), x.new_zeros(len(x), 1), x.new_zeros(lent, len(x))
        for rows in self.forest.blocks(x):
            leaf = self.forest.leaves(x[rows])
            means[rows] = self.forest.value[leaf].double().mean(1)
            r[rows] = self.usual[leaf].mean(1, keepdim=True)
            e[:, rows] = torch.stack([self.error[self.forest.lender(leaf, rng)] for _ in range(lent)])
        b, c = self.facts
        said = self.smooth(x) + self.share[2] * (means - self.offset) + b * r
        if level is not None:
            e = e.sort(0).values.gather(0, (level * RANKS).long().clamp(0, RANKS - 1).unsqueeze(0))
        y = said + c * (e[0].unsqueeze(1) - r)
        return said, nearest(y, self.value) if len(self.value) else y


def nearest(y: Tensor, value: Tensor) -> Tensor:
    """For each y the nearest of some values, which ascend."""
    if len(value) == 1:
        return value.expand_as(y).clone()
    right = torch.searchsorted(value, y.contiguous()).clamp(1, len(value) - 1)
    low, high = value[right - 1], value[right]
    return torch.where(y - low < high - y, low, high)


def repeats(value: Tensor) -> bool:
    """Whether values are few, or one is common beyond what rounding does: then nothing but them may be lent."""
    counts = torch.unique(value, return_counts=True)[1].double()
    if len(counts) <= max(BESIDE, min(FEW, len(value) / 2)):
        return True
    common = (counts > max(1, ATOM * len(value))).nonzero()[:, 0]
    starts = (common - BESIDE // 2).clamp(0, len(counts) - BESIDE - 1)
    around = counts[starts.unsqueeze(1) + torch.arange(BESIDE + 1)].sum(1) - counts[common]
    return bool((counts[common] > AMONG * around / BESIDE).any())
