"""The command line: every verb, JSON alone on standard output, mistakes in one line."""

import json
import math
import subprocess
import sys
from importlib.metadata import version

import pandas as pd
import pytest

import pofx
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


def test_draws_with_a_known_cell(table, capsys):
    code, out, _ = run(capsys, "sample", table / "run", "-n", 4, "--known", "a=3", "--json")
    assert code == 0
    assert json.loads(out)["x"]["a"] == [3] * 4
    code, _, err = run(capsys, "sample", table / "run", "--known", "z=3")
    assert code == 2
    assert "no column ['z']" in err


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


def last_line(err):
    return err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def given(table):
    """A model of a and b, given c."""
    data = pofx.open_data(str(table / "rows.csv"), given="c")
    pofx.fit(data, "autoregressive", budget="3 steps", folder=table / "told", progress=False, threads=1)
    return table / "told"


def test_a_file_that_was_told_a_column_is_read_with_it(table, given, tmp_path, capsys):
    rows, file, back = table / "rows.csv", tmp_path / "new/rows.pofx", tmp_path / "new/back.csv"
    code, _, err = run(capsys, "compress", given, rows, "-o", file)
    assert code == 2 and "c would not come back" in err
    code, out, err = run(capsys, "compress", given, rows, "--given", "c", "-o", file, "--json")
    assert code == 0, err
    assert json.loads(out)["not in the file"] == ["c"]
    code, _, err = run(capsys, "decompress", given, file, "-o", back)
    assert code == 2 and "written given c" in err and "--given c=..." in err and "--rows FILE" in err
    code, _, err = run(capsys, "decompress", given, file, "-o", back, "--given", "c")
    assert code == 2 and "--given c: expected c=value, or --rows FILE" in err
    for words in (["--rows", rows], ["--rows", rows, "--given", "c"]):
        code, _, err = run(capsys, "decompress", given, file, "-o", back, *words)
        assert code == 0, err
        pd.testing.assert_frame_equal(pd.read_csv(back), pd.read_csv(rows)[["a", "b"]])
        back.unlink()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "rows.csv", "--set", "bogus=1", "--out", "left"], "--set needs a family"),
        (["forecast", "run", "rows.csv", "--quantiles", "0.1,foo"], "--quantiles: got 'foo'; expected numbers"),
        (["augment", "run", "rows.csv", "--by", "c", "--rows", "abc"], "--rows: got 'abc'; expected a number of rows"),
        (["plan", "run", "a,b"], "STATE: got 'a'; expected numbers with commas between"),
        (["plan", "run", "1,nan"], "STATE: got 'nan'"),
        (["decompress", "run", "nothere.pofx", "-o", "b.csv"], "there is no file nothere.pofx"),
        (["anomaly", "run", "rows.csv", "--level", "5"], "--level: got 5; expected a share from 0 to 1"),
        (["anomaly", "run", "rows.csv", "--fdr", "-1"], "--fdr: got -1"),
        (["fit", "rows.csv", "gaussian", "--kind", "serie", "--out", "left"], "kind 'serie' is unknown"),
        (["fit", "rows.csv", "gaussian", "--option", "lenth=4", "--out", "left"], "the kind 'table' takes"),
        (["fit", "rows.csv", "gaussian", "--option", "length", "--out", "left"], "expected name=value"),
        (
            ["fit", "rows.csv", "gaussian", "--kind", "series", "--option", "length=x", "--out", "left"],
            "--option length=x",
        ),
        (["ask", "interpolate", "run", "rows.csv"], "use `pofx interpolate`"),
        (["ask", "restore", "run", "rows.csv"], "use `pofx restore`"),
        (["ask", "depend", "run", "rows.csv"], "use `pofx depend`"),
        (["ask", "forecast", "run", "rows.csv"], "use `pofx forecast`"),
    ],
)
def test_a_mistake_names_its_option(words, says, table, capsys, monkeypatch):
    monkeypatch.chdir(table)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert says in last_line(err) and "Traceback" not in err
    assert not (table / "left").exists() and not (table / "runs").exists()


