"""The command line: the same words as the library.

    pofx fit digits flow --out runs/flow       pofx sample runs/flow       pofx compare digits

Every command has --json (one JSON object on standard output, nothing else); those that use chance have --seed. Nothing
heavy is imported before a command runs, so that `pofx --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pofx import __version__
from pofx import cli_io as io
from pofx.cli_act import actions
from pofx.cli_ask import questions
from pofx.cli_look import looks
from pofx.cli_options import Budget, Given, Json, Kind, Out, Own, Reading, Seed

app = typer.Typer(add_completion=False, invoke_without_command=True, rich_markup_mode=None)
app.add_typer(questions)
app.add_typer(looks)
app.add_typer(actions)


@app.callback()
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """pofx: learn p(x), then ask it."""
    if version:
        print(f"pofx {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run a command; a mistake is one line, not a traceback."""
    try:
        code = app(standalone_mode=False)
    except (typer.Exit, SystemExit) as stop:
        raise SystemExit(getattr(stop, "exit_code", getattr(stop, "code", 0))) from None
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None
    except Exception as error:
        if not _foreseen(error):
            raise
        print(f"pofx: {_message(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    if isinstance(code, int) and code:  # Ctrl-C comes back as a number
        raise SystemExit(code)


def _foreseen(error: Exception) -> bool:
    known = (ValueError, OSError, NotImplementedError)
    return isinstance(error, known) or hasattr(error, "format_message") or type(error).__name__ == "Diverged"


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:  # which by itself begins with a number
        return f"{error.filename}: {error.strerror}."
    return error.format_message() if hasattr(error, "format_message") else " ".join(str(error).split())


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="digits, iris, moons, or a file or folder.")],
    family: Annotated[
        str | None, typer.Argument(help="A family, or path.py:Class; none: the best by validation.")
    ] = None,
    out: Out = None,
    kind: Kind = None,
    reading: Reading = None,
    given: Given = None,
    budget: Budget = "60s",
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    threads: Annotated[str, typer.Option(help='A number, or "auto" to measure.')] = "auto",
    option: Annotated[list[str] | None, typer.Option("--set", help="A hyper-parameter, as name=value.")] = None,
    json_: Json = False,
) -> None:
    """Learn p(x) from data.

    A CSV is a table, unless said: pofx fit load.csv gaussian --kind series --option length=48
    """
    import pofx

    if option and family is None:
        raise ValueError("--set needs a family (pofx fit DATA FAMILY --set name=value); without one several are tried.")
    source = io.opened(data, given, seed, kind=kind, reading=reading)
    if not json_:
        io.notes(source)
    folder = out or io.free(Path("runs") / f"{source.name}-{family or 'picked'}".replace("/", "_").replace(":", "_"))
    count = int(threads) if threads.isdigit() else threads
    model = pofx.fit(
        source, family, budget=budget, seed=seed, folder=folder, resume=resume, threads=count,
        progress=not json_, hyper_parameters=io.pairs(option) or None,
    )  # fmt: skip
    last = model.history[-1] if model.history else {}
    words = {"folder": str(folder), "family": model.name, "loss": last.get("loss"), "valid": last.get("valid")}
    words |= {"parameters": model.record["parameters"], "seconds": model.record["seconds"]["wall"]}
    io.tell(json_, words, f"{model.name} fitted in {words['seconds']} s and saved in {folder}")


