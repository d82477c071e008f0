"""Odd data from end to end: it is fitted and asked, or refused in one clear line."""

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.families import FAMILIES


def frame(n: int = 60) -> pd.DataFrame:
    """A small mixed table."""
    k = np.arange(n)
    return pd.DataFrame({"a": k % 5, "b": np.round(0.1 * k + np.sin(k), 1), "c": np.where(k % 3, "x", "y")})


@pytest.mark.parametrize(
    "family",
    [
        f
        for f in FAMILIES
        if f not in ("energy", "gan", "gsn", "integer_flow", "autoencoder", "rbm", "conditionals")  # no quick density
        and f not in ("experts", "process", "cycle")  # they refuse it in words: no givens, numbers alone, no density
    ],
)
def test_a_class_with_one_member_is_learnt(family):
    """The lonely class keeps a finite density and can be drawn from, whichever part of the split it fell into."""
    data = frame()
    data["who"] = ["many"] * 59 + ["one"]
    model = pofx.fit(data, family, given="who", budget="8 steps", progress=False, threads=1)
    assert pofx.sample(model, 3, given={"who": "one"}, rng=0).raw.shape == (3, 3)
    log_p = pofx.density(model, data.drop(columns="who").iloc[:5], given={"who": "one"}, draws=2).value
    assert bool(torch.isfinite(log_p).all())


@pytest.mark.parametrize("family", ["gaussian", "mixture", "kde", "autoregressive", "vae", "flow", "diffusion"])
def test_a_constant_column_and_a_column_that_copies_another_are_learnt(family):
    data = frame()
    data["same"], data["twin"] = 7.0, data["b"]
    model = pofx.fit(data, family, budget="8 steps", progress=False, threads=1)
    assert bool(torch.isfinite(pofx.density(model, data, draws=2).value).all())
    drawn = pofx.sample(model, 20, rng=0).value
    assert set(drawn["same"]) == {7.0}
    assert list(drawn.columns) == list(data.columns)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (pd.DataFrame({"a": [1], "b": [2.0], "c": ["never"]}), "never"),
        (pd.DataFrame({"a": [1], "b": [2.0]}), "c"),
        (pd.DataFrame({"a": [1], "b": ["text"], "c": ["x"]}), "b"),
        (pd.DataFrame({"a": [1], "b": [np.inf], "c": ["x"]}), "b"),
        (np.zeros((2, 7)), "expected"),
        (torch.zeros(2, 7), "expected"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_words(rows, says):
    model = pofx.fit(frame(), "gaussian", progress=False)
    with pytest.raises(ValueError, match=says):
        pofx.density(model, rows)


@pytest.mark.parametrize("rows", [frame(1), frame(2), frame(0)])
def test_too_few_rows_are_refused(rows):
    with pytest.raises(ValueError, match="row"):
        pofx.fit(rows, "gaussian", progress=False)


def test_one_row_can_be_asked_about():
    model = pofx.fit(frame(), "mixture", progress=False)
    one = frame().iloc[:1]
    assert pofx.density(model, one).value.shape == (1,)
    gap = one.copy()
    gap["b"] = np.nan
    full = pofx.impute(model, gap, draws=2, rng=0).value
    assert len(full) == 2
    assert full[0]["a"].iloc[0] == one["a"].iloc[0]
    assert pd.notna(full[0]["b"].iloc[0])


def test_what_cannot_be_read_says_what_could(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"hello")
    for source in (tmp_path / "notes.docx", object(), tmp_path):
        with pytest.raises((ValueError, FileNotFoundError), match=r"expected|empty|no picture"):
            pofx.open_data(source)
    with pytest.raises(FileNotFoundError, match="POFX_DATA"):
        pofx.open_data("no-such-file.csv")


def test_a_family_refuses_what_it_cannot_learn_from():
    data = frame()
    data.loc[3, "b"] = np.nan
    with pytest.raises(pofx.Unsupported, match="missing"):
        pofx.fit(data, "examples/my_family.py:MyFamily", progress=False)
