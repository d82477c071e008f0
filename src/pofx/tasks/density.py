"""Density: how likely is x under the model?

    log p(x | c), nats per event;  of the observed entries alone where x has gaps;     bits/dim = -log p / (D ln 2)

Routes: the model's own log p (exact, or a bound), and the probability-flow ODE of a denoiser (an estimate; where x is a
cloud of u, as of rounded columns or categories, a bound besides: log p(x) >= E log 1/K sum_k w_k, with
w = p(u) p(x | u) / q(u | x)).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.scores import density_figure
from pofx.engines.diffusion import VE, ode_log_prob
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.model import Model, Quality, Unsupported, Value
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, rows_of, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "How likely is x?"
UNIT = "nats"
CHUNK = 512
MOST = 8  # points of a cloud, each of which is an ODE, or random probes of its divergence


def density(
    model: Model,
    x: Any,
    given: Mapping[str, Any] | None = None,
    *,
    draws: int = 16,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """log p(x) of each row, nats.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)` in the model's coordinates; NaN is missing.
        given: name -> one value, or N values.
        draws: Monte-Carlo draws of a bound: more draws tighten it.
        rng: of those draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer with value `(N,)` float64 and, for a bound or an estimate, `stderr` `(N,)`.
    """
    at_least_one("density", draws=draws)
    x, observed = rows_of(model, x)
    given = given_for(model, given, len(x))
    return solve("density", ROUTES, model, route, x=x, observed=observed, given=given, draws=draws, rng=Rng(rng))


def bits_per_dim(log_p: Tensor, space: Space, observed: Tensor | None = None) -> Tensor:
    """-log p / (D ln 2): bits per entry at the space's own bin width (a level, or the stated resolution).

    With `observed` `(N, *event)`, D counts the observed entries of each row; a row without any is NaN.

    Raises:
        Unsupported: log p is a density; bits per dimension need a bin width.
    """
    if not space.mass:
        raise Unsupported("bits per dimension need a bin width, and this space has real columns of resolution 0.")
    if observed is None:
        return -log_p / (space.size * math.log(2))
    count = observed.flatten(1).sum(1).to(log_p)
    return -log_p / (count * math.log(2)).masked_fill(count == 0, math.nan)


def by_log_prob(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The model's own log p."""
    mask = None if bool(observed.all()) else observed
    parts: list[Value] = []
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            s = slice(start, start + CHUNK)
            c = {k: v[s] for k, v in given.items()}
            parts.append(model.log_prob(x[s], c or None, None if mask is None else mask[s], draws, rng))
    return answer_of(model, parts)


def by_probability_flow(
    model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng
) -> Answer:
    """The probability-flow ODE of the denoiser, with the divergence along the way."""
    if not bool(observed.all()):
        raise Unsupported("the probability-flow ODE needs complete rows")
    chart, path = model.chart, VE()

    def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return model.denoise(u_t, alpha, sigma, given)

    def once(probes: int) -> Value:
        """log w of one u."""
        with torch.no_grad():
            u = chart.encode(x, rng)
            found = ode_log_prob(denoise, u, path, steps=48, rng=rng, exact=exact, probes=probes)
        return Value(found.value.double() + chart.log_weight(u, x), Quality.ESTIMATE, found.stderr)

    exact, K = chart.space.size <= 16, max(2, min(draws, MOST))
    if chart.exact:  # a change of variables: no noise, no bound
        return answer_of(model, [_within(chart, x, once(K))])
    log_w = torch.stack([once(1).value for _ in range(K)])  # whose spread is that of u and of the probes
    if exact:
        share = log_w.softmax(0) * K
        value, stderr = torch.logsumexp(log_w, 0) - math.log(K), share.std(0) / math.sqrt(K)
    else:  # the exponential of a noisy log w is no unbiased weight: only the mean of log w bounds log p
        value, stderr = log_w.mean(0), log_w.std(0) / math.sqrt(K)
    return answer_of(model, [_within(chart, x, Value(value, Quality.ESTIMATE + Quality.LOWER, stderr, {"draws": K}))])


def _within(chart: Chart, x: Tensor, value: Value) -> Value:
    return replace(value, value=value.value.masked_fill(chart.outside(x), -math.inf))


def answer_of(model: Model, parts: list[Value]) -> Answer:
    """Values of chunks as one answer.

    Raises:
        FloatingPointError: a row is NaN, which no model of ours should give.
    """
    log_p = torch.cat([p.value.double() for p in parts])
    if torch.isnan(log_p).any():
        raise FloatingPointError(
            f"{model.name}: log p is NaN for {int(torch.isnan(log_p).sum())} rows; please report it."
        )
    errors = [torch.zeros_like(p.value) if p.stderr is None else p.stderr for p in parts]
    stderr = None if all(p.stderr is None for p in parts) else torch.cat(errors)
    quality = functools.reduce(Quality.__add__, (p.quality for p in parts))  # chunks may differ in what they miss
    unit = "nats, up to a constant" if quality is Quality.UNNORMALISED else model.space.unit()
    return Answer(log_p, unit, quality, raw=log_p, stderr=stderr, diagnostics=parts[0].diagnostics)


def figure(answer: Answer) -> Figure:
    """A histogram of log p with its mean; pictures: the likeliest and the least likely, else the lowest by number."""
    assert answer.model is not None
    space, x, observed = answer.model.space, answer.question["x"], answer.question["observed"]
    value = answer.value.cpu()
    finite = value.isfinite()
    bits = None
    if space.mass and answer.quality is not Quality.UNNORMALISED and bool(finite.any()):
        bits = float(bits_per_dim(value, space, observed.cpu())[finite].nanmean())
    stderr = None if answer.stderr is None else float(answer.stderr.cpu()[finite].double().nanmean())
    return density_figure(value.numpy(), answer.unit, answer.quality.value, x, space, stderr, bits)


ROUTES = (
    route(by_log_prob, "log_prob"),
    route(by_probability_flow, "denoise", sources="Song et al. 2021 (arXiv:2011.13456)"),
)
