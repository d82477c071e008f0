"""Forecast on AR(1), whose conditionals are known: x_{t+h} | x_t ~ N(phi^h x_t, s^2 (1 - phi^2h) / (1 - phi^2))."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.data import Data, open_data
from pofx.kinds import KINDS
from pofx.metrics.scores import crps_values
from pofx.metrics.series import coverage_of_draws, crps_normal
from pofx.model import Unsupported
from pofx.tasks.forecast import log_score

PHI, S, STEPS = 0.8, 0.5, 12


def ar1(steps=6000, seed=0, level=3.0):
    e = np.random.default_rng(seed).standard_normal(steps)
    x = np.zeros(steps)
    x[0] = e[0] * S / math.sqrt(1 - PHI**2)
    for t in range(1, steps):
        x[t] = PHI * x[t - 1] + S * e[t]
    return x + level


def truth(last, ahead, level=3.0):
    h = np.arange(1, ahead + 1)
    return level + PHI**h * (last - level), S * np.sqrt((1 - PHI ** (2 * h)) / (1 - PHI**2))


@pytest.fixture(scope="module")
def data():
    return open_data(ar1(), kind="series", options={"length": STEPS}, test=0.1)


@pytest.fixture(scope="module")
def model(data):
    return pofx.fit(data, "gaussian", progress=False, threads=1)


def test_mean_and_variance_are_those_of_the_process(model):
    past = ar1(200, seed=1)
    found = pofx.forecast(model, past, ahead=5, draws=4000)
    mean, deviation = truth(past[-1], 5)
    raw = found.raw[:, 0, :, 0].numpy()
    assert found.raw.shape == (4000, 1, 5, 1) and found.route == "condition"
    np.testing.assert_allclose(raw.mean(0), mean, atol=0.12)  # the fit's own error, from 5000 steps
    np.testing.assert_allclose(raw.std(0), deviation, rtol=0.06)
    low, middle, high = found.value
    assert low.shape == (5,) and (low < middle).all() and (middle < high).all()
    np.testing.assert_allclose(high - low, 2 * 1.2816 * deviation, rtol=0.08)


def test_eighty_per_cent_cover_eighty_per_cent_over_seeds(model):
    shares, score, best = [], [], []
    for seed in range(10):
        windows = np.lib.stride_tricks.sliding_window_view(ar1(2000, seed=100 + seed), STEPS)[::STEPS].copy()
        past, future = windows[:, :8, None], windows[:, 8:]
        found = pofx.forecast(model, past, ahead=4, draws=200, rng=seed).raw[..., 0].numpy()
        shares.append(coverage_of_draws(found, future, 0.8).value)
        score.append(crps_values(found, future).mean())
        best.append(np.mean([crps_normal(*truth(p[-1, 0], 4), y).mean() for p, y in zip(past, future, strict=True)]))
    assert abs(np.mean(shares) - 0.8) < 0.03
    assert np.mean(score) == pytest.approx(np.mean(best), rel=0.03)


def test_calibration_makes_a_wrong_model_cover(model, data):
    """A model of half the true spread and a biased mean covers too little; windows unseen in training set it right."""
    wrong = pofx.fit(
        Data(0.5 * data.x - 1.0, data.space, split=data.split), "gaussian", progress=False, threads=1
    )  # it knows another process
    windows = np.lib.stride_tricks.sliding_window_view(ar1(4000, seed=7), STEPS)[::STEPS].copy()
    past, future = windows[:, :8, None], windows[:, 8:]
    raw = pofx.forecast(wrong, past, ahead=4).raw[..., 0].numpy()
    found = pofx.forecast(wrong, past, ahead=4, calibration=data)
    after = found.raw[..., 0].numpy()
    assert coverage_of_draws(raw, future, 0.8).value < 0.65
    assert coverage_of_draws(after, future, 0.8).value == pytest.approx(0.8, abs=0.06)
    assert crps_values(after, future).mean() < crps_values(raw, future).mean()
    assert found.diagnostics["calibration rows"] == 400


def test_calibrated_quantiles_are_those_of_the_draws_in_order(model, data):
    found = pofx.forecast(model, ar1(50, seed=2), ahead=3, calibration=data, quantiles=(0.05, 0.25, 0.5, 0.75, 0.95))
    steps = np.stack(list(found.value))
    assert (np.diff(steps, axis=0) > 0).all()
    again = torch.quantile(found.raw[:, 0, :, 0], torch.tensor([0.05, 0.5, 0.95]).double(), 0)
    np.testing.assert_allclose(steps[[0, 2, 4]], again.numpy())


def test_calibration_rows_have_their_channels_by_name():
    both = pd.DataFrame({"a": ar1(600), "b": 10 * ar1(600, seed=1)})
    options = {"kind": "series", "options": {"length": 6}}
    model = pofx.fit(open_data(both, **options), "gaussian", progress=False, threads=1)
    known = pd.DataFrame({"a": ar1(400, seed=2), "b": 10 * ar1(400, seed=3)})
    found = [
        pofx.forecast(model, both, ahead=2, calibration=open_data(known[order], **options, valid=0.4), rng=0)
        for order in (["a", "b"], ["b", "a"])
    ]
    torch.testing.assert_close(found[0].raw, found[1].raw)


def test_conditioning_on_the_past_and_being_given_it_agree():
    options = {"length": STEPS, "ahead": 4}
    whole = open_data(ar1(), kind="series", options={"length": STEPS}, test=0.1)
    after = open_data(ar1(), kind="series", given="past", options=options, test=0.1)
    assert after.x.shape[1:] == (4, 1) and after.given["past"].shape[1:] == (8, 1)
    joint = pofx.fit(whole, "gaussian", progress=False, threads=1)
    given = pofx.fit(after, "mixture", progress=False, threads=1, hyper_parameters={"components": 1})
    past = ar1(100, seed=3)
    one = pofx.forecast(joint, past, ahead=4, draws=4000)
    two = pofx.forecast(given, past, draws=4000)
    assert two.route == "given" and two.raw.shape == one.raw.shape
    np.testing.assert_allclose(one.raw.mean(0), two.raw.mean(0), atol=0.06)
    np.testing.assert_allclose(one.raw.std(0), two.raw.std(0), rtol=0.06)
    with pytest.raises(ValueError, match="fitted for 4"):
        pofx.forecast(given, past, ahead=5)
    with pytest.raises(ValueError, match="at least 8 steps"):
        pofx.forecast(given, past[:5])


def test_log_score_is_the_density_of_the_future(model, data):
    windows = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(ar1(1000, seed=9), STEPS)[::STEPS].copy())
    found = pofx.log_score(model, windows.unsqueeze(-1), STEPS - 1)
    mean, deviation = truth(windows[:, -2].numpy(), 1)[0], S
    z = (windows[:, -1].numpy() - mean) / deviation
    expected = -0.5 * z**2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(found.value.numpy().mean(), expected.mean(), atol=0.02)
    assert found.quality.value == "exact"
    with pytest.raises(ValueError, match="past is 12"):
        pofx.log_score(model, windows.unsqueeze(-1), STEPS)


def test_an_autoregressive_net_answers_by_the_same_question(data):
    net = pofx.fit(
        data, "autoregressive", budget="60 steps", threads=1, progress=False, hyper_parameters={"width": 16, "depth": 1}
    )
    past = ar1(50, seed=4)
    found = pofx.forecast(net, past, ahead=3, draws=300)
    mean, deviation = truth(past[-1], 3)
    assert found.raw.shape == (300, 1, 3, 1)
    assert (abs(found.raw.mean(0)[0, :, 0].numpy() - mean) < 2 * deviation).all()


def test_shifted_windows_make_forecasts_follow_the_level():
    past = ar1(30, seed=6) + 40.0  # far from whatever was seen
    found = []
    for shift in (0.0, 5.0):
        data = open_data(ar1(), kind="series", options={"length": 10, "shift": shift}, test=0.1)
        model = pofx.fit(data, "gaussian", progress=False, threads=1, hyper_parameters={"shrinkage": 1e-6})
        found.append(pofx.forecast(model, past, ahead=5).raw.mean(0)[0, :, 0].numpy())
    assert abs(found[0] - past[-1])[-1] > 15  # back to the mean that it knows
    assert abs(found[1] - past[-5:].mean()).max() < 3


def test_a_frame_goes_on_in_its_time():
    f = pd.DataFrame({"a": ar1(300), "b": ar1(300, 1)}, index=pd.date_range("2024-02-28", periods=300, freq="D"))
    model = pofx.fit(open_data(f, options={"length": 8}), "gaussian", progress=False, threads=1)
    low, middle, high = pofx.forecast(model, f.iloc[:2], ahead=3).value
    assert list(middle.index.strftime("%m-%d")) == ["03-01", "03-02", "03-03"] and list(middle) == ["a", "b"]
    both = pofx.forecast(model, [f.iloc[:9], f.iloc[:50]], ahead=2).value[0]
    assert isinstance(both, list) and both[1].index[0] == f.index[50]
    months = f.iloc[:24].set_index(pd.period_range("2020-01", periods=24, freq="M"))
    assert str(pofx.forecast(model, months, ahead=2).value[0].index[0]) == "2022-01"


def test_a_past_with_gaps_is_conditioned_on_what_is_there(model):
    past = ar1(30, seed=5)
    holed = past.copy()
    holed[-1] = np.nan
    mean, deviation = truth(past[-2], 2)
    raw = pofx.forecast(model, holed, ahead=1, draws=4000).raw[:, 0, 0, 0]
    assert float(raw.mean()) == pytest.approx(mean[1], abs=0.12)
    assert float(raw.std()) == pytest.approx(deviation[1], rel=0.06)


def test_what_cannot_be_forecast_is_refused(model, data):
    table = pofx.fit("iris", "gaussian", progress=False, threads=1)
    for ahead in (None, 2):
        with pytest.raises(ValueError, match=r"fitted to a table; fit it as a series \(kind='series'\) to forecast"):
            pofx.forecast(table, [[1.0, 2.0]], ahead)
        with pytest.raises(ValueError, match="fitted to an array; fit it as a series"):
            pofx.forecast(pofx.fit(ar1(40).reshape(-1, 4), "gaussian", progress=False, threads=1), [[1.0]], ahead)
        with pytest.raises(
            ValueError, match="fitted to the kind 'image', which has no order; .* asked of series, text"
        ):
            pofx.forecast(pofx.fit("digits", "gaussian", progress=False, threads=1), torch.zeros(1, 8, 8, 1), ahead)
    with pytest.raises(ValueError, match="got draws = 0, expected at least 1"):
        pofx.forecast(model, ar1(50), ahead=2, draws=0)
    with pytest.raises(ValueError, match="got draws = 0, expected at least 1"):
        log_score(model, data.x[:2], 3, draws=0)
    with pytest.raises(ValueError, match="calibration rows are 0"):
        pofx.forecast(model, ar1(50), ahead=2, calibration=Data(data.x, data.space, split={"valid": torch.arange(0)}))
    gan = pofx.fit(data, "gan", budget="2 steps", threads=1, progress=False)
    found = pofx.forecast(gan, ar1(50), ahead=2, draws=20)
    assert found.quality.value == "estimate"
    with pytest.raises((Unsupported, ValueError)):
        pofx.forecast(gan, ar1(50), ahead=2, route="given")
    assert KINDS["series"].past(ar1(50), model.space)[1].sum() == 6


def test_the_command_line(tmp_path, monkeypatch, capsys):
    from pofx import cli

    def run(*words):
        monkeypatch.setattr("sys.argv", ["pofx", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    f = pd.DataFrame({"time": pd.date_range("2024-01-01", periods=300, freq="h"), "y": ar1(300)})
    f.to_csv(tmp_path / "y.csv", index=False)
    model = pofx.fit(
        open_data(tmp_path / "y.csv", kind="series", options={"length": 8}), "gaussian", progress=False, threads=1
    )
    model.save(tmp_path / "m")
    run("forecast", tmp_path / "m", tmp_path / "y.csv", "--ahead", 3, "--out", tmp_path / "f.csv")
    out = pd.read_csv(tmp_path / "f.csv")
    assert list(out) == ["time", "y q0.1", "y q0.5", "y q0.9"] and out["time"][0] == "2024-01-13 12:00:00"
    texts = pofx.fit(open_data(["abab", "ab", "ababab"] * 5), "ngram", progress=False, threads=1)
    texts.save(tmp_path / "t")
    assert run("forecast", tmp_path / "t", "aba", "--ahead", 1).strip().startswith("aba")
