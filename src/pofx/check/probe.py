"""Probe: a model with rows, givens and seeds to ask it about."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pofx.check.report import Failed
from pofx.data import Batch
from pofx.kinds.base import Space
from pofx.model import Model, Quality
from pofx.randomness import Rng

LIMIT = 5.0  # a z-score beyond this fails: one false alarm in a million
MOST_STATES = 4096
BOUND_DRAWS, BOUND_REPEATS = 4, 4
Given = dict[str, Tensor]


@dataclass(frozen=True)
class Values:
    """log p of rows: mean over repeats `(B,)`, its standard error `(B,)` (0 where nothing is random), its quality."""

    mean: Tensor
    stderr: Tensor
    quality: Quality

    @property
    def noisy(self) -> bool:
        """Whether repeats differ."""
        return bool((self.stderr > 0).any())


@dataclass
class Probe:
    """What all checks ask with.

    Args:
        model: built and fitted.
        rows: complete rows with their givens, at most a few dozen.
        seeds: how many seeds a random answer is asked with.
        rng: of the checks' own choices.
    """

    model: Model
    rows: Batch
    seeds: int
    rng: Rng
    pools: dict[str, Tensor] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """What one x is."""
        return self.model.space

    @property
    def offers(self) -> frozenset[str]:
        """The hooks that the model says it has."""
        return self.model.offers()

    def cases(self) -> list[tuple[str, Given]]:
        """No given; and where there are some, one value of all of them, and of each alone."""
        one = {k: v[0] for k, v in self.rows.given.items()}
        alone = [(f"given {k} alone", {k: v}) for k, v in one.items()] if len(one) > 1 else []
        return [("no given", {}), *([("given " + ", ".join(one), one)] if one else []), *alone]

    def draws(self, case: str, given: Given, n: int) -> Tensor:
        """n draws of one case, kept for other checks."""
        if case not in self.pools or len(self.pools[case]) < n:
            self.pools[case] = self.model.sample(n, given or None, self.rng.seed())
        return self.pools[case][:n]

    def values(self, x: Tensor, given: Given | None = None, observed: Tensor | None = None) -> Values:
        """log p of rows; a random answer is asked several times. `given` holds one value, or one for every row."""
        c = spread(given or {}, self.model.given, len(x))
        with torch.no_grad():
            first = self.model.log_prob(x, c or None, observed, BOUND_DRAWS, self.rng.seed())
            if first.quality is Quality.EXACT:
                return Values(first.value.double(), torch.zeros(len(x)).double(), first.quality)
            seeds = [self.rng.seed() for _ in range(BOUND_REPEATS - 1)]
            again = [first, *(self.model.log_prob(x, c or None, observed, BOUND_DRAWS, seed) for seed in seeds)]
        stack = torch.stack([v.value.double() for v in again])
        # pooled with the mean over rows: the spread of four numbers alone is a poor guess of their error
        variance = 0.5 * (stack.var(0) + stack.var(0).mean())
        return Values(stack.mean(0), (variance / BOUND_REPEATS).sqrt(), first.quality)

    def chart_rows(self) -> Tensor:
        """The rows in the chart."""
        return self.model.chart.encode(self.rows.x, self.rng)

    def copied(self) -> Model:
        """A copy that a check may train."""
        return copy.deepcopy(self.model)


def spread(given: Given, spaces: dict[str, Space], rows: int) -> Given:
    """One value of each given for every row; values that have rows already stay."""
    return {k: v.expand(rows, *v.shape) if v.ndim == len(spaces[k].shape) else v for k, v in given.items()}


def states(space: Space) -> Tensor | None:
    """Every x of a small discrete Space, `(S, *event)`; None where it is not one."""
    levels = [space.variable(i).levels for i in range(space.size)]
    if not space.discrete or math.prod(levels) > MOST_STATES:
        return None
    columns = torch.cartesian_prod(*(torch.arange(k) for k in levels)).reshape(-1, space.size)
    return columns.reshape(-1, *space.shape).to(space.torch_dtype)


def require(condition: bool, detail: str) -> None:
    """Raise Failed with the detail unless the condition holds."""
    if not condition:
        raise Failed(detail)


def require_valid(x: Tensor, space: Space) -> None:
    """Raise Failed where x holds a number that is not of its variable."""
    flat = x.flatten(-len(space.shape)) if space.shape else x.unsqueeze(-1)
    require(bool(torch.isfinite(flat.double()).all()), "a drawn number is NaN or infinite")
    for i in range(space.size):
        v, column = space.variable(i), flat[..., i].double()
        if v.discrete:
            fine = (column == column.round()) & (column >= 0) & (column < v.levels)
            require(bool(fine.all()), f"{v.name}: {column[~fine][:1].tolist()} is no code 0 .. {v.levels - 1}")
        if v.support == "bounded":
            slack = 1e-9 * (v.high - v.low) + v.resolution / 2  # type: ignore[operator]
            fine = (column >= v.low - slack) & (column <= v.high + slack)  # type: ignore[operator]
            require(bool(fine.all()), f"{v.name}: {column[~fine][:1].tolist()} is outside {v.low} .. {v.high}")
        if not v.discrete and v.resolution > 0:
            steps = column / v.resolution
            require(bool(((steps - steps.round()).abs() < 1e-3).all()), f"{v.name}: not rounded to {v.resolution}")


def require_close(a: Tensor, b: Tensor, what: str, stderr: Tensor | float = 0.0, slack: float = 1e-3) -> None:
    """Raise Failed unless a = b up to rounding and LIMIT standard errors."""
    a, b = a.double(), b.double()
    allowed = slack * (1 + b.abs()) + LIMIT * torch.as_tensor(stderr)
    off = ((a - b).abs() > allowed) & (a != b)
    require(not bool(off.any()), f"{what}: differs by up to {float((a - b)[off].abs().max()) if off.any() else 0:.4g}")
    require(not bool(torch.isnan(a).any()), f"{what}: NaN")


def z_of_means(a: Tensor, b: Tensor) -> Tensor:
    """z-scores of the difference of the means of two samples `(n, d)` and `(m, d)`, `(d,)`."""
    a, b = a.double(), b.double()
    spread_ = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return (a.mean(0) - b.mean(0)) / spread_.clamp_min(1e-9)
