"""Likelihood and chart against closed forms and quadrature; tables and pictures against what went in."""

import gzip
import json
import math
import struct
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from scipy import stats

import pofx
from pofx.kinds import KINDS
from pofx.kinds.base import Space, Variable
from pofx.kinds.image import Image
from pofx.kinds.likelihood import Likelihood
from pofx.kinds.relax import Chart
from pofx.kinds.table import Table
from pofx.randomness import Rng

matplotlib.use("Agg")

SHORT = Variable("short", "ordinal", 5, mean=2.0, scale=1.2)
LONG = Variable("long", "ordinal", 256, mean=100.0, scale=60.0)
WORDS = Variable("words", "category", 5)
BINARY = Variable("binary", "binary", 2)
REAL = Variable("real", mean=3.0, scale=2.0)
ROUNDED = Variable("rounded", resolution=0.1, mean=3.0, scale=2.0)
BOUNDED = Variable("bounded", "bounded", low=-1.0, high=3.0, mean=0.5, scale=0.7)
BOUNDED_ROUNDED = Variable("percent", "bounded", low=0.0, high=100.0, resolution=1.0, mean=40.0, scale=20.0)
ALL = (SHORT, LONG, WORDS, BINARY, REAL, ROUNDED, BOUNDED, BOUNDED_ROUNDED)


def one(v, dtype="float64"):
    return Space((1,), (v,), dtype=dtype)


def params_of(likelihood, seed, scale=1.0, rows=None):
    shape = (likelihood.size,) if rows is None else (rows, likelihood.size)
    return scale * Rng(seed).normal(shape)


def support_of(v):
    if v.discrete:
        return torch.arange(v.levels).double()
    if v.support == "bounded":
        return torch.arange(v.low, v.high + v.resolution / 2, v.resolution, dtype=torch.float64)
    n = round(400 * v.scale / v.resolution)
    return v.resolution * torch.arange(-n, n + 1).double()


# --- likelihood


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("v", [SHORT, LONG, WORDS, BINARY, ROUNDED, BOUNDED_ROUNDED], ids=lambda v: v.name)
def test_masses_sum_to_one(v, scale):
    likelihood = Likelihood(one(v), components=4, longest=32)
    for seed in range(3):
        params = params_of(likelihood, seed, scale).double()
        if scale == 4.0 and v is ROUNDED:
            params[-4:] = params[-4:].clamp_max(2.0)  # a logistic of spread e^9 does not fit any finite grid
        x = support_of(v)
        log_p = likelihood.log_prob(params.expand(len(x), -1), x[:, None])
        assert log_p.exp().sum().item() == pytest.approx(1.0, abs=2e-5)


@pytest.mark.parametrize("v", [REAL, BOUNDED], ids=lambda v: v.name)
def test_densities_integrate_to_one(v):
    likelihood = Likelihood(one(v), components=3)
    ends = (v.low, v.high) if v.support == "bounded" else (-400.0, 400.0)
    x = torch.linspace(*ends, 100_001, dtype=torch.float64)[1:-1]
    for seed in range(2):
        params = params_of(likelihood, seed, 0.7).double()
        p = likelihood.log_prob(params.expand(len(x), -1), x[:, None])[:, 0].exp()
        assert torch.trapezoid(p, x).item() == pytest.approx(1.0, abs=2e-4)


def test_one_logistic_is_scipys():
    likelihood = Likelihood(one(REAL), components=1)
    mu, raw = 0.4, -0.3
    params = torch.tensor([0.0, mu + 1.5, raw], dtype=torch.float64)  # linspace(-1.5, 1.5, 1) is -1.5
    x = torch.linspace(-5, 9, 30, dtype=torch.float64)
    ours = likelihood.log_prob(params.expand(30, -1), x[:, None])[:, 0]
    theirs = stats.logistic.logpdf(x.numpy(), REAL.mean + REAL.scale * mu, REAL.scale * math.exp(raw - 1))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9)


def test_the_mean_of_codes_is_expected_and_of_names_the_likeliest():
    likelihood = Likelihood(Space((2,), (SHORT, WORDS)))
    p = torch.tensor([0.3, 0.1, 0.1, 0.1, 0.4], dtype=torch.float64)
    mean = likelihood.mean(p.log().repeat(2))
    assert mean[0].item() == pytest.approx(2.2) and mean[1].item() == 4


def test_numbers_become_the_nearest_codes_that_there_are():
    mixed = Space((3,), (SHORT, BINARY, REAL))
    x = torch.tensor([[-0.7, 0.6, 2.5], [4.9, -3.0, -1.25], [1.6, 1.7, 0.0]])
    assert mixed.nearest(x).tolist() == [[0, 1, 2.5], [4, 0, -1.25], [2, 1, 0]]
    picture = Space((1, 2, 1), (LONG,), "grid", "image", "uint8")
    found = picture.nearest(torch.tensor([[[[-0.6], [255.9]]]]))
    assert found.dtype == torch.uint8 and found.flatten().tolist() == [0, 255]


@pytest.mark.parametrize("v", [SHORT, LONG, WORDS, BINARY, BOUNDED_ROUNDED], ids=lambda v: v.name)
def test_draws_of_masses_follow_log_prob(v):
    likelihood = Likelihood(one(v), components=3, longest=32)
    params = params_of(likelihood, 5, 0.8)
    draws = likelihood.sample(params.expand(20_000, -1), Rng(1))[:, 0]
    x = support_of(v)
    p = likelihood.log_prob(params.double().expand(len(x), -1), x[:, None])[:, 0].exp().numpy()
    counts = np.array([(draws == k).sum().item() for k in x])
    assert counts.sum() == len(draws)
    many = p * len(draws) >= 10
    seen = np.append(counts[many], counts[~many].sum() + 1e-9)
    expected = np.append(p[many], p[~many].sum() + 1e-12) * len(draws)
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-6


