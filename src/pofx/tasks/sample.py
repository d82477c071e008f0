"""Sample: new x like the training data but not copied from it; given c, x ~ p(x | c).

Unit: the data's own. Routes: the model's own sampler (exact for the model; an estimate where it is a chain or a
solver), and its denoiser by the probability-flow ODE. Likelier or wilder draws: tasks/temper.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pofx.engines.diffusion import VE, heun, prior
from pofx.kinds import KINDS
from pofx.model import Model, Quality
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, solve
from pofx.tasks.temper import TEMPERED

QUESTION = "What else could there be, like the data but new?"
UNIT = "the data's own"
CHUNK = 4096


def sample(
    model: Model,
    n: int = 16,
    given: Mapping[str, Any] | None = None,
    *,
    temperature: float = 1.0,
    truncation: float = 1.0,
    rng: Rng | torch.Generator | int | None = None,
    route: str | None = None,
) -> Answer:
    """Draw n new x, each given c where c is said.

    Args:
        model: fitted.
        n: how many.
        given: name -> one value for all, or n values.
        temperature: above 0; below 1 draws likelier and less various x, above 1 the opposite (tasks/temper.py).
        truncation: in (0, 1]; below 1 only the likeliest share of values, of codes or of x.
        rng: a seed or generator; the same seed gives the same draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is in the user's own type (a DataFrame, pictures, an array); `raw` is `(n, *event)`. Where
        chains drew it, the diagnostics say how they mixed.

    Raises:
        Unsupported: the model does not draw, or cannot temper what it draws. ValueError: an argument out of its range.
    """
    at_least_one("sample", n=n)
    if not (0 < temperature < math.inf and 0 < truncation <= 1):
        got = f"temperature = {temperature}, truncation = {truncation}"
        raise ValueError(f"sample: got {got}; expected a number above 0, and a share in (0, 1].")
    ask = {"n": n, "given": given_for(model, given, n), "rng": Rng(rng)}
    if temperature == truncation == 1:
        return solve("sample", ROUTES, model, route, **ask)
    return solve("sample", TEMPERED, model, route, temperature=temperature, truncation=truncation, **ask)


def by_sampler(model: Model, n: int, given: dict[str, torch.Tensor], rng: Rng) -> Answer:
    """The model's own sampler: exact, or an estimate where it is a chain or a solver."""
    parts = []
    for start in range(0, n, CHUNK):
        rows = min(CHUNK, n - start)
        c = {k: v[start : start + rows] for k, v in given.items()}
        parts.append(model.sample(1, c, rng)[0] if c else model.sample(rows, None, rng))
    mixed = model.core.record.get("mixing", {}) if model.sampler is Quality.ESTIMATE else {}  # how its chains went
    return _answer(model, torch.cat(parts), model.sampler, mixed)


def by_probability_flow(model: Model, n: int, given: dict[str, torch.Tensor], rng: Rng) -> Answer:
    """The denoiser's probability-flow ODE, solved by Heun's method."""
    path = VE()

    def denoise(u: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model.denoise(u, alpha, sigma, given)

    with torch.no_grad():
        u = heun(denoise, prior(path, (n, *model.chart.space.shape), rng), path, steps=32)
    return _answer(model, model.chart.decode(u, rng), Quality.ESTIMATE)


def _answer(model: Model, x: torch.Tensor, quality: Quality, found: Mapping[str, Any] | None = None) -> Answer:
    value = KINDS[model.space.kind].restore(x, model.space)
    return Answer(value, "the data's own", quality, raw=x, diagnostics=dict(found or {}))


ROUTES = (
    route(by_sampler, "sample"),
    route(by_probability_flow, "denoise", sources="Song et al. 2021 (arXiv:2011.13456)"),
)
