"""Joint and Ensemble: sums over models.

Joint(prior, m)  p(c) p(x | c):  log p(x) = logsumexp_c,  p(c | x) by Bayes' rule
Ensemble(m_k)    p(x) = mean_k p_k(x)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pofx.kinds.relax import Chart
from pofx.model import Card, Given, Model, Quality, Unsupported, Value
from pofx.randomness import Rng
from pofx.wrappers.base import Wrapped


class Joint(Wrapped):
    """p(c, x) = p(c) p(x | c) over the codes of one category given; its event is x.

    Args:
        inner: a built model of p(x | c).
        name: which given c is (a category).
        log_prior: log p(c), `(K,)`.
    """

    def __init__(self, inner: Model, name: str, log_prior: Tensor) -> None:
        super().__init__()
        self.inner, self.cause = inner, name
        self.space, self.given = inner.space, {k: s for k, s in inner.given.items() if k != name}
        self.register_buffer("log_prior", log_prior.log_softmax(-1))

    @property
    def name(self) -> str:
        return f"joint {self.inner.name}"

    @property
    def levels(self) -> int:
        """K, the number of codes of c."""
        return len(self.log_prior)

    def offers(self) -> frozenset[str]:
        direct = self.inner.offers() & {"sample", "log_prob"}
        return direct | ({"score"} if self.space.standard and "log_prob" in direct else set())

    def log_joint(
        self,
        x: Tensor,
        draws: int = 1,
        rng: Rng | int | None = None,
        given: Given | None = None,
        observed: Tensor | None = None,
    ) -> Value:
        """log p(c) + log p(x | c) for every code: value `(B, K)`, given whatever else the inner model is given.

        Of the observed entries alone where `observed` has gaps. Codes share their noise, so that their differences have
        little of it.

        Raises:
            Unsupported: log p(x | c) is unnormalised, so that codes cannot be weighed against each other.
        """
        seed, parts = Rng(rng).seed(), []
        for code in range(self.levels):
            c = {**(given or {}), self.cause: torch.full((len(x),), code)}
            parts.append(self.inner.log_prob(x, c, observed, draws, seed))
        if parts[0].quality is Quality.UNNORMALISED:
            raise Unsupported(f"{self.name}: log p(x | {self.cause}) is unnormalised; Bayes' rule needs its constant.")
        stderr = None if parts[0].stderr is None else torch.stack([p.stderr for p in parts], -1)  # type: ignore[misc]
        return Value(torch.stack([p.value for p in parts], -1) + self.log_prior, parts[0].quality, stderr)

    def posterior(self, x: Tensor, draws: int = 1, rng: Rng | int | None = None) -> Tensor:
        """p(c | x), `(B, K)`, by Bayes' rule (exact where log p(x | c) is)."""
        return self.log_joint(x, draws, rng).value.softmax(-1)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        c = rng.categorical(self.log_prior.expand(count, -1))
        return self.inner.sample(1, {**given, self.cause: c}, rng)[0]

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        joint = self.log_joint(x, draws, rng, given, observed)
        stderr = None if joint.stderr is None else (joint.value.softmax(-1) * joint.stderr).square().sum(-1).sqrt()
        return Value(torch.logsumexp(joint.value, -1), joint.quality, stderr)


class Ensemble(Model):
    """An equal mixture of models of the same data: p(x | c) = (1/K) sum_k p_k(x | c), as exact as its worst member.

    Args:
        members: built models with one Space and the same givens.
    """

    members: Any  # nn.ModuleList of Models

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        if not members or any(m.space != members[0].space or m.given != members[0].given for m in members):
            raise ValueError("Ensemble: expected at least one model, all of the same Space and givens.")
        self.members = nn.ModuleList(members)
        self.space, self.given = members[0].space, members[0].given

    @property
    def card(self) -> Card:  # type: ignore[override]
        """The first member's card."""
        return self.members[0].card

    @property
    def chart(self) -> Chart:
        return self.members[0].chart

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """The quality of the worst member's draws."""
        return functools.reduce(Quality.__add__, (m.sampler for m in self.members))

    def offers(self) -> frozenset[str]:
        common = frozenset.intersection(*(m.offers() for m in self.members))
        return common & {"sample", "log_prob"} | (common & {"score"} if self.space.standard else frozenset())

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        whose = rng.integers(len(self.members), (count,))
        x = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype)
        for k, member in enumerate(self.members):
            rows = whose == k
            c = {name: value[rows] for name, value in given.items()}
            if rows.any():
                x[rows] = member.sample(1, c, rng)[0] if c else member.sample(int(rows.sum()), None, rng)
        return x

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        parts = [m.log_prob(x, given or None, observed, draws, rng) for m in self.members]
        quality = functools.reduce(Quality.__add__, (p.quality for p in parts))
        log_p = torch.stack([p.value for p in parts])
        # log mean exp of noisy bounds is no bound; by Jensen's inequality their plain mean is
        value = log_p.mean(0) if quality is Quality.LOWER else torch.logsumexp(log_p, 0) - math.log(len(parts))
        return Value(value, quality)


def joint(inner: Model, labels: Tensor, name: str = "label") -> Joint:
    """`Joint` with the class shares of some labels, add-one smoothed."""
    levels = inner.given[name].variables[0].levels
    counts = torch.bincount(labels.long(), minlength=levels).double() + 1.0
    return Joint(inner, name, (counts / counts.sum()).log())
