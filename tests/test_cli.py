"""The command line: every verb, JSON alone on standard output, mistakes in one line."""

import json
import subprocess
import sys
from importlib.metadata import version

import pandas as pd
import pytest

from pofx import cli


def run(capsys, *words):
    """(exit code, standard output, standard error) of one command, in this process."""
    old, sys.argv = sys.argv, ["pofx", *map(str, words)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = old
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV with a gap, and a model of it."""
    folder = tmp_path_factory.mktemp("cli")
    n = 200
    frame = pd.DataFrame({"a": [k % 7 for k in range(n)], "b": [round(0.1 * (k % 13) + k % 7, 1) for k in range(n)]})
    frame["c"] = ["x" if k % 7 < 3 else "y" for k in range(n)]
    frame.to_csv(folder / "rows.csv", index=False)
    frame.loc[3, "b"] = None
    frame.to_csv(folder / "gaps.csv", index=False)
    old, sys.argv = (
        sys.argv,
        ["pofx", "fit", str(folder / "rows.csv"), "gaussian", "--out", str(folder / "run"), "--json"],
    )
    cli.main()
    sys.argv = old
    return folder


def test_fit_then_ask_everything(table, capsys):
    code, out, _ = run(capsys, "sample", table / "run", "-n", 5, "--json", "--seed", 3)
    assert code == 0
    assert json.loads(out)["shape"] == [5, 3]
    assert out == run(capsys, "sample", table / "run", "-n", 5, "--json", "--seed", 3)[1], "same seed, same draws"
    assert out != run(capsys, "sample", table / "run", "-n", 5, "--json", "--seed", 4)[1]
    code, out, _ = run(capsys, "density", table / "run", table / "rows.csv", "--json")
    words = json.loads(out)
    assert words["rows"] == 200
    assert words["quality"] == "lower bound"
    assert words["mean"] == pytest.approx(sum(words["values"]) / 200)
    code, out, _ = run(
        capsys, "anomaly", table / "run", table / "rows.csv", "--calibration", table / "rows.csv", "--json"
    )
    assert code == 0
    assert all(0 < p <= 1 for p in json.loads(out)["p"])


def test_impute_writes_a_table_whose_observed_cells_are_the_same(table, capsys):
    code, out, _ = run(capsys, "impute", table / "run", table / "gaps.csv", "--out", table / "full.csv", "--json")
    assert code == 0
    assert json.loads(out)["files"] == [str(table / "full.csv")]
    before, after = pd.read_csv(table / "gaps.csv"), pd.read_csv(table / "full.csv")
    assert after.notna().all().all()
    pd.testing.assert_frame_equal(before.dropna(), after[before.notna().all(axis=1)])


def test_samples_as_files(table, capsys):
    for name in ("draws.csv", "draws.parquet", "draws.png"):
        assert run(capsys, "sample", table / "run", "--out", table / name)[0] == 0
        assert (table / name).stat().st_size > 100
    code, _, err = run(capsys, "sample", table / "run", "--out", table / "draws.xyz")
    assert code == 2
    assert ".csv, .parquet, .npy, .png" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "nowhere.csv"], "nowhere.csv is neither"),
        (["fit", "digits", "flowerpot", "--out", "/tmp/never"], "flowerpot"),
        (["fit", "digits", "gaussian", "--budget", "soon"], "budget"),
        (["sample", "nowhere"], "no model.json"),
        (["fit", "digits", "gaussian", "--set", "colour=blue"], "colour"),
        (["fit", "digits", "gaussian", "--given", "species"], "species"),
        (["fit", "digits", "nofile.py:Mine"], "nofile.py"),
        (["report", "nowhere"], "no comparison"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_mistake_is_one_line(words, says, capsys):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("pofx: ")
    assert says in last
    assert "Traceback" not in err


def test_a_run_that_exists_is_not_overwritten(table, capsys):
    code, _, err = run(capsys, "fit", table / "rows.csv", "gaussian", "--out", table / "run")
    assert code == 2
    assert "already holds a run" in err


def test_ctrl_c_is_told_to_the_shell(monkeypatch, table, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pofx.fit", interrupted)
    assert run(capsys, "fit", table / "rows.csv", "gaussian", "--out", table / "never")[0] == 130


def test_whole_numbers_with_gaps_come_back_whole(table, capsys):
    (table / "holes.csv").write_text("a,b,c\n3,,x\n,1.5,y\n")
    assert run(capsys, "impute", table / "run", table / "holes.csv", "--out", table / "whole.csv")[0] == 0
    lines = (table / "whole.csv").read_text().split()
    assert lines[1].startswith("3,")
    assert lines[2].split(",")[0].isdigit()


def test_questions_with_what_x_is_given(table, capsys):
    code, *_ = run(capsys, "fit", table / "rows.csv", "gaussian", "--given", "c", "--out", table / "given", "--json")
    assert code == 0
    means = [
        json.loads(run(capsys, "density", table / "given", table / "rows.csv", *words, "--json")[1])["mean"]
        for words in ([], ["--given", "c"], ["--given", "c=x"])
    ]
    assert means[1] > means[0]
    assert means[1] > means[2]
    assert run(capsys, "impute", table / "given", table / "gaps.csv", "--given", "c", "--json")[0] == 0
    code, _, err = run(capsys, "density", table / "given", table / "rows.csv", "--given", "d")
    assert code == 2
    assert "--given d" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "sample", "RUN", "rows.csv"], "pofx sample"),
        (["density", "RUN", "iris"], "no column"),
        (["compare", "rows.csv", "flowerpot"], "flowerpot"),
        (["fit", "rows.csv", "gaussian", "--set", "shrinkage=much", "--out", "left"], "expected a number"),
        (["fit", "rows.csv", "flowerpot", "--out", "left"], "flowerpot"),
        (["fit", "rows.csv", "gaussian", "--out", "RUN"], "finished"),
    ],
)
def test_a_mistake_leaves_nothing_behind(words, says, table, capsys, monkeypatch):
    monkeypatch.chdir(table)
    code, out, err = run(capsys, *[str(table / "run") if w == "RUN" else w for w in words])
    assert code == 2
    assert out == ""
    assert says in err.strip().splitlines()[-1]
    assert not (table / "left").exists()
    assert not (table / "runs").exists()


def test_families_and_coverage_come_from_the_code(capsys):
    code, out, _ = run(capsys, "families", "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found["families"]) >= {
        "gaussian",
        "mixture",
        "kde",
        "autoregressive",
        "vae",
        "flow",
        "diffusion",
        "gan",
        "energy",
    }
    code, out, _ = run(capsys, "coverage", "--json")
    cells = json.loads(out)["cells"]
    assert {c["task"] for c in cells} >= {"sample", "density", "impute", "anomaly"}
    assert all(c["words"] for c in cells), "every empty cell has its reason"
    gan = [c for c in cells if c["family"] == "gan" and c["task"] == "density"]
    assert all(c["route"] is None and "log_prob" in c["words"] for c in gan)


def test_as_a_module_it_is_the_same_command(capsys):
    said = subprocess.run(
        [sys.executable, "-m", "pofx", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert said == run(capsys, "--version")[1] == f"pofx {version('pofx')}\n"
    assert run(capsys) == run(capsys, "--help")


def test_help_is_quick_to_import():
    code = "import sys, pofx.cli; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'sklearn', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_compress_and_back(table, tmp_path, capsys):
    rows, made = table / "gaps.csv", tmp_path / "run"
    assert (
        run(capsys, "fit", table / "rows.csv", "autoregressive", "--out", made, "--budget", "3 steps", "--json")[0] == 0
    )
    code, out, err = run(capsys, "compress", made, rows, "--out", tmp_path / "rows.pofx", "--json")
    assert code == 0, err
    assert json.loads(out)["bytes"] == (tmp_path / "rows.pofx").stat().st_size
    assert run(capsys, "decompress", made, tmp_path / "rows.pofx", "--out", tmp_path / "back.csv")[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "back.csv"), pd.read_csv(rows))
    code, _, err = run(capsys, "decompress", made, rows, "--out", tmp_path / "no.csv")
    assert code == 2
    assert "no file of compress" in err


def test_judge_two_files(table, capsys):
    code, out, err = run(capsys, "judge", table / "rows.csv", table / "rows.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["shapes"]["value"] == 0
    assert "copying was not looked for" in run(capsys, "judge", table / "rows.csv", table / "rows.csv")[1]


def test_classify_rows_of_a_class(tmp_path, capsys):
    made = tmp_path / "run"
    words = ("fit", "moons", "mixture", "--given", "label", "--out", made, "--budget", "20 steps", "--json")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    code, out, err = run(
        capsys, "classify", made, "moons", "--calibration", "moons", "--out", tmp_path / "c.csv", "--json"
    )
    assert code == 0, err
    assert set(json.loads(out)["classes"]) == {"0", "1"}
    assert list(pd.read_csv(tmp_path / "c.csv").columns) == ["class", "sure", "belongs"]
