"""Baselines: their densities are normalised, and know gaps."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.baselines import BASELINES, Copy, Independent, Last, Uniform, Unigram, enlarged, hold, trivial
from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.compare import BASELINE_NAMES
from pofx.tasks.measure import _holes, chimeras


def fitted(cls, frame, resolution):
    data = open_data(frame, options={"types": {"c": "category"}, "resolution": {"a": resolution}})
    model = cls().build(data.space)
    model.fit_closed(data, None)
    return model, data


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": (5 + rng.normal(size=300)).round(1), "c": rng.choice(list("xyz"), 300)})
    table.loc[:40, "a"] = np.nan
    return table


@pytest.mark.parametrize("cls", [Independent, Uniform])
@pytest.mark.parametrize("resolution", [0.1, 0.0])
def test_the_density_sums_to_one(frame, cls, resolution):
    model, _ = fitted(cls, frame, resolution)
    step = resolution or 2e-4
    grid = torch.arange(-20, 30, step, dtype=torch.float64)
    grid = grid.round(decimals=1) if resolution else grid + step / 2
    rows = torch.cartesian_prod(grid, torch.arange(3.0, dtype=torch.float64))
    total = float(model.log_prob(rows).value.exp().sum()) * (1 if resolution else step)
    assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("cls", [Independent, Uniform])
def test_an_entry_that_is_missing_has_no_term(frame, cls):
    model, data = fitted(cls, frame, 0.1)
    seen = torch.tensor([[False, True]]).expand(len(data), 2)
    mass = torch.stack([model.log_prob(torch.tensor([[5.0, k]]).double(), observed=seen[:1]).value for k in range(3)])
    assert float(mass.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_uniform_knows_its_range(frame):
    model, data = fitted(Uniform, frame, 0.1)
    a = data.x[data.observed[:, 0], 0]
    levels = round(float(a.max() - a.min()) / 0.1) + 1
    inside, outside = model.log_prob(torch.tensor([[float(a.min()), 0], [float(a.min()) - 1, 0]]).double()).value
    assert float(inside) == pytest.approx(-math.log(3 * levels))
    assert float(outside) == -math.inf


def test_a_copy_is_of_complete_rows(frame):
    model, data = fitted(Copy, frame, 0.1)
    assert len(model.rows) == int(data.observed[data.split["train"]].all(1).sum())


# --- what has an order ----------------------------------------------------------------------------------------------


def fit(model, data):
    model.build(data.space)
    model.fit_closed(data, None)
    return model


def walks(n=400, steps=6, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(n, steps, channels)) * [1.0, 3.0], 1)
    return open_data(x, kind="series")


def clips(n=60, seed=0):
    """Frames of four levels that change here and there."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.integers(0, 4, (n, 1, 2, 2, 1)), 3, 1)
    return open_data(np.where(rng.random(x.shape) < 0.3, rng.integers(0, 4, x.shape), x).astype(np.uint8), kind="video")


@pytest.mark.parametrize("season", [1, 2])
def test_the_masses_of_all_clips_sum_to_one(season):
    x = np.random.default_rng(0).integers(0, 3, (50, 3, 1, 2, 1), dtype=np.uint8)
    model = fit(Last(season=season), open_data(x, kind="video"))
    every = torch.cartesian_prod(*[torch.arange(3)] * 6).reshape(-1, 3, 1, 2, 1)
    assert float(model.log_prob(every).value.exp().sum()) == pytest.approx(1, abs=1e-9)
    seen = torch.zeros_like(every, dtype=torch.bool)
    seen[:, :2] = True
    beginnings = (every[:, 2] == 0).flatten(1).all(1)
    marginal = model.log_prob(every[beginnings], observed=seen[beginnings]).value.exp()
    assert float(marginal.sum()) == pytest.approx(1, abs=1e-9)


