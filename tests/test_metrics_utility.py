"""Train on synthetic, test on real: what must be seen, and what must not."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from pofx.metrics import utility


def rows(n: int, seed: int, classes: int = 2) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    a, b = r.normal(size=n), r.choice(["u", "v", "w"], n)
    score = 2 * a + 1.5 * (b == "w") + r.logistic(size=n)
    label = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    blank = np.where(r.random(n) < 0.1, np.nan, a)
    return pd.DataFrame({"a": blank, "b": b, "y": np.array(["no", "some", "yes"])[label], "number": score})


def test_a_copy_of_the_training_rows_has_the_figure_of_real_rows():
    train, test = rows(1500, 0).drop(columns="number"), rows(1500, 1).drop(columns="number")
    got = utility(train.copy(), test, "y")
    code = {"u": 0, "v": 1, "w": 2}
    z, held = (np.stack([t["a"], t["b"].map(code)], 1) for t in (train, test))
    peer = HistGradientBoostingClassifier(categorical_features=[1], random_state=0).fit(z, train["y"])
    auc = roc_auc_score(test["y"] == peer.classes_[1], peer.predict_proba(held)[:, 1])
    assert got.value == pytest.approx(auc, abs=0.01)
    assert got.low < auc < got.high
    assert got.value > 0.75


def test_shuffled_labels_are_worth_nothing():
    scores = []
    for seed in range(6):
        train, test = rows(800, seed).drop(columns="number"), rows(2000, 100 + seed).drop(columns="number")
        train["y"] = np.random.default_rng(seed).permutation(train["y"])
        scores.append(utility(train, test, "y", seed))
    z = np.mean([s.value - 0.5 for s in scores]) / (np.std([s.value for s in scores], ddof=1) / np.sqrt(6))
    assert abs(z) < 5
    assert abs(np.mean([s.value for s in scores]) - 0.5) < 0.08


def test_swapped_labels_are_worse_than_nothing():
    train, test = rows(800, 0).drop(columns="number"), rows(800, 1).drop(columns="number")
    train["y"] = train["y"].map({"no": "some", "some": "no"})
    assert utility(train, test, "y").value < 0.2


def test_more_classes_and_numbers_have_scores_of_their_own():
    train, test = rows(1200, 0, 3), rows(1200, 1, 3)
    several = utility(train.drop(columns="number"), test.drop(columns="number"), "y")
    assert several.name == "utility (accuracy)"
    assert 0.5 < several.value < 0.9
    number = utility(train.drop(columns="y"), test.drop(columns="y"), "number")
    assert number.name == "utility (R^2)"
    assert 0.3 < number.low < number.value < number.high < 0.8


def test_a_class_that_was_never_drawn_and_words_never_seen_do_no_harm():
    train, test = rows(300, 0).drop(columns="number"), rows(300, 1).drop(columns="number")
    train["y"] = "no"
    train["b"] = "else"
    assert utility(train, test, "y").value == 0.5


def test_what_is_lacking_is_named():
    table = rows(50, 0)
    with pytest.raises(ValueError, match="lacks"):
        utility(table.drop(columns="a"), table, "y")
    with pytest.raises(ValueError, match="one class"):
        utility(table, table[table["y"] == "no"], "y")
