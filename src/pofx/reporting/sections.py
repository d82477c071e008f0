"""Sections: the summary in words, the matrix of ranks, the leaderboard, the glossary and the settings, from the rows.

Offers `summary`, `matrix`, `leaderboard`, `glossary`, `settings`: HTML.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

from pofx.reporting.evidence import Evidence
from pofx.reporting.numbers import (
    BY_FIELD,
    QUESTIONS,
    Column,
    Row,
    beaten_by_nothing,
    blocks,
    columns_of,
    half_width,
    level_with,
    likelihood_field,
    ranks,
    shown,
)
from pofx.reporting.style import escape, figure, name_of
from pofx.tasks.base import MEANING
from pofx.tasks.compare import LEADERBOARD, SHEET, Comparison, wins
from pofx.tasks.seeds import COSTS, worked

HEAT = ("#cfe8d2", "#e1f0e2", "#eff6ef")


def summary(found: Comparison) -> str:
    """One paragraph: who is best for which question, and whether anyone is best at everything."""
    wins_of: dict[str, list[str]] = {}
    asked = [f for f in (likelihood_field(found), *QUESTIONS) if f in {c.field for c in columns_of(found)}]
    for field in dict.fromkeys(asked):
        best = found.best(field)
        if best is not None:
            wins_of.setdefault(best, []).append(_claim(found, field))
    if not wins_of:
        return '<p class="lead">No family has an answer that may win anything; the rows below say why.</p>'
    fair = sum(wins(r) for r in found.rows)
    if fair == 1:
        head = "One family was measured, so it has only the baselines to beat."
    elif len(wins_of) == 1:
        head = f"<b>{escape(next(iter(wins_of)))}</b> is ahead on every question asked here, which is rare."
    else:
        head = f"No family is best at everything: {len(wins_of)} of {fair} families win something."
    words = [f"<b>{escape(name)}</b> {_joined(claims)}" for name, claims in wins_of.items()]
    return f'<p class="lead">{head} {". ".join(words)}.</p>{_warnings(found)}'


def matrix(seen: Evidence) -> str:
    """Ranks of every family in every question, as a heat table."""
    found = seen.found
    columns = [c for c in columns_of(found) if c.field not in ("density", "peak_mb")]
    rows = [r for r in found.rows if wins(r)]
    if len(rows) < 2:
        return ""
    table = {c.field: ranks(found.rows, c.field) for c in columns}
    level = {c.field: level_with(found, c.field) for c in columns}
    head = "<th>family</th>" + "".join(
        f"<th>{escape(c.question)}<small>{escape(c.title)}</small></th>" for c in columns
    )
    body = []
    for row in rows:
        cells = [_rank(table[c.field].get(row["family"]), row["family"] in level[c.field]) for c in columns]
        body.append(f"<tr><td>{name_of(row['family'], seen.colours)}</td>{''.join(cells)}</tr>")
    return figure(
        f'<div class="scroll"><table class="heat"><tr>{head}</tr>{"".join(body)}</table></div>',
        "Ranks among the families that may win, 1 is best. “=” cannot be told from the best: its interval "
        "overlaps, or its "
        "paired difference in log p includes 0. A dash: no answer, or (for log p) none that is guaranteed. "
        "Read a row to know a family, a column to choose one.",
    )


def leaderboard(seen: Evidence) -> str:
    """Two blocks of rows: guaranteed log p, ranked; and all else. Below them what each family cost."""
    found, every = seen.found, columns_of(seen.found)
    columns, paid = ([c for c in every if (c.field in COSTS) == cost] for cost in (False, True))
    best = {c.field: found.best(c.field) for c in every}
    extra = "<th>behind<small>nats a row</small></th><th class='left'>log p is</th>"
    head = "<th>family</th>" + _head(columns[0]) + extra + "".join(_head(c) for c in columns[1:])
    lines = []
    titles = (
        "Guaranteed: log p is exact or a lower bound, so the truth is at least this good. Ranked.",
        "Not guaranteed: log p is an estimate, an upper bound, unnormalised or absent. Not ranked by it.",
    )
    for title, rows in zip(titles, blocks(found), strict=True):
        if rows:
            lines.append(f'<tr class="block"><td colspan="{len(columns) + 3}">{title}</td></tr>')
        lines += [_line(seen, row, columns, best) for row in rows]
    return figure(
        f'<div class="scroll"><table class="board"><tr>{head}</tr>{"".join(lines)}</table></div>',
        f"{_interval_words(found)} Green: best of the column among those that may win (baselines and copies "
        'may not). <span class="below">Brown ▽</span>: no better than treating every entry by itself. '
        "“Behind” is the mean difference in log p to the best family on the same rows, with its paired 95 % "
        "interval: far tighter than the two "
        "separate intervals, because rows that are hard for one are hard for the other."
        + (" The spread of both families' seeds is in it too." if len(found.seeds) > 1 else ""),
    ) + _costs(seen, paid, best)


def _costs(seen: Evidence, columns: Sequence[Column], best: dict[str, str | None]) -> str:
    rows = [r for block in blocks(seen.found) for r in block if not r.get("error")]
    if not columns or not rows:
        return ""
    head = "<th>cost</th>" + "".join(_head(c, c.unit) for c in columns)
    lines = []
    for row in rows:
        cells = "".join(_value(seen.found, row, c, best[c.field] == row["family"]) for c in columns)
        kind = "baseline" if row.get("baseline") else ""
        lines.append(f'<tr class="{kind}"><td>{name_of(row["family"], seen.colours)}</td>{cells}</tr>')
    budget = seen.found.settings.get("budget", "?")
    spread = " ± is of the seeds alone." if len(seen.found.seeds) > 1 else ""
    return figure(
        f'<div class="scroll"><table class="board"><tr>{head}</tr>{"".join(lines)}</table></div>',
        f"What it cost. Every fit had {escape(budget)}; it may need less, and a closed form does.{spread}",
    )


def glossary(seen: Evidence) -> str:
    """What every number means, how good a log p may be, and what the baselines are for."""
    items = [(c.title, f"{c.unit}; {c.better} is better", c.meaning) for c in columns_of(seen.found)]
    items += [(q.value, "quality of a log p", words.split(": ", 1)[1].capitalize()) for q, words in MEANING.items()]
    items += [
        ("interval", "95 %", _covered(len(seen.found.seeds))),
        ("behind", "nats a row", "Log p of the best family minus log p of this one on the same held-out rows, "
                                 "averaged. "
         f"An interval that excludes 0 means that the order is not luck of the rows{_nor_of_seeds(seen.found)}."),
        ("independent", "baseline", "Every entry by its own histogram, as if nothing depended on anything. A "
                                    "family that does "
         "not beat it has learnt no dependence."),
        ("copy", "baseline", "Draws rows of the training set. It looks perfect by eye and must be flagged; an "
                             "unseen row has "
         "probability 0."),
        ("uniform", "baseline", "Every x is equally likely: what knowing only the range of the data is worth."),
        ("COPY", "flag", "Samples lie nearer to training rows than to held-out rows more often than chance allows "
         "(p &lt; 0.001). A model that stores its data generalises nothing and may leak it, so it wins nothing here."),
    ]  # fmt: skip
    body = "".join(
        f"<dt>{escape(title)}<small>{escape(unit)}</small></dt><dd>{words if '&lt;' in words else escape(words)}</dd>"
        for title, unit, words in items
    )
    return f'<dl class="words">{body}</dl>'


def _covered(seeds: int) -> str:
    """What an interval holds, in words."""
    rows = "Covers the noise of a finite number of held-out rows and samples"
    if seeds == 1:
        return (
            f"{rows}. It does not cover the luck of one training run: another seed, or a longer budget, may change an "
            "order by more (pofx compare --seeds 3)."
        )
    return (
        f"{rows}, and the luck of a training run: every value is the mean of {seeds} fits that differ in their seed "
        "alone, and their spread is in the interval (Student's t, wide for few seeds). Costs have the spread alone. "
        "Baselines have no seed and were fitted once. It does not cover the split, which was the same in every fit, "
        "nor a longer budget."
    )


def _nor_of_seeds(found: Comparison) -> str:
    return ", nor of the seeds" if len(found.seeds) > 1 else ""


def _interval_words(found: Comparison) -> str:
    if len(found.seeds) == 1:
        return "± is half of a 95 % interval, of the noise of rows and samples by one fit."
    return (
        f"Means over {len(found.seeds)} fits with seeds {', '.join(map(str, found.seeds))}; ± is half of a 95 % "
        "interval that holds the spread of the seeds as well as the noise of rows and samples. Hold the pointer over a "
        "number to see each fit's."
    )


def settings(seen: Evidence) -> str:
    """What was compared, on what, with what: enough to do it again."""
    import numpy as np
    import torch

    from pofx import __version__

    found, data = seen.found, seen.data
    split = ", ".join(f"{len(v)} {k}" for k, v in sorted(data.split.items(), key=lambda i: -len(i[1])))
    given = ", ".join(data.given_spaces) or "nothing"
    pairs = [
        (
            "data",
            f"{data.name}: {len(data)} rows of shape {' x '.join(map(str, data.space.shape))}; {split}; given {given}",
        ),
        ("fingerprint", found.settings.get("fingerprint", "?")),
        ("unit of log p", data.space.unit()),
        *((k, v) for k, v in found.settings.items() if k != "fingerprint"),
        ("beside this page", f"{LEADERBOARD}, {SHEET}, rows.json; a folder for each family"),
        ("fitted with", _versions(found.folder)),
        ("report by", f"pofx {__version__}, torch {torch.__version__}, numpy {np.__version__}"),
        ("hardware", f"{_processor()}, {platform.system()}, Python {platform.python_version()}"),
    ]
    rows = "".join(f"<tr><td>{escape(k)}</td><td class='left'>{escape(v)}</td></tr>" for k, v in pairs)
    notes = "".join(f"<li>{escape(n)}</li>" for n in data.notes[:40])
    told = f"<h3>What reading the data decided</h3><ul class='note'>{notes}</ul>" if notes else ""
    return f"<table>{rows}</table>{told}{_failures(seen)}"


def _claim(found: Comparison, field: str) -> str:
    best = found.best(field)
    row = next(r for r in found.rows if r["family"] == best)
    column, number = BY_FIELD[field], shown(row[field], BY_FIELD[field].digits)
    spoken = {
        "bits_per_dim": f"{number} bits a dimension, {row.get('quality')}",
        "nats": f"{number} nats a row, {row.get('quality')}",
        "fit_seconds": f"{number} s",
        "sample_ms": f"{number} ms each",
    }
    rivals = level_with(found, field)
    tied = f"; level with it: {', '.join(map(escape, rivals))}" if rivals else ""
    return f"{QUESTIONS[field]} ({spoken.get(field, f'{column.title} {number}')}{tied})"


def _joined(claims: Sequence[str]) -> str:
    return claims[0] if len(claims) == 1 else ", ".join(claims[:-1]) + ", and " + claims[-1]


def _warnings(found: Comparison) -> str:
    lines = []
    failed = [r["family"] for r in found.rows if r.get("error")]
    copies = [r["family"] for r in found.rows if r.get("copying") and not r.get("baseline")]
    field = likelihood_field(found)
    idle = [r["family"] for r in found.rows if beaten_by_nothing(found, r, field)]
    partly = [f"{r['family']} ({worked(r)[0]} of {worked(r)[1]} fits)" for r in found.rows if _partly(r)]
    if partly:
        lines.append(
            f"Some fits failed, and these stand with the rest, with the reason at the end of the page: "
            f"{', '.join(partly)}. A single fit that is left has an interval of the rows alone."
        )
    if failed:
        lines.append(f"Failed, with the reason at the end of the page: {', '.join(failed)}.")
    if copies:
        lines.append(f"Flagged as copies of the training set, so they win nothing: {', '.join(copies)}.")
    if idle:
        lines.append(f"In log p no better than entries drawn one by one (at this budget): {', '.join(idle)}.")
    return "".join(f'<p class="note">{escape(line)}</p>' for line in lines)


def _partly(row: Row) -> bool:
    fine, fits = worked(row)
    return 0 < fine < fits


def _rank(rank: int | None, level: bool) -> str:
    if rank is None:
        return '<td class="muted">–</td>'
    colour = HEAT[rank - 1] if rank <= len(HEAT) else "#fff"
    return f'<td style="background:{colour}">{f"<b>{rank}</b>" if rank == 1 else rank}{" =" if level else ""}</td>'


def _head(column: Column, unit: str = "") -> str:
    arrow = {"higher": "↑", "lower": "↓"}.get(column.better, "→ 0.5")
    return f"<th>{escape(column.title)}<small>{f'{escape(unit)} {arrow}'.strip()}</small></th>"


def _line(seen: Evidence, row: Row, columns: Sequence[Column], best: dict[str, str | None]) -> str:
    tags = ' <span class="tag copy">COPY</span>' * bool(row.get("copying"))
    tags += " <small>baseline</small>" * bool(row.get("baseline"))
    tags += f" <small>{worked(row)[0]} of {worked(row)[1]} fits</small>" * _partly(row)
    name = f"<td>{name_of(row['family'], seen.colours)}{tags}</td>"
    if row.get("error"):
        words = " ".join(str(row["error"]).split())[:200]
        return f'<tr>{name}<td class="left muted wrap" colspan="{len(columns) + 2}">failed: {escape(words)}</td></tr>'
    cells = [_value(seen.found, row, c, best[c.field] == row["family"]) for c in columns]
    cells[1:1] = [_behind(row), f'<td class="left">{_quality(row)}</td>']
    return f'<tr class="{"baseline" if row.get("baseline") else ""}">{name}{"".join(cells)}</tr>'


def _value(found: Comparison, row: Row, column: Column, best: bool) -> str:
    value = row.get(column.field)
    words = escape(shown(value, column.digits))
    half = half_width(row, column) if value is not None else None
    under = f"±{shown(half, column.digits)}" if half is not None else ""
    if column.field in ("bits_per_dim", "nats"):
        under = under if value is not None else _no(row)
    below = not best and value is not None and beaten_by_nothing(found, row, column.field)
    kind = "best" if best else "below" if below else ""
    return f'<td class="{kind}"{_each(found, row, column)}>{words}{" ▽" * below}<small>{under}</small></td>'


def _each(found: Comparison, row: Row, column: Column) -> str:
    """The value of every fit, for whoever points at the mean."""
    values = row.get("seeds", {}).get(column.field)
    if not values:
        return ""
    told = [f"seed {s}: {shown(v, column.digits)}" for s, v in zip(found.seeds, values, strict=False)]
    return f' title="{escape(", ".join(told))}"'


def _no(row: Row) -> str:
    return "no density" if "no_density" in row else "−∞ on some row" if row.get("quality") else ""


def _quality(row: Row) -> str:
    return escape(row["quality"]) if row.get("quality") else '<span class="muted">none</span>'


def _behind(row: Row) -> str:
    gap = row.get("behind")
    if not gap or gap.get("nats") is None:
        return "<td></td>"
    reach = f"{gap['low']:.2f} to {gap['high']:.2f}" if gap.get("low") is not None else ""
    return f"<td>{gap['nats']:.2f}<small>{reach}</small></td>"


def _versions(folder: Path) -> str:
    for path in sorted(folder.glob("*/model/model.json")):
        try:
            return ", ".join(f"{k} {v}" for k, v in json.loads(path.read_text())["versions"].items())
        except (OSError, ValueError, KeyError):
            continue
    return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} processors" if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _failures(seen: Evidence) -> str:
    """Tracebacks of families that failed, one for all that failed alike; and refused questions."""
    alike: dict[str, list[str]] = {}
    refused = []
    for row in seen.found.rows:
        single = {"folder": seen.folder(row["family"]).name, "error": row.get("error")}
        for fit in row.get("fits") or [single]:
            if fit["error"]:
                trace = seen.found.folder / fit["folder"] / "error.txt"
                tail = trace.read_text(errors="replace")[-1500:] if trace.exists() else str(fit["error"])
                seed = f", seed {fit['seed']}" if "seed" in fit else ""
                alike.setdefault(tail, []).append(f"{row['family']}{seed}")
        if not row.get("baseline"):
            refused += [(row["family"], what, why) for what, why in (row.get("why") or {}).items()]
    parts = [f"<p><b>{escape('; '.join(n))}</b> failed:</p><pre>{escape(tail)}</pre>" for tail, n in alike.items()]
    parts += [f'<p class="note"><b>{escape(f)}</b>, no {escape(w)}: {escape(why)}</p>' for f, w, why in refused]
    return ("<h3>What is missing, and why</h3>" if parts else "") + "".join(parts)