def test_the_density_of_a_walk_integrates_to_one_and_is_a_normal_walk():
    data = walks(2000, 3)
    model = fit(Last(), data)
    t = data.part("test").x
    entries = torch.distributions.Normal(0.0, torch.tensor([1.0, 3.0]).double()).log_prob(
        t.diff(dim=1, prepend=t[:, :1] * 0)
    )
    own = model._terms(t)[:, 1:].sum(1)  # the first step is by its marginal over all steps
    assert float((own - entries[:, 1:].sum((1, 2))).mean()) == pytest.approx(0, abs=0.1)
    grid = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    rows = torch.tensor([[[0.5, 1.0], [1.5, -2.0], [0.0, 3.0]]]).double().repeat(len(grid), 1, 1)
    rows[:, 2, 1] = grid
    before = model._terms(rows)[:, 2]
    one = model._log_p(torch.zeros(1, 1, 1).double(), torch.tensor([[[1.5]]]).double(), 0, 1).sum()
    assert float(((before - one).exp() * 0.01).sum()) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("make", [walks, clips])
def test_what_goes_on_is_drawn_as_its_probability_says(make):
    """Draws of the rest, and log p(rest | beginning): the mean of the first is the mean under the second."""
    data = make()
    model = fit(Last(), data)
    x = data.x[:1]
    seen = torch.zeros_like(x, dtype=torch.bool)
    seen[:, : x.shape[1] - 1] = True
    own = model.condition(x, seen)
    drawn = own.sample(4000, Rng(0))
    assert torch.equal(drawn[seen.expand(4000, *x.shape)], x[seen].repeat(4000))
    if data.space.discrete:
        v = torch.arange(4).reshape(4, 1)
        rows = x.repeat(4, *[1] * (x.ndim - 1))
        rows[:, -1, 0, 0] = v
        p = own.log_prob(rows).value.softmax(0)
        share = torch.stack([(drawn[:, 0, -1, 0, 0] == k).double().mean() for k in range(4)])
        z = (share - p) / (p * (1 - p) / 4000).sqrt()
        assert bool((z.abs() < 5).all()), z
        return
    change = drawn[:, 0, -1] - x[0, -2]
    assert bool((change.mean(0).abs() < 5 * change.std(0) / 4000**0.5).all())
    np.testing.assert_allclose(change.std(0), [1, 3], rtol=0.1)


def test_a_season_comes_again():
    rng = np.random.default_rng(0)
    x = np.tile(rng.normal(size=(300, 3, 1)) * 5, (1, 3, 1)) + 0.01 * rng.normal(size=(300, 9, 1))
    data = open_data(x, kind="series")
    seasonal, last = fit(Last(season=3), data), fit(Last(), data)
    assert float(seasonal.log_prob(data.x).value.mean()) > float(last.log_prob(data.x).value.mean()) + 10
    drawn = seasonal.sample(100, rng=0)
    assert float((drawn[:, 3:] - drawn[:, :-3]).abs().max()) < 0.2 < float(drawn.std())
    value = pofx.forecast(seasonal, x[0][:6], 3, draws=50).value[1]
    np.testing.assert_allclose(value, hold(x[:1, :6], 3, season=3)[0], atol=0.1)
    with pytest.raises(ValueError, match="season"):
        Last(season=0)


def test_the_forecast_of_a_walk_is_its_last_value_and_widens():
    data = walks(500, 8)
    model = fit(Last(), data)
    low, middle, high = (np.asarray(v) for v in pofx.forecast(model, data.x[:5].numpy(), 4, draws=2000).value)
    np.testing.assert_allclose(middle, hold(data.x[:5], 4), atol=0.6)
    assert ((high - low)[:, 3] > 1.5 * (high - low)[:, 0]).all()


def test_a_gap_hands_on_the_value_before_it():
    data = walks(50)
    model, seen = fit(Last(), data), torch.ones(1, 6, 2, dtype=torch.bool)
    seen[0, 2:4] = False
    whole = model.log_prob(data.x[:1], observed=seen)
    other = data.x[:1].clone()
    other[0, 2:4] = 1e6
    assert whole.quality is Quality.ESTIMATE
    assert float(model.log_prob(other, observed=seen).value - whole.value) == 0
    joined = data.x[:1, [0, 1, 4, 5]]  # as if the gap were not there
    steps = model._terms(torch.cat([joined, joined[:, :2]], 1))[:, :4].sum()
    assert float(whole.value) == pytest.approx(float(steps), abs=1e-9)
    drawn = model.condition(data.x[:1], seen).sample(3000, Rng(0))[:, 0]
    assert torch.equal(drawn[:, seen[0]], data.x[0][seen[0]].expand(3000, -1))
    np.testing.assert_allclose((drawn[:, 2] - data.x[0, 1]).std(0), [1, 3], rtol=0.15)
    seen[0, 2:] = False
    assert model.log_prob(data.x[:1], observed=seen).quality is Quality.EXACT


