"""Classification by Bayes' rule: the closed form, two refusals that are not the same, and what is asked wrongly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.data import Data
from pofx.kinds.base import Space, Variable, category, real
from pofx.metrics.classes import (
    accuracy,
    aurc,
    calibration_error,
    calibration_floor,
    log_loss,
    reliability,
    risk_coverage,
    temperature_of,
)
from pofx.metrics.scores import conformal_pvalues
from pofx.model import Card, Model, Quality, Unsupported, Value
from pofx.tasks.classify import _threshold

CARD = Card("exact", "fast", "none", "none", "none", ("explicit", "tractable"), "none", "two normals", "here")
LABEL = category(2, "kind", ("cat", "dog"))


class Normals(Model):
    """x | kind ~ N(m_kind, I) in two columns, over-confident by `sharp`."""

    card, sharp = CARD, 1.0

    def _build(self):
        self.register_buffer("means", torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64))

    def _log_prob(self, x, given, observed, draws, rng):
        part = -0.5 * (x - self.means[given["kind"]]) ** 2 - 0.5 * math.log(2 * math.pi)
        part = part if observed is None else torch.where(observed, part, 0.0)
        return Value(self.sharp * part.sum(1))

    def _sample(self, count, given, rng):
        return self.means[given["kind"]] + rng.normal((count, 2)).double()


def rows(n, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    x = np.array([[-1.0, 0.0], [1.0, 0.5]])[y] + rng.normal(size=(n, 2))
    return torch.tensor(x), torch.tensor(y)


def data(n, seed):
    x, y = rows(n, seed)
    split = {"train": torch.arange(0), "valid": torch.arange(n), "test": torch.arange(0)}
    return Data(x, real(2), {"kind": y}, {"kind": LABEL}, split=split)


@pytest.fixture(scope="module")
def model():
    return Normals().build(real(2), {"kind": LABEL})


def test_bayes_rule_in_closed_form(model):
    x, _ = rows(50, 0)
    answer = pofx.classify(model, x, prior={"cat": 3, "dog": 1})
    gap = 2 * x[:, 0] + 0.5 * x[:, 1] - 0.125  # log p(x | dog) / p(x | cat)
    want = torch.sigmoid(gap - math.log(3))
    assert torch.allclose(answer.diagnostics["p"][:, 1], want)
    assert answer.value == ["dog" if p > 0.5 else "cat" for p in want]
    assert answer.quality is pofx.Quality.EXACT
    again = torch.logsumexp(torch.stack([model.log_prob(x, {"kind": torch.full((50,), k)}).value for k in (0, 1)]), 0)
    assert torch.allclose(pofx.classify(model, x).diagnostics["log_p"], again - math.log(2))


def test_a_gap_is_left_out(model):
    x, _ = rows(20, 1)
    x[:, 0] = torch.nan
    p = pofx.classify(model, x).diagnostics["p"]
    assert torch.allclose(p[:, 1], torch.sigmoid(0.5 * x[:, 1] - 0.125))


def test_two_refusals(model):
    between, beyond = torch.tensor([[0.0, 0.25]]), torch.tensor([[40.0, -40.0]])
    answer = pofx.classify(model, torch.cat([between, beyond]).double(), calibration=data(400, 2))
    ambiguity, belongs = answer.diagnostics["ambiguity"], answer.diagnostics["belongs"]
    assert ambiguity[0] > 0.4 and ambiguity[1] < 1e-6, "what is of no class can look sure"
    assert belongs[0] > 0.1 and belongs[1] < 0.01
    fresh = pofx.classify(model, rows(2000, 3)[0], calibration=data(400, 2)).diagnostics["belongs"]
    for level in (0.05, 0.3, 0.7):
        assert abs((fresh <= level).mean() - level) < 4 * math.sqrt(level * (1 - level) * (1 / 400 + 1 / 2000))


def of(names, like, kept=("cat", "dog")):
    """The same rows of some classes, coded as a file is that holds the classes `names` in this order."""
    y = like.given["kind"]
    some = torch.tensor([("cat", "dog")[k] in kept for k in y.tolist()])
    codes = torch.tensor([names.index(("cat", "dog")[k]) for k in y[some].tolist()])
    spaces, split = {"kind": category(len(names), "kind", names)}, {"valid": torch.arange(len(codes))}
    return Data(like.x[some], like.space, {"kind": codes}, spaces, split=split)


def test_calibration_rows_are_matched_to_the_classes_by_name(model):
    """Codes are those of the file, which depend on the classes that it holds: where cats lack, a dog is 0."""
    x, both = rows(1000, 11)[0], data(800, 5)
    right = pofx.classify(model, x, calibration=both).diagnostics
    turned = pofx.classify(model, x, calibration=of(("dog", "cat"), both)).diagnostics
    assert torch.equal(turned["p"], right["p"]) and turned["temperature"] == right["temperature"]
    dogs = pofx.classify(model, x, calibration=of(("dog",), both, ("dog",)))
    right = pofx.classify(model, x, calibration=of(("cat", "dog"), both, ("dog",)))
    assert torch.equal(dogs.raw, right.raw) and dogs.diagnostics["temperature"] == right.diagnostics["temperature"]
    assert dogs.value.count("dog") > 900, "the prior is that of the calibration rows"


def test_a_class_that_the_model_does_not_know_is_refused(model):
    strange = replace(data(50, 0), given_spaces={"kind": category(2, "kind", ("cat", "horse"))})
    with pytest.raises(ValueError, match="'horse' was never seen; known are cat, dog"):
        pofx.classify(model, torch.zeros(1, 2).double(), calibration=strange)
    with pytest.raises(ValueError, match="given nothing; expected Data given 'kind'"):
        pofx.classify(model, torch.zeros(1, 2).double(), calibration=strange.without_given())
    with pytest.raises(ValueError, match="got 1 calibration rows"):
        pofx.classify(model, torch.zeros(1, 2).double(), calibration=of(("cat", "dog"), data(1, 0)))


def table(n, seed):
    x, y = rows(n, seed)
    word = np.where(np.random.default_rng(seed).random(n) < 0.2 + 0.6 * y.numpy(), "b", "c")
    return pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "word": word, "kind": np.array(["cat", "dog"])[y]})


def test_columns_and_words_of_a_calibration_table_are_found_by_name():
    knobs = {"components": 1, "separate": "kind"}
    fitted = pofx.fit(table(400, 0), "mixture", given="kind", hyper_parameters=knobs, threads=1, progress=False)
    known, x = table(300, 1), table(200, 2).drop(columns="kind")
    known.loc[:40, "v"] = np.nan
    known = known[known["word"] == "c"]  # read alone, a "c" is the code 0
    every = pofx.open_data(known, given="kind", test=0, valid=0)
    mixed = pofx.open_data(known[["kind", "word", "v", "u"]], given="kind", test=0, valid=0)
    coded, seen = fitted.space.kind and pofx.kinds.KINDS["table"].encode(known.drop(columns="kind"), fitted.space)
    want = Data(coded, fitted.space, every.given, dict(fitted.given), seen, {"valid": torch.arange(len(known))})
    right = pofx.classify(fitted, x, calibration=want).diagnostics
    for other in (every, mixed):
        found = pofx.classify(fitted, x, calibration=replace(other, split=want.split)).diagnostics
        assert torch.equal(found["p"], right["p"]) and (found["belongs"] == right["belongs"]).all()


def test_a_temperature_mends_over_confidence(model):
    sharp = Normals().build(real(2), {"kind": LABEL})
    sharp.sharp = 6.0
    x, y = rows(1500, 4)
    raw = pofx.classify(sharp, x).diagnostics["p"]
    mended = pofx.classify(sharp, x, calibration=data(800, 5)).diagnostics
    assert abs(math.log(mended["temperature"] / 6)) < 0.3
    assert log_loss(mended["p"], y).high < log_loss(raw, y).low
    assert calibration_error(mended["p"], y).value < 0.04 < calibration_error(raw, y).value


class Logistic(Model):
    """p(kind | x) itself."""

    card = CARD

    def _log_prob(self, x, given, observed, draws, rng):
        gap = 2 * given["x"][:, 0] + 0.5 * given["x"][:, 1] - 0.125
        return Value(torch.nn.functional.logsigmoid(torch.where(x == 1, gap, -gap)))


def test_a_model_of_the_class_answers_directly_but_not_what_belongs():
    direct = Logistic().build(LABEL, {"x": real(2)})
    x, _ = rows(300, 6)
    answer = pofx.classify(direct, x)
    assert answer.route == "label"
    assert torch.allclose(answer.diagnostics["p"], pofx.classify(Normals().build(real(2), {"kind": LABEL}), x).raw)
    assert "belongs" not in answer.diagnostics
    with pytest.raises(Unsupported, match="prior"):
        pofx.classify(direct, x, prior=[0.5, 0.5])


def test_only_what_is_exact_is_called_so():
    """Bounds of each class do not make an exact p(class | x); a constant that all classes share does no harm."""

    class Told(Logistic):
        def _log_prob(self, x, given, observed, draws, rng):
            noise = 5.0 * rng.normal((1,), torch.float64)  # the same for all classes
            return Value(super()._log_prob(x, given, observed, draws, rng).value + noise, self.says)

    x, _ = rows(300, 6)
    right = pofx.classify(Logistic().build(LABEL, {"x": real(2)}), x).raw
    for Told.says, expected in (("LOWER", "estimate"), ("UNNORMALISED", "exact"), ("EXACT", "exact")):
        Told.says = Quality[Told.says]
        answer = pofx.classify(Told().build(LABEL, {"x": real(2)}), x)
        assert answer.quality.value == expected and torch.allclose(answer.raw, right)


def test_what_cannot_be_asked(model):
    with pytest.raises(Unsupported, match="given=<the class>"):
        pofx.classify(Normals().build(real(2)), torch.zeros(1, 2).double())
    with pytest.raises(ValueError, match="breed"):
        pofx.classify(model, torch.zeros(1, 2).double(), name="breed")
    with pytest.raises(ValueError, match="dog"):
        pofx.classify(model, torch.zeros(1, 2).double(), prior={"cat": 1.0})
    with pytest.raises(ValueError, match="none negative"):
        pofx.classify(model, torch.zeros(1, 2).double(), prior=[-1.0, 2.0])
    with pytest.raises(ValueError, match="got draws = 0, expected at least 1"):
        pofx.classify(model, torch.zeros(1, 2).double(), draws=0)
    with pytest.raises(ValueError, match="got no rows; expected at least one"):
        pofx.classify(model, torch.zeros(0, 2).double())
    with pytest.raises(ValueError, match="got rows = 0, expected at least 1"):
        pofx.classify(Logistic().build(LABEL, {"x": real(2)}), torch.zeros(0, 2).double())


def test_risk_coverage_and_temperature():
    coverage, risk = risk_coverage([0.9, 0.2, 0.6, 0.8], [0, 1, 1, 0])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.random((len(p), 1)) > p.cumsum(1)).sum(1)
    assert temperature_of(2.5 * logits, y) == pytest.approx(2.5, rel=0.06)
    assert accuracy([[0.2, 0.8], [0.6, 0.4]], [1, 1]).value == 0.5
    with pytest.raises(ValueError, match="codes below K"):
        accuracy([[0.2, 0.8]], [2])


def test_rows_without_an_error_do_not_make_a_model_sure_of_itself():
    """All calibration rows are right: the likelihood asks for T = 0, the rule of succession does not."""
    rng = np.random.default_rng(2)
    y = rng.integers(3, size=40)
    logits = rng.normal(size=(40, 3)) + 6.0 * np.eye(3)[y]
    assert (logits.argmax(1) == y).all()
    for sharp in (0.1, 1.0, 30.0):
        heat = temperature_of(sharp * logits, y)
        p = torch.tensor(sharp * logits / heat).softmax(1)
        assert float(p.max(1).values.mean()) == pytest.approx(41 / 42, abs=1e-6)
    assert temperature_of(30.0 * logits, y) == pytest.approx(30 * temperature_of(logits, y), rel=1e-3)
    wrong = np.concatenate([[(y[0] + 1) % 3], y[1:]])
    assert temperature_of(logits, wrong) > temperature_of(logits, y), "one error more, less sure"
    assert 0 < temperature_of(np.zeros((5, 2)), np.zeros(5, int)) < math.inf


def test_ties_are_in_no_order():
    """Rows that are equally sure count alike, wherever they stand in the file."""
    for wrong in ([1, 0, 0, 0, 1], [0, 0, 1, 0, 1]):
        coverage, risk = risk_coverage([1.0, 1.0, 1.0, 1.0, 0.5], wrong)
        assert risk.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.4]) and coverage[-1] == 1
    with pytest.raises(ValueError, match="got 2 confidences, 1 errors"):
        risk_coverage([0.5, 0.6], [1])
    with pytest.raises(ValueError, match="got 0 confidences"):
        risk_coverage([], [])


def test_the_area_under_risk_and_coverage():
    """By hand, at its ends, and its bias: the error rate over N + 1 where risk grows evenly with rank."""
    found = aurc([0.9, 0.2, 0.6, 0.8], [0, 1, 1, 0])
    assert found.value == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4) and found.low <= found.value <= found.high
    rng = np.random.default_rng(0)
    sure, wrong = rng.random(4000), rng.random(4000) < 0.2
    assert aurc(sure, wrong).value == pytest.approx(0.2, abs=0.03), "what tells nothing: the error rate"
    best = aurc(-1.0 * wrong, wrong).value
    e = wrong.mean()
    assert best == pytest.approx(e + (1 - e) * math.log(1 - e), abs=1e-3), "every error last, Geifman 2019"
    assert f"{best:.2g}" in aurc(sure, wrong).note and aurc(-sure, sure > 0.8).value < 0.03 < 0.2
    each = []
    for _ in range(4000):
        rank = rng.random(20)
        each.append(risk_coverage(-rank, rng.random(20) < 0.5 * rank)[1].mean())
    assert np.mean(each) == pytest.approx(0.125 + 0.25 / 21, abs=4 * np.std(each) / math.sqrt(4000))


def test_calibration_beside_what_chance_alone_shows():
    """A perfect model has an error above 0, which the floor foretells; bins are those of the diagram."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet([4.0, 0.4, 0.4], size=300)
    floor = calibration_floor(p)
    found, over = [], []
    for _ in range(60):
        y = (rng.random((300, 1)) > p.cumsum(1)).sum(1)
        found.append(calibration_error(p, y).value)
        sharp = p**4 / (p**4).sum(1, keepdims=True)
        over.append(calibration_error(sharp, y).value - calibration_floor(sharp, draws=20))
    assert np.mean(found) == pytest.approx(floor, abs=5 * np.std(found) / math.sqrt(60)) and floor > 0.02
    assert min(over) > 0.02
    assert f"shows {floor:.2g}" in calibration_error(p, y).note
    assert calibration_floor(np.eye(3)[[0, 1, 2]]) == 0, "who is always sure, and right, has none"
    confidence, right, rows = reliability(p, y, 10)
    assert rows.tolist() == [30] * 10 and (np.diff(confidence) > 0).all()
    assert (confidence * rows).sum() == pytest.approx(p.max(1).sum())
    assert (right * rows).sum() == (p.argmax(1) == y).sum()
    assert (rows * abs(right - confidence)).sum() / 300 == pytest.approx(calibration_error(p, y, 10).value)


