"""Learning with some labels: rows without one are sorted by the model itself, and it is fitted again, with all of them.

    c_i = argmax_c p(c) p(x_i | c)   where no label is known;      theta = argmax sum_i log p(c_i) p(x_i | c_i)

Classification EM, for any family that learns p(x | c): rows without a label say where the data are, which a model of
p(c | x) cannot use. Each round fits afresh, so give a family that is fitted in closed form, or a short budget. Where
the model is wrong about the shape of a class, such rows can make it worse: judge it on labelled rows held out.

References: Celeux and Govaert 1992 (classification EM); Nigam 2000 (few labelled texts); Chapelle 2006 (when it fails).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Batch, given_of, open_data
from pofx.model import Model
from pofx.randomness import Rng
from pofx.training.fit import fit
from pofx.wrappers import joint

CHUNK = 512


def fit_partly(
    source: Any,
    family: str | type[Model],
    labels: Sequence[Any],
    *,
    name: str = "label",
    rounds: int = 8,
    tolerance: float = 0.005,
    draws: int = 4,
    budget: str = "60s",
    seed: int = 0,
    hyper_parameters: Mapping[str, Any] | None = None,
) -> Model:
    """p(x | label) from rows of which only some have a label.

    Args:
        source: Data, or anything `open_data` reads.
        family: one that learns p(x | given); its arguments in `hyper_parameters`.
        labels: one for each row, None where it is not known; every class at least once among the training rows.
        name: what the label is called.
        rounds: at most this many times are the rows without a label sorted; 0 uses the labelled ones alone.
        tolerance: it stops when a smaller share of them changes its class.
        draws: of a bound on log p(x | c).
        budget: of each fit.
        seed: of the fits and draws.

    Returns:
        The model of the last round, given `name`; `model.record["sorted"]` is the share of rows that each round moved.

    Raises:
        ValueError: another number of labels than rows, or a class without a labelled training row.
    """
    data = open_data(source)
    known, codes, given = _known(labels, len(data), name)
    data = replace(data, given={}, given_spaces={}).with_given({name: (codes, given)})
    train = data.split["train"]
    lacking = set(range(given.variables[0].levels)) - set(codes[train[known[train]]].tolist())
    if lacking:
        values = given.variables[0].values or ()
        raise ValueError(f"fit_partly: no training row has the label {[values[k] for k in sorted(lacking)]}.")
    rows = {k: v[known[v]] for k, v in data.split.items()}
    options: dict[str, Any] = {"budget": budget, "seed": seed, "hyper_parameters": hyper_parameters, "progress": False}
    model, moved = fit(replace(data, split=rows), family, **options), []
    free = train[~known[train]]
    for number in range(rounds if len(free) else 0):
        found = _sorted(model, data.rows.take(free), codes[train[known[train]]], name, draws, seed)
        moved.append(1.0 if number == 0 else float((found != data.given[name][free]).double().mean()))
        if moved[-1] <= tolerance:
            break
        every = data.given[name].clone()
        every[free] = found
        data = replace(data, given={name: every})
        model = fit(replace(data, split={**rows, "train": train}), family, **options)
    model.core.record["sorted"] = moved
    return model


def _known(labels: Sequence[Any], count: int, name: str) -> tuple[Tensor, Tensor, Any]:
    """Which labels are known `(N,)`, all codes `(N,)` (0 where not known), and the Space of the label."""
    if len(labels) != count:
        raise ValueError(f"fit_partly: got {len(labels)} labels for {count} rows; give None where none is known.")
    blank = [v is None or (isinstance(v, float) and np.isnan(v)) for v in labels]
    known = ~torch.tensor(blank)
    seen = [v for v, gone in zip(labels, blank, strict=True) if not gone]
    if not seen:
        raise ValueError("fit_partly: no row has a label.")
    part, space = given_of(name, np.asarray(seen))
    codes = torch.zeros(count, dtype=part.dtype)
    codes[known] = part
    return known, codes, space


def _sorted(model: Model, rows: Batch, labels: Tensor, name: str, draws: int, seed: int) -> Tensor:
    """The likeliest class of each row, `(N,)`, at the class shares of the labels."""
    both, rng = joint(model, labels, name), Rng(seed).seed()
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), CHUNK):
            part = rows.take(torch.arange(start, min(start + CHUNK, len(rows))))
            value = both.log_joint(part.x, draws, rng, None, part.observed).value
            parts.append(value.argmax(1).cpu())
    return torch.cat(parts)