def test_what_has_no_order_is_refused():
    data = walks(50)
    with pytest.raises(Unsupported, match="no order"):
        Last().build(open_data(np.random.default_rng(0).normal(size=(9, 5, 3)), kind="shape").space)
    with pytest.raises(Unsupported, match="unigram"):
        Last().build(open_data(["abc", "bcd", "cde"]).space)
    with pytest.raises(Unsupported, match="independent"):
        Unigram().build(data.space)


def test_unigrams_of_documents_sum_to_one_and_know_the_end():
    data = open_data(["ab", "a", "bb", "aab"] * 3, kind="text")
    model = fit(Unigram(), data)
    K, D = data.space.variables[0].levels, data.space.size
    every = torch.cartesian_prod(*[torch.arange(K)] * D)
    log_p = model.log_prob(every).value
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    drawn = model.sample(20000, rng=0)
    shares = torch.stack([(drawn == row).all(1).double().mean() for row in every[log_p > -8]])
    p = log_p[log_p > -8].exp()
    assert bool(((shares - p) / (p * (1 - p) / 20000).sqrt()).abs().max() < 5)
    train = data.part("train").x
    letters = train[(train != data.space.meta["pad"])]
    a = (letters == train[0, 0]).double().mean()
    assert float(model.log_p[train[0, 0]].exp()) == pytest.approx(float(a), abs=0.05)


