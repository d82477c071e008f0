"""Enlarging without a model: where a new row may lie, and where it may not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

import pofx
from pofx.engines.oversample import noisy, repeated, shifted, smote
from pofx.tasks.enlarge import Columns


def test_simple_ways():
    z, y = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 0, 1, 1])
    a, b = repeated(z, y, np.array([0, 3]), pofx.Rng(0))
    assert b.tolist() == [*y, 1, 1, 1] and (a[:6] == z).all() and set(a[6:, 0]) <= {8.0, 10.0}
    c, _ = noisy(z, y, np.array([0, 3]), pofx.Rng(0))
    assert (c[:6] == z).all() and 0 < np.abs(c[6:] - a[6:]).max() < 2
    for way in (repeated, noisy, smote):
        with pytest.raises(ValueError, match=r"no row of the classes with the codes \[2\]; expected at least one"):
            way(z, y, np.array([0, 3, 1]), pofx.Rng(0))


def places(fresh, own, neighbours=5):
    """Where a row lies between a row of `own` and one of its nearest, (row, neighbour, u); None where it is on no line.

    By brute force, with distances of its own.
    """
    far = np.linalg.norm(own[:, None] - own, axis=-1) + np.diag(np.full(len(own), np.inf))
    for i, near in enumerate(far.argsort(1)[:, : min(neighbours, len(own) - 1)]):
        for j in near:
            line = own[j] - own[i]
            u = float((fresh - own[i]) @ line / (line @ line))
            if np.abs(own[i] + u * line - fresh).max() < 1e-9:
                return i, j, u
    return None


def test_smote_is_between_near_rows_of_one_class():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2, 3], [40, 12, 3, 1])[rng.permutation(56)]
    z = rng.normal(size=(56, 3))  # classes lie in one another: neighbours of another class would be nearer
    a, b = smote(z, y, np.array([0, 400, 60, 4]), pofx.Rng(1))
    assert (a[:56] == z).all() and b.tolist() == [*y, *[1] * 400, *[2] * 60, *[3] * 4]
    for code, n in ((1, 400), (2, 60)):
        found = [places(row, z[y == code]) for row in a[56:][b[56:] == code]]
        assert None not in found
        assert all(0 <= u <= 1 for _, _, u in found) and kstest([u for _, _, u in found], "uniform").pvalue > 1e-3
        assert {i for i, _, _ in found} | {j for _, j, _ in found} == set(range((y == code).sum())), "each has its turn"
        assert len(np.unique(a[56:][b[56:] == code], axis=0)) == n
    assert (a[-4:] == z[y == 3]).all(), "a row alone is repeated"
    same, _ = smote(z, y, np.array([0, 5]), pofx.Rng(1))
    assert (smote(z, y, np.array([0, 5]), pofx.Rng(1))[0] == same).all()
    twins = np.concatenate([z[:4], z[:4]])
    assert np.isfinite(smote(twins, np.zeros(8, int), np.array([20]), pofx.Rng(0))[0]).all()


def test_smote_takes_a_category_from_most_neighbours():
    """Nothing lies between two names: SMOTE-NC, by hand for one row and its neighbours."""
    rng = np.random.default_rng(3)
    z = np.concatenate([rng.normal(size=(30, 2)), np.eye(3)[rng.integers(3, size=30)]], 1)
    y, nominal = np.repeat([0, 1], [10, 20]), [[2, 3, 4]]
    a, _ = smote(z, y, np.array([0, 300]), pofx.Rng(0), nominal)
    fresh, own = a[30:], z[y == 1]
    assert set(map(tuple, fresh[:, 2:])) <= set(map(tuple, np.eye(3)))
    gap = np.median(own[:, :2].std(0))  # what a difference of category counts, beside the distance in numbers
    far = np.sqrt(((own[:, None, :2] - own[:, :2]) ** 2).sum(-1) + gap**2 * (own[:, None, 2:] != own[:, 2:]).any(-1))
    near = (far + np.diag(np.full(20, np.inf))).argsort(1)[:, :5]
    votes = own[near][:, :, 2:].sum(1)
    usual = votes == votes.max(1, keepdims=True)  # of a tie, either
    hits = 0
    for row in fresh:
        lines = own[near][:, :, :2] - own[:, None, :2]
        u = ((row[:2] - own[:, None, :2]) * lines).sum(-1) / (lines**2).sum(-1)
        off = np.abs(own[:, None, :2] + u[..., None] * lines - row[:2]).max(-1) + 9.0 * ((u < 0) | (u > 1))
        hits += any(usual[i, row[2:].argmax()] for i in np.flatnonzero(off.min(1) < 1e-9))
    assert hits == 300
    assert set(map(tuple, noisy(z, y, np.array([0, 50]), pofx.Rng(0), nominal)[0][30:, 2:])) <= set(
        map(tuple, np.eye(3))
    )
    words = pd.DataFrame({"u": [0.5, 1.5, 2.5, 3.5], "w": list("abca"), "two": list("xyxy"), "kind": list("pqpq")})
    space = pofx.open_data(words, test=0, valid=0).space
    assert Columns(space, "kind").nominal == [[1, 2, 3], [4]]


def test_a_shift_is_a_shift():
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(6, 4, 5, 2))
    z, y = pictures.reshape(6, -1), np.array([0, 0, 0, 1, 1, 1])
    a, b = shifted(z, y, np.array([0, 200]), pofx.Rng(0), (4, 5))
    assert (a[:6] == z).all() and b.tolist() == [*y, *[1] * 200]
    moved, found = a[6:].reshape(-1, 4, 5, 2), set()
    wide = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    every = {(i, r, c): wide[i, 1 - r : 5 - r, 1 - c : 6 - c] for i in range(6) for r in (-1, 0, 1) for c in (-1, 0, 1)}
    for one in moved:
        (which,) = [key for key, x in every.items() if (x == one).all()]
        found.add(which)
    assert found == {(i, r, c) for i in (3, 4, 5) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c}
    with pytest.raises(ValueError, match="got 40 columns; expected F for each of 3 x 5 pixels"):
        shifted(z, y, np.array([0, 1]), pofx.Rng(0), (3, 5))
