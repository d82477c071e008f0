"""The questions on the command line, third part: rows from inside, between them, and before a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pofx import cli_io as io
from pofx import cli_rows
from pofx.cli_options import Given, Json, Out, Own, Picture, Route, Run, Seed, function, number

looks = typer.Typer()
Rows = Annotated[str, typer.Argument(help="Rows to ask about.")]


@looks.command()
def contribute(
    run: Run,
    data: Rows,
    draws: Annotated[int, typer.Option(help="Monte-Carlo draws, where the route needs them.")] = 16,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """Which entries make a row unlikely? Nats an entry: the lower, the stranger."""
    from pofx.tasks.contribute import contribute as ask

    _places(out, picture)
    model = io.load(run, add)
    answer = ask(model, io.rows(model, data), io.values(given, data), draws=draws, rng=seed, route=route)
    value, space = answer.value.flatten(1), model.space
    names = [space.variable(i).name if not space.shared else str(i) for i in range(space.size)]
    cli_rows.table(out, value.numpy(), names)
    worst = value.argmin(1).tolist()
    words = _words(answer, len(value)) | {"values": io.plain(answer.value), "strangest": [names[i] for i in worst]}
    order = value.min(1).values.argsort()[:10].tolist()
    lines = [f"row {k}: {names[worst[k]]}, {float(value[k, worst[k]]):.3f} {answer.unit}" for k in order]
    _tell(answer, picture, json_, words, "\n".join(["the strangest entries:", *lines]))


@looks.command()
def embed(
    run: Run,
    data: Rows,
    label: Annotated[
        str | None, typer.Option(help="A column, or the label that the data brings: how well do codes tell it?")
    ] = None,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What matters about each row, in a few numbers? Codes z0, z1, ..., and the spread of their posterior."""
    from pofx.metrics.representation import told_by
    from pofx.tasks.base import rows_of
    from pofx.tasks.embed import embed as ask

    _places(out, picture)
    model = io.load(run, add)
    rows, labels = (io.rows(model, data), None) if label is None else cli_rows.with_label(model, data, label)
    answer = ask(model, rows, io.values(given, data), route=route)
    z, spread = answer.value.numpy(), answer.stderr
    names = [f"z{k}" for k in range(z.shape[1])]
    cli_rows.table(out, z, names, None if spread is None else spread.numpy())
    words = _words(answer, len(z)) | {"latents": z.shape[1], "values": z.tolist()}
    text = f"{len(z)} rows, {z.shape[1]} latents, by {answer.route}"
    if labels is not None:
        known = model.chart.encode(rows_of(model, rows)[0]).flatten(1).double()
        found = told_by(z, labels, known, rng=seed)
        words["told"] = {name: [m.value, m.low, m.high] for name, m in found.items()}
        text += "".join(f"\n{name}: {m.value:.1%} [{m.low:.1%}, {m.high:.1%}]" for name, m in found.items())
    _tell(answer, picture, json_, words, text)


