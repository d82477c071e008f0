"""Impute: what is missing?

    x_m ~ p(x_m | x_o), several draws;  observed entries come back bit-identical

Routes, best first: the model's own conditional; a particle filter along its cursor; guidance of its denoiser; a Gibbs
chain between x_m and z; a Langevin chain on its score; the nearest of many samples. In-painting is the same question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pofx.engines.diffusion import VE
from pofx.engines.estimators import drawn
from pofx.engines.guidance import guided
from pofx.kinds import KINDS
from pofx.model import Model, Quality
from pofx.randomness import Rng
from pofx.tasks.base import Answer, Pools, given_for, route, rows_of, solve

QUESTION = "What is missing?"
UNIT = "the data's own"
PARTICLES = 16


def impute(
    model: Model,
    x: Any,
    given: Mapping[str, Any] | None = None,
    *,
    observed: Tensor | None = None,
    draws: int = 1,
    rng: Rng | torch.Generator | int | None = None,
    route: str | None = None,
) -> Answer:
    """Complete rows with missing entries, several times.

    Args:
        model: fitted.
        x: rows in the user's own type with their gaps (NaN, None), or a tensor `(N, *event)` with a mask.
        given: name -> one value, or N values.
        observed: `(N, *event)` bool, where x itself cannot say (pictures): False is missing.
        draws: completions of every row; their spread is the uncertainty.
        rng: a seed or generator.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is a list of `draws` completed objects of the user's type; `raw` is `(draws, N, *event)`.
    """
    if draws < 1:
        raise ValueError(f"impute: got draws = {draws}, expected at least 1.")
    rows, seen = rows_of(model, x)
    if observed is not None:
        if tuple(observed.shape) != tuple(rows.shape):
            raise ValueError(f"impute: observed has shape {tuple(observed.shape)}, expected {tuple(rows.shape)}.")
        seen = seen & torch.as_tensor(observed, dtype=torch.bool)
    holes = ~seen.flatten(1).all(1)
    given = given_for(model, given, len(rows))
    completed = rows.expand(draws, *rows.shape).clone()
    question = {"given": {k: v[holes] for k, v in given.items()}, "draws": draws, "rng": Rng(rng)}
    if not bool(holes.any()):
        found = Answer(None, UNIT, Quality.EXACT, "nothing was missing", "impute")
    else:
        found = solve("impute", ROUTES, model, route, x=rows[holes], observed=seen[holes], **question)
        completed[:, holes] = torch.where(seen[holes], rows[holes], found.raw)  # type: ignore[arg-type]
    user = rows if isinstance(x, Tensor) or not hasattr(x, "__len__") else x
    value = [_restored(model, user, completed[k], seen) for k in range(draws)]
    return Answer(value, UNIT, found.quality, found.route, "impute", completed, diagnostics=found.diagnostics)


def _restored(model: Model, user: Any, x: Tensor, observed: Tensor) -> Any:
    kind = KINDS[model.space.kind]
    if isinstance(user, Tensor) or hasattr(user, "part") or hasattr(user, "take") and hasattr(user, "observed"):
        return kind.restore(x, model.space)
    return kind.complete(user, x, observed, model.space)


def by_condition(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The model's own conditional p(x_m | x_o)."""
    with torch.no_grad():
        conditional = model.condition(x, observed, given or None)
        return _draws(conditional.sample(draws, rng), conditional.quality)


def by_particles(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """A particle filter along the model's order: missing entries are drawn, observed ones weigh and resample."""
    with torch.no_grad():
        out = [_filter(model, x, observed, given, rng) for _ in range(draws)]
    return _draws(torch.stack(out), Quality.ESTIMATE, {"particles": PARTICLES})


def _filter(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], rng: Rng) -> Tensor:
    rows, many = len(x), len(x) * PARTICLES
    flat, mask = (t.flatten(1).repeat_interleave(PARTICLES, 0) for t in (x, observed))
    flat = flat.clone()
    cursor = model.steps(many, {k: v.repeat_interleave(PARTICLES, 0) for k, v in given.items()})
    log_w, ahead = torch.zeros(rows, PARTICLES, dtype=torch.float64), cursor.start()
    for i in cursor.order:
        drawn = ahead.sample(rng).reshape(many).to(flat.dtype)
        flat[:, i] = torch.where(mask[:, i], flat[:, i], drawn)
        log_p = ahead.log_prob(flat[:, i : i + 1]).reshape(rows, PARTICLES).double()
        log_w = log_w + torch.where(mask[:, i].reshape(rows, PARTICLES), log_p, torch.zeros_like(log_p))
        effective = 1 / log_w.softmax(1).square().sum(1)
        if bool((effective < PARTICLES / 2).any()):
            pick = _resample(log_w, effective < PARTICLES / 2, rng)
            flat, log_w = flat[pick], torch.where((effective < PARTICLES / 2)[:, None], torch.zeros_like(log_w), log_w)
            cursor.reorder(pick)
        following = cursor.next(flat[:, i])
        ahead = following if following is not None else ahead
    last = rng.categorical(log_w) + torch.arange(rows) * PARTICLES
    return flat[last].reshape(x.shape)


