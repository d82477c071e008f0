"""How far samples are from the data: two-sample statistics on float features.

    C2ST        accuracy of a classifier real / fake on held-out folds, 0.5 = cannot be told apart
    precision   share of fake y with |y - x_i| <= r_k(x_i) for some real x_i;  recall: the roles exchanged
    density     1/(kM) sum_j #{i: |y_j - x_i| <= r_k(x_i)};  coverage: share of real x_i with a fake in their ball
    MMD^2_u     mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j),  k = exp(-|.|^2 / 2h^2)
    SW_p^p      mean over directions v of  int |F_{v.x}^-1(q) - F_{v.y}^-1(q)|^p dq
    Frechet     |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))

Offers `c2st`, `prdc`, `mmd`, `sliced_wasserstein`, `frechet`. Nothing is kept: the classifier is fitted per fold.
Real rows must be rows that the model did not see. Features come from `features.py` or from the user.

References: Lopez-Paz & Oquab 2017 arXiv:1610.06545; Kynkaanniemi 2019 arXiv:1904.06991; Naeem 2020 arXiv:2002.09797;
Gretton 2012 (JMLR 13); Rabin 2011, Bonneel 2015 (sliced Wasserstein); Heusel 2017 arXiv:1706.08500; Nadeau & Bengio
2003 (variance of cross-validation); Chong & Forsyth 2020 arXiv:1911.07023 (bias of the Frechet distance).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pofx.metrics.base import (
    Array,
    ArrayLike,
    Metric,
    RngSource,
    bootstrap,
    chunks,
    normal_interval,
    pair,
    proportion,
    subset,
)
from pofx.metrics.scores import delong
from pofx.randomness import Rng


@dataclass(frozen=True)
class C2ST:
    """Held-out accuracy and area under the ROC curve of a classifier real / fake; 0.5 is best for both."""

    accuracy: Metric
    auc: Metric


@dataclass(frozen=True)
class PRDC:
    """Fidelity (precision, density) and diversity (recall, coverage)."""

    precision: Metric
    recall: Metric
    density: Metric
    coverage: Metric


def c2st(real: ArrayLike, fake: ArrayLike, rng: RngSource = None, folds: int = 5, limit: int = 5000) -> C2ST:
    """Classifier two-sample test: can a classifier tell fake (M, D) from real (N, D) on rows it was not fitted on?

    The classifier is the mean probability of a logistic regression of second order (means, spreads, correlations;
    strong for few rows) and small boosted trees (any scale, bounds, holes, interactions). A nearest-neighbour vote is
    left out on purpose: where fakes repeat real rows it falls *below* 0.5. Both sets are cut to the same number of
    rows, at most `limit`. The intervals are Wilson's and DeLong's, widened by Nadeau & Bengio's factor 1 + k / (k - 1)
    of the variance, for the k folds share training rows (measured: plain ones hold 0.5 in 85 % and 77 %, not 95 %).

    Bias in N: downwards: the accuracy rises with N as the classifier learns; under equality it is 0.5 for
    every N. Compare only values at the same N.

    Raises:
        ValueError: columns differ, NaN, or fewer rows than 2 * folds. Source: arXiv:1610.06545.
    """
    rng = Rng(rng)
    x, y = pair(real, fake)
    n = min(len(x), len(y), limit)
    if n < 2 * folds:
        raise ValueError(f"c2st: got {n} rows a side; expected at least {2 * folds} for {folds} folds.")
    x, y = _shuffled(x, n, rng), _shuffled(y, n, rng)
    seed, scores, part = rng.seed() % 2**31, np.zeros((2, n)), _parts(x, y, folds)
    for f in range(folds):
        held = part == f
        scores[held] = _fold(x, y, held, seed)
    hits = (scores[0] < 0.5).sum() + (scores[1] > 0.5).sum() + 0.5 * (scores == 0.5).sum()
    note = "0.5 = cannot be told apart" if hits >= 0.9 * n else "below 0.5: does fake repeat rows of real?"
    widen = 1 + folds / (folds - 1)
    accuracy = replace(proportion("c2st accuracy", hits / widen, 2 * n / widen, "lower", note=note), n=2 * n)
    return C2ST(accuracy, _fold_auc(scores, part, widen, note))


def prdc(real: ArrayLike, fake: ArrayLike, k: int = 5, rng: RngSource = 0, draws: int = 200) -> PRDC:
    """Precision, recall, density, coverage of fake (M, D) against real (N, D), with balls to the k-th neighbour.

    Balls are closed, so that repeated rows (radius 0) count as hit. Intervals: Wilson for the three shares (a
    bootstrap collapses at 0 and 1), bootstrap for the density; the balls are held fixed, so the noise of the ball
    centres is left out.

    Bias in N: under equality E[density] = 1, E[coverage] = 1 - prod_{i<k} (N-1-i)/(N+M-1-i), 1 - 2^-k for large N = M.
    Precision and recall under equality fall below 1 and depend on N and D. Compare only at the same N, M and k.

    Raises:
        ValueError: columns differ, NaN, or k not below the number of rows. Source: arXiv:1904.06991, arXiv:2002.09797.
    """
    x, y = pair(real, fake)
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(f"prdc: got k={k} with {len(x)} real and {len(y)} fake rows; expected 1 <= k < rows.")
    recalled, covered, count = _ball_hits(x, y, _radii(x, k), _radii(y, k))
    low, high = bootstrap(lambda c: float(c.mean()), [count / k], rng, draws)
    note = f"k = {k}, {len(x)} real, {len(y)} fake"
    return PRDC(
        proportion("precision", float((count > 0).sum()), len(y), "higher", note=note),
        proportion("recall", float(recalled.sum()), len(x), "higher", note=note),
        Metric("density", float(count.mean() / k), low, high, len(y), "higher", note),
        proportion("coverage", float(covered.sum()), len(x), "higher", note=note),
    )


def mmd(
    real: ArrayLike, fake: ArrayLike, rng: RngSource = 0, bandwidth: float | None = None, limit: int = 2000
) -> Metric:
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel; may be negative.

    The bandwidth h is the median distance between pooled rows unless given. More than `limit` rows are cut at random.
    The interval is the two-sample jackknife's, conservative where the distributions agree.

    Bias in N: none given h (mean 0 under equality). The median heuristic itself moves as 1/sqrt(N).

    Raises:
        ValueError: columns differ, NaN, or fewer than three rows. Source: Gretton 2012.
    """
    x, y = _both("mmd", real, fake, limit, rng)
    squares = [_squares(x, x), _squares(y, y), _squares(x, y)]
    h = _median_distance(squares) if bandwidth is None else bandwidth
    kernels = [np.exp(-d / (2 * h**2)) for d in squares]
    return _discrepancy("MMD^2", kernels, f"unbiased, Gaussian kernel of bandwidth {h:.4g}")


