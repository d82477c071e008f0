"""Mutual information from draws of two columns, without bins: how many draws are near in one, and how many in both.

    I(x; y) = mean_i [ psi(k) + psi(N) - psi(n_x,i) - psi(n_y,i) ]                 two numbers (Kraskov 2004)
    I(x; c) = mean_i [ psi(k) + psi(N) - psi(N_c,i) - psi(m_i) ]                   a number and a label (Ross 2014)
    I(a; c) = sum p log p / (p_a p_c) - (K_a - 1) (K_c - 1) / 2N                   two labels (Miller 1955)

n_x,i: draws nearer to x_i than r_i, i among them, where r_i is the distance in both (the greater of the two) to the
k-th nearest draw; N_c,i: draws with the label of i; m_i: draws nearer to x_i than the k-th nearest of that label, i
among them; psi: digamma. Nats; each term is of one draw, so that their spread tells the error of the mean. Numbers must
not tie: whoever rounds adds noise of one step first, which leaves I as it is, for the step can be read off the sum.

References: Kraskov, Stoegbauer, Grassberger 2004 (arXiv:cond-mat/0305641); Ross 2014 (PLoS ONE 9:e87357); Miller 1955.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

Array = np.ndarray[Any, Any]
NEAREST = 3
INSIDE = 1 - 1e-12  # of a distance: rounding must not count the draw that sets it


def of_numbers(x: Array, y: Array, k: int = NEAREST) -> Array:
    """The terms `(N,)` of two columns of numbers `(N,)` without ties, N > k."""
    x, y = _scaled(x), _scaled(y)
    both = np.stack([x, y], 1)
    far = cKDTree(both).query(both, k + 1, p=np.inf)[0][:, -1]
    return digamma(k) + digamma(len(x)) - digamma(_nearer(x, x, far)) - digamma(_nearer(y, y, far))


def of_number_and_label(x: Array, label: Array, k: int = NEAREST) -> Array:
    """The terms of a column of numbers without ties and one of labels `(N,)`; a label that is met once has none."""
    _, code, count = np.unique(label, return_inverse=True, return_counts=True)
    x, code = _scaled(x)[count[code] > 1], code[count[code] > 1]
    terms = [np.zeros(1)] if not len(x) else []
    for c in np.unique(code):
        own = x[code == c]
        nearest = min(k, len(own) - 1)
        far = cKDTree(own[:, None]).query(own[:, None], nearest + 1)[0][:, -1]
        terms.append(digamma(nearest) + digamma(len(x)) - digamma(len(own)) - digamma(_nearer(x, own, far)))
    return np.concatenate(terms)


def of_labels(a: Array, c: Array) -> tuple[float, float]:
    """(I, its standard error) of two columns of codes `(N,)`, less the bias of a finite sample."""
    table = np.zeros((int(a.max()) + 1, int(c.max()) + 1))
    np.add.at(table, (a, c), 1.0)
    p = table / len(a)
    rows, columns = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    terms = np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, rows * columns, 1.0))
    mean = float((p * terms).sum())
    bias = (int((rows > 0).sum()) - 1) * (int((columns > 0).sum()) - 1) / (2 * len(a))
    return mean - bias, float(np.sqrt(max((p * terms**2).sum() - mean**2, 0.0) / len(a)))


def _nearer(x: Array, at: Array, far: Array) -> Array:
    """How many of x are nearer to each `at` than `far`."""
    line, reach = np.sort(x), far * INSIDE
    return np.searchsorted(line, at + reach, "right") - np.searchsorted(line, at - reach, "left")


def _scaled(x: Array) -> Array:
    spread = x.std()
    return (x - x.mean()) / (spread if spread > 0 else 1.0)
