"""Interpolate: what lies between two x?

    spherical   z_s = [ sin((1 - s) w) a / |a| + sin(s w) b / |b| ] / sin w * ((1 - s) |a| + s |b|),    w = angle(a, b)
    linear      z_s = (1 - s) a + s b

In a space where the model's draws are normal, points on the arc are as typical as the ends, and points on the chord are
not. Routes: the latents of an encoder and a decoder; the noise to which the deterministic flow of a denoiser carries
each x, and back. The ends are what the model makes of the two x: how far from them it says.

References: White 2016 (arXiv:1609.04468); Song 2021 (arXiv:2010.02502, interpolation in the noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.film import film
from pofx.drawing.strips import Strips, strips_figure
from pofx.engines.diffusion import along, nodes
from pofx.engines.paths import VE
from pofx.kinds import KINDS
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, given_for, route, rows_of, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What lies between two x?"
UNIT = "the data's own"
STEPS = 48  # of the flow, each way


def interpolate(
    model: Model,
    start: Any,
    end: Any,
    steps: int = 9,
    given: Mapping[str, Any] | None = None,
    *,
    way: str = "spherical",
    route: str | None = None,
) -> Answer:
    """A strip from each start to its end.

    Args:
        model: fitted.
        start, end: as many rows each, in the user's own type, or tensors `(N, *event)`.
        steps: points of a strip, both ends included.
        given: name -> one value, or N values.
        way: "spherical" or "linear".
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value holds N * steps rows of the user's type, strip after strip; `raw` is `(N, steps, *event)`;
        diagnostics: `end error`, the root mean squared difference between the ends and the x asked for, in the chart.

    Raises:
        ValueError: starts and ends differ in number, entries are missing, or the way is unknown.
    """
    a, b = _whole(model, start), _whole(model, end)
    if len(a) != len(b) or steps < 2:
        raise ValueError(f"interpolate: got {len(a)} starts, {len(b)} ends, {steps} steps; expected pairs, 2 steps.")
    if way not in WAYS:
        raise ValueError(f"interpolate: way is {way!r}; expected one of {tuple(WAYS)}.")
    c = given_for(model, given, len(a))
    return solve("interpolate", ROUTES, model, route, a=a, b=b, steps=steps, given=c, way=way)


def by_latents(model: Model, a: Tensor, b: Tensor, steps: int, given: dict[str, Tensor], way: str) -> Answer:
    """Between the latents of both, decoded."""
    with torch.no_grad():
        z_a, z_b = (model.encode(x, given or None).mean for x in (a, b))
        if not z_a.is_floating_point():
            raise Unsupported("its latents are codes, and nothing lies between two codes")
        z = WAYS[way](z_a.flatten(1), z_b.flatten(1), steps).reshape(steps * len(a), *z_a.shape[1:])
        c = {k: v.repeat(steps, *[1] * (v.ndim - 1)) for k, v in given.items()}
        x = model.decode(z, c or None).mean()
    return _strips(model, x, a, b, steps)


def by_noise(model: Model, a: Tensor, b: Tensor, steps: int, given: dict[str, Tensor], way: str) -> Answer:
    """Between the noises of both, along the denoiser's deterministic flow."""
    chart, grid = model.chart, nodes(VE(), STEPS)[:-1]  # without the end at sigma = 0, which no slope leaves
    with torch.no_grad():
        z_a, z_b = (_flow(model, chart.encode(x).float(), grid[::-1], given) for x in (a, b))
        z = WAYS[way](z_a.flatten(1), z_b.flatten(1), steps).reshape(steps * len(a), *z_a.shape[1:])
        c = {k: v.repeat(steps, *[1] * (v.ndim - 1)) for k, v in given.items()}
        x = chart.decode(_flow(model, z, grid, c), Rng(0))
    return _strips(model, x, a, b, steps)


