"""The questions on the command line: one command for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pofx import cli_io as io
from pofx.cli_options import Given, Json, Out, Own, Route, Run, Seed

questions = typer.Typer()


@questions.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 16,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Draw new x; --out takes the kind's own files (.csv, .txt, .wav, .mid, .gif, .obj), .npy, or .png, a drawing."""
    from pofx.tasks.sample import sample as ask
    from pofx.tasks.stream import CHUNK, WRITERS, sample_to

    model = io.load(run, add)
    io.fits(out, model.space)
    if out is not None and n > CHUNK and out.suffix.lower() in WRITERS:
        sample_to(model, n, out, io.values(given), rng=seed)
        io.tell(json_, {"rows": n, "file": str(out)}, f"wrote {n} draws to {out}")
        return
    answer = ask(model, n, io.values(given), rng=seed)
    io.deliver(model, answer, out, json_)


@questions.command()
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


@questions.command()
def anomaly(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to judge.")],
    calibration: Annotated[
        str | None, typer.Option(help="Rows that belong, unseen in training; they give p-values.")
    ] = None,
    level: Annotated[float, typer.Option(help="Count rows with p at most this.")] = 0.05,
    fdr: Annotated[
        float | None, typer.Option(help="Flag rows, at most this share of them falsely (needs --calibration).")
    ] = None,
    background: Annotated[
        Path | None, typer.Option(help="A fitted model of what all such rows share: the likelihood ratio.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the scores into this file.")] = None,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What does not belong? Scores, and conformal p-values, flags and reasons where calibrated."""
    from pofx.tasks.anomaly import anomaly as ask

    model = io.load(run, add)
    known = None if calibration is None else io.rows(model, calibration)
    behind = None if background is None else io.load(background, add)
    answer = ask(model, io.rows(model, data), known, background=behind, fdr=fdr, rng=seed, route=route)
    words, facts = io.words(answer, answer.value), answer.diagnostics
    p, chosen = facts.get("p"), facts.get("flagged")
    words["strangest"] = answer.strangest[:10]
    if p is not None:
        words |= {"p": [float(v) for v in p], "flagged": int(((p <= level) if chosen is None else chosen).sum())}
    words |= {"warning": facts["warning"]} if "warning" in facts else {}
    io.column(out, "score", answer.value, p)
    if picture is not None:
        answer.figure().savefig(picture, dpi=120)
    if chosen is not None:
        io.tell(json_, words, answer.explain())
        return
    flagged = f"; {words['flagged']} rows with p <= {level}" if p is not None else "; no p-values without --calibration"
    io.tell(json_, words, f"strangest rows: {words['strangest']}{flagged}")


@questions.command()
def impute(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows with gaps.")],
    out: Out = None,
    draws: Annotated[int, typer.Option(help="Completions of every row.")] = 1,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    mean: Annotated[
        Path | None, typer.Option(help="A file for one table whose gaps hold means, unrounded; give --draws 20.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="A .png or .svg: observed against drawn, and intervals; give --draws 20.")
    ] = None,
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
            io.write(table, target, model.space)
            written.append(str(target))
    if mean is not None:
        io.write(answer.diagnostics["mean"], mean, model.space)
        written.append(str(mean))
    if picture is not None:
        from pofx.reporting.gaps import filled_figure
        from pofx.tasks.base import rows_of

        filled_figure(answer, model.space, rows_of(model, rows)[1].cpu()).savefig(picture, facecolor="white", dpi=150)
        written.append(str(picture))
    words = {
        "rows": len(rows),
        "draws": draws,
        "quality": answer.quality.value,
        "route": answer.route,
        "filled": answer.diagnostics["filled"],
        "files": written,
    }
    io.tell(json_, words, f"{answer.explain()}\n{', '.join(written) or 'give --out to write them'}")


@questions.command()
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


@questions.command()
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
    io.write(rows, out, model.space)
    io.tell(json_, {"file": str(out), "rows": len(rows)}, f"{len(rows)} rows: {out}")


@questions.command()
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


@questions.command()
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


@questions.command()
def classify(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to classify.")],
    calibration: Annotated[
        str | None, typer.Option(help="Labelled rows, unseen in training: they set how sure to be, and who belongs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Which given is the class; default the only one.")] = None,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Which class is it, how sure, and is it any of them?"""
    from pofx.tasks.classify import classify as ask

    model = io.load(run, add)
    known = None if calibration is None else io.labelled(model, calibration, name)
    answer = ask(model, io.rows(model, data), name=name, calibration=known, rng=seed)
    facts = answer.diagnostics
    sure, belongs = 1 - facts["ambiguity"], facts.get("belongs")
    io.classes(out, answer.value, sure, belongs)
    words = {"classes": [str(c) for c in answer.value], "sure": sure.tolist(), "quality": answer.quality.value}
    words |= {} if belongs is None else {"belongs": [float(p) for p in belongs], "temperature": facts["temperature"]}
    strangers = "" if belongs is None else f"; {int((belongs <= 0.05).sum())} rows belong to no class (p <= 0.05)"
    io.tell(json_, words, f"{len(sure)} rows, {float(sure.mean()):.1%} sure on average{strangers}")


@questions.command()
def augment(
    run: Run,
    data: Annotated[str, typer.Argument(help="The rows that the model was fitted to, with their class.")],
    by: Annotated[str | None, typer.Option(help="The class: a given of the model, or a column.")] = None,
    rows: Annotated[
        str | None, typer.Option(help="Of each class: a number (500), a share (2.0); default as many as the largest.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Rows that nothing has seen, with their class: does it help a predictor?")
    ] = None,
    predictor: Annotated[str, typer.Option(help="linear, neighbours or trees, with --test.")] = "linear",
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """More rows of the classes that have few; with --test, whether that helps."""
    from pofx.tasks.augment import augment as ask
    from pofx.tasks.augment import gain

    model = io.load(run, add)
    wanted = None if rows is None else int(rows) if rows.isdigit() else float(rows)
    known = io.classed(model, data, by)
    answer = ask(model, known, by, wanted, rng=seed, route=route)
    facts = answer.diagnostics
    words = {k: facts[k] for k in ("real rows", "drawn rows", "before", "after") if k in facts}
    text = ", ".join(f"{k}: {v}" for k, v in words.items())
    if out is not None:
        io.enlarged(answer, out, model)
        text += f"\nwrote {out}"
    if test is not None:
        if by is None:
            raise ValueError("--test needs --by, the class to predict.")
        found = gain(model, known, io.classed(model, test, by), by, wanted, predictor=predictor, rng=seed, route=route)
        words |= {k: found.diagnostics[k] for k in ("verdict", "scores")}
        words["gain"] = [found.value.value, found.value.low, found.value.high]
        text += f"\n{found.diagnostics['verdict']}"
    io.tell(json_, {str(k): v for k, v in words.items()}, text)


@questions.command()
def forecast(
    run: Run,
    past: Annotated[str, typer.Argument(help="A file (series, clip, sound, score, text), or words to go on from.")],
    ahead: Annotated[int | None, typer.Option(help="Steps or symbols.")] = None,
    draws: Annotated[int | None, typer.Option(help="Futures; default 200 of a series, 1 of others.")] = None,
    quantiles: Annotated[str, typer.Option(help="Levels, for series.")] = "0.1,0.5,0.9",
    calibration: Annotated[
        str | None, typer.Option(help="A later stretch of the series, unseen in training: it sets the quantiles.")
    ] = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What comes next? Quantiles of series, continuations of texts, clips, sounds and music."""
    from pofx.tasks.forecast import forecast as ask

    model = io.load(run, add)
    io.fits(out, model.space)
    levels = [float(q) for q in quantiles.split(",") if q.strip()]
    known = None if calibration is None else io.windows(model, calibration)
    answer = ask(
        model, io.past(model, past), ahead, io.values(given), draws=draws, quantiles=levels, calibration=known,
        rng=seed, route=route,
    )  # fmt: skip
    value, space = io.forecasts(model, answer)
    if out is not None:
        io.write(value, out, space)
    words = {"quality": answer.quality.value, "route": answer.route, "file": str(out) if out else None}
    text = "\n\n".join(map(str, value)) if isinstance(value, list) else str(value)
    io.tell(json_, words | {"value": io.plain(value)}, f"wrote {out}" if out else text)
