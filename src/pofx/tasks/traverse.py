"""Traverse: what changes in x when one thing about it is moved?

    z_k(t) = z + t s_k v_k,  t = -r .. r;   x = E[x | z_k(t)]        v_k, s_k: main axes of codes, deviations
    x = E[x | x_k = q_t(x_k)]                                        one column moved, the others following it

Routes, best first: along the main axes of a model's codes (its latents), decoded, unless they are as many as the
entries, a ball without axes, and there is another way; by the model's conditional, one column at a time through its
quantiles. `plane=True` walks two axes at once: a map of the manifold.

References: Kingma and Welling 2013 (arXiv:1312.6114, figure 4); Higgins 2017 (beta-VAE: traversals).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.strips import Strips, map_figure, strips_figure
from pofx.drawing.values import names
from pofx.kinds import KINDS
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, route, rows_of, solve
from pofx.tasks.embed import by_posterior as latents_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What changes in x when one thing about it is moved?"
UNIT = "the data's own"
DRAWS = 64  # of a conditional whose mean is not known


def traverse(
    model: Model,
    x: Any,
    directions: int = 3,
    steps: int = 7,
    *,
    start: Any = None,
    reach: float = 2.0,
    plane: bool = False,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """A strip of x for each direction, or a map of two.

    Args:
        model: fitted, given nothing.
        x: two rows or more, which say how codes spread; in the user's own type, or a tensor `(N, *event)`.
        directions: how many, the widest first (of columns: the first ones).
        steps: points of a strip, or of each side of the map.
        start: one row to set out from; None: the middle.
        reach: how far, in standard deviations of the codes (of a column: the quantiles of a normal that far out).
        plane: a map of the two widest directions instead of strips.
        rng: of draws, where the conditional has no mean.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value holds the rows of the strips, one after the other, in the user's own type; `raw` is
        `(K, steps, *event)`, of a map `(steps, steps, *event)`; diagnostics: `shares` (K,) of the variance of the codes
        (or `columns`, by name), and `at`, the positions.

    Raises:
        ValueError: fewer rows or steps than two, or gaps. Unsupported: neither latents nor a conditional.
    """
    rows, observed = rows_of(model, x)
    if len(rows) < 2 or steps < 2 or directions < 1 or not bool(observed.all()):
        raise ValueError(f"traverse: got {len(rows)} rows, {directions} directions, {steps} steps; expected 2, 1, 2.")
    if model.given:
        raise Unsupported(f"traverse: the model is given {sorted(model.given)}; fix them first (wrappers.Fixed).")
    asked = {"directions": directions, "steps": steps, "reach": reach, "plane": plane, "rng": Rng(rng)}
    begin = None if start is None else rows_of(model, start)[0][:1]
    return solve("traverse", ROUTES, model, route, x=rows, start=begin, **asked)


def by_latents(
    model: Model, x: Tensor, start: Tensor | None, directions: int, steps: int, reach: float, plane: bool, rng: Rng
) -> Answer:
    """Along the main axes of the codes, decoded."""
    z = latents_of(model, x, {}).value
    if z.shape[1] >= model.space.size and "condition" in model.offers():
        raise Unsupported("it has as many latents as entries, none wider than another")
    middle = z.mean(0)
    _, s, v = torch.linalg.svd(z - middle, full_matrices=False)
    spread, axes = s / max(len(z) - 1, 1) ** 0.5, v
    count = min(2 if plane else directions, len(spread))
    if plane and count < 2:
        raise Unsupported("it has one latent, and a map needs two")
    origin = middle if start is None else latents_of(model, start, {}).value[0]
    at = torch.linspace(-reach, reach, steps, dtype=z.dtype)
    moves = at[:, None] * (spread[:count, None, None] * axes[:count, None, :])  # (K, steps, L)
    codes = moves[1][:, None] + moves[0][None] if plane else moves
    with torch.no_grad():
        shape = model.encode(x[:1]).mean.shape[1:]
        rows = model.decode((origin + codes).reshape(-1, *shape).float()).mean()
    shares = spread[:count].square() / spread.square().sum().clamp_min(1e-300)
    return _strips(model, rows, codes.shape[:2], {"shares": shares, "at": at})


def by_column(
    model: Model, x: Tensor, start: Tensor | None, directions: int, steps: int, reach: float, plane: bool, rng: Rng
) -> Answer:
    """One column through its quantiles, the others at their mean given it."""
    if plane or start is not None:
        raise Unsupported("columns are moved one by one, from the middle of all rows")
    at = torch.linspace(-reach, reach, steps, dtype=torch.float64)
    flat, levels = x.flatten(1).double(), torch.special.ndtr(at)
    columns = list(range(min(directions, model.space.size)))
    rows = torch.zeros(len(columns), steps, model.space.size, dtype=torch.float64)
    seen = torch.zeros_like(rows, dtype=torch.bool)
    for k, j in enumerate(columns):
        discrete = model.space.variable(j).discrete
        rows[k, :, j] = torch.quantile(flat[:, j], levels, interpolation="nearest" if discrete else "linear")
        seen[k, :, j] = True
    shape = (-1, *model.space.shape)
    asked = rows.reshape(shape).to(model.space.torch_dtype)
    with torch.no_grad():
        rest = model.condition(asked, seen.reshape(shape))
        found = rest.mean() if rest.mean is not None else _typical(model, rest.sample(DRAWS, rng))
    known = [model.space.variable(j).name for j in columns]
    return _strips(model, found, (len(columns), steps), {"columns": known, "at": at})


def _typical(model: Model, x: Tensor) -> Tensor:
    """Over draws `(n, B, *event)`: the mean of numbers, the commonest category."""
    flat = x.flatten(2).double()
    out = flat.mean(0)
    for j in range(model.space.size):
        if model.space.variable(j).support in ("category", "binary"):
            out[:, j] = flat[:, :, j].mode(0).values
    return out.reshape(x.shape[1:])


def _strips(model: Model, x: Tensor, shape: tuple[int, ...], words: dict[str, Any]) -> Answer:
    x = model.space.nearest(x.cpu())
    value = KINDS[model.space.kind].restore(x, model.space)
    return Answer(value, UNIT, Quality.ESTIMATE, raw=x.reshape(*shape, *model.space.shape), diagnostics=words)


def figure(answer: Answer) -> Figure:
    """A strip for each direction, or the map of two."""
    assert answer.model is not None and answer.raw is not None
    space, facts, at = answer.model.space, answer.diagnostics, answer.diagnostics["at"].numpy()
    if "columns" in facts:
        count = len(facts["columns"])
        strips = Strips(answer.raw, space, names(space)[:count], at, "deviations of the column", None, range(count))
        return strips_figure(strips, "one column is moved, the others follow it")
    shares = [f"axis {k + 1}: {s:.0%} of the variance" for k, s in enumerate(facts["shares"].tolist())]
    if answer.question["plane"]:
        return map_figure(answer.raw, space, at, [f"{words}, in deviations" for words in shares[::-1]])
    strips = Strips(answer.raw, space, shares, at, "deviations along the axis")
    return strips_figure(strips, "what changes in x along the main axes of its codes")


ROUTES = (
    route(by_latents, "encode", "decode", sources="Kingma and Welling 2013 (arXiv:1312.6114)"),
    route(by_column, "condition"),
)