def test_a_file_that_is_not_there_is_named(table, capsys, monkeypatch):
    def read(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", "gone.csv")

    monkeypatch.setattr(cli.io, "rows", read)
    code, _, err = run(capsys, "density", table / "run", "rows.csv")
    assert code == 2 and last_line(err) == "pofx: gone.csv: No such file or directory."


def test_ask_passes_only_what_a_question_takes(table, given, capsys):
    code, out, err = run(capsys, "ask", "embed", table / "run", table / "rows.csv", "--json")
    assert code == 0, err
    assert len(json.loads(out)["value"]) == 200
    rows = pd.read_csv(table / "rows.csv")[["a", "b"]]
    rows.to_csv(table / "ab.csv", index=False)
    code, out, err = run(capsys, "ask", "compress", given, table / "ab.csv", "--json")
    assert code == 0, err
    pd.testing.assert_frame_equal(pofx.decompress(pofx.load(given), bytes.fromhex(json.loads(out)["value"])), rows)
    code, out, err = run(capsys, "ask", "density", table / "run", table / "rows.csv", "--route", "none", "--json")
    assert code == 2 and "no route is called 'none'" in err


def test_flags_are_written_row_by_row(table, tmp_path, capsys):
    rows = pd.read_csv(table / "rows.csv")
    rows.loc[5, "b"] = 900.0
    rows.head(20).to_csv(tmp_path / "odd.csv", index=False)
    asked = ["anomaly", table / "run", tmp_path / "odd.csv", "--calibration", table / "rows.csv"]
    for words in (["--fdr", 0.1], []):
        code, out, err = run(capsys, *asked, *words, "-o", tmp_path / "new/an.csv", "--json")
        assert code == 0, err
        found, frame = json.loads(out), pd.read_csv(tmp_path / "new/an.csv")
        assert list(frame.columns) == ["score", "p", "flagged"]
        assert found["flagged_rows"] == list(frame.index[frame["flagged"]])
        assert 5 in found["flagged_rows"] and len(found["flagged_rows"]) == found["flagged"]
        assert "warning" not in found or "no row can be flagged" not in found["warning"]
    assert run(capsys, *asked[:3], "-o", tmp_path / "an.csv")[0] == 0
    assert list(pd.read_csv(tmp_path / "an.csv").columns) == ["score"]


def test_too_few_calibration_rows_are_said(table, tmp_path, capsys):
    pd.read_csv(table / "rows.csv").head(7).to_csv(tmp_path / "few.csv", index=False)
    asked = ["anomaly", table / "run", table / "rows.csv", "--calibration", tmp_path / "few.csv"]
    says = "no row can be flagged: 7 calibration rows give no p below 0.12; give at least"
    for words, rows in ((["--fdr", 0.1], 9), (["--level", 0.01], 99), (["--fdr", 0.1, "--json"], 9)):
        code, out, _ = run(capsys, *asked, *words)
        assert code == 0 and f"{says} {rows}" in out
    assert says not in run(capsys, *asked, "--level", 0.5)[1]


def test_json_holds_no_number_that_json_does_not_know(capsys):
    import numpy as np

    words = {"a": float("nan"), "b": [1.5, -math.inf, (math.nan,)], "c": {"d": np.float32("inf"), "e": np.int64(3)}}
    cli.io.tell(True, words, "")
    out = capsys.readouterr().out
    strict = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert strict == {"a": None, "b": [1.5, None, [None]], "c": {"d": None, "e": 3}}


@pytest.mark.parametrize("file", [None, "draws.csv"])
def test_temperature_and_truncation_are_handed_on_where_they_say_something(table, tmp_path, capsys, monkeypatch, file):
    seen = []
    if file:
        monkeypatch.setattr("pofx.tasks.stream.CHUNK", 1)
        monkeypatch.setattr("pofx.tasks.stream.sample_to", lambda *_, **words: seen.append(words))
    else:
        monkeypatch.setattr("pofx.tasks.sample.sample", lambda *_, **words: seen.append(words))
        monkeypatch.setattr(cli.io, "deliver", lambda *_: None)
    out = ["-o", tmp_path / file] if file else []
    for words in ([], ["--temperature", 0.5], ["--truncation", 0.9, "--temperature", 1]):
        assert run(capsys, "sample", table / "run", "-n", 3, *words, *out)[0] == 0
    assert seen == [{"rng": 0}, {"rng": 0, "temperature": 0.5}, {"rng": 0, "truncation": 0.9}]


def test_a_csv_is_read_as_a_series_where_it_is_said(tmp_path, capsys):
    times = pd.date_range("2020", periods=90, freq="h")
    pd.DataFrame({"time": times, "load": [k % 24 / 10 for k in range(90)]}).to_csv(tmp_path / "load.csv", index=False)
    words = ["--kind", "series", "--option", "length=6", "--option", "stride=2"]
    code, _, err = run(capsys, "fit", tmp_path / "load.csv", "gaussian", *words, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    assert pofx.load(tmp_path / "run").space.shape == (6, 1)
    code, out, err = run(capsys, "forecast", tmp_path / "run", tmp_path / "load.csv", "--ahead", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["value"]["time"] == ["2020-01-04 18:00:00", "2020-01-04 19:00:00"]
    seen = {}

    def compare(source, *_, **__):
        seen["shape"] = source.space.shape
        raise ValueError("enough")

    from unittest import mock

    with mock.patch("pofx.tasks.compare.compare", compare):
        assert "enough" in run(capsys, "compare", tmp_path / "load.csv", *words, "--out", tmp_path / "c")[2]
    assert seen["shape"] == (6, 1)
