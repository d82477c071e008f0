"""Judging samples: what is wrong with a set moves the number that claims to see it, and honest rows move none."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import pofx
from pofx.metrics import Features, closest_record, kid, membership, mmd
from pofx.tasks.judge import LIMIT


@pytest.fixture(scope="module")
def digits():
    """Train, hold-out and honest rows: three parts of one set, with their labels."""
    found = load_digits()
    x, y = found.images.astype(np.uint8), found.target
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return {"train": x[:900], "label": y[:900], "real": x[900:1350], "honest": x[1350:], "honest label": y[1350:]}


@pytest.fixture(scope="module")
def honest(digits):
    return pofx.judge(digits["real"], digits["honest"], digits["train"], labels=digits["label"])


def test_honest_rows_are_not_told_apart(honest):
    assert honest["c2st"].low < 0.53
    for name in ("KID", "MMD^2"):
        assert honest[name].low < 1.5 * abs(honest[name].high - honest[name].low)
    assert honest["membership"].low < 0.5 < honest["membership"].high + 0.01
    assert honest["closer to training"].low < 0.5 < honest["closer to training"].high
    assert honest["copies"].low <= 0.05


def test_a_copy_of_the_training_set_is_seen(digits, honest):
    copy = pofx.judge(digits["real"], digits["train"][:447], digits["train"], labels=digits["label"])
    assert copy["copies"].low > 0.5
    assert copy["membership"].low > 0.6
    assert copy["closer to training"].low > 0.6, "half of the copied rows stand in the cut"
    assert abs(copy["precision"].value - honest["precision"].value) < 0.1, "precision does not see copies"


def test_a_missing_mode_is_seen(digits, honest):
    part = digits["honest"][digits["honest label"] < 5]
    fake = np.concatenate([part, np.roll(part, 0, 0)])[: len(digits["honest"])]
    less = pofx.judge(digits["real"], fake, digits["train"], labels=digits["label"])
    assert less["recall"].high < honest["recall"].low
    assert less["coverage"].high < honest["coverage"].low
    assert less["c2st"].low > honest["c2st"].value
    assert less["KID"].low > honest["KID"].value


def test_noise_is_seen(digits, honest):
    noise = np.random.default_rng(1).normal(scale=4, size=digits["honest"].shape)
    fake = np.clip(digits["honest"] + noise, 0, 16).round().astype(np.uint8)
    noisy = pofx.judge(digits["real"], fake, digits["train"], labels=digits["label"])
    assert noisy["precision"].high < honest["precision"].low
    assert noisy["density"].high < honest["density"].low
    assert noisy["Frechet"].low > honest["Frechet"].high
    assert noisy["sliced Wasserstein"].value > 1.3 * honest["sliced Wasserstein"].value


def test_tables_have_shapes_trends_and_valid_cells():
    rng = np.random.default_rng(0)
    a = rng.normal(size=900).round(2)
    frame = pd.DataFrame({"a": a, "b": (a + 0.3 * rng.normal(size=900)).round(2), "c": np.where(a > 0, "x", "y")})
    parts = [frame.iloc[i : i + 300].reset_index(drop=True) for i in (0, 300, 600)]
    fine = pofx.judge(parts[1], parts[2], parts[0])
    broken = parts[2].assign(b=rng.permutation(parts[2]["b"]))
    worse = pofx.judge(parts[1], broken, parts[0])
    assert worse["trends"].value > fine["trends"].value + 0.1
    assert worse["shapes"].value == pytest.approx(fine["shapes"].value)
    assert worse["c2st"].value > fine["c2st"].value + 0.2
    assert json.loads(json.dumps(fine.to_json()))["valid"]["value"] == 1.0
    assert "copies" in fine.explain()


def test_what_does_not_fit_is_said(digits):
    with pytest.raises(ValueError, match="at least 10"):
        pofx.judge(digits["real"], digits["honest"][:3])
    with pytest.raises(ValueError, match="shape|pixels|picture"):
        pofx.judge(digits["real"], digits["honest"][:, :4])
    assert "copying was not looked for" in pofx.judge(digits["real"][:80], digits["honest"][:80]).explain()


def test_the_users_own_features_are_used(digits):
    mean = pofx.judge(digits["real"], digits["honest"], features=lambda u: u[:, 18:22])
    assert mean.features == "the user's own"


def test_unbiased_in_the_number_of_rows():
    """Over many small sets from one law the mean of the unbiased distances is 0."""
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(40, 3)), rng.normal(size=(30, 3))) for _ in range(150)]
    for fn in (kid, lambda a, b: mmd(a, b, bandwidth=1.0)):
        values = np.array([fn(a, b).value for a, b in pairs])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    x = rng.normal(size=(300, 3))
    one = (x @ x.T / 3 + 1) ** 3
    y = x[:200] + 1
    two = (y @ y.T / 3 + 1) ** 3
    want = (one.sum() - np.trace(one)) / (300 * 299) + (two.sum() - np.trace(two)) / (200 * 199)
    want -= 2 * ((x @ y.T / 3 + 1) ** 3).mean()
    assert kid(x, y).value == pytest.approx(want)


def test_privacy_is_even_for_fresh_rows_and_sees_near_copies():
    rng = np.random.default_rng(4)
    train, holdout, fresh = (rng.normal(size=(400, 4)) * [1, 10, 0.1, 1] for _ in range(3))
    near = train + 0.02 * rng.normal(size=train.shape) * [1, 10, 0.1, 1]
    for fn in (membership, closest_record):
        assert fn(train, holdout, fresh).low < 0.5 < fn(train, holdout, fresh).high
        assert fn(train, holdout, near).low > 0.85
    with pytest.raises(ValueError, match="columns"):
        membership(train, holdout[:, :2], fresh)


def normals(seed, n):
    return np.random.default_rng(seed).normal(size=(n, 2))


def test_sorted_rows_are_judged_as_shuffled_ones():
    """More rows than are used, in order: the first of them are another law than all of them."""
    one, two = (x[x[:, 0].argsort()] for x in (normals(0, 5000), normals(1, 5000)))
    alone = pofx.judge(one, normals(2, 1000))
    assert abs(alone["c2st"].value - 0.5) < 0.05
    found = pofx.judge(two, normals(2, 1000), one)
    assert abs(found["c2st"].value - 0.5) < 0.05
    assert found["copies"].low <= 0 <= found["copies"].high


def test_labels_stay_with_their_rows(monkeypatch):
    taken = {}

    def spy(x, y, rng):
        taken.update(x=x, y=y)
        return fit(x, y, rng=rng)

    fit = Features.fit
    monkeypatch.setattr(Features, "fit", spy)
    train = normals(0, 4500)
    train = train[train[:, 0].argsort()]
    label = (train[:, 0] > np.quantile(train[:, 0], 0.95)).astype(int)  # a class of the last rows alone
    pofx.judge(normals(1, 100), normals(2, 100), train, labels=label)
    assert len(taken["y"]) == LIMIT and 0.03 < taken["y"].mean() < 0.07
    assert taken["x"][taken["y"] == 1, 0].min() > taken["x"][taken["y"] == 0, 0].max()
    with pytest.raises(ValueError, match="4501 labels for 4500"):
        pofx.judge(normals(1, 100), normals(2, 100), train, labels=[0, *label])


def test_copies_of_any_training_row_are_seen():
    """Half of the samples repeat some of 9000 training rows: all of these are looked at."""
    rng = np.random.default_rng(0)
    train, real, fake = (rng.normal(size=(n, 3)) for n in (9000, 1000, 600))
    fake[:300] = train[rng.permutation(9000)[:300]]
    assert 0.4 < pofx.judge(real, fake, train)["copies"].value < 0.6
