"""Compare: what its folder holds and goes on from, and what an interval over several seeds covers."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from pofx import cli, fit
from pofx.data import Batch, Data, open_data
from pofx.files import save_tensors
from pofx.kinds.base import real
from pofx.metrics import paired_difference
from pofx.tasks import compare as comparing
from pofx.tasks import measure
from pofx.tasks.compare import BETTER, FIELDS, compare, read
from pofx.tasks.density import bits_per_dim
from pofx.tasks.seeds import behind, crossed, interval_of, pooled, progress, reach, sheet

SETTINGS = {"budget": "1 cpu s", "seed": 0}


@pytest.fixture
def folder(tmp_path):
    data = Data(torch.zeros(4, 2).double(), real(2), split={"test": torch.arange(4)})
    data.save(tmp_path / "data.safetensors")
    saved = {"settings": SETTINGS, "rows": [{"family": "kde", "nats": 1.0}]}
    (tmp_path / "rows.json").write_text(json.dumps(saved, indent=1))
    return tmp_path


def test_a_comparison_is_read_back(folder):
    found = read(folder)
    assert found.settings == SETTINGS and found.rows[0]["family"] == "kde" and len(found.data) == 4


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"[1]", lambda b: b"\xff\xfe"])
def test_a_damaged_one_is_named_with_what_to_do(folder, damage):
    path = folder / "rows.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="rows.json is damaged or cut off.*--resume") as said:
        read(folder)
    assert str(folder) in str(said.value)


def test_damaged_settings_are_named_too(folder):
    (folder / "settings.json").write_text('{"budget": "1 c')
    with pytest.raises(ValueError, match="settings.json is damaged or cut off"):
        compare("iris", ["gaussian"], folder=folder, resume=True, baselines=False)


def test_a_damaged_row_is_named_too(folder):
    (folder / "gaussian").mkdir()
    (folder / "gaussian" / "row.json").write_text('{"family": "gau')
    with pytest.raises(ValueError, match="row.json is damaged or cut off"):
        compare("iris", ["gaussian"], folder=folder, resume=True, baselines=False)


# What an interval covers: worlds whose truth is 0.


def share_held(interval, draws=2000):
    """How often an interval (low, high) of a fresh world holds 0."""
    rng = np.random.default_rng(0)
    return np.mean([low <= 0 <= high for low, high in (interval(rng) for _ in range(draws))])


def values(rng, seeds, n, of_seeds, of_rows, of_both, rows=None):
    """y `(S, n)` with mean 0: effects of seeds, of rows (shared by the seeds), and of a row by a seed."""
    shared = of_rows * rng.normal(size=n) if rows is None else rows
    return of_seeds * rng.normal(size=(seeds, 1)) + shared + of_both * rng.normal(size=(seeds, n))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("parts", "least", "most"),
    [
        ((1, 0.01, 0.01), 0.93, 0.97),  # of seeds alone: exact
        ((0.0001, 1, 0.0001), 0.93, 0.97),  # of rows alone: exact
        ((0.2, 1, 0.1), 0.94, 1.0),  # as large as one another: at least 95 %
        ((0.2, 1, 1), 0.94, 1.0),
        ((0, 0, 1), 0.94, 1.0),  # each seed finds other rows hard
    ],
)
def test_the_interval_over_seeds_holds_the_truth(seeds, parts, least, most):
    def interval(rng):
        mean, half, _ = crossed(values(rng, seeds, 40, *parts))
        return mean - half, mean + half

    assert least <= share_held(interval) <= most


@pytest.mark.parametrize(
    ("of_seeds", "of_gap", "least", "most"), [(1, 0.01, 0.93, 1.0), (0.0001, 1, 0.93, 0.97), (0.1, 0.5, 0.94, 1.0)]
)
def test_the_paired_interval_holds_the_truth_and_not_the_rows_that_both_find_hard(of_seeds, of_gap, least, most):
    widths = []

    def interval(rng):
        hard = 30 * rng.normal(size=40)
        best = values(rng, 3, 40, of_seeds, 0, 0.001, hard + of_gap * rng.normal(size=40))
        gap = behind(best, values(rng, 4, 40, of_seeds, 0, 0.001, hard))
        widths.append(gap["high"] - gap["low"])
        return gap["low"], gap["high"]

    assert least <= share_held(interval) <= most
    assert np.median(widths) < 8 * max(of_seeds, of_gap)  # 19 if the rows were not paired


@pytest.mark.parametrize(("of_seeds", "of_rows", "least", "most"), [(1, 0.05, 0.93, 0.97), (0.01, 1, 0.93, 0.97)])
def test_the_interval_of_a_number_without_values_by_row_holds_the_truth(of_seeds, of_rows, least, most):
    def interval(rng):
        shared = of_rows * rng.normal()
        rows = [{"c2st": float(shared + of_seeds * rng.normal())} for _ in range(3)]
        rows = [r | {"c2st_interval": [r["c2st"] - 1.96 * of_rows, r["c2st"] + 1.96 * of_rows]} for r in rows]
        return merged(rows)["c2st_interval"]

    assert least <= share_held(interval) <= most


def test_one_seed_and_equal_seeds_have_the_interval_of_the_rows():
    y = np.random.default_rng(0).normal(size=(1, 30))
    half = reach(y[0])
    assert crossed(y)[:2] == pytest.approx((y.mean(), half))
    assert crossed(np.repeat(y, 4, 0))[:2] == pytest.approx((y.mean(), half))
    gap = paired_difference(y[0], y[0] ** 2)
    assert behind(y, y**2) == {"nats": gap.value, "low": gap.low, "high": gap.high}


def test_the_standard_error_is_of_rows_and_of_seeds():
    mean, half, error = crossed(np.array([[1.0, 2.0], [3.0, 6.0]]))  # row means 2 and 4, seeds' 1.5 and 4.5
    assert (mean, error) == pytest.approx((3.0, (2 / 2 + 4.5 / 2) ** 0.5)) and half == pytest.approx(12.7062 * error)


# One row from those of several fits.


def merged(rows, log_p=None, test=None, space=None):
    fits = [{"seed": k, "folder": f"f/seed-{k}" if k else "f"} for k in range(len(rows))]
    test = Batch(torch.zeros(5, 2).double(), {}) if test is None else test
    return pooled(rows, fits, log_p or [None] * len(rows), test, space or real(2))


def test_a_row_of_means_keeps_what_each_seed_gave():
    rows = [{"family": "f", "fit_seconds": s, "quality": q, "copying": s == 3.0} for s, q in zip((1.0, 3.0), QUALITIES)]
    row = merged([{**rows[0], "copying_why": "new"}, {**rows[1], "copying_why": "near"}])
    assert row["fit_seconds"] == 2 and row["seeds"] == {"fit_seconds": [1.0, 3.0]}
    assert row["fit_seconds_interval"] == pytest.approx([2 - 12.706, 2 + 12.706], abs=1e-3)
    assert row["quality"] == "lower bound" and row["copying"] and row["copying_why"] == "near"
    assert row["fits"] == [{"seed": 0, "folder": "f", "error": None}, {"seed": 1, "folder": "f/seed-1", "error": None}]


QUALITIES = ("exact", "lower bound")


def test_a_seed_that_failed_is_told_and_left_out():
    fine = [{"family": "f", "c2st": c, "c2st_interval": [c - 0.1, c + 0.2]} for c in (0.6, 0.7)]
    row = merged([fine[0], {"family": "f", "error": "Boom: no"}, fine[1]])
    assert row["c2st"] == pytest.approx(0.65) and row["seeds"]["c2st"] == [0.6, None, 0.7]
    low, high = (np.hypot(side, 12.7062 * 0.05) for side in (0.1, 0.2))
    assert row["c2st_interval"] == pytest.approx([0.65 - low, 0.65 + high], abs=1e-4)
    assert [f["error"] for f in row["fits"]] == [None, "Boom: no", None] and not row.get("error")
    alone = merged([{"family": "f", "error": "Boom"}, fine[0]])
    assert alone["c2st_interval"] == pytest.approx([0.5, 0.8]) and alone["c2st"] == 0.6
    assert "each of 2 seeds failed; the first: A" in merged([{"error": "A"}, {"error": "B"}])["error"]


def test_what_one_seed_could_not_say_has_no_mean():
    row = merged([{"nats": -1.0, "stderr": 0.1}, {"nats": None, "stderr": None}])
    assert row["nats"] is None and row["stderr"] is None and row["seeds"]["nats"] == [-1.0, None]
    assert "nats_interval" not in row


def test_bits_leave_out_rows_of_gaps_alone():
    from pofx.kinds.base import category

    observed = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]], dtype=torch.bool)
    space, log_p = category(4, (2,)), [np.array([-3.0, -1.0, 0.0, -2.0]), np.array([-3.5, -1.5, 0.0, -2.5])]
    rows = [{"nats": float(v.mean()), "bits_per_dim": 1.0, "stderr": 0.1} for v in log_p]
    row = merged(rows, log_p, Batch(torch.zeros(4, 2), {}, observed), space)
    bits = np.stack([bits_per_dim(torch.from_numpy(v), space, observed).numpy() for v in log_p])[:, [0, 1, 3]]
    mean, half, error = crossed(bits)
    assert row["bits_per_dim_interval"] == pytest.approx([mean - half, mean + half]) and row["stderr"] == error
    assert row["nats_interval"] == pytest.approx(np.mean(log_p) + np.array([-1, 1]) * crossed(np.stack(log_p))[1])


# A folder, with fits that take no time.


LEVELS = {"mixture": -10.0, "gaussian": -20.0, "kde": -30.0}  # log p of a row, but for noise; baselines are worse


class Fits:
    """Stands for the processes: writes what a fit would leave, and keeps which were asked for."""

    def __init__(self, n=25, broken=()):
        self.done, self.n, self.broken = [], n, broken
        self.rows = np.random.default_rng(0).normal(size=n)

    def log_p(self, spec):
        rng, level = np.random.default_rng([len(spec["name"]), spec["seed"]]), LEVELS.get(spec["name"], -40.0)
        return level + rng.normal() + self.rows + 0.1 * rng.normal(size=self.n)

    def __call__(self, todo, jobs, report):
        for spec in todo:
            own = Path(spec["folder"])
            own.mkdir(parents=True, exist_ok=True)
            fit = (spec["name"], spec["seed"])
            self.done.append(fit)
            row = {"family": spec["name"], "baseline": spec["family"] in comparing.BASELINE_NAMES, "error": None}
            log_p = self.log_p(spec)
            if fit in self.broken:
                row["error"] = "ValueError: broken on purpose"
            else:
                row |= {"nats": log_p.mean(), "bits_per_dim": -log_p.mean() / 5, "stderr": 0.1, "quality": "exact"}
                row |= {"c2st": 0.6, "c2st_interval": [0.5, 0.7], "copying": False, "fit_seconds": 1.0 + spec["seed"]}
            save_tensors(own / "rows.safetensors", {"log_p": torch.from_numpy(log_p)}, {})  # it may fail later on
            (own / "spec.json").write_text(json.dumps(spec))
            (own / "row.json").write_text(json.dumps(row))


@pytest.fixture
def fits(monkeypatch):
    fits = Fits()
    monkeypatch.setattr(comparing, "run_all", fits)
    return fits


def ask(folder, families=("gaussian", "mixture"), **more):
    return compare("iris", families, folder=folder, budget="1 cpu s", **more)


def test_with_one_seed_files_and_keys_are_those_of_one_seed(fits, tmp_path):
    found = ask(tmp_path)
    assert [f for _, f in fits.done] == [0] * 5
    assert {p.name for p in tmp_path.iterdir()} == {
        *("gaussian", "mixture", "independent", "copy", "uniform"),
        *("settings.json", "data.safetensors", "rows.json", "leaderboard.json", "leaderboard.csv"),
    }
    assert set(found.settings) == {"budget", "seed", "draws", "samples", "fingerprint"} and found.seeds == (0,)
    saved = json.loads((tmp_path / "rows.json").read_text())
    assert saved["settings"] == found.settings == json.loads((tmp_path / "settings.json").read_text())
    for row in saved["rows"]:
        own = tmp_path / row["family"]
        spec = json.loads((own / "spec.json").read_text())
        assert {k: v for k, v in row.items() if k != "behind"} == json.loads((own / "row.json").read_text())
        assert set(spec) == {"family", "name", "folder", "data", "threads", "hyper_parameters", *found.settings}
        assert not [p for p in own.iterdir() if p.is_dir()]
        assert found.where(row["family"]) == own
    best, other = (fits.log_p({"name": name, "seed": 0}) for name in ("mixture", "gaussian"))
    gap = paired_difference(best, other)
    told = {"nats": gap.value, "low": gap.low, "high": gap.high, "of": "mixture"}
    assert found.rows[1]["behind"] == told and "behind" not in found.rows[0]
    short = json.loads((tmp_path / "leaderboard.json").read_text())
    assert all(set(r) == {*FIELDS, "nats", "copying", "baseline", "error"} for r in short)


def test_seeds_are_fits_of_one_split_and_baselines_have_none(fits, tmp_path):
    found = ask(tmp_path, seed=4, seeds=3)
    assert sorted(fits.done) == sorted(
        [(n, s) for n in ("gaussian", "mixture") for s in (4, 5, 6)]
        + [(n, 4) for n in ("independent", "copy", "uniform")]
    )
    assert [s for _, s in fits.done] == sorted(s for _, s in fits.done)  # one seed of all before the next
    assert found.seeds == (4, 5, 6) and found.settings["seeds"] == 3
    specs = [json.loads((tmp_path / p / "spec.json").read_text()) for p in ("gaussian", "gaussian/seed-5")]
    first, second = ({k: v for k, v in s.items() if k not in ("seed", "noise", "folder")} for s in specs)
    assert first == second and "noise" not in specs[0] and specs[1]["noise"] == 1  # the same data, split and budget
    rows = {r["family"]: r for r in found.rows}
    assert "seeds" not in rows["copy"] and "fits" not in rows["copy"]
    log_p = {n: np.stack([fits.log_p({"name": n, "seed": s}) for s in found.seeds]) for n in ("gaussian", "mixture")}
    for name, y in log_p.items():
        mean, half, _ = crossed(y)
        assert rows[name]["nats"] == pytest.approx(mean) and rows[name]["seeds"]["nats"] == pytest.approx(
            list(y.mean(1))
        )
        assert rows[name]["nats_interval"] == pytest.approx([mean - half, mean + half])
    log_p["uniform"] = fits.log_p({"name": "uniform", "seed": 4})[None]
    for name in ("gaussian", "uniform"):
        told = behind(log_p["mixture"], log_p[name])
        assert {k: rows[name]["behind"][k] for k in told} == pytest.approx(told)


def test_more_seeds_and_more_families_are_added_and_nothing_is_measured_again(fits, tmp_path):
    ask(tmp_path, ["gaussian"], baselines=False)
    assert fits.done == [("gaussian", 0)]
    fits.done.clear()
    found = ask(tmp_path, ["mixture"], baselines=False, resume=True)
    assert fits.done == [("mixture", 0)] and {r["family"] for r in found.rows} == {"gaussian", "mixture"}
    fits.done.clear()
    found = ask(tmp_path, ["kde"], baselines=False, resume=True, seeds=2)
    assert sorted(fits.done) == [("gaussian", 1), ("kde", 0), ("kde", 1), ("mixture", 1)]
    assert {r["family"]: len(r["fits"]) for r in found.rows} == {"gaussian": 2, "mixture": 2, "kde": 2}
    fits.done.clear()
    again = ask(tmp_path, ["gaussian"], baselines=False, resume=True, seeds=2)
    assert not fits.done and sorted(r["family"] for r in again.rows) == ["gaussian", "kde", "mixture"]
    assert json.loads((tmp_path / "settings.json").read_text())["seeds"] == 2
    assert read(tmp_path).rows == again.rows and read(tmp_path).seeds == (0, 1)


def test_fewer_seeds_other_settings_and_other_hyper_parameters_are_refused(fits, tmp_path):
    ask(tmp_path, seeds=2, hyper_parameters={"mixture": {"components": 3}})
    with pytest.raises(ValueError, match="over 2 seeds, and 1 was asked for; give seeds=2"):
        ask(tmp_path, resume=True)
    with pytest.raises(ValueError, match="other settings"):
        ask(tmp_path, resume=True, seeds=2, draws=3)
    with pytest.raises(ValueError, match="already holds a comparison"):
        ask(tmp_path, seeds=3)
    with pytest.raises(ValueError, match=r"holds mixture with the hyper-parameters \{'components': 3\}, and got"):
        ask(tmp_path, resume=True, seeds=2, hyper_parameters={"mixture": {"components": 4}})
    fits.done.clear()
    ask(tmp_path, ["gaussian"], resume=True, seeds=3)  # what was said of a family holds for its further seeds
    assert json.loads((tmp_path / "mixture/seed-2/spec.json").read_text())["hyper_parameters"] == {"components": 3}
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="expected how often each family is fitted"):
            ask(tmp_path / "new", seeds=wrong)


def test_code_that_only_a_folder_names_is_not_run(fits, tmp_path):
    own = tmp_path / "mine.py"
    own.write_text("from pofx.families.gaussian import Gaussian\nclass Mine(Gaussian):\n    pass\n")
    ask(tmp_path / "c", ["gaussian"], add=[f"{own}:Mine"], baselines=False)
    assert {r["family"] for r in ask(tmp_path / "c", ["kde"], baselines=False, resume=True).rows} >= {"mine"}
    with pytest.raises(ValueError, match="mine has no fit of seed 1; name it again, as --add"):
        ask(tmp_path / "c", ["gaussian"], baselines=False, resume=True, seeds=2)
    with pytest.raises(ValueError, match="two families are called 'mine'"):
        ask(tmp_path / "d", [f"{own}:Mine"], add=[f"{tmp_path}/./mine.py:Mine"])


def test_a_failed_seed_stands_beside_those_that_worked(fits, tmp_path):
    fits.broken = (("gaussian", 0), ("mixture", 1))
    found = ask(tmp_path, seeds=3)
    rows = {r["family"]: r for r in found.rows}
    assert rows["gaussian"]["seeds"]["fit_seconds"] == [None, 2.0, 3.0] and not rows["gaussian"].get("error")
    assert found.where("gaussian") == tmp_path / "gaussian/seed-1" and found.where("mixture") == tmp_path / "mixture"
    log_p = np.stack([fits.log_p({"name": "gaussian", "seed": s}) for s in (1, 2)])
    assert rows["gaussian"]["nats"] == pytest.approx(log_p.mean())
    mean, half, _ = crossed(log_p)  # what the failed fit had answered before it failed has no say
    assert rows["gaussian"]["nats_interval"] == pytest.approx([mean - half, mean + half])
    told = behind(np.stack([fits.log_p({"name": "mixture", "seed": s}) for s in (0, 2)]), log_p)
    assert {k: rows["gaussian"]["behind"][k] for k in told} == pytest.approx(told)
    assert torch.equal(found.tensors("gaussian")["log_p"], torch.from_numpy(log_p[0]))


def test_the_sheet_holds_every_number_its_interval_and_each_seed(fits, tmp_path):
    found = ask(tmp_path, seeds=2)
    lines = {line["family"]: line for line in csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text()))}
    for row in found.rows:
        line = lines[row["family"]]
        for field in (f for f in BETTER if row.get(f) is not None):
            assert float(line[field]) == row[field]
            if interval_of(row, field):
                assert [float(line[f"{field}_{end}"]) for end in ("low", "high")] == list(interval_of(row, field))
            for seed, value in zip(found.seeds, row.get("seeds", {}).get(field, ())):
                assert float(line[f"{field}_seed_{seed}"]) == value
        if row.get("behind"):
            assert line["behind_of"] == row["behind"]["of"] and float(line["behind_low"]) == row["behind"]["low"]
    assert lines["copy"]["nats_seed_1"] == "" and lines["copy"]["fits"] == "1" and lines["mixture"]["fits"] == "2"
    assert "seed" not in sheet(read(tmp_path).rows[-1:], ("nats",), (0,))


def test_the_stage_of_several_fits_is_one():
    waiting, fit, done, failed = ({"stage": s} for s in ("waiting", "fit", "done", "failed"))
    assert progress([fit]) is fit
    assert progress([done, fit, waiting]) == {"stage": "fit", "fit": 2, "fits": 3}
    assert progress([done, waiting, fit]) == {"stage": "fit", "fit": 3, "fits": 3}
    assert progress([done, failed, waiting]) == {"stage": "waiting", "fit": 3, "fits": 3}
    assert progress([failed, done, done]) == {"stage": "done", "worked": 2, "fits": 3}
    assert progress([failed, failed])["stage"] == "failed"


def test_the_command_passes_seeds_on(tmp_path, monkeypatch, capsys):
    asked = {}

    def stop(*_, **words):
        asked.update(words)
        raise ValueError("enough")

    words = ["pofx", "compare", "iris", "gaussian", "--seed", "3", "--seeds", "4", "--out", str(tmp_path / "c")]
    monkeypatch.setattr(sys, "argv", words)
    with mock.patch("pofx.tasks.compare.compare", stop), pytest.raises(SystemExit):
        cli.main()
    assert asked["seed"] == 3 and asked["seeds"] == 4


def test_another_seed_asks_with_other_noise():
    data = open_data("iris")
    model, drawn = fit(data, "gaussian", progress=False), []
    for spec in ({}, {"noise": 0}, {"noise": 1}):
        drawn.append({})
        measure._samples(model, data, {"samples": 30, **spec}, drawn[-1])
        measure._impute(model, data, spec, drawn[-1])
        measure._density(model, data, {"draws": 2, **spec}, drawn[-1])
    for name in ("samples", "imputed"):
        assert torch.equal(drawn[0][name], drawn[1][name]) and not torch.equal(drawn[0][name], drawn[2][name])
    assert torch.equal(drawn[0]["holes"], drawn[2]["holes"])  # the question stays the same


# With real processes.

SCRIPT = "import pofx; pofx.compare('iris', ['flow'], budget='300 cpu s', folder={!r}, jobs=1, baselines=False)"


def those_of(folder):
    """Process ids of the fits of a comparison in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if "pofx.tasks.measure" in words and any(w.startswith(str(folder)) for w in words):
            found.append(int(path.parent.name))
    return found


