"""The commands about what is inside rows, between them and before a measurement: what they say is what Python says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pofx
from pofx.data import open_data
from pofx.engines.operators import Downsample
from test_cli import run

ROWS = 300


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two groups of rows whose columns depend on each other, digits, and models of both."""
    folder = tmp_path_factory.mktemp("look")
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=ROWS)
    a = 6.0 * group + rng.normal(size=ROWS)
    frame = pd.DataFrame({"a": a, "b": a + 0.3 * rng.normal(size=ROWS), "c": rng.normal(size=ROWS)}).round(3)
    frame.to_csv(folder / "rows.csv", index=False)
    frame.assign(kind=np.where(group == 1, "x", "y")).to_csv(folder / "named.csv", index=False)
    fit = {"progress": False, "threads": 1}
    pofx.fit(frame, "mixture", hyper_parameters={"components": 2}, folder=folder / "table", **fit)
    pofx.fit("digits", "vae", budget="60 steps", folder=folder / "vae", **fit)
    digits = open_data("digits", seed=0)
    np.save(folder / "digits.npy", digits.x[:40, ..., 0].numpy())
    pofx.fit("digits", "gaussian", folder=folder / "normal", **fit)
    return folder


def asked(capsys, *words):
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_contribute_says_what_python_says(made, capsys):
    said = asked(capsys, "contribute", made / "table", made / "rows.csv", "--out", made / "parts.csv")
    true = pofx.contribute(pofx.load(made / "table"), pd.read_csv(made / "rows.csv")).value
    assert np.allclose(pd.read_csv(made / "parts.csv")[["a", "b", "c"]], true)
    assert said["strangest"] == [["a", "b", "c"][k] for k in true.argmin(1).tolist()]


def test_embed_writes_codes_with_their_spread_and_how_well_they_tell_a_label(made, capsys):
    said = asked(capsys, "embed", made / "vae", "digits", "--label", "label", "--out", made / "z.csv", "--seed", 3)
    true = pofx.embed(pofx.load(made / "vae"), open_data("digits"))
    found = pd.read_csv(made / "z.csv").to_numpy()
    assert np.allclose(found, torch.cat([true.value, true.stderr], 1), atol=1e-5)
    value, low, high = said["told"]["linear probe"]
    assert 0.3 < low < value < high < 1
    assert "linear probe of 20 principal components" in said["told"]
    code, _, err = run(capsys, "embed", made / "vae", "digits", "--label", "colour")
    assert code == 2
    assert "colour" in err


def test_a_column_that_the_model_does_not_know_can_be_the_label(made, capsys):
    code, _, err = run(capsys, "embed", made / "table", made / "named.csv", "--label", "shape")
    assert code == 2
    assert "['a', 'b', 'c', 'kind']" in err
    code, _, err = run(capsys, "embed", made / "table", made / "named.csv", "--label", "kind")
    assert "Traceback" not in err  # a mixture's flow of noise has codes, or it says why not
    assert code in (0, 2)


def test_cluster_finds_both_groups(made, capsys):
    said = asked(capsys, "cluster", made / "table", made / "rows.csv", "--count", "1,2,3", "--out", made / "groups.csv")
    assert said["clusters"] == 2
    assert set(said["tried"]) == {"1", "2", "3"}
    truth = pd.read_csv(made / "named.csv")["kind"] == "x"
    found = pd.read_csv(made / "groups.csv")
    agree = (found["cluster"] == truth.astype(int)).mean()
    assert max(agree, 1 - agree) > 0.97
    assert asked(capsys, "cluster", made / "table", made / "rows.csv", "--count", 3)["clusters"] == 3
    code, _, err = run(capsys, "cluster", made / "table", made / "rows.csv", "--count", "2.5")
    assert code == 2
    assert "--count" in err


def test_depend_names_the_pair_first(made, capsys):
    said = asked(capsys, "depend", made / "table", "--out", made / "pairs.csv")
    assert set(said["edges"][0][:2]) == {"a", "b"}
    table = pd.read_csv(made / "pairs.csv")
    assert table["nats"].is_monotonic_decreasing
    assert 0.6 < table["nats"][0] < np.log(2) + 0.02, "columns that depend by the group alone share its one bit"
    assert table["nats"][1] < 0.1


