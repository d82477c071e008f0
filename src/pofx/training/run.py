"""Run: a built Model, Data and settings -> the fitted Model, in this process; `fit`, `pick` and `processes` call it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pofx import files
from pofx.data import Data
from pofx.families import FAMILIES, USUAL
from pofx.families import family as family_class
from pofx.model import Model, Unsupported
from pofx.randomness import Rng
from pofx.training.budget import CLOCKS, Asked, Plan, plan_for
from pofx.training.loop import Augment, Diverged, Loop, Parts
from pofx.training.progress import Progress
from pofx.training.validation import validate_closed
from pofx.wrappers import Staged, adapted

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """Everything about a fit that is neither data nor family.

    Args:
        asked: what the plan must respect.
        start: the reading of each clock when the fit began, so that what was spent before the loop counts.
        folder: where checkpoints and history go; None keeps nothing on disk.
        resume: go on from the folder's checkpoint, if it has one.
        every: seconds between checkpoints.
        device: "auto", "cpu" or "cuda".
        progress: show a progress bar.
        hyper_parameters: of a family that is named.
        record: what else the model should remember of its fit.
        augment: changes the rows of every training step.
        stage: of a model whose parts are fitted in turn.
    """

    asked: Asked
    start: Mapping[str, float]
    folder: Path | None = None
    resume: bool = False
    every: float = 15.0
    device: str = "auto"
    progress: bool = False
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    augment: Augment | None = None
    stage: int = 0


def families_named(names: Sequence[str] | None) -> list[str]:
    """The names themselves; None is one family of each branch, and the word "all" every family of pofx."""
    return [f for name in (USUAL if names is None else names) for f in (FAMILIES if name == "all" else (name,))]


def built(family: str | type[Model] | Model, data: Data, seed: int, hyper_parameters: Mapping[str, Any]) -> Model:
    """A family with weights for this data; an instance is copied, so that it can be fitted again.

    Raises:
        ValueError: a hyper-parameter is unknown. Unsupported: the family cannot learn from such data.
    """
    if isinstance(family, Model):
        if hyper_parameters:
            raise ValueError(f"hyper_parameters {sorted(hyper_parameters)}: this {family.name} already has its own.")
        model = copy.deepcopy(family.core)
    else:
        try:
            model = _of_types(family_class(family), hyper_parameters)(**hyper_parameters)
        except TypeError as error:
            raise ValueError(f"{family}: {error}; see the hyper-parameters in its docstring.") from error
    if not data.complete and model.card.incomplete.startswith("refuses"):
        raise Unsupported(
            f"{model.name} cannot be trained on rows with missing entries; impute them, or drop those rows."
        )
    if data.given and not model.card.given:
        raise Unsupported(f"{model.name} learns p(x) only; it cannot be given {sorted(data.given)}.")
    if not data.paired and model.card.paired:
        raise Unsupported(f"{model.name} learns from pairs of x and what it is given; unpaired sets: family 'cycle'.")
    return adapted(model, data.space).build(data.space, data.given_spaces, seed)


def _of_types(cls: type[Model], hyper_parameters: Mapping[str, Any]) -> type[Model]:
    """The class, whose hyper-parameters are numbers where its defaults are."""
    defaults = {name: p.default for name, p in inspect.signature(cls.__init__).parameters.items()}
    for name, value in hyper_parameters.items():
        if isinstance(defaults.get(name), (int, float)) and isinstance(value, str):
            raise TypeError(f"{name}: got {value!r}; expected a number, such as its default {defaults[name]}")
    return cls


def run(model: Model, data: Data, settings: Settings, fabric: Any, report: Report = lambda line: None) -> None:
    """Train a built model.

    Raises:
        Diverged: the loss is not finite (the best weights so far are saved). KeyboardInterrupt: after a checkpoint.
    """
    if not isinstance(model, Staged):
        _fit(model, data, settings, fabric, report, model.name)
        return
    for i in range(_saved_stage(settings) or 0, len(model.stages)):
        model.begin(i, data, Rng.derive(settings.asked.seed, 7, i))
        _fit(model, data, _of_stage(settings, model.stages, i), fabric, report, f"{model.name}: {model.stages[i][0]}")


def _of_stage(settings: Settings, stages: Sequence[tuple[str, float]], i: int) -> Settings:
    """The settings of one stage: its share of the steps, or of the seconds together with the stages before it."""
    budget, shares = settings.asked.budget, [share for _, share in stages]
    if budget.steps is not None:
        budget = replace(budget, steps=max(1, round(budget.steps * shares[i])))
    else:
        budget = replace(budget, seconds=(budget.seconds or 0.0) * sum(shares[: i + 1]) / sum(shares))
    return replace(settings, asked=replace(settings.asked, budget=budget), stage=i)


def _saved_stage(settings: Settings) -> int | None:
    """The stage in which an interrupted fit stopped."""
    if not settings.resume or settings.folder is None or not (settings.folder / files.CHECKPOINT).exists():
        return None
    return files.load_tensors(settings.folder / files.CHECKPOINT)[1]["identity"].get("stage", 0)


def _fit(model: Model, data: Data, settings: Settings, fabric: Any, report: Report, title: str) -> None:
    shown = settings.progress and fabric.global_rank == 0
    with Progress(title, model.loss_unit, shown) as bar, threads_kept():

        def tell(line: dict[str, Any]) -> None:
            bar.line(line)
            report(line)

        if model.closed:
            _fit_closed(model, data, settings, tell)
        else:
            _fit_players(model, data, settings, fabric, tell, bar)


def finished(model: Model, data: Data, settings: Settings, fabric: Any) -> None:
    """Note in a trained model how it was fitted, and write its folder."""
    spent = {clock: now() - settings.start[clock] for clock, now in CLOCKS.items()}
    spent["cpu"] *= fabric.world_size
    rows = {part: len(index) for part, index in data.split.items()}
    model.record = {
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "rows": rows},
        "seconds": {clock: round(seconds, 3) for clock, seconds in spent.items()},
        "plan": model.record.get("plan"),
        "processes": fabric.world_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        **settings.record,
    }
    if settings.folder is not None:
        model.save(settings.folder)
        (settings.folder / files.CHECKPOINT).unlink(missing_ok=True)


def fabric_of(device: str, **options: Any) -> Any:
    """A Fabric on one device; precision is the loop's own affair."""
    from lightning_fabric import Fabric

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f'device: got {device!r}; expected "auto", "cpu" or "cuda".')
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError('device: got "cuda", but torch finds no CUDA device; use "cpu" or "auto".')
    return Fabric(accelerator=device, **{"devices": 1, **options})


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """The plan sets the threads of this fit; afterwards the caller has theirs back."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit_closed(model: Model, data: Data, settings: Settings, tell: Report) -> None:
    past = list(model.history) if settings.stage else []
    first, before = (past[-1]["step"], past[-1]["seconds"]) if past else (0, 0.0)
    started, model.history, seed, budget = time.perf_counter() - before, [], settings.asked.seed, settings.asked.budget
    now, begun = CLOCKS[budget.clock], settings.start[budget.clock]

    def report(line: Mapping[str, float] | None = None) -> bool:
        if line is not None:
            if model.history:
                tell(model.history[-1])  # a line late, for the last one is validated first
            model.history.append({**line, "seconds": round(time.perf_counter() - started, 3)})
        return budget.seconds is None or now() - begun < budget.seconds

    model.fit_closed(data, Rng.derive(seed, 2), report)
    model.eval()
    last = model.history.pop() if model.history else {"step": 1}
    valid = validate_closed(model, data.part("valid"), seed)
    last |= {} if valid is None else {"valid": valid}
    model.history.append({**last, "seconds": round(time.perf_counter() - started, 3)})
    model.history = [*past, *({**line, "step": line["step"] + first} for line in model.history)]
    tell(model.history[-1])


def _fit_players(model: Model, data: Data, settings: Settings, fabric: Any, tell: Report, bar: Progress) -> None:
    model.to(fabric.device)
    parts, identity, saved = Parts.of(data, fabric.device), _identity(model, data, settings), None
    if settings.folder is not None and _saved_stage(settings) == settings.stage:
        saved = files.load_tensors(settings.folder / files.CHECKPOINT)
        _agree(saved[1]["identity"], identity, settings.folder)
    plan = Plan(**saved[1]["plan"]) if saved else _plan(model, parts, settings, fabric)
    torch.set_num_threads(plan.threads)
    past = model.history if settings.stage else []
    loop = Loop(model, parts, plan, fabric, settings.folder, tell, identity, settings.every, settings.augment, past)
    if saved:
        loop.restore(*saved)
    else:
        loop.save()  # the plan, which a fit that goes on must repeat
    bar.start(plan, loop.k)
    try:
        loop.run()
    except (KeyboardInterrupt, Diverged) as stop:
        _stopped(loop, stop)
        raise
    loop.finish()


def _stopped(loop: Loop, stop: BaseException) -> None:
    """Nothing is lost: Ctrl-C leaves a checkpoint, a diverged loss leaves the best weights."""
    folder, first = loop.folder, loop.fabric.global_rank == 0
    if isinstance(stop, Diverged):
        loop.finish()
        if folder is not None and first:
            loop.model.save(folder)
            (folder / files.CHECKPOINT).unlink(missing_ok=True)  # going on would only diverge again
    elif folder is None:
        print(f"\nstopped at step {loop.k} of {loop.plan.steps}; without a folder nothing is kept", file=sys.stderr)
    elif first:
        where = f"stopped at step {loop.k} of {loop.plan.steps}"
        print(f"\n{where}; go on with resume=True (--resume) and the same folder, {folder}", file=sys.stderr)


def _plan(model: Model, parts: Parts, settings: Settings, fabric: Any) -> Plan:
    """The plan of the first process, which is everyone's."""
    asked = settings.asked
    rows = min(asked.batch or model.batch_size, len(parts.train))
    rows -= rows % fabric.world_size
    if rows < 1:
        raise ValueError(f"{len(parts.train)} rows to train on and a batch of {rows}: each process needs at least one.")

    def trial(precision: str) -> Loop:
        plan = Plan(10**6, rows, torch.get_num_threads(), precision, 0.0, asked.seed, "measuring")
        return Loop(copy.deepcopy(model), parts, plan, fabric, augment=settings.augment)

    agree = fabric.broadcast if fabric.world_size > 1 else lambda own: own
    plan = plan_for(trial, asked, rows, fabric.device, settings.start[asked.budget.clock], agree)
    return Plan(**agree(plan.to_json()))


def _identity(model: Model, data: Data, settings: Settings) -> dict[str, Any]:
    """What must be the same for a fit to go on as if nothing had happened."""
    words = {
        "data": data.fingerprint(),
        "family": f"{type(model.core).__module__}:{type(model.core).__qualname__}",
        "hyper-parameters": files.hyper_parameters(model.core),
        "given": sorted(data.given),
        "seed": settings.asked.seed,
        "stage": settings.stage,
        "record": dict(settings.record),
    }
    return json.loads(json.dumps(words))


def _agree(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for word in ("seed", "data", "family", "hyper-parameters", "given"):  # another seed splits the data otherwise
        if saved[word] != now[word]:
            raise ValueError(
                f"{folder} cannot be resumed: its fit had another {word} ({saved[word]}, now {now[word]}); "
                "give what it was begun with, or another folder."
            )
