"""The records of the hinge: qualities, values, cards, players, cursors. `model.py` uses and re-exports them.

Quality is computed by a small algebra on log terms:

    exact + q = q      lower + lower = lower      lower + upper = estimate      estimate + q = estimate
    unnormalised + q = unnormalised      -lower = upper
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

from torch import Tensor, nn

from pofx.data import Batch
from pofx.kinds.likelihood import Likelihood
from pofx.randomness import Rng


class Quality(Enum):
    """How far a number may be from the truth, and on which side."""

    EXACT = "exact"
    LOWER = "lower bound"
    UPPER = "upper bound"
    ESTIMATE = "estimate"
    UNNORMALISED = "unnormalised"

    def __add__(self, other: Quality) -> Quality:
        """The quality of a sum of two log terms."""
        for q in (Quality.UNNORMALISED, Quality.ESTIMATE):
            if q in (self, other):
                return q
        if Quality.EXACT in (self, other):
            return self if other is Quality.EXACT else other
        return self if self is other else Quality.ESTIMATE

    def __neg__(self) -> Quality:
        return {Quality.LOWER: Quality.UPPER, Quality.UPPER: Quality.LOWER}.get(self, self)

    @property
    def guaranteed(self) -> bool:
        """Whether a leaderboard may rank by it: the truth is at least as good as the number says."""
        return self in (Quality.EXACT, Quality.LOWER)


@dataclass(frozen=True)
class Value:
    """A tensor that says how good it is: value `(*batch,)`, its quality, the standard error of a Monte-Carlo value."""

    value: Tensor
    quality: Quality = Quality.EXACT
    stderr: Tensor | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    def shifted(self, term: Tensor, quality: Quality = Quality.EXACT) -> Value:
        """The value plus a log term of some quality."""
        return Value(self.value + term, self.quality + quality, self.stderr, self.diagnostics)

    def reshape(self, batch: tuple[int, ...]) -> Value:
        """The same numbers in another batch shape."""
        stderr = None if self.stderr is None else self.stderr.reshape(batch)
        return Value(self.value.reshape(batch), self.quality, stderr, self.diagnostics)


class Unsupported(NotImplementedError):
    """A model or a task cannot answer; the message says what is missing and who has it."""


@dataclass(frozen=True)
class Card:
    """What kind of model a family is, as data (Murphy 2023, section 20.1).

    Args:
        density, sampling, training, latents, architecture: Murphy's five columns.
        branch: the path in the taxonomy tree, from "explicit" or "implicit" down.
        incomplete: how rows with missing entries are trained on, or "refuses".
        euclidean: it wants standardised Euclidean coordinates, so `Relaxed` wraps it on other data.
        given: whether it learns p(x | given).
        paired: whether what it is given must belong to its row; False: it learns from two sets as well.
        tier: "proven", "works" or "experimental", from measured evidence.
        summary: the family in one sentence. reference: its source.
    """

    density: str
    sampling: str
    training: str
    latents: str
    architecture: str
    branch: tuple[str, ...]
    incomplete: str
    summary: str
    reference: str
    euclidean: bool = False
    given: bool = True
    tier: str = "works"
    paired: bool = True


class Report(Protocol):
    """Takes a line of history, or none; False says that the budget is spent: keep the best so far and return."""

    def __call__(self, line: Mapping[str, float] | None = None) -> bool: ...


def no_limit(line: Mapping[str, float] | None = None) -> bool:
    """A Report that keeps nothing and never says stop."""
    return True


@dataclass(frozen=True)
class Player:
    """Who is optimised, on which loss, how often. loss(batch, rng) is a mean over rows, in nats per event if it can."""

    name: str
    params: list[nn.Parameter]
    loss: Callable[[Batch, Rng], Tensor]
    every: int = 1
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Predictive:
    """A distribution of x (or of one entry) with its parameters: what `decode` and a cursor give."""

    likelihood: Likelihood
    params: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability of each entry, `(*batch, *event)`, nats."""
        return self.likelihood.log_prob(self.params, x)

    def masses(self, levels: int) -> Tensor:
        """Where x is one entry with codes 0 .. K - 1: P of each code, `(B, K)`."""
        return self.likelihood.masses(self.params, levels)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Where x is one entry with a mass: log mass of intervals low < x < high, `(B, K)` each."""
        return self.likelihood.log_mass(self.params, low, high)

    def entry(self, i: int) -> Predictive:
        """The distribution of flat entry i by itself."""
        return Predictive(self.likelihood.alone(i), self.likelihood.part(self.params, i))

    def take(self, rows: Tensor) -> Predictive:
        """Some rows of it."""
        return replace(self, params=self.params[rows])

    def sample(self, rng: Rng) -> Tensor:
        """One x per row."""
        return self.likelihood.sample(self.params, rng)

    def mean(self) -> Tensor:
        """The mean of each entry, float64."""
        return self.likelihood.mean(self.params)


class Cursor(ABC):
    """Walks through the entries of x in the model's order, giving the likelihood of each next one, with its cache."""

    order: list[int]

    @abstractmethod
    def start(self) -> Predictive:
        """The likelihood of the first entry in `order`, `(B, 1)`."""

    @abstractmethod
    def next(self, x_i: Tensor) -> Predictive | None:
        """The likelihood of the entry after x_i `(B,)`; None at the end."""

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the cache, in this order (for particle filters)."""


@dataclass(frozen=True)
class Conditional:
    """p(x_m | x_o), one mask a row: sample(n, rng) -> (n, B, *event) completed; log_prob(x) -> Value (B,).

    mean() -> (B, *event) float64, where it is known without draws; of an ordinal between its codes, of a category its
    likeliest code.
    """

    sample: Callable[[int, Rng], Tensor]
    log_prob: Callable[[Tensor], Value] | None = None
    quality: Quality = Quality.EXACT
    mean: Callable[[], Tensor] | None = None
