"""Models made of models: wrap, do not subclass, to change behaviour.

    Relaxed(m)      log p(x) >= E_q [ log p_m(u) + log p(x|u) - log q(u|x) ]      any data for a Euclidean family
    Fixed(m, c)     p(x | c) with c held fast
    Guided(m, w)    D(none) + sum_i w_i [ D(c_1..i) - D(c_1..i-1) ]               classifier-free guidance
    Ensemble(m_k)   p(x) = mean_k p_k(x)
    Joint(prior, m) p(c) p(x | c):  log p(x) = logsumexp_c,  p(c | x) by Bayes' rule

A wrapper offers what its parts offer and it can forward. References: Theis et al. 2016 (arXiv:1511.01844);
Ho and Salimans 2021 (arXiv:2207.12598).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pofx.data import Batch, Data
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.model import Card, Conditional, Cursor, Given, Model, Player, Quality, Report, Unsupported, Value
from pofx.randomness import Rng


class Relaxed(Model):
    """Any data for a family that wants standardised Euclidean coordinates.

    Args:
        inner: the family, not yet built.
    """

    def __init__(self, inner: Model) -> None:
        super().__init__()
        self.inner = inner

    @property
    def card(self) -> Card:  # type: ignore[override]
        """The inner family's card."""
        return self.inner.card

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def chart(self) -> Chart:
        return self._chart

    @property
    def core(self) -> Model:
        return self.inner

    @property
    def closed(self) -> bool:
        return self.inner.closed

    @property
    def loss_unit(self) -> str:  # type: ignore[override]
        """The inner family's unit of its loss."""
        return self.inner.loss_unit

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """The rows of a step that the inner family likes."""
        return self.inner.batch_size

    @property
    def validate_by(self) -> str:  # type: ignore[override]
        """How the inner family is validated."""
        return self.inner.validate_by

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """The quality of the inner model's draws."""
        return self.inner.sampler

    def offers(self) -> frozenset[str]:
        return self.inner.offers() - {"decode", "steps"}

    def _build(self) -> None:
        self._chart = Chart(self.space)
        self.inner.build(self._chart.space, self.given, seed=torch.initial_seed() % 2**31)

    def _players(self) -> list[Player]:
        return [_mapped(p, self._relax) for p in self.inner.players()]

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
        quality = Quality.EXACT if self._chart.exact else Quality.ESTIMATE

        def sample(n: int, rng: Rng) -> Tensor:
            rows, masks = (t.repeat(n, *[1] * (t.ndim - 1)) for t in (x, mask))  # every draw has its own u ~ q(u | x)
            many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
            completed = self.inner.condition(self._chart.encode(rows, rng), masks, many or None).sample(1, rng)[0]
            return torch.where(observed, x, self._chart.decode(completed, rng).reshape(n, *x.shape))

        def log_prob(full: Tensor) -> Value:
            whole, part = (self.log_prob(full, given or None, seen) for seen in (None, observed))
            return whole.shifted(-part.value, -part.quality)

        return Conditional(sample, log_prob if self._chart.exact else None, quality)

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        return self.inner.denoise(u_t, alpha_t, sigma_t, given)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self.inner.encode(self._chart.encode(x), given or None)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        return self.inner.score(u, given)


