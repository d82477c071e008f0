"""Learning with some labels, where the truth is known: two normals, of which few rows say which."""

import numpy as np
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.wrappers import joint

MIXTURE = {"components": 1, "covariance": "full", "separate": "label"}


def two_normals(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Long thin classes side by side: three labelled rows of each cannot say which way they stretch."""
    rng = np.random.default_rng(seed)
    c = rng.integers(0, 2, rows)
    x = rng.normal(size=(rows, 2)) * [3.0, 0.5]
    x[:, 1] += 3.0 * c
    return x, c


def accuracy(model: pofx.Model, x: np.ndarray, c: np.ndarray) -> float:
    both = joint(model, torch.tensor([0, 1]), "label")
    value = both.log_joint(torch.from_numpy(x), 1, 0, None, None).value
    return float((value.argmax(-1).flatten().numpy() == c).mean())


def some(c: np.ndarray, labelled: np.ndarray) -> list:
    return [int(v) if k else None for v, k in zip(c, labelled, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_rows_without_a_label_help_where_the_classes_are_what_is_assumed(seed):
    x, c = two_normals(400, seed)
    data = open_data(x, test=1, valid=1, seed=0)
    labelled = np.zeros(len(c), bool)
    train = data.split["train"].numpy()
    for k in (0, 1):
        labelled[train[c[train] == k][:4]] = True
    few = pofx.fit_partly(data, "mixture", some(c, labelled), rounds=0, hyper_parameters=MIXTURE)
    more = pofx.fit_partly(data, "mixture", some(c, labelled), hyper_parameters=MIXTURE)
    fresh, truth = two_normals(2000, seed + 100)
    assert accuracy(more, fresh, truth) >= accuracy(few, fresh, truth)
    assert accuracy(more, fresh, truth) > 0.97
    moved = more.core.record["sorted"]
    assert moved[0] == 1.0 and moved[-1] < 0.1  # it settles


def test_all_labels_known_is_an_ordinary_fit():
    x, c = two_normals(200, 0)
    data = open_data(x, test=20, valid=20, seed=0)
    partly = pofx.fit_partly(data, "mixture", c.tolist(), hyper_parameters=MIXTURE)
    labels, space = pofx.data.given_of("label", c)
    whole = pofx.fit(data.with_given({"label": (labels, space)}), "mixture", hyper_parameters=MIXTURE, progress=False)
    rows = torch.from_numpy(x[:20])
    given = {"label": labels[:20]}
    torch.testing.assert_close(partly.log_prob(rows, given).value, whole.log_prob(rows, given).value)


def test_what_cannot_be_learnt_is_said():
    x, c = two_normals(60, 0)
    with pytest.raises(ValueError, match="3 labels for 60 rows"):
        pofx.fit_partly(x, "mixture", [0, 1, None])
    with pytest.raises(ValueError, match="no row has a label"):
        pofx.fit_partly(x, "mixture", [None] * 60)