@app.command()
def compare(
    data: Annotated[str, typer.Argument(help="digits, or a file or folder.")],
    families: Annotated[list[str] | None, typer.Argument(help="Families, or all; none: one of each branch.")] = None,
    add: Own = None,
    out: Out = None,
    budget: Budget = "60 cpu s",
    kind: Kind = None,
    reading: Reading = None,
    given: Given = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at once; default the number of processors.")] = None,
    samples: Annotated[int, typer.Option(help="Draws of each family that are judged.")] = 500,
    draws: Annotated[int, typer.Option(help="Monte-Carlo draws of every bound.")] = 16,
    baselines: Annotated[bool, typer.Option(help="Independent entries, a copy, uniform noise.")] = True,
    resume: Annotated[bool, typer.Option(help="Keep what was measured; add families, or seeds.")] = False,
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(help="Fits of each family: seeds --seed, --seed + 1, ...; the split stays.")
    ] = 1,
    json_: Json = False,
) -> None:
    """Which family for which question? A leaderboard and a report.

    A CSV is a table, unless said: pofx compare load.csv --kind series --option length=48
    """
    from pofx.reporting.leaderboard import Watch, table
    from pofx.reporting.page import write_report
    from pofx.tasks.compare import LEADERBOARD, SHEET, held_out
    from pofx.tasks.compare import compare as run

    source = io.opened(data, given, seed, held_out(data), kind, reading)
    folder = out or Path("runs") / source.name
    with Watch(enabled=not json_) as watch:
        found = run(
            source, families or None, add=add or (), budget=budget, seed=seed, seeds=seeds, folder=folder, jobs=jobs,
            draws=draws, samples=samples, baselines=baselines, resume=resume, report=watch.show,
        )  # fmt: skip
        watch.say("writing the report")
        page = write_report(found, add or ())
    words = {"report": str(page), "leaderboard": str(folder / LEADERBOARD), "csv": str(folder / SHEET)}
    text = table(found) + f"\n\nreport: {page}\nleaderboard: {folder / LEADERBOARD}, {folder / SHEET}"
    io.tell(json_, words | {"rows": list(found.rows)}, text)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a comparison.")], add: Own = None, json_: Json = False
) -> None:
    """Write the page of a comparison again."""
    from pofx.reporting.page import write_report
    from pofx.tasks.compare import read

    page = write_report(read(run), add or ())
    io.tell(json_, {"report": str(page)}, f"report: {page}")


@app.command()
def check(
    what: Annotated[str, typer.Argument(help="The folder of a fitted model, a family, or path.py:Class.")],
    add: Own = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Does it keep its promises? The conformance suite."""
    from pofx.check import check_family, check_model
    from pofx.families import family

    if Path(what).is_dir():
        found = {what: check_model(io.load(Path(what), add), rng=seed)}
    else:
        found = check_family(family(what), seed=seed)
    ok, text = all(r.ok for r in found.values()), {name: r.explain() for name, r in found.items()}
    io.tell(json_, {"ok": ok, "reports": text}, "\n\n".join(f"{name}\n{report}" for name, report in text.items()))
    if not ok:
        raise SystemExit(1)


@app.command()
def families(add: Own = None, json_: Json = False) -> None:
    """Every family's card, and the taxonomy tree."""
    from dataclasses import asdict

    from pofx.reporting.coverage import cards, tree
    from pofx.reporting.leaderboard import families_table

    words = {name: asdict(card) for name, card in cards(add or ()).items()}
    branches = {" > ".join(branch): names for branch, names in tree(add or ()).items()}
    io.tell(json_, {"families": words, "tree": branches}, families_table(add or ()))


@app.command()
def coverage(
    add: Own = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Put every question to every family, or to those of --add.")
    ] = False,
    budget: Budget = "12 cpu s",
    out: Out = None,
    json_: Json = False,
) -> None:
    """Families x questions: the route of every cell, what it is worth, or why it is empty."""
    from dataclasses import asdict

    from pofx.reporting.coverage import coverage as cells
    from pofx.reporting.leaderboard import coverage_table

    if measure:
        from pofx.check.worth import measured

        found = measured(add or (), budget, out, lambda line: print(line, file=sys.stderr))
        io.tell(json_, {"cells": found}, f"{sum(c['counts'] for c in found)} of {len(found)} cells count.")
        return
    io.tell(json_, {"cells": [asdict(c) for c in cells(add or ())]}, coverage_table(add or ()))


if __name__ == "__main__":
    main()
