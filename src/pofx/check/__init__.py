"""Check: does a model keep the promises of its hooks?

    check_model(model)      what `model.offers()` says, on a fitted model of any family, a user's own included
    check_family(Mine)      the same after a short fit on three small data sets

Every number is held against another one that must agree with it: densities add up to one, draws follow log p, parts
multiply, the score is a slope, a conditional mean is orthogonal. What is random is judged by z-scores, |z| < 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.check import laws, promises
from pofx.check.probe import Probe
from pofx.check.report import Check, Failed, Report, Skipped
from pofx.check.toys import TOYS
from pofx.data import Batch, Data
from pofx.families import family
from pofx.kinds.base import Space
from pofx.model import Model, Unsupported
from pofx.randomness import Rng

__all__ = ["Check", "Report", "check_family", "check_model"]

ROWS = 48


@dataclass(frozen=True)
class Promise:
    """A check and the hooks without which it says nothing."""

    check: Callable[[Probe], str]
    needs: frozenset[str]

    @property
    def name(self) -> str:
        """What is promised, in words."""
        return self.check.__name__.replace("_", " ")


def _promise(check: Callable[[Probe], str], *needs: str) -> Promise:
    return Promise(check, frozenset(needs))


PROMISES = (
    _promise(promises.card_is_complete),
    _promise(promises.hyper_parameters_are_kept),
    _promise(promises.undeclared_verbs_refuse),
    _promise(promises.declared_verbs_answer),
    _promise(promises.errors_say_what_is_wrong),
    _promise(promises.asking_changes_nothing),
    _promise(promises.givens_may_be_missing),
    _promise(promises.rows_know_nothing_of_each_other),
    _promise(promises.every_parameter_learns),
    _promise(promises.folder_gives_it_back),
    _promise(promises.samples_are_valid, "sample"),
    _promise(promises.seeds_decide, "sample"),
    _promise(laws.log_prob_is_finite, "log_prob"),
    _promise(laws.probability_sums_to_one, "log_prob"),
    _promise(laws.draws_follow_log_prob, "log_prob", "sample"),
    _promise(laws.frequencies_follow_log_prob, "log_prob", "sample"),
    _promise(laws.hidden_entries_stay_hidden),
    _promise(laws.parts_multiply, "log_prob"),
    _promise(laws.completing_draws_changes_nothing, "condition"),
    _promise(laws.denoising_has_its_limits, "denoise"),
    _promise(laws.denoising_is_the_mean, "denoise", "sample"),
    _promise(laws.score_is_the_slope, "score"),
    _promise(laws.decoding_undoes_encoding, "encode", "decode"),
    _promise(laws.steps_add_up, "steps", "log_prob"),
)


def check_model(model: Model, *, data: Data | None = None, seeds: int = 3, rng: Rng | int | None = 0) -> Report:
    """Run every check that applies to a fitted model.

    Args:
        model: built and fitted; its family may be your own.
        data: rows to ask about; None takes the model's own draws, with givens drawn from their Spaces.
        seeds: seeds that a random answer is asked with.
        rng: of the checks' own choices.

    Returns:
        A Report: `.ok`, `.failures`, `print(report)`, `.explain()`.
    """
    model.eval()
    stream = Rng(rng)
    probe = Probe(model, _rows(model, data, stream), seeds, stream)
    return Report(model.name, tuple(_run(promise, probe) for promise in PROMISES))


def check_family(
    which: str | type[Model],
    *,
    hyper_parameters: Mapping[str, Any] | None = None,
    steps: int = 200,
    seed: int = 0,
    toys: tuple[str, ...] = tuple(TOYS),
) -> dict[str, Report]:
    """Fit a family shortly on small data sets and check each model.

    Args:
        which: a name, `path.py:Class`, or a class.
        hyper_parameters: of the family; small ones make it quick.
        steps: of the fit.
        seed: of everything.
        toys: which of "pictures", "density" and "table".

    Returns:
        Toy -> Report; one skipped check where the family refuses that kind of data.
    """
    from pofx.training.fit import fit

    reports, cls = {}, family(which)
    for toy in toys:
        data = TOYS[toy]()
        settings: dict[str, Any] = {"budget": f"{steps} steps", "threads": 1, "precision": "32-true", "progress": False}
        try:
            model = fit(data, cls, seed=seed, hyper_parameters=hyper_parameters, **settings)
        except Unsupported as refusal:
            reports[toy] = Report(cls.__name__.lower(), (Check(f"fit on {data.name}", True, skipped=str(refusal)),))
            continue
        reports[toy] = check_model(model, data=data, rng=seed)
    return reports


def _run(promise: Promise, probe: Probe) -> Check:
    missing = sorted(promise.needs - probe.offers)
    if missing:
        return Check(promise.name, True, skipped=f"no {', '.join(missing)}")
    started = time.perf_counter()
    try:
        detail, passed, skipped = promise.check(probe), True, ""
    except Skipped as reason:
        detail, passed, skipped = "", True, str(reason)
    except Failed as failure:
        detail, passed, skipped = str(failure), False, ""
    except Exception as error:  # a check that a model makes crash is a promise broken, and the others still run
        detail, passed, skipped = f"{type(error).__name__}: {error}", False, ""
    return Check(promise.name, passed, detail, skipped, time.perf_counter() - started)


def _rows(model: Model, data: Data | None, rng: Rng) -> Batch:
    if data is None:
        given = {name: _some(space, ROWS, rng) for name, space in model.given.items()}
        if "sample" not in model.offers():
            return Batch(_some(model.space, ROWS, rng), given)
        x = model.sample(1, given, rng.seed())[0] if given else model.sample(ROWS, None, rng.seed())
        return Batch(x, given)
    rows = data.part("test" if "test" in data.split and len(data.split["test"]) else "train")
    if rows.observed is not None:
        rows = rows.take(rows.observed.flatten(1).all(1).nonzero().squeeze(1))
    return rows.take(torch.arange(min(ROWS, len(rows)))).to(model.device)


def _some(space: Space, n: int, rng: Rng) -> Tensor:
    """Arbitrary values of a Space, `(n, *event)`."""
    variables = [space.variable(i) for i in range(space.size)]
    columns = []
    for v in variables:
        if v.discrete:
            column = rng.integers(v.levels, (n,)).double()
        elif v.support == "bounded":
            column = v.low + (v.high - v.low) * rng.uniform((n,), torch.float64)  # type: ignore[operator]
        else:
            column = v.mean + v.scale * rng.normal((n,), torch.float64)
        step = 0.0 if v.discrete else v.resolution
        columns.append(torch.round(column / step) * step if step else column)
    return torch.stack(columns, 1).reshape(n, *space.shape).to(space.torch_dtype)
