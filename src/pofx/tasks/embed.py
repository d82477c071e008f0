"""Embed: x as a few numbers that say what matters about it, and how sure they are.

    z = E[z | x],   spread = sd[z | x]                        the posterior of a model with latents
    z = the noise from which the deterministic flow makes x   a denoiser: as many numbers as x has, all information kept

Routes, best first: the encoder's posterior; the noise of the probability-flow ODE. A model without latents has neither
and says so: its entries are what it knows.

References: Kingma and Welling 2013 (arXiv:1312.6114); Song 2021 (arXiv:2011.13456, unique encodings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.pixels import pictured, pixels
from pofx.drawing.planes import codes_figure, main_plane
from pofx.engines.diffusion import along, nodes
from pofx.engines.paths import VE
from pofx.model import Model, Quality
from pofx.tasks.base import Answer, given_for, route, rows_of, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What matters about x, in a few numbers?"
UNIT = "latent"
CHUNK, STEPS = 512, 48


def embed(model: Model, x: Any, given: Mapping[str, Any] | None = None, *, route: str | None = None) -> Answer:
    """The latents of each row.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)`, without gaps.
        given: name -> one value, or N values.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is `(N, L)` float64; `stderr` `(N, L)` is the posterior's deviation where there is one.

    Raises:
        ValueError: entries are missing. Unsupported: the model has no latents and no denoiser.
    """
    rows, observed = rows_of(model, x)
    if not bool(observed.all()):
        raise ValueError("embed: entries are missing; complete them first (impute).")
    return solve("embed", ROUTES, model, route, x=rows, given=given_for(model, given, len(rows)))


def by_posterior(model: Model, x: Tensor, given: dict[str, Tensor]) -> Answer:
    """The mean of the posterior over the latents, with its deviation."""
    means, spreads = [], []
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            q = model.encode(x[rows], {k: v[rows] for k, v in given.items()} or None)
            means.append(q.mean.flatten(1).double())
            spreads.append(q.stddev.flatten(1).double())
    z, spread = torch.cat(means), torch.cat(spreads)
    used = int((z.var(0) > 0.01).sum()) if len(z) > 1 else z.shape[1]
    words = {"latents": z.shape[1], "latents in use": used}
    return Answer(z, UNIT, Quality.ESTIMATE, raw=z, stderr=spread, diagnostics=words)


def by_noise(model: Model, x: Tensor, given: dict[str, Tensor]) -> Answer:
    """The noise of x, in standard deviations, along the denoiser's deterministic flow."""
    grid, parts = nodes(VE(), STEPS)[:-1][::-1], []
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            c = {k: v[rows] for k, v in given.items()}

            def denoise(u: Tensor, a: Tensor, s: Tensor, c: dict[str, Tensor] = c) -> Tensor:
                return model.denoise(u, a, s, c)

            u = along(denoise, model.chart.encode(x[rows]).float(), grid)
            parts.append((u / grid[-1][1]).flatten(1).double())
    z = torch.cat(parts)
    return Answer(z, UNIT, Quality.ESTIMATE, raw=z, diagnostics={"latents": z.shape[1]})


def figure(answer: Answer, labels: Sequence[Any] | None = None) -> Figure:
    """The codes on their two main axes, with how sure they are; pictures at their place.

    Args:
        answer: of `embed`.
        labels: N classes, or numbers, which colour the dots.

    Raises:
        ValueError: another number of labels than of rows.
    """
    assert answer.model is not None
    space, spread = answer.model.space, answer.stderr
    shown = pixels(answer.question["x"], space) if pictured(space) else None
    plane = main_plane(answer.value.cpu().numpy())
    return codes_figure(plane, None if spread is None else spread.cpu().numpy(), labels, shown)


ROUTES = (
    route(by_posterior, "encode"),
    route(by_noise, "denoise", sources="Song et al. 2021 (arXiv:2011.13456)"),
)