@pytest.mark.parametrize("v", [REAL, BOUNDED], ids=lambda v: v.name)
def test_draws_of_densities_follow_log_prob(v):
    likelihood = Likelihood(one(v), components=3)
    params = params_of(likelihood, 2, 0.8).double()
    draws = likelihood.sample(params.expand(5000, -1), Rng(3))[:, 0].numpy()
    ends = (v.low, v.high) if v.support == "bounded" else (-300.0, 300.0)
    x = torch.linspace(*ends, 200_001, dtype=torch.float64)[1:-1]
    p = likelihood.log_prob(params.expand(len(x), -1), x[:, None])[:, 0].exp().numpy()
    cdf = np.cumsum(p) * (x[1] - x[0]).item()
    assert stats.kstest(draws, lambda t: np.interp(t, x.numpy(), cdf)).pvalue > 1e-6


@pytest.mark.parametrize("shift", [-20.0, 20.0])
def test_draws_in_a_truncated_tail(shift):
    # the untruncated logistic has its mass far outside; what is left within the levels decays by e per spread
    likelihood = Likelihood(one(LONG), components=1, longest=32)
    params = torch.tensor([0.0, shift + 1.5, 1.0])
    draws = likelihood.sample(params.expand(20_000, -1), Rng(0))[:, 0]
    x = support_of(LONG)
    p = likelihood.log_prob(params.double().expand(256, -1), x[:, None])[:, 0].exp()
    mean, spread = (p @ x).item(), (p @ (x - p @ x) ** 2).sqrt().item()
    assert abs(draws.mean().item() - mean) < 5 * spread / math.sqrt(20_000)


def test_mixed_entries_keep_their_order():
    space = Space((len(ALL),), ALL)
    likelihood = Likelihood(space, components=2, longest=32)
    params = params_of(likelihood, 0, rows=6)
    x = likelihood.sample(params, Rng(0))
    together = likelihood.log_prob(params, x)
    assert together.shape == x.shape == (6, len(ALL)) and torch.isfinite(together).all()
    start = 0
    by_entry = torch.zeros(6, 0)
    for i, (v, width) in enumerate(zip(ALL, likelihood.widths(), strict=True)):
        alone = Likelihood(one(v), components=2, longest=32)
        assert alone.size == width
        p = params_of(alone, 10 + i, rows=6)
        by_entry, start = torch.cat([by_entry, p], 1), start + width
        log_p = alone.log_prob(p, x[:, i : i + 1])
        assert torch.isfinite(log_p).all()
    joint = likelihood.log_prob(likelihood.from_entries(by_entry), x)
    for i, v in enumerate(ALL):
        alone = Likelihood(one(v), components=2, longest=32).log_prob(params_of(
            Likelihood(one(v), components=2, longest=32), 10 + i, rows=6), x[:, i : i + 1])  # fmt: skip
        torch.testing.assert_close(joint[:, i], alone[:, 0])


def test_codes_outside_have_no_mass():
    for v in (SHORT, LONG, WORDS):
        likelihood = Likelihood(one(v), components=2, longest=32)
        outside = torch.tensor([[-1.0], [float(v.levels)]])
        assert (likelihood.log_prob(params_of(likelihood, 0, rows=2), outside) == -torch.inf).all()


@pytest.mark.parametrize("v", ALL, ids=lambda v: v.name)
def test_gradients_are_finite_at_extremes(v):
    likelihood = Likelihood(one(v), components=3, longest=32)
    x = {"real": [-1e6, 0.0, 1e6], "bounded": [v.low or 0.0, v.high or 0.0]}.get(v.support, [0.0, v.levels - 1.0])
    if v is BOUNDED:
        x = [-1 + 1e-9, 3 - 1e-9]
    for size in (0.0, 30.0, -30.0):
        params = torch.full((len(x), likelihood.size), size, requires_grad=True)
        log_p = likelihood.log_prob(params, torch.tensor(x, dtype=torch.float64)[:, None])
        log_p.sum().backward()
        assert torch.isfinite(log_p).all() and torch.isfinite(params.grad).all()


def test_a_resolution_below_float32_is_a_density_times_its_width():
    fine, density = replace(REAL, resolution=1e-9), REAL
    params = params_of(Likelihood(one(fine), 3), 0)
    x = torch.linspace(-2, 8, 50, dtype=torch.float64)[:, None]
    mass = Likelihood(one(fine), 3).log_prob(params.expand(50, -1), x)
    at = Likelihood(one(density), 3).log_prob(params.expand(50, -1), x) + math.log(1e-9)
    torch.testing.assert_close(mass, at, atol=1e-4, rtol=0)


def test_mean_of_codes():
    likelihood = Likelihood(one(SHORT))
    params = params_of(likelihood, 3)
    assert likelihood.mean(params).item() == pytest.approx((params.softmax(-1) @ torch.arange(5.0)).item(), abs=1e-6)


# --- chart


def rows_of(space, n=40, seed=0):
    likelihood = Likelihood(space, components=2)
    return likelihood.sample(0.3 * Rng(seed).normal((n, likelihood.size)), Rng(seed + 1))


