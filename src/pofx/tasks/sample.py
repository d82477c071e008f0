"""Sample: new x like the training data but not copied from it.

    x ~ p(x);       x ~ p(x | c)   given c;       x_m ~ p(x_m | x_o)   where some entries of x are known

Unit: the data's own. Routes: the model's own sampler (exact for the model; an estimate where it is a chain or a
solver), and its denoiser by the probability-flow ODE; where entries are known, those of tasks/impute.py. Likelier or
wilder draws: tasks/temper.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pofx.engines.diffusion import VE, heun, prior
from pofx.kinds import KINDS
from pofx.model import Model, Quality
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, rows_of, solve
from pofx.tasks.impute import ROUTES as COMPLETIONS
from pofx.tasks.temper import TEMPERED

QUESTION = "What else could there be, like the data but new?"
UNIT = "the data's own"
CHUNK = 4096


def sample(
    model: Model,
    n: int = 16,
    given: Mapping[str, Any] | None = None,
    *,
    known: Any = None,
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
        known: entries of x that all draws have: of a table column -> value, else one row of the user's own type with
            NaN in all others. Each given has one value then, and nothing is tempered.
        temperature: above 0; below 1 draws likelier and less various x, above 1 the opposite (tasks/temper.py).
        truncation: in (0, 1]; below 1 only the likeliest share of values, of codes or of x.
        rng: a seed or generator; the same seed gives the same draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is in the user's own type (a DataFrame, pictures, an array); `raw` is `(n, *event)`. Where
        chains drew it, the diagnostics say how they mixed.

    Raises:
        Unsupported: the model does not draw, or cannot temper what it draws. ValueError: an argument out of its range,
            a column or a value that the model does not know, or several rows where one is known.
    """
    at_least_one("sample", n=n)
    if not (0 < temperature < math.inf and 0 < truncation <= 1):
        got = f"temperature = {temperature}, truncation = {truncation}"
        raise ValueError(f"sample: got {got}; expected a number above 0, and a share in (0, 1].")
    if known is not None:
        if temperature != 1 or truncation != 1:
            raise ValueError("sample: known entries and a temperature or a truncation do not go together.")
        return _beside(model, n, known, given, Rng(rng), route)
    ask = {"n": n, "given": given_for(model, given, n), "rng": Rng(rng)}
    if temperature == truncation == 1:
        return solve("sample", ROUTES, model, route, **ask)
    return solve("sample", TEMPERED, model, route, temperature=temperature, truncation=truncation, **ask)


def _beside(model: Model, n: int, known: Any, given: Mapping[str, Any] | None, rng: Rng, route: str | None) -> Answer:
    """n draws of the entries that are not known, beside those that are."""
    x, observed = rows_of(model, _partly(model, known) if isinstance(known, Mapping) else known)
    if len(x) != 1:
        raise ValueError(f"sample: known has {len(x)} rows; expected one, for all draws (impute completes many).")
    if not bool(observed.any()):
        return sample(model, n, given, rng=rng)
    if bool(observed.all()):
        raise ValueError("sample: every entry is known, and none is left to draw.")
    ask = {"x": x, "observed": observed, "given": given_for(model, given, 1), "draws": n, "rng": rng}
    found = solve("sample", COMPLETIONS, model, route, **ask)
    assert found.raw is not None
    raw = torch.where(observed, x, found.raw[:, 0])
    return replace(found, value=KINDS[model.space.kind].restore(raw, model.space), unit=UNIT, raw=raw)


def _partly(model: Model, known: Mapping[str, Any]) -> Any:
    """A frame of one row with some cells."""
    import pandas as pd

    kind = KINDS[model.space.kind]
    if kind.name != "table":
        raise ValueError(
            f"sample: known={{column: value}} is for tables, and the model knows the kind {kind.name!r}; expected one "
            "row of it, with NaN where nothing is known."
        )
    columns = list(kind.restore(torch.zeros(1, *model.space.shape), model.space))
    unknown = [c for c in known if c not in columns]
    if unknown:
        raise ValueError(f"sample: the model has no column {unknown}; it knows {columns}.")
    return pd.DataFrame({c: [known.get(c)] for c in columns})


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
