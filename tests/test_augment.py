"""Augment: counts, the law of the draws, and a gain that is 0 where there is nothing to gain."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest, norm

import pofx
from pofx.metrics.gains import balanced, paired_gain
from pofx.tasks.augment import gain, noisy, repeated

MEANS = np.array([[-1.0, 0.0], [1.0, 0.5]])


def rows(counts, seed):
    rng = np.random.default_rng(seed)
    y = np.repeat(["cat", "dog"], counts)
    x = MEANS[(y == "dog").astype(int)] + rng.normal(size=(len(y), 2))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": y}).sample(frac=1, random_state=seed, ignore_index=True)


@pytest.fixture(scope="module")
def frame():
    return rows((400, 40), 0)


@pytest.fixture(scope="module")
def given(frame):
    knobs = {"components": 1, "covariance": "full", "separate": "kind"}
    return pofx.fit(frame, "mixture", given="kind", hyper_parameters=knobs, threads=1, progress=False)


@pytest.fixture(scope="module")
def column(frame):
    return pofx.fit(frame, "kde", threads=1, progress=False)


def test_classes_are_balanced_and_real_rows_stay(given, column, frame):
    for model, way in ((given, "given"), (column, "column"), (column, "rejection")):
        answer = pofx.augment(model, frame, "kind", rng=1, route=way)
        table = answer.value
        assert answer.route == way
        assert table["kind"].value_counts().to_dict() == {"cat": 400, "dog": 400} == answer.diagnostics["after"]
        pd.testing.assert_frame_equal(table.iloc[:440].drop(columns="drawn"), frame)
        assert table["drawn"].tolist() == [False] * 440 + [True] * 360 == answer.diagnostics["drawn"].tolist()
        assert set(table["kind"][440:]) == {"dog"} and list(table["kind"]) == answer.diagnostics["labels"]
        assert not table.isna().any().any() and len(table.drop_duplicates()) == len(table)


def test_how_many(given, frame):
    counts = [
        pofx.augment(given, frame, "kind", rows, rng=0).diagnostics["after"]
        for rows in (100, 1.5, {"dog": 60}, {"cat": 401})
    ]
    assert counts == [
        {"cat": 400, "dog": 100},
        {"cat": 600, "dog": 60},
        {"cat": 400, "dog": 60},
        {"cat": 401, "dog": 40},
    ]
    with pytest.raises(ValueError, match="none away"):
        pofx.augment(given, frame, "kind", {"cat": 10})
    with pytest.raises(ValueError, match="horse"):
        pofx.augment(given, frame, "kind", {"horse": 10})
    assert pofx.augment(given, frame, "kind", 2).diagnostics["drawn rows"] == 0, "the number in the end, not of draws"
    for bad in (-5, 0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"got rows = {bad}; expected how many there are to be in the end"):
            pofx.augment(given, frame, "kind", bad)


def test_nothing_is_drawn_where_nothing_lacks(given, column, frame):
    """Chunks without rows are not drawn: a net cannot make none of them."""
    asked = {"budget": "2 steps", "threads": 1, "progress": False}
    even = pd.concat([frame[frame["kind"] == "cat"][:40], frame[frame["kind"] == "dog"]], ignore_index=True)
    net = pofx.fit(pofx.open_data(even, given="kind"), "autoregressive", **asked)
    for model, way in ((given, "given"), (net, "given"), (column, "column"), (column, "rejection")):
        answer = pofx.augment(model, even, "kind", rng=0, route=way)
        assert answer.diagnostics["drawn rows"] == 0 and answer.raw.shape == (0, *model.space.shape)
        pd.testing.assert_frame_equal(answer.value.drop(columns="drawn"), even)
        assert not answer.value["drawn"].any() and answer.diagnostics["after"] == {"cat": 40, "dog": 40}
    assert pofx.augment(column, even, rows=80, rng=0).diagnostics["drawn rows"] == 0
    assert "not help" in gain(net, even, rows((30, 30), 2), "kind", repeats=1).diagnostics["verdict"]
    pictures = pofx.open_data("digits", given="label", limit=60)
    net, x = pofx.fit(pictures, "autoregressive", **asked), pictures.restore(pictures.x)
    same, labels = pofx.augment(net, (x, pictures.given["label"].tolist()), "label", 1, rng=0).value
    assert (same == x).all() and same.dtype == x.dtype and labels == pictures.given["label"].tolist()


def test_classes_of_other_data_are_matched_by_name(given):
    """Codes are those of the file, which depend on the classes that it holds: where cats lack, a dog is 0."""
    dogs = pofx.open_data(rows((0, 60), 3)[["kind", "b", "a"]], given="kind", test=10, valid=0)
    answer = pofx.augment(given, dogs, "kind", {"cat": 30}, rng=0)
    assert answer.diagnostics["before"] == {"cat": 0, "dog": 50} and answer.diagnostics["after"] == {
        "cat": 30,
        "dog": 50,
    }
    more = answer.value
    assert more.given_spaces["kind"].variables[0].values == ("cat", "dog") and more.space == given.space
    assert more.given["kind"].tolist() == [1] * 60 + [0] * 30 and len(more.part("train")) == 80
    np.testing.assert_array_equal(more.restore(more.x)["a"][:60], dogs.restore(dogs.x)["a"])
    with pytest.raises(ValueError, match="'horse' was never seen"):
        pofx.augment(given, pofx.open_data(rows((9, 9), 3).replace("cat", "horse"), given="kind"), "kind")


def test_draws_follow_the_law_of_their_class(frame):
    """Of the mixture: the normal of the rows that it was fitted to."""
    data = pofx.open_data(rows((3000, 600), 5), given="kind", test=0, valid=0)
    knobs = {"components": 1, "covariance": "full", "separate": "kind"}
    model = pofx.fit(data, "mixture", hyper_parameters=knobs, threads=1, progress=False)
    more = pofx.augment(model, data, "kind", {"dog": 2600, "cat": 5000}, rng=3).value
    x, fresh, codes = data.x, more.x[3600:], more.given["kind"]
    for k, mean in enumerate(MEANS):
        part, own = fresh[codes[3600:] == k], x[codes[:3600] == k]
        assert len(part) == 2000
        for j in (0, 1):
            law = norm(float(own[:, j].mean()), float(own[:, j].std()))
            assert kstest(part[:, j].numpy(), law.cdf).pvalue > 1e-4
            assert abs(float(part[:, j].mean()) - mean[j]) < 0.2
    assert kstest(fresh[codes[3600:] == 1][:, 0].numpy(), norm(-1, 1).cdf).pvalue < 1e-20


def test_the_routes_agree(column, frame):
    parts = [pofx.augment(column, frame, "kind", {"dog": 1040}, rng=2, route=w).raw for w in ("column", "rejection")]
    assert parts[0].shape == parts[1].shape == (1000, 3)
    for j in (0, 1):
        assert kstest(parts[0][:, j].numpy(), parts[1][:, j].numpy()).pvalue > 1e-4


def test_types_come_back_and_seeds_repeat(frame):
    data = pofx.open_data("digits", given="label", limit=200, seed=0)
    model = pofx.fit(data, "kde", hyper_parameters={"bandwidth": 0.5}, threads=1, progress=False)
    answer = pofx.augment(model, data, "label", rng=4)
    more = answer.value
    train = more.part("train")
    assert len(set(torch.bincount(train.given["label"]).tolist())) == 1
    assert torch.equal(more.part("test").x, data.part("test").x) and torch.equal(more.x[:200], data.x)
    assert more.aside["drawn"][0].sum() == len(more) - 200 == len(answer.raw)
    assert torch.equal(pofx.augment(model, data, "label", rng=4).value.x, more.x)
    assert not torch.equal(pofx.augment(model, data, "label", rng=5).value.x, more.x)
    x, y = data.part("train").x.numpy(), data.part("train").given["label"].tolist()
    bigger, labels = pofx.augment(model, (x, y), "label", 30, rng=4).value
    assert bigger.dtype == x.dtype and bigger.shape == (len(labels), *x.shape[1:]) and isinstance(labels, list)
    codes = pofx.augment(model, (train.x[:120], train.given["label"][:120]), "label", 30, rng=4).value[1]
    assert isinstance(codes, torch.Tensor) and torch.bincount(codes).tolist() == [30] * 10
    whole = pofx.augment(pofx.fit(x, "kde", hyper_parameters={"bandwidth": 0.5}, threads=1, progress=False), x, rng=0)
    assert whole.value.shape == (2 * len(x), *x.shape[1:]) and (whole.value[: len(x)] == x).all()


def test_nothing_to_gain_from_the_truth_where_rows_are_plenty():
    """Equal counts, a linear truth: the gain is 0 within its interval, in nearly every run, and it says so."""
    hits = 0
    for seed in range(4):
        train, test = rows((400, 400), seed), rows((1000, 1000), 100 + seed)
        knobs = {"components": 1, "covariance": "tied", "separate": "kind"}
        model = pofx.fit(train, "mixture", given="kind", hyper_parameters=knobs, threads=1, progress=False)
        answer = gain(model, train, test, "kind", 2.0, repeats=2, rng=seed)
        assert abs(answer.value.value) < 0.02
        hits += answer.value.low <= 0 <= answer.value.high
        assert ("not help" in answer.explain()) == (answer.value.low <= 0 <= answer.value.high)
    assert hits >= 3


def test_a_gain_where_there_is_one(given, frame):
    """1 in 11 is a dog: a line trained on that calls few of them dogs, and balanced rows mend it."""
    answer = gain(given, frame, rows((500, 500), 9), "kind", rng=0)
    found = answer.diagnostics
    assert answer.value.low > 0.02 and "helps" in answer.explain()
    assert set(found["gains"]) == {"drawn", "repeated", "noise"} and found["gains"]["repeated"].low > 0.02
    assert abs(found["scores"]["drawn"] - found["scores"]["real"] - answer.value.value) < 1e-9
    best = norm.cdf(np.linalg.norm(MEANS[1] - MEANS[0]) / 2)
    assert abs(found["scores"]["drawn"] - best) < 0.05


def test_paired_gain_in_closed_form():
    y = np.array([0] * 8 + [1] * 2)
    before, after = np.zeros(10, int), np.array([0] * 7 + [1] * 3)
    assert balanced(y, [before]) == 0.5 and abs(balanced(y, [after]) - (7 / 8 + 1) / 2) < 1e-12
    found = paired_gain(y, [before], [after])
    assert abs(found.value - ((7 / 8 + 1) / 2 - 0.5)) < 1e-12 and found.low < found.value < found.high
    assert paired_gain(y, [after, before], [before, after]).value == 0


def test_simple_ways():
    z, y = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 0, 1, 1])
    a, b = repeated(z, y, np.array([0, 3]), pofx.Rng(0))
    assert b.tolist() == [*y, 1, 1, 1] and (a[:6] == z).all() and set(a[6:, 0]) <= {8.0, 10.0}
    c, _ = noisy(z, y, np.array([0, 3]), pofx.Rng(0))
    assert (c[:6] == z).all() and 0 < np.abs(c[6:] - a[6:]).max() < 2


def test_what_is_asked_wrongly(given, column, frame):
    with pytest.raises(pofx.Unsupported, match="no column of its rows"):
        pofx.augment(given, frame, "colour")
    with pytest.raises(ValueError, match="number"):
        pofx.augment(column, frame, "a")
    with pytest.raises(ValueError, match="missing"):
        pofx.augment(column, frame.assign(kind=frame["kind"].where(frame.index > 0)), "kind")
    with pytest.raises(ValueError, match="otherwise"):
        pofx.augment(given, frame.assign(drawn=1), "kind")
    with pytest.raises(ValueError, match="predictor"):
        gain(given, frame, frame, "kind", predictor="magic")
    with pytest.raises(ValueError, match="got repeats = 0, expected at least 1"):
        gain(given, frame, frame, "kind", repeats=0)
    bare = frame.drop(columns="kind")
    with pytest.raises(ValueError, match=r"no column 'kind'; they have \['a', 'b'\]"):
        pofx.augment(given, bare, "kind")
    with pytest.raises(ValueError, match=r"no column \['kind'\]"):
        pofx.augment(column, bare, "kind")
    with pytest.raises(ValueError, match="got ndarray; expected Data, a frame or a pair"):
        pofx.augment(given, bare.to_numpy(), "kind")
    with pytest.raises(ValueError, match="got no rows; expected at least one"):
        pofx.augment(given, frame[:0], "kind")


def test_the_command(tmp_path, capsys, monkeypatch, frame):
    from pofx.cli import main

    for name, table in (("train", frame), ("test", rows((60, 60), 7))):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    knobs = {"components": 1, "covariance": "full", "separate": "kind"}
    data = pofx.open_data(tmp_path / "train.csv", given="kind")
    pofx.fit(data, "mixture", hyper_parameters=knobs, folder=tmp_path / "run", threads=1, progress=False)
    words = ["augment", "run", "train.csv", "--by", "kind", "--test", "test.csv", "--out", "more.csv", "--json"]
    paths = ("run", "train.csv", "test.csv", "more.csv")
    monkeypatch.setattr("sys.argv", ["pofx", *(str(tmp_path / w) if w in paths else w for w in words)])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["after"] == {"cat": 400, "dog": 400} and "balanced accuracy" in found["verdict"]
    assert pd.read_csv(tmp_path / "more.csv")["drawn"].sum() == 360
