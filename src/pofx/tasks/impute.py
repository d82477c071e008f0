"""Impute: what is missing?

    x_m ~ p(x_m | x_o), several draws;  observed entries come back bit-identical

Routes, best first: the model's own conditional; a particle filter along its cursor; guidance of its denoiser; a Gibbs
chain between x_m and z; a Langevin chain on its score; the nearest of many samples. In-painting is the same question.
Draws of one model vary as x_m given x_o does; what is not known about the model itself they leave out. Several models,
each fitted to a bootstrap sample of the rows (`pofx.Imputer(models=...)`), put that in: such draws are proper (Rubin
1987), and what is worked out on each completion may be pooled (`pofx.metrics.pooling`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.gaps import Filled, filled_figure
from pofx.engines.diffusion import VE
from pofx.engines.estimators import drawn
from pofx.engines.guidance import guided
from pofx.kinds import KINDS
from pofx.model import Model, Quality
from pofx.randomness import Rng
from pofx.tasks.base import Answer, Pools, at_least_one, given_for, route, rows_of, solve
from pofx.tasks.completion import summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What is missing?"
UNIT = "the data's own"
PARTICLES = 16


def impute(
    model: Model | Sequence[Model],
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
        model: fitted; or several, fitted to bootstrap samples of the same rows: the draws are dealt out among them.
        x: rows in the user's own type with their gaps (NaN, None), or a tensor `(N, *event)` with a mask.
        given: name -> one value, or N values.
        observed: `(N, *event)` bool, where x itself cannot say (pictures): False is missing.
        draws: completions of every row; their spread is the uncertainty.
        rng: a seed or generator.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is a list of `draws` completed objects of the user's type; `raw` is `(draws, N, *event)`.
        Its diagnostics hold what the draws say together: "mean" in the user's type, "spread", "low" and "high" (see
        `completion.summary`).
    """
    at_least_one("impute", draws=draws)
    models = [model] if isinstance(model, Model) else list(model)
    rows, seen = rows_of(models[0], x)
    if observed is not None:
        if tuple(observed.shape) != tuple(rows.shape):
            raise ValueError(f"impute: observed has shape {tuple(observed.shape)}, expected {tuple(rows.shape)}.")
        seen = seen & torch.as_tensor(observed, dtype=torch.bool)
    given = given_for(models[0], given, len(rows))
    found = _dealt(models, rows, seen, given, draws, Rng(rng), route)
    assert found.raw is not None
    user = rows if isinstance(x, Tensor) or not hasattr(x, "__len__") else x
    value = [_restored(models[0], user, found.raw[k], seen) for k in range(draws)]
    told = dict(found.diagnostics)
    told |= summary(models[0].space, x, rows.cpu(), seen.cpu(), found.raw.cpu(), told.pop("expected", None))
    told["draws vary with"] = "the model's law and its fit" if len(models) > 1 else "the model's law, not its fit"
    whole = {"x": rows, "observed": seen, "given": given, "draws": draws}
    return replace(found, value=value, task="impute", unit=UNIT, diagnostics=told, model=models[0], question=whole)


def _dealt(
    models: list[Model], rows: Tensor, seen: Tensor, given: dict[str, Tensor], draws: int, rng: Rng, route: str | None
) -> Answer:
    """The draws of each model in its turn: `raw` is `(draws, N, *event)`."""
    if len(models) == 1:
        return _completed(models[0], rows, seen, given, draws, rng, route)
    if not models or any(m.space != models[0].space for m in models):
        raise ValueError("impute: the models must be fitted to the same columns; fit them with one Data.")
    counts = [draws // len(models) + (k < draws % len(models)) for k in range(len(models))]
    parts = [
        _completed(m, rows, seen, given, c, rng, route) for m, c in zip(models, counts, strict=True) if c
    ]  # fmt: skip
    raw = torch.cat([part.raw for part in parts if part.raw is not None])
    quality = parts[0].quality if all(p.quality is parts[0].quality for p in parts) else Quality.ESTIMATE
    told = dict(parts[0].diagnostics)
    means = [part.diagnostics.get("expected") for part in parts]
    told.pop("expected", None)
    numbers = all(v.support != "category" for v in models[0].space.variables)
    if numbers and all(mean is not None for mean in means):
        told["expected"] = torch.stack(means).mean(0)  # type: ignore[arg-type]
    return replace(parts[0], raw=raw, quality=quality, diagnostics=told)


def _completed(
    model: Model, rows: Tensor, seen: Tensor, given: dict[str, Tensor], draws: int, rng: Rng, route: str | None
) -> Answer:
    """Draws of one model, with what was observed put back: `raw` is `(draws, N, *event)`."""
    holes = ~seen.flatten(1).all(1)
    completed = rows.expand(draws, *rows.shape).clone()
    if not bool(holes.any()):
        return Answer(None, UNIT, Quality.EXACT, "nothing was missing", "impute", completed)
    question = {"given": {k: v[holes] for k, v in given.items()}, "draws": draws, "rng": rng}
    found = solve("impute", ROUTES, model, route, x=rows[holes], observed=seen[holes], **question)
    completed[:, holes] = torch.where(seen[holes], rows[holes], found.raw)  # type: ignore[arg-type]
    told = dict(found.diagnostics)
    if "expected" in told:
        whole = rows.double().clone()
        whole[holes] = told["expected"]
        told["expected"] = whole
    return replace(found, raw=completed, diagnostics=told)


def _restored(model: Model, user: Any, x: Tensor, observed: Tensor) -> Any:
    kind = KINDS[model.space.kind]
    if isinstance(user, Tensor) or hasattr(user, "part") or hasattr(user, "take") and hasattr(user, "observed"):
        return kind.restore(x, model.space)
    return kind.complete(user, x, observed, model.space)


def by_condition(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The model's own conditional p(x_m | x_o)."""
    with torch.no_grad():
        conditional = model.condition(x, observed, given or None)
        found = conditional.sample(draws, rng)
        told = {} if conditional.mean is None else {"expected": conditional.mean().cpu()}
        return _draws(found, conditional.quality, told)


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


def figure(answer: Answer, truth: Tensor | None = None) -> Figure:
    """What was known and what was drawn, with intervals, or the mean and the spread, where there are several draws.

    Args:
        answer: of `impute`.
        truth: `(N, *event)` as x, where the gaps were made on purpose.

    Raises:
        ValueError: nothing was missing, or truth has another shape than the rows.
    """
    assert answer.model is not None and answer.raw is not None
    observed, facts = answer.question["observed"].cpu(), answer.diagnostics
    if truth is not None and truth.shape != observed.shape:
        raise ValueError(f"impute: truth has shape {tuple(truth.shape)}, expected {tuple(observed.shape)}.")
    mean, low, high = (facts.get(name) for name in ("mean_raw", "low", "high"))
    return filled_figure(Filled(answer.raw.cpu(), observed, answer.model.space, mean, low, high, truth))


ROUTES = (
    route(by_condition, "condition"),
    route(by_particles, "steps", sources="Doucet et al. 2001"),
    route(by_guidance, "denoise", sources="Rozet et al. 2024 (arXiv:2405.13712)"),
    route(by_gibbs, "encode", "decode", "sample", sources="Mattei and Frellsen 2018 (arXiv:1802.04826)"),
    route(by_langevin, "score", "sample", sources="Song and Ermon 2019 (arXiv:1907.05600)"),
    route(by_nearest, "sample", sources="Pritchard et al. 1999"),
)
