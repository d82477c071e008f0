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
from pofx.reporting.numbers import Row, blocks, columns_of, shown
from pofx.reporting.taxonomy import placed
from pofx.tasks import TASKS
from pofx.tasks.compare import Comparison

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
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.last: dict[str, str] = {}
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
            if stage["stage"] != "waiting":
                self.begun.setdefault(name, now)
            if stage["stage"] in ("done", "failed"):
                self.ended.setdefault(name, now)
        if self.live is not None:
            self.live.update(self._table(stages))
        else:
            self._lines(stages, now)

    def say(self, text: str) -> None:
        """One line of text."""
        if self.enabled:
            self.console.print(text, markup=False)

    def _elapsed(self, name: str) -> float:
        begun = self.begun.get(name)
        return 0.0 if begun is None else self.ended.get(name, time.monotonic()) - begun

    def _table(self, stages: Stages) -> Table:
        table = Table("family", "stage", "step", "loss", "valid", "elapsed", box=None, pad_edge=False)
        for column in table.columns[2:]:
            column.justify = "right"
        styles = {"waiting": "dim", "done": "green", "failed": "red"}
        for name, stage in stages.items():
            cells = [name, stage["stage"], *(_cell(stage.get(k)) for k in ("step", "loss", "valid"))]
            table.add_row(*cells, f"{self._elapsed(name):.0f} s", style=styles.get(stage["stage"], ""))
        return table

    def _lines(self, stages: Stages, now: float) -> None:
        changed = {n for n, s in stages.items() if s["stage"] != self.last.get(n, "waiting")}
        due = now - self.told >= self.every
        busy = {n for n, s in stages.items() if s["stage"] not in ("waiting", "done", "failed")}
        for name in stages:
            if name in changed or (due and name in busy):
                self.console.print(self._line(name, stages[name]), soft_wrap=True, markup=False)
        if changed or due:
            self.told = now
        self.last = {n: s["stage"] for n, s in stages.items()}

    def _line(self, name: str, stage: Mapping[str, Any]) -> str:
        words = [f"{k} {_cell(stage[k])}" for k in ("step", "loss", "valid") if stage.get(k) is not None]
        return "  ".join([f"{name}:", stage["stage"], *words, f"{self._elapsed(name):.0f} s"])


def table(found: Comparison) -> str:
    """The leaderboard as text, two blocks: guaranteed log p, ranked; and all else."""
    sure, rest = blocks(found)
    wanted = [c for c in columns_of(found) if c.field not in ("density", "parameters", "peak_mb")]
    best = {c.field: found.best(c.field) for c in wanted}
    parts = [
        f"{found.data.name}: {len(found.data.split.get('test', ()))} held-out rows, {found.settings['budget']} each"
    ]
    for title, rows in (("guaranteed", sure), ("not guaranteed", rest)):
        block = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
        block.add_column("family", no_wrap=True)
        for name in [c.title for c in wanted[:1]] + ["quality"] + [c.title for c in wanted[1:]]:
            block.add_column(name, justify="right", no_wrap=True)
        fine = [r for r in rows if not r.get("error")]
        for row in fine:
            cells = [shown(row.get(c.field), c.digits) + "* "[best[c.field] != row["family"]] for c in wanted]
            label = f"{_short(row['family'])}{_marks(row)}"
            block.add_row(label, cells[0], row.get("quality") or "none", *cells[1:], style=_style(row))
        if fine:
            parts.append(_text(block))
        parts += [_one_line(row) for row in rows if row.get("error")]
    parts.append(
        "* best of the column; lower is better but for precision, recall, coverage, anomaly; c2st best near 0.5."
    )
    parts.append("(baseline): no model, wins nothing. COPY: draws copies of training rows, wins nothing.")
    return "\n\n".join(parts[:-1]) + "\n" + parts[-1]


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


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def _marks(row: Row) -> str:
    return " (baseline)" * bool(row.get("baseline")) + " COPY" * bool(row.get("copying"))


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
