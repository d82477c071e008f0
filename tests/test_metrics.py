"""The judges are judged: closed forms, other people's numbers, null distributions, and faults that must be seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from pofx import metrics
from pofx.metrics import (
    Features,
    Metric,
    auroc,
    benjamini_hochberg,
    bootstrap,
    c2st,
    column_shapes,
    conformal_pvalues,
    copying,
    crps_sample,
    crps_values,
    frechet,
    frechet_gaussians,
    interval_coverage,
    mmd,
    pair_trends,
    paired_difference,
    prdc,
    proportion,
    rmse,
    sliced_wasserstein,
    strangest_pvalues,
    valid_values,
)


def normal(seed: int, n: int, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def z_score(values: list[float], truth: float) -> float:
    return (np.mean(values) - truth) / (np.std(values, ddof=1) / np.sqrt(len(values)))


# --- base ---------------------------------------------------------------------------------------------------------


def test_intervals_cover_at_their_level():
    hits = {"t": 0, "boot": 0, "wilson": 0}
    for s in range(200):
        x = np.random.default_rng(s).exponential(size=60)
        low, high = bootstrap(lambda a: float(a.mean()), [x], s, draws=100)
        m, p = paired_difference(x, np.zeros(60)), proportion("p", float((x > 2).sum()), 60, "lower")
        hits["boot"] += low <= 1 <= high
        hits["t"] += m.low <= 1 <= m.high
        hits["wilson"] += p.low <= np.exp(-2) <= p.high
    assert all(0.88 <= h / 200 <= 0.99 for h in hits.values()), hits


def test_paired_difference_is_scipys():
    a, b = normal(0, 30, 1)[:, 0], normal(1, 30, 1)[:, 0]
    got, want = paired_difference(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    with pytest.raises(ValueError, match="same rows"):
        paired_difference(a, b[:-1])


def test_wilson_is_scipys():
    want = stats.binomtest(3, 17).proportion_ci(method="wilson")
    got = proportion("p", 3, 17, "lower")
    assert (got.low, got.high) == pytest.approx((want.low, want.high))


def test_import_is_cheap_and_changes_nothing_global():
    code = "import sys, pofx.metrics; print([m for m in ('sklearn', 'pandas', 'scipy.stats') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(metrics.__file__).parents[2])},
    )
    assert done.stdout.strip() == "[]"


def test_every_metric_states_its_bias():
    names = [n for n in metrics.__all__ if n[0].islower() and n not in ("mean_metric", "proportion", "crps_values")]
    lacking = [n for n in names if "bias in N" not in (getattr(metrics, n).__doc__ or "").replace("Bias", "bias")]
    assert not lacking


# --- samples ------------------------------------------------------------------------------------------------------


def test_c2st_is_half_under_equality_and_its_interval_holds_it():
    runs = [c2st(normal(2 * s, 80), normal(2 * s + 1, 80), s) for s in range(10)]
    assert abs(z_score([r.accuracy.value for r in runs], 0.5)) < 5
    assert abs(z_score([r.auc.value for r in runs], 0.5)) < 5
    assert sum(r.accuracy.low <= 0.5 <= r.accuracy.high for r in runs) >= 8


@pytest.mark.parametrize("fault", ["shift", "spread", "correlation", "mode"])
def test_c2st_sees(fault: str):
    x, y = normal(0, 300), normal(1, 300)
    if fault == "shift":
        y = y + 0.7
    elif fault == "spread":
        y = y * 1.6
    elif fault == "correlation":
        y[:, 1] = 0.8 * y[:, 0] + 0.6 * y[:, 1]
    else:
        x[:150] += 8.0
    got = c2st(x, y, 0)
    assert got.accuracy.low > 0.52 and got.auc.low > 0.52


def test_c2st_is_not_fooled_by_a_copy_of_its_own_reference():
    x = normal(0, 200)
    assert c2st(x, x.copy(), 0).accuracy.value == pytest.approx(0.5, abs=0.05)


def test_prdc_closed_forms_under_equality():
    n, m, k = 80, 60, 5
    runs = [prdc(normal(2 * s, n, 2), normal(2 * s + 1, m, 2), k, draws=5) for s in range(60)]
    i = np.arange(k)
    coverage = 1 - np.prod((n - 1 - i) / (n + m - 1 - i))
    assert abs(z_score([r.density.value for r in runs], 1.0)) < 5
    assert abs(z_score([r.coverage.value for r in runs], coverage)) < 5


def test_prdc_against_the_definition_by_loops():
    x, y, k = normal(0, 25, 2), normal(1, 30, 2) + 0.5, 3

    def ball(a):
        return [sorted(np.linalg.norm(a - p, axis=1))[k] for p in a]

    inside_x = np.array([[np.linalg.norm(p - q) <= r for q in y] for p, r in zip(x, ball(x), strict=True)])
    inside_y = np.array([[np.linalg.norm(p - q) <= r for q in x] for p, r in zip(y, ball(y), strict=True)])
    got = prdc(x, y, k)
    assert got.precision.value == pytest.approx(inside_x.any(0).mean())
    assert got.recall.value == pytest.approx(inside_y.any(0).mean())
    assert got.density.value == pytest.approx(inside_x.sum() / (k * len(y)))
    assert got.coverage.value == pytest.approx(inside_x.any(1).mean())


def test_dropping_a_mode_lowers_recall_and_coverage_noise_lowers_precision():
    modes = np.random.default_rng(0).integers(0, 2, 600)[:, None] * 10.0
    x, y = normal(1, 600) + modes, normal(2, 600) + modes[::-1]
    honest, dropped, noisy = prdc(x, y), prdc(x, normal(2, 600)), prdc(x, y + 3 * normal(3, 600))
    assert dropped.recall.high < honest.recall.low and dropped.coverage.high < honest.coverage.low
    assert dropped.precision.value > honest.precision.low - 0.05
    assert noisy.precision.high < honest.precision.low and noisy.density.high < honest.density.low


def test_mmd_is_unbiased_and_known_for_gaussians():
    null = [mmd(normal(2 * s, 12, 2), normal(2 * s + 1, 10, 2), bandwidth=1.0) for s in range(400)]
    assert abs(z_score([m.value for m in null], 0.0)) < 5
    assert any(m.value < 0 for m in null)
    assert np.mean([m.low <= 0 <= m.high for m in null]) > 0.9
    shift, d, h2 = 1.0, 2, 1.0  # E k = (h^2 / (h^2 + 2))^(d/2) exp(-|mu|^2 / 2(h^2 + 2))
    same = (h2 / (h2 + 2)) ** (d / 2)
    truth = 2 * same * (1 - np.exp(-(shift**2) / (2 * (h2 + 2))))
    move = np.array([shift, 0.0])
    runs = [mmd(normal(2 * s, 60, 2), normal(2 * s + 1, 50, 2) + move, bandwidth=1.0) for s in range(60)]
    assert abs(z_score([m.value for m in runs], truth)) < 5
    assert np.mean([m.low <= truth <= m.high for m in runs]) > 0.85


def test_sliced_wasserstein_of_a_shift():
    x = normal(0, 500, 3)
    got = sliced_wasserstein(x, x + np.array([3.0, 0, 0]), projections=500)
    assert got.value == pytest.approx(3 / np.sqrt(3), rel=0.05)  # E (v . s)^2 = |s|^2 / D
    one = sliced_wasserstein(x[:, :1], 2 * normal(5, 500, 1), order=1)
    assert one.value == pytest.approx(stats.wasserstein_distance(x[:, 0], 2 * normal(5, 500, 1)[:, 0]))


@pytest.mark.parametrize(("order", "truth"), [(1, 10 * 2 / np.pi), (2, 10 / np.sqrt(2))])
def test_the_interval_of_sliced_wasserstein_knows_that_directions_are_random(order, truth):
    """A shift so far that rows hardly matter: along a direction v the distance is |v . s|."""
    shift, hits = np.array([10.0, 0.0]), 0
    for s in range(100):
        found = sliced_wasserstein(normal(s, 100, 2), normal(1000 + s, 100, 2) + shift, s, order=order)
        hits += found.low <= truth <= found.high
    assert hits >= 88


def test_frechet_closed_form_and_bias():
    a, b = normal(0, 5, 3), normal(1, 6, 3)
    s, t = a.T @ a, b.T @ b
    want = 2.0**2 * 3 + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet_gaussians(np.zeros(3), s, np.full(3, 2.0), t) == pytest.approx(want)
    assert frechet_gaussians(np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1)) == pytest.approx(1 + 1)
    small, large = frechet(normal(0, 50), normal(1, 50)), frechet(normal(0, 5000), normal(1, 5000), draws=2)
    assert small.value > 5 * large.value > 0  # upwards, about 1 / N
    assert "N = 50" in small.note


# --- copying ------------------------------------------------------------------------------------------------------

SEEDS = range(20)


def split(seed: int, n: int = 200, d: int = 5) -> tuple[np.ndarray, ...]:
    x = normal(seed, 3 * n, d)
    return x[:n], x[n : 2 * n], x[2 * n :]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_copy_is_flagged(noise: float):
    for s in SEEDS:
        train, holdout, fresh = split(s)
        report = copying(train, holdout, train[::-1] + noise * fresh)
        assert report.flagged and report.auc.low > 0.75 and report.excess.value > 0.8


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_a_fresh_sample_is_not_flagged_even_if_it_seeks_the_mode(scale: float):
    reports = [copying(*(a if i < 2 else scale * a for i, a in enumerate(split(s)))) for s in SEEDS]
    assert not any(r.flagged for r in reports)
    assert abs(z_score([r.excess.value for r in reports], 0.0)) < 5
    error = np.mean([(r.excess.high - r.excess.low) / (2 * 1.96) for r in reports])
    assert 0.6 < np.std([r.excess.value for r in reports], ddof=1) / error < 1.6  # the relabelling deviation is right
    if scale == 0.5:
        assert np.mean([r.auc.value for r in reports]) > 0.75  # why the AUC describes and does not decide


def test_natural_repeats_are_not_copies_but_copies_among_them_are():
    for s in SEEDS:
        g = np.random.default_rng(s)
        few, many = (g.binomial(k, 0.4, (600, d)).astype(float) for k, d in ((1, 3), (3, 6)))
        for x in (few, many):
            assert not copying(x[:200], x[200:400], x[400:]).flagged
        assert copying(few[:200], few[200:400], few[400:]).exact.value > 0.9
        assert copying(many[:200], many[200:400], many[:200]).flagged
        collapsed = np.tile(few.mean(0).round(), (200, 1))
        assert not copying(few[:200], few[200:400], collapsed).flagged


def test_partial_copies_small_holdouts_and_collapse_on_three_rows():
    for s in SEEDS:
        train, holdout, fresh = split(s)
        assert copying(train, holdout, np.concatenate([fresh, train[:40]])).flagged
        few = copying(train, holdout[:20], train)
        assert few.flagged and few.excess.value == pytest.approx(1.0)
        assert not copying(train, holdout[:20], fresh).flagged
        assert copying(train, holdout, train[np.arange(200) % 3] + 0.02 * fresh).flagged


# --- features -----------------------------------------------------------------------------------------------------


def test_whitened_features_have_unit_covariance():
    x = normal(0, 400, 3) @ normal(1, 3, 3) * np.array([1.0, 100.0, 0.01])
    f = Features.fit(np.column_stack([x, np.full(400, 7.0)]))
    z = f(np.column_stack([x, np.full(400, 9.0)]))
    assert np.allclose(np.cov(z.T, bias=True), np.eye(3), atol=1e-8)
    with pytest.raises(ValueError, match="expected 4"):
        f(x)


def test_classifier_features_of_digits_are_reproducible_and_informative():
    x, y = load_digits(return_X_y=True)
    pictures = torch.tensor(x, dtype=torch.float32).reshape(-1, 8, 8)
    a, b = Features.fit(pictures[:900], y[:900]), Features.fit(pictures[:900], y[:900])
    z = a(pictures)
    assert np.array_equal(z, b(pictures)) and z[:900].std(0) == pytest.approx(1.0)
    nearest = np.linalg.norm(z[900:, None] - z[None, :900], axis=2).argmin(1)
    assert (y[nearest] == y[900:]).mean() > 0.9
    assert frechet(z[:900], z[900:]).high < frechet(z[:900], a(pictures[900:] * 0.5)).low


# --- tables -------------------------------------------------------------------------------------------------------


def table(seed: int, n: int, shift: float) -> pd.DataFrame:
    g = np.random.RandomState(seed)
    a = g.randn(n) + shift
    b, k = 0.6 * a + g.randn(n), g.randint(0, 9, n).astype(float)
    c = np.array(["u", "v", "w"], object)[(a > 0).astype(int) + (g.rand(n) < 0.3)]
    d = np.array(["x", "y"], object)[(g.rand(n) < 0.5 + 0.2 * (c == "u")).astype(int)]
    b[g.rand(n) < 0.1 + shift / 4] = np.nan
    c[g.rand(n) < 0.05] = None
    t = pd.to_datetime("2020-01-01") + pd.to_timedelta(g.randint(0, 1000, n), unit="h")
    return pd.DataFrame({"a": a, "b": b, "k": k, "c": c, "d": d, "flag": g.rand(n) < 0.4, "t": t})


def test_tables_are_judged_as_sdmetrics_does():
    real, fake = table(0, 400, 0.0), table(1, 300, 0.3)  # numbers of SDMetrics 0.32.0 on the same two tables
    shapes, own = column_shapes(real, fake), pair_trends(real, fake, edges="own")
    assert shapes.mean.value == pytest.approx(0.10029756122808209)
    assert shapes.parts["c"] == pytest.approx(0.13634542540792544, abs=1e-6)
    assert own.mean.value == pytest.approx(0.13239441984589972)
    binned = pair_trends(real, fake).parts
    assert [binned[f"{c} | c"] for c in "abk"] == pytest.approx([0.21583333333, 0.22416666667, 0.20416666667])
    assert shapes.mean.low < shapes.mean.value < shapes.mean.high


def test_shapes_against_scipy_and_blanks():
    real, fake = table(0, 400, 0.0), table(1, 300, 0.3)
    for c in "abk":
        want = stats.ks_2samp(real[c].dropna(), fake[c].dropna()).statistic
        assert column_shapes(real, fake, draws=0).parts[c] == pytest.approx(want)
    blank = fake.assign(d=None)
    assert column_shapes(real, blank, missing="category", draws=0).parts["d"] == pytest.approx(1.0)
    assert np.isnan(column_shapes(real, blank, draws=0).parts["d"])


def test_tables_do_not_depend_on_row_order_and_equal_tables_have_no_error():
    real, fake = table(0, 400, 0.0), table(1, 300, 0.3)
    for judge in (column_shapes, pair_trends):
        a, b = judge(real, fake, draws=0), judge(real, fake.sample(frac=1, random_state=0), draws=0)
        assert a.parts == pytest.approx(b.parts, nan_ok=True)
        assert judge(real, real, draws=0).mean.value == pytest.approx(0.0, abs=1e-12)
    shuffled = real.apply(lambda c: c.sample(frac=1, random_state=len(c.name) + ord(c.name[0])).to_numpy())
    assert column_shapes(real, shuffled).mean.value < 1e-12 < 0.05 < pair_trends(real, shuffled).mean.low


def test_valid_values():
    real = pd.DataFrame({"k": [1.0, 2.0, 3.0], "c": ["u", "v", None], "x": [0.1, 0.2, 0.3]})
    fake = pd.DataFrame({"k": [1.0, 2.5, 9.0], "c": ["u", "q", None], "x": [5.0, np.nan, 0.0]})
    got = valid_values(real, fake)
    assert got.parts == pytest.approx({"k": 2 / 3, "c": 2 / 3, "x": 2 / 3})
    assert got.mean.value == pytest.approx(6 / 9) and got.mean.better == "higher"
    with pytest.raises(ValueError, match="lacking"):
        valid_values(real, fake[["k"]])


# --- scores -------------------------------------------------------------------------------------------------------


def test_auroc_value_and_coverage_of_delong():
    truth, hits = stats.norm.cdf(1 / np.sqrt(2)), 0
    for s in range(200):
        a, b = normal(2 * s, 60, 1)[:, 0], normal(2 * s + 1, 40, 1)[:, 0] + 1
        got = auroc(a, b)
        hits += got.low <= truth <= got.high
    labels = np.repeat([0, 1], [60, 40])
    assert got.value == pytest.approx(roc_auc_score(labels, np.concatenate([a, b])))
    assert 0.89 <= hits / 200 <= 0.99
    ties = auroc(np.round(a), np.round(b)).value
    assert ties == pytest.approx(roc_auc_score(labels, np.round(np.concatenate([a, b]))))
    assert auroc([0, 1, 2], [3, 4, 5]).low < 0.5 and auroc([0.0], [1.0]).high == 1


def test_the_strangest_of_scores_keeps_the_promise_of_pvalues():
    """Every row in turn is judged by the others: p is then uniform, whatever the scores' scales and dependence."""
    r = np.random.default_rng(0)
    s = np.stack([r.normal(size=40), r.normal(size=40)])
    s = np.stack([s[0], np.exp(5 * (s[1] + s[0]))])
    every = range(40)
    p = [strangest_pvalues(np.delete(s, j, 1), s[:, j : j + 1])[0] for j in every]
    for u in np.arange(1, 41) / 40:
        assert sum(q <= u + 1e-9 for q in p) <= round(40 * u)  # exact, not only in the mean
    found = strangest_pvalues(s, [[0.0, 99.0, 0.0], [1.0, 1.0, 1e9]])
    assert found[0] > 0.3 and found[1] == found[2] == pytest.approx(2 / 41)  # first beside the other score's
    one = r.normal(size=30), r.normal(size=9)
    assert strangest_pvalues(one[0], one[1]) == pytest.approx(conformal_pvalues(*one))
    with pytest.raises(ValueError, match="expected \\(K, n\\)"):
        strangest_pvalues(s, one[1])
    with pytest.raises(ValueError, match="NaN"):
        strangest_pvalues(one[0], [np.nan])


