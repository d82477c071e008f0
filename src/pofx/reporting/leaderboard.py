"""Leaderboard: what a terminal shows while families are measured, and the tables afterwards.

Offers `Watch` (progress), `table` (a comparison), `families_table` (Murphy's table and the taxonomy tree) and
`coverage_table` (families x questions). Every table is text of at most 120 columns.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pofx.reporting.coverage import COLUMNS as CARD_COLUMNS
from pofx.reporting.coverage import EXAMPLES, Cell, cards, coverage, question_of, worths
from pofx.reporting.numbers import Column, Row, blocks, columns_of, half_width, shown
from pofx.reporting.taxonomy import placed
from pofx.tasks import TASKS
from pofx.tasks.compare import Comparison
from pofx.tasks.seeds import COSTS, LIKELIHOODS, OVER, worked

WIDTH, GAP = 120, 2  # of a table, and between two of its columns
Stages = Mapping[str, Mapping[str, Any]]


class Watch:
    """Shows how far every family is: a live table on a terminal, elsewhere a line a change and every few seconds.

    Args:
        enabled: False shows nothing.
        console: where to; default standard error.
        every: seconds between two lines where there is no terminal.
    """

    def __init__(self, enabled: bool = True, console: Console | None = None, every: float = 15.0) -> None:
        self.enabled, self.every = enabled, every
        self.console = console or Console(file=sys.stderr, highlight=False, markup=False)
        self.live: Live | None = None
        self.begun: dict[tuple[str, int], float] = {}  # of a family's fit, of which there may be several
        self.ended: dict[tuple[str, int], float] = {}
        self.last: dict[str, tuple[str, int]] = {}
        self.told = time.monotonic()

    def __enter__(self) -> Watch:
        if self.enabled and self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=5)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, stages: Stages) -> None:
        """Take the stage of every family, as often as you like."""
        if not self.enabled:
            return
        now = time.monotonic()
        for name, stage in stages.items():
            over, fit = stage["stage"] in OVER, stage.get("fit", 1)
            if stage["stage"] != "waiting" and (name, fit) not in self.begun:
                self.begun[name, fit] = now
            for other in self.begun:
                if other[0] == name and (over or other[1] != fit):
                    self.ended.setdefault(other, now)
        if self.live is not None:
            self.live.update(self._table(stages))
        else:
            self._lines(stages, now)

    def say(self, text: str) -> None:
        """One line of text."""
        if self.enabled:
            self.console.print(text, markup=False)

    def _elapsed(self, name: str, stage: Mapping[str, Any]) -> float:
        """Seconds of the fit that is shown; of all fits where they are over."""
        shown = [f for f in self.begun if f[0] == name and f[1] == stage.get("fit", f[1])]
        return sum(self.ended.get(f, time.monotonic()) - self.begun[f] for f in shown)

    def _table(self, stages: Stages) -> Table:
        table = Table("family", "stage", "step", "loss", "valid", "elapsed", box=None, pad_edge=False)
        for column in table.columns[2:]:
            column.justify = "right"
        styles = {"waiting": "dim", "done": "green", "failed": "red"}
        for name, stage in stages.items():
            cells = [name, _told(stage), *(_cell(stage.get(k)) for k in ("step", "loss", "valid"))]
            table.add_row(*cells, f"{self._elapsed(name, stage):.0f} s", style=styles.get(stage["stage"], ""))
        return table

    def _lines(self, stages: Stages, now: float) -> None:
        at = {n: (s["stage"], s.get("fit", 1)) for n, s in stages.items()}
        changed = {n for n in stages if at[n] != self.last.get(n, ("waiting", 1))}
        due = now - self.told >= self.every
        busy = {n for n, s in stages.items() if s["stage"] not in ("waiting", "done", "failed")}
        for name in stages:
            if name in changed or (due and name in busy):
                self.console.print(self._line(name, stages[name]), soft_wrap=True, markup=False)
        if changed or due:
            self.told = now
        self.last = at

    def _line(self, name: str, stage: Mapping[str, Any]) -> str:
        words = [f"{k} {_cell(stage[k])}" for k in ("step", "loss", "valid") if stage.get(k) is not None]
        return "  ".join([f"{name}:", _told(stage), *words, f"{self._elapsed(name, stage):.0f} s"])


def table(found: Comparison) -> str:
    """The leaderboard as text: guaranteed log p, ranked; all else; and what each family cost.

    The first column has half of its 95 % interval beside it. Where a line is too short, a block goes on in a second.
    """
    sure, rest = blocks(found)
    every = [c for c in columns_of(found) if c.field != "density"]
    asked, paid = ([c for c in every if (c.field in COSTS) == cost] for cost in (False, True))
    parts = [_about(found)]
    for title, rows in (("guaranteed", sure), ("not guaranteed", rest)):
        parts += _blocks(found, title, [r for r in rows if not r.get("error")], asked)
        parts += [_one_line(row) for row in rows if row.get("error")]
    parts += _blocks(found, "costs", [r for r in (*sure, *rest) if not r.get("error")], paid)
    parts.append(
        "* best of the column; lower is better but for precision, recall, coverage, anomaly; c2st best near 0.5."
    )
    parts.append("(baseline): no model, wins nothing. COPY: draws copies of training rows, wins nothing.")
    return "\n\n".join(parts[:-1]) + "\n" + parts[-1]


def _blocks(found: Comparison, title: str, rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Some columns of some rows, in as few blocks as leave every column whole."""
    if not rows or not columns:
        return []
    names = [f"{_short(r['family'])}{_marks(r)}" for r in rows]
    cells = [_column(c, rows, found.best(c.field)) for c in columns]
    if columns[0].field in LIKELIHOODS:
        cells.insert(1, ("quality", [r.get("quality") or "none" for r in rows]))
    lines = _lines_of(cells, max([len("family"), *map(len, names)]))
    return [_block("" if k else title, names, some, [_style(r) for r in rows]) for k, some in enumerate(lines)]


