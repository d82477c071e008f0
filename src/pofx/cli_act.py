"""The questions on the command line, second part: what to do, to make small, to add, and in whose manner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pofx import cli_io as io
from pofx.cli_options import Given, Json, Out, Own, Picture, Route, Run, Seed, function, number, numbers

actions = typer.Typer()


@actions.command()
def plan(
    run: Run,
    state: Annotated[str, typer.Argument(help="Where to begin: numbers with commas between.")],
    reward: Annotated[
        str | None, typer.Option(help="file.py:function of states, actions and next states, (B, ...) -> (B,).")
    ] = None,
    target: Annotated[float | None, typer.Option(help="The return asked for, of a model that was given one.")] = None,
    horizon: Annotated[int, typer.Option(help="Actions to plan.")] = 15,
    changes: Annotated[bool, typer.Option("--changes", help="The model is of the change of the state.")] = False,
    penalty: Annotated[float, typer.Option(help="Reward lost for each unit of uncertainty.")] = 1.0,
    picture: Picture = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What should be done, if the model knows what comes of it?"""
    from pofx.tasks.plan import plan as ask

    io.ready(picture, io.FIGURES, "--picture")
    begin, wanted = numbers("STATE", state, "0,1.5"), None if reward is None else function(reward)
    answer = ask(
        io.load(run, add), begin, wanted, horizon, target=target, changes=changes, penalty=penalty, rng=seed,
        route=route,
    )  # fmt: skip
    io.drawn(answer, picture)
    facts = {k: v for k, v in answer.diagnostics.items() if isinstance(v, float)}
    words = {"actions": io.plain(answer.value), "quality": answer.quality.value, "route": answer.route, **facts}
    io.tell(json_, words, f"{answer.explain()}\n\n{answer.value}")


@actions.command()
def compress(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows to make small.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    picture: Picture = None,
    given: Given = None,
    add: Own = None,
    json_: Json = False,
) -> None:
    """Make rows small, without loss, by the model's own probabilities."""
    from pofx.tasks.compress import compress as ask

    io.ready(out)
    io.ready(picture, io.FIGURES, "--picture")
    model = io.load(run, add)
    answer = ask(model, io.rows(model, data), out, io.values(given, data))
    io.drawn(answer, picture)
    facts = answer.diagnostics
    text = f"{facts['rows']} rows in {facts['bytes']} bytes ({facts['bits per dimension']:.3f} bits an entry): {out}"
    if "not in the file" in facts:
        text += f"\nnot in the file: {', '.join(facts['not in the file'])}, to be told when it is read"
    io.tell(json_, {"file": str(out), **facts}, text)


@actions.command()
def decompress(
    run: Run,
    file: Annotated[Path, typer.Argument(help="What compress wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the rows.")],
    given: Annotated[
        list[str] | None, typer.Option(help="What it was written given: name=value, or a column of --rows.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="A CSV with the columns that the file was written given, in the same order.")
    ] = None,
    add: Own = None,
    json_: Json = False,
) -> None:
    """The rows of a compressed file, each as it was; a table's columns in the order of the model's."""
    from pofx.tasks.compress import decompress as ask
    from pofx.tasks.compress import written_given

    bare = [name for name in given or () if "=" not in name]
    if bare and rows is None:
        raise ValueError(f"--given {bare[0]}: expected {bare[0]}=value, or --rows FILE with that column.")
    model = io.load(run, add)
    io.fits(out, model.space)
    told = given if given or rows is None else list(written_given(model, file))
    back = ask(model, file, io.values(told, rows))
    io.write(back, out, model.space)
    io.tell(json_, {"file": str(out), "rows": len(back)}, f"{len(back)} rows: {out}")


@actions.command()
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
    picture: Picture = None,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """More rows of the classes that have few; with --test, whether that helps."""
    from pofx.tasks.augment import augment as ask
    from pofx.tasks.augment import gain

    wanted = None if rows is None else number("--rows", rows, "a number of rows (500), or a share (2.0)")
    if test is not None and by is None:
        raise ValueError("--test needs --by, the class to predict.")
    io.ready(picture, io.FIGURES, "--picture")
    model = io.load(run, add)
    if by is None or model.space.kind == "table":
        io.fits(out, model.space)
    else:
        io.ready(out, (".npz",))  # x, y and drawn
    known = io.classed(model, data, by)
    answer = ask(model, known, by, wanted, rng=seed, route=route)
    io.drawn(answer, picture)
    facts = answer.diagnostics
    words = {k: facts[k] for k in ("real rows", "drawn rows", "before", "after") if k in facts}
    text = ", ".join(f"{k}: {v}" for k, v in words.items())
    if out is not None:
        io.enlarged(answer, out, model)
        text += f"\nwrote {out}"
    if test is not None and by is not None:
        found = gain(model, known, io.classed(model, test, by), by, wanted, predictor=predictor, rng=seed, route=route)
        words |= {k: found.diagnostics[k] for k in ("verdict", "over", "scores")}
        words["gains"] = {k: [m.value, m.low, m.high] for k, m in found.diagnostics["gains"].items()}
        words["gain"] = words["gains"]["drawn"]
        text += f"\n\n{_compared(words)}\n\n{words['verdict']}"
    io.tell(json_, {str(k): v for k, v in words.items()}, text)


def _compared(words: dict[str, Any]) -> str:
    """Drawn rows beside what is simpler, line by line."""
    from pofx.metrics.gains import WORDS

    lines = [f"balanced accuracy over {words['over']}, and the gain over real rows alone [95 %]"]
    for way, score in words["scores"].items():
        more = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*words["gains"][way]) if way in words["gains"] else ""
        lines.append(f"  {WORDS.get(way, way):<16} {score:.3f}  {more}".rstrip())
    return "\n".join(lines)