def until(what, seconds):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_killed_comparison_leaves_no_process(number, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT.format(str(tmp_path / "c"))], env=dict(os.environ))
    stage = tmp_path / "c/flow/stage.json"
    try:
        assert until(lambda: stage.exists() and '"step"' in stage.read_text(), 90), "no fit began"
        assert those_of(tmp_path)
        parent.send_signal(number)
        parent.wait(10)
        assert until(lambda: not those_of(tmp_path), 10), "a fit outlived the comparison"
    finally:
        parent.kill()
        parent.wait()
        for pid in those_of(tmp_path):
            os.kill(pid, signal.SIGKILL)


def without_clocks(row):
    return {k: v for k, v in row.items() if not k.endswith(("seconds", "_ms", "_mb"))}


@pytest.mark.slow
def test_real_fits_the_first_seed_is_that_of_a_single_one(tmp_path):
    words = {"budget": "5 steps", "samples": 40, "draws": 2, "baselines": False}
    one = compare("iris", ["flow"], folder=tmp_path / "one", **words)
    two = compare("iris", ["flow"], folder=tmp_path / "two", seeds=2, **words)
    rows = [json.loads((tmp_path / p / "row.json").read_text()) for p in ("one/flow", "two/flow", "two/flow/seed-1")]
    assert without_clocks(rows[0]) == without_clocks(rows[1]) == without_clocks(one.rows[0])
    assert rows[2]["nats"] != rows[1]["nats"] and two.rows[0]["nats"] == pytest.approx(
        (rows[1]["nats"] + rows[2]["nats"]) / 2
    )
    before = (tmp_path / "one/flow/row.json").stat().st_mtime_ns
    more = compare("iris", ["flow"], folder=tmp_path / "one", seeds=2, resume=True, **words)
    assert (tmp_path / "one/flow/row.json").stat().st_mtime_ns == before
    assert without_clocks(more.rows[0]["seeds"]) == without_clocks(two.rows[0]["seeds"])


@pytest.mark.slow
def test_a_fit_that_was_cut_off_is_measured_again_and_the_others_are_not(tmp_path):
    words = {"budget": "5 steps", "samples": 40, "draws": 2, "baselines": False, "seeds": 2, "folder": tmp_path}
    compare("iris", ["gaussian"], **words)
    (tmp_path / "gaussian/row.json").unlink()
    before = (tmp_path / "gaussian/seed-1/row.json").stat().st_mtime_ns
    found = compare("iris", ["gaussian"], resume=True, **words)
    assert found.rows[0]["seeds"]["nats"] and (tmp_path / "gaussian/row.json").exists()
    assert (tmp_path / "gaussian/seed-1/row.json").stat().st_mtime_ns == before
