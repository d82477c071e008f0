"""Judging samples: what is wrong with a set moves the number that claims to see it, and honest rows move none."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import pofx
from pofx.metrics import Features, closest_record, kid, membership, mmd, modes
from pofx.tasks.judge import LIMIT
from pofx.tasks.judgement import MEANING


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


def table(seed, n):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n).round(2)
    return pd.DataFrame({"a": a, "b": (a + 0.3 * rng.normal(size=n)).round(2), "c": np.where(a > 0, "x", "y")})


def test_every_promised_number_has_an_interval_a_bias_and_words():
    train, real, fake = (table(k, 300) for k in range(3))
    found = pofx.judge(real, fake, train, target="c")
    words, promised = found.to_json(), set(MEANING)
    assert set(found.metrics) == promised == {
        "Frechet", "KID", "precision", "recall", "density", "coverage", "MMD^2", "c2st", "sliced Wasserstein", "modes",
        "NDB", "copies", "membership", "closer to training", "utility", "shapes", "trends", "valid",
    }  # fmt: skip
    assert list(found.metrics) == list(MEANING), "in reading order"
    for name, m in found.metrics.items():
        assert math.isfinite(m.low + m.high) and m.low <= m.value <= m.high
        assert words[name]["bias"] and words[name]["bias"] in found.explain()
        assert MEANING[name].words in found.explain()
        assert words[name]["honest"] == found.honest[name]
    assert pofx.judge(real, fake, train, target="c") == found, "the same seed gives the same numbers"


def test_cells_that_cannot_be_are_seen():
    train, real, fake = (table(k, 300) for k in range(3))
    assert pofx.judge(real, fake.mask(fake["a"] > 1), train)["valid"].high < 0.9, "blanks, which the data has not"


def test_few_honest_rows_are_not_told_apart_without_training_rows(digits):
    """Features learnt from the real rows alone would be whiter on these than on any others."""
    found = [pofx.judge(digits["train"][k : k + 100], digits["honest"][k : k + 90], rng=k) for k in (0, 100, 200, 300)]
    assert all(f["c2st"].low <= 0.5 for f in found) and abs(np.mean([f["c2st"].value for f in found]) - 0.5) < 0.05
    assert all(f["KID"].low <= 0 <= f["KID"].high for f in found)
    assert abs(np.mean([f["density"].value for f in found]) - 1) < 0.2
    assert "of real rows and samples" in found[0].features


# Modes


def grid(seed, n, keep=range(25), noise=0.05):
    """Rows of some of 25 Gaussians, and of which each is."""
    rng = np.random.default_rng(seed)
    y = rng.choice(list(keep), n)
    return np.stack([y % 5, y // 5], 1) + noise * rng.normal(size=(n, 2)), y


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_honest_rows_reach_all_modes_and_differ_in_one_bin_of_twenty(labelled, trained):
    found = []
    for seed in range(24):
        (z, y), (x, own), (fake, _) = grid(3 * seed, 1500), grid(3 * seed + 1, 1000), grid(3 * seed + 2, 1000)
        labels = (y if trained else own) if labelled else None
        found.append(modes(x, fake, z if trained else None, labels, rng=seed))
    assert all(m.reached.value == m.judged and not m.missed for m in found)
    assert all(m.judged == (25 if labelled else 20) for m in found)
    assert 0.015 < np.mean([m.different.value for m in found]) < 0.085
    assert np.mean([m.different.low <= 0.05 <= m.different.high for m in found]) > 0.85


def test_missing_modes_are_counted_and_named(digits):
    judged = {}
    for name, keep in {"all": range(10), "one": [k for k in range(10) if k != 3], "half": range(5)}.items():
        rows = np.isin(digits["honest label"], keep)
        judged[name] = pofx.judge(digits["real"], digits["honest"][rows], digits["train"], labels=digits["label"])
    assert [judged[name]["modes"].value for name in judged] == [10, 9, 5]
    assert [judged[name].honest["modes"] for name in judged] == [10, 10, 10]
    assert judged["half"]["modes"].high < 7 and judged["half"]["NDB"].low > 0.5
    assert "9 of 10 classes; missed: 3;" in judged["one"].explain()
    x, y = grid(0, 1000)
    for gone in ([7], range(12)):
        found = modes(x, grid(1, 1000, [k for k in range(25) if k not in gone])[0], None, y)
        assert found.reached.value == 25 - len(gone) and set(found.missed) == {str(k) for k in gone}


def test_missing_classes_are_seen_without_labels(digits):
    half = digits["honest"][digits["honest label"] < 5]
    whole = pofx.judge(digits["real"], digits["honest"], digits["train"])
    part = pofx.judge(digits["real"], half, digits["train"])
    assert whole["modes"].value == whole.honest["modes"] and part["modes"].value < 0.85 * part.honest["modes"]
    assert part["NDB"].low > whole["NDB"].high


def test_copies_and_a_little_noise_leave_no_mode_out(digits, honest):
    noise = np.random.default_rng(1).normal(size=digits["honest"].shape)
    noisy = np.clip(digits["honest"] + noise, 0, 16).round().astype(np.uint8)
    for labels in (digits["label"], None):
        for fake in (digits["train"][:447], noisy):
            found = pofx.judge(digits["real"], fake, digits["train"], labels=labels)
            assert found["modes"].value == found.honest["modes"] and found["NDB"].low < 0.1


def test_a_fifth_of_the_share_reaches_a_mode():
    x, y = grid(0, 4000, range(10))
    fake, of = grid(1, 8000, range(10))
    for share, reached in ((0.1, 9), (0.4, 10)):
        rare = (of == 4) & (np.random.default_rng(2).random(len(of)) > share)
        assert modes(x, fake[~rare], None, y).reached.value == reached


def test_modes_are_those_of_the_real_rows():
    """What samples alone have, or what too few real rows have, is no mode; the two sets are not exchangeable."""
    few, more = grid(0, 1000, range(9)), grid(1, 1000, range(10))
    assert modes(few[0], more[0], more[0], more[1]).reached.value == 9
    assert modes(more[0], few[0], more[0], more[1]).missed == ("9",)
    x, y = np.concatenate([few[0], more[0][more[1] == 9][:9]]), np.append(few[1], [9] * 9)
    found = modes(x, few[0], None, y)
    assert found.judged == 9 and not found.missed
    assert "1 with too few rows, 1% of the real ones, left out" in found.reached.note
    assert modes(few[0], more[0][:50], *more).judged == 0, "too few samples to expect ten of each"
    nothing = modes(few[0][:10], more[0][:12])
    assert math.isnan(nothing.reached.value) and math.isnan(nothing.different.high)


def test_real_rows_are_named_by_others_where_they_are_the_reference():
    x, y = grid(0, 300, range(3))
    x[5], y[5] = (50, 50), 99  # alone with its name, far from all others
    assert modes(x, x[:200], None, y).shares["99"][0] == 0
    assert modes(x, x[:200], x, y).shares["99"][0] == pytest.approx(1 / 300)
    with pytest.raises(ValueError, match="299 labels for 300"):
        modes(x, x, None, y[1:])


def test_modes_depend_on_no_batch_no_order_and_no_global_seed(monkeypatch):
    (x, y), (fake, _) = grid(0, 900, noise=0.3), grid(1, 800, range(22), noise=0.3)
    order, other = np.random.default_rng(0).permutation(900), fake[:, 0].argsort()
    for labels in (y, None):
        found = modes(x, fake, None, labels)
        np.random.seed(1)  # noqa: NPY002
        assert modes(x, fake, None, labels) == found
        module = sys.modules["pofx.metrics.modes"]  # whose name in the package is the function
        monkeypatch.setattr(module, "chunks", lambda n, k: [slice(i, i + 7) for i in range(0, n, 7)])
        assert modes(x, fake, None, labels) == found
        monkeypatch.undo()
        sorted_ = modes(x[order], fake[other], None, None if labels is None else y[order])
        assert abs(sorted_.reached.value - found.reached.value) <= (0 if labels is not None else 2)
        assert abs(sorted_.different.value - found.different.value) <= (0 if labels is not None else 0.2)


def test_the_interval_of_a_count_holds_the_truth():
    """Three of ten modes at a tenth, or at a half more than the threshold: measured over draws of both sets."""
    rng, y = np.random.default_rng(0), np.arange(10).repeat(40)
    centres = np.stack([np.arange(10.0), np.zeros(10)], 1)
    for share, truth in ((0.0, 7), (0.1, 7), (0.3, 10)):
        p = np.where(np.arange(10) < 3, share, 1.0) / (7 + 3 * share)
        held = wide = 0
        for seed in range(60):
            real, fake = centres[rng.integers(10, size=400)], centres[rng.choice(10, 150, p=p)]
            m = modes(real, fake, centres[y], y, rng=seed, draws=400).reached
            held += m.low <= truth <= m.high
            wide += m.high > m.value
        assert held >= 53
        assert share or wide > 20, "an empty bin can be one that was missed by chance"


# Train on samples, test on real rows


def test_samples_that_know_nothing_of_the_target_teach_nothing():
    train, real, fake = table(0, 300), table(1, 300), table(2, 200)
    good = pofx.judge(real, fake, train, target="c")
    bad = pofx.judge(real, fake.assign(c=np.random.default_rng(0).permutation(fake["c"])), train, target="c")
    assert good["utility"].value > 0.95 and good.honest["utility"] > 0.95
    assert bad["utility"].high < 0.8 and bad.honest["utility"] == good.honest["utility"]
    assert good["utility"].n == 300, "tested on the real rows"
    assert "AUC, trained on 200 rows; as many training rows" in good.explain()
    number = pofx.judge(real, fake, train, target="b")
    assert number["utility"].name == "utility (R^2)" and number["utility"].low > 0.7
    assert "utility" not in pofx.judge(real, fake, train).metrics


def test_labels_of_other_rows_can_be_the_target(digits):
    told = (found := load_digits()).target[np.random.default_rng(0).permutation(len(found.target))][900:1350]
    sets = digits["real"], digits["honest"], digits["train"]
    good = pofx.judge(*sets, labels=digits["label"], target=(told, digits["honest label"]))
    assert good["utility"].low > 0.8 and good["utility"].low < good.honest["utility"] < good["utility"].high
    bad = pofx.judge(*sets, target=(told, np.roll(digits["honest label"], 1)))
    assert bad["utility"].high < 0.3 and "utility" not in bad.honest
    with pytest.raises(ValueError, match="446 labels for 447 fake rows"):
        pofx.judge(*sets, target=(told, digits["honest label"][1:]))
    with pytest.raises(ValueError, match="labels of the real rows"):
        pofx.judge(*sets, target="label")
    with pytest.raises(ValueError, match="one of .*'a', 'b', 'c'"):
        pofx.judge(table(0, 90), table(1, 90), target="d")
