"""Evidence: what a comparison left in its folder, read once and with care: rows, tensors, models, histories.

    distance(a, b) = sqrt(mean_j (a_j - b_j)^2)      in levels for pictures, otherwise in standardised coordinates

Anything may be missing (a family that failed, a folder that was moved); what is missing is None or left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.families import FAMILIES, family
from pofx.files import read_history
from pofx.kinds.relax import Chart
from pofx.model import Model
from pofx.reporting.numbers import Row
from pofx.reporting.style import colours_of
from pofx.tasks.compare import Comparison
from pofx.training.folder import load
from pofx.wrappers import adapted

LIMIT = 20_000  # training rows that are searched for neighbours


@dataclass(frozen=True)
class Nearest:
    """Of each row: the nearest training row `(N,)` and how far away it is `(N,)`."""

    index: Tensor
    distance: Tensor

    @property
    def median(self) -> float:
        """The median distance."""
        return float(self.distance.median())


class Evidence:
    """A comparison with everything that its folder holds.

    Args:
        found: the comparison.
        add: further families that its folder may name, as path.py:Class.
    """

    def __init__(self, found: Comparison, add: Sequence[str] = ()) -> None:
        self.found, self.add, self.data = found, tuple(add), found.data
        self.colours = colours_of(list(FAMILIES), [r["family"] for r in found.rows])
        self.train, self.test = self._part(found.data, "train"), self._part(found.data, "test")

    @cached_property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Family -> what it answered; without those whose file is missing or damaged."""
        kept: dict[str, dict[str, Tensor]] = {}
        for row in self.found.rows:
            try:
                kept[row["family"]] = self.found.tensors(row["family"])
            except (OSError, ValueError):
                kept[row["family"]] = {}
        return kept

    @cached_property
    def models(self) -> dict[str, Model]:
        """Family -> its fitted model; where it cannot be loaded, one built alike, to show its parts."""
        own, kept = self._own(), {}
        for name in (r["family"] for r in self.found.rows):
            try:
                kept[name] = load(self.folder(name) / "model", own)
            except Exception:
                self._rebuilt(name, own, kept)
        return kept

    def _rebuilt(self, name: str, own: Sequence[type[Model]], kept: dict[str, Model]) -> None:
        """A model with the saved hyper-parameters and fresh weights, where the family is there and takes them."""
        try:
            words = json.loads((self.folder(name) / "model" / "model.json").read_text())
            kind = next((c for c in own if c.__name__.lower() == name), None) or family(name)
            model = adapted(kind(**words["hyper_parameters"]), self.data.space)
            kept[name] = model.build(self.data.space, self.data.given_spaces)
        except Exception:
            return

    @cached_property
    def flat(self) -> frozenset[str]:
        """Families whose log p is the same for all rows, so that sorting by it says nothing."""
        log_p = {n: t["log_p"] for n, t in self.tensors.items() if "log_p" in t}
        return frozenset(n for n, v in log_p.items() if float(v.std()) < 1e-9)

    @property
    def names(self) -> list[str]:
        """All families in the order of the leaderboard, baselines last."""
        rows = sorted(self.found.rows, key=lambda r: bool(r.get("baseline")))
        return [r["family"] for r in rows]

    def answered(self, what: str) -> list[tuple[str, dict[str, Tensor]]]:
        """Families that have a tensor, with all their tensors."""
        return [(n, self.tensors[n]) for n in self.names if what in self.tensors[n]]

    def row(self, name: str) -> Row:
        """The row of a family."""
        return next(r for r in self.found.rows if r["family"] == name)

    def folder(self, name: str) -> Path:
        """Where a family was measured; with several seeds by the first fit that worked."""
        return self.found.where(name)

    def history(self, name: str) -> list[dict[str, Any]]:
        """What its fit reported, line by line."""
        return read_history(self.folder(name) / "model")

    def nearest(self, x: Tensor) -> Nearest:
        """The nearest training row of every row `(N, *event)`."""
        train, rows = self._coordinates(self.train.x[:LIMIT]), self._coordinates(x)
        gaps = [torch.cdist(part, train).min(1) for part in rows.split(256)]
        index = torch.cat([g.indices for g in gaps])
        return Nearest(index, torch.cat([g.values for g in gaps]) / train.shape[1] ** 0.5)

    def _coordinates(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        if self.data.space.layout == "grid":
            return flat
        return torch.nan_to_num(Chart(self.data.space).encode(x).flatten(1).double())

    def _own(self) -> list[type[Model]]:
        from pofx.baselines import BASELINES

        own = list(BASELINES.values())
        for name in self.add:
            try:
                own.append(family(name))
            except (ValueError, ImportError):
                continue
        return own

    @staticmethod
    def _part(data: Data, name: str) -> Batch:
        return data.part(name) if name in data.split else data.rows
