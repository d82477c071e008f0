"""Page: a comparison as one HTML file that needs nothing else: no network, no script, pictures inside.

    write_report(comparison) -> comparison.folder / "report.html"

Sections: summary, leaderboard, seed by seed where there are several, samples, completion, likelihood, copying,
learning, taxonomy, families, p(y|x) beside p(x, y), what the numbers mean, settings. What is missing is said where it
would have been.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pofx.files import write_atomic
from pofx.metrics.base import Array
from pofx.model import Card
from pofx.reporting import figures, pictures, records, sections
from pofx.reporting.cards import card_of, cards_of
from pofx.reporting.evidence import Evidence
from pofx.reporting.lesson import lesson
from pofx.reporting.numbers import BY_FIELD, Column, Row, likelihood_field, shown
from pofx.reporting.style import CSS, escape, figure, missing, name_of
from pofx.reporting.taxonomy import STANDARD, drawn, place
from pofx.tasks.compare import QUESTION, Comparison
from pofx.tasks.seeds import interval_of, reach

REPORT = "report.html"
Section = tuple[str, str, str, Callable[[Evidence], str]]


def write_report(comparison: Comparison, add: Sequence[str] = ()) -> Path:
    """Write the report of a comparison into its folder; returns the path.

    Args:
        comparison: as `compare` or `read` gives it.
        add: further families that its folder names, as path.py:Class.

    Raises:
        OSError: the folder cannot be written.
    """
    path = comparison.folder / REPORT
    write_atomic(path, html_of(comparison, add).encode())
    return path


def html_of(comparison: Comparison, add: Sequence[str] = ()) -> str:
    """The whole page as text."""
    seen = Evidence(comparison, add)
    parts, links = [], []
    for anchor, title, words, body in _sections(seen):
        content = _safely(body, seen, title)
        if content:
            links.append(f'<a href="#{anchor}">{escape(title)}</a>')
            intro = f"<p>{words}</p>" if words else ""
            parts.append(f'<section id="{anchor}"><h2>{escape(title)}</h2>{intro}{content}</section>')
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>pofx: {escape(comparison.data.name)}</title>"
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head><body><main>'
        f"{_title(seen)}<nav>{' '.join(links)}</nav>{''.join(parts)}</main></body></html>"
    )


def _sections(seen: Evidence) -> list[Section]:
    """Anchor, title, a line of words, and what draws it; pictures and rows are shown each in their own way."""
    space = seen.data.space
    show = pictures if space.layout == "grid" and len(space.shape) == 3 else records  # a clip's frames are numbers
    several = len(seen.found.seeds) > 1
    one = f" Of one fit: seed {seen.found.seeds[0]}, or the first that worked." if several else ""
    return [
        ("ranks", "Who wins what", "", sections.matrix),
        ("leaderboard", "Leaderboard", "", sections.leaderboard),
        ("seeds", "Seed by seed", "", _by_seeds),
        ("samples", "Samples", f"Draws of every family beside real data.{one}", show.samples),
        ("completion", "Filling gaps", f"p(missing given observed), asked of every family.{one}", show.completions),
        ("likelihood", "Likely and unlikely", f"What every family finds most and least probable.{one}", show.extremes),
        ("copying", "New, or copied?", f"The nearest training row of samples.{one}", show.neighbours),
        ("learning", "Learning curves", one.strip(), figures.curves),
        ("taxonomy", "The families in one tree", "", _taxonomy),
        ("families", "Every family", "Its five properties (after Murphy 2023), and how it computes.", cards_of),
        ("lesson", "Discriminative or generative", "", lambda s: lesson(s.data)),
        ("glossary", "What every number means", "", sections.glossary),
        ("settings", "Settings and provenance", "", sections.settings),
    ]


def _title(seen: Evidence) -> str:
    found, data = seen.found, seen.data
    fair = [r for r in found.rows if not r.get("baseline")]
    facts = (
        f"{len(fair)} famil{'y' if len(fair) == 1 else 'ies'}, {len(data)} rows of shape "
        f"{' × '.join(map(str, data.space.shape))}, {len(seen.test)} held out, budget "
        f"{found.settings.get('budget', '?')} {'a fit' if len(found.seeds) > 1 else 'each'}, "
        f"{_seeds(found)}"
    )
    words = _safely(lambda s: sections.summary(s.found), seen, "summary")
    return f'<h1>{escape(data.name)}: {escape(QUESTION.lower())}</h1><p class="muted">{escape(facts)}</p>{words}'


def _seeds(found: Comparison) -> str:
    """Which seeds, in words."""
    seeds = found.seeds
    if len(seeds) == 1:
        return f"seed {found.settings.get('seed', '?')}"
    return f"{len(seeds)} fits of each family, seeds {seeds[0]} to {seeds[-1]}, on one split (baselines once)"


def _by_seeds(seen: Evidence) -> str:
    """Each fit's value by itself, and which part of the interval is of the rows and which of the seeds."""
    found = seen.found
    if len(found.seeds) < 2:
        return ""
    parts = []
    for field in (likelihood_field(found), "c2st"):
        rows = [r for r in found.rows if field in r.get("seeds", {}) and r.get(field) is not None]
        if rows:
            parts.append(_one_by_one(seen, BY_FIELD[field], rows))
    return "".join(parts)


