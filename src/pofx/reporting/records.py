"""Records: samples, nearest training rows, completions and extremes of tables and vectors, as small tables of values.

Offers `samples`, `neighbours`, `completions`, `extremes`: the same four as `pictures`, in words and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pofx.kinds.base import Variable
from pofx.reporting import figures
from pofx.reporting.evidence import Evidence
from pofx.reporting.numbers import shown
from pofx.reporting.style import escape, figure, missing, name_of

WIDE = 9  # columns that fit on a page


def samples(seen: Evidence, count: int = 3) -> str:
    """Histograms, a pair of columns, and a few rows of every family."""
    lines = [_line("<b>real</b>" if k == 0 else "", seen, seen.test.x[k]) for k in range(count)]
    for name, tensors in seen.answered("samples"):
        label = name_of(name, seen.colours)
        lines += [_line(label if k == 0 else "", seen, tensors["samples"][k]) for k in range(count)]
    rows = figure(
        _table(seen, lines, ["family"]), "The first draws of every family as rows, below real ones." + _cut(seen)
    )
    return figures.histograms(seen) + figures.pairs(seen) + rows


def neighbours(seen: Evidence) -> str:
    """How near samples lie to training rows, and the nearest pair of every family."""
    lines = []
    held = seen.nearest(seen.test.x)
    for name, x in [("real, held out", seen.test.x), *((n, t["samples"]) for n, t in seen.answered("samples"))]:
        found = held if name == "real, held out" else seen.nearest(x)
        k = int(found.distance.argmin())
        label = f"<b>{name}</b>" if found is held else name_of(name, seen.colours)
        numbers = [f"{shown(float(found.distance[k]))}", f"{shown(found.median)}"]
        lines.append(_line(label, seen, x[k], ["draw", *numbers]))
        lines.append(_line("", seen, seen.train.x[found.index[k]], ["trained on", "", ""]))
    return figure(
        _table(seen, lines, ["family", "", "distance", "median of all"]),
        "For each family the draw that lies nearest to any training row, above that row. Distances are root "
        "mean square "
        "in standardised columns. Held-out rows are real and new: distances as small as theirs are no sign of copying."
        + _cut(seen),
    )


def completions(seen: Evidence, rows: int = 2, draws: int = 3) -> str:
    """Rows with gaps, and what every family fills in."""
    done = seen.answered("imputed")
    if not done:
        return missing("No family completed anything.")
    holes, lines = done[0][1]["holes"], []
    picked = holes.flatten(1).sum(1).argsort(descending=True, stable=True)[:rows].tolist()
    for r in picked:
        hidden = holes[r].flatten()
        lines.append(_line("<b>original</b>", seen, seen.test.x[r], marks=("gap", hidden)))
        for name, tensors in done:
            for k in range(min(draws, len(tensors["imputed"]))):
                label = name_of(name, seen.colours) if k == 0 else ""
                lines.append(_line(label, seen, tensors["imputed"][k, r], marks=("filled", hidden), only=hidden))
    return figure(
        _table(seen, lines, ["family"]),
        "Held-out rows; the tinted cells of an original were hidden, and each family filled them in "
        f"{draws} times from p(missing given observed). Draws should differ where the rest of the row does not decide."
        + _cut(seen),
    )


def extremes(seen: Evidence) -> str:
    """The most and the least likely held-out rows of every family."""
    lines = []
    for name, tensors in seen.answered("log_p"):
        rows = torch.isfinite(tensors["log_p"]).nonzero().squeeze(1)
        if len(rows) < 4 or name in seen.flat:
            continue
        order = rows[tensors["log_p"][rows].argsort(descending=True)].tolist()
        for k, (words, r) in enumerate((("most", order[0]), ("", order[1]), ("least", order[-1]), ("", order[-2]))):
            label = name_of(name, seen.colours) if k == 0 else ""
            lines.append(_line(label, seen, seen.test.x[r], [words, shown(float(tensors["log_p"][r]), 1)]))
    if not lines:
        return missing("No family has a log p to sort by.")
    caption = (
        "Held-out rows that each family finds most and least likely, with log p in nats. Families that agree on the "
    )
    caption += "least likely rows point at true oddities." + _cut(seen)
    return figure(_table(seen, lines, ["family", "", "log p"]), caption)


def _table(seen: Evidence, lines: Sequence[str], lead: Sequence[str]) -> str:
    names = [seen.data.space.variable(j).name for j in range(min(WIDE, seen.data.space.size))]
    head = "".join(f"<th>{escape(h)}</th>" for h in [*lead, *(n[:24] for n in names)])
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _line(
    label: str,
    seen: Evidence,
    x: Tensor,
    lead: Iterable[str] = (),
    marks: tuple[str, Tensor] | None = None,
    only: Tensor | None = None,
) -> str:
    flat, cells = x.flatten(), []
    for j in range(min(WIDE, len(flat))):
        kind = f' class="{marks[0]}"' if marks is not None and bool(marks[1][j]) else ""
        word = "" if only is not None and not bool(only[j]) else _value(float(flat[j]), seen.data.space.variable(j))
        cells.append(f"<td{kind}>{escape(word)}</td>")
    front = "".join(f"<td>{escape(w)}</td>" for w in lead)
    return f"<tr><td>{label}</td>{front}{''.join(cells)}</tr>"


def _value(value: float, v: Variable) -> str:
    if value != value:
        return "–"
    if v.discrete:
        code = min(max(round(value), 0), v.levels - 1)
        return str(v.values[code] if v.values is not None else code)[:24]
    digits = 0 if v.integer else max(0, -math.floor(math.log10(v.resolution) + 1e-9)) if v.resolution > 0 else None
    words = f"{value:.4g}" if digits is None or digits > 6 else f"{value:.{digits}f}"
    return words.lstrip("-") if not words.strip("-0.") else words


def _cut(seen: Evidence) -> str:
    size = seen.data.space.size
    return f" The first {WIDE} of {size} columns." if size > WIDE else ""