def _about(found: Comparison) -> str:
    """What was compared, and what the interval holds."""
    rows, budget = len(found.data.split.get("test", ())), found.settings["budget"]
    if len(found.seeds) == 1:
        return f"{found.data.name}: {rows} held-out rows, {budget} each, one seed: ± is of the rows alone"
    return (
        f"{found.data.name}: {rows} held-out rows, {budget} a fit; means over {len(found.seeds)} seeds "
        f"({found.seeds[0]} to {found.seeds[-1]}): ± is of the rows and of the seeds"
    )


def _column(column: Column, rows: Sequence[Row], best: str | None) -> tuple[str, list[str]]:
    """Title and cells of a column."""
    cells = []
    for row in rows:
        half = half_width(row, column) if column.field in LIKELIHOODS and row.get(column.field) is not None else None
        under = f" ±{shown(half, column.digits)}" if half is not None else ""
        cells.append(shown(row.get(column.field), column.digits) + under + "* "[best != row["family"]])
    return column.title, cells


def _lines_of(columns: Sequence[tuple[str, list[str]]], first: int) -> list[list[tuple[str, list[str]]]]:
    """Columns in order, in as few parts as leave each of them whole beside a first one."""
    parts: list[list[tuple[str, list[str]]]] = [[]]
    used = first
    for title, cells in columns:
        width = GAP + max([len(title), *map(len, cells)])
        if used + width > WIDTH and parts[-1]:
            parts.append([])
            used = first
        parts[-1].append((title, cells))
        used += width
    return parts


def _block(title: str, names: list[str], columns: Sequence[tuple[str, list[str]]], styles: Sequence[str]) -> str:
    block = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    block.add_column("family", no_wrap=True)
    for name, _ in columns:
        block.add_column(name, justify="right", no_wrap=True)
    for name, cells, style in zip(names, zip(*(c for _, c in columns), strict=True), styles, strict=True):
        block.add_row(name, *cells, style=style)
    return _text(block)


def families_table(add: Sequence[str] = ()) -> str:
    """Murphy's table of every family, from its card, and the taxonomy tree."""
    wide = Table(pad_edge=False, show_lines=True, expand=True)
    for name in ("family", *CARD_COLUMNS, "tier", "incomplete"):
        wide.add_column(
            name, overflow="fold", min_width=8 if name != "family" else 14, ratio=None if name == "family" else 2
        )
    for name, card in cards(add).items():
        wide.add_row(_short(name), *(getattr(card, c) for c in CARD_COLUMNS), card.tier, card.incomplete)
    return _text(wide) + "\n\n" + _tree(placed(add))


def coverage_table(add: Sequence[str] = ()) -> str:
    """Families x questions with the route of each cell, a block for each kind of data; and why a cell is empty.

    A route stands in brackets where its answer was not found to be worth more than no model's.
    """
    cells, known = coverage(add), worths()
    parts = []
    for kind in EXAMPLES:
        here = [c for c in cells if c.kind == kind]
        routes = {(c.family, c.task): _route(c, known) for c in here}
        names = list(dict.fromkeys(c.family for c in here))
        packed = _packed(routes, max(map(len, map(_short, names)), default=0))
        for k, tasks in enumerate(packed, 1):
            title = f"{kind}, questions {k} of {len(packed)}"
            block = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
            for column in ("family", *tasks):
                block.add_column(column, no_wrap=True)
            for name in names:
                block.add_row(_short(name), *(routes[name, t] for t in tasks))
            parts.append(_text(block))
    parts.append("\n".join(f"{task}: {question_of(task)}" for task in TASKS))
    return "\n\n".join([*parts, _counted(known, cells), _gaps(cells)])