def test_the_picture_of_two_columns(model):
    """Regions, densities and what is refused; the line of "of no class" is where the p-values say it is."""
    known, far = data(400, 2), torch.tensor([[6.0, -5.0], [0.0, 0.25]]).double()
    x = torch.cat([rows(200, 3)[0], far])
    answer = pofx.classify(model, x, calibration=known)
    axes = answer.figure().axes[0]
    belongs, torn = np.asarray(answer.diagnostics["belongs"]) <= 0.05, answer.diagnostics["ambiguity"].numpy() > 0.1
    assert belongs[200] and torn[201] and axes.get_xlabel() == "x"
    dots, ambiguous, strange = [c for c in axes.collections if len(c.get_offsets()) and c.get_zorder() >= 3]
    assert len(dots.get_offsets()) == 202
    assert sorted(map(tuple, strange.get_offsets())) == sorted(map(tuple, x[torch.from_numpy(belongs)].tolist()))
    assert len(ambiguous.get_offsets()) == (torn & ~belongs).sum()
    assert axes.get_title(loc="left").endswith(f"{belongs.sum()} of no class")
    shown = axes.images[0].get_array()
    left, right, low, high = axes.images[0].get_extent()
    for point in ([-1.0, 0.0], [1.0, 0.5]):
        i, j = round((point[1] - low) / (high - low) * 139), round((point[0] - left) / (right - left) * 139)
        told = pofx.classify(model, torch.tensor([point]).double()).value[0]
        assert np.abs(shown[i, j] - 1).max() > 0.1 and told == ("cat" if point[0] < 0 else "dog")
    for count, level in ((400, 0.05), (19, 0.05), (57, 0.05)):
        log_p = pofx.classify(model, rows(count, 5)[0]).diagnostics["log_p"].numpy()
        edge, fresh = _threshold(log_p), np.linspace(log_p.min() - 1, log_p.max(), 997)
        assert ((fresh < edge) == (conformal_pvalues(-log_p, -fresh) <= level)).all()
    assert _threshold(log_p[:18]) is None, "so few rows make no p-value of 0.05"


