"""Augment: counts, the law of the draws, and a gain that is 0 where there is nothing to gain."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest, norm

import pofx
from pofx.kinds.base import category, real
from pofx.metrics.base import Metric
from pofx.metrics.gains import balanced, over_seeds, paired_gain, verdict
from pofx.model import Card, Model
from pofx.tasks.augment import gain

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
    ways = {"drawn", "repeated", "noise", "smote"}
    assert set(found["gains"]) == ways and found["gains"]["repeated"].low > 0.02
    assert "but no more than" in found["verdict"] and "SMOTE" in found["verdict"]
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


def test_a_predictor_sees_no_half_of_a_category():
    train, seen = rows((60, 15), 0), []
    train["word"] = np.where(train["kind"] == "cat", "u", "v")
    train.loc[::3, "word"] = "w"

    def predictor(z, y, seed):
        from sklearn.dummy import DummyClassifier

        seen.append(z)
        return DummyClassifier().fit(z, y)

    model = pofx.fit(train, "kde", given="kind", threads=1, progress=False)
    gain(model, train, train, "kind", predictor=predictor, repeats=1)
    assert len(seen) == 5 and all(z.shape[1] == 5 for z in seen)
    assert all(set(map(tuple, z[:, 2:])) == set(map(tuple, np.eye(3))) for z in seen)


def metric(value, half=0.01):
    return Metric("gain", value, value - half, value + half, 100, "higher")


def test_the_verdict_says_what_is_simpler_and_as_good():
    def said(own, smote, beyond):
        gains = {"drawn": metric(own), "smote": metric(smote), "repeated": metric(-0.2)}
        return verdict(gains, {"smote": metric(beyond), "repeated": metric(own + 0.2)})

    assert said(0.10, 0.05, 0.05).endswith("and more than each simpler way; the best of them: SMOTE (+0.050).")
    assert "It helps: +0.100" in said(0.10, 0.095, 0.005) and "but no more than SMOTE (+0.095)" in said(
        0.1, 0.095, 0.005
    )
    assert "but less than SMOTE (+0.150); the simpler way will do" in said(0.10, 0.15, -0.05)
    assert said(0.005, -0.1, 0.1) == (
        "It does not help: +0.005 balanced accuracy [-0.005, +0.015], and 0 is within the interval."
    )
    assert said(0.005, 0.1, -0.1).endswith("Of the simpler ways SMOTE (+0.100) does.")
    assert said(-0.1, 0.0, -0.1).endswith("Train on the real rows alone.")
    assert said(-0.1, 0.1, -0.2).startswith("It harms") and said(-0.1, 0.1, -0.2).endswith("or with SMOTE (+0.100).")


class Truth(Model):
    """Rows of two columns on two rings, as they are made; with `swapped`, of the other class."""

    card = Card("none", "fast", "none", "none", "none", ("implicit", "sampler"), "none", "two rings", "here")
    swapped = False

    def _sample(self, count, given, rng):
        far = 1.0 + (1 - given["kind"] if self.swapped else given["kind"]).double()
        angle = 2 * math.pi * rng.uniform((count,), torch.float64)
        noise = 0.15 * rng.normal((count, 2), torch.float64)
        return far[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + noise


def rings(counts, seed):
    y = torch.tensor([0] * counts[0] + [1] * counts[1])
    return truth().sample(1, {"kind": y}, pofx.Rng(seed))[0], y


def truth(swapped=False):
    model = Truth().build(real(2), {"kind": category(2, "kind", ("cat", "dog"))})
    model.swapped = swapped
    return model


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_on_made_data(seed):
    """Five rows of a ring: the truth helps beyond all that stays near them, the other class's harms."""
    train, test = rings((300, 5), seed), rings((800, 800), 50 + seed)
    asked = {"predictor": "neighbours", "repeats": 3, "rng": seed}
    right = gain(truth(), train, test, "kind", **asked).diagnostics
    assert right["verdict"].startswith("It helps") and "and more than each simpler way" in right["verdict"]
    assert all(m.low > 0 for m in right["beyond"].values())
    for way in right["beyond"]:
        gap = right["gains"]["drawn"].value - right["gains"][way].value
        assert right["beyond"][way].value == pytest.approx(gap), "beyond a way: how far it is behind"
    wrong = gain(truth(swapped=True), rings((300, 120), 20 + seed), test, "kind", **asked).diagnostics
    assert wrong["verdict"].startswith("It harms"), wrong["verdict"]
    plenty = gain(truth(), rings((600, 600), 20 + seed), test, "kind", 700, **asked).diagnostics
    assert plenty["verdict"].startswith("It does not help"), plenty["verdict"]