def test_dimension_with_and_without_rows(made, capsys):
    said = asked(capsys, "dimension", made / "table")
    assert said["entries"] == 3
    assert 1 < said["value"] < 3
    near = asked(capsys, "dimension", made / "table", made / "rows.csv", "--scale", 0.5)
    assert near["route"] == said["route"]
    code, _, err = run(capsys, "dimension", made / "table", "--scale", 0)
    assert code == 2
    assert "scale" in err


def test_strips_are_written_strip_after_strip(made, capsys):
    said = asked(
        capsys, "traverse", made / "vae", "digits", "--directions", 2, "--steps", 5, "--out", made / "strips.npy"
    )
    assert said["shape"] == [2, 5, 8, 8, 1]
    assert np.load(made / "strips.npy").shape[0] == 10
    said = asked(capsys, "interpolate", made / "vae", made / "digits.npy", "--pairs", "0:7,3:9", "--steps", 4, "--out",
                 made / "ways.npy", "--video", made / "ways.gif")  # fmt: skip
    assert said["shape"] == [2, 4, 8, 8, 1]
    assert said["end error"] > 0
    x = np.load(made / "digits.npy")
    true = pofx.interpolate(pofx.load(made / "vae"), x[[0, 3]], x[[7, 9]], 4).value
    assert np.array_equal(np.load(made / "ways.npy"), true)
    assert Image.open(made / "ways.gif").n_frames >= 4
    both = asked(capsys, "interpolate", made / "vae", made / "digits.npy", made / "digits.npy", "--steps", 2)
    assert both["shape"] == [40, 2, 8, 8, 1]
    for pairs, what in (("0", "expected numbers of rows"), ("0:40", "the rows 0 to 39"), ("a:b", "'a:b'")):
        code, _, err = run(capsys, "interpolate", made / "vae", made / "digits.npy", "--pairs", pairs)
        assert code == 2
        assert what in err


def test_restore_of_what_was_shrunk(made, capsys):
    x = np.load(made / "digits.npy")[:5, ..., None].astype(float)
    noise = np.random.default_rng(0).normal(size=(5, 4, 4, 1))
    y = Downsample(2)(torch.from_numpy(x)).numpy() + 0.5 * noise
    np.save(made / "small.npy", y)
    words = ["--by", "downsample:2", "--noise", 0.5, "--draws", 4, "--seed", 1]
    said = asked(capsys, "restore", made / "normal", made / "small.npy", *words, "--out", made / "big.npy",
                 "--mean", made / "mean.npy")  # fmt: skip
    true = pofx.restore(pofx.load(made / "normal"), y, Downsample(2), 0.5, draws=4, rng=1)
    assert np.allclose(said["mean"], true.diagnostics["mean"].numpy(), atol=1e-6)
    for k in range(4):
        assert np.array_equal(np.load(made / f"big-{k}.npy"), true.value[k])
    assert np.load(made / "mean.npy").shape[:3] == (5, 8, 8)
    assert 0.5 < said["misfit"] < 1.5


def test_restore_behind_a_mask_does_not_look_at_what_is_hidden(made, capsys):
    x = np.load(made / "digits.npy")[:3]
    keep = np.ones((8, 8), dtype=bool)
    keep[2:5] = False
    np.save(made / "keep.npy", keep)
    Image.fromarray((255 * keep).astype(np.uint8)).save(made / "keep.png")
    spoilt = np.where(keep, x, 16 - x).astype(np.uint8)
    np.save(made / "three.npy", x)
    np.save(made / "spoilt.npy", spoilt)
    words = ["--noise", 0.5, "--draws", 2]
    one, other, drawn = (
        asked(capsys, "restore", made / "normal", made / rows, "--by", f"mask:{made / mask}", *words)["mean"]
        for rows, mask in (("three.npy", "keep.npy"), ("spoilt.npy", "keep.npy"), ("three.npy", "keep.png"))
    )
    assert one == other == drawn


