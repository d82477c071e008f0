"""Baselines: what a family must beat before its number means anything.

    kind                    p(x), a Model for `compare`             the answer that needs no model
    table, array            independent: columns by themselves      the column's mean
    image                   independent: pixels by themselves       bicubic: `enlarged`
    series, audio           last: the last value, and a difference  last value, or that of a season ago: `hold`
    video                   last: the last frame, and a difference  last frame: `hold`
    text, music             unigram: symbols by themselves          the commonest symbol
    shape                   independent: cells by themselves        mean shape: `mean_shape`

A kind names its Model (`Kind.trivial`); "copy" and "uniform" stand beside it for all. All are closed-form Models, so
that they are asked exactly what the families are asked.
"""

from __future__ import annotations

from pofx.baselines.answers import enlarged, hold, mean_shape
from pofx.baselines.entries import Copy, Independent, Uniform
from pofx.baselines.order import Last, Unigram
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.model import Model

BASELINES: dict[str, type[Model]] = {
    "independent": Independent,
    "copy": Copy,
    "uniform": Uniform,
    "last": Last,
    "unigram": Unigram,
}

__all__ = [
    "BASELINES",
    "Copy",
    "Independent",
    "Last",
    "Unigram",
    "Uniform",
    "enlarged",
    "hold",
    "mean_shape",
    "trivial",
]


def trivial(space: Space) -> Model:
    """The Model of p(x) that data of this Space are measured against, not yet fitted.

    >>> from pofx.kinds.base import real
    >>> trivial(real(3)).name
    'independent'
    """
    return BASELINES[KINDS[space.kind].trivial if space.kind in KINDS else "independent"]()
