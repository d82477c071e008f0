"""Enlarge: drawn rows behind the user's own, in the user's own type; and rows as the numbers that a predictor takes.

    number    (x - mean) / scale, and 0 where it is missing
    category  e_x, one column for each of its levels, and 0 in all of them where it is missing

`augment` needs both: the first for its answer, the second to measure what it is worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Data
from pofx.kinds import KINDS
from pofx.kinds.base import Space, category
from pofx.metrics.base import Array
from pofx.model import Model


def enlarged(
    model: Model, data: Any, by: str | None, x: Any, labels: Sequence[Any], codes: Tensor, mark: str | None
) -> Any:
    """The user's object with the drawn rows behind its own."""
    if isinstance(data, Data):
        return _longer(data, by, x, codes, mark)
    fresh = KINDS[model.space.kind].restore(x, model.space)
    if isinstance(data, tuple):
        return _joined(data[0], fresh), _joined(data[1], codes if isinstance(data[1], Tensor) else labels)
    if not hasattr(data, "columns"):
        return _joined(data, fresh)
    import pandas as pd

    if by is not None and by in model.given:
        fresh = fresh.assign(**{by: labels})
    if mark is not None and mark in data.columns:
        raise ValueError(f"augment: there is a column {mark!r}; name the mark otherwise.")
    both = [data, fresh.reindex(columns=data.columns)] if len(fresh) else [data]  # no rows would still change dtypes
    out = pd.concat(both, ignore_index=True)
    return out if mark is None else out.assign(**{mark: np.arange(len(out)) >= len(data)})


def _joined(mine: Any, fresh: Any) -> Any:
    if isinstance(mine, Tensor):
        return torch.cat([mine, torch.as_tensor(fresh).reshape(-1, *mine.shape[1:]).to(mine.dtype)])
    if isinstance(mine, list):
        return [*mine, *fresh]
    mine = np.asarray(mine)
    return np.concatenate([mine, np.asarray(fresh, dtype=mine.dtype).reshape(-1, *mine.shape[1:])])


def _longer(data: Data, by: str | None, x: Tensor, codes: Tensor, mark: str | None) -> Data:
    """Data whose training part holds the drawn rows too; the other parts stay."""
    n, more = len(data), len(x)
    if by is not None and set(data.given) - {by} and by in data.given:
        raise ValueError(f"augment: the data is given {sorted(data.given)}; expected {by!r} alone.")
    given = {k: torch.cat([v, codes.to(v.dtype)]) for k, v in data.given.items() if k == by}
    observed = None if data.observed is None else torch.cat([data.observed, torch.ones_like(x, dtype=torch.bool)])
    split = {**data.split, "train": torch.cat([data.split["train"], torch.arange(n, n + more)])}
    # what else was known about each row is not known of drawn ones
    aside = {} if mark is None else {mark: ((torch.arange(n + more) >= n).long(), category(2, mark, (False, True)))}
    whole = torch.cat([data.x, x.to(data.x.dtype)])
    return dataclasses.replace(data, x=whole, given=given, observed=observed, split=split, aside=aside)


class Columns:
    """x `(N, *event)` as numbers for a predictor: standardised, categories as indicators, gaps at the middle.

    Attribute `nominal`: for each category, also of two values, the columns that hold it.
    """

    def __init__(self, space: Space, by: str) -> None:
        names = [] if space.shared else [space.variable(i).name for i in range(space.size)]
        self.space, self.kept = space, [i for i in range(space.size) if not names or names[i] != by]
        self.nominal, at = list[list[int]](), 0
        for v in map(space.variable, self.kept):
            width = v.levels if v.support == "category" else 1
            if v.support in ("category", "binary"):
                self.nominal.append(list(range(at, at + width)))
            at += width

    def __call__(self, x: Tensor, observed: Tensor) -> Array:
        flat, seen, parts = x.flatten(1).double(), observed.flatten(1), []
        for i in self.kept:
            v = self.space.variable(i)
            if v.support == "category":
                part = torch.nn.functional.one_hot(flat[:, i].long(), v.levels).double()
            else:
                part = ((flat[:, i] - v.mean) / (v.scale or 1.0))[:, None]
            parts.append(part * seen[:, i, None])
        return torch.cat(parts, 1).cpu().numpy()
