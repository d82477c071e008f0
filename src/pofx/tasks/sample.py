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
from typing import TYPE_CHECKING, Any

import torch

from pofx.drawing.rows import counted, rows_figure
from pofx.drawing.values import units, wordy
from pofx.engines.diffusion import VE, heun, prior
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.model import Model, Quality
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, rows_of, solve
from pofx.tasks.impute import ROUTES as COMPLETIONS
from pofx.tasks.temper import TEMPERED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What else could there be, like the data but new?"
UNIT = "the data's own"
CHUNK = 4096
SAID = 3  # known entries that a title names


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


def figure(answer: Answer) -> Figure:
    """The draws, as their kind draws rows; the title says what they were given, where all were given the same."""
    assert answer.model is not None and answer.raw is not None
    title = f"{counted(len(answer.raw), 'draw')} of {answer.model.core.name}"
    told = _told(answer)
    return rows_figure(answer.raw, answer.model.space, f"{title}, {told}" if told else title)


def _told(answer: Answer) -> str:
    """What all draws have in common, in words."""
    assert answer.model is not None
    words, space = [], answer.model.space
    for name, c in answer.question["given"].items():
        own = answer.model.given[name]
        if own.size == 1 and bool((c == c[0]).all()):
            words.append(f"{name} = {_said(own, c[:1], 0)}")
    known = answer.question.get("observed")
    if known is not None:
        entries = known.flatten().nonzero().flatten().tolist()
        if space.shared or len(entries) > SAID:
            words.append(counted(len(entries), "entry", "entries") + " known")
        else:
            words += [f"{space.variable(i).name} = {_said(space, answer.question['x'], i)}" for i in entries]
    return f"given {', '.join(words)}" if words else ""


def _said(space: Space, x: torch.Tensor, entry: int) -> str:
    v, value = space.variable(entry), float(units(space, x).reshape(-1)[entry])
    return str((v.values or ())[int(value)]) if wordy(v) else f"{value:.4g}"


ROUTES = (
    route(by_sampler, "sample"),
    route(by_probability_flow, "denoise", sources="Song et al. 2021 (arXiv:2011.13456)"),
)