def test_decode_inverts_encode():
    space = Space((len(ALL),), ALL)
    chart, x = Chart(space), rows_of(space)
    for rng in (None, Rng(0)):
        back = chart.decode(chart.encode(x, rng))
        torch.testing.assert_close(back, x, atol=1e-4, rtol=1e-5)
        exact = [i for i, v in enumerate(ALL) if v.discrete]
        # codes overlap by 4e-4 of their noise; what is smooth never does
        assert (back[:, exact] == x[:, exact]).float().mean() > 0.99
        assert (back[:, :2] == x[:, :2]).all()


def test_pictures_are_channels_first_in_the_chart():
    space = Space((4, 6, 3), (Variable("pixel", "ordinal", 256, mean=120.0, scale=60.0),), "grid", "image", "uint8")
    x = (Rng(0).uniform((5, 4, 6, 3)) * 256).to(torch.uint8)
    chart = Chart(space)
    u = chart.encode(x)
    assert u.shape == (5, 3, 4, 6) and chart.space.shape == (3, 4, 6)
    torch.testing.assert_close(u, ((x.double() - 120) / 60).permute(0, 3, 1, 2).float())
    assert torch.equal(chart.decode(chart.encode(x, Rng(1))), x)
    assert torch.equal(chart.mask(x > 100), (x > 100).permute(0, 3, 1, 2))


def standard_normal(u):
    return -0.5 * (u.double() ** 2).flatten(1).sum(1) - u[0].numel() * 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("v,x", [(SHORT, 3.0), (ROUNDED, 4.2), (LONG, 77.0)], ids=lambda a: str(a)[:8])
def test_weights_of_a_bin_average_to_its_probability(v, x):
    chart = Chart(one(v))
    step = 1.0 if v.discrete else v.resolution
    ends = [(x + e * step / 2 - v.mean) / v.scale for e in (-1, 1)]
    truth = stats.norm.cdf(ends[1]) - stats.norm.cdf(ends[0])
    rows = torch.full((40_000, 1), x, dtype=torch.float64)
    u = chart.encode(rows, Rng(0))
    w = (standard_normal(u) + chart.log_weight(u, rows)).exp()
    error = (w.std() / math.sqrt(len(w))).item() + 1e-6 * truth
    assert abs(w.mean().item() - truth) < 5 * error


@pytest.mark.parametrize("levels", [2, 3])
def test_weights_of_a_category_average_to_the_quadrature(levels):
    v = Variable("c", "category", levels)
    chart = Chart(one(v))
    bits = chart.space.size
    total = 0.0
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    mesh = torch.cartesian_prod(*[grid] * bits).reshape(-1, bits)
    codes = torch.tensor([[1.0 if k >> b & 1 else -1.0 for b in range(bits)] for k in range(levels)]).double()
    p_x = (-(torch.cdist(mesh, codes) ** 2) / (2 * 0.3**2)).softmax(-1)
    for k in range(levels):
        truth = (standard_normal(mesh).exp() * p_x[:, k]).sum().item() * (grid[1] - grid[0]).item() ** bits
        rows = torch.full((100_000, 1), float(k), dtype=torch.float64)
        # q is narrower than p(u) p(x | u), so that the weights have a heavy tail: widen it, and correct
        wide = torch.distributions.Normal(0.0, 1.5)
        z = 1.5 * Rng(k).normal((100_000, bits)).double()
        log_q = wide.log_prob(z).sum(1)
        own = -0.5 * ((z - codes[k]) / 0.3).square().sum(1) - bits * math.log(0.3 * math.sqrt(2 * math.pi))
        w = (standard_normal(z) + chart.log_weight(z, rows) + own - log_q).exp()
        assert abs(w.mean().item() - truth) < 5 * (w.std() / math.sqrt(len(w))).item()
        u = chart.encode(rows, Rng(k))
        assert (standard_normal(u) + chart.log_weight(u, rows)).mean().item() < math.log(truth)  # a lower bound
        total += truth
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_noise_of_a_category_is_the_q_of_its_weight():
    rows = torch.zeros(50_000, 1, dtype=torch.float64)
    u = Chart(one(BINARY)).encode(rows, Rng(0)).flatten().double().numpy()
    assert stats.kstest(u, stats.norm(-1, 0.3).cdf).pvalue > 1e-6


@pytest.mark.parametrize("v", [REAL, BOUNDED], ids=lambda v: v.name)
def test_change_of_variables_integrates_to_one(v):
    chart = Chart(one(v))
    ends = (v.low, v.high) if v.support == "bounded" else (-30.0, 30.0)
    x = torch.linspace(*ends, 100_001, dtype=torch.float64)[1:-1, None]
    u = chart.encode(x)
    log_p = standard_normal(u) + chart.log_weight(u, x)
    assert chart.exact
    assert torch.trapezoid(log_p.exp(), x[:, 0]).item() == pytest.approx(1.0, abs=1e-4)


def test_bounded_bins_are_a_lower_bound_of_a_distribution():
    chart, x = Chart(one(BOUNDED_ROUNDED)), support_of(BOUNDED_ROUNDED)
    total = 0.0
    for value in x:
        rows = torch.full((400, 1), float(value), dtype=torch.float64)
        u = chart.encode(rows, Rng(int(value)))
        total += (standard_normal(u) + chart.log_weight(u, rows)).exp().mean().item()
    assert total == pytest.approx(1.0, abs=0.01)


