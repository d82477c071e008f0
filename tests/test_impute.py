"""Imputation on the oracle and on tables: draws, means, intervals, several models, types."""

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.families.gaussian import Gaussian
from pofx.imputer import resampled
from pofx.kinds.base import Space, Variable
from pofx.metrics.pooling import pool
from pofx.model import Conditional, Model
from pofx.randomness import Rng
from pofx.tasks.base import rows_of
from pofx.tasks.completion import interval

SMALL = {"trees": 12}
S = np.array([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]])


def oracle() -> Gaussian:
    model = Gaussian()
    model.build(Space((3,), tuple(Variable(n) for n in "abc")))
    model.mean[:], model.covariance = torch.tensor([1.0, 2.0, 3.0]), torch.from_numpy(S)
    return model


def frame(n: int, seed: int, gaps: float = 0.25) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two numbers that hang together, a word and a count that follow them; whole and with gaps."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3))
    word = np.where(z[:, 0] > 0.5, "high", np.where(z[:, 0] > -0.5, "mid", "low"))
    whole = pd.DataFrame({"a": z[:, 0], "b": z[:, 0] + 0.4 * z[:, 1], "word": word})
    whole["count"] = np.round(3 + z[:, 0] + 0.5 * z[:, 2]).clip(0, 6)
    return whole, whole.mask(rng.random(whole.shape) < gaps)


def test_oracle_mean_and_covariance_are_the_closed_form():
    x = torch.tensor([[0.0, torch.nan, torch.nan], [torch.nan, 4.0, 1.0]]).double()
    gain = S[1:, :1] / S[0, 0]
    mean = np.array([2.0, 3.0]) + gain[:, 0] * (0.0 - 1.0)
    law = S[1:, 1:] - gain @ S[:1, 1:]
    scores = []
    for seed in range(10):
        draws = pofx.impute(oracle(), x, draws=2000, rng=seed).raw[:, 0, 1:].numpy()
        scores.append((draws.mean(0) - mean) / np.sqrt(np.diag(law) / 2000))
        spread = np.cov(draws.T)
        sd = np.sqrt((np.outer(np.diag(law), np.diag(law)) + law**2) / 2000)
        scores.append(((spread - law) / sd).ravel())
    assert np.abs(np.concatenate(scores)).max() < 5
    assert np.abs(np.concatenate(scores)).mean() < 1.2


def test_pooled_intervals_of_the_oracle_cover():
    """A mean over rows with gaps, models refitted to bootstrap rows: 90 % intervals hold it in 90 % of trials."""
    held, trials, n = 0, 40, 60
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        x = rng.multivariate_normal([0, 0, 0], S, n)
        gone = rng.random(n) < 1 / (1 + np.exp(-1.5 * x[:, 1]))  # at random: b, which is seen, drives the gaps of a
        x[gone, 0] = np.nan
        data = open_data(x, test=0, valid=0)
        models = [_fitted(resampled(data, Rng.derive(seed, k))) for k in range(6)]
        sets = pofx.impute(models, x, draws=6, rng=seed).value
        a = np.stack([one[:, 0] for one in sets])
        found = pool(a.mean(1), a.var(1, ddof=1) / n, df=n - 1, level=0.9)
        held += bool(found.low <= 0 <= found.high)
    assert abs(held / trials - 0.9) < 0.15  # standard error 0.047


def _fitted(data) -> Model:
    model = Gaussian(iterations=5)
    model.build(data.space)
    model.fit_closed(data, Rng(0))
    return model


def test_draws_of_several_models_vary_with_the_fit():
    whole, gaps = frame(80, 0)
    x = gaps[["a", "b"]].to_numpy()
    data = open_data(x, test=0, valid=0)
    models = [_fitted(resampled(data, Rng.derive(0, k))) for k in range(8)]
    means = [m.condition(*rows_of(m, x)).sample(400, Rng(1)).mean(0) for m in models]
    one = pofx.impute(models[0], x, draws=64, rng=0)
    several = pofx.impute(models, x, draws=64, rng=0)
    assert float(torch.stack(means).std(0).max()) > 0.02
    assert several.raw.shape == one.raw.shape and "its fit" in several.explain() and "not its fit" in one.explain()
    with pytest.raises(ValueError, match="same columns"):
        pofx.impute([models[0], oracle()], x, draws=2)


