"""Depend: which columns say something about which others?

    I(i; j) = E [ log p(x_i, x_j) - log p(x_i) - log p(x_j) ],   x ~ p,   nats;     0 where they are independent

Routes, best first: the model's own marginals, averaged over its own draws; a histogram of its draws (few bins, with the
bias of finite draws taken off). The informational correlation sqrt(1 - exp(-2 I)) is between 0 and 1, and is |rho| for
a normal pair.

References: Shannon 1948; Linfoot 1957 (informational correlation); Miller 1955 (bias of the histogram).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, solve

QUESTION = "Which entries say something about which others?"
UNIT = "nats"
BINS = 8
LARGEST = 64  # entries, above which pairs are too many


def depend(
    model: Model,
    given: Mapping[str, Any] | None = None,
    *,
    draws: int = 2000,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """The mutual information of every pair of entries, as the model has it.

    Args:
        model: fitted.
        given: name -> one value.
        draws: of the model, over which the expectation is taken.
        rng: of the draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is `(D, D)` float64, symmetric, with zeros on the diagonal; diagnostics: `correlation`
        `(D, D)` in [0, 1], and `edges`: the pairs, strongest first, as (name, name, nats).

    Raises:
        ValueError: more than 64 entries. Unsupported: the model cannot draw.
    """
    if model.space.size > LARGEST:
        raise ValueError(f"depend: {model.space.size} entries make too many pairs; expected at most {LARGEST}.")
    at_least_one("depend", draws=draws)
    c = given_for(model, given, draws)
    return solve("depend", ROUTES, model, route, given=c, draws=draws, rng=Rng(rng))


def by_marginals(model: Model, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The log p of single entries and of pairs, averaged over the model's own draws."""
    x, d = _drawn(model, given, draws, rng), model.space.size
    with torch.no_grad():
        alone = [_part(model, x, given, [i], rng) for i in range(d)]
        info, error = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
        quality = Quality.EXACT
        for i in range(d):
            for j in range(i):
                both = _part(model, x, given, [i, j], rng)
                gain = both.value.double() - alone[i].value - alone[j].value
                info[i, j] = info[j, i] = gain.mean()
                error[i, j] = error[j, i] = gain.std() / draws**0.5
                quality = quality + both.quality
    if quality is not Quality.EXACT:
        raise Unsupported("its marginals are not exact, and differences of bounds mean nothing")
    return _answer(model, info, error)


def by_histogram(model: Model, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """A histogram of the model's draws, pair by pair."""
    x, d = _drawn(model, given, draws, rng), model.space.size
    codes = torch.stack([_codes(x.flatten(1)[:, i].double(), model.space.variable(i)) for i in range(d)], 1)
    info = torch.zeros(d, d, dtype=torch.float64)
    for i in range(d):
        for j in range(i):
            info[i, j] = info[j, i] = _information(codes[:, i], codes[:, j])
    return _answer(model, info, None)


def _drawn(model: Model, given: dict[str, Tensor], draws: int, rng: Rng) -> Tensor:
    return model.sample(1, given, rng)[0] if given else model.sample(draws, None, rng)


def _part(model: Model, x: Tensor, given: dict[str, Tensor], entries: list[int], rng: Rng) -> Any:
    seen = torch.zeros(model.space.size, dtype=torch.bool)
    seen[entries] = True
    return model.log_prob(x, given or None, seen.reshape(model.space.shape).expand(x.shape), 1, rng)


def _codes(x: Tensor, v: Any) -> Tensor:
    """Bins of equal count, or the codes of a category."""
    if v.discrete and v.levels <= BINS or v.support in ("category", "binary"):
        return x.long()
    edges = torch.quantile(x, torch.linspace(0, 1, BINS + 1, dtype=x.dtype)[1:-1]).unique()
    return torch.bucketize(x.contiguous(), edges)


def _information(a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of two columns of codes, nats, less the bias of a finite sample; never below 0."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)
    p = table / len(a)
    rows, columns = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
    plain = torch.where(p > 0, p * (p / (rows * columns).clamp_min(1e-300)).clamp_min(1e-300).log(), 0.0).sum()
    bias = (int((rows > 0).sum()) - 1) * (int((columns > 0).sum()) - 1) / (2 * len(a))
    return (plain - bias).clamp_min(0.0)


def _answer(model: Model, info: Tensor, error: Tensor | None) -> Answer:
    names = [model.space.variable(i).name for i in range(model.space.size)]
    order = [(i, j) for i in range(len(names)) for j in range(i)]
    edges = sorted(((names[j], names[i], float(info[i, j])) for i, j in order), key=lambda e: -e[2])
    words = {"correlation": (1 - torch.exp(-2 * info.clamp_min(0))).sqrt(), "edges": edges}
    return Answer(info, UNIT, Quality.ESTIMATE, raw=info, stderr=error, diagnostics=words)


ROUTES = (
    route(by_marginals, "sample", "log_prob", sources="Shannon 1948"),
    route(by_histogram, "sample", sources="Miller 1955"),
)