@actions.command()
def stylise(
    content: Annotated[Path, typer.Argument(help="A picture of what is to be seen.")],
    style: Annotated[Path, typer.Argument(help="A picture in the manner wanted.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the picture.")],
    weight: Annotated[float, typer.Option(help="Of the content: 0 gives texture, 1 hardly changes it.")] = 0.05,
    statistic: Annotated[str, typer.Option(help="gram or sliced.")] = "gram",
    features: Annotated[str, typer.Option(help="filters, or vgg19 (torchvision).")] = "filters",
    size: Annotated[int | None, typer.Option(help="Of the longer side; default the content's own.")] = None,
    steps: Annotated[int, typer.Option(help="Of the search at each scale.")] = 60,
    keep_colours: Annotated[bool, typer.Option("--keep-colours", help="Those of the content.")] = False,
    model: Annotated[Path | None, typer.Option(help="The folder of a fitted AdaIN, in place of the search.")] = None,
    alpha: Annotated[float, typer.Option(help="How far such a network goes: 0 the content, 1 the style.")] = 1.0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """What would this picture look like, made as that one is?"""
    from PIL import Image

    from pofx.families.adain import AdaIN
    from pofx.tasks.stylise import stylise as ask
    from pofx.training.folder import load

    io.ready(out, io.PICTURES)
    network = None if model is None else load(model, [AdaIN])
    answer = ask(
        content, style, weight=weight, statistic=statistic, features=features, size=size, steps=steps,
        keep_colours=keep_colours, model=network, alpha=alpha, rng=seed,
    )  # fmt: skip
    Image.fromarray(answer.value).save(io.place(out))
    gain = answer.diagnostics["gain"]
    words = {"file": str(out), **answer.diagnostics}
    io.tell(json_, words, f"wrote {out}; the distance to the style fell {gain:.0f} times")


@actions.command()
def translate(
    run: Run,
    data: Annotated[str, typer.Argument(help="What is to be translated: rows of the other side, or a draft.")],
    source: Annotated[Path | None, typer.Option(help="A fitted model of the side that the rows are from.")] = None,
    strength: Annotated[float | None, typer.Option(help="Of a draft: 0 gives it back, 1 forgets it.")] = None,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What would this be on the other side?"""
    from pofx.tasks.translate import translate as ask

    model = io.load(run, add)
    io.fits(out, model.space)
    io.ready(picture, io.FIGURES, "--picture")
    other = None if source is None else io.load(source, add)
    rows = io.other_side(model, other, strength, data, given)
    answer = ask(model, rows, other, strength, io.values(given), rng=seed, route=route)
    io.drawn(answer, picture)
    io.deliver(model, answer, out, json_)