def _packed(routes: Mapping[tuple[str, str], str], first: int) -> list[list[str]]:
    """The questions in order, in as few blocks of equal length as leave every column whole beside a first one."""
    tasks, widths = list(TASKS), {task: len(task) for task in TASKS}
    for (_, task), words in routes.items():
        widths[task] = max(widths[task], len(words))
    for length in range(len(tasks), 0, -1):
        even = -(-len(tasks) // -(-len(tasks) // length))
        packed = [tasks[k : k + even] for k in range(0, len(tasks), even)]
        if all(first + sum(GAP + widths[t] for t in block) <= WIDTH for block in packed):
            break
    return packed


def _route(cell: Cell, known: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    if cell.route is None:
        return "–"
    worth = known.get((cell.family, cell.task))
    return cell.route if worth is None or worth["counts"] else f"({cell.route})"


def _counted(known: Mapping[tuple[str, str], Mapping[str, Any]], cells: Sequence[Cell]) -> str:
    """How many answers count, and those that were given and do not."""
    counts = sum(w["counts"] for w in known.values())
    share = f"{counts} of {len(known)} answers ({counts / len(known):.0%})"
    head = f"{share} are worth at least half of what the law's own are, where no model is worth nothing."
    given = {(c.family, c.task) for c in cells if c.route is not None}
    lines = [
        _text(Text(f"  {f}, {t}: {_why(w)}")) for (f, t), w in known.items() if not w["counts"] and (f, t) in given
    ]
    return "\n".join([head, "Those in brackets:", *lines])


def _why(worth: Mapping[str, Any]) -> str:
    if worth["score"] is None:
        return str(worth["words"]).removeprefix(f"{worth['family']}: ").removeprefix(f"{worth['family']} ")
    return f"{worth['score']:.3g} {worth['words']} (no model {worth['nothing']:.3g}, the law {worth['law']:.3g})"


def _gaps(cells: Sequence[Cell]) -> str:
    """Every empty cell with its reason; kinds and questions that share one share a line."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.route is None:
            kinds.setdefault((cell.family, cell.task, cell.words), []).append(cell.kind)
    if not kinds:
        return "No empty cell: every family answers every question."
    tasks: dict[tuple[str, str, str], list[str]] = {}
    for (family, task, words), where in kinds.items():
        tasks.setdefault((family, ", ".join(where), words), []).append(task)
    lines = [
        Text(f"  {f}, {'all questions' if len(t) == len(TASKS) else ', '.join(t)} ({k}): {words}")
        for (f, k, words), t in tasks.items()
    ]
    return "Why a cell is empty:\n" + "\n".join(_text(line) for line in lines)


def _tree(leaves: Mapping[tuple[str, ...], Sequence[str]]) -> str:
    from rich.tree import Tree

    root = Tree("p(x)")
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for path, names in leaves.items():
        for k in range(1, len(path) + 1):
            if path[:k] not in branches:
                branches[path[:k]] = branches[path[: k - 1]].add(path[k - 1])
        branches[path].add(Text(", ".join(names) or "(none yet)"))
    return _text(root)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(stage: Mapping[str, Any]) -> str:
    """A stage, and of which fit it is where a family has several."""
    if "fit" in stage:
        return f"{stage['stage']} (seed {stage['fit']} of {stage['fits']})"
    return f"{stage['stage']} ({stage['worked']} of {stage['fits']} seeds)" if "worked" in stage else stage["stage"]


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def _marks(row: Row) -> str:
    fine, fits = worked(row)
    words = " (baseline)" * bool(row.get("baseline")) + " COPY" * bool(row.get("copying"))
    return words + f" ({fine} of {fits})" * (0 < fine < fits)


def _style(row: Row) -> str:
    return "dim" if row.get("baseline") else "red" if row.get("copying") else ""


def _one_line(row: Row) -> str:
    words = " ".join(f"{row['family']}: failed: {row['error']}".split())
    return words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"


def _text(what: Any) -> str:
    """A rich object as plain text; colours only where standard output is a terminal."""
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=sys.stdout.isatty(), highlight=False, markup=False
    )
    console.print(what)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines).strip("\n")
