"""The questions on the command line: one command for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pofx import cli_io as io
from pofx.cli_options import Given, Json, Out, Own, Picture, Route, Run, Seed, numbers, share

questions = typer.Typer()


@questions.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 16,
    out: Out = None,
    given: Given = None,
    known: Annotated[
        list[str] | None, typer.Option("--known", help="Of a table, what all draws have: column=value.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Below 1: likelier, less various x.")] = 1.0,
    truncation: Annotated[float, typer.Option(help="Only the likeliest share of values, e.g. 0.9.")] = 1.0,
    seed: Seed = 0,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Draw new x; --out takes the kind's own files (.csv, .txt, .wav, .mid, .gif, .obj), .npy, or .png, a drawing."""
    from pofx.tasks.sample import sample as ask
    from pofx.tasks.stream import CHUNK, WRITERS, sample_to

    model = io.load(run, add)
    io.fits(out, model.space)
    asked = {"temperature": temperature, "truncation": truncation}
    tempered: dict[str, Any] = {name: value for name, value in asked.items() if value != 1}
    tempered |= {"known": io.pairs(known)} if known else {}
    if out is not None and n > CHUNK and out.suffix.lower() in WRITERS:
        sample_to(model, n, out, io.values(given), rng=seed, **tempered)
        io.tell(json_, {"rows": n, "file": str(out)}, f"wrote {n} draws to {out}")
        return
    answer = ask(model, n, io.values(given), rng=seed, **tempered)
    io.deliver(model, answer, out, json_)


@questions.command()
def density(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to ask about.")],
    draws: Annotated[int, typer.Option(help="Monte-Carlo draws of a bound.")] = 16,
    picture: Picture = None,
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

    io.ready(out, io.TABLE)
    io.ready(picture, io.FIGURES, "--picture")
    model = io.load(run, add)
    rows = io.rows(model, data)
    answer = ask(model, rows, io.values(given, data), draws=draws, rng=seed, route=route)
    words = io.words(answer, answer.value)
    if model.space.mass:
        words["bits_per_dim"] = float(bits_per_dim(answer.value, model.space).mean())
    io.columns(out, {"log_p": answer.value})
    io.drawn(answer, picture)
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
        float | None,
        typer.Option(help="Flag rows, of which at most this share is expected to be false (needs --calibration)."),
    ] = None,
    background: Annotated[
        Path | None, typer.Option(help="A fitted model of what all such rows share: the likelihood ratio.")
    ] = None,
    picture: Picture = None,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What does not belong? Scores, and conformal p-values, flags and reasons where calibrated."""
    from pofx.tasks.anomaly import anomaly as ask

    io.ready(out, io.TABLE)
    io.ready(picture, io.FIGURES, "--picture")
    share("--level", level)
    share("--fdr", fdr)
    model = io.load(run, add)
    known = None if calibration is None else io.rows(model, calibration)
    behind = None if background is None else io.load(background, add)
    answer = ask(model, io.rows(model, data), known, background=behind, fdr=fdr, rng=seed, route=route)
    words, facts = io.words(answer, answer.value), answer.diagnostics
    p, chosen = facts.get("p"), facts.get("flagged")
    flags = p <= level if p is not None and chosen is None else chosen
    words["strangest"] = answer.strangest[:10]
    if p is not None and flags is not None:
        words |= {"p": p.tolist(), "flagged": int(flags.sum()), "flagged_rows": flags.nonzero()[0].tolist()}
    few = _too_few(facts, level if fdr is None else fdr)
    warning = "; ".join([*([str(facts["warning"])] if "warning" in facts else []), *few])
    words |= {"warning": warning} if warning else {}
    io.columns(out, {"score": answer.value, "p": p, "flagged": flags})
    io.drawn(answer, picture)
    flagged = f"; {words['flagged']} rows with p <= {level}" if p is not None else "; no p-values without --calibration"
    text = f"strangest rows: {words['strangest']}{flagged}" if chosen is None else answer.explain()
    io.tell(json_, words, "\n".join([text, *few]))


def _too_few(facts: Mapping[str, Any], level: float) -> list[str]:
    """A line where so few rows calibrate that no p-value reaches the level."""
    rows = facts.get("calibration rows")
    if rows is None or 1 / (rows + 1) <= level:
        return []
    needed = f"give at least {math.ceil(1 / level - 1)}" if level > 0 else "expected a level above 0"
    return [f"no row can be flagged: {rows} calibration rows give no p below {1 / (rows + 1):.2g}; {needed}"]


@questions.command()
def impute(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows with gaps.")],
    mask: Annotated[
        str | None, typer.Option(help="What is known of each x: the white of a picture, or a .npy file.")
    ] = None,
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
    """What is missing? Completed rows; what was observed stays as it is."""
    from pofx import cli_rows
    from pofx.tasks.impute import impute as ask

    model = io.load(run, add)
    io.fits(out, model.space)
    io.fits(mean, model.space, "--mean")
    io.ready(picture, io.FIGURES, "--picture")
    rows = io.gaps(model, data) if mask is None else io.rows(model, data)
    seen = None if mask is None else cli_rows.mask(mask, model.space.shape).expand(len(rows), *model.space.shape)
    answer = ask(model, rows, io.values(given, data), observed=seen, draws=draws, rng=seed, route=route)
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
        io.drawn(answer, picture)
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
def judge(
    real: Annotated[str, typer.Argument(help="Rows that the model did not see.")],
    fake: Annotated[str, typer.Argument(help="Samples.")],
    train: Annotated[str | None, typer.Option(help="The rows that the model saw; they show copying.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="The class of each row of --train (else of REAL), whose modes are counted: a name."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What a predictor trained on samples shall tell of real rows: a name.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="inception (of pictures), or inception:FILE, where its weights are.")
    ] = None,
    picture: Picture = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """How good are samples, whoever made them? A name is a table's column, or the label that other files bring."""
    from pofx.tasks.judge import judge as ask

    io.ready(picture, io.FIGURES, "--picture")
    rows = [None if source is None else io.held(source) for source in (real, fake, train)]
    classes = None if labels is None else _named(train or real, labels, "--labels")
    told: Any = target
    if target is not None and not hasattr(rows[0], "columns"):
        told = _named(real, target, "--target"), _named(fake, target, "--target")
    found = ask(*rows, labels=classes, target=told, features=features, rng=seed)
    io.drawn(found, picture)
    io.tell(json_, found.to_json(), found.explain())


