"""The questions on the command line, second part: what to do, and in whose manner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pofx import cli_io as io
from pofx.cli_options import Given, Json, Out, Own, Route, Run, Seed

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
    seed: Seed = 0,
    add: Own = None,
    route: Route = None,
    json_: Json = False,
) -> None:
    """What should be done, if the model knows what comes of it?"""
    from pofx.tasks.plan import plan as ask

    answer = ask(
        io.load(run, add), [float(s) for s in state.split(",")], None if reward is None else io.function(reward),
        horizon, target=target, changes=changes, penalty=penalty, rng=seed, route=route,
    )  # fmt: skip
    facts = {k: v for k, v in answer.diagnostics.items() if isinstance(v, float)}
    words = {"actions": io.plain(answer.value), "quality": answer.quality.value, "route": answer.route, **facts}
    io.tell(json_, words, f"{answer.explain()}\n\n{answer.value}")


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

    network = None if model is None else load(model, [AdaIN])
    answer = ask(
        content, style, weight=weight, statistic=statistic, features=features, size=size, steps=steps,
        keep_colours=keep_colours, model=network, alpha=alpha, rng=seed,
    )  # fmt: skip
    Image.fromarray(answer.value).save(out)
    gain = answer.diagnostics["gain"]
    words = {"file": str(out), **answer.diagnostics}
    io.tell(json_, words, f"wrote {out}; the distance to the style fell {gain:.0f} times")


@actions.command()
def translate(
    run: Run,
    data: Annotated[str, typer.Argument(help="What is to be translated: rows of the other side, or a draft.")],
    source: Annotated[Path | None, typer.Option(help="A fitted model of the side that the rows are from.")] = None,
    strength: Annotated[float | None, typer.Option(help="Of a draft: 0 gives it back, 1 forgets it.")] = None,
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
    other = None if source is None else io.load(source, add)
    rows = io.other_side(model, other, strength, data, given)
    answer = ask(model, rows, other, strength, io.values(given), rng=seed, route=route)
    io.deliver(model, answer, out, json_)
