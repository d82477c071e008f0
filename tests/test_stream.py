"""Draws to a file: the same rows as one call gives, in chunks, whole or not at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import pofx


@pytest.fixture(scope="module")
def table():
    frame = pd.DataFrame({"a": np.arange(90) % 7, "b": np.linspace(0, 9, 90).round(2), "c": ["x", "y", "z"] * 30})
    return pofx.fit(frame, "gaussian", seed=0)


@pytest.mark.parametrize("name", ["draws.csv", "draws.parquet"])
def test_a_table_in_chunks(table, tmp_path, name):
    seen = []
    path = pofx.sample_to(table, 250, tmp_path / name, rng=3, chunk=100, report=seen.append)
    found = pd.read_csv(path) if name.endswith("csv") else pd.read_parquet(path)
    assert seen == [100, 200, 250] and len(found) == 250
    rng = pofx.Rng(3)
    want = pd.concat([pofx.sample(table, k, rng=rng).value for k in (100, 100, 50)], ignore_index=True)
    pd.testing.assert_frame_equal(found, want, check_dtype=False)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_arrays_and_mistakes(tmp_path, table):
    model = pofx.fit(np.random.default_rng(0).normal(size=(50, 2)), "gaussian", seed=0)
    found = np.load(pofx.sample_to(model, 30, tmp_path / "x.npy", rng=0, chunk=7))
    assert found.shape == (30, 2) and len(np.unique(found[:, 0])) == 30
    with pytest.raises(ValueError, match=".npy"):
        pofx.sample_to(model, 3, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="expected a name"):
        pofx.sample_to(model, 3, tmp_path / "x.doc")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"], "nothing half-written stays"
