"""Judging samples, to look at: the picture, the page in a notebook, and the command."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import pofx
from pofx import cli
from pofx.drawing import forest as drawing


@pytest.fixture(scope="module")
def digits():
    """Three parts of one set, with labels of the training rows and of the honest ones."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    x, y = found.images.astype(np.uint8)[order], found.target[order]
    return {"train": x[:900], "label": y[:900], "real": x[900:1350], "honest": x[1350:], "honest label": y[1350:]}


def table(seed, n):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n).round(2)
    return pd.DataFrame({"a": a, "b": (a + 0.3 * rng.normal(size=n)).round(2), "c": np.where(a > 0, "x", "y")})


def test_the_picture_shows_what_is_worse_than_honest_rows(digits, monkeypatch):
    drawn, honest = [], pofx.judge(digits["real"], digits["honest"], digits["train"], labels=digits["label"])
    monkeypatch.setattr("pofx.tasks.judgement.forest", lambda rows, *a: drawn.append(rows) or drawing.forest(rows, *a))
    part = digits["honest"][digits["honest label"] < 5]
    half = pofx.judge(digits["real"], part, digits["train"], labels=digits["label"])
    for found in (honest, half):
        texts = [t.get_text() for t in found.figure().axes[0].texts]
        assert sum("better" in t for t in texts) == len(found.metrics)
        assert "modes reached, of 10" in texts and "recall: data where samples are" in texts
    assert sum(row.worse for row in drawn[0]) <= 1
    worse = {row.name.split(":")[0] for row in drawn[1] if row.worse}
    assert {"recall", "coverage", "modes reached, of 10", "Fréchet distance"} <= worse
    assert not {"precision", "copies of training rows", "membership told (AUC)"} & worse
    alone = pofx.judge(digits["real"][:80], digits["honest"][:80], labels=["<b>"] * 40 + ["<i>"] * 40)
    assert "<img alt" in alone._repr_html_()
    words = dataclasses.replace(alone, features="<script>")._repr_html_()
    assert "&lt;script&gt;" in words and "<script>" not in words
    assert [row.colour for row in drawn[2] if row.name == "Fréchet distance"] == [drawing.MUTED]


def test_a_row_is_worse_by_more_than_its_interval():
    def row(value, better, honest, **more):
        return drawing.Row("x", value, value - 1, value + 1, better, honest, **more)

    assert row(5, "lower", 3.9).worse and not row(5, "lower", 4.1).worse and not row(5, "lower", 9).worse
    assert row(5, "higher", 6.1).worse and not row(5, "higher", 5.9).worse and not row(5, "higher", 1).worse
    assert not row(5, "lower", 3.9, measured=True).worse and row(5, "lower", 3.5, measured=True).worse
    assert not row(5, "lower", None).worse
    strange = drawing.Row("y", math.nan, math.nan, math.nan, "lower", 0.0)
    zeros = drawing.Row("z", 0.0, 0.0, 0.0, "lower")
    texts = [t.get_text() for t in drawing.forest([strange, zeros, row(-2, "lower", 0.0)]).axes[0].texts]
    assert "not known: too few rows" in texts and "−2.0  [−3.0, −1.0]" in texts
    with pytest.raises(ValueError, match="no rows"):
        drawing.forest([])


def test_the_command_takes_labels_a_target_and_a_picture(digits, tmp_path, capsys, monkeypatch):
    def ask(*words):
        monkeypatch.setattr(sys, "argv", ["pofx", "judge", *map(str, words)])
        with contextlib.suppress(SystemExit):
            cli.main()
        return capsys.readouterr()

    for k, name in enumerate(("real", "fake", "train")):
        table(k, 200).to_csv(tmp_path / f"{name}.csv", index=False)
    files = [tmp_path / "real.csv", tmp_path / "fake.csv", "--train", tmp_path / "train.csv"]
    picture = tmp_path / "made" / "judged.png"
    found = json.loads(ask(*files, "--labels", "c", "--target", "c", "--picture", picture, "--json").out)
    assert found["modes"]["value"] == found["modes"]["honest"] == 2 and found["utility"]["value"] > 0.9
    assert picture.stat().st_size > 10_000
    for name, keep in (("r", range(10)), ("f", range(2, 10))):  # the codes of the second file are others
        rows = np.isin(digits["honest label"], keep)
        np.savez(tmp_path / f"{name}.npz", x=digits["honest"][rows], y=digits["honest label"][rows])
    words = (tmp_path / "r.npz", tmp_path / "f.npz", "--labels", "label", "--target", "label", "--json")
    assert json.loads(ask(*words).out)["utility"]["value"] > 0.75
    for wrong in ((*files[:2], "--labels", "d"), (*words[:2], "--labels", "d"), (*files, "--picture", "a.txt")):
        out, err = ask(*wrong)
        assert not out and "expected" in err