@looks.command()
def cluster(
    run: Run,
    data: Rows,
    count: Annotated[
        str | None, typer.Option(help="How many: 5, or 2,3,4 to choose from; default what held-out rows favour.")
    ] = None,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """Which groups are there, how many, and how surely does each row belong to its own?"""
    from pofx.tasks.cluster import cluster as ask

    _places(out, picture)
    counts = None if count is None else [_whole("--count", one) for one in count.split(",")]
    model = io.load(run, add)
    asked = counts[0] if counts is not None and len(counts) == 1 else counts
    answer = ask(model, io.rows(model, data), asked, io.values(given, data), rng=seed, route=route)
    facts = answer.diagnostics
    sure = facts["p"].max(1).values
    io.columns(out, {"cluster": answer.value, "sure": sure})
    sizes = answer.value.bincount(minlength=facts["clusters"]).tolist()
    words = _words(answer, len(sure)) | {"clusters": facts["clusters"], "sizes": sizes, "tried": facts["tried"]}
    words |= {"values": answer.value.tolist(), "sure": sure.tolist()}
    text = (
        f"{facts['clusters']} clusters of {', '.join(map(str, sizes))} rows; {float(sure.mean()):.1%} sure on average"
    )
    _tell(answer, picture, json_, words, text)


@looks.command()
def depend(
    run: Run,
    draws: Annotated[int, typer.Option(help="Of the model, over which the expectation is taken.")] = 2000,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """Which columns say something about which others? Mutual information of every pair, nats; 0: independent."""
    from pofx.tasks.depend import depend as ask

    _places(out, picture)
    answer = ask(io.load(run, add), io.values(given), draws=draws, rng=seed, route=route)
    edges = answer.diagnostics["edges"]
    one, other, nats = zip(*edges, strict=True) if edges else ((), (), ())
    io.columns(out, {"one": one, "other": other, "nats": nats})
    words = _words(answer, len(answer.value)) | {"edges": [list(e) for e in edges], "values": answer.value.tolist()}
    lines = [f"{a} and {b}: {i:.4f} nats" for a, b, i in edges[:10]]
    _tell(answer, picture, json_, words, "\n".join(lines or ["one column: nothing to depend on"]))


@looks.command()
def dimension(
    run: Run,
    data: Annotated[str | None, typer.Argument(help="Rows near which to ask; default the model's own draws.")] = None,
    scale: Annotated[float, typer.Option(help="In standard deviations: what varies less does not count.")] = 0.2,
    picture: Picture = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """In how many directions does x really vary?"""
    from pofx.tasks.dimension import dimension as ask

    _places(None, picture)
    model = io.load(run, add)
    rows = None if data is None else io.rows(model, data)
    answer = ask(model, rows, io.values(given, data), scale=scale, rng=seed, route=route)
    facts = answer.diagnostics
    words = _words(answer, len(facts["rows"]) if "rows" in facts else 0) | {"value": answer.value}
    words |= {"entries": facts["entries"], "curve": facts.get("curve")}
    text = f"{answer.value:.2f} of {facts['entries']} directions, by {answer.route}"
    _tell(answer, picture, json_, words, text if answer.route == "neighbours" else f"{text}, at a scale of {scale:g}")


@looks.command()
def traverse(
    run: Run,
    data: Annotated[str, typer.Argument(help="Rows, which say how codes spread.")],
    directions: Annotated[int, typer.Option(help="How many, the widest first.")] = 3,
    steps: Annotated[int, typer.Option(help="Points of a strip.")] = 7,
    reach: Annotated[float, typer.Option(help="How far, in standard deviations of the codes.")] = 2.0,
    plane: Annotated[bool, typer.Option("--plane", help="A map of the two widest directions.")] = False,
    picture: Picture = None,
    out: Out = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What changes in x when one thing about it is moved? Strips of rows, one after the other."""
    from pofx.tasks.traverse import traverse as ask

    model = io.load(run, add)
    io.fits(out, model.space)
    _places(None, picture)
    answer = ask(
        model, io.rows(model, data), directions, steps, reach=reach, plane=plane, rng=seed, route=route
    )  # fmt: skip
    _deliver(model, answer, picture, out, json_)


@looks.command()
def interpolate(
    run: Run,
    start: Annotated[str, typer.Argument(help="Rows to set out from.")],
    end: Annotated[str | None, typer.Argument(help="As many rows to arrive at; none: see --pairs.")] = None,
    pairs: Annotated[str, typer.Option(help="Without END: from which row to which, by number.")] = "0:1",
    steps: Annotated[int, typer.Option(help="Points of a strip, both ends included.")] = 9,
    way: Annotated[str, typer.Option(help="spherical or linear.")] = "spherical",
    video: Annotated[Path | None, typer.Option(help="A .gif: there and back.")] = None,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What lies between two x? A strip of rows from each start to its end."""
    from pofx.tasks.interpolate import interpolate as ask
    from pofx.tasks.interpolate import video as film

    model = io.load(run, add)
    io.fits(out, model.space)
    _places(None, picture)
    io.ready(video, (".gif",), "--video")
    one, other = cli_rows.pairs_of(model, start, end, pairs)
    answer = ask(model, one, other, steps, io.values(given), way=way, route=route)
    if video is not None:
        film(answer, io.place(video))
    _deliver(model, answer, picture, out, json_)


@looks.command()
def restore(
    run: Run,
    data: Annotated[str, typer.Argument(help="What was measured (.npy, .csv, pictures); with --simulate, whole rows.")],
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="How: blur:1.5, downsample:4, grey, mask:FILE, compressive:20, quantise:16, or file.py:function of x.",
        ),
    ],
    noise: Annotated[float, typer.Option(help="Standard deviation of each number that was measured; above 0.")],
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Measure the rows of DATA first, with that noise.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Restored versions of each row.")] = 8,
    mean: Annotated[Path | None, typer.Option(help="A file for their mean: smallest error, not as sharp.")] = None,
    picture: Picture = None,
    out: Out = None,
    given: Given = None,
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What was x before it was blurred, shrunk, hidden or mixed? Draws, their mean, and where they disagree."""
    from pofx.kinds import KINDS
    from pofx.tasks.restore import restore as ask

    model = io.load(run, add)
    io.fits(out, model.space)
    io.fits(mean, model.space, "--mean")
    _places(None, picture)
    measure = _measurement(by, model.space.shape)
    read = (
        cli_rows.simulated(model, data, measure, noise, seed)
        if simulate
        else cli_rows.measured(data, measure, model.space)
    )
    answer = ask(model, read, measure, noise, io.values(given), draws=draws, rng=seed, route=route)
    written = []
    for k, one in enumerate(answer.value if out is not None else ()):
        written += io.write(one, out.with_stem(f"{out.stem}-{k}") if draws > 1 else out, model.space)  # type: ignore
    middle = answer.diagnostics["mean"]
    if mean is not None:
        written += io.write(
            KINDS[model.space.kind].restore(model.space.nearest(middle), model.space), mean, model.space
        )
    words = _words(answer, len(read)) | {"misfit": answer.diagnostics["misfit"], "files": [str(p) for p in written]}
    words |= {"mean": middle.tolist()} if middle.numel() <= 100_000 else {}
    text = f"{answer.explain()}\n{', '.join(map(str, written)) or 'give --out, --mean or --picture to keep them'}"
    _tell(answer, picture, json_, words, text)


def _measurement(by: str, shape: tuple[int, ...]) -> Any:
    """A named measurement with its number or file, or a function of the user's own."""
    from pofx.engines.operators import Blur, Compressive, Downsample, Grey, Mask, Quantise

    name, _, what = by.partition(":")
    if Path(name).suffix == ".py":
        return function(by)
    if name == "grey" and not what:
        return Grey()
    if name == "mask" and what:
        return Mask(cli_rows.mask(what, shape))
    numbers = {"blur": Blur, "downsample": Downsample, "compressive": Compressive, "quantise": Quantise}
    if name in numbers and what:
        expected = "a number above 0, such as 4"
        value = number(f"--by {name}", what, expected)
        whole = name in ("downsample", "compressive")
        if value <= 0 or whole and not isinstance(value, int):
            raise ValueError(f"--by {name}: got {what!r}; expected {'a whole number above 0' if whole else expected}.")
        return numbers[name](value)  # type: ignore[operator]
    raise ValueError(
        f"--by: got {by!r}; expected blur:1.5, downsample:4, grey, mask:FILE, compressive:20, quantise:16, or "
        "file.py:function."
    )


def _whole(option: str, text: str) -> int:
    found = number(option, text, "whole numbers, such as 5 or 2,3,4")
    if not isinstance(found, int):
        raise ValueError(f"{option}: got {text!r}; expected whole numbers, such as 5 or 2,3,4.")  # noqa: TRY004 (text)
    return found


def _places(out: Path | None, picture: Path | None) -> None:
    """Refuse what cannot be written, before anything is asked."""
    io.ready(out, io.TABLE)
    io.ready(picture, io.FIGURES, "--picture")


def _words(answer: Any, rows: int) -> dict[str, Any]:
    return {"rows": rows, "unit": answer.unit, "quality": answer.quality.value, "route": answer.route}


def _tell(answer: Any, picture: Path | None, json_: bool, words: dict[str, Any], text: str) -> None:
    if picture is not None:
        io.drawn(answer, picture)
        words["picture"] = str(picture)
    io.tell(json_, words, text)


def _deliver(model: Any, answer: Any, picture: Path | None, out: Path | None, json_: bool) -> None:
    """Write rows of strips, one after the other; as a picture, strip under strip."""
    io.drawn(answer, picture)
    if out is not None and out.suffix.lower() == ".png":
        io.drawn(answer, out)
    elif out is not None:
        io.write(answer.value, out, model.space)
    words = {"shape": list(answer.raw.shape), "quality": answer.quality.value, "route": answer.route}
    facts = {k: v for k, v in answer.diagnostics.items() if isinstance(v, (float, list))}
    files = [str(f) for f in (out, picture) if f is not None]
    words |= {**facts, "files": files}
    if out is None and answer.raw.numel() <= 100_000:
        words["x"] = io.plain(answer.value)
    said = [f"{name}: {value:.3g}" for name, value in facts.items() if isinstance(value, float)]
    io.tell(json_, words, "\n".join([f"wrote {', '.join(files)}" if files else str(answer.value), *said]))