def test_the_grid_is_asked_what_the_rows_are(model, monkeypatch):
    """Regions have the temperature of the answer, contours its log p, at the place where they are drawn."""
    seen = []
    monkeypatch.setattr("pofx.tasks.classify.boundary_figure", lambda *words: seen.append(words))
    sharp = Normals().build(real(2), {"kind": LABEL})
    sharp.sharp = 6.0
    known = data(300, 5)
    pofx.classify(sharp, rows(200, 1)[0] * torch.tensor([1.0, 3.0]), calibration=known, prior=[0.7, 0.3]).figure()
    x, _, (across, up), shares, log_p, names = seen[0]
    assert x.shape == (200, 2) and names == ("x", "x") and across[-1] < up[-1]
    for i, j in ((3, 100), (70, 20), (120, 139)):
        point = torch.tensor([[across[j], up[i]]])
        told = pofx.classify(sharp, point, calibration=known, prior=[0.7, 0.3]).diagnostics
        assert shares[i, j] == pytest.approx(told["p"][0].numpy(), abs=1e-9)
        assert log_p[i, j] == pytest.approx(float(told["log_p"][0]))


def test_the_picture_of_other_rows_and_of_no_density(model):
    x, y = rows(300, 6)
    labelled = Data(x, real(2), {"kind": y}, {"kind": LABEL}, split={"test": torch.arange(300)})
    gaps = x.clone()
    gaps[0, 1] = math.nan
    (axes,) = pofx.classify(model, gaps, calibration=data(100, 1)).figure().axes
    assert axes.get_ylabel().startswith("log p(x)") and axes.get_xscale() == "log"
    direct = Logistic().build(LABEL, {"x": real(2)})
    (axes,) = pofx.classify(direct, x).figure().axes
    assert "no density" in axes.get_ylabel() and [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog"]
    wide = Wide().build(real(3), {"kind": LABEL})
    three = replace(labelled, x=torch.cat([x, torch.zeros(300, 1).double()], 1), space=real(3))
    answer = pofx.classify(wide, three)
    main, sure, kept = answer.figure().axes
    p = answer.diagnostics["p"]
    error, wrong = calibration_error(p, y, 10), (p.argmax(1) != y).numpy()
    assert f"{error.value:.3f}" in sure.get_title(loc="left")
    assert f"{100 * aurc(p.max(1).values, wrong).value:.2f} %" in kept.get_title(loc="left")
    assert kept.lines[0].get_ydata()[-1] == pytest.approx(100 * wrong.mean())
    offsets = np.concatenate([c.get_offsets() for c in main.collections[:1]])
    assert sorted(offsets[:, 1]) == pytest.approx(sorted(answer.diagnostics["log_p"].tolist()))


class Wide(Normals):
    """The same, and a third column that tells nothing."""

    def _log_prob(self, x, given, observed, draws, rng):
        mask = None if observed is None else observed[:, :2]
        return Value(super()._log_prob(x[:, :2], given, mask, draws, rng).value - 0.5 * x[:, 2] ** 2)


def test_space_of_one_label():
    assert Space((), (Variable("kind", "binary", 2),), dtype="int64").spec == ("category", 2)
