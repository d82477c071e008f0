"""Boosting: a forest of binary boosted trees as tensors, and one booster fitted by scikit-learn.

    logit P(y = 1 | codes) = b + sum_i v_i[ leaf_i(codes) ]

Features are codes 0 .. 254, and 255 where missing; a split is the set of codes that go left, for numbers and categories
alike. A tree's leaf is found without walking: every feature of a row says which leaves it leaves possible, as bits, and
the one bit that all agree on is the leaf (QuickScorer, Lucchese et al. 2015). So rows and trees are one table look-up
and one `and` for each feature.
References: Friedman 2001; histogram gradient boosting, Ke et al. 2017 (LightGBM), as in scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
CODES, MISSING = 256, 255
BLOCK = 2**22  # numbers in a block of rows x trees


@dataclass(frozen=True)
class Trees:
    """Some trees of one booster: what each split sees and which leaves it leaves.

    Shapes: feature `(T, S)` (-1: no split), left `(T, S, 32)` uint8 bits of the codes that go left, on_left and
    on_right `(T, S)` uint8 bits of the leaves below, value `(T, S + 1)`.
    """

    feature: Array
    left: Array
    on_left: Array
    on_right: Array
    value: Array


@dataclass(frozen=True)
class Booster:
    """A fitted booster: its trees, its constant, and what they gain on the held-out rows in nats in all."""

    trees: Trees | None
    constant: float
    gain: float


class Forest(nn.Module):
    """Boosters over the same features, one for each output.

    Args:
        leaves: of a tree at most (8: one byte of bits).
    """

    feature: Tensor
    left: Tensor
    on_left: Tensor
    on_right: Tensor
    value: Tensor
    output: Tensor
    constant: Tensor

    def __init__(self, leaves: int = 8) -> None:
        super().__init__()
        self.leaves = leaves
        self._tables: tuple[Tensor, list[int], Tensor] | None = None
        s = leaves - 1
        self.register_buffer("feature", torch.zeros(0, s, dtype=torch.int32))
        self.register_buffer("left", torch.zeros(0, s, CODES // 8, dtype=torch.uint8))
        self.register_buffer("on_left", torch.zeros(0, s, dtype=torch.uint8))
        self.register_buffer("on_right", torch.zeros(0, s, dtype=torch.uint8))
        self.register_buffer("value", torch.zeros(0, leaves, dtype=torch.float64))
        self.register_buffer("output", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("constant", torch.zeros(0, dtype=torch.float64))

    def fill(self, boosters: list[Booster]) -> None:
        """Take one booster for each output."""
        self.constant = torch.tensor([b.constant for b in boosters], dtype=torch.float64)
        grown = [(k, b.trees) for k, b in enumerate(boosters) if b.trees is not None]
        counts = torch.tensor([len(trees.feature) for _, trees in grown], dtype=torch.long)
        self.output = torch.repeat_interleave(torch.tensor([k for k, _ in grown], dtype=torch.int32), counts)
        for name in ("feature", "left", "on_left", "on_right", "value"):
            parts = [torch.from_numpy(getattr(trees, name)) for _, trees in grown]
            own = self._buffers[name]
            assert own is not None
            self._buffers[name] = torch.cat(parts).to(own.dtype) if parts else own[:0]
        self._tables = None

    def forward(self, codes: Tensor) -> Tensor:
        """The logits `(N, outputs)`, float64, of feature codes `(N, F)` uint8."""
        out = self.constant.expand(len(codes), -1).clone()
        if not len(self.feature):
            return out
        table, used, share = self._prepared()
        trees = len(self.feature)
        base = torch.arange(trees, device=codes.device) * self.leaves
        leaf_of = _lowest_bit().to(codes.device)
        for rows in torch.arange(len(codes), device=codes.device).split(max(1, BLOCK // trees)):
            alive = table[0][codes[rows, used[0]].int()]
            for k, feature in enumerate(used[1:], 1):
                alive &= table[k][codes[rows, feature].int()]
            place = leaf_of[alive.int()] + base
            out[rows] += self.value.flatten()[place] @ share
        return out

    def _prepared(self) -> tuple[Tensor, list[int], Tensor]:
        """For every used feature and code the leaves that stay possible in each tree, `(used, 256, T)`."""
        if self._tables is None or self._tables[0].device != self.feature.device:
            used = [int(f) for f in torch.unique(self.feature) if f >= 0]
            table = torch.full((max(len(used), 1), CODES, len(self.feature)), 255, dtype=torch.uint8)
            table = table.to(self.feature.device)
            bits = 2 ** torch.arange(8, device=table.device, dtype=torch.uint8)
            for s in range(self.leaves - 1):
                goes = ((self.left[:, s].unsqueeze(2) & bits) > 0).flatten(1)  # (T, 256)
                stay = torch.where(goes, ~self.on_right[:, s : s + 1], ~self.on_left[:, s : s + 1])
                for k, feature in enumerate(used):
                    mine = (self.feature[:, s] == feature).nonzero().squeeze(1)
                    table[k][:, mine] &= stay[mine].T
            share = torch.zeros(len(self.feature), len(self.constant), dtype=torch.float64, device=table.device)
            share[torch.arange(len(share)), self.output.long()] = 1.0
            self._tables = table, used or [0], share
        return self._tables

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in list(self._buffers):  # the number of trees is only known from the file
            if prefix + name in state:
                self._buffers[name] = torch.empty_like(state[prefix + name])
        self._tables = None
        super()._load_from_state_dict(state, prefix, *rest)


@dataclass(frozen=True)
class Recipe:
    """How a booster is grown; the names are scikit-learn's in other words."""

    rate: float
    rounds: int
    leaves: int
    least: int
    penalty: float
    share: float
    patience: int = 5


