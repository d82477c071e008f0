"""Cross-entropy search: the sequence that scores best, by a distribution that moves to the best of its draws.

    a ~ q_r,   elite = the best share of scores J(a),   q_{r+1} = (1 - k) fit(elite) + k q_r

q is independent over steps: normals inside limits for numbers, shares for codes. The elite of a round is scored again
in the next, so that a good sequence is not lost, and a lucky score of a noisy J is.

References: Rubinstein 1999 (cross-entropy method); de Boer 2005; Pinneri 2020 (arXiv:2008.06389, kept elites).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from pofx.randomness import Rng

KEEP = 0.1  # share of the old proposal in the new one, so that it does not close too early


class Proposal(Protocol):
    """A distribution of sequences that can be fitted to the best of its draws."""

    @property
    def centre(self) -> Tensor:
        """The middle, or the likeliest, sequence."""

    def draw(self, n: int, rng: Rng) -> Tensor:
        """n sequences, `(n, H, ...)`."""

    def fitted(self, elite: Tensor) -> Self:
        """The proposal moved to the elite."""

    def later(self) -> Self:
        """The proposal for the question one step later, as wide as it was at first."""


@dataclass(frozen=True)
class Normals:
    """Independent normals cut at limits; all tensors `(H, A)`, `wide` being the deviation to begin with."""

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    wide: Tensor

    @classmethod
    def within(cls, low: Tensor, high: Tensor, horizon: int) -> Normals:
        """Wide normals over the limits `(A,)`."""
        low, high = low.double().expand(horizon, -1), high.double().expand(horizon, -1)
        return cls((low + high) / 2, (high - low) / 3, low, high, (high - low) / 3)

    @property
    def centre(self) -> Tensor:
        return self.mean

    def draw(self, n: int, rng: Rng) -> Tensor:
        z = rng.normal((n, *self.mean.shape), torch.float64)
        return (self.mean + self.deviation * z).clamp(self.low, self.high)

    def fitted(self, elite: Tensor) -> Normals:
        mean, deviation = elite.mean(0), elite.std(0)
        return replace(
            self,
            mean=(1 - KEEP) * mean + KEEP * self.mean,
            deviation=(1 - KEEP) * deviation + KEEP * self.deviation,
        )

    def later(self) -> Normals:
        middle = (self.low[-1:] + self.high[-1:]) / 2
        return replace(self, mean=torch.cat([self.mean[1:], middle]), deviation=self.wide)


@dataclass(frozen=True)
class Codes:
    """Independent shares of K codes, `(H, K)`."""

    shares: Tensor

    @classmethod
    def even(cls, levels: int, horizon: int) -> Codes:
        """Every code alike."""
        return cls(torch.full((horizon, levels), 1 / levels, dtype=torch.float64))

    @property
    def centre(self) -> Tensor:
        return self.shares.argmax(-1)

    def draw(self, n: int, rng: Rng) -> Tensor:
        return rng.categorical(self.shares.log().expand(n, -1, -1))

    def fitted(self, elite: Tensor) -> Codes:
        levels = self.shares.shape[-1]
        counts = torch.nn.functional.one_hot(elite, levels).double().mean(0)
        return Codes((1 - KEEP) * counts + KEEP * self.shares)

    def later(self) -> Codes:
        even = torch.full_like(self.shares, 1 / self.shares.shape[-1])
        return Codes((torch.cat([self.shares[1:], even[-1:]]) + even) / 2)


@dataclass(frozen=True)
class Found:
    """The last proposal's centre and its best draw `(2, H, ...)`; that proposal; the elite's mean score by round."""

    finalists: Tensor
    proposal: Proposal
    trace: tuple[float, ...]


def search(
    score: Callable[[Tensor], Tensor], proposal: Proposal, rng: Rng, candidates: int, rounds: int, elites: int
) -> Found:
    """The sequence with the highest score.

    Args:
        score: `(N, H, ...)` -> `(N,)`, higher is better; it may be noisy.
        proposal: to begin with.
        candidates: draws of a round. rounds: of drawing and fitting. elites: how many the proposal is fitted to.

    Raises:
        ValueError: fewer than two elites or more than candidates, or no round.
    """
    if not 2 <= elites <= candidates or rounds < 1:
        raise ValueError(f"search: {candidates} candidates, {elites} elites, {rounds} rounds; expected 2 elites.")
    elite, trace = proposal.centre.unsqueeze(0), []
    for _ in range(rounds):
        drawn = torch.cat([elite, proposal.draw(candidates, rng)])
        values = score(drawn)
        best = values.topk(elites)
        elite = drawn[best.indices]
        trace.append(float(best.values.mean()))
        proposal = proposal.fitted(elite)
    return Found(torch.stack([proposal.centre, elite[0]]), proposal, tuple(trace))