def test_masks_follow_their_entries():
    space = Space((4,), (WORDS, REAL, BINARY, SHORT))
    chart = Chart(space)
    observed = torch.tensor([[True, False, False, True], [False, True, True, False]])
    # chart order: smooth entries (1, 3), then 3 bits of the category, then 1 of the binary
    expected = [[False, True, True, True, True, False], [True, False, False, False, False, True]]
    assert chart.mask(observed).tolist() == expected
    x = torch.tensor([[2.0, 1.0, 1.0, 3.0]]).double()
    other = torch.tensor([[4.0, 1.0, 1.0, 3.0]]).double()
    changed = (chart.encode(x) != chart.encode(other))[0]
    fixed = chart.mask(torch.tensor([[True, False, False, False]]))[0]
    assert (changed <= fixed).all() and changed.any()


# --- spaces


def test_spaces_survive_json():
    space = Space((len(ALL),), ALL, meta={"columns": [1, "a"]})
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    "wrong",
    [
        {"support": "integer"}, {"support": "category"}, {"support": "bounded", "low": 1.0, "high": 0.0},
        {"scale": 0.0}, {"mean": math.nan}, {"resolution": -1.0}, {"support": "ordinal", "levels": 3, "values": (1, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_variables_are_refused(wrong):
    with pytest.raises(ValueError, match="Variable 'x'"):
        Variable(**wrong)


# --- tables


def frame_of(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "count": rng.integers(0, 9, n),
            "wide": rng.integers(0, 10**6, n),
            "density": rng.normal(size=n),
            "single": rng.normal(size=n).astype("float32"),
            "tenths": rng.integers(0, 300, n) / 10,
            "day": pd.date_range("2020-01-01", periods=n),
            "time": pd.date_range("2020-01-01", periods=n, freq="37s", tz="UTC"),
            "yes": rng.random(n) < 0.5,
            "word": rng.choice(list("abc"), n),
            "dtype": pd.Categorical(rng.choice(list("xyz"), n), categories=list("zyxw")),
            "order": pd.Categorical(rng.choice(["lo", "hi"], n), categories=["lo", "mid", "hi"], ordered=True),
            "same": 5,
            "nullable": pd.array([int(k) % 7 for k in range(n)], dtype="Int64"),
            7: rng.integers(0, 5, n) / 4,
        }
    )


def kinds_in(raw):
    return {v.name: (v.support, v.levels, v.resolution) for v in raw.space.variables}


def test_types_are_decided_by_the_values():
    raw = Table().read(frame_of(400))
    assert kinds_in(raw) == {
        "count": ("ordinal", 9, 0.0), "wide": ("real", 0, 1.0), "density": ("real", 0, 0.0),
        "single": ("real", 0, 0.0), "tenths": ("real", 0, 0.1), "day": ("real", 0, 1.0), "time": ("real", 0, 1.0),
        "yes": ("binary", 2, 0.0), "word": ("category", 3, 0.0), "dtype": ("category", 3, 0.0),
        "order": ("ordinal", 3, 0.0), "same": ("ordinal", 1, 0.0), "nullable": ("ordinal", 7, 0.0),
        "7": ("ordinal", 5, 0.0),
    }  # fmt: skip
    assert len(raw.notes) == 14 and raw.notes[0] == "count: ordinal, 9 levels: every 1 from 0 to 8"
    assert raw.x.dtype == torch.float64 and raw.observed is None
    json.dumps(raw.space.to_json())


def test_frames_come_back_as_they_went_in():
    frame = frame_of()
    raw = Table().read(frame)
    pd.testing.assert_frame_equal(Table().restore(raw.x, raw.space), frame)
    shuffled = frame[list(frame.columns[::-1])]
    x, observed = Table().encode(shuffled, raw.space)
    assert torch.equal(x, raw.x) and observed.all()
    one_row, _ = Table().encode(frame.iloc[3].to_dict(), raw.space)
    assert torch.equal(one_row[0], raw.x[3])
    series, _ = Table().encode(frame.iloc[3], raw.space)
    assert torch.equal(series[0], raw.x[3])
    dicts, _ = Table().encode(frame.head(4).to_dict("records"), raw.space)
    assert torch.equal(dicts, raw.x[:4])


def test_draws_take_the_users_values():
    raw = Table().read(frame_of(200))
    drawn = Table().restore(rows_of(raw.space, 50), raw.space)
    assert drawn.dtypes.equals(frame_of(200).dtypes)
    assert set(drawn["word"]) <= set("abc") and drawn["count"].between(0, 8).all()
    assert all(round(v, 1) == v for v in drawn["tenths"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-(2**40), 2**40)),
            st.one_of(st.none(), st.floats(-1e9, 1e9, allow_subnormal=False)),
            st.one_of(st.none(), st.sampled_from(["red", "green", "deep blue", "x,y"])),
            st.one_of(st.none(), st.decimals(-999, 999, places=2).map(float)),
        ),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_any_rows_come_back(rows):
    frame = pd.DataFrame(rows, columns=["whole", "real", "word", "cents"])
    frame["whole"] = frame["whole"].astype("Int64")
    frame["keep"] = range(len(frame))
    raw = Table().read(frame)
    back = Table().restore(raw.x, raw.space)
    seen = ~frame.isna()
    assert list(back.columns) == list(frame.columns) and back.dtypes.astype(str).equals(frame.dtypes.astype(str))
    for name in frame.columns:
        assert frame[name][seen[name]].tolist() == back[name][seen[name]].tolist()
    completed = Table().complete(frame, raw.x, ~raw.x.isnan() if raw.observed is None else raw.observed, raw.space)
    learnt = [c for c in frame.columns if seen[c].any()]
    assert completed[learnt].notna().all().all()


def test_atoms_are_levels_not_a_density():
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(4000) < 0.9, 0, rng.choice(rng.integers(1, 99_999, 100), 4000))
    v = Table().read(pd.DataFrame({"gain": gain, "word": rng.choice(list("ab"), 4000)})).space.variables[0]
    assert v.support == "ordinal" and v.levels == len(np.unique(gain)) and v.values[0] == 0