class Fixed(Model):
    """p(x | c) with some of c held fast: a Model given less.

    Args:
        inner: a built model.
        values: name -> one value of that given, without a batch axis.
    """

    def __init__(self, inner: Model, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.inner, self.values = inner, dict(values)
        self.space, self.given = inner.space, {k: s for k, s in inner.given.items() if k not in self.values}

    @property
    def card(self) -> Card:  # type: ignore[override]
        """The inner model's card."""
        return self.inner.card

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def chart(self) -> Chart:
        return self.inner.chart

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """The quality of the inner model's draws."""
        return self.inner.sampler

    def offers(self) -> frozenset[str]:
        return self.inner.offers() - {"decode"}

    def _with(self, given: Given, rows: int) -> dict[str, Tensor]:
        return {**given, **{k: v.expand(rows, *v.shape) for k, v in self.values.items()}}

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        c = self._with(given, count)
        return self.inner.sample(1, c, rng)[0] if c else self.inner.sample(count, None, rng)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        return self.inner.log_prob(x, self._with(given, len(x)), observed, draws, rng)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        return self.inner.condition(x, observed, self._with(given, len(x)))

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        return self.inner.denoise(u_t, alpha_t, sigma_t, self._with(given, len(u_t)))

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self.inner.encode(x, self._with(given, len(x)))

    def _score(self, u: Tensor, given: Given) -> Tensor:
        return self.inner.score(u, self._with(given, len(u)))

    def _steps(self, rows: int, given: Given) -> Cursor:
        return self.inner.steps(rows, self._with(given, rows))


class Guided(Model):
    """Classifier-free guidance: it draws sharper x given c, and has no density.

    Args:
        inner: a built model with `denoise`, trained with dropped givens.
        scale: name -> weight; 1 is the model itself, 0 ignores that given.
    """

    def __init__(self, inner: Model, scale: Mapping[str, float]) -> None:
        super().__init__()
        if "denoise" not in inner.offers():
            raise Unsupported(f"Guided needs a model with denoise; {inner.name} offers {sorted(inner.offers())}.")
        unknown = sorted(set(scale) - set(inner.given))
        if unknown:
            raise ValueError(f"Guided: scale names {unknown}; {inner.name} was fitted given {sorted(inner.given)}.")
        self.inner, self.scale = inner, dict(scale)
        self.space, self.given = inner.space, inner.given

    @property
    def card(self) -> Card:  # type: ignore[override]
        """The inner model's card."""
        return self.inner.card

    @property
    def chart(self) -> Chart:
        return self.inner.chart

    def offers(self) -> frozenset[str]:
        return frozenset({"denoise"})

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        so_far = {k: v for k, v in given.items() if k not in self.scale}
        last = total = self.inner.denoise(u_t, alpha_t, sigma_t, so_far)
        for name, weight in self.scale.items():
            if name not in given:
                continue
            so_far = {**so_far, name: given[name]}
            guided = self.inner.denoise(u_t, alpha_t, sigma_t, so_far)
            last, total = guided, total + weight * (guided - last)
        return total


class Joint(Model):
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
    def card(self) -> Card:  # type: ignore[override]
        """The inner model's card."""
        return self.inner.card

    @property
    def name(self) -> str:
        return f"joint {self.inner.name}"

    @property
    def levels(self) -> int:
        """K, the number of codes of c."""
        return len(self.log_prior)

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """The quality of the inner model's draws."""
        return self.inner.sampler

    def offers(self) -> frozenset[str]:
        direct = self.inner.offers() & {"sample", "log_prob"}
        return direct | ({"score"} if self.space.standard and "log_prob" in direct else set())

    def log_joint(self, x: Tensor, draws: int = 1, rng: Rng | int | None = None, given: Given | None = None) -> Value:
        """log p(c) + log p(x | c) for every code: value `(B, K)`, given whatever else the inner model is given.

        Raises:
            Unsupported: log p(x | c) is unnormalised, so that codes cannot be weighed against each other.
        """
        rng, parts = Rng(rng), []
        for code in range(self.levels):
            c = {**(given or {}), self.cause: torch.full((len(x),), code)}
            parts.append(self.inner.log_prob(x, c, draws=draws, rng=rng))
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
        if observed is not None:
            raise Unsupported("Joint: ask the inner model for the density of an observed part.")
        joint = self.log_joint(x, draws, rng, given)
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


def adapted(model: Model, space: Space) -> Model:
    """The model itself, or `Relaxed` around it where the data is not what it wants."""
    return Relaxed(model) if model.card.euclidean and not space.standard else model


def _mapped(player: Player, relax: Callable[[Batch, Rng], Batch]) -> Player:
    def loss(batch: Batch, rng: Rng) -> Tensor:
        return player.loss(relax(batch, rng), rng)

    return Player(player.name, player.params, loss, player.every, player.lr, player.betas, player.weight_decay)
