"""Coverage: which family answers which question, by which route; Murphy's table and the taxonomy tree. From the code.

A cell is the first route whose hooks a small built model offers; an empty cell says which hooks its routes lack. What
an answer is worth is measured where the law is known (`pofx coverage --measure`); worth.json holds it for our families.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from pofx.families import FAMILIES, family
from pofx.kinds.base import Space, Variable, real
from pofx.model import Card, Unsupported
from pofx.tasks import TASKS
from pofx.tasks.base import Route, first_route
from pofx.wrappers import adapted

COLUMNS = ("density", "sampling", "training", "latents", "architecture")
EXAMPLES: dict[str, Space] = {
    "pictures": Space((4, 4, 1), (Variable("pixel", "ordinal", 4, mean=1.5, scale=1.0),), "grid", "image", "uint8"),
    "tables": Space((2,), (Variable("a", "category", 3), Variable("b", resolution=0.1)), "vector", "table"),
    "vectors": real(2),
}


@dataclass(frozen=True)
class Cell:
    """One family and one question on one kind of data: the route and what it costs in truth, or why there is none."""

    family: str
    task: str
    kind: str
    route: str | None
    words: str


def routes_of(task: str) -> tuple[Route, ...]:
    """The routes of a task, best first."""
    return importlib.import_module(TASKS[task]).ROUTES


def question_of(task: str) -> str:
    """The question in words."""
    return importlib.import_module(TASKS[task]).QUESTION


def cards(names: Sequence[str] = ()) -> dict[str, Card]:
    """The card of every family (and of further ones, by name or path.py:Class)."""
    return {_short(name): family(name).card for name in (*FAMILIES, *names)}


def coverage(names: Sequence[str] = ()) -> list[Cell]:
    """All families x questions x example kinds."""
    return [
        _cell(_short(name), task, kind, offers)
        for name in (*FAMILIES, *names)
        for kind, offers in _offers(name).items()
        for task in TASKS
    ]


@lru_cache(maxsize=1)
def worths() -> dict[tuple[str, str], dict[str, Any]]:
    """(family, task) -> what its answer was worth when it was measured."""
    cells = json.loads(resources.files("pofx.reporting").joinpath("worth.json").read_text())
    return {(c["family"], c["task"]): c for c in cells}


def tree(names: Sequence[str] = ()) -> dict[tuple[str, ...], list[str]]:
    """Branch of the taxonomy -> families: explicit (tractable, or approximate by variation or a chain), or implicit."""
    branches: dict[tuple[str, ...], list[str]] = {}
    for name, card in cards(names).items():
        branches.setdefault(card.branch, []).append(name)
    return dict(sorted(branches.items()))


@lru_cache(maxsize=64)
def _offers(name: str) -> dict[str, frozenset[str] | str]:
    """Kind -> the hooks, or why the family refuses such data."""
    return {kind: _offered(name, space) for kind, space in EXAMPLES.items()}


def _offered(name: str, space: Space) -> frozenset[str] | str:
    try:
        return adapted(family(name)(), space).build(space).offers()
    except (ValueError, Unsupported) as refusal:
        return str(refusal)


def _cell(name: str, task: str, kind: str, offers: frozenset[str] | str) -> Cell:
    if isinstance(offers, str):
        return Cell(name, task, kind, None, offers)
    found = first_route(routes_of(task), offers)
    if found is not None:
        return Cell(name, task, kind, found.name, found.words)
    lacks = "; ".join(f"{r.name} lacks {', '.join(sorted(r.needs - offers))}" for r in routes_of(task))
    return Cell(name, task, kind, None, lacks)


def _short(name: str) -> str:
    return name.rsplit(":", 1)[-1].lower() if ".py:" in name else name
