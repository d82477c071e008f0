"""Compare: which family for which question, at which cost?

Every family is fitted in a fresh process under the same budget, on the same rows, and asked the same questions of the
same held-out rows. Ranks by *guaranteed* bits (exact or lower bound); estimates, upper bounds and unnormalised values
stand in a block of their own. Differences are paired by row. A row flagged as a copy of the training set wins nothing.
With several seeds each family is fitted as often, the split stays, and a row is of their means (see `seeds`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pofx.data import Data, open_data
from pofx.files import load_tensors, write_atomic
from pofx.kinds import KINDS
from pofx.metrics.base import Array
from pofx.tasks.measure import Spec, run_all
from pofx.tasks.seeds import behind, finite, interval_key, pooled, progress, seeds_of, sheet
from pofx.training.run import families_named, family_class

QUESTION = "Which family for which question, at which cost?"
ALWAYS = ("independent", "copy", "uniform")
BASELINE_NAMES = (*ALWAYS, "last", "unigram")
LEADERBOARD, SHEET, GUARANTEED = "leaderboard.json", "leaderboard.csv", ("exact", "lower bound")
FIELDS = (
    "family", "bits_per_dim", "quality", "stderr", "c2st", "precision", "recall", "density", "coverage",
    "impute_rmse", "anomaly_auroc", "fit_seconds", "sample_ms", "parameters", "peak_mb",
)  # fmt: skip
BETTER = {
    "bits_per_dim": "lower", "nats": "higher", "c2st": "lower", "precision": "higher", "recall": "higher",
    "density": "higher", "coverage": "higher", "impute_rmse": "lower", "anomaly_auroc": "higher",
    "fit_seconds": "lower", "sample_ms": "lower", "parameters": "lower", "peak_mb": "lower",
    "shape_error": "lower", "trend_error": "lower",
}  # fmt: skip
Report = Callable[[dict[str, dict[str, Any]]], None]


@dataclass(frozen=True)
class Comparison:
    """The rows of a leaderboard, best guaranteed bits first, and where everything lies.

    Args:
        rows: one dictionary a family; null (None) where a family has no answer. With several seeds of means, and
            with "seeds" (field -> the value of each) and "fits" (seed, folder and error of each) beside them.
        folder: holds leaderboard.json, leaderboard.csv, data.safetensors and a folder for each family.
        data: what was compared on.
        settings: budget, seed, draws, samples; seeds where there are several.
    """

    rows: tuple[dict[str, Any], ...]
    folder: Path
    data: Data
    settings: dict[str, Any]

    def best(self, field: str) -> str | None:
        """The family that is best at a field; baselines and flagged copies win nothing."""
        fair = [r for r in self.rows if wins(r) and r.get(field) is not None]
        if field in ("bits_per_dim", "nats"):
            fair = [r for r in fair if r.get("quality") in GUARANTEED]
        if not fair:
            return None
        pick = min if BETTER[field] == "lower" else max
        key = (lambda r: abs(r[field] - 0.5)) if field == "c2st" else (lambda r: r[field])
        return min(fair, key=key)["family"] if field == "c2st" else pick(fair, key=key)["family"]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the fits of every family that has any use for one."""
        return seeds_of(self.settings)

    def where(self, family: str) -> Path:
        """The folder of a family's fit; of several, of the first that worked."""
        fits = next((r.get("fits") for r in self.rows if r["family"] == family), None) or ()
        fine = next((fit["folder"] for fit in fits if not fit["error"]), None)
        return self.folder / (fine or family_folder(family))

    def tensors(self, family: str) -> dict[str, torch.Tensor]:
        """What a family answered by the fit of `where`: "log_p" of held-out rows, "samples", "imputed", "holes"."""
        path = self.where(family) / "rows.safetensors"
        return load_tensors(path)[0] if path.exists() else {}


def wins(row: dict[str, Any]) -> bool:
    """Whether a row may be best at anything."""
    return not (row.get("baseline") or row.get("copying") or row.get("error"))


