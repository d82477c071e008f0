"""Page: a comparison as one HTML file that needs nothing else: no network, no script, pictures inside.

    write_report(comparison) -> comparison.folder / "report.html"

Sections: summary, leaderboard, what the numbers mean, taxonomy, families, learning, samples, copying, completion,
likelihood, p(y|x) beside p(x, y), settings. What is missing is said where it would have been.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pofx.files import write_atomic
from pofx.model import Card
from pofx.reporting import figures, pictures, records, sections
from pofx.reporting.cards import card_of, cards_of
from pofx.reporting.evidence import Evidence
from pofx.reporting.lesson import lesson
from pofx.reporting.style import CSS, escape, figure, missing
from pofx.reporting.taxonomy import STANDARD, drawn, place
from pofx.tasks.compare import QUESTION, Comparison

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
    show = pictures if seen.data.space.layout == "grid" else records
    return [
        ("ranks", "Who wins what", "", sections.matrix),
        ("leaderboard", "Leaderboard", "", sections.leaderboard),
        ("samples", "Samples", "Draws of every family beside real data.", show.samples),
        ("completion", "Filling gaps", "p(missing given observed), asked of every family.", show.completions),
        ("likelihood", "Likely and unlikely", "What every family finds most and least probable.", show.extremes),
        ("copying", "New, or copied?", "The nearest training row of samples.", show.neighbours),
        ("learning", "Learning curves", "", figures.curves),
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
        f"{found.settings.get('budget', '?')} each, "
        f"seed {found.settings.get('seed', '?')}"
    )
    words = _safely(lambda s: sections.summary(s.found), seen, "summary")
    return f'<h1>{escape(data.name)}: {escape(QUESTION.lower())}</h1><p class="muted">{escape(facts)}</p>{words}'


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