def test_unigrams_with_gaps_are_sums_over_what_the_gaps_may_hold():
    """Every mask of every document: the marginal is the sum, the conditional its share, and draws follow it."""
    data = open_data(["ab", "a", "bb", "aab"] * 3, kind="text")
    model = fit(Unigram(), data)
    K, D = data.space.variables[0].levels, data.space.size
    every = torch.cartesian_prod(*[torch.arange(K)] * D)
    p = model.log_prob(every).value.exp()
    rows = every[p > 0]
    for mask in torch.cartesian_prod(*[torch.tensor([False, True])] * D):
        for row in rows[:: max(1, len(rows) // 12)]:
            fits = ((every == row) | ~mask).all(1)
            got = model.log_prob(row[None], observed=mask[None]).value.exp()
            assert float(got) == pytest.approx(float(p[fits].sum()), abs=1e-12), (row, mask)
    pad, end, letter = data.space.meta["pad"], data.space.meta["end"], int(rows[-1][0])
    for wrong in ([end, pad, letter, pad], [end, letter, pad, pad], [letter, pad, letter, pad]):
        seen = torch.ones(1, D, dtype=torch.bool)
        assert float(model.log_prob(torch.tensor([wrong]), observed=seen).value) == -math.inf
    for row, mask in ((rows[5], [0, 1, 0, 0]), (rows[-1], [0, 0, 0, 1]), (rows[3], [0, 0, 1, 0])):
        seen = torch.tensor(mask, dtype=torch.bool)[None]
        fits = ((every == row) | ~seen[0]).all(1) & (p > 0)
        drawn = model.condition(row[None], seen).sample(8000, Rng(0))[:, 0]
        want = p[fits] / p[fits].sum()
        share = torch.stack([(drawn == one).all(1).double().mean() for one in every[fits]])
        assert float(share.sum()) == pytest.approx(1)
        assert float(((share - want) / (want * (1 - want) / 8000).sqrt().clamp_min(1e-9)).abs().max()) < 5


def test_unigrams_of_windows_fill_any_gap():
    data = open_data(["abracadabra" * 30], kind="text", options={"length": 4, "form": "stream"})
    model = fit(Unigram(), data)
    share = float(model.log_p[data.kind.prompt("a", data.space)[0]].exp())
    assert share == pytest.approx(5 / 11, abs=0.02)
    seen = torch.tensor([[True, False, True, False]])
    drawn = model.condition(data.x[:1], seen).sample(500, Rng(0))
    assert torch.equal(drawn[:, :, 0], data.x[:1, 0].expand(500, 1))
    assert float((drawn[:, 0, 1] == data.kind.prompt("a", data.space)[0]).double().mean()) == pytest.approx(
        share, abs=0.12
    )


# --- answers, and who has which -------------------------------------------------------------------------------------


def test_hold_is_the_last_step_or_the_season_before():
    x = np.arange(2 * 5 * 1).reshape(2, 5, 1)
    assert hold(x, 3)[0, :, 0].tolist() == [4, 4, 4]
    assert hold(torch.from_numpy(x), 5, season=2)[1, :, 0].tolist() == [8, 9, 8, 9, 8]
    assert hold(np.zeros((3, 4, 2, 2, 1)), 2).shape == (3, 2, 2, 2, 1)
    for wrong in ((x[0], 2, 1), (x, 0, 1), (x, 2, 6), (x, 2, 0)):
        with pytest.raises(ValueError, match="hold"):
            hold(*wrong)


def test_enlarging_keeps_constants_and_slopes():
    x = np.full((2, 4, 4, 3), 77, np.uint8)
    np.testing.assert_allclose(enlarged(x, (9, 8)), np.full((2, 9, 8, 3), 77.0))
    slope = np.tile(np.arange(8) * 10.0, (1, 8, 1))
    wide = enlarged(slope, (16, 16))
    np.testing.assert_allclose(np.diff(wide[0, 8, 6:-6]), 5.0, atol=1e-9)
    edge = np.zeros((1, 6, 6))
    edge[:, :, 3:] = 255
    assert enlarged(edge, (24, 24)).min() >= 0 and enlarged(edge, (24, 24)).max() <= 255
    from PIL import Image as Pillow

    noise = np.random.default_rng(0).integers(0, 256, (1, 8, 8)).astype(np.float32)
    want = np.asarray(Pillow.fromarray(noise[0]).resize((16, 16), Pillow.Resampling.BICUBIC)).clip(0, 255)
    np.testing.assert_allclose(enlarged(noise, (16, 16))[0], want, atol=1e-3)
    with pytest.raises(ValueError, match="enlarged"):
        enlarged(noise[0], (9, 9))


def test_every_kind_has_a_baseline_that_is_there_and_learns():
    from test_cli_files import sources

    for name, (source, options) in sources().items():
        data = open_data(source, kind=name, options=options)
        model = fit(trivial(data.space), data)
        assert model.name == KINDS[name].trivial and type(model) is BASELINES[model.name]
        drawn = model.sample(5, rng=0)
        assert drawn.dtype == data.x.dtype and drawn.shape == (5, *data.space.shape)
        assert bool(model.log_prob(data.part("test").x, observed=data.part("test").observed).value.isfinite().all())
        data.restore(drawn)


def test_compare_knows_every_baseline_and_hides_the_future_of_what_has_an_order():
    assert set(BASELINE_NAMES) == set(BASELINES)
    data = walks(40, 6)
    batch = data.part("test")
    seen, mixed = _holes(data, batch), chimeras(data, batch)
    assert bool(seen[:, :3].all()) and not bool(seen[:, 3:].any())
    assert torch.equal(mixed.x[1, :3], batch.x[1, :3]) and torch.equal(mixed.x[1, 3:], batch.x[0, 3:])


@pytest.mark.slow
def test_compare_sets_the_kind_s_own_baseline_beside_the_others(tmp_path):
    found = pofx.compare(walks(60, 4), ["gaussian"], budget="1 cpu s", folder=tmp_path, jobs=1, samples=20, draws=2)
    assert {r["family"] for r in found.rows} == {"gaussian", "independent", "copy", "uniform", "last"}
    rows = {r["family"]: r for r in found.rows}
    assert rows["last"]["baseline"] and rows["last"]["error"] is None
    assert rows["last"]["nats"] > rows["independent"]["nats"]
