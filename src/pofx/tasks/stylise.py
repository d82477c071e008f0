"""Stylise: what would this picture look like, made as that one is?

    x* = argmin over x of   S(x, style) + w C(x, content)

S compares statistics of features (Gram matrices, or whole distributions along directions), C the bands of the grey
picture, scale by scale (engines/style.py). Two routes:

    search         x* from coarse to fine by L-BFGS, from the content picture on. No model: one picture is all that is
                   known of the style
    feed forward   x = decode((1 - alpha) z(content, content) + alpha z(content, style)), in one pass of a fitted model
                   that encodes pictures given a style

By both, content = style gives the picture back.

References: Gatys 2015 (arXiv:1508.06576); Ustyuzhaninov 2017 (arXiv:1606.00021); Heitz 2020 (arXiv:2006.07229); Huang
2017 (arXiv:1703.06868, feed forward).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pofx.drawing.style import INK, blank
from pofx.engines import style as engine
from pofx.engines.style import Maps
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What would this picture look like, made as that one is?"
UNIT = "levels 0..255"
STATISTICS = ("gram", "sliced")
DIRECTIONS = 64  # of the sliced distance, drawn once
COARSEST = 64  # pixels of the shorter side at which the search begins


def stylise(
    content: Any,
    style: Any,
    *,
    model: Model | None = None,
    alpha: float = 1.0,
    weight: float = 0.05,
    statistic: str = "gram",
    features: str | Maps = "filters",
    size: int | None = None,
    steps: int = 60,
    start: str = "content",
    keep_colours: bool = False,
    rng: Rng | torch.Generator | int | None = 0,
) -> Answer:
    """The content of one picture in the style of another.

    Args:
        content, style: bytes `(H, W, 3)` or `(H, W)`, a picture of Pillow, or a path; any sizes.
        model: that encodes pictures given `style` and decodes them (families/adain.py); the search is not asked then.
        alpha: of the model: how far from the content, 0, to the style, 1.
        weight: w, of the content: 0 gives texture, 1 hardly changes the picture.
        statistic: "gram", or "sliced" (distributions of features along random directions).
        features: "filters" (fixed random ones, no download), "vgg19" (torchvision), or a function: pictures
            `(1, 3, H, W)` in 0..1 -> a list of maps.
        size: of the longer side of the answer; None: the content's own. The style is brought to a like number of
            pixels, so that its strokes keep their size beside the picture.
        steps: of the search at the finest scale; coarser ones take as many.
        start: "content", or "noise".
        keep_colours: take only the lightness from the style, the colours from the content.
        rng: of directions and noise: the same seed, the same picture.

    Returns:
        An Answer whose value is the picture, bytes `(H, W, 3)`. Diagnostics: `gram before` and `gram` (distance to the
        style, of the content picture and of the answer), `content` (relative difference to the content's bands),
        `gain` (how many times the Gram distance fell).

    Raises:
        ValueError: no picture, one of a side below 8 pixels, or an unknown word. Unsupported: the model lacks encode,
        decode or a given `style`. ImportError: no torchvision.
    """
    if statistic not in STATISTICS or start not in ("content", "noise"):
        raise ValueError(
            f"stylise: got statistic {statistic!r}, start {start!r}; expected gram or sliced, content or noise."
        )
    if not weight >= 0 or steps < 1 or (size is not None and size < engine.SMALLEST):
        raise ValueError(f"stylise: got weight {weight}, steps {steps}, size {size}; expected 0, 1, 8 or more.")
    rng, maps = Rng(rng), _maps(features)
    wanted = _sized(_picture(content, "content"), size)
    manner = _alike(_picture(style, "style"), wanted)
    manner = _recoloured(manner, wanted) if keep_colours else manner
    if model is not None:
        x = _painted(model, wanted, manner, alpha)
    else:
        loss = partial(_loss, maps=maps, statistic=statistic, weight=weight, rng=rng)
        x = _refined(rng.uniform(tuple(wanted.shape)) if start == "noise" else wanted, wanted, manner, loss, steps)
    return _answer(x, wanted, manner, maps, "search" if model is None else "feed forward")


def _answer(x: Tensor, content: Tensor, style: Tensor, maps: Maps, route: str) -> Answer:
    """The answer as bytes, beside both pictures."""
    found = _bytes(x).permute(2, 0, 1)[None].float() / 255
    seen = {"content": _bytes(content).numpy(), "style": _bytes(style).numpy()}
    return Answer(
        _bytes(x).numpy(), UNIT, Quality.ESTIMATE, route, "stylise", found[0],
        diagnostics=_facts(found, content, style, maps), question=seen,
    )  # fmt: skip


def figure(answer: Answer) -> Figure:
    """The content, the style and what was made of both, side by side."""
    named = {**answer.question, "the content in that style": answer.value}
    drawing = blank(3.2 * len(named), 3.4)
    for axes, (name, picture) in zip(drawing.subplots(1, len(named)), named.items(), strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(name, fontsize=10, loc="left", color=INK)
    return drawing


def _painted(model: Model, content: Tensor, style: Tensor, alpha: float) -> Tensor:
    """By a model that encodes pictures given a style, `(1, 3, H, W)` in 0..1."""
    lacking = {"encode", "decode"} - model.offers()
    if lacking or set(model.given) != {"style"}:
        raise Unsupported(
            f"stylise: {model.name} lacks {', '.join(sorted(lacking)) or 'nothing'} and is given "
            f"{sorted(model.given) or 'nothing'}; expected encode and decode, given 'style', as adain has."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"stylise: alpha is {alpha}; expected 0 (the content) to 1 (the style).")
    x, y = (_bytes(p)[None] for p in (content, style))
    resized = _at(model, x, y)
    z = resized.encode(x, {"style": y}).mean
    z = z if alpha == 1 else alpha * z + (1 - alpha) * _at(model, x, x).encode(x, {"style": x}).mean
    return resized.decode(z, {"style": y}).mean()[0].permute(2, 0, 1)[None].float() / 255


def _at(model: Model, x: Tensor, style: Tensor) -> Model:
    """The same weights, for pictures of other sizes."""
    found = copy.copy(model)
    found.space = replace(model.space, shape=tuple(x.shape[1:]))
    found.given = {"style": replace(model.given["style"], shape=tuple(style.shape[1:]))}
    return found


def _bytes(x: Tensor) -> Tensor:
    """A picture `(1, 3, H, W)` in 0..1 as bytes `(H, W, 3)`."""
    return (x[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)


def _loss(
    goal: Tensor, texture: Tensor, maps: Maps, statistic: str, weight: float, rng: Rng
) -> Callable[[Tensor], Tensor]:
    """What is to be small, of a picture at one scale."""
    shown = engine.structure(goal)
    with torch.no_grad():
        wanted = maps(texture)
        if statistic == "sliced":
            directions = [functional.normalize(rng.normal((m.shape[1], DIRECTIONS)), dim=0) for m in wanted]
            goals = [engine.slices(m, v) for m, v in zip(wanted, directions, strict=True)]
        else:
            goals = [engine.gram(m) for m in wanted]

    def loss(x: Tensor) -> Tensor:
        found = maps(x)
        if statistic == "sliced":
            own = [engine.slices(m, v) for m, v in zip(found, directions, strict=False)]
            style = engine.sliced_distance(own, goals)
        else:
            style = engine.gram_distance([engine.gram(m) for m in found], goals)
        outside = (x - x.clamp(0, 1)).square().mean()
        return style + weight * engine.structure_distance(engine.structure(x), shown) + 10 * outside

    return loss


def _refined(
    x: Tensor, content: Tensor, style: Tensor, loss: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]], steps: int
) -> Tensor:
    """The search at each scale, coarse to fine, from x on."""
    for level in _levels(content):
        x = functional.interpolate(x, size=level, mode="bilinear", antialias=True)
        goal, texture = _scaled(content, level), _scaled(style, _beside(style, content, level))
        x = _searched(x, loss(goal, texture), steps)
    return x


def _searched(x: Tensor, loss: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """A minimum near x, by L-BFGS."""
    x = x.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([x], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(x)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return x.detach()


def _facts(found: Tensor, wanted: Tensor, manner: Tensor, maps: Maps) -> dict[str, float]:
    with torch.no_grad():
        goal, before, after = ([engine.gram(m) for m in maps(p)] for p in (manner, wanted, found))
        first, last = float(engine.gram_distance(before, goal)), float(engine.gram_distance(after, goal))
        shown = float(engine.structure_distance(engine.structure(found), engine.structure(wanted)))
    return {"gram before": first, "gram": last, "gain": first / max(last, 1e-12), "content": shown}


def _maps(features: str | Maps) -> Maps:
    if callable(features):
        return features
    if features == "filters":
        return engine.random_filters()
    if features == "vgg19":
        return engine.pretrained(features)
    raise ValueError(f"stylise: features {features!r} is unknown; expected 'filters', 'vgg19', or a function.")


def _picture(source: Any, what: str) -> Tensor:
    """A picture as `(1, 3, H, W)` in 0..1."""
    if isinstance(source, (str, Path)):
        from PIL import Image

        from pofx.data import find

        with Image.open(find(source)) as opened:
            source = opened.convert("RGB")
    elif hasattr(source, "convert"):
        source = source.convert("RGB")
    values = np.asarray(source)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, 2)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(
            f"stylise: got {what} of shape {values.shape} and dtype {values.dtype}; expected bytes (H, W, 3) or (H, W)."
        )
    if min(values.shape[:2]) < engine.SMALLEST:
        raise ValueError(f"stylise: {what} has {values.shape[:2]} pixels; expected {engine.SMALLEST} a side at least.")
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255


def _sized(x: Tensor, size: int | None) -> Tensor:
    """The picture with a longer side of `size`."""
    if size is None or size == max(x.shape[-2:]):
        return x
    return _scaled(x, _times(x, size / max(x.shape[-2:])))


def _alike(style: Tensor, content: Tensor) -> Tensor:
    """The style with about as many pixels as the content has, never enlarged."""
    times = math.sqrt(content[0, 0].numel() / style[0, 0].numel())
    return style if times >= 1 else _scaled(style, _times(style, times))


def _beside(style: Tensor, content: Tensor, level: tuple[int, int]) -> tuple[int, int]:
    """The size of the style at a scale of the content."""
    return _times(style, level[0] / content.shape[-2])


def _times(x: Tensor, times: float) -> tuple[int, int]:
    h, w = (max(engine.SMALLEST, round(times * side)) for side in x.shape[-2:])
    return h, w


def _scaled(x: Tensor, level: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == level:
        return x
    return functional.interpolate(x, size=level, mode="bilinear", antialias=True).clamp(0, 1)


def _levels(x: Tensor) -> list[tuple[int, int]]:
    """Sizes of the search, coarse to fine, each twice the last."""
    found, times = [(int(x.shape[-2]), int(x.shape[-1]))], 0.5
    while min(x.shape[-2:]) * times >= COARSEST:
        found.append(_times(x, times))
        times /= 2
    return found[::-1]


def _recoloured(style: Tensor, content: Tensor) -> Tensor:
    """The style with the mean and covariance of the content's colours (Gatys 2016, arXiv:1606.05897)."""
    own, other = (p[0].flatten(1) for p in (style, content))
    change = _root(other.cov()) @ torch.linalg.pinv(_root(own.cov()))
    moved = change @ (own - own.mean(1, keepdim=True)) + other.mean(1, keepdim=True)
    return moved.reshape(style.shape).clamp(0, 1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values.clamp_min(1e-8).sqrt()) @ vectors.T