def compare(
    source: Any,
    families: Sequence[str] | None = None,
    *,
    add: Sequence[str] = (),
    given: Any = None,
    budget: str = "60 cpu s",
    seed: int = 0,
    seeds: int = 1,
    folder: str | Path | None = None,
    jobs: int | None = None,
    draws: int = 16,
    samples: int = 500,
    baselines: bool = True,
    resume: bool = False,
    report: Report | None = None,
    hyper_parameters: dict[str, dict[str, Any]] | None = None,
) -> Comparison:
    """Fit and ask every family, each in a process of its own.

    Args:
        source: Data, or what `open_data` reads.
        families: names, or `path.py:Class`; None takes one of each branch, "all" every family.
        add: further families, such as `path.py:Class`.
        given: what x is given.
        budget: of each family; CPU seconds of one thread make it fair on a busy machine.
        seed: of the split, the weights and the noise.
        seeds: fits of each family, with seeds seed, seed + 1, ... of weights and noise, each with the whole budget, on
            the same split; baselines, which have none, are fitted once. Take three or more: two leave wide intervals.
        folder: where everything goes; default runs/<name of the data>.
        jobs: processes at once; default the number of processors.
        draws: Monte-Carlo draws of every bound, the same for all.
        samples: draws that are judged.
        baselines: independent entries, a copy of the training set, uniform noise, what is trivial for the kind.
        resume: keep what the folder holds, and add what is new: further families, or more seeds of all of them.
        report: called with the stage of every family, a few times a second.
        hyper_parameters: family -> its hyper-parameters, where the defaults are not wanted.

    Raises:
        ValueError: a family is unknown, or the folder holds another comparison, or one and `resume` is not set.
    """
    named = [*_known(families_named(families)), *_known(add)]
    _counted(seeds)
    data = source if isinstance(source, Data) else open_data(source, given=given, seed=seed, test=held_out(source))
    folder = Path(folder or Path("runs") / data.name)
    settings = {"budget": budget, "seed": seed, "draws": draws, "samples": samples, "fingerprint": data.fingerprint()}
    settings |= {"seeds": seeds} if seeds > 1 else {}
    _agreed(folder, settings, resume)
    kept = _kept(folder) if resume else {}
    beaten = [name for name in (*ALWAYS, KINDS[data.space.kind].trivial) if baselines or name in kept]
    plan = _plan(folder, _with_kept(named, kept, beaten), settings, hyper_parameters or {}, kept)
    todo = [s for s in _in_turn(plan) if not (resume and (Path(s["folder"]) / "row.json").exists())]
    _named_now(todo, named)
    _begun(folder, data, settings)
    shown = None if report is None else lambda at: report({n: progress([at(s) for s in p]) for n, p in plan.items()})
    run_all(todo, jobs or len(os.sched_getaffinity(0)), shown)
    log_p = {name: [_log_p(s) for s in specs] for name, specs in plan.items()}
    rows = ranked([_row(specs, log_p[name], data) for name, specs in plan.items()])
    _pair(rows, log_p)
    return _written(Comparison(tuple(rows), folder, data, settings))


def read(folder: str | Path) -> Comparison:
    """A comparison that was made before.

    Raises:
        FileNotFoundError: there is none. ValueError: its file is cut off or damaged.
    """
    folder = Path(folder)
    if not (folder / "rows.json").exists():
        raise FileNotFoundError(f"{folder} holds no comparison; make one with `pofx compare DATA --out {folder}`.")
    saved = _json(folder / "rows.json", folder, ("settings", "rows"))
    return Comparison(tuple(saved["rows"]), folder, Data.load(folder / "data.safetensors"), saved["settings"])