def _one_by_one(seen: Evidence, column: Column, rows: Sequence[Row]) -> str:
    every = [v for r in rows for v in r["seeds"][column.field] if v is not None]
    ends = [interval_of(r, column.field) or (r[column.field],) * 2 for r in rows]
    low, high = min([*every, *(e[0] for e in ends)]), max([*every, *(e[1] for e in ends)])
    names = "".join(f"<th>seed {s}</th>" for s in seen.found.seeds)
    head = f"<th>{escape(column.title)}</th>{names}<th>mean</th><th>± in all</th><th>of rows</th><th>of seeds</th>"
    lines = []
    for row, reached in zip(rows, ends, strict=True):
        half, values = (reached[1] - reached[0]) / 2, row["seeds"][column.field]
        told = "".join(f"<td>{'failed' if v is None else shown(v, column.digits)}</td>" for v in values)
        kept = np.array([v for v in values if v is not None])
        spread = reach(kept)
        own = math.sqrt(max(half**2 - spread**2, 0.0))
        cells = [row[column.field], half, own, spread if len(kept) > 1 else None]
        told += "".join(f"<td>{escape(shown(v, column.digits))}</td>" for v in cells)
        picture = _strip(kept, row[column.field], reached, (low, high), seen.colours[row["family"]])
        lines.append(f"<tr><td>{name_of(row['family'], seen.colours)}</td>{told}<td>{picture}</td></tr>")
    head += f"<th class='left'>{escape(shown(low, column.digits))} … {escape(shown(high, column.digits))}</th>"
    return figure(
        f'<div class="scroll"><table class="board"><tr>{head}</tr>{"".join(lines)}</table></div>',
        f"{escape(column.title)} ({column.better} is better) by every fit. Dots are the fits, the line is the 95 % "
        "interval of their mean. ± in all = √(of rows² + of seeds²): the part of the rows (and of what was drawn for "
        "them) shrinks with more of these, that of the seeds with more seeds.",
    )


def _strip(values: Array, mean: float, ends: tuple[float, float], scale: tuple[float, float], colour: str) -> str:
    """Fits as dots and the interval of their mean as a line."""
    width, low, span = 240, scale[0], (scale[1] - scale[0]) or 1.0

    def at(value: float) -> str:
        return f"{8 + (width - 16) * (value - low) / span:.1f}"

    dots = "".join(f'<circle cx="{at(v)}" cy="9" r="3.2" fill="{colour}" fill-opacity="0.75"/>' for v in values)
    return (
        f'<svg width="{width}" height="18" viewBox="0 0 {width} 18" style="vertical-align:middle" role="img" '
        f'aria-label="fits and their interval">'
        f'<path d="M{at(ends[0])} 9H{at(ends[1])}" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.5"/>'
        f'<path d="M{at(mean)} 3V15" stroke="{colour}" stroke-width="1.5"/>{dots}</svg>'
    )


def _taxonomy(seen: Evidence) -> str:
    cards = _cards(seen)
    leaves: dict[tuple[str, ...], list[str]] = {path: [] for path in STANDARD}
    for name, card in cards.items():
        leaves.setdefault(place(card), []).append(name)
    absent = [n for n in seen.names if n not in cards and not seen.row(n).get("baseline")]
    lost = missing(f"Without a card, so without a place: {', '.join(absent)}.") if absent else ""
    return lost + figure(
        drawn(leaves, seen.colours),
        "The families of this comparison in the field's own tree. The further up, the more a log p can be "
        "trusted: tractable "
        "ones compute it, approximate ones bound or estimate it, implicit ones have none and are judged by "
        "their samples.",
    )


def _cards(seen: Evidence) -> dict[str, Card]:
    found = {n: card_of(seen, n) for n in seen.names if not seen.row(n).get("baseline")}
    return {n: card for n, card in found.items() if card is not None}


def _safely(body: Callable[[Evidence], str], seen: Evidence, title: str) -> str:
    """A section that cannot be drawn says so, and the others stand."""
    try:
        return body(seen)
    except Exception as error:
        logging.getLogger(__name__).warning("report: the section %r failed", title, exc_info=True)
        return missing(f"This section could not be drawn ({type(error).__name__}: {error}).")