def test_repeats_vary_draws_and_fits(frame):
    """Each repeat has rows and a seed of its own, and each model its turn."""
    train, test, seeds, asked = rings((60, 10), 0), rings((200, 200), 1), [], []

    class Watched(Truth):
        def _sample(self, count, given, rng):
            asked.append(self.named)
            return super()._sample(count, given, rng)

    def predictor(z, y, seed):
        seeds.append((seed, z[-1].tolist()))
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression().fit(z, y)

    models = [Watched().build(real(2), {"kind": category(2, "kind", ("cat", "dog"))}) for _ in range(2)]
    for name, one in zip("ab", models, strict=True):
        one.named = name
    found = gain(models, train, test, "kind", predictor=predictor, repeats=3).diagnostics
    assert asked == list("abab") and len({seed for seed, _ in seeds}) == 4, "rounded up: as often one as the other"
    assert "4 repeats" in found["over"] and "2 fitted models in turn" in found["over"]
    assert {len(each) for each in found["seeds"].values()} == {4}
    for way, each in found["seeds"].items():
        assert np.mean(each) == pytest.approx(found["gains"][way].value)
    assert len(set(found["seeds"]["drawn"])) > 1 and len({tuple(last) for _, last in seeds}) > 10
    y = np.array([0, 0, 1, 1])
    each = over_seeds(y, [[0, 0, 0, 0], [0, 0, 1, 0]], [[0, 0, 1, 0], [0, 1, 1, 0]])
    assert each == (0.25, -0.25)
    with pytest.raises(ValueError, match="got 0 models"):
        gain([], train, test, "kind")
    with pytest.raises(ValueError, match="got 2 models; expected one, or several that were fitted to the same rows"):
        gain([models[0], Truth().build(real(3), dict(models[0].given))], train, test, "kind")


def test_pictures_are_shifted_and_drawn():
    data = pofx.open_data("digits", given="label", limit=500, seed=0)
    model = pofx.fit(data, "kde", hyper_parameters={"bandwidth": 0.5}, threads=1, progress=False)
    answer = gain(model, data, data, "label", 60, repeats=1)
    assert set(answer.diagnostics["beyond"]) == {"repeated", "noise", "smote", "shifted"}
    assert answer.figure().axes[0].get_xlabel().startswith("gain in balanced accuracy")
    labels = [t.get_text() for t in answer.figure().axes[0].get_yticklabels()]
    assert labels == ["drawn rows", "rows repeated", "rows with noise", "SMOTE", "pictures shifted"]
    seen = []

    def predictor(z, y, seed):
        from sklearn.dummy import DummyClassifier

        seen.append(z)
        return DummyClassifier().fit(z, y)

    wide = pofx.open_data((data.x[:, 2:, ..., 0].numpy() * 15).astype(np.uint8), test=60, valid=0)  # 6 high, 8 wide
    wide = replace(wide, given={"label": data.given["label"]}, given_spaces=dict(data.given_spaces))
    net = pofx.fit(wide, "kde", hyper_parameters={"bandwidth": 0.5}, threads=1, progress=False)
    gain(net, wide, wide, "label", 60, predictor=predictor, repeats=1)
    real, last = len(seen[0]), seen[-1].reshape(-1, 6, 8)
    for one in last[real :: len(last) // 20]:
        inner = [last[:real, 1 + r : 5 + r, 1 + c : 7 + c] for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]
        assert any((x == one[1:5, 1:7]).all((1, 2)).any() for x in inner)
    bars, *pictures = pofx.augment(model, data, "label", {3: 60, 8: 55}, rng=0).figure().axes
    assert [axes.get_title(loc="left") for axes in pictures] == ["3: real", "3: drawn", "8: real", "8: drawn"]
    assert len(bars.patches) == 20 and all(len(axes.images) == 1 for axes in pictures)


def test_a_picture_of_what_was_added(given, column, frame):
    for model in (given, column):
        bars, dots = pofx.augment(model, frame, "kind", rng=0).figure().axes
        assert [p.get_width() for p in bars.patches] == [400, 40, 0, 360]
        assert [len(c.get_offsets()) for c in dots.collections] == [360, 40]
    assert len(pofx.augment(given, frame, "kind", 2, rng=0).figure().axes) == 1, "nothing drawn, nothing to show"
    bars = pofx.augment(column, frame, rows=500, rng=0).figure().axes[0]
    assert [p.get_width() for p in bars.patches] == [440, 60]


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
    assert set(found["gains"]) == {"drawn", "repeated", "noise", "smote"} and found["gain"] == found["gains"]["drawn"]
    words = [*words[:-3], "--picture", "more.png"]
    monkeypatch.setattr("sys.argv", ["pofx", *(str(tmp_path / w) if w in (*paths, "more.png") else w for w in words)])
    main()
    out = capsys.readouterr().out
    for way in ("real rows alone", "drawn rows", "rows repeated", "rows with noise", "SMOTE"):
        assert way in out
    assert "5 repeats (fresh rows, fresh seed of the predictor) of one fitted model" in out and "It helps" in out
    assert (tmp_path / "more.png").stat().st_size > 5000