def test_intervals_are_quantiles_of_m_plus_one_parts():
    model = oracle()
    draws = torch.arange(19.0).double().reshape(19, 1, 1).expand(19, 1, 3)
    low, high = interval(model.space, draws, 0.9)
    assert torch.allclose(low, torch.zeros(1, 3).double()) and torch.allclose(high, torch.full((1, 3), 18.0).double())
    with pytest.raises(ValueError, match="at least 19"):
        interval(model.space, draws[:18], 0.9)


def test_intervals_of_the_oracle_cover_90_percent():
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([1, 2, 3], S, 2000)
    gone = rng.random(x.shape) < 0.4
    answer = pofx.impute(oracle(), torch.from_numpy(np.where(gone, np.nan, x)), draws=20, rng=0)
    low, high = (answer.diagnostics[k].numpy() for k in ("low", "high"))
    assert abs(((x >= low) & (x <= high))[gone].mean() - 0.9) < 0.03


class Told(Gaussian):
    """A model that knows its conditional mean without draws."""

    def _condition(self, x, observed, given):
        inner = super()._condition(x, observed, given)
        return Conditional(inner.sample, None, inner.quality, lambda: torch.full_like(x, 7.0))


def test_a_models_own_mean_is_taken():
    model = Told()
    model.build(oracle().space)
    x = torch.tensor([[0.0, torch.nan, 1.0], [1.0, 1.0, 1.0]]).double()
    found = pofx.impute(model, x, draws=3, rng=0).diagnostics
    assert found["mean"].tolist() == [[0.0, 7.0, 1.0], [1.0, 1.0, 1.0]]


@pytest.fixture(scope="module")
def learnt():
    whole, gaps = frame(300, 1)
    data = open_data(gaps, test=0, valid=0)
    return whole, gaps, pofx.fit(data, "conditionals", seed=0, progress=False, threads=1, hyper_parameters=SMALL)


def test_conditionals_fill_mixed_tables_in_the_users_type(learnt):
    whole, gaps, model = learnt
    answer = pofx.impute(model, gaps, draws=20, rng=0)
    holes = gaps.isna()
    for one in (*answer.value, answer.diagnostics["mean"]):
        assert list(one.columns) == list(gaps.columns) and not one.isna().any().any()
        assert one.where(~holes).equals(gaps.where(~holes))  # observed cells are as they were
    assert set(answer.value[0]["word"]) == {"low", "mid", "high"} and set(answer.value[0]["count"]) <= set(range(7))
    both = (answer.diagnostics["mean"]["a"] - whole["a"])[holes["a"]]
    assert both.std() < 0.65 * whole["a"].std()
    right = (answer.diagnostics["mean"]["word"] == whole["word"])[holes["word"]].mean()
    assert right > 0.6
    low, high = (answer.diagnostics[k][:, 0].numpy() for k in ("low", "high"))
    held = ((whole["a"] >= low) & (whole["a"] <= high))[holes["a"]].mean()
    assert 0.8 < held <= 1


def test_conditionals_draw_jointly(learnt):
    """a and b both missing: they must hang together within one word (0.68 there), as independent draws would not."""
    model = learnt[2]
    rows = pd.DataFrame({"a": [np.nan], "b": [np.nan], "word": [None], "count": [3.0]})
    draws = model.condition(*rows_of(model, rows)).sample(600, Rng(0))[:, 0]
    a, b, word = draws[:, 0].numpy(), draws[:, 1].numpy(), draws[:, 2].numpy()
    means = [a[word == k].mean() for k in range(3)]  # high, low, mid
    assert means[0] > means[2] + 0.3 > means[1] + 0.6
    within = [np.corrcoef(a[word == k], b[word == k])[0, 1] for k in (1, 2)]
    assert min(within) > 0.35


def test_conditionals_mean_is_that_of_the_draws(learnt):
    model = learnt[2]
    rows = pd.DataFrame({"a": [np.nan, np.nan], "b": [1.0, -1.0], "word": ["high", "low"], "count": [4.0, np.nan]})
    law = model.condition(*rows_of(model, rows))
    draws, mean = law.sample(600, Rng(0))[:, :, 0], law.mean()[:, 0]
    assert ((draws.mean(0) - mean).abs() < 0.5 * draws.std(0)).all()