def test_pictures_are_completed_behind_a_mask(made, capsys):
    x = np.load(made / "digits.npy")[:3]
    keep = np.ones((8, 8), dtype=bool)
    keep[2:5] = False
    Image.fromarray((255 * keep).astype(np.uint8)).save(made / "known.png")
    np.save(made / "holes.npy", x)
    words = ["impute", made / "normal", made / "holes.npy", "--draws", 2, "--out", made / "full.npy"]
    said = asked(capsys, *words, "--mask", made / "known.png")
    assert said["filled"].startswith("72 of 192 entries")
    full = np.load(made / "full-0.npy")
    assert np.array_equal(full[:, keep], x[:, keep])
    assert not np.array_equal(full, np.load(made / "full-1.npy"))
    for more, what in (([], "--mask"), (["--mask", made / "digits.npy"], "expected (8, 8, 1)")):
        code, _, err = run(capsys, *words, *more)
        assert code == 2
        assert what in err


def test_restore_by_a_function_of_ones_own_and_simulated(made, capsys):
    (made / "sums.py").write_text("def sums(x):\n    return x.flatten(1)[:, :2]\n")
    pd.read_csv(made / "rows.csv")[["a", "b"]].head(4).to_csv(made / "sums.csv", index=False)
    words = ["--by", f"{made / 'sums.py'}:sums", "--noise", 0.3]
    said = asked(capsys, "restore", made / "table", made / "sums.csv", *words)
    assert np.allclose(np.array(said["mean"])[:, :2], pd.read_csv(made / "sums.csv"), atol=0.8)
    said = asked(capsys, "restore", made / "table", made / "rows.csv", *words, "--simulate")
    assert said["rows"] == ROWS
    assert 0.3 < said["misfit"] < 1.5


@pytest.mark.parametrize(
    ("by", "noise", "what"),
    [
        ("blur", 1, "expected blur:1.5"),
        ("smear:3", 1, "expected blur:1.5"),
        ("blur:x", 1, "expected a number"),
        ("downsample:1.5", 1, "whole number"),
        ("downsample:3", 1, "do not divide"),
        ("blur:1", 0, "above 0"),
        ("mask:nowhere.npy", 1, "nowhere.npy"),
        ("nowhere.py:f", 1, "nowhere.py"),
    ],
)
def test_restore_refuses_in_words(made, capsys, by, noise, what):
    words = ["--by", by, "--noise", noise, "--simulate"]
    code, _, err = run(capsys, "restore", made / "normal", made / "digits.npy", *words)
    assert code == 2
    assert what in err
    assert "Traceback" not in err


def test_every_question_has_a_command():
    from pofx import cli
    from pofx.tasks import TASKS

    known = {
        c.name or c.callback.__name__
        for part in (cli.questions, cli.looks, cli.actions)
        for c in part.registered_commands
    }
    assert set(TASKS) <= known


@pytest.mark.parametrize("task", ["contribute", "embed", "cluster", "depend", "dimension", "traverse", "interpolate"])
def test_every_answer_can_be_drawn(made, capsys, task):
    model = made / ("table" if task in ("contribute", "depend") else "vae")
    data = [] if task == "depend" else [made / "rows.csv"] if task == "contribute" else [made / "digits.npy"]
    file = made / f"{task}.png"
    asked(capsys, task, model, *data, "--picture", file)
    assert min(Image.open(file).size) > 100


def test_restored_pictures_can_be_drawn(made, capsys):
    words = ["--by", "blur:1", "--noise", 1, "--simulate", "--draws", 4, "--picture", made / "restored.png"]
    asked(capsys, "restore", made / "normal", made / "digits.npy", *words)
    assert min(Image.open(made / "restored.png").size) > 100
    code, _, err = run(capsys, "restore", made / "normal", made / "digits.npy", *words[:-1], made / "x.txt")
    assert code == 2
    assert "--picture" in err