def _resample(log_w: Tensor, needed: Tensor, rng: Rng) -> Tensor:
    rows, particles = log_w.shape
    stay = torch.arange(particles).expand(rows, -1)
    drawn = rng.categorical(log_w.unsqueeze(1).expand(-1, particles, -1))
    pick = torch.where(needed[:, None], drawn, stay)
    return (pick + torch.arange(rows)[:, None] * particles).flatten()


def by_guidance(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The denoiser, guided by the observed entries through its own posterior covariance."""
    chart, path = model.chart, VE()
    u, mask = (t.repeat(draws, *[1] * (t.ndim - 1)) for t in (chart.encode(x), chart.mask(observed)))
    c = {k: v.repeat(draws, *[1] * (v.ndim - 1)) for k, v in given.items()}

    def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return model.denoise(u_t, alpha, sigma, c)

    done = guided(denoise, mask, u, path, rng, steps=24, noise=0.05, iterations=4)
    return _draws(chart.decode(done, rng).reshape(draws, *x.shape), Quality.ESTIMATE)


def by_gibbs(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """A chain between x_m and z: z ~ q(z | x), accepted by Metropolis, then x_m ~ p(x | z)."""
    many = {k: v.repeat(draws, *[1] * (v.ndim - 1)) for k, v in given.items()} or None
    rows, mask = (t.repeat(draws, *[1] * (t.ndim - 1)) for t in (x, observed))
    with torch.no_grad():
        x_now = torch.where(mask, rows, model.sample(1, many, rng)[0] if many else model.sample(len(rows), None, rng))
        z = None
        for _ in range(40):
            z = _metropolis(model, x_now, z, many, rng)
            x_now = torch.where(mask, rows, model.decode(z, many).sample(rng))
    return _draws(x_now.reshape(draws, *x.shape), Quality.ESTIMATE)


def _metropolis(model: Model, x: Tensor, z: Tensor | None, given: dict[str, Tensor] | None, rng: Rng) -> Tensor:
    q = model.encode(x, given)
    fresh = drawn(q, rng)
    if z is None:
        return fresh

    def log_weight(value: Tensor) -> Tensor:
        log_x = model.decode(value, given).log_prob(x).flatten(1).sum(1)
        return (log_x + model.log_code(value, given) - q.log_prob(value)).double()

    accept = rng.uniform((len(z),), torch.float64).log() < log_weight(fresh) - log_weight(z)
    accept = accept | q.log_prob(z).isneginf()  # where q is a point there is no way back: every move is taken
    return torch.where(accept.reshape(-1, *[1] * (z.ndim - 1)), fresh, z)


def by_langevin(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """A Langevin chain on the missing entries, following the score, from the nearest samples."""
    chart = model.chart
    start = by_nearest(model, x, observed, given, draws, rng).raw
    c = {k: v.repeat(draws, *[1] * (v.ndim - 1)) for k, v in given.items()}
    u = chart.encode(start.flatten(0, 1))  # type: ignore[union-attr]
    mask = chart.mask(observed).repeat(draws, *[1] * (u.ndim - 1))
    for step in (0.02, 0.01, 0.005, 0.002):
        for _ in range(25):
            slope = model.score(u, c).detach().clamp(-20, 20)
            move = step * slope + (2 * step) ** 0.5 * rng.normal(tuple(u.shape))
            u = torch.where(mask, u, u + move.to(u.dtype))
    return _draws(chart.decode(u, rng).reshape(draws, *x.shape), Quality.ESTIMATE)


def by_nearest(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The missing part of those of many samples whose observed part is nearest."""
    chart, pools = model.chart, Pools(model, given, 4000, rng)
    u, mask = chart.encode(x).flatten(1), chart.mask(observed).flatten(1)
    chosen = []
    for i in range(len(u)):
        pool, samples = pools.of(i)
        gap = ((u[i] - samples) * mask[i]).square().sum(1)
        near = gap.topk(max(draws, 10), largest=False)
        weight = -near.values / near.values[-1].clamp_min(1e-9) * 2
        chosen.append(pool[near.indices[rng.categorical(weight.expand(draws, -1))]])
    return _draws(torch.where(observed, x, torch.stack(chosen, 1)), Quality.ESTIMATE, {"samples": 4000})


def _draws(x: Tensor, quality: Quality, diagnostics: Mapping[str, Any] | None = None) -> Answer:
    return Answer(None, UNIT, quality, raw=x, diagnostics=dict(diagnostics or {}))


ROUTES = (
    route(by_condition, "condition"),
    route(by_particles, "steps", sources="Doucet et al. 2001"),
    route(by_guidance, "denoise", sources="Rozet et al. 2024 (arXiv:2405.13712)"),
    route(by_gibbs, "encode", "decode", "sample", sources="Mattei and Frellsen 2018 (arXiv:1802.04826)"),
    route(by_langevin, "score", "sample", sources="Song and Ermon 2019 (arXiv:1907.05600)"),
    route(by_nearest, "sample", sources="Pritchard et al. 1999"),
)