def test_conditionals_match_the_oracle_on_normal_rows():
    """On normal data the closed form cannot be beaten: the mean is within 6 % of its error, intervals are honest."""
    rng = np.random.default_rng(3)
    x = rng.multivariate_normal([0, 0, 0], S, 500)
    gone = rng.random(x.shape) < 0.3
    gaps = np.where(gone, np.nan, x)
    data = open_data(gaps, test=0, valid=0)
    model = pofx.fit(data, "conditionals", seed=0, progress=False, threads=1, hyper_parameters=SMALL)
    exact = Gaussian()
    exact.build(data.space)
    exact.covariance = torch.from_numpy(S)
    found = pofx.impute(model, gaps, draws=40, rng=0).diagnostics
    best = pofx.impute(exact, gaps, draws=400, rng=0).diagnostics["mean"]
    error, least = (np.sqrt(np.mean((m - x)[gone] ** 2)) for m in (found["mean"], best))
    assert error < 1.06 * least
    low, high = (found[k].numpy() for k in ("low", "high"))
    assert 0.84 < ((x >= low) & (x <= high))[gone].mean() < 0.95


def test_the_start_of_the_chain_is_the_normal_law():
    x = np.random.default_rng(3).multivariate_normal([0, 0, 0], S, 400)
    data = open_data(x, test=0, valid=0)
    small = {"trees": 2, "rounds": 1}
    model = pofx.fit(data, "conditionals", seed=0, progress=False, threads=1, hyper_parameters=small)
    u = torch.tensor([[1.5, 0.0, 0.0], [0.0, -0.5, 0.0]]).double()
    seen = torch.tensor([[True, False, False], [False, True, True]])
    every = model._normal(u, seen, 20_000, Rng(0))[0].numpy()
    s, m = model.s.numpy(), model.m.numpy()
    gain = s[1:, :1] / s[0, 0]
    assert (every[:, 0, 0] == 1.5).all() and (every[:, 1, 1] == -0.5).all()
    law = s[1:, 1:] - gain @ s[:1, 1:]
    assert np.abs(every[:, 0, 1:].mean(0) - m[1:] - gain[:, 0] * (1.5 - m[0])).max() < 0.03
    assert np.abs(np.cov(every[:, 0, 1:].T) - law).max() < 0.04
    inverse = np.linalg.inv(s[1:, 1:])
    assert abs(every[:, 1, 0].mean() - m[0] - s[:1, 1:] @ inverse @ (np.array([-0.5, 0]) - m[1:])) < 0.03
    assert abs(every[:, 1, 0].var() - (s[0, 0] - s[0, 1:] @ inverse @ s[1:, 0])) < 0.04


@pytest.mark.slow
def test_rows_with_one_gap_are_drawn_as_wide_as_they_should_be():
    """Where all else is known the exact law has one width; learnt with gaps, draws have it, over three tables."""
    ratios = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.multivariate_normal([0, 0, 0], S, 500)
        data = open_data(np.where(rng.random(x.shape) < 0.3, np.nan, x), test=0, valid=0)
        model = pofx.fit(data, "conditionals", seed=0, progress=False, threads=1)
        new = rng.multivariate_normal([0, 0, 0], S, 200)
        for j in range(3):
            asked = new.copy()
            asked[:, j] = np.nan
            draws = pofx.impute(model, asked, draws=20, rng=0).raw[:, :, j].double()
            ratios.append(float(draws.var(0).mean()) * np.linalg.inv(S)[j, j])
    assert abs(np.mean(ratios) - 1) < 0.1, ratios


def test_conditionals_save_and_load(learnt, tmp_path):
    _, gaps, model = learnt
    model.save(tmp_path / "m")
    again = pofx.load(tmp_path / "m")
    one, two = (pofx.impute(m, gaps.head(20), draws=2, rng=5).raw for m in (model, again))
    assert torch.equal(one, two)


def test_conditionals_refuse():
    with pytest.raises(ValueError, match="rounds"):
        pofx.families.conditionals.Conditionals(rounds=0)
    with pytest.raises(ValueError, match="least"):
        pofx.families.conditionals.Conditionals(least=0)
