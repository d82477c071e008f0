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

from pofx import cli_io as io

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="pofx: learn p(x), then ask it.", rich_markup_mode=None
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Seed = Annotated[int, typer.Option(help="Of the split, the weights and the noise.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--given", help="What x is given: a name; at asking name=value, or a column of the rows."),
]
Budget = Annotated[str, typer.Option(help='"60s", "5 min", "60 cpu s" or "500 steps".')]
Run = Annotated[Path, typer.Argument(help="The folder of a fitted model.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]
Own = Annotated[list[str] | None, typer.Option("--add", help="A family of your own, as path.py:Class.")]
Route = Annotated[str | None, typer.Option(help="A route by name; default the best.")]


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
    return error.format_message() if hasattr(error, "format_message") else " ".join(str(error).split())


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="digits, iris, moons, or a file or folder.")],
    family: Annotated[
        str | None, typer.Argument(help="A family, or path.py:Class; none: the best by validation.")
    ] = None,
    out: Out = None,
    given: Given = None,
    budget: Budget = "60s",
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    threads: Annotated[str, typer.Option(help='A number, or "auto" to measure.')] = "auto",
    option: Annotated[list[str] | None, typer.Option("--set", help="A hyper-parameter, as name=value.")] = None,
    json_: Json = False,
) -> None:
    """Learn p(x) from data."""
    import pofx

    source = io.opened(data, given, seed)
    if not json_:
        io.notes(source)
    folder = out or io.free(Path("runs") / f"{source.name}-{family or 'picked'}".replace("/", "_").replace(":", "_"))
    count = int(threads) if threads.isdigit() else threads
    model = pofx.fit(
        source, family, budget=budget, seed=seed, folder=folder, resume=resume, threads=count,
        progress=not json_, hyper_parameters=io.pairs(option) if family else None,
    )  # fmt: skip
    last = model.history[-1] if model.history else {}
    words = {"folder": str(folder), "family": model.name, "loss": last.get("loss"), "valid": last.get("valid")}
    words |= {"parameters": model.record["parameters"], "seconds": model.record["seconds"]["wall"]}
    io.tell(json_, words, f"{model.name} fitted in {words['seconds']} s and saved in {folder}")


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 16,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Draw new x; --out takes .csv, .parquet, .npy or .png."""
    from pofx.tasks.sample import sample as ask

    model = io.load(run, add)
    answer = ask(model, n, io.values(given), rng=seed)
    io.deliver(model, answer, out, json_)


@app.command()
def density(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to ask about.")],
    draws: Annotated[int, typer.Option(help="Monte-Carlo draws of a bound.")] = 16,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """How likely is each row? Nats, with their quality."""
    from pofx.tasks.density import bits_per_dim
    from pofx.tasks.density import density as ask

    model = io.load(run, add)
    rows = io.rows(model, data)
    answer = ask(model, rows, io.values(given, data), draws=draws, rng=seed, route=route)
    words = io.words(answer, answer.value)
    if model.space.mass:
        words["bits_per_dim"] = float(bits_per_dim(answer.value, model.space).mean())
    io.column(out, "log_p", answer.value)
    text = f"mean {words['mean']:.4f} {answer.unit} ({answer.quality.value}) over {words['rows']} rows"
    io.tell(json_, words, text + (f", {words['bits_per_dim']:.4f} bits/dim" if "bits_per_dim" in words else ""))


@app.command()
def anomaly(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to judge.")],
    calibration: Annotated[
        str | None, typer.Option(help="Rows that belong, unseen in training; they give p-values.")
    ] = None,
    level: Annotated[float, typer.Option(help="Flag rows with p at most this.")] = 0.05,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What does not belong? Scores, and conformal p-values where calibrated."""
    import numpy as np

    from pofx.tasks.anomaly import anomaly as ask

    model = io.load(run, add)
    known = None if calibration is None else io.rows(model, calibration)
    answer = ask(model, io.rows(model, data), known, rng=seed, route=route)
    words = io.words(answer, answer.value)
    p = answer.diagnostics.get("p")
    words["strangest"] = np.argsort(-answer.value.numpy())[:10].tolist()
    if p is not None:
        words |= {"p": [float(v) for v in p], "flagged": int((np.asarray(p) <= level).sum())}
    io.column(out, "score", answer.value, p)
    flagged = f"; {words['flagged']} rows with p <= {level}" if p is not None else "; no p-values without --calibration"
    io.tell(json_, words, f"strangest rows: {words['strangest']}{flagged}")


