"""Oversampling: a training set enlarged without a model, which is what a model's draws have to beat.

    repeated   z = z_i                                       i: a row of the class, drawn with replacement
    noisy      z = z_i + s e_j sigma_j,   e ~ N(0, 1)        s = 0.1; sigma: the columns' deviations over all rows
    smote      z = z_i + u (z_n - z_i),   u ~ U[0, 1]        n: one of the k = 5 nearest rows of i's own class
    shifted    a picture of the class, moved by one pixel    edge-filled; never mirrored, for digits have no mirror

Every way is `(z, y, counts, rng) -> (z, y)`: rows z `(N, F)` of numbers with codes y `(N,)`, and how many rows to add
of each code, counts `(K,)`. The real rows come first and as they were.

Between two codes of a category there is nothing. Columns that together hold one category (its indicators, or two
values) are named by `nominal`; `smote` treats them as SMOTE-NC does: two rows that differ in one are as far apart in it
as the median deviation of the numbers, and a new row takes what most of its k neighbours have. `noisy` leaves them as
they are. Ordered levels move as numbers, between the levels too.
References: Chawla, Bowyer, Hall and Kegelmeyer 2002 (arXiv:1106.1813; SMOTE section 4, SMOTE-NC section 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pofx.randomness import Rng

Array = np.ndarray[Any, Any]
Nominal = Sequence[Sequence[int]]
NEIGHBOURS, NOISE = 5, 0.1
MOVES = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j])  # to the eight pixels around


def repeated(z: Array, y: Array, counts: Array, rng: Rng) -> tuple[Array, Array]:
    """Real rows of each class again, drawn with replacement: the same as weights of the classes.

    Raises:
        ValueError: rows are wanted of a class that has none (so do the other ways).
    """
    rows = np.concatenate([np.arange(len(y)), _again(y, counts, rng)])
    return z[rows], y[rows]


def noisy(z: Array, y: Array, counts: Array, rng: Rng, nominal: Nominal = ()) -> tuple[Array, Array]:
    """The same, with a tenth of each column's deviation in noise on what is repeated; categories stay as they are."""
    a, b = repeated(z, y, counts, rng)
    spread = NOISE * z.std(0)
    spread[[j for columns in nominal for j in columns]] = 0
    a[len(z) :] += spread * rng.normal((len(a) - len(z), z.shape[1])).double().numpy()
    return a, b


def smote(
    z: Array, y: Array, counts: Array, rng: Rng, nominal: Nominal = (), neighbours: int = NEIGHBOURS
) -> tuple[Array, Array]:
    """Between a row and one of its nearest rows of the same class; a class of one row is repeated.

    Args:
        z, y, counts, rng: as for every way; distances are Euclidean, so z should be standardised.
        nominal: for each category, the columns that hold it.
        neighbours: k; all others of the class where it has fewer.
    """
    flat = np.array(sorted({j for columns in nominal for j in columns}), dtype=int)
    numbers = np.setdiff1d(np.arange(z.shape[1]), flat)
    parts, codes = [z], [y]
    for k, n in _wanted(y, counts):
        own = z[y == k]
        i = rng.integers(len(own), (n,)).numpy()
        near = _nearest(own, numbers, nominal, neighbours)
        picked = near[i, rng.integers(near.shape[1], (n,)).numpy()]
        fresh = own[i] + rng.uniform((n, 1)).double().numpy() * (own[picked] - own[i])
        for columns in nominal:
            fresh[:, columns] = _usual(own[:, columns], near)[i]
        parts.append(fresh)
        codes.append(np.full(n, k, dtype=y.dtype))
    return np.concatenate(parts), np.concatenate(codes)


def shifted(z: Array, y: Array, counts: Array, rng: Rng, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Pictures of each class again, each moved by one pixel to one of eight sides; the edge is continued.

    Args:
        z: pictures as rows, `(N, H * W * F)`, every pixel on the same scale; y, counts, rng: as for every way.
        shape: (H, W).

    Raises:
        ValueError: the columns of z are no pixels of such a picture.
    """
    if z.shape[1] % (shape[0] * shape[1]):
        raise ValueError(f"shifted: got {z.shape[1]} columns; expected F for each of {shape[0]} x {shape[1]} pixels.")
    a, b = repeated(z, y, counts, rng)
    fresh = a[len(z) :].reshape(-1, *shape, z.shape[1] // (shape[0] * shape[1]))
    moves = MOVES[rng.integers(len(MOVES), (len(fresh),)).numpy()]
    rows, columns = (np.clip(np.arange(side) - moves[:, [axis]], 0, side - 1) for axis, side in enumerate(shape))
    moved = fresh[np.arange(len(fresh))[:, None, None], rows[:, :, None], columns[:, None, :]]
    a[len(z) :] = moved.reshape(len(fresh), -1)
    return a, b


def _wanted(y: Array, counts: Array) -> list[tuple[int, int]]:
    """The codes of which rows are wanted, and how many."""
    wanted = [(k, int(n)) for k, n in enumerate(counts) if n]
    empty = [k for k, _ in wanted if not (y == k).any()]
    if empty:
        raise ValueError(f"got no row of the classes with the codes {empty}; expected at least one of each to enlarge.")
    return wanted


def _again(y: Array, counts: Array, rng: Rng) -> Array:
    """Which rows are repeated."""
    parts = [np.flatnonzero(y == k)[rng.integers(int((y == k).sum()), (n,)).numpy()] for k, n in _wanted(y, counts)]
    return np.concatenate([np.zeros(0, dtype=int), *parts])


def _nearest(own: Array, numbers: Array, nominal: Nominal, neighbours: int) -> Array:
    """The rows of a class that are nearest to each of them, `(N, k)`; a row alone is its own neighbour."""
    from sklearn.neighbors import NearestNeighbors

    if len(own) < 2:
        return np.zeros((1, 1), dtype=int)
    gap = float(np.median(own[:, numbers].std(0))) if len(numbers) else 1.0
    coded = [own[:, numbers]]
    for columns in nominal:
        values, code = _codes(own[:, columns])
        coded.append(np.eye(len(values))[code] * gap / np.sqrt(2))  # two that differ are sqrt(2) apart before this
    known = NearestNeighbors(n_neighbors=min(neighbours, len(own) - 1)).fit(np.hstack(coded))
    return known.kneighbors(return_distance=False)  # of the rows themselves, none of which counts as its own


def _usual(values: Array, near: Array) -> Array:
    """What most neighbours of each row have in the columns of one category; of a tie, what comes first, `(N, F)`."""
    known, code = _codes(values)
    votes = np.eye(len(known))[code][near].sum(1)
    return known[votes.argmax(1)]


def _codes(values: Array) -> tuple[Array, Array]:
    """The different rows of some columns, and which of them each row has."""
    known, code = np.unique(values, axis=0, return_inverse=True)
    return known, code.reshape(-1)
