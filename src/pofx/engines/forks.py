"""Forks: P(cell | features) as a binary tree over the cells, with a booster at each fork.

    P(cell | z) = prod over the forks on its path of  sigmoid(F_j(z)) to the right, 1 - sigmoid(F_j(z)) to the left

The tree is balanced by counts (ordered cells keep their order, others go by frequency: Shannon-Fano). A fork without a
booster has its smoothed share (n_right + 1/2) / (n + 1), and none is surer than its rows: |F_j| <= log(2 n + 2).
Fork by fork instead of a softmax: a row trains log K boosters instead of K, and neighbouring cells share theirs.
References: BaltoBot in UnmaskingTrees, McCarter 2024 (arXiv:2407.05593); Krichevsky and Trofimov 1981 (the shares).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.engines.boosting import Booster, Forest, Recipe, Trees, boost

Array = np.ndarray[Any, Any]
WORTH = 1.0  # nats on all held-out rows of a fork that a booster must gain
LEAST_HELD = 8  # held-out rows of a fork that has a booster, at least


class Column(nn.Module):
    """P(cell | features) of one column.

    Args:
        cells: how many.
        leaves: of a tree at most.
    """

    turn: Tensor
    forks: Tensor
    cap: Tensor

    def __init__(self, cells: int, leaves: int) -> None:
        super().__init__()
        self.forest = Forest(leaves)
        self.register_buffer("turn", torch.arange(cells))  # cell -> its place in the tree
        self.register_buffer("forks", torch.zeros(0, 3, dtype=torch.long))  # first leaf, first on the right, end
        self.register_buffer("cap", torch.zeros(0, dtype=torch.float64))

    def log_cells(self, codes: Tensor) -> Tensor:
        """log P of every cell, `(N, cells)`, from feature codes `(N, F)` uint8."""
        if not len(self.forks):
            return torch.zeros(len(codes), len(self.turn), dtype=torch.float64, device=codes.device)
        logits = torch.minimum(torch.maximum(self.forest(codes), -self.cap), self.cap)
        leaf = torch.arange(len(self.turn), device=codes.device)
        first, middle, end = self.forks.unsqueeze(2).unbind(1)
        right, left = (leaf >= middle) & (leaf < end), (leaf >= first) & (leaf < middle)
        log_p = F.logsigmoid(logits) @ right.double() + F.logsigmoid(-logits) @ left.double()
        return log_p[:, self.turn]

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in list(self._buffers):  # the number of cells is only known from the file
            if prefix + name in state:
                self._buffers[name] = torch.empty_like(state[prefix + name])
        super()._load_from_state_dict(state, prefix, *rest)


class Plan:
    """The fit of one column: its forks, and the boosters grown so far.

    Args:
        codes, held_codes: features `(N, F)` float, codes and NaN.
        cell, held_cell: the cell of each row, `(N,)`.
        count: cells in all.
        features: those that this column may look at; `categories` of them have no order.
        ordered: whether the cells have an order.
    """

    def __init__(
        self,
        codes: Array,
        cell: Array,
        held_codes: Array,
        held_cell: Array,
        count: int,
        features: list[int],
        categories: list[int],
        ordered: bool,
    ) -> None:
        self.codes, self.held_codes, self.features = codes, held_codes, features
        self.categories = [k for k, f in enumerate(features) if f in categories]
        seen = np.bincount(cell, minlength=count)
        leaves = np.arange(count) if ordered else np.argsort(-seen, kind="stable")
        self.turn = np.empty(count, dtype=np.int64)
        self.turn[leaves] = np.arange(count)
        self.leaf, self.held_leaf = self.turn[cell], self.turn[held_cell]
        self.forks = np.array(list(_forks(seen[leaves])), dtype=np.int64).reshape(-1, 3)
        below = np.concatenate([[0], np.cumsum(seen[leaves])])
        self.left, self.right = (below[self.forks[:, k + 1]] - below[self.forks[:, k]] for k in (0, 1))
        self.constants = np.log((self.right + 0.5) / (self.left + 0.5))
        self.boosters: dict[int, Booster] = {}

    def worth_growing(self, least: int) -> Iterator[tuple[float, int]]:
        """(nats of the fork's rows at its share, fork) of all forks that have rows enough for a booster."""
        for k, (a, b) in enumerate(zip(self.left.tolist(), self.right.tolist(), strict=True)):
            if self.features and min(a, b) >= max(least // 2, 2) and a + b >= 4 * least:
                yield -(a * np.log(a / (a + b)) + b * np.log(b / (a + b))), k

    def loss(self) -> float:
        """Nats of all held-out rows at the shares."""
        first, middle, end = (self.forks[:, k] for k in range(3))
        rows = np.bincount(self.held_leaf, minlength=len(self.turn))
        below = np.concatenate([[0], np.cumsum(rows)])
        left, right = below[middle] - below[first], below[end] - below[middle]
        return float((left * np.logaddexp(0, self.constants) + right * np.logaddexp(0, -self.constants)).sum())

    def grow(self, k: int, recipe: Recipe, seed: int) -> float:
        """Fit the booster of fork k and keep it if it is worth it; returns the nats that it gains on held-out rows."""
        first, middle, end = self.forks[k].tolist()
        rows, held = ((leaf >= first) & (leaf < end) for leaf in (self.leaf, self.held_leaf))
        if held.sum() < LEAST_HELD:
            return 0.0
        z, held_z = self.codes[rows][:, self.features], self.held_codes[held][:, self.features]
        y, held_y = self.leaf[rows] >= middle, self.held_leaf[held] >= middle
        found = boost(z, y.astype(int), held_z, held_y.astype(int), self.categories, recipe, seed)
        if found.trees is None or found.gain < WORTH:
            return 0.0
        own = np.array(self.features, dtype=np.int32)
        feature = np.where(found.trees.feature >= 0, own[found.trees.feature], -1)
        t = found.trees
        self.boosters[k] = Booster(Trees(feature, t.left, t.on_left, t.on_right, t.value), found.constant, found.gain)
        return found.gain

    def finish(self, column: Column) -> None:
        """Put what was grown into the column."""
        column.turn, column.forks = torch.from_numpy(self.turn), torch.from_numpy(self.forks)
        column.cap = torch.from_numpy(np.log(2.0 * (self.left + self.right) + 2))
        shares = (Booster(None, float(c), 0.0) for c in self.constants)
        column.forest.fill([self.boosters.get(k, share) for k, share in enumerate(shares)])


def _forks(seen: Array) -> Iterator[tuple[int, int, int]]:
    """(first, middle, end) of every fork, the middle where the counts are most even."""
    below = np.concatenate([[0], np.cumsum(seen)])
    open_ = [(0, len(seen))]
    while open_:
        first, end = open_.pop()
        if end - first < 2:
            continue
        half = (below[first] + below[end]) / 2
        empty = below[first] == below[end]
        middle = (first + end) // 2 if empty else first + 1 + int(np.abs(below[first + 1 : end] - half).argmin())
        yield first, middle, end
        open_ += [(first, middle), (middle, end)]
