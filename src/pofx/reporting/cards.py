"""Cards: every family on one card: Murphy's five columns, its source, how it was built here, and a drawing.

Offers `cards_of`: HTML, a card for each family of the comparison (baselines have none).
"""

from __future__ import annotations

import json
from typing import Any

from pofx.families import family
from pofx.model import Card, Model
from pofx.reporting.diagrams import diagram, parts_of
from pofx.reporting.evidence import Evidence
from pofx.reporting.numbers import shown
from pofx.reporting.style import escape, missing, name_of

COLUMNS = ("density", "sampling", "training", "latents", "architecture", "incomplete")


def cards_of(seen: Evidence) -> str:
    """All cards, in the order of the leaderboard."""
    return "".join(_card(seen, n) for n in seen.names if not seen.row(n).get("baseline"))


def card_of(seen: Evidence, name: str) -> Card | None:
    """The card of a family: of its model, of its saved words, or of its class; None where none can be had."""
    if name in seen.models:
        return seen.models[name].core.card
    saved = _saved(seen, name)
    if "card" in saved:
        return Card(**{**saved["card"], "branch": tuple(saved["card"]["branch"])})
    try:
        return family(name).card
    except Exception:  # noqa: BLE001 (a family that cannot even be imported still has a row)
        return None


def _card(seen: Evidence, name: str) -> str:
    saved, model = _saved(seen, name), seen.models.get(name)
    card = card_of(seen, name)
    if card is None:
        return f'<div class="card"><h3>{name_of(name, seen.colours)}</h3>{missing("It left no card.")}</div>'
    tier = f'<span class="tag {escape(card.tier)}">{escape(card.tier)}</span>'
    summary = card.summary[:1].upper() + card.summary[1:]
    drawing = diagram(model, card, _declared(name))
    left = "".join(f"<dt>{c}</dt><dd>{escape(getattr(card, c))}</dd>" for c in COLUMNS)
    right = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in _facts(seen, name, saved, model, card))
    return (
        f'<div class="card"><h3>{name_of(name, seen.colours)} {tier}</h3><p>{escape(summary)}.</p>'
        f'<div class="scroll">{drawing}</div><div class="two"><dl>{left}</dl><dl>{right}</dl></div></div>'
    )


def _facts(seen: Evidence, name: str, saved: dict[str, Any], model: Model | None, card: Card) -> list[tuple[str, str]]:
    row, facts = seen.row(name), [("reference", escape(card.reference))]
    if model is not None:
        words = [f"{escape(n)} ({escape(kind)}) {shown(count, 0)}" for n, kind, count, _ in parts_of(model.core)]
        facts.append(("learnt", "; ".join(words[:8]) or "nothing"))
        if model.core is not model:
            facts.append(
                ("wrapped in", f"{escape(type(model).__name__)}: x becomes Euclidean u before the family sees it")
            )
    if row.get("fit_seconds") is not None:
        steps = f", {row['steps']} steps" if row.get("steps") else ""
        facts.append(("fit", f"{shown(row['fit_seconds'], 1)} CPU s{steps}, {shown(row.get('peak_mb'), 0)} MB at most"))
    routes = [f"{t} by {row[f'{t}_route']}" for t in ("density", "impute", "anomaly") if row.get(f"{t}_route")]
    if routes:
        facts.append(("routes", escape("; ".join(routes))))
    hyper = saved.get("hyper_parameters") or {}
    if hyper:
        facts.append(("knobs", f"<code>{escape(', '.join(f'{k}={_knob(v)}' for k, v in hyper.items()))}</code>"))
    if row.get("error"):
        facts.append(("failed", escape(" ".join(str(row["error"]).split())[:300])))
    return facts


def _knob(value: Any) -> str:
    return "auto" if value is None else str(value)


def _saved(seen: Evidence, name: str) -> dict[str, Any]:
    try:
        return json.loads((seen.folder(name) / "model" / "model.json").read_text())
    except (OSError, ValueError):
        return {}


def _declared(name: str) -> tuple[tuple[str, ...], ...]:
    try:
        return tuple(getattr(family(name), "diagram", ()))
    except Exception:  # noqa: BLE001 (as above)
        return ()