def test_a_heavy_value_among_full_precision_is_learnt_rounded():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(1000) < 0.7, 0.0, rng.exponential(size=1000))
    raw = Table().read(pd.DataFrame({"v": values}))
    v = raw.space.variables[0]
    assert v.resolution == 0.001 and "0 alone holds" in raw.notes[0]
    assert torch.allclose(raw.x[:, 0], torch.tensor(values), atol=0.0005 + 1e-12)
    assert Table().read(pd.DataFrame({"v": values}), resolution={"v": 0}).space.variables[0].density


def test_types_and_resolutions_can_be_said():
    frame = pd.DataFrame(
        {"a": range(100), "b": np.arange(100) / 100, "c": [1, 2] * 50, "d": [str(k) for k in range(100)]}
    )
    types = {"a": "real", "b": "bounded", "c": "category", "d": "integer"}
    raw = Table().read(frame, types=types, resolution={"a": 5.0})
    assert kinds_in(raw) == {
        "a": ("real", 0, 5.0), "b": ("bounded", 0, 0.01), "c": ("binary", 2, 0.0), "d": ("real", 0, 1.0)
    }  # fmt: skip
    assert raw.space.variables[2].values == (1, 2)
    assert raw.x[7, 0] == 5.0 and raw.x[8, 0] == 10.0
    ordinal = Table().read(frame, types={"d": "ordinal", "b": ("bounded", -1, 2)}, drop=["a"])
    assert kinds_in(ordinal)["d"] == ("ordinal", 100, 0.0)
    assert (ordinal.space.variables[0].low, ordinal.space.variables[0].high) == (-1.0, 2.0)
    assert Table().restore(ordinal.x, ordinal.space)["d"].tolist() == frame["d"].tolist()


@pytest.mark.parametrize("blank", [None, np.nan, "", "?", "NA", "nan", " ? "])
def test_every_way_of_missing(blank):
    frame = pd.DataFrame({"w": ["a", blank, "b", "c"], "n": pd.Series([1, 2, blank, 3], dtype=object)})
    raw = Table().read(frame)
    assert raw.observed.tolist() == [[True, True], [False, True], [True, False], [True, True]]
    assert kinds_in(raw)["n"][:2] == ("ordinal", 3)
    assert torch.isfinite(raw.x).all()


def test_completion_touches_only_what_is_missing():
    frame = frame_of()
    holes = frame.copy()
    holes.loc[3, "density"] = np.nan
    holes.loc[4, "word"] = None
    holes.loc[5, "nullable"] = pd.NA
    holes.loc[6, "dtype"] = np.nan
    holes.loc[7, "day"] = pd.NaT
    holes["blank"] = np.nan
    holes.index = [f"r{k}" for k in range(len(holes))]
    raw = Table().read(holes)
    x = torch.where(raw.observed, raw.x, Table().read(frame).x)
    done = Table().complete(holes, x, raw.observed, raw.space)
    expected = frame.assign(blank=np.nan).set_index(holes.index)
    pd.testing.assert_frame_equal(done, expected)
    assert holes["density"].isna().sum() == 1  # the user's own frame is left alone
    wild = torch.where(raw.observed, raw.x + 1.0, raw.x)  # observed entries never come from x
    pd.testing.assert_series_equal(
        Table().complete(holes, wild, raw.observed, raw.space)["density"].drop("r3"), holes["density"].drop("r3")
    )
    row = {k: (None if k == "word" else v) for k, v in frame.iloc[0].to_dict().items()}
    x, observed = Table().encode(row, raw.space)
    assert Table().complete(row, raw.x[:1], observed, raw.space) == row | {"word": frame["word"][0]}


def test_identifiers_constants_and_blanks_are_treated_and_noted():
    frame = pd.DataFrame({"id": [f"u{k}" for k in range(30)], "k": 1.5, "blank": None, "v": [0, 1, 2] * 10})
    raw = Table().read(frame)
    assert [v.name for v in raw.space.variables] == ["k", "v"] and raw.space.variables[0].levels == 1
    assert "dropped (an identifier)" in raw.notes[0] and "constant" in raw.notes[1] and "never observed" in raw.notes[2]
    assert list(Table().restore(raw.x, raw.space).columns) == ["k", "blank", "v"]
    assert Table().read(frame, types={"id": "category"}).space.size == 3


def test_given_columns_leave_x():
    raw = Table().read(frame_of(), given=("word", "tenths"))
    assert raw.space.size == 12 and set(raw.given) == {"word", "tenths"}
    assert raw.given["word"].dtype == torch.int64 and raw.given_spaces["word"].variables[0].values == ("a", "b", "c")
    assert raw.given["tenths"].tolist() == frame_of()["tenths"].tolist()