def kid(real: ArrayLike, fake: ArrayLike, rng: RngSource = 0, limit: int = 2000) -> Metric:
    """Kernel distance (KID): unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3; may be negative.

    More than `limit` rows are cut at random. The interval is the two-sample jackknife's.

    Bias in N: none: unlike the Frechet distance, values at different N may be compared (over the same features).

    Raises:
        ValueError: columns differ, NaN, or fewer than three rows. Source: Binkowski 2018 arXiv:1801.01401.
    """
    x, y = _both("kid", real, fake, limit, rng)
    kernels = [(a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    return _discrepancy("KID", kernels, "unbiased, cubic kernel")


def _both(name: str, real: ArrayLike, fake: ArrayLike, limit: int, rng: RngSource) -> tuple[Array, Array]:
    rng = Rng(rng)
    x, y = (subset(a, limit, rng) for a in pair(real, fake))
    if min(len(x), len(y)) < 3:
        raise ValueError(f"{name}: got {len(x)} and {len(y)} rows; expected at least 3 of each.")
    return x, y


def _discrepancy(name: str, kernels: list[Array], note: str) -> Metric:
    """The unbiased squared distance of two kernel means, from the kernels within x, within y and across."""
    kxx, kyy, kxy = kernels
    n, m = kxy.shape
    np.fill_diagonal(kxx, 0.0)
    np.fill_diagonal(kyy, 0.0)
    value = float(kxx.sum() / (n * (n - 1)) + kyy.sum() / (m * (m - 1)) - 2 * kxy.mean())
    error = np.sqrt(_jackknife(kxx, kxy, kyy) + _jackknife(kyy, kxy.T, kxx))
    return Metric(name, value, *normal_interval(value, float(error)), min(n, m), "lower", note)


def sliced_wasserstein(
    real: ArrayLike, fake: ArrayLike, rng: RngSource = 0, projections: int = 128, order: int = 2, limit: int = 2000
) -> Metric:
    """Sliced Wasserstein distance of the given order, in the units of the features, on equal numbers of rows.

    Bias in N: upwards. Under equality it is about c / sqrt(N), never 0: the note gives that floor, measured between two
    halves of the real rows and rescaled by sqrt(1/2). Compare only at the same N.
    The interval is value +- z * bootstrap deviation, of rows and of directions: both are a random few of many.

    Raises:
        ValueError: columns differ, NaN, or fewer than four rows. Source: Bonneel 2015.
    """
    rng = Rng(rng)
    x, y = pair(real, fake)
    n = min(len(x), len(y), limit)
    if n < 4:
        raise ValueError(f"sliced_wasserstein: got {n} rows; expected at least 4.")
    v = rng.normal((x.shape[1], projections)).double().cpu().numpy()
    v /= np.linalg.norm(v, axis=0)
    x, y = _shuffled(x, n, rng) @ v, _shuffled(y, n, rng) @ v
    value, floor = _sliced(x, y, order), _sliced(x[: n // 2], x[n // 2 : 2 * (n // 2)], order) / np.sqrt(2)
    sets = [x, y, np.arange(projections)]
    low, high = bootstrap(lambda a, b, k: _sliced(a[:, k], b[:, k], order), sets, rng, draws=40, centred=True)
    note = f"{projections} directions, order {order}; floor at this N about {floor:.3g}"
    return Metric("sliced Wasserstein", value, max(low, 0.0), high, n, "lower", note)


def frechet(real: ArrayLike, fake: ArrayLike, rng: RngSource = 0, draws: int = 40) -> Metric:
    """Frechet distance between Gaussians fitted to both sets of features (squared, as FID is).

    Bias in N: upwards, about c / N with c growing as D^2; the note states both N. Two values at different N must not be
    compared (arXiv:1911.07023), nor values over other features. The interval is value +- z * bootstrap deviation.

    Raises:
        ValueError: columns differ, NaN, or fewer than two rows. Source: arXiv:1706.08500.
    """
    x, y = pair(real, fake)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"frechet: got {len(x)} and {len(y)} rows; expected at least 2 of each.")
    low, high = bootstrap(_frechet, [x, y], rng, draws, centred=True)
    few = "; fewer rows than 10 per feature: mostly bias" if min(len(x), len(y)) < 10 * x.shape[1] else ""
    note = f"N = {len(x)} real, {len(y)} fake, D = {x.shape[1]}{few}"
    return Metric("Frechet distance", _frechet(x, y), max(low, 0.0), high, min(len(x), len(y)), "lower", note)


def frechet_gaussians(mean: Array, cov: Array, mean2: Array, cov2: Array) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S^(1/2) S' S^(1/2))^(1/2)); means (D,), covariances (D, D).

    Bias in N: none, it takes no rows.
    """
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(0)).sum()
    return float(((mean - mean2) ** 2).sum() + np.trace(cov) + np.trace(cov2) - 2 * cross)


def _shuffled(x: Array, n: int, rng: Rng) -> Array:
    return x[rng.permutation(len(x)).cpu().numpy()[:n]]


def _parts(x: Array, y: Array, folds: int) -> Array:
    """Fold of each row (2, n): in turn, but equal rows of both sides share one, lest a twin teach the wrong label."""
    n = len(x)
    _, group = np.unique(np.concatenate([x, y]), axis=0, return_inverse=True)
    group = group.reshape(2, n)
    shared = np.isin(group, np.intersect1d(group[0], group[1]))
    turn = np.cumsum(~shared, axis=1) - 1
    return np.where(shared, group, turn) % folds


def _fold(x: Array, y: Array, held: Array, seed: int) -> Array:
    """Probability of "fake" for the held-out rows, those of x first."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([x[~held[0]], y[~held[1]]])
    label = np.repeat([0, 1], (~held).sum(1))
    test = np.concatenate([x[held[0]], y[held[1]]])
    mean, scale = rows.mean(0), rows.std(0)
    z, z_test = ((a - mean) / np.where(scale > 0, scale, 1.0) for a in (rows, test))
    cross = z.shape[1] * (z.shape[1] + 1) // 2 <= len(z) // 4
    line = LogisticRegression(C=0.1, max_iter=200).fit(_second_order(z, cross), label)
    trees = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, max_bins=64, early_stopping=False, random_state=seed
    ).fit(z, label)
    return (line.predict_proba(_second_order(z_test, cross))[:, 1] + trees.predict_proba(z_test)[:, 1]) / 2


def _second_order(z: Array, cross: bool) -> Array:
    """z and its squares, and its products of pairs where there are rows enough for them."""
    z = z.clip(-5, 5)  # a single outlier must not own the linear fit
    i, j = np.triu_indices(z.shape[1]) if cross else (np.arange(z.shape[1]),) * 2
    return np.concatenate([z, z[:, i] * z[:, j]], axis=1)


def _fold_auc(scores: Array, part: Array, widen: float, note: str) -> Metric:
    parts = [delong(scores[0, part[0] == f], scores[1, part[1] == f]) for f in range(part.max() + 1)]
    value = float(np.mean([a for a, _ in parts]))
    error = float(np.sqrt(widen * np.sum([v for _, v in parts])) / len(parts))
    low, high = normal_interval(value, error)
    return Metric("c2st AUC", value, max(low, 0.0), min(high, 1.0), scores.size, "lower", note)


def _squares(a: Array, b: Array) -> Array:
    from scipy.spatial.distance import cdist  # differences, not a^2 - 2ab + b^2: equal rows are at distance 0 exactly

    return cdist(a, b, "sqeuclidean")


def _radii(x: Array, k: int) -> Array:
    """Squared distance from each row to its k-th other row."""
    return np.concatenate([np.partition(_squares(x[s], x), k, axis=1)[:, k] for s in chunks(len(x), len(x))])


def _ball_hits(x: Array, y: Array, r_x: Array, r_y: Array) -> tuple[Array, Array, Array]:
    recalled, covered, count = np.zeros(len(x), bool), np.zeros(len(x), bool), np.zeros(len(y))
    for s in chunks(len(x), len(y)):
        d = _squares(x[s], y)
        inside = d <= r_x[s, None]
        recalled[s], covered[s] = (d <= r_y).any(1), inside.any(1)
        count += inside.sum(0)
    return recalled, covered, count


def _median_distance(squares: list[Array]) -> float:
    within = [np.sqrt(d[np.triu_indices(len(d), 1)]) for d in squares[:2]]
    d = np.concatenate([*within, np.sqrt(squares[2].ravel())])
    middle = float(np.median(d))
    return middle if middle > 0 else float(d.mean()) or 1.0  # mostly repeated rows have median 0


def _jackknife(kaa: Array, kab: Array, kbb: Array) -> float:
    """Variance of MMD^2 from leaving out one row of a at a time."""
    n = len(kaa)
    within = (kaa.sum() - 2 * kaa.sum(1)) / ((n - 1) * (n - 2))
    across = (kab.sum() - kab.sum(1)) / ((n - 1) * len(kbb))
    left = within - 2 * across
    return float((n - 1) / n * ((left - left.mean()) ** 2).sum())


def _sliced(x: Array, y: Array, order: int) -> float:
    return float((np.abs(np.sort(x, axis=0) - np.sort(y, axis=0)) ** order).mean() ** (1 / order))


def _frechet(x: Array, y: Array) -> float:
    return frechet_gaussians(x.mean(0), np.atleast_2d(np.cov(x.T)), y.mean(0), np.atleast_2d(np.cov(y.T)))
