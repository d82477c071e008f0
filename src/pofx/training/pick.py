"""Pick: a family for data when the user names none, by short fits and guaranteed log p on the validation rows.

    argmax over families of  mean_x log p(x | given),   x in the validation part, log p exact or a lower bound

Families in closed form come first and cost little; those trained by gradients share what remains of SHARE of the
budget. A short fit understates what a network will reach with the rest, so the choice leans to closed forms.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from pofx.data import Data
from pofx.model import Model
from pofx.randomness import Rng
from pofx.training.budget import CLOCKS, Budget
from pofx.training.run import Settings, built, fabric_of, run
from pofx.training.validation import ROWS

CLOSED = ("gaussian", "kde", "mixture")  # the cheapest first
OF_TABLES = ("gaussian", "trees", "mixture", "kde")  # trees are often best on mixed columns; the rest cost no less
TRAINED = ("autoregressive", "flow", "vae")
SHARE = 0.37  # of the budget that picking may take
LEAST, PART = 0.7, 0.08  # seconds, and part of the budget, below which a short fit says nothing
WIDEST = 64  # columns of a table for which trees are tried
MANY = 20_000  # training rows that are enough to choose by
DRAWS = 8  # of a lower bound, the same for every family
EXPECTED = (ValueError, RuntimeError, ImportError)  # Unsupported, Diverged and linear algebra are RuntimeErrors


@dataclass(frozen=True)
class Pick:
    """The family chosen, the budget left for it, why, and what each candidate reached (nats) or why it could not."""

    family: str
    budget: Budget
    why: str
    scores: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {k: v for k, v in asdict(self).items() if k != "budget"}


def pick(data: Data, settings: Settings) -> Pick:
    """Choose a family for data by validation, within a share of the budget, and say why.

    Raises:
        ValueError: there are no validation rows, or no family can learn from such data.
    """
    if len(data.split["valid"]) == 0:
        raise ValueError("picking a family needs validation rows; name a family, or split the data with valid > 0.")
    few, total = _few(data, settings.asked.seed), settings.asked.budget
    scores: dict[str, float] = {}
    left_out: dict[str, str] = {}
    used = 0
    closed = OF_TABLES if data.space.kind == "table" and data.space.size <= WIDEST else CLOSED
    for name, budget in _turns(settings, scores, closed):
        if budget is None:
            left_out[name] = "the budget is too short to try it"
            continue
        used += budget.steps or 0 if name in TRAINED else 0
        try:
            scores[name] = _score(name, few, budget, settings)
        except EXPECTED as error:
            left_out[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not scores:
        raise ValueError(f"no family could be tried on {data.name!r}; name one. {left_out}")
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    why = f"{_said(ranked[0], scores)} on {min(ROWS, len(data.split['valid']))} validation rows"
    why += f", next {_said(ranked[1], scores)}" if len(ranked) > 1 else ", the only one that could be tried"
    if settings.progress:
        print(f"picked {why}", file=sys.stderr)
    rest = total if total.steps is None else replace(total, steps=max(1, total.steps - used))
    return Pick(ranked[0], rest, why, scores, left_out)


def _turns(
    settings: Settings, scores: dict[str, float], closed: tuple[str, ...]
) -> Iterator[tuple[str, Budget | None]]:
    """Each candidate with its share of the budget, None where nothing is left for it."""
    total, now = settings.asked.budget, CLOCKS[settings.asked.budget.clock]
    begun, least = now(), max(LEAST, PART * (total.seconds or 0.0))
    for name in closed:
        spent, most = now() - begun, SHARE / 2 * (total.seconds or 0.0)
        late = total.seconds is not None and spent > most
        share = total if total.seconds is None or name in CLOSED else replace(total, seconds=max(LEAST, most - spent))
        yield name, None if late and scores else share
    for i, name in enumerate(TRAINED):
        many = len(TRAINED) - i
        if total.steps is not None:
            yield name, Budget(steps=max(1, int(SHARE * total.steps / len(TRAINED))))
            continue
        left = SHARE * (total.seconds or 0.0) - (now() - begun)
        share = max(left / many, min(left, least))  # fewer candidates rather than fits that say nothing
        yield name, Budget(seconds=max(share, LEAST), clock=total.clock) if share >= least or not scores else None


def _score(name: str, data: Data, budget: Budget, settings: Settings) -> float:
    """Mean guaranteed log p of the validation rows after a short fit, nats."""
    asked = replace(settings.asked, budget=budget)
    model = built(name, data, asked.seed, {})
    start = {clock: now() for clock, now in CLOCKS.items()}
    run(model, data, Settings(asked, start, device=settings.device), fabric_of(settings.device))
    return validated(model, data, asked.seed)


def validated(model: Model, data: Data, seed: int) -> float:
    """Mean log p of the validation rows (at most ROWS of them), nats.

    Raises:
        ValueError: it is not exact or a lower bound, or not finite.
    """
    valid = data.part("valid")
    valid = valid.take(torch.arange(min(ROWS, len(valid))))
    with torch.no_grad():
        found = model.log_prob(valid.x, valid.given or None, valid.observed, draws=DRAWS, rng=Rng.derive(seed, 5))
    mean = float(found.value.double().mean())
    if not found.quality.guaranteed or not math.isfinite(mean):
        raise ValueError(f"its log p is {mean:.4g} ({found.quality.value}), which cannot be ranked")
    return mean


def _few(data: Data, seed: int) -> Data:
    train = data.split["train"]
    if len(train) <= MANY:
        return data
    keep = train[Rng.derive(seed, 6).permutation(len(train))[:MANY]].sort().values
    return replace(data, split={**data.split, "train": keep})


def _said(name: str, scores: dict[str, float]) -> str:
    return f"{name} ({scores[name]:.4g} nats a row)"