BAD_FRAMES = {
    "infinite": (pd.DataFrame({"a": [1.0, np.inf]}), {}, "'a', row 1: got inf"),
    "too many words": (pd.DataFrame({"a": [f"w{k % 5000}" for k in range(10_000)]}), {}, "5000 distinct words"),
    "twice": (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "occur twice"),
    "empty": (pd.DataFrame({"a": []}), {}, "at least one row"),
    "only identifiers": (pd.DataFrame({"a": [f"u{k}" for k in range(30)]}), {}, "no column is left"),
    "objects": (pd.DataFrame({"a": [{1}, {2}]}), {}, "values of type set"),
    "complex": (pd.DataFrame({"a": [1j, 2j]}), {}, "dtype complex"),
    "unknown type": (pd.DataFrame({"a": [1, 2]}), {"types": {"a": "float"}}, "types\\['a'\\] is 'float'"),
    "unknown column": (pd.DataFrame({"a": [1, 2]}), {"types": {"b": "real"}}, "types names \\['b'\\]"),
    "unknown drop": (pd.DataFrame({"a": [1, 2]}), {"drop": ["b"]}, "drop names \\['b'\\]"),
    "drop a word": (pd.DataFrame({"a": [1, 2]}), {"drop": "a"}, "expected a list"),
    "bounds": (pd.DataFrame({"a": [0.5, 3.0]}), {"types": {"a": "bounded"}}, "not between the bounds"),
    "not whole": (pd.DataFrame({"a": [0.5, 3.0, 1]}), {"types": {"a": "integer"}}, "holds 0.5"),
    "resolution": (pd.DataFrame({"a": [0.5, 3.0, 1]}), {"resolution": {"a": -1}}, "expected numbers >= 0"),
    "text as real": (pd.DataFrame({"a": ["x", "3"]}), {"types": {"a": "real"}}, "got 'x' where a number should be"),
    "missing given": (pd.DataFrame({"a": ["x", None], "b": [1, 2]}), {"given": ("a",)}, "given 'a' has missing"),
}  # fmt: skip


@pytest.mark.parametrize("frame,options,says", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames_are_named(frame, options, says):
    with pytest.raises(ValueError, match=says):
        Table().read(frame, **options)


BAD_ROWS = {
    "missing column": ({"w": "a"}, "no column \\['n'"),
    "unseen word": ({"w": "z", "n": 1, "r": 0.5}, "'w': got 'z', which is unknown; it takes 'a', 'b'"),
    "unseen level": ({"w": "a", "n": 9, "r": 0.5}, "'n': got 9, which is not among"),
    "text": ({"w": "a", "n": 1, "r": "much"}, "'r': got 'much' where a number should be"),
    "infinite": ({"w": "a", "n": 1, "r": math.inf}, "got inf"),
    "array": (np.zeros((2, 3)), "expected a DataFrame"),
}


@pytest.mark.parametrize("rows,says", BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_named(rows, says):
    frame = pd.DataFrame({"w": ["a", "b"] * 20, "n": [1, 2, 3, 4] * 10, "r": np.random.default_rng(0).normal(size=40)})
    space = Table().read(frame).space
    with pytest.raises(ValueError, match=says):
        Table().encode(rows, space)


# --- table files


def test_files_of_every_form(tmp_path):
    frame = pd.DataFrame({"a": [1, 2, 3, 4] * 9, "b": [0.5, 1.25, 2.5] * 12, "c": ["x", "y y", "z"] * 12})
    frame["day"] = pd.date_range("2021-03-01", periods=36)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_csv(tmp_path / "semi.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.csv.gz", "semi.csv", "t.tsv", "t.parquet"):
        assert Table().reads(tmp_path / name)
        raw = Table().read(tmp_path / name)
        back = Table().restore(raw.x, raw.space)
        assert list(back["day"].dt.day) == list(frame["day"].dt.day)
        pd.testing.assert_frame_equal(back.drop(columns="day"), frame.drop(columns="day"), check_dtype=name != "x")


def test_files_without_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1, 2.5, x\n3, 4.5, y\n\n5,?,x\n")
    raw = Table().read(path)
    assert [v.name for v in raw.space.variables] == ["x0", "x1", "x2"] and not raw.observed[2, 1] and len(raw.x) == 3
    named = Table().read(path, names=["a", "b", "c"])
    assert [v.name for v in named.space.variables] == ["a", "b", "c"] and len(named.x) == 3
    path.write_text("1,y,3\n2,x,5\n")
    assert "header=False" in Table().read(path).notes[0] and len(Table().read(path).x) == 1
    assert len(Table().read(path, header=False).x) == 2
    text = tmp_path / "t.txt"
    text.write_text(" 0.1  2.0\n 1.5  3.0\n")
    assert Table().reads(text) and Table().read(text).x.shape == (2, 2)
    text.write_text("a novel, by me\n")
    assert not Table().reads(text)


def test_whole_numbers_with_blanks_stay_whole(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\n,y\n3,x\n")
    raw = Table().read(path)
    back = Table().restore(raw.x, raw.space)
    assert str(back["a"].dtype) == "Int64" and back["a"].tolist()[::2] == [1, 3]


BAD_FILES = {
    "ragged": (b"a,b\n1,2\n3,4,5\n", "line 3: got 3 fields, expected 2"),
    "short": (b"a,b,c\n1,2,3\n\n3,4\n", "line 4: got 2 fields, expected 3"),
    "empty": (b"", "is empty"),
    "latin": ("a,b\ncafé,1\n".encode("latin-1"), "not text in utf-8"),
}


@pytest.mark.parametrize("content,says", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_named(tmp_path, content, says):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        Table().read(path)
    zipped = tmp_path / "t.csv.gz"
    zipped.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:-12])
    with pytest.raises(ValueError, match="damaged"):
        Table().read(zipped)
    parquet = tmp_path / "t.parquet"
    parquet.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="Parquet"):
        Table().read(parquet)


# --- pictures


def pictures_of(n=6, h=5, w=4, c=1, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, (n, h, w, c)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3)])
def test_pictures_come_back_as_they_went_in(shape):
    pictures = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    raw = Image().read(pictures)
    assert raw.x.shape == (*shape, 1)[:4] and raw.x.dtype == torch.uint8 and raw.space.shared
    back = Image().restore(raw.x, raw.space)
    assert back.dtype == np.uint8 and np.array_equal(back, pictures) and back.shape == shape
    x, observed = Image().encode(pictures, raw.space)
    assert torch.equal(x, raw.x) and observed.all()
    single, _ = Image().encode(pictures[0], raw.space)
    assert torch.equal(single, raw.x[:1])
    v = raw.space.variables[0]
    assert v.mean == pytest.approx(pictures.mean()) and v.scale == pytest.approx(pictures.std())


