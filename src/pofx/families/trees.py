"""Trees: an autoregressive model whose conditionals are boosted trees.

    p(x) = prod_t p(x_t | x_<t, c)                                 in a fixed order of the columns
    p(x_t | .) = P(cell of x_t | .) p(x_t | its cell)              cells: levels, or about 2 N^(1/3) places of a number
    P(cell | .) = prod over the cell's path of  sigmoid(+- F_j(.))     F_j: a booster at each fork of a binary tree

The cells of a column are the leaves of a balanced binary tree; at each fork a booster says left or right, fitted on the
rows that reach it. So the law is exact and normalised, a fork with few rows stays at its share (which shrinks towards
the marginal), and a column of 100 levels costs log 100 boosters a row to train, not 100. Real columns have a histogram
with point masses of their own and exponential tails.
Offers sample, log_prob, condition and steps. log_prob of a part is exact where what is observed comes first in the
order; elsewhere the missing entries before it are drawn (importance sampling: a lower bound in expectation), and
condition runs a particle filter. Missing training cells are left out of their own column and are seen as missing by
later ones. Fitted by scikit-learn's histogram boosting, fork by fork, the largest first; every booster keeps the rounds
that are best on held-out rows. Its trees are copied into tensors (engines/boosting.py): no pickle.
References: Friedman 2001; BaltoBot and UnmaskingTrees, McCarter 2024 (arXiv:2407.05593); Shannon-Fano trees for codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pofx.data import Batch, Data
from pofx.engines.boosting import MISSING, Recipe
from pofx.engines.cells import Cells
from pofx.engines.forks import Column, Plan
from pofx.engines.particles import resampled
from pofx.kinds.base import Space
from pofx.kinds.joined import Joined
from pofx.kinds.likelihood import Likelihood
from pofx.model import Card, Conditional, Cursor, Given, Model, Predictive, Quality, Report, Value
from pofx.randomness import Rng

CHUNK = 8192  # rows computed at once
LINES = 16  # forks between two lines of history

Array = np.ndarray[Any, Any]


class Trees(Model):
    """Boosted trees, column by column.

    Args:
        order: the columns in the order of the product (entry numbers); None takes them as they stand.
        cells: places of a number; None takes 2 N^(1/3), at most 255.
        rate: learning rate of the boosters.
        rounds: trees of a booster at most; held-out rows decide.
        leaves: of a tree, at most 8.
        least: rows of a leaf; None takes N / 1000, between 5 and 20.
        penalty: L2 penalty of the leaf values.
        share: of the features that a split may look at.
        particles: of a completion whose observed entries do not come first.
    """

    card = Card(
        density="exact, fast",
        sampling="fast (one forest for each column)",
        training="boosting, held-out stopping",
        latents="none",
        architecture="boosted trees",
        branch=("explicit", "tractable", "autoregressive"),
        incomplete="observed loss: a missing cell is seen as missing by later columns",
        summary="one boosted-tree conditional after the other: mixed tables, exact in density and sampling",
        reference="Friedman 2001; McCarter 2024 (arXiv:2407.05593)",
    )
    diagram = (
        ("columns before x_t", "boosted trees at each fork"),
        ("boosted trees at each fork", "P(cell of x_t)"),
        ("P(cell of x_t)", "x_t", "a place in the cell"),
        ("x_t", "columns before x_t", "one column after the other: samples"),
    )

    def __init__(
        self,
        *,
        order: Sequence[int] | None = None,
        cells: int | None = None,
        rate: float = 0.1,
        rounds: int = 200,
        leaves: int = 8,
        least: int | None = None,
        penalty: float = 5.0,
        share: float = 0.5,
        particles: int = 16,
    ) -> None:
        super().__init__()
        if not 2 <= leaves <= 8:
            raise ValueError(f"trees: leaves is {leaves}; expected 2 .. 8.")
        if cells is not None and not 2 <= cells <= MISSING:
            raise ValueError(f"trees: cells is {cells}; expected 2 .. {MISSING}, or None.")
        self.order, self.cells, self.rate, self.rounds = order, cells, rate, rounds
        self.leaves, self.least, self.penalty, self.share, self.particles = leaves, least, penalty, share, particles

    def _build(self) -> None:
        d = self.space.size
        walk = list(range(d)) if self.order is None else [int(i) for i in self.order]
        if sorted(walk) != list(range(d)):
            raise ValueError(f"trees: got order={self.order} for {d} entries; expected a permutation, or None.")
        self.walk = walk
        self.variables = Joined(self.space, self.given).variables
        self.places = nn.ModuleList(Cells.of(v) for v in self.variables)
        self.columns = nn.ModuleList([Column(self.places[i].count, self.leaves) for i in range(d)])  # type: ignore[arg-type]
        self.likelihoods = [Histogram(self.space.sub([i]), self.places[i]) for i in range(d)]  # type: ignore[arg-type]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train, held = _held_out(data, rng)
        n = len(train)
        count = self.cells or int(min(max(2 * n ** (1 / 3), 8), MISSING))
        for j, (cells, v) in enumerate(zip(self.places, self.variables, strict=True)):
            x, seen = self._entry(train, j)
            cells.fit(x.numpy()[seen], count, v.support not in ("category", "binary"))  # type: ignore[operator]
        least = self.least or min(max(n // 1000, 5), 20)
        recipe = Recipe(self.rate, self.rounds, self.leaves, least, self.penalty, self.share)
        plans = self._plans(train, held, rng)
        forks = sorted(((w, j, k) for j, plan in plans.items() for w, k in plan.worth_growing(least)), reverse=True)
        held_rows, step = max(len(held) * (2 if self.given else 1), 1), 0
        loss = sum(plan.loss() for plan in plans.values()) / held_rows - self._inside_cells(held)
        for step, (_, j, k) in enumerate(forks, 1):
            if not report({"step": step, "loss": loss} if step % LINES == 0 else None):
                break
            loss -= plans[j].grow(k, recipe, rng.seed()) / held_rows
        for j, plan in plans.items():
            plan.finish(self.columns[j])  # type: ignore[arg-type]
        report({"step": step + 1, "loss": loss})

    def _inside_cells(self, rows: Batch) -> float:
        """Mean over rows of the sum of log p(x_j | its cell), which no booster changes."""
        total = 0.0
        for j in self.walk:
            x, seen = self._entry(rows, j)
            total += float(self.places[j].log_density(x)[torch.from_numpy(seen)].sum())  # type: ignore[operator]
        return total / max(len(rows), 1)

    def _plans(self, train: Batch, held: Batch, rng: Rng) -> dict[int, Plan]:
        codes, held_codes = self._training_codes(train, rng), self._training_codes(held, rng)
        categories = [j for j, v in enumerate(self.variables) if v.support in ("category", "binary")]
        plans = {}
        for t, j in enumerate(self.walk):
            known = [*self.walk[:t], *range(self.space.size, len(self.variables))]
            cell, held_cell = (self._cells_of(rows, j) for rows in (train, held))
            seen, held_seen = cell >= 0, held_cell >= 0
            plans[j] = Plan(
                codes[seen], cell[seen], held_codes[held_seen], held_cell[held_seen], self.places[j].count,  # type: ignore[arg-type]
                known, categories, j not in categories,
            )  # fmt: skip
        return plans

    def _cells_of(self, rows: Batch, j: int) -> Array:
        """The cell of entry j in each row, -1 where missing; as often as `_training_codes` has the rows."""
        x, seen = self._entry(rows, j)
        cell = np.where(seen, self.places[j].place(x).numpy(), -1)  # type: ignore[operator]
        return np.tile(cell, 2) if self.given else cell

    def _entry(self, rows: Batch, j: int) -> tuple[Tensor, Array]:
        """Entry j of x and its givens, and where it is observed."""
        if j < self.space.size:
            mask = np.ones(len(rows), dtype=bool) if rows.observed is None else rows.observed.flatten(1)[:, j].numpy()
            return rows.x.reshape(len(rows), self.space.size)[:, j].double(), mask
        flat = torch.cat([rows.given[name].reshape(len(rows), -1).double() for name in self.given], 1)
        return flat[:, j - self.space.size], np.ones(len(rows), dtype=bool)

    def _training_codes(self, rows: Batch, rng: Rng) -> Array:
        """Features as the boosters want them, `(N, D + G)`; with givens twice: with all of them, and without some."""
        codes = self._codes(rows.x, rows.observed, rows.given).numpy().astype(np.float32)
        codes[codes == MISSING] = np.nan
        if not self.given:
            return codes
        again, at = codes.copy(), self.space.size
        together = rng.bernoulli(0.5, (len(again),)).numpy()
        for space in self.given.values():
            gone = together | rng.bernoulli(0.5, (len(again),)).numpy()
            again[gone, at : at + space.size] = np.nan
            at += space.size
        return np.concatenate([codes, again])

    def _codes(self, x: Tensor, observed: Tensor | None, given: Given) -> Tensor:
        """Feature codes of x and its givens, `(N, D + G)` uint8."""
        flat, d = x.reshape(len(x), self.space.size), self.space.size
        mask = None if observed is None else observed.reshape(flat.shape)
        columns = []
        for j in range(d):
            code = self.places[j].codes(flat[:, j])  # type: ignore[operator]
            columns.append(code if mask is None else code.masked_fill(~mask[:, j], MISSING))
        return torch.cat([torch.stack(columns, 1), self._given_codes(given, len(x))], 1)

    def _given_codes(self, given: Given, rows: int) -> Tensor:
        parts, at = [torch.empty(rows, 0, dtype=torch.uint8, device=self.device)], self.space.size
        for name, space in self.given.items():
            if name in given:
                c = given[name].reshape(rows, -1)
                parts += [self.places[at + k].codes(c[:, k]).unsqueeze(1) for k in range(space.size)]  # type: ignore[operator]
            else:
                parts.append(torch.full((rows, space.size), MISSING, dtype=torch.uint8, device=self.device))
            at += space.size
        return torch.cat(parts, 1)

    # hooks
    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        mask = None if observed is None else observed.flatten(1)
        if self._prefix(mask):
            return Value(self._factors(x, given, mask).sum(1))
        assert mask is not None
        many = {k: v.repeat(draws, *[1] * (v.ndim - 1)) for k, v in given.items()}
        _, log_w = self._complete(x.flatten(1).repeat(draws, 1), mask.repeat(draws, 1), many, 1, rng)
        log_w = log_w.reshape(draws, len(x))
        weights = (log_w - log_w.max(0).values).exp()
        stderr = weights.std(0) / weights.mean(0) / math.sqrt(draws) if draws > 1 else None
        value = torch.logsumexp(log_w, 0) - math.log(draws)
        return Value(value, Quality.LOWER, stderr, {"draws": draws})

    def _prefix(self, mask: Tensor | None) -> bool:
        return mask is None or bool((mask[:, self.walk].int().diff(dim=1) <= 0).all())

    def _factors(self, x: Tensor, given: Given, mask: Tensor | None) -> Tensor:
        """log p of every entry given those before it, `(B, D)`; 0 where the mask is False."""
        out = torch.zeros(len(x), self.space.size, dtype=torch.float64, device=x.device)
        codes, flat = self._codes(x, None, given), x.flatten(1)
        for rows in torch.arange(len(x), device=x.device).split(CHUNK):
            for j in self.walk:
                seen = rows if mask is None else rows[mask[rows, j]]
                if len(seen):
                    log_cells = self.columns[j].log_cells(codes[seen])  # type: ignore[operator]
                    out[seen, j] = self.likelihoods[j].log_prob(log_cells, flat[seen, j : j + 1])[:, 0]
        return out

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        nothing = torch.zeros(count, self.space.size, dtype=torch.float64, device=self.device)
        x, _ = self._complete(nothing, torch.zeros_like(nothing, dtype=torch.bool), given, 1, rng)
        return x.reshape(count, *self.space.shape).to(self.space.torch_dtype)

    def _steps(self, rows: int, given: Given) -> Cursor:
        return _Walk(self, self._given_codes(given, rows))

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        mask = observed.flatten(1)
        quality = Quality.EXACT if self._prefix(mask) else Quality.ESTIMATE
        particles = 1 if quality is Quality.EXACT else self.particles

        def sample(n: int, rng: Rng) -> Tensor:
            many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
            full, _ = self._complete(x.flatten(1).repeat(n, 1), mask.repeat(n, 1), many, particles, rng)
            return torch.where(observed, x, full.reshape(n, *x.shape).to(x.dtype))

        def log_prob(full: Tensor) -> Value:
            known = self._log_prob(x, given, observed, 32, Rng(0))
            return self._log_prob(full, given, None, 1, Rng(0)).shifted(-known.value, -known.quality)

        return Conditional(sample, log_prob, quality)

    def _complete(self, x: Tensor, mask: Tensor, given: Given, particles: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """Rows (B, D) with their missing entries drawn, and the log weight of what was observed, in chunks."""
        parts = [(x[:0].double(), x.new_zeros(0, dtype=torch.float64))]
        for rows in torch.arange(len(x), device=x.device).split(max(1, CHUNK // particles)):
            own = {k: v[rows] for k, v in given.items()}
            parts.append(self._filter(x[rows].double(), mask[rows], own, particles, rng))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _filter(self, x: Tensor, mask: Tensor, given: Given, n: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """n particles a row: missing entries are drawn, observed ones weigh; resampled where the weights are uneven."""
        b, rows = len(x), torch.arange(len(x), device=x.device).repeat_interleave(n)
        x, mask = x[rows].clone(), mask[rows]
        cursor = _Walk(self, self._given_codes({k: v[rows] for k, v in given.items()}, b * n))
        log_w, ahead = torch.zeros(b, n, dtype=torch.float64, device=x.device), cursor.start()
        for i in self.walk:
            known = mask[:, i]
            assert ahead is not None  # as it is after the last entry only
            drawn = ahead.sample(rng)[:, 0].double()
            if bool(known.any()):
                weight = ahead.log_prob(x[:, i : i + 1])[:, 0]
                log_w = log_w + torch.where(known, weight, torch.zeros_like(weight)).reshape(b, n)
            x[:, i] = torch.where(known, x[:, i], drawn)
            if n > 1:
                kept, log_w = resampled(log_w, rng)
                x = x[kept]
                cursor.reorder(kept)
            ahead = cursor.next(x[:, i])
        pick = rng.categorical(log_w) + torch.arange(b, device=x.device) * n
        return x[pick], log_w[:, 0]


class _Walk(Cursor):
    """The columns in turn; what was passed is kept as feature codes."""

    def __init__(self, model: Trees, given_codes: Tensor) -> None:
        self.model, self.order, self.t = model, model.walk, 0
        none = torch.full((len(given_codes), model.space.size), MISSING, dtype=torch.uint8, device=given_codes.device)
        self.codes = torch.cat([none, given_codes], 1)

    def start(self) -> Predictive:
        return self._predictive()

    def next(self, x_i: Tensor) -> Predictive | None:
        j = self.order[self.t]
        self.codes[:, j] = self.model.places[j].codes(x_i)  # type: ignore[operator]
        self.t += 1
        return self._predictive() if self.t < len(self.order) else None

    def _predictive(self) -> Predictive:
        j = self.order[self.t]
        log_cells = self.model.columns[j].log_cells(self.codes)  # type: ignore[operator]
        return Predictive(self.model.likelihoods[j], log_cells)

    def reorder(self, rows: Tensor) -> None:
        self.codes = self.codes[rows]


class Histogram(Likelihood):
    """One column whose parameters are log P of its cells.

    Args:
        space: of the one entry.
        cells: where its cells are.
    """

    def __init__(self, space: Space, cells: Cells) -> None:
        super().__init__(space, longest=max(space.variables[0].levels, 1))
        self.cells, self.size = cells, cells.count

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        known = self.cells.inside(flat)
        log_p = params.gather(1, self.cells.place(flat).unsqueeze(1)).squeeze(1) + self.cells.log_density(flat)
        return log_p.masked_fill(~known, -torch.inf).reshape(x.shape)

    def log_mass(self, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        if self.cells.levels:
            return super().log_mass(params, low, high)
        p = params.double().exp()
        before = torch.nn.functional.pad(p.cumsum(1), (1, 0))

        def below(edge: Tensor) -> Tensor:
            flat = edge.flatten()
            cell = self.cells.place(flat).reshape(edge.shape).expand(len(p), -1)
            share = self.cells.below(flat).reshape(edge.shape)
            return before.gather(1, cell) + p.gather(1, cell) * share

        return (below(high) - below(low)).clamp_min(0.0).log()

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        return self.cells.draw(rng.categorical(params), rng).unsqueeze(-1).to(self.space.torch_dtype)

    def mean(self, params: Tensor) -> Tensor:
        return (params.exp() @ self.cells.middle()).unsqueeze(-1)


def _held_out(data: Data, rng: Rng) -> tuple[Batch, Batch]:
    """Rows to fit and rows that stop: the validation part, or a tenth of the rows."""
    train = data.part("train")
    if len(data.split.get("valid", ())) >= max(8, len(train) // 50):
        return train, data.part("valid")
    order, count = rng.permutation(len(train)), max(1, len(train) // 10)
    return train.take(order[count:]), train.take(order[:count])
