"""Translate: what would this be on the other side?

    learned          x ~ p(x | y), of a model that was fitted given y
    bridge           z = flow of the source's denoiser from y to the noise;   x = flow of the model's from z to the data
    noise part-way   u_t = cos(f) u + sin(f) e,  e ~ N(0, I),  f = strength pi / 2;   x = flow of the model's from there

The bridge needs two models and no pair: y and its noise z are one to one in the source, z and x in the model, so the
way back gives y again up to the solver's error. Which x belongs to y is decided by z alone, not learnt: it is near
where the two sides differ little. Noise part-way needs one model: a drawing's coarse shapes outlive the noise, its fine
ones are made anew. At strength 0 the drawing comes back; at strength 1 nothing of it is left: a draw from the model.

References: DDIB (Su 2022, arXiv:2203.08382); SDEdit (Meng 2021, arXiv:2108.01073); pix2pix (Isola 2016,
arXiv:1611.07004); CycleGAN (Zhu 2017, arXiv:1703.10593).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.pairs import paired_figure
from pofx.engines.diffusion import along, nodes
from pofx.engines.paths import VE, VP
from pofx.kinds import KINDS
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, given_for, route, rows_of, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What would this be on the other side?"
UNIT = "the data's own"
STEPS = 32  # of the flow, each way


def translate(
    model: Model,
    rows: Any,
    source: Model | None = None,
    strength: float | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    given_source: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    rng: Rng | torch.Generator | int | None = None,
    route: str | None = None,
) -> Answer:
    """Rows of one side as rows of the side that a model has learnt.

    Args:
        model: of the side wanted.
        rows: what is to be translated: in the type and the units of what the model was given (learned), of the source's
            data (bridge), or of the model's own data (noise part-way); or a tensor `(N, *event)`.
        source: a model of the side that the rows are from, for the bridge.
        strength: in [0, 1], for noise part-way: 0 gives the rows back, 1 forgets them.
        given: name -> one value, or N values, of the model.
        given_source: the same of the source.
        steps: of the flow, each way.
        rng: a seed or generator; the bridge has no chance in it but the rounding to levels.
        route: a route by name; None takes the one that the arguments mean.

    Returns:
        An Answer whose value holds N rows of the user's type; `raw` `(N, *event)`.

    Raises:
        Unsupported: no route fits. ValueError: a strength outside [0, 1], missing entries, or both a source and a
        strength.
    """
    if source is not None and strength is not None:
        raise ValueError("translate: got a source (bridge) and a strength (noise part-way); expected one of them.")
    if strength is not None and not 0 <= strength <= 1:
        raise ValueError(f"translate: got strength = {strength}; expected a number in [0, 1].")
    if steps < 2:
        raise ValueError(f"translate: got steps = {steps}; expected 2 or more.")
    asked = Asked(rows, source, strength, given or {}, given_source or {}, steps, Rng(rng))
    found = solve("translate", ROUTES, model, route, asked=asked)
    assert found.raw is not None
    return dataclasses.replace(found, value=KINDS[model.space.kind].restore(found.raw, model.space))


@dataclass(frozen=True)
class Asked:
    """The question, as `translate` has it."""

    rows: Any
    source: Model | None
    strength: float | None
    given: Mapping[str, Any]
    given_source: Mapping[str, Any]
    steps: int
    rng: Rng


def by_bridge(model: Model, asked: Asked) -> Answer:
    """Along the source's probability flow to the noise, and along the model's from there."""
    source = asked.source
    if source is None:
        raise Unsupported("it wants source=, a model of the side that the rows are from")
    if "denoise" not in source.offers():
        raise Unsupported(f"the source ({source.name}) has no denoise")
    here, there = source.chart.space.shape, model.chart.space.shape
    if here != there:
        raise Unsupported(f"the noise of both is not alike: {here} in the source's chart, {there} in the model's")
    y, grid = _whole(source, asked.rows), nodes(VE(), asked.steps)[:-1]
    c, c_source = given_for(model, asked.given, len(y)), given_for(source, asked.given_source, len(y))
    with torch.no_grad():
        z = _flow(source, source.chart.encode(y).float(), grid[::-1], c_source)
        u = _flow(model, z, [*grid, (1.0, 0.0)], c)
    return Answer(None, UNIT, Quality.ESTIMATE, raw=model.chart.decode(u, asked.rng))


def by_noise_part_way(model: Model, asked: Asked) -> Answer:
    """Noise is added to the rows up to some level, and taken away again by the model."""
    strength, rng = asked.strength, asked.rng
    if strength is None:
        raise Unsupported("it wants strength=, between 0 and 1")
    x, chart = _whole(model, asked.rows), model.chart
    if strength == 0:
        return Answer(None, UNIT, Quality.EXACT, raw=x, diagnostics={"strength": 0.0})
    c, grid = given_for(model, asked.given, len(x)), nodes(VP(), asked.steps, strength)
    (alpha, sigma), u = grid[0], chart.encode(x).float()
    alpha = 0.0 if strength == 1 else alpha  # cos(pi / 2) of a computer is not quite 0
    with torch.no_grad():
        u = _flow(model, alpha * u + sigma * rng.normal(tuple(u.shape)), [(alpha, sigma), *grid[1:]], c)
    return Answer(None, UNIT, Quality.ESTIMATE, raw=chart.decode(u, rng), diagnostics={"strength": strength})


def by_learned(model: Model, asked: Asked) -> Answer:
    """A draw of x for each row, which is what the model is given."""
    names = _rest(model, asked)
    if asked.source is not None or asked.strength is not None or len(names) != 1:
        raise Unsupported(f"it wants a model that is given the rows alone, and this one is given {sorted(model.given)}")
    c = _known(model, asked, names[0])
    return Answer(None, UNIT, model.sampler, raw=model.sample(1, c, asked.rng)[0])


def _rest(model: Model, asked: Asked) -> list[str]:
    """What the model is given beside what was said: of a learned translation, the rows alone."""
    return [name for name in model.given if name not in asked.given]


def _known(model: Model, asked: Asked, name: str) -> dict[str, Tensor]:
    """All that the model is given, the rows among it."""
    shape, rows = model.given[name].shape, asked.rows
    alone = (shape, shape[:-1]) if shape[-1:] == (1,) else (shape,)  # a grey picture may come without its last axis
    count = 1 if tuple(getattr(rows, "shape", ())) in alone else len(rows)
    return given_for(model, {**asked.given, name: rows}, count)


def _flow(model: Model, u: Tensor, grid: list[tuple[float, float]], given: dict[str, Tensor]) -> Tensor:
    """Along the probability-flow ODE through the noise levels of a grid, in either direction."""

    def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return model.denoise(u_t, alpha, sigma, given or None)

    return along(denoise, u, grid)


def _whole(model: Model, rows: Any) -> Tensor:
    x, observed = rows_of(model, rows)
    if not bool(observed.all()):
        raise ValueError("translate: entries are missing; complete them first (impute).")
    return x


def figure(answer: Answer) -> Figure:
    """Each row above its translation; columns before and after."""
    assert answer.model is not None and answer.raw is not None
    model, asked = answer.model, answer.question["asked"]
    if answer.route == "learned":
        name = _rest(model, asked)[0]
        old, before, word = model.given[name], _known(model, asked, name)[name], f"given {name}"
    else:
        side = model if asked.source is None else asked.source
        old, before = side.space, rows_of(side, asked.rows)[0]
        word = "before" if asked.source is None else "from"
    words = word, "after" if word == "before" else "translated"
    return paired_figure(before.cpu(), old, answer.raw.cpu(), model.space, words)


ROUTES = (
    route(by_bridge, "denoise", sources="Su et al. 2022 (arXiv:2203.08382)"),
    route(by_noise_part_way, "denoise", sources="Meng et al. 2021 (arXiv:2108.01073)"),
    route(by_learned, "sample", sources="Isola et al. 2016 (arXiv:1611.07004); Zhu et al. 2017 (arXiv:1703.10593)"),
)