@app.command()
def impute(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows with gaps.")],
    out: Out = None,
    draws: Annotated[int, typer.Option(help="Completions of every row.")] = 1,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What is missing? Completed tables; observed cells stay as they are."""
    from pofx.tasks.impute import impute as ask

    model = io.load(run, add)
    rows = io.gaps(model, data)
    answer = ask(model, rows, io.values(given, data), draws=draws, rng=seed, route=route)
    written = []
    for k, table in enumerate(answer.value):
        target = None if out is None else out if draws == 1 else out.with_stem(f"{out.stem}-{k}")
        if target is not None:
            io.write(table, target, model)
            written.append(str(target))
    words = {
        "rows": len(rows),
        "draws": draws,
        "quality": answer.quality.value,
        "route": answer.route,
        "files": written,
    }
    io.tell(
        json_,
        words,
        f"{draws} completion(s) by {answer.route}, {answer.quality.value}: {', '.join(written) or 'give --out'}",
    )


@app.command()
def compress(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to make small.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    given: Given = None,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Make rows small, without loss, by the model's own probabilities."""
    from pofx.tasks.compress import compress as ask

    model = io.load(run, add)
    facts = ask(model, io.rows(model, data), out, io.values(given, data)).diagnostics
    text = f"{facts['rows']} rows in {facts['bytes']} bytes ({facts['bits per dimension']:.3f} bits an entry): {out}"
    io.tell(json_, {"file": str(out), **facts}, text)


@app.command()
def decompress(
    run: Run,
    file: Annotated[Path, typer.Argument(help="What compress wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the rows.")],
    given: Given = None,
    add: Own = None,
    json_: Json = False,
) -> None:
    """The rows of a compressed file, each as it was."""
    from pofx.tasks.compress import decompress as ask

    model = io.load(run, add)
    rows = ask(model, file, io.values(given))
    io.write(rows, out, model)
    io.tell(json_, {"file": str(out), "rows": len(rows)}, f"{len(rows)} rows: {out}")


@app.command()
def judge(
    real: Annotated[str, typer.Argument(help="Rows that the model did not see.")],
    fake: Annotated[str, typer.Argument(help="Samples.")],
    train: Annotated[str | None, typer.Option(help="The rows that the model saw; they show copying.")] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """How good are samples, whoever made them?"""
    from pofx.tasks.judge import judge as ask

    found = ask(io.held(real), io.held(fake), None if train is None else io.held(train), rng=seed)
    io.tell(json_, found.to_json(), found.explain())


@app.command()
def compare(
    data: Annotated[str, typer.Argument(help="digits, or a file or folder.")],
    families: Annotated[list[str] | None, typer.Argument(help="Families, or all; none: one of each branch.")] = None,
    add: Own = None,
    out: Out = None,
    budget: Budget = "60 cpu s",
    given: Given = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at once; default the number of processors.")] = None,
    samples: Annotated[int, typer.Option(help="Draws of each family that are judged.")] = 500,
    draws: Annotated[int, typer.Option(help="Monte-Carlo draws of every bound.")] = 16,
    baselines: Annotated[bool, typer.Option(help="Independent entries, a copy, uniform noise.")] = True,
    resume: Annotated[bool, typer.Option(help="Keep what was measured; add what is new.")] = False,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Which family for which question? A leaderboard and a report."""
    from pofx.reporting.leaderboard import Watch, table
    from pofx.reporting.page import write_report
    from pofx.tasks.compare import LEADERBOARD, held_out
    from pofx.tasks.compare import compare as run

    source = io.opened(data, given, seed, test=held_out(data))
    folder = out or Path("runs") / source.name
    with Watch(enabled=not json_) as watch:
        found = run(
            source, families or None, add=add or (), budget=budget, seed=seed, folder=folder, jobs=jobs, draws=draws,
            samples=samples, baselines=baselines, resume=resume, report=watch.show,
        )  # fmt: skip
        watch.say("writing the report")
        page = write_report(found, add or ())
    words = {"report": str(page), "leaderboard": str(folder / LEADERBOARD), "rows": list(found.rows)}
    io.tell(json_, words, table(found) + f"\n\nreport: {page}\nleaderboard: {folder / LEADERBOARD}")


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
def ask(
    task: Annotated[str, typer.Argument(help="The question, by its name in pofx.tasks.")],
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to ask about.")],
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """Ask any listed question, one that you added included."""
    from importlib import import_module
    from inspect import signature

    from pofx.tasks import TASKS

    if task not in TASKS:
        raise ValueError(f"task {task!r} is unknown; expected one of {', '.join(TASKS)}.")
    model = io.load(run, add)
    question = getattr(import_module(TASKS[task]), task)
    if "x" not in signature(question).parameters:
        raise ValueError(f"{task!r} is not asked about rows; use `pofx {task}`.")
    answer = question(model, io.rows(model, data), rng=seed, route=route)
    words = {"task": task, "unit": answer.unit, "quality": answer.quality.value, "route": answer.route}
    io.tell(json_, words | {"value": io.plain(answer.value)}, f"{answer.explain()}\n\n{answer.value}")


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
def coverage(add: Own = None, json_: Json = False) -> None:
    """Families x questions: the route of every cell, or why it is empty."""
    from dataclasses import asdict

    from pofx.reporting.coverage import coverage as cells
    from pofx.reporting.leaderboard import coverage_table

    io.tell(json_, {"cells": [asdict(c) for c in cells(add or ())]}, coverage_table(add or ()))


if __name__ == "__main__":
    main()