@pytest.mark.parametrize("top,levels", [(2, 2), (16, 16), (17, 256), (1, 2), (256, 256)])
def test_levels(top, levels):
    pictures = np.minimum(pictures_of(200), top - 1)
    raw = Image().read(pictures)
    assert raw.space.variables[0].levels == levels and raw.space.meta["white"] == levels - 1


def test_pictures_with_holes_are_completed():
    raw = Image().read(pictures_of(c=3))
    holed = raw.x.numpy().astype(np.float64)
    holed[:, 1:3] = np.nan
    x, observed = Image().encode(holed, raw.space)
    assert not observed[:, 1:3].any() and observed[:, 3:].all()
    done = Image().complete(holed, raw.x, observed, raw.space)
    assert done.dtype == np.uint8 and np.array_equal(done, raw.x.numpy())


def write_folder(folder, sizes=((5, 4),), mode="L", n=6):
    for k in range(n):
        path = folder / ("cat" if k % 2 else "dog") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        h, w = sizes[k % len(sizes)]
        Pillow.fromarray(pictures_of(1, h, w, 1, seed=k)[0, ..., 0]).convert(mode).save(path)


def test_folders_of_classes(tmp_path):
    write_folder(tmp_path)
    raw = Image().read(tmp_path)
    assert raw.x.shape == (6, 5, 4, 1) and raw.given["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.given_spaces["label"].variables[0].values == ("cat", "dog")
    assert np.array_equal(raw.x[0].numpy(), pictures_of(1, seed=1)[0])
    assert Image().restore(raw.x, raw.space).shape == (6, 5, 4)
    assert Image().read(tmp_path, mode="RGB", size=(3, 7)).x.shape == (6, 3, 7, 3)


@pytest.mark.parametrize(("shape", "tail"), [((5, 7), (5, 7, 1)), ((5, 7, 3), (5, 7, 3))])
def test_one_picture_is_a_file_of_one_row(tmp_path, shape, tail):
    levels = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    Pillow.fromarray(levels).save(tmp_path / "one.png")
    assert np.array_equal(Image().read(tmp_path / "one.png").x.numpy(), levels.reshape(1, *tail))
    (tmp_path / "cut.png").write_bytes((tmp_path / "one.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cut.png cannot be read as a picture"):
        Image().read(tmp_path / "cut.png")


def test_a_damaged_picture_is_left_out_with_a_note(tmp_path):
    write_folder(tmp_path)
    good = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "0.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "cat" / "words.png").write_text("no picture")
    raw = Image().read(tmp_path)
    assert len(raw.x) == 5 and len(raw.given["label"]) == 5
    assert any("0.png left out" in n for n in raw.notes) and any("words.png left out" in n for n in raw.notes)


@pytest.mark.parametrize(
    "sizes,says", [(((5, 4), (6, 4)), "2 sizes .*5 x 4 \\(3\\).*size=\\(6, 4\\)"), (((5, 4),), "modes .*mode='RGB'")]
)
def test_mixed_pictures_name_the_option(tmp_path, sizes, says):
    write_folder(tmp_path, sizes)
    if len(sizes) == 1:
        Pillow.fromarray(pictures_of(1, c=3)[0]).save(tmp_path / "cat" / "colour.png")
    with pytest.raises(ValueError, match=says):
        Image().read(tmp_path)
    assert Image().read(tmp_path, size=(5, 4), mode="L").x.shape[1:] == (5, 4, 1)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="holds no picture"):
        Image().read(tmp_path)
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ValueError, match="none of 1 pictures"):
        Image().read(tmp_path)


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()) if path.suffix == ".gz" else header + array.tobytes())


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_find_their_labels(tmp_path, ending):
    path = tmp_path / f"train-images-idx3-ubyte{ending}"
    write_idx(path, pictures_of()[..., 0])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([3, 1, 1, 0, 3, 1], np.uint8))
    assert Image().reads(path)
    raw = Image().read(path)
    assert np.array_equal(raw.x.numpy(), pictures_of()) and raw.given["label"].tolist() == [2, 1, 1, 0, 2, 1]
    path.write_bytes(gzip.compress(b"\0\0\x08\x03") if ending else b"\0\0\x08\x03")
    with pytest.raises(ValueError, match="cut short"):
        Image().read(path)
    path.write_bytes(gzip.compress(b"no idx file") if ending else b"no idx file")
    with pytest.raises(ValueError, match="expected 000008"):
        Image().read(path)