def test_conformal_pvalues_are_uniform_under_exchangeability():
    n = 99
    p = [conformal_pvalues(s[:n], s[n:])[0] for s in (normal(i, n + 1, 1)[:, 0] for i in range(500))]
    jitter = np.random.default_rng(0).uniform(0, 1 / (n + 1), 500)  # p is uniform on the grid 1/(n+1), ..., 1
    assert stats.kstest(np.array(p) - jitter, "uniform").pvalue > 1e-3
    assert conformal_pvalues([1, 2, 3], [0, 2, 4]) == pytest.approx([1.0, 0.75, 0.25])
    assert conformal_pvalues([1, 1, 1], [1]) == pytest.approx([1.0])  # ties: conservative


def test_benjamini_hochberg_is_scipys_and_controls_false_discoveries():
    rates = []
    for s in range(200):
        p = stats.norm.sf(normal(s, 100, 1)[:, 0] + np.repeat([3.0, 0.0], [20, 80]))
        rejected = benjamini_hochberg(p, 0.2)
        assert np.array_equal(rejected, stats.false_discovery_control(p) <= 0.2)
        rates.append(rejected[20:].sum() / max(rejected.sum(), 1))
    assert abs(z_score(rates, 0.2 * 0.8)) < 5


def test_rmse_coverage_and_crps():
    x, y = torch.zeros(400, 2), torch.tensor(normal(0, 400, 2)) * 3
    got = rmse(x, y)
    assert got.value == pytest.approx(float((y**2).mean().sqrt())) and got.low < 3 < got.high
    inside = interval_coverage(-1.645 * np.ones(800), 1.645 * np.ones(800), normal(1, 400, 2))
    assert inside.low < 0.9 < inside.high
    score = crps_values(normal(0, 200_000, 1), np.array([0.7]))  # Gneiting & Raftery 2007, closed form for a normal
    truth = 0.7 * (2 * stats.norm.cdf(0.7) - 1) + 2 * stats.norm.pdf(0.7) - 1 / np.sqrt(np.pi)
    assert score[0] == pytest.approx(truth, abs=0.01)
    few = [crps_sample(normal(s, 3, 50), normal(s + 500, 1, 50)[0]).value for s in range(200)]
    assert abs(z_score(few, 1 / np.sqrt(np.pi))) < 5  # unbiased with three draws
    unfair = [crps_sample(normal(s, 3, 50), normal(s + 500, 1, 50)[0], fair=False).value for s in range(200)]
    assert abs(z_score(unfair, 1 / np.sqrt(np.pi) * (1 + 1 / 3))) < 5


# --- all ----------------------------------------------------------------------------------------------------------


def test_row_order_does_not_matter():
    x, y = normal(0, 120), normal(1, 120) + 0.3
    order = np.random.default_rng(0).permutation(120)
    for judge in (lambda b: prdc(x, b).precision, lambda b: mmd(x, b), lambda b: frechet(x, b, draws=2)):
        assert judge(y).value == pytest.approx(judge(y[order]).value)
    assert copying(x, normal(2, 120), y).excess == copying(x[order], normal(2, 120), y[order]).excess
    assert sliced_wasserstein(x, y, 3).value == pytest.approx(sliced_wasserstein(x, y[order], 3).value)


def test_one_seed_one_answer_and_bad_input_is_refused():
    x, y = normal(0, 60), normal(1, 60)
    assert c2st(x, y, 3) == c2st(x, y, 3) and isinstance(mmd(x, torch.tensor(y)), Metric)
    for judge in (c2st, prdc, mmd, sliced_wasserstein, frechet):
        with pytest.raises(ValueError, match="NaN"):
            judge(x, np.full((60, 4), np.nan))
        with pytest.raises(ValueError, match="columns"):
            judge(x, y[:, :2])
