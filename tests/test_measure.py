"""Measure: what one row of a leaderboard says, of rows in any order and with few gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pofx import fit
from pofx.data import open_data
from pofx.kinds.base import category
from pofx.model import Unsupported
from pofx.tasks import measure
from pofx.tasks.compare import held_out


def normals(seed, n):
    return np.random.default_rng(seed).normal(size=(n, 2))


def test_filled_cells_are_counted_not_rows(monkeypatch):
    """Of independent numbers the mean of 5 draws errs by sqrt(1 + 1/5), whether a row has gaps or not."""
    monkeypatch.setattr(measure, "HOLES", 1500)
    data = open_data(normals(0, 6000), test=1500)
    row = measure._impute(fit(data, "gaussian", seed=0), data, {}, {})
    low, high = row["impute_interval"]
    assert low < np.sqrt(1.2) < high
    assert row["impute_rmse"] == pytest.approx(np.sqrt(1.2), rel=0.05)
    assert 0.02 < high - low < 0.15


def test_the_error_by_cell_covers():
    """Rows with more gaps err more here: the interval is of a ratio, not of a mean over cells."""
    rng, hits, widths = np.random.default_rng(0), 0, []
    for _ in range(300):
        hidden = torch.from_numpy(rng.random((60, 6)) < rng.choice([0.0, 0.1, 0.8], (60, 1)))
        error = torch.from_numpy(rng.normal(size=(60, 6)) + rng.normal(size=(60, 1)))  # alike within a row
        rmse, half = measure._rmse_by_cell(error, hidden)
        hits += rmse - half < np.sqrt(2) < rmse + half
        widths.append(half)
    assert 0.88 < hits / 300 < 0.98
    spoilt = torch.where(hidden, error, torch.nan)  # what is seen has no say
    assert measure._rmse_by_cell(spoilt, hidden) == (rmse, half)


def test_without_gaps_there_is_no_error_of_filling_them():
    data = open_data(pd.DataFrame({"a": normals(0, 300)[:, 0]}))
    model = fit(data, "gaussian", seed=0)
    with pytest.raises(Unsupported, match="no cell"):
        measure._impute(model, data, {}, {})
    row = measure._asked("impute", model, data, {}, {})
    assert "impute_rmse" not in row and "no cell" in measure._reasons(row)["impute"]


def sorted_rows(n, test):
    """Rows by their first column, and so is each part."""
    x = normals(0, n)
    x = x[x[:, 0].argsort()]
    label = torch.from_numpy(x[:, 0] > np.quantile(x[:, 0], 0.95)).long()
    return replace(open_data(x, test=test), aside={"label": (label, category(2))})


def test_sorted_rows_are_judged_as_shuffled_ones():
    data = replace(sorted_rows(20_000, 6000), aside={})
    row = measure._judged(None, data, torch.from_numpy(normals(1, 1000)))
    assert abs(row["c2st"] - 0.5) < 0.05
    assert not row["copying"], row["copying_why"]


def test_labels_stay_with_their_rows(monkeypatch):
    taken, learn = {}, measure.Features.fit

    def spy(x, y, rng):
        taken.update(x=x, y=y)
        return learn(x, y, rng=rng)

    monkeypatch.setattr(measure.Features, "fit", spy)
    measure._judged(None, sorted_rows(6000, 300), torch.from_numpy(normals(1, 100)))
    assert len(taken["y"]) == measure.LIMIT and 0.03 < taken["y"].mean() < 0.07
    assert taken["x"][taken["y"] == 1, 0].min() > taken["x"][taken["y"] == 0, 0].max()


def test_a_frame_can_be_compared():
    """What is compared may be rows in memory, which are no name of bundled data."""
    assert held_out(pd.DataFrame({"a": [1.0, 2.0]})) is None and held_out("digits") == 300


def test_bits_are_of_an_observed_entry():
    """Independent fair codes of four levels are 2 bits each, however many of them are missing."""
    x = pd.DataFrame(np.random.default_rng(0).integers(4, size=(800, 4)).astype(float)).rename(columns=str)
    for rows in (x, x.mask(np.random.default_rng(1).random(x.shape) < 0.5)):
        data = open_data(rows)
        row = measure._density(fit(data, "mixture", seed=0, progress=False), data, {"draws": 1}, {})
        assert row["bits_per_dim"] == pytest.approx(2, abs=0.03) and row["stderr"] < 0.02