def _flow(model: Model, u: Tensor, grid: list[tuple[float, float]], given: dict[str, Tensor]) -> Tensor:
    """Along the probability-flow ODE through the noise levels of a grid, in either direction."""

    def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return model.denoise(u_t, alpha, sigma, given)

    return along(denoise, u, grid)


def _strips(model: Model, x: Tensor, a: Tensor, b: Tensor, steps: int) -> Answer:
    strips = model.space.nearest(x).reshape(steps, len(a), *model.space.shape).transpose(0, 1)
    chart, flat = model.chart, strips.reshape(-1, *model.space.shape)
    ends = torch.cat([strips[:, 0], strips[:, -1]])
    gap = chart.encode(ends) - chart.encode(torch.cat([a, b]))
    error = float(gap.double().square().mean().sqrt())
    value = KINDS[model.space.kind].restore(flat, model.space)
    raw = flat.reshape(len(a), steps, *model.space.shape)
    return Answer(value, UNIT, Quality.ESTIMATE, raw=raw, diagnostics={"end error": error, "steps": steps})


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """On the arc, (steps, N, d), its radius linear between both; where they are parallel, the chord."""
    s = torch.linspace(0, 1, steps, dtype=a.dtype).reshape(-1, 1, 1)
    r_a, r_b = (v.norm(dim=1, keepdim=True).clamp_min(1e-12) for v in (a, b))
    w = torch.arccos((a / r_a * b / r_b).sum(1, keepdim=True).clamp(-1, 1))
    arc = (torch.sin((1 - s) * w) * a / r_a + torch.sin(s * w) * b / r_b) / torch.sin(w).clamp_min(1e-12)
    return torch.where(torch.sin(w) > 1e-4, arc * ((1 - s) * r_a + s * r_b), linear(a, b, steps))


def linear(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """On the chord, (steps, N, d)."""
    s = torch.linspace(0, 1, steps, dtype=a.dtype).reshape(-1, 1, 1)
    return (1 - s) * a + s * b


def _whole(model: Model, rows: Any) -> Tensor:
    x, observed = rows_of(model, rows)
    if not bool(observed.all()):
        raise ValueError("interpolate: entries are missing; complete them first (impute).")
    return x


def figure(answer: Answer) -> Figure:
    """A strip from each start to its end, between the two x that were asked for."""
    assert answer.model is not None and answer.raw is not None
    asked, steps = answer.question, answer.raw.shape[1]
    ends = torch.stack([asked["a"], asked["b"]], 1).cpu()
    labels = [f"pair {k + 1}" for k in range(len(ends))] if len(ends) > 1 else [""]
    at, along = torch.linspace(0, 1, steps).numpy(), "s, from start to end"
    words = f"what lies between: a {asked['way']} way, by {answer.route}"
    return strips_figure(Strips(answer.raw.cpu(), answer.model.space, labels, at, along, ends), words, together=True)


def video(answer: Answer, path: str | Path, seconds: float = 4.0) -> Path:
    """An animated GIF of the way, there and back, the strips side by side.

    Args:
        answer: of `interpolate`; `steps=40` or so makes a smooth one.
        path: that ends in .gif.
        seconds: from the start to the end and back.

    Returns:
        The path.

    Raises:
        ValueError: the answer is of another question, the path ends otherwise, or seconds is not above 0. OSError: it
        cannot be written.
    """
    if answer.task != "interpolate" or answer.model is None or answer.raw is None:
        raise ValueError(f"video: got an answer of {answer.task or 'nothing'!r}; expected one of pofx.interpolate.")
    if not seconds > 0:
        raise ValueError(f"video: got seconds = {seconds}; expected a number above 0.")
    there = answer.raw.cpu().transpose(0, 1)
    frames = torch.cat([there, there[:-1].flip(0)])
    return film(frames, answer.model.space, path, len(frames) / seconds)


WAYS = {"spherical": spherical, "linear": linear}
ROUTES = (
    route(by_latents, "encode", "decode"),
    route(by_noise, "denoise", sources="Song et al. 2021 (arXiv:2010.02502)"),
)
