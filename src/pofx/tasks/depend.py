"""Depend: which columns say something about which others?

    I(i; j) = E [ log p(x_i, x_j) - log p(x_i) - log p(x_j) ],   x ~ p,   nats;     0 where they are independent

Routes, best first: the model's own marginals, averaged over its own draws; how near its draws lie to each other, column
by column and in both (engines/information.py). Both have errors of either sign, so that of independent columns is as
often below 0. The informational correlation sqrt(1 - exp(-2 I)) is between 0 and 1, and is |rho| for a normal pair.

References: Shannon 1948; Linfoot 1957 (informational correlation); Kraskov 2004 (arXiv:cond-mat/0305641); Ross 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.graph import dependence_figure
from pofx.drawing.values import names
from pofx.engines.information import of_labels, of_number_and_label, of_numbers
from pofx.kinds.base import Variable
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Which entries say something about which others?"
UNIT = "nats"
LABELS, FEWEST = 8, 20  # levels up to which an order is not looked at; draws
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
        An Answer whose value is `(D, D)` float64, symmetric, with zeros on the diagonal; `stderr` `(D, D)` the error of
        finite draws; diagnostics: `correlation` `(D, D)` in [0, 1], and `edges`: the pairs, strongest first, as
        (name, name, nats).

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


def by_neighbours(model: Model, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """How near the model's draws lie to each other, pair by pair of columns."""
    d = model.space.size
    if draws < FEWEST:
        raise Unsupported(f"{draws} draws are too few to have neighbours; expected {FEWEST}")
    x = _drawn(model, given, draws, rng).flatten(1).double()
    columns = [_column(x[:, i], model.space.variable(i), rng) for i in range(d)]
    info, error = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for i in range(d):
        for j in range(i):
            (info[i, j], error[i, j]) = (info[j, i], error[j, i]) = _information(columns[i], columns[j])
    return _answer(model, info, error)


def _drawn(model: Model, given: dict[str, Tensor], draws: int, rng: Rng) -> Tensor:
    return model.sample(1, given, rng)[0] if given else model.sample(draws, None, rng)


def _part(model: Model, x: Tensor, given: dict[str, Tensor], entries: list[int], rng: Rng) -> Any:
    seen = torch.zeros(model.space.size, dtype=torch.bool)
    seen[entries] = True
    return model.log_prob(x, given or None, seen.reshape(model.space.shape).expand(x.shape), 1, rng)


def _column(x: Tensor, v: Variable, rng: Rng) -> np.ndarray:
    """Labels as whole numbers; numbers with noise of one step, so that none tie."""
    if v.support in ("category", "binary") or v.discrete and v.levels <= LABELS:
        return x.long().numpy()
    step = 1.0 if v.discrete else max(v.resolution, 1e-10 * v.scale)
    return (x + step * (rng.uniform(tuple(x.shape)) - 0.5)).numpy()


def _information(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """I of two columns of draws, and its standard error."""
    if a.dtype.kind == b.dtype.kind == "i":
        return of_labels(a, b)
    if "i" in (a.dtype.kind, b.dtype.kind):
        numbers, labels = (a, b) if b.dtype.kind == "i" else (b, a)
        terms = of_number_and_label(numbers, labels)
    else:
        terms = of_numbers(a, b)
    return float(terms.mean()), float(terms.std() / len(terms) ** 0.5)


def _answer(model: Model, info: Tensor, error: Tensor | None) -> Answer:
    known = [model.space.variable(i).name for i in range(model.space.size)]
    order = [(i, j) for i in range(len(known)) for j in range(i)]
    edges = sorted(((known[j], known[i], float(info[i, j])) for i, j in order), key=lambda e: -e[2])
    words = {"correlation": (1 - torch.exp(-2 * info.clamp_min(0))).sqrt(), "edges": edges}
    return Answer(info, UNIT, Quality.ESTIMATE, raw=info, stderr=error, diagnostics=words)


def figure(answer: Answer) -> Figure:
    """A heat map of every pair of columns, beside the graph of those that go together."""
    assert answer.model is not None
    error = None if answer.stderr is None else answer.stderr.cpu().numpy()
    correlation = answer.diagnostics["correlation"].cpu().numpy()
    return dependence_figure(answer.value.cpu().numpy(), correlation, names(answer.model.space), error)


ROUTES = (
    route(by_marginals, "sample", "log_prob", sources="Shannon 1948"),
    route(by_neighbours, "sample", sources="Kraskov et al. 2004 (arXiv:cond-mat/0305641)"),
)
