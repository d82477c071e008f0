"""Anomaly: scores in closed form on oracles, p-values uniform where rows belong, false discoveries counted, reasons."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import pofx
from pofx.baselines import Independent
from pofx.data import Data
from pofx.engines.zipped import code_nats
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, real
from pofx.metrics.scores import OnlineFDR, benjamini_hochberg, conformal_pvalues, storey, typicality_pvalues
from pofx.model import Quality, Unsupported
from pofx.tasks.anomalies import inverted, perturbed
from pofx.tasks.anomaly import anomaly, watch

SIZE = 5


def normal(size: int = SIZE) -> Gaussian:
    """N(0, I)."""
    return Gaussian().build(real(size).replace(dtype="float64"))


def draws(n: int, seed: int, size: int = SIZE) -> torch.Tensor:
    return normal(size).sample(n, rng=seed)


def half_square(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().sum(1)


# --- p-values


def p_of_exchangeable(kind: str, seed: int) -> np.ndarray:
    """One p-value each of many small experiments: 9 calibration rows, so p is on a grid of tenths."""
    s = np.random.default_rng(seed).standard_normal((2000, 10))
    p = conformal_pvalues if kind == "conformal" else typicality_pvalues
    return np.array([p(row[:9], row[9:])[0] for row in s])


@pytest.mark.parametrize("kind", ["conformal", "typicality"])
def test_p_is_uniform_on_its_grid_where_rows_are_exchangeable(kind):
    p = np.concatenate([p_of_exchangeable(kind, seed) for seed in range(3)])
    counts = np.bincount(np.rint(p * 10).astype(int), minlength=11)[1:]
    assert counts.sum() == len(p)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_typicality_p_by_its_definition():
    cal, v = np.array([0.0, 1.0, 2.0, 5.0]), np.array([3.0, -4.0, 2.0])
    for value, p in zip(v, typicality_pvalues(cal, v), strict=True):
        every = np.append(cal, value)
        gaps = np.abs(every - every.mean())
        assert p == pytest.approx((gaps >= gaps[-1] - 1e-9).mean())


def test_ties_count_against_a_finding():
    assert typicality_pvalues([1.0, 1.0, 1.0], [1.0])[0] == 1
    assert typicality_pvalues([0.3, 0.1, 0.2], [0.3])[0] == pytest.approx(3 / 4)  # 0.1 lies further, 0.3 as far


# --- false discovery rate


def rates(control, seeds: int, strange: int, rows: int = 200, level: float = 0.2) -> tuple[float, float, float]:
    """Mean false discovery proportion, its standard error and the mean power, with fresh calibration rows each time."""
    false, found = [], []
    for seed in range(seeds):
        r = np.random.default_rng(seed)
        s = r.standard_normal(rows)
        s[:strange] += 3.0
        flagged = control(conformal_pvalues(r.standard_normal(400), s), level)
        false.append(flagged[strange:].sum() / max(flagged.sum(), 1))
        found.append(flagged[:strange].mean())
    return float(np.mean(false)), float(np.std(false) / math.sqrt(seeds)), float(np.mean(found))


@pytest.mark.parametrize("strange", [20, 120])
def test_false_discoveries_stay_below_the_level(strange):
    share = 1 - strange / 200
    low, error, power = rates(benjamini_hochberg, 200, strange)
    assert abs(low - 0.2 * share) < 4 * error + 0.01, "its rate is level times the share of true nulls"
    adaptive, error, more = rates(storey, 200, strange)
    assert adaptive < 0.2 + 4 * error
    assert power > 0.4 and (more > power if strange > 100 else more > power - 0.05)


def test_storey_is_benjamini_hochberg_at_a_level_divided_by_the_share_of_nulls():
    p = np.array([0.001, 0.01, 0.02, 0.04, 0.2, 0.6, 0.7, 0.9])
    share = (1 + 3) / (8 * 0.5)
    assert (storey(p, 0.25) == benjamini_hochberg(p, 0.25 / share)).all()
    assert storey(p, 0.25).sum() == 4 and storey(p, 0.34).sum() == 5
    assert not storey(np.full(5, 0.9), 0.5).any() and len(storey([], 0.1)) == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        storey(p, 0.1, tail=1.0)


def test_online_control_keeps_its_level_and_its_budget():
    root = math.sqrt(math.log(1e5))
    rest = 2 * 0.0772 * math.exp(-root) * (root**3 + 3 * root**2 + 6 * root + 6)  # the integral of g beyond 1e5
    assert 0.97 < OnlineFDR.share(np.arange(1, 100_001)).sum() + rest <= 1.001
    lone = OnlineFDR(0.1)
    assert lone.threshold() == pytest.approx(0.05 * 0.0772 * math.log(2))
    lone([1e-9])
    assert lone.threshold() == pytest.approx(0.05 * (OnlineFDR.share([2]) + OnlineFDR.share([1]))[0])
    lone([1e-9, 1.0])  # found at times 1 and 2; the next is time 4
    g = OnlineFDR.share(np.array([4, 3, 2]))
    assert lone.threshold() == pytest.approx(0.05 * g[0] + 0.05 * g[1] + 0.1 * g[2])
    false, power = [], []
    for seed in range(60):
        r = np.random.default_rng(seed)
        strange = r.random(400) < 0.3
        p = stats.norm.sf(r.standard_normal(400) + 3.5 * strange)
        control = OnlineFDR(0.1)
        parts = np.concatenate([control(part) for part in np.split(p, [50, 51, 300])])
        assert (parts == OnlineFDR(0.1)(p)).all(), "how a stream is cut does not matter"
        false.append(parts[~strange].sum() / max(parts.sum(), 1))
        power.append(parts[strange].mean())
    assert np.mean(false) < 0.1 + 3 * np.std(false) / math.sqrt(60)
    assert np.mean(power) > 0.5


# --- scores on oracles


def test_typicality_of_a_normal_in_closed_form():
    """-log p = |x|^2 / 2 + const, whose mean is D / 2: the mode is as strange as a row of |x|^2 = 2 D."""
    held, far = draws(4000, 1), torch.zeros(2, SIZE, dtype=torch.float64)
    far[1, 0] = math.sqrt(2 * SIZE)
    found = anomaly(normal(), far, held, route="typicality")
    assert found.value.tolist() == pytest.approx([SIZE / 2] * 2, abs=4 * math.sqrt(SIZE / 2 / 4000))
    chi = stats.chi2(SIZE)
    outside = chi.cdf(0) + chi.sf(2 * SIZE)
    assert found.diagnostics["p"] == pytest.approx([outside] * 2, abs=4 * math.sqrt(outside / 4000))
    with pytest.raises(Unsupported, match="calibration"):
        anomaly(normal(), far, route="typicality")


def test_a_batch_is_judged_by_its_mean_and_sees_what_rows_cannot():
    narrow = 0.8 * draws(80, 2)
    one = anomaly(normal(), narrow, draws(800, 3), route="typicality")
    many = anomaly(normal(), narrow, draws(800, 3), route="typicality", batch=40)
    assert len(many.value) == 2 and many.diagnostics["batch"] == 40
    middle = float(half_square(draws(800, 3)).mean())
    want = (half_square(narrow).reshape(2, 40).mean(1) - middle).abs()
    assert torch.allclose(many.value, want, atol=1e-9)
    assert (many.diagnostics["p"] == 1 / 21).all() and np.median(one.diagnostics["p"]) > 0.2
    with pytest.raises(ValueError, match="batch=40"):
        anomaly(normal(), narrow[:30], batch=40)
    with pytest.raises(Unsupported, match="batch=1"):
        many.reasons()


def test_the_ratio_is_that_of_two_normals():
    wide = normal()
    wide.mean += 2.0
    x = draws(50, 4)
    found = anomaly(normal(), x, background=wide)
    assert found.route == "ratio" and found.quality is pofx.Quality.EXACT
    assert torch.allclose(found.value, half_square(x) - half_square(x - 2.0), atol=1e-9)
    with pytest.raises(Unsupported, match="background"):
        anomaly(normal(), x, route="ratio")
    with pytest.raises(ValueError, match="expected the same"):
        anomaly(normal(), x, background=normal(2))


def test_the_score_norm_of_a_normal_is_its_length():
    x = draws(50, 5)
    assert torch.allclose(anomaly(normal(), x, route="score norm").value, x.norm(dim=1), atol=1e-5)


def test_surprise_is_what_a_row_cost_beyond_what_was_expected():
    """By enumeration: -log p less both conditional entropies, whose mean under p is 0."""
    x = torch.from_numpy(np.random.default_rng(0).integers(0, [3, 2], (400, 2)))
    x[:, 1] = torch.where(x[:, 0] == 2, 1, x[:, 1] * (x[:, 0] == 1))  # the second depends on the first
    space = Space((2,), (Variable("a", "category", 3), Variable("b", "category", 2)), dtype="int64")
    split = {"train": torch.arange(300), "valid": torch.arange(300, 400), "test": torch.arange(0)}
    model = pofx.fit(Data(x, space, split=split), "autoregressive", progress=False, budget="60 steps", threads=1)
    every = torch.tensor([[a, b] for a in range(3) for b in range(2)])
    p = model.log_prob(every).value.detach().exp().reshape(3, 2)
    h = -torch.xlogy(p.sum(1), p.sum(1)).sum()
    conditional = p / p.sum(1, keepdim=True)
    expected = h - torch.xlogy(conditional, conditional).sum(1, keepdim=True)
    found = anomaly(model, every, route="surprise")
    assert torch.allclose(found.value.reshape(3, 2), -p.log() - expected, atol=1e-6)
    assert float((p * found.value.reshape(3, 2)).sum()) == pytest.approx(0, abs=1e-6)
    assert found.unit == "nats" and found.quality is Quality.EXACT


def test_surprise_of_numbers_is_none_in_the_mean_over_draws():
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=600), "c": list("xyz") * 200})
    frame["b"] = frame["a"] * 2 + np.random.default_rng(1).normal(size=600)
    model = pofx.fit(frame, "trees", progress=False, budget="5 s")
    score = anomaly(model, model.sample(600, rng=0), route="surprise", draws=16).value
    assert abs(float(score.mean())) < 4 * float(score.std()) / 600**0.5
    frame.loc[0, "b"] = float("nan")
    with pytest.raises(Unsupported, match="complete rows"):
        anomaly(model, frame, route="surprise")


def pictures(n: int, seed: int, high: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, (n, 12, 12, 1), dtype=np.uint8))


def test_complexity_repairs_what_a_density_inverts():
    """Pixels uniform over 256 levels: every picture is equally likely, and flat ones are caught by their short code."""
    space = Space((12, 12, 1), (Variable("k", "ordinal", 256, mean=128.0, scale=74.0),), "grid", "image", "uint8")
    x = pictures(300, 0, 256)
    split = {"train": torch.arange(200), "valid": torch.arange(200, 300), "test": torch.arange(0)}
    model = pofx.fit(Data(x, space, split=split), Independent(), progress=False, budget="1 steps")
    few, flat = pictures(40, 1, 256), torch.full((40, 12, 12, 1), 7, dtype=torch.uint8)
    odd, usual = (anomaly(model, rows, route="complexity").value for rows in (flat, few))
    assert odd.min() > usual.max()
    raw = [anomaly(model, rows).value for rows in (flat, few)]
    assert torch.allclose(raw[0] - odd, torch.from_numpy(code_nats(flat.numpy())))
    with pytest.raises(Unsupported, match="density"):
        anomaly(normal(), draws(3, 0), route="complexity")


def test_codes_are_of_single_rows_and_no_shorter_than_chance_allows():
    noise, flat = pictures(20, 2, 256).numpy(), np.zeros((1, 12, 12, 1), np.uint8)
    both = code_nats(np.concatenate([noise, flat]))
    assert both[-1] == code_nats(flat)[0] < both[:-1].min() / 3
    assert (both[:-1] > 144 * math.log(256) * 0.97).all(), "noise has no shorter code"
    vectors = np.random.default_rng(0).integers(0, 2, (3, 400))
    assert code_nats(vectors).shape == (3,)
    with pytest.raises(ValueError, match="integer"):
        code_nats(np.zeros((1, 3)))


# --- the warning


def test_it_warns_where_rows_are_too_probable_and_only_there():
    held = draws(400, 6)
    with pytest.warns(UserWarning, match="more probable"):
        found = anomaly(normal(), 0.2 * draws(100, 7), held)
    assert found.diagnostics["too probable"] > 0.9 and "simpler" in found.explain()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            anomaly(normal(), draws(100, 20 + seed), held)
        anomaly(normal(), 0.2 * draws(100, 7), held, route="typicality")
        anomaly(normal(), torch.zeros(1, SIZE).double(), held)
    assert "warning" not in inverted(np.arange(10.0), np.zeros(100)), "too few rows to tell"


# --- streams


def test_a_stream_is_judged_as_its_rows_are_at_once():
    held, x = draws(900, 8), draws(120, 9)
    x[[30, 31, 90]] += 8.0
    parts = [x[:25], x[25:32], x[32:]]
    answers = list(watch(normal(), iter(parts), held, fdr=0.2))
    whole = anomaly(normal(), x, held)
    assert torch.allclose(torch.cat([a.value for a in answers]), whole.value)
    p = np.concatenate([a.diagnostics["p"] for a in answers])
    assert (p == whole.diagnostics["p"]).all()
    flagged = np.concatenate([a.diagnostics["flagged"] for a in answers])
    each = np.split(p, [25, 32])
    assert (flagged == np.concatenate([benjamini_hochberg(part, 0.2) for part in each])).all()
    assert flagged[[30, 31]].all()
    lord = [a.diagnostics["flagged"] for a in watch(normal(), parts, held, fdr=0.2, control="lord")]
    assert (np.concatenate(lord) == OnlineFDR(0.2)(p)).all()
    with pytest.raises(ValueError, match="control"):
        next(watch(normal(), parts, held, control="guess"))
    assert answers[-1].diagnostics["rows seen"] == 120
    assert answers[-1].diagnostics["rows flagged"] == flagged.sum()


def test_a_stream_is_never_held_whole():
    alive = []

    def batches():
        for k in range(5):
            yield draws(10, k)
            alive.append(k)

    stream = watch(normal(), batches(), draws(50, 10))
    next(stream)
    assert alive == []
    next(stream)
    assert alive == [0]


# --- flags and reasons


def test_flags_and_reasons_name_the_odd_entry():
    x = draws(60, 11)
    x[7, 3] = 9.0
    found = anomaly(normal(), x, draws(1000, 12), fdr=0.1)
    assert found.diagnostics["flagged"][7] and found.diagnostics["flagged"].sum() <= 3
    assert found.strangest[0] == 7
    (worst, *_) = found.reasons([7])[7]
    assert "3" in worst.entry and worst.value == pytest.approx(9.0)
    assert worst.excess == pytest.approx(40.5 - stats.chi2(1).median() / 2, abs=0.15)
    text = found.explain()
    assert "row 7" in text and "let expect" in text and "benjamini-hochberg" in text
    assert "<img" in found._repr_html_()
    nothing = anomaly(normal(), draws(400, 13), draws(50, 14), fdr=0.01)
    assert not nothing.diagnostics["flagged"].any() and "more calibration rows" in nothing.explain()
    assert nothing.reasons() == {}


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match="calibration"):
        anomaly(normal(), draws(3, 0), fdr=0.1)
    with pytest.raises(ValueError, match="control"):
        anomaly(normal(), draws(3, 0), draws(9, 1), fdr=0.1, control="guess")
    with pytest.raises(ValueError, match="no calibration rows"):
        anomaly(normal(), draws(3, 0), draws(9, 1)[:0])


def test_perturbed_rows_keep_what_is_not_drawn():
    space = Space((4,), (Variable("a", "category", 5), *(Variable(c) for c in "bcd")))
    x = torch.stack([torch.randint(5, (5000,), generator=torch.Generator().manual_seed(0)).double()] * 4, 1)
    x[:, 1:] += torch.arange(5000).unsqueeze(1)
    data = Data(x, space, split={"train": torch.arange(5000)})
    mixed = perturbed(data, 0.3, rng=0).x
    same = (mixed == x).double().mean(0)
    assert float(same[0]) == pytest.approx(0.7 + 0.3 / 5, abs=0.03)
    assert (same[1:] - 0.7).abs().max() < 0.03
    assert torch.isin(mixed[:, 2], x[:, 2]).all()
    with pytest.raises(ValueError, match="share"):
        perturbed(data, 0.0)


# --- the experts, a table's default


def frame(n: int, seed: int) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    a = r.standard_normal(n)
    return pd.DataFrame({"a": a, "b": a + 0.1 * r.standard_normal(n), "c": np.full(n, 2.5), "d": r.exponential(size=n)})


def test_experts_are_their_equation():
    from pofx.families.experts import Experts

    x = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 2)))
    split = {"train": torch.arange(30), "valid": torch.arange(0), "test": torch.arange(0)}
    model = pofx.fit(Data(x, real(2), split=split), Experts(widths=(0.5,)), progress=False)
    u = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    gap = ((u[:, None] - u) ** 2 / (-2 * 0.25)).sum(2)
    single = sum(
        np.log(np.exp((u[:, None, j] - u[:, j]) ** 2 / (-2 * float(model.h[j]) ** 2)).mean(1) + 0.01 / 30)
        for j in (0, 1)
    )
    np.fill_diagonal(gap, -np.inf)
    loo = np.log(np.exp(gap).sum(1))
    usual = [np.sort(v)[(len(v) - 1) // 2] for v in (loo, single)]
    spread = [np.abs(v - m).mean() for v, m in zip((loo, single), usual, strict=True)]
    assert model.spread.tolist() == pytest.approx(spread, rel=1e-4)
    np.fill_diagonal(gap, 0.0)
    opinions = (np.log(np.exp(gap).sum(1)), single)
    z = [(v - m) / d for v, m, d in zip(opinions, usual, spread, strict=True)]
    want = sum(0.001 * one - np.maximum(-one, 0) ** 1.25 for one in z)
    assert model.log_prob(x).value.tolist() == pytest.approx(want.tolist(), rel=1e-3, abs=1e-5)
    assert model.log_prob(x).quality is pofx.Quality.UNNORMALISED


def test_experts_find_each_kind_of_odd_row_and_stay_finite(tmp_path):
    data = pofx.open_data(frame(800, 0), options={"types": {"c": "real"}})  # c may take new values
    model = pofx.fit(data, "experts", progress=False)
    odd = frame(5, 1)
    odd.loc[0, ["a", "b"]] = [1.5, -1.5]  # each usual, together not
    odd.loc[1, "c"] = 6.0  # a column that never varied
    odd.loc[2, "d"] = 1e12
    held = frame(400, 2)
    held["c"] = 2.5
    found = pofx.anomaly(model, odd, held, fdr=0.2)
    assert torch.isfinite(found.value).all()
    assert set(found.strangest) == {0, 1, 2}
    reasons = found.reasons()
    assert {r.entry for r in reasons[0][:2]} == {"a", "b"} and reasons[2][0].entry == "d"
    model.save(tmp_path / "run")
    again = pofx.anomaly(pofx.load(tmp_path / "run"), odd)
    assert torch.equal(again.value, found.value)
    gaps = odd.copy()
    gaps.loc[0, "b"] = np.nan
    assert float(pofx.anomaly(model, gaps).value[0]) < float(found.value[0])
    with pytest.raises(ValueError, match="widths"):
        pofx.fit(frame(50, 0), "experts", hyper_parameters={"widths": ()}, progress=False)


def test_a_row_with_a_gap_is_compared_with_rows_that_lack_the_same():
    """Without b a row far out in a is as strange as without any b in the table, and a usual one stays usual."""
    model = pofx.fit(frame(800, 0)[["a", "d"]], "experts", progress=False)
    alone = pofx.fit(frame(800, 0)[["a"]], "experts", progress=False)
    a = torch.tensor([[0.1], [-0.7], [3.0], [4.5]])
    gaps = torch.cat([a, torch.full_like(a, torch.nan)], 1)
    found, want = (pofx.anomaly(m, x).value for m, x in ((model, gaps), (alone, a)))
    assert found[:2].abs().max() < 0.3 and found[2] > 2 and found[3] > found[2] + 2
    assert torch.allclose(found, want, rtol=0.25, atol=0.1)


def test_an_answer_can_be_replaced_like_any_other():
    found = anomaly(normal(), draws(5, 0))
    assert dataclasses.replace(found, route="mine").value is found.value
    assert "No p-values" in found.explain()