def boost(
    codes: Array, y: Array, held_codes: Array, held_y: Array, categories: list[int], recipe: Recipe, seed: int
) -> Booster:
    """Fit logit P(y = 1 | codes) by gradient boosting and keep the rounds that are best on the held-out rows.

    Args:
        codes, held_codes: `(N, F)` float, codes 0 .. 254 and NaN where missing.
        y, held_y: `(N,)` of 0 and 1.
        categories: the features whose codes have no order.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    booster = HistGradientBoostingClassifier(
        learning_rate=recipe.rate,
        max_iter=recipe.rounds,
        max_leaf_nodes=recipe.leaves,
        min_samples_leaf=recipe.least,
        l2_regularization=recipe.penalty,
        max_features=recipe.share,
        categorical_features=categories or None,
        early_stopping=True,
        n_iter_no_change=recipe.patience,
        random_state=seed % 2**31,
    )
    booster.fit(codes, y, X_val=held_codes, y_val=held_y)
    losses = -np.asarray(booster.validation_score_)
    best = int(losses.argmin())
    constant = float(booster._baseline_prediction[0, 0])
    grown = [stage[0] for stage in booster._predictors[:best]]
    gain = float(losses[0] - losses[best]) * len(held_y)
    return Booster(_trees(grown, recipe.leaves, _names(codes, categories)) if grown else None, constant, gain)


def _names(codes: Array, categories: list[int]) -> list[tuple[int, Array | None]]:
    """scikit-learn puts categories first and numbers those it saw anew: its feature -> ours, its codes -> ours."""
    seen = [np.unique(codes[~np.isnan(codes[:, j]), j]).astype(int) for j in categories]
    rest = [j for j in range(codes.shape[1]) if j not in categories]
    return [*zip(categories, seen, strict=True), *((j, None) for j in rest)]


def _trees(grown: list[Any], leaves: int, names: list[tuple[int, Array | None]]) -> Trees:
    """scikit-learn's predictors, whose nodes are records, as arrays."""
    count, s = len(grown), leaves - 1
    trees = Trees(
        np.full((count, s), -1, dtype=np.int32),
        np.zeros((count, s, CODES // 8), dtype=np.uint8),
        np.zeros((count, s), dtype=np.uint8),
        np.zeros((count, s), dtype=np.uint8),
        np.zeros((count, leaves)),
    )
    for t, predictor in enumerate(grown):
        _fill(trees, t, predictor, names)
    return trees


def _fill(trees: Trees, t: int, predictor: Any, names: list[tuple[int, Array | None]]) -> None:
    nodes, splits, ends = predictor.nodes, 0, 0

    def walk(i: int) -> int:
        """The leaves below node i, as bits; leaves and splits are numbered as they are met."""
        nonlocal splits, ends
        node = nodes[i]
        if node["is_leaf"]:
            trees.value[t, ends] = node["value"]
            ends += 1
            return 1 << (ends - 1)
        s, splits = splits, splits + 1
        trees.feature[t, s], known = names[node["feature_idx"]]
        trees.left[t, s] = _goes_left(node, predictor, known)
        left, right = walk(int(node["left"])), walk(int(node["right"]))
        trees.on_left[t, s], trees.on_right[t, s] = left, right
        return left | right

    walk(0)


def _goes_left(node: Any, predictor: Any, known: Array | None) -> Array:
    """Which of the 256 codes go left, as 32 bytes; a category that was not seen goes where missing ones go."""
    if known is None:
        goes = np.arange(CODES) <= node["num_threshold"]
        goes[MISSING] = bool(node["missing_go_to_left"])
    else:
        goes = np.full(CODES, bool(node["missing_go_to_left"]))
        words = predictor.raw_left_cat_bitsets[node["bitset_idx"]]
        goes[known] = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")[: len(known)]
    return np.packbits(goes, bitorder="little")


def _lowest_bit() -> Tensor:
    """The number of the lowest bit of every byte; the bits of leaves that a tree does not have are above its own."""
    bits = (torch.arange(CODES).unsqueeze(1) >> torch.arange(8)) & 1
    return bits.argmax(1)
