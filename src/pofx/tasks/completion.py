"""Completion: what several completions of the same rows say together: means, spread and intervals.

    mean_i = E[x_i | x_o]          the model's own where it has one, else over the draws; a category: the commonest
    low_i, high_i                  quantiles of the draws at (m + 1) p: of m + 1 equal parts, so a new value of the same
                                   law falls outside with the stated probability (needs m >= 2 / (1 - level) - 1)

Offers `summary`, which `impute` puts into its Answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds import KINDS
from pofx.kinds.base import Space, Variable

LEVEL = 0.9
LARGEST = 10_000_000  # numbers in all draws, beyond which quantiles are left to the caller


def summary(space: Space, user: Any, rows: Tensor, seen: Tensor, draws: Tensor, mean: Tensor | None) -> dict[str, Any]:
    """What the draws say of the gaps.

    Args:
        space: of the model.
        user: the rows as the user gave them.
        rows, seen: the same as x and its mask, `(N, *event)`.
        draws: `(m, N, *event)`.
        mean: `(N, *event)` where the model knows it without draws, in codes.

    Returns:
        "mean": rows completed by their means, in the user's type. "mean_raw", "spread" `(N, *event)`: numbers in the
        user's units, a category's commonest code and the share of the other codes; "low" and "high" where there are
        enough draws; "level"; and what was filled, in words.
    """
    holes = ~seen
    with_gaps = int(holes.flatten(1).any(1).sum())
    facts: dict[str, Any] = {
        "filled": f"{int(holes.sum())} of {holes.numel()} entries, in {with_gaps} of {len(rows)} rows"
    }
    if draws.numel() > LARGEST:
        return facts
    means, spread = _moments(space, rows, draws, mean)
    facts |= {"mean": _given_back(space, user, rows, seen, means), "mean_raw": means, "spread": spread}
    if len(draws) >= 2 / (1 - LEVEL) - 1:
        low, high = interval(space, draws, LEVEL)
        facts |= {"low": low, "high": high, "level": LEVEL}
        facts["intervals"] = f"{LEVEL:.0%}, from {len(draws)} draws: low and high"
    else:
        facts["intervals"] = f"none: {LEVEL:.0%} needs at least {round(2 / (1 - LEVEL) - 1)} draws, not {len(draws)}"
    return facts


def interval(space: Space, draws: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Low and high of every entry `(N, *event)`, in the user's units (a category: NaN).

    Raises:
        ValueError: too few draws for the level.
    """
    m, p = len(draws), (1 - level) / 2
    if (m + 1) * p < 1 - 1e-9:
        raise ValueError(
            f"interval: {m} draws hold no {level:.0%} interval; draw at least {int(np.ceil(1 / p - 1e-9)) - 1}."
        )
    values = torch.stack([numbers(space, one) for one in draws])
    q = torch.tensor([p, 1 - p], dtype=torch.float64)
    place = ((m + 1) * q - 1).clamp(0, m - 1)
    ordered = values.sort(0).values
    low, high = (torch.lerp(ordered[int(k)], ordered[min(int(k) + 1, m - 1)], float(k % 1)) for k in place)
    return low, high


def numbers(space: Space, x: Tensor) -> Tensor:
    """x `(N, *event)` (codes may lie between two levels) in the user's units, float64; NaN for a category."""
    flat = x.double().reshape(len(x), space.size)
    if space.shared:
        return _number(space.variables[0], flat).reshape(x.shape)
    return torch.stack([_number(v, flat[:, j]) for j, v in enumerate(space.variables)], 1).reshape(x.shape)


def _number(v: Variable, x: Tensor) -> Tensor:
    levels = levels_of(v)
    if not v.discrete or levels is None and v.support != "category" and v.values is None:
        return x
    if levels is None:
        return torch.full_like(x, torch.nan)
    return torch.from_numpy(np.interp(x.numpy(), np.arange(len(levels)), levels))


def levels_of(v: Variable) -> Any:
    """The numbers that the codes of a discrete variable stand for; None where they are words or it has none."""
    if not v.discrete or v.support == "category" or v.values is None:
        return None
    whole = all(isinstance(k, (int, float)) and not isinstance(k, bool) for k in v.values)
    return np.array(v.values, dtype=np.float64) if whole else None


def _words(v: Variable) -> bool:
    return v.discrete and v.values is not None and levels_of(v) is None or v.support == "category"


def _moments(space: Space, rows: Tensor, draws: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    values = torch.stack([numbers(space, one) for one in draws])
    means = values.mean(0) if mean is None else numbers(space, mean)
    spread = values.std(0) if len(draws) > 1 else torch.full_like(means, torch.nan)
    for j in range(space.size):
        if _words(space.variable(j)):
            codes = draws.reshape(len(draws), len(rows), -1)[:, :, j].long()
            commonest = codes.mode(0).values if mean is None else mean.reshape(len(rows), -1)[:, j].round().long()
            means.view(len(rows), -1)[:, j] = commonest.double()
            spread.view(len(rows), -1)[:, j] = (codes != commonest).double().mean(0)
    return means, spread


def _given_back(space: Space, user: Any, rows: Tensor, seen: Tensor, means: Tensor) -> Any:
    """The user's rows with their means: frames with unrounded numbers in their gaps, else an array."""
    import pandas as pd

    if not isinstance(user, pd.DataFrame):
        return np.where(seen.numpy(), numbers(space, rows).numpy(), means.numpy())
    codes = rows.clone()
    for j in range(space.size):
        if _words(space.variable(j)):
            codes[:, j] = torch.where(seen[:, j], rows[:, j], means[:, j].to(rows.dtype))
    out = KINDS[space.kind].complete(user, codes, seen, space)
    keys = [c["key"] for c in space.meta.get("columns", []) if c["form"] != "blank"]
    for j, key in enumerate(keys):
        column = next(c for c in space.meta["columns"] if c["key"] == key)
        hole = ~seen[:, j].numpy()
        if hole.any() and column["form"] == "number" and not _words(space.variable(j)):
            filled = pd.to_numeric(user[key], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            out[key] = np.where(hole, means[:, j].numpy(), filled)
    return out