def _named(source: str, name: str, option: str) -> Any:
    """One value a row, by name: a column of a table, or what else the data brings."""
    from pofx.data import open_data

    data = open_data(source, test=0, valid=0)
    if data.space.kind == "table" and Path(source).exists():
        table = io.frame(source)
        if name in table:
            return table[name].to_numpy()
        raise ValueError(f"{option} {name}: {source} has the columns {list(table)}; expected one of them.")
    if name not in data.aside:
        brings = f"brings {', '.join(data.aside)}" if data.aside else "brings no label"
        raise ValueError(f"{option} {name}: {source} {brings}; expected a name that comes with the rows.")
    codes, space = data.aside[name]
    words = space.variable(0).values
    return [words[int(code)] for code in codes] if words else codes.numpy()  # another file numbers them otherwise


@questions.command()
def ask(
    context: typer.Context,
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
    from inspect import Parameter, signature

    from pofx.tasks import TASKS

    if task not in TASKS:
        raise ValueError(f"task {task!r} is unknown; expected one of {', '.join(TASKS)}.")
    question = getattr(import_module(TASKS[task]), task)
    takes = signature(question).parameters
    needs = [name for name, p in takes.items() if p.default is Parameter.empty and name not in ("model", "x")]
    if "x" not in takes or needs:
        top: Any = context.parent
        use = f"use `pofx {task}`" if task in top.command.commands else f"ask it from Python: pofx.{task}(model, ...)"
        raise ValueError(f"{task!r} is not asked about rows{' alone' if 'x' in takes else ''}; {use}.")
    if route is not None and "route" not in takes:
        raise ValueError(f"--route: {task!r} has no routes to choose from; leave it out.")
    model = io.load(run, add)
    said = {name: value for name, value in {"rng": seed, "route": route}.items() if name in takes}
    answer = question(model, io.rows(model, data), **said)
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
    picture: Picture = None,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Which class is it, how sure, and is it any of them?"""
    from pofx.tasks.classify import classify as ask

    io.ready(out, io.TABLE)
    io.ready(picture, io.FIGURES, "--picture")
    model = io.load(run, add)
    known = None if calibration is None else io.labelled(model, calibration, name)
    answer = ask(model, io.rows(model, data), name=name, calibration=known, rng=seed)
    facts = answer.diagnostics
    sure, belongs = 1 - facts["ambiguity"], facts.get("belongs")
    io.drawn(answer, picture)
    io.columns(out, {"class": answer.value, "sure": sure, "belongs": belongs})
    words = {"classes": [str(c) for c in answer.value], "sure": sure.tolist(), "quality": answer.quality.value}
    words |= {} if belongs is None else {"belongs": [float(p) for p in belongs], "temperature": facts["temperature"]}
    strangers = "" if belongs is None else f"; {int((belongs <= 0.05).sum())} rows belong to no class (p <= 0.05)"
    io.tell(json_, words, f"{len(sure)} rows, {float(sure.mean()):.1%} sure on average{strangers}")


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
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What comes next? Quantiles of series, continuations of texts, clips, sounds and music."""
    from pofx.tasks.forecast import forecast as ask

    levels = numbers("--quantiles", quantiles, "0.1,0.5,0.9")
    model = io.load(run, add)
    io.continues(out, model.space)
    io.ready(picture, io.FIGURES, "--picture")
    known = None if calibration is None else io.windows(model, calibration)
    answer = ask(
        model, io.past(model, past), ahead, io.values(given), draws=draws, quantiles=levels, calibration=known,
        rng=seed, route=route,
    )  # fmt: skip
    value, space = io.forecasts(model, answer)
    io.drawn(answer, picture)
    if out is not None:
        io.write(value, out, space)
    words = {"quality": answer.quality.value, "route": answer.route, "file": str(out) if out else None}
    text = "\n\n".join(map(str, value)) if isinstance(value, list) else str(value)
    io.tell(json_, words | {"value": io.plain(value)}, f"wrote {out}" if out else text)