def _json(path: Path, folder: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object that the comparison in a folder wrote."""
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict) and all(k in found for k in keys):
            return found
        why = f"expected an object with {', '.join(keys)}" if keys else "expected an object"
    except ValueError as error:  # bytes that are no text, too
        why = str(error)
    again = f"`pofx compare DATA --out {folder} --resume`, which keeps what was measured"
    raise ValueError(f"{path} is damaged or cut off ({why}); remove it and run {again}.")


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Guaranteed values first, best first; then the rest; then those without a density."""

    def key(row: dict[str, Any]) -> tuple[int, float]:
        nats, quality = row.get("nats"), row.get("quality")
        block = 0 if quality in GUARANTEED and nats is not None else 1 if nats is not None else 2
        return block, -nats if nats is not None else math.inf

    return sorted(rows, key=key)


def family_folder(name: str) -> str:
    """A family's folder inside the comparison's."""
    return name.replace("/", "_").replace(":", "_")


def held_out(source: Any) -> int | None:
    """Test rows of bundled data; None leaves it to `open_data`."""
    return 300 if isinstance(source, str) and source == "digits" else None


def _counted(seeds: int) -> None:
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"compare: got seeds={seeds!r}; expected how often each family is fitted, 1 or more.")


def _agreed(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Raise ValueError where a folder holds something that these settings are no part of."""
    known = folder / "settings.json"
    if known.exists() and not resume:
        raise ValueError(f"{folder} already holds a comparison; give another folder (--out), or resume it (--resume).")
    saved = _json(known, folder) if known.exists() else settings
    if {**saved, "seeds": 1} != {**settings, "seeds": 1}:
        raise ValueError(f"{folder} holds a comparison with other settings; give the same ones, or another folder.")
    if saved.get("seeds", 1) > settings.get("seeds", 1):
        raise ValueError(
            f"{folder} holds a comparison over {saved['seeds']} seeds, and {settings.get('seeds', 1)} was asked for; "
            f"give seeds={saved['seeds']} (--seeds {saved['seeds']}) or more, or another folder."
        )


def _begun(folder: Path, data: Data, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data.save(folder / "data.safetensors")
    write_atomic(folder / "settings.json", json.dumps(settings, indent=1).encode())


def _kept(folder: Path) -> dict[str, Spec]:
    """Name -> spec of the families that a folder holds a measurement of."""
    paths = sorted(p for p in folder.glob("*/spec.json") if (p.parent / "row.json").exists())
    specs = [_json(p, folder, ("family", "name")) for p in paths]
    return {s["name"]: s for s in specs}


def _with_kept(named: Sequence[str], kept: dict[str, Spec], beaten: Sequence[str]) -> list[str]:
    """What is named now, what the folder holds besides, and the baselines."""
    names = {*map(_name, named), *beaten}
    return [*named, *(spec["family"] for name, spec in kept.items() if name not in names), *beaten]


def _name(wanted: str) -> str:
    return wanted.rsplit(":", 1)[-1].lower() if ".py:" in wanted else wanted


def _plan(
    folder: Path, wanted: Sequence[str], settings: dict[str, Any], hyper: dict[str, Any], kept: dict[str, Spec]
) -> dict[str, list[Spec]]:
    """Name -> what each of its fits needs to know; the first lies where a single one would, further ones below it."""
    plan: dict[str, list[Spec]] = {}
    for family in dict.fromkeys(wanted):
        name = _name(family)
        if name in plan:
            raise ValueError(f"compare: two families are called {name!r}; give one of the classes another name.")
        mine = kept.get(name, {}).get("hyper_parameters") or {}
        if name in kept and hyper.get(family, mine) != mine:
            raise ValueError(
                f"{folder} holds {name} with the hyper-parameters {mine}, and got {hyper[family]}; "
                "give the same ones, or another folder."
            )
        own = folder / family_folder(name)
        spec: Spec = {"family": family, "name": name, "folder": str(own), "data": str(folder / "data.safetensors")}
        spec |= {"threads": 1, **settings, "hyper_parameters": hyper.get(family, mine)}
        spec.pop("seeds", None)
        seeds = seeds_of(settings)[1:] if family not in BASELINE_NAMES else ()
        more = [{**spec, "seed": s, "noise": k, "folder": str(own / f"seed-{s}")} for k, s in enumerate(seeds, 1)]
        plan[name] = [spec, *more]
    return plan


def _in_turn(plan: dict[str, list[Spec]]) -> list[Spec]:
    """The first fit of every family, then the second of each: what is cut off early is a comparison of fewer seeds."""
    return sorted((s for specs in plan.values() for s in specs), key=lambda s: s["seed"])


def _named_now(todo: Sequence[Spec], named: Sequence[str]) -> None:
    """Raise ValueError where code would run that only a folder names."""
    for spec in todo:
        if ".py:" in spec["family"] and spec["family"] not in named:
            raise ValueError(
                f"{spec['name']} has no fit of seed {spec['seed']}; name it again, as --add {spec['family']}."
            )


def _row(specs: list[Spec], log_p: list[Array | None], data: Data) -> dict[str, Any]:
    rows = [_one(s) for s in specs]
    if len(rows) == 1:
        return rows[0]
    above = Path(specs[0]["folder"]).parent
    fits = [{"seed": s["seed"], "folder": str(Path(s["folder"]).relative_to(above))} for s in specs]
    return pooled(rows, fits, log_p, data.part("test"), data.space)


def _one(spec: Spec) -> dict[str, Any]:
    """The row of one fit."""
    path = Path(spec["folder"]) / "row.json"
    if path.exists():
        return _json(path, Path(spec["data"]).parent)
    log = Path(spec["folder"]) / "log.txt"
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    words = {"family": spec["name"], "baseline": spec["family"] in BASELINE_NAMES}
    return {**words, "error": f"the process ended without an answer: {' '.join(tail)}".rstrip(": ")}


def _log_p(spec: Spec) -> Array | None:
    """log p of the held-out rows by one fit `(n,)`, nats."""
    path = Path(spec["folder"]) / "rows.safetensors"
    found = load_tensors(path)[0] if path.exists() else {}
    return found["log_p"].numpy() if "log_p" in found else None


def _pair(rows: list[dict[str, Any]], log_p: dict[str, list[Array | None]]) -> None:
    """How far each row with a log p is behind the best guaranteed one, paired by held-out row."""
    best = next((r for r in rows if wins(r) and r.get("quality") in GUARANTEED and r.get("nats") is not None), None)
    if best is None:
        return
    for row in rows:
        if row is not best and row.get("nats") is not None:
            pair = [np.stack(finite(r, log_p[r["family"]])) for r in (best, row)]
            row["behind"] = {**behind(*pair), "of": best["family"]}


def _written(found: Comparison) -> Comparison:
    folder, rows = found.folder, list(found.rows)
    write_atomic(folder / LEADERBOARD, json.dumps([_short(r) for r in rows], indent=1).encode())
    write_atomic(folder / SHEET, sheet(rows, tuple(BETTER), found.seeds).encode())
    write_atomic(folder / "rows.json", json.dumps({"settings": found.settings, "rows": rows}, indent=1).encode())
    return found


def _short(row: dict[str, Any]) -> dict[str, Any]:
    extra = ("nats", "copying", "baseline", "error", "shape_error", "trend_error")
    short = {k: row.get(k) for k in FIELDS} | {k: row[k] for k in extra if k in row}
    if "fits" in row:
        short |= {interval_key(k): row[interval_key(k)] for k in BETTER if row.get(interval_key(k))}
        short |= {"fits": row["fits"], "seeds": {k: v for k, v in row.get("seeds", {}).items() if k in short}}
    return short


def _known(names: Sequence[str]) -> list[str]:
    """The names, each of which something has: else it is said before anything is fitted."""
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"compare: got {name!r}; say it as path.py:Class, since each has a process.")  # noqa: TRY004
        if name not in BASELINE_NAMES:
            family_class(name)
    return list(names)
