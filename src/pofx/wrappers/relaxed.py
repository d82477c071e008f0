"""Relaxed: any data for a family that wants standardised Euclidean coordinates.

    log p(x) >= E_q [ log p(u) + log p(x | u) - log q(u | x) ],    u ~ q(u | x) in the chart

Reference: Theis et al. 2016 (arXiv:1511.01844).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.model import Conditional, Given, Model, Player, Predictive, Quality, Report, Value
from pofx.randomness import Rng
from pofx.wrappers.base import Wrapped, mapped
from pofx.wrappers.decoded import Charted


class Relaxed(Wrapped):
    """Any data for a family that wants standardised Euclidean coordinates.

    Args:
        inner: the family, not yet built.
    """

    def __init__(self, inner: Model) -> None:
        super().__init__()
        self.inner = inner

    @property
    def chart(self) -> Chart:
        return self._chart

    @property
    def core(self) -> Model:
        return self.inner

    @property
    def back(self) -> Model:
        """The way back, of a family that has one."""
        return self.inner.way_back(self._chart)

    def offers(self) -> frozenset[str]:
        return self.inner.offers() - {"steps"}

    def _build(self) -> None:
        self._chart = Chart(self.space, points=self.inner.points)
        self.inner.build(self._chart.space, self.given, seed=torch.initial_seed() % 2**31)

    def _players(self) -> list[Player]:
        return [mapped(p, self._relax) for p in self.inner.players()]

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        u = self._chart.encode(data.x, rng)
        observed = None if data.observed is None else self._chart.mask(data.observed)
        relaxed = Data(u, self._chart.space, data.given, data.given_spaces, observed, data.split, data.name)
        self.inner.fit_closed(relaxed, rng, report)

    def _relax(self, batch: Batch, rng: Rng) -> Batch:
        observed = None if batch.observed is None else self._chart.mask(batch.observed)
        return Batch(self._chart.encode(batch.x, rng), batch.given, observed, batch.index)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        return self._chart.decode(self.inner._sample(count, given, rng), rng)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        found = self._inside(x, given, observed, draws, rng)
        return replace(found, value=found.value.masked_fill(self._chart.outside(x, observed), -math.inf))

    def _inside(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        """log p of rows within their bounds."""
        if self._chart.exact:  # a change of variables: no noise, no bound
            return self._term(x, given, observed, draws, rng, None)
        terms = [self._term(x, given, observed, 1, rng, rng) for _ in range(draws)]
        log_w = torch.stack([t.value for t in terms])
        if terms[0].quality is Quality.LOWER:  # noisy bounds are no unbiased weights: only their mean bounds log p
            stderr = log_w.std(0) / math.sqrt(draws) if draws > 1 else terms[0].stderr
            return Value(log_w.mean(0), Quality.LOWER, stderr, {"draws": draws})
        weights = (log_w - log_w.max(0).values).exp()
        stderr = weights.std(0) / weights.mean(0) / math.sqrt(draws) if draws > 1 else terms[0].stderr
        value = torch.logsumexp(log_w, 0) - math.log(draws)
        return Value(value, terms[0].quality + Quality.LOWER, stderr, {"draws": draws})

    def _term(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng, noise: Rng | None) -> Value:
        """log p(u) + log p(x | u) - log q(u | x) for one u, of the observed entries alone where there are gaps."""
        u, mask = self._chart.encode(x, noise), None if observed is None else self._chart.mask(observed)
        value = self.inner.log_prob(u, given or None, mask, draws, rng)
        return value.shifted(self._chart.log_weight(u, x, observed))

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        mask = self._chart.mask(observed)
        own = self.inner.condition(self._chart.encode(x), mask, given or None)
        quality = own.quality if self._chart.exact else own.quality + Quality.ESTIMATE
        dense = self._chart.exact and own.log_prob is not None

        def sample(n: int, rng: Rng) -> Tensor:
            rows, masks = (t.repeat(n, *[1] * (t.ndim - 1)) for t in (x, mask))  # every draw has its own u ~ q(u | x)
            many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
            completed = self.inner.condition(self._chart.encode(rows, rng), masks, many or None).sample(1, rng)[0]
            return torch.where(observed, x, self._chart.decode(completed, rng).reshape(n, *x.shape))

        def log_prob(full: Tensor) -> Value:
            whole, part = (self.log_prob(full, given or None, seen) for seen in (None, observed))
            return whole.shifted(-part.value, -part.quality)

        return Conditional(sample, log_prob if dense else None, quality)

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        return self.inner.denoise(u_t, alpha_t, sigma_t, given)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self.inner.encode(self._chart.encode(x), given or None)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        inner = self.inner.decode(z, given or None)
        return Predictive(Charted(self._chart, inner.likelihood, self.name), inner.params)

    def log_code(self, z: Tensor, given: Given | None = None) -> Tensor:
        return self.inner.log_code(z, given)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        return self.inner.score(u, given)


def adapted(model: Model, space: Space) -> Model:
    """The model itself, or `Relaxed` around it where the data is not what it wants."""
    return Relaxed(model) if model.card.euclidean and not space.standard else model