def test_npz_with_labels(tmp_path):
    np.savez(tmp_path / "p.npz", x=pictures_of(c=3), y=np.arange(6) % 3, classes=np.array(["a", "b", "c"]))
    np.savez(tmp_path / "rows.npz", x=np.zeros((6, 3)))
    assert Image().reads(tmp_path / "p.npz") and not Image().reads(tmp_path / "rows.npz")
    raw = Image().read(tmp_path / "p.npz")
    assert raw.given_spaces["label"].variables[0].values == ("a", "b", "c") and raw.given["label"][4] == 1
    np.savez(tmp_path / "p.npz", x=pictures_of(), y=np.arange(5))
    with pytest.raises(ValueError, match="one label for each"):
        Image().read(tmp_path / "p.npz")


BAD_PICTURES = {
    "shape": (np.zeros((2, 6, 4), np.uint8), "expected \\(N, 5, 4, 1\\) or \\(N, 5, 4\\)"),
    "level": (np.full((2, 5, 4), 300), "the level 300"),
    "fraction": (np.full((2, 5, 4), 0.5), "the level 0.5"),
    "infinite": (np.full((2, 5, 4), np.inf), "the level inf"),
    "words": (np.full((2, 5, 4), "a"), "dtype <U1"),
}


@pytest.mark.parametrize("rows,says", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_pictures_are_named(rows, says):
    with pytest.raises(ValueError, match=says):
        Image().encode(rows, Image().read(pictures_of()[..., 0]).space)


@pytest.mark.parametrize("source", [np.zeros((3, 4)), np.zeros((3, 4, 4)), np.zeros((0, 4, 4), np.uint8)], ids=str)
def test_arrays_that_are_no_pictures(source):
    with pytest.raises(ValueError, match="expected pictures"):
        Image().read(source)


def test_who_reads_what():
    pictures, rows = pictures_of(), np.zeros((5, 2))
    first = {id(s): next(k.name for k in reversed(KINDS.values()) if k.reads(s)) for s in (pictures, rows)}
    assert first == {id(pictures): "image", id(rows): "array"}
    assert Table().reads(frame_of()) and Table().reads([{"a": 1}]) and not Table().reads([[1, 2]])


@pytest.mark.parametrize("name", ["table", "image", "colour", "array"])
def test_everything_draws(name):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    sources = {"table": frame_of(), "image": pictures_of(), "colour": pictures_of(c=3), "array": np.eye(9)[:, :2]}
    kind = KINDS["image" if name == "colour" else name]
    raw = kind.read(sources[name])
    kind.draw(axes, raw.x, raw.space)
    figure.canvas.draw()
    assert axes.child_axes or axes.images or axes.collections


@pytest.mark.parametrize("family", ["mixture", "autoregressive", "flow", "vae", "kde", "gaussian"])
def test_counts_are_never_drawn_negative(family):
    """A wide column of whole numbers from 0 up has no mass below 0: the law sums to 1 from there, and draws obey."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"n": rng.exponential(300, 800).astype(int), "c": rng.integers(0, 2, 800)})
    model = pofx.fit(frame, family, budget="30 steps", threads=1, progress=False)
    assert model.space.variables[0].low == 0
    drawn = pofx.sample(model, 2000, rng=0).value
    assert drawn["n"].min() >= 0
    if family in ("mixture", "autoregressive", "kde"):
        grid = torch.cartesian_prod(torch.arange(0.0, 12000.0), torch.arange(2.0)).double()
        total = float(model.log_prob(grid).value.detach().exp().sum())
        assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("longest", [2, 64])
@pytest.mark.parametrize("levels", [2, 5, 40])
def test_the_masses_of_codes_are_their_probabilities(levels, longest):
    """As softmax or as a mixture on a coarse scale, where half a bin aside is another law."""
    v = Variable("code", "ordinal", levels, mean=levels / 2, scale=levels / 20)
    likelihood = Likelihood(Space((1,), (v,)), 3, longest)
    params = torch.randn(6, likelihood.size, generator=torch.Generator().manual_seed(0))
    every = torch.arange(levels).reshape(-1, 1, 1).expand(-1, 6, 1)
    expected = likelihood.log_prob(params.expand(levels, -1, -1), every).exp()[..., 0].T.double()
    masses = likelihood.masses(params, levels).double()
    assert torch.allclose(masses.sum(1), torch.ones(6).double(), atol=1e-5)
    assert torch.allclose(masses, expected, atol=1e-4)


@pytest.mark.parametrize("far", [0.0, 3.0, -3.0, -9.0, -300.0, 300.0])
def test_masses_of_levels_are_log_prob_wherever_the_logistics_lie(far):
    """A black pixel is learnt by spikes far below the first level, of which next to nothing lies inside."""
    space = Space((1,), (Variable("k", "ordinal", 256, mean=73.0, scale=90.0),), dtype="uint8")
    one = Likelihood(space, 4)
    params = 2 * torch.randn(6, one.size, generator=torch.Generator().manual_seed(0))
    params[:, 4:8] += far  # the means
    params[::2, 8:] -= 6  # the widths
    params[1, :4], params[1, 4:8], params[1, 8:] = 0.0, far, 0.0  # of this row, at -9, e^-20 lies inside
    codes = torch.arange(256)
    log_p = torch.stack([one.log_prob(params.double(), codes[k].expand(6, 1)) for k in codes], 1)[..., 0]
    masses = torch.cat([one.masses(row[None], 256) for row in params])  # one by one: each takes its own way
    assert torch.allclose(masses.sum(1), torch.ones(6).double(), atol=1e-12)
    torch.testing.assert_close(masses, log_p.double().exp(), atol=1e-12, rtol=1e-6)
