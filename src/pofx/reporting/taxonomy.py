"""Taxonomy: where every family stands in the field's own tree, as data and as a drawing.

    explicit  -> tractable
              -> approximate -> by variation | by a chain
    implicit  -> direct | by a chain                       (after Goodfellow 2016, arXiv:1701.00160, figure 9)

A card states its branch; the words of branches are translated here, unknown ones stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pofx.drawing.style import BRANCH, INK, LINE, MUTED
from pofx.model import Card
from pofx.reporting.coverage import tree
from pofx.reporting.style import escape, text_width

Leaves = dict[tuple[str, ...], list[str]]
STANDARD = (
    ("explicit", "tractable"),
    ("explicit", "approximate", "by variation"),
    ("explicit", "approximate", "by a chain"),
    ("implicit", "direct"),
    ("implicit", "by a chain"),
)
WORDS = {
    "variational": "by variation", "bound": "by variation", "variation": "by variation", "energy": "by a chain",
    "chain": "by a chain", "markov chain": "by a chain",
}  # fmt: skip
MEANING = {
    "explicit": "log p(x) is defined",
    "implicit": "only samples",
    "tractable": "computed as it stands",
    "approximate": "bounded or estimated",
    "by variation": "a bound from an encoder",
    "by a chain": "a Markov chain",
    "direct": "one pass through a network",
}


def place(card: Card) -> tuple[str, ...]:
    """The branch of a card in the words of the tree; below "tractable" all are leaves."""
    path = tuple(WORDS.get(w.lower(), w) for w in card.branch)
    return path[:2] if path[:2] == ("explicit", "tractable") else path


def placed(add: Sequence[str] = ()) -> Leaves:
    """Branch -> families; the standard branches first, also where they are empty."""
    from pofx.reporting.coverage import cards

    leaves: Leaves = {path: [] for path in STANDARD}
    for name, card in cards(add).items():
        leaves.setdefault(place(card), []).append(name)
    assert sum(map(len, leaves.values())) == sum(map(len, tree(add).values()))
    return leaves


def drawn(leaves: Mapping[tuple[str, ...], Sequence[str]], colours: Mapping[str, str]) -> str:
    """The tree as SVG, root on the left, families on the right."""
    spots: dict[tuple[str, ...], float] = {}
    y, step, parts = 34.0, 60.0, []
    x = [16.0, 110.0, 310.0, 540.0, 740.0]
    order = sorted(leaves, key=lambda p: [_index(leaves, p[:k]) for k in range(1, len(p) + 1)])
    for path in order:
        spots[path] = y
        y += step
    for path in sorted({p[:k] for p in order for k in range(len(p))}, key=len, reverse=True):
        below = [spots[c] for c in spots if len(c) == len(path) + 1 and c[: len(path)] == path]
        spots[path] = sum(below) / len(below)
    for path, spot in spots.items():
        if path:
            parts.append(_edge(x[len(path) - 1], spots[path[:-1]], x[len(path)], spot, path[-2:-1] or ("p(x)",)))
        parts.append(_word(x[len(path)], spot, path[-1] if path else "p(x)"))
    for path in order:
        parts.append(_leaves(x[len(path)], x[4], spots[path], path, leaves[path], colours))
    height = y - step + 40
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 1180 {height:.0f}" role="img" aria-label="taxonomy tree of families" '
        f'class="drawing">{body}</svg>'
    )


def _index(leaves: Mapping[tuple[str, ...], Sequence[str]], prefix: tuple[str, ...]) -> int:
    return next(i for i, p in enumerate(leaves) if p[: len(prefix)] == prefix)


def _edge(x0: float, y0: float, x1: float, y1: float, parent: tuple[str, ...]) -> str:
    start = x0 + text_width(parent[0], 15, bold=True) + 6
    middle = (start + x1) / 2
    return f'<path d="M{start:.0f},{y0:.0f} C{middle:.0f},{y0:.0f} {middle:.0f},{y1:.0f} {x1 - 6:.0f},{y1:.0f}" fill="none" stroke="{BRANCH}" stroke-width="1.4"/>'  # noqa: E501


def _word(x: float, y: float, word: str) -> str:
    gloss = MEANING.get(word, "")
    below = (
        f'<text x="{x:.0f}" y="{y + 21:.0f}" font-size="11.5" fill="{MUTED}">{escape(gloss)}</text>' if gloss else ""
    )
    return (
        f'<text x="{x:.0f}" y="{y + 5:.0f}" font-size="15" font-weight="600" fill="{INK}">{escape(word)}</text>{below}'
    )


def _leaves(
    x0: float, x: float, y: float, path: tuple[str, ...], names: Sequence[str], colours: Mapping[str, str]
) -> str:
    start = x0 + text_width(path[-1], 15, bold=True) + 6
    line = f'<line x1="{start:.0f}" y1="{y:.0f}" x2="{x - 8:.0f}" y2="{y:.0f}" stroke="{LINE}" stroke-width="1.2"/>'
    if not names:
        return line + f'<text x="{x:.0f}" y="{y + 5:.0f}" font-size="13" fill="{MUTED}">no family yet</text>'
    parts, left = [line], x
    for name in names:
        width = text_width(name, 13) + 18
        if left + width > 1176 and left > x:  # a second row of leaves
            left, y = x, y + 25
        parts.append(
            f'<rect x="{left:.0f}" y="{y - 12:.0f}" width="{width:.0f}" height="23" rx="11.5" fill="#fff" '
            f'stroke="{colours.get(name, MUTED)}" stroke-width="1.5"/>'
            f'<text x="{left + width / 2:.0f}" y="{y + 4.5:.0f}" font-size="13" text-anchor="middle" fill="{INK}">'
            f"{escape(name)}</text>"
        )
        left += width + 6
    return "".join(parts)
