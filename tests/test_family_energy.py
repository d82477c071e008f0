"""Energy: the contrast's sign and fixed point in closed form, the score, the sandwich of log Z on a grid, chains."""

import math

import pytest
import torch
from torch import nn

from pofx.data import Batch
from pofx.families.energy import Energy
from pofx.kinds.base import category, real
from pofx.model import Quality, Unsupported
from pofx.nn.moments import BATCHES
from pofx.randomness import Rng

torch.set_num_threads(1)


class Quadratic(nn.Module):
    """f(u) = a |u|^2 / 2: with the base of std s, p = N(0, v), 1 / v = a + 1 / s^2."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, u, c=None):
        return 0.5 * self.a * u.square().sum(1)


class Bumps(nn.Module):
    """Two valleys at +-centre, their depths by the class."""

    def forward(self, u, c=None):
        distance = (u[:, None] - torch.tensor([[1.5, 0.0], [-1.5, 0.0]])).square().sum(-1)
        return -3 * torch.exp(-2 * distance).sum(1)


def quadratic(a: float, d: int = 1, **knobs) -> Energy:
    model = Energy(chains=256, base_std=2.0, **knobs).build(real(d))
    model.body = Quadratic(a)
    return settled(model)


def settled(model: Energy) -> Energy:
    """The moments of the coordinates are what they are: v = (u - mean) / deviation changes no more."""
    model.moments.batches.fill_(BATCHES)
    return model


def grid_log_z(model: Energy, given=None, reach: float = 9.0, n: int = 600) -> float:
    axis = torch.linspace(-reach, reach, n)
    u = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        rows = {k: v.expand(len(u)) for k, v in (given or {}).items()}
        log_p = model._log_tilde(rows)(u).double()
    return float(torch.logsumexp(log_p, 0) + 2 * math.log(2 * reach / (n - 1)))


def test_contrast_has_the_right_sign():
    """d loss / da = E_data u^2 / 2 - E_chain u^2 / 2: data wider than the model lowers a."""
    for spread, sign in ((3.0, 1), (0.1, -1)):
        model = quadratic(1.0, shrink=0.0, restart=0.0, leapfrog=4)
        batch = Batch(spread * torch.ones(256, 1), index=torch.arange(256))
        for k in range(10):  # each chain is new at its first turn; they reach N(0, 1 / (1 + 1/4))
            model._move_chains(batch.x, {}, {}, Rng(k))
        (slope,) = torch.autograd.grad(model._loss(batch, Rng(99)), model.body.a)
        assert float(slope) * sign > 0
        assert float(slope) == pytest.approx(0.5 * (spread**2 - 0.8), abs=0.25)


def test_wells_wait_for_chains_that_lag():
    """Where the chains stand far above the data only the level of f is learnt, which flattens it."""
    model = quadratic(1.0, restart=0.0)
    model.replay.states[:], model.replay.visits[:], model.turns = 60.0, 1, 0
    batch = Batch(torch.zeros(256, 1), index=torch.arange(256))
    (slope,) = torch.autograd.grad(model._loss(batch, Rng(0)), model.body.a)
    f = torch.full((1,), 0.5 * 60.0**2)
    assert float(slope) == pytest.approx(1e-3 * 2 * float(f.square()), rel=1e-4)


def test_pcd_learns_the_variance():
    """The fixed point is 1 / v = a + 1 / s^2; here v = 0.25 and s = 2, so a = 3.75."""
    model = quadratic(1.0, shrink=0.0, restart=0.0, leapfrog=4)
    x = 0.5 * Rng(0).normal((256, 1))
    x = 0.5 * x / x.square().mean().sqrt()
    batch, (player,) = Batch(x, index=torch.arange(256)), model.players()
    path = []
    for k in range(200):
        (slope,) = torch.autograd.grad(player.loss(batch, Rng(k)), model.body.a)
        with torch.no_grad():
            model.body.a.sub_(2.0 * slope)
        path.append(model.body.a.item())
    assert sum(path[-100:]) / 100 == pytest.approx(3.75, rel=0.06)


def test_moments_of_the_coordinates_are_measured_once():
    """Means and deviations of all first batches together; then held, also while asking; constants have a floor."""
    model = Energy(chains=8, width=8, depth=1).build(real(3))
    x = torch.tensor([5.0, -1.0, 2.0]) + torch.tensor([3.0, 0.1, 0.0]) * Rng(0).normal((BATCHES * 40, 3))
    for k, rows in enumerate(x.split(40)):
        model._loss(Batch(rows), Rng(k))
    torch.testing.assert_close(model.moments.mean, x.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.moments.deviation[:2], x.std(0, correction=0)[:2], rtol=1e-3, atol=0)
    assert float(model.moments.deviation[2]) == pytest.approx(0.03)
    before = model.moments.mean.clone()
    model._loss(Batch(x[:40] + 9), Rng(0))
    assert torch.equal(model.moments.mean, before)


def test_density_and_score_live_in_the_rows_own_units():
    """With f = a |v|^2 / 2 and v = (u - m) / d, u is normal with mean m and variance d^2 / (a + 1 / s^2)."""
    model = quadratic(1.75, 2, temperatures=50).eval()
    m, d = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 4.0])
    model.moments.mean.copy_(m), model.moments.square.copy_(d**2 + m**2)
    law = torch.distributions.Normal(m, d / math.sqrt(2))
    u = law.mean + law.stddev * Rng(0).normal((20, 2))
    torch.testing.assert_close(model.log_prob(u).value.float(), law.log_prob(u).sum(1), atol=0.15, rtol=0)
    torch.testing.assert_close(model.score(u), -(u - m) / law.variance)
    draws = model.sample(2000, rng=0).float()
    z = (draws.mean(0) - m) / (law.stddev / 2000**0.5)
    assert bool((z.abs() < 5).all()) and bool(((draws.std(0) / law.stddev).log().abs() < 0.08).all())


def test_score_matching_of_a_quadratic():
    """dsm learns the data with noise: 1 / (v + noise^2) = a + 1 / s^2 makes its loss least."""
    noise, v = 0.3, 0.25
    best = 1 / (v + noise**2) - 0.25
    model = quadratic(best, objective="dsm", noise=noise)
    batch = Batch(math.sqrt(v) * Rng(0).normal((40_000, 1)))
    (slope,) = torch.autograd.grad(model._loss(batch, Rng(1)), model.body.a)
    assert abs(float(slope)) < 2e-3
    with torch.no_grad():
        model.body.a.mul_(1.5)
    (slope,) = torch.autograd.grad(model._loss(batch, Rng(1)), model.body.a)
    assert float(slope) > 5e-3
    loss = float(model._loss(batch, Rng(1)).detach())
    scale = 1.5 * best + 0.25
    assert loss == pytest.approx(0.5 * ((1 - scale * noise**2) ** 2 + (scale * noise) ** 2 * v), rel=0.02)


def test_score_is_closed():
    model = quadratic(1.5, 3)
    u = Rng(0).normal((5, 3))
    torch.testing.assert_close(model.score(u), -(1.5 + 0.25) * u)


def test_quadratic_log_prob_is_the_normal():
    model = quadratic(1.75, 2, temperatures=50).eval()
    u = Rng(0).normal((20, 2))
    value = model.log_prob(u)
    exact = -u.square().sum(1).double() - math.log(math.pi)  # v = 1 / 2
    assert value.quality is Quality.ESTIMATE
    torch.testing.assert_close(value.value, exact, atol=0.15, rtol=0)
    assert bool((value.stderr >= (value.value - exact).abs() / 5).all())
    low, high, stderr = model.partition()[0].tolist()
    assert low <= high + 5 * stderr
    assert torch.equal(model.log_prob(u).value, value.value)


def test_the_sandwich_brackets_the_grid():
    """Two valleys on the plane: forward <= log Z <= reverse, within their standard errors."""
    model = Energy(chains=64, temperatures=50, sweeps=20, leapfrog=5).build(real(2))
    model.body = Bumps()
    truth = grid_log_z(model)
    low, high, stderr = model.partition()[0].tolist()
    assert low - 4 * stderr <= truth <= high + 4 * stderr
    assert high - low < 0.5 and abs(0.5 * (low + high) - truth) < 0.2


def test_chains_have_the_law_of_the_energy():
    model = Energy(chains=64, temperatures=50, sweeps=20, leapfrog=5).build(real(2))
    model.body = Bumps()
    u = model.sample(1200, rng=1).float()
    assert float((u[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    axis = torch.linspace(-9, 9, 500)
    grid = torch.cartesian_prod(axis, axis)
    p = model._log_tilde({})(grid).softmax(0)
    for power in (1, 2):
        want = float((p * grid[:, 0].abs() ** power).sum())
        got = u[:, 0].abs() ** power
        z = (float(got.mean()) - want) / float(got.std() / len(u) ** 0.5)
        assert abs(z) < 5


def test_one_category_has_a_log_z_for_each_code():
    model = Energy(chains=64, width=16, depth=1, temperatures=30, sweeps=20, leapfrog=4).build(
        real(2), {"label": category(2)}
    )
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    u, label = Rng(0).normal((6, 2)), torch.tensor([0, 1, 0, 1, 0, 1])
    value = model.log_prob(u, {"label": label})
    for row, given in enumerate(({}, {"label": torch.tensor(0)}, {"label": torch.tensor(1)})):
        assert float(model.log_z[row, :2].mean()) == pytest.approx(grid_log_z(model, given, n=150), abs=0.12)
    tilde = model._log_tilde({"label": label})(u).detach().double()
    torch.testing.assert_close(value.value, tilde - model._middle()[label + 1])


def test_other_givens_are_unnormalised():
    model = Energy(chains=8, width=16, depth=1, temperatures=5, sweeps=3).build(real(2), {"y": real(1)})
    value = model.log_prob(torch.zeros(3, 2), {"y": torch.zeros(3, 1)})
    assert value.quality is Quality.UNNORMALISED
    torch.testing.assert_close(
        model.sample(2, {"y": torch.zeros(1, 1)}, rng=1), model.sample(2, {"y": torch.zeros(1, 1)}, rng=1)
    )


def test_training_forgets_log_z_and_moves_its_chains():
    model = Energy(chains=32, width=16, depth=1, restart=0.0).build(real(2), {"label": category(2)})
    model.log_z.zero_()
    before = model.replay.states.clone()
    label = torch.arange(16) % 2
    batch = Batch(Rng(0).normal((16, 2)), {"label": label}, None, torch.arange(16))
    grads = torch.autograd.grad(model._loss(batch, Rng(1)), list(model.parameters()), allow_unused=True)
    assert bool(model.log_z.isnan().all())
    assert torch.equal(model.replay.states[16:], before[16:]) and not torch.equal(model.replay.states[:16], before[:16])
    assert torch.equal(model.replay.given_0[:16], label) and not bool(model.replay.keep_0[16:].any())
    assert 0 < int(model.replay.keep_0[:16].sum()) < 16  # the row's dropped label is the chain's too
    assert all(p.requires_grad for p in model.parameters())
    assert sum(g is not None and float(g.abs().sum()) > 0 for g in grads) >= len(grads) - 1
    starts = model.replay.starts(5, {"label": torch.ones(5)}, Rng(0))
    assert all(any(torch.equal(s, t) for t in model.replay.states[1:16:2]) for s in starts)


def test_chains_start_where_givens_are_like():
    model = Energy(chains=40, width=8, depth=1).build(real(1), {"label": category(2), "y": real(2)})
    model.replay.visits[:30], model.replay.keep_0[:], model.replay.keep_1[:] = 1, True, True
    model.replay.given_0.copy_(torch.arange(40) % 2)
    model.replay.given_1.copy_(torch.stack([torch.arange(40.0), torch.zeros(40)], 1))
    asked = {"label": torch.tensor([1, 0]), "y": torch.tensor([[7.0, 0.0], [12.0, 0.0]])}
    assert torch.equal(model.replay.starts(2, asked, Rng(0)), model.replay.states[[7, 12]])
    all_once = model.replay.starts(30, {}, Rng(0))
    assert torch.equal(all_once.sort(0).values, model.replay.states[:30].sort(0).values)


def test_chains_take_turns_beside_the_rows_that_are_like_them():
    model = Energy(chains=24, width=16, depth=1, restart=0.0).build(real(2), {"label": category(2)})
    for k in range(3):  # 16 of 24 at a time: each chain has two turns
        model._loss(Batch(Rng(k).normal((16, 2)), {"label": torch.arange(16) % 2}), Rng(k))
    assert bool((model.replay.visits == 2).all()) and int(model.replay.turn) == 0
    start, label = torch.zeros(16, 2), torch.tensor([1] * 5 + [0] * 11)
    before, own = model.replay.states[:16].clone(), model.replay.given_0[:16].clone()
    model.replay.keep_0[:] = True
    turn = model.replay.take(start, {"label": label}, {"label": torch.ones(16, dtype=torch.bool)}, 0.0, Rng(0))
    assert torch.equal(turn.given["label"], label), "data and chains are given the same"
    assert torch.equal(turn.x, before[turn.slot]) and turn.slot.sort().values.tolist() == list(range(16))
    assert int((own[turn.slot] != label).sum()) == abs(int(own.sum()) - 5), "no more of them change than must"


def test_ends_the_wrong_way_round_are_not_averaged():
    """A reverse end below the forward one is void: log Z is the forward end, and the gap is said as an error."""
    model = quadratic(1.75, 2).eval()
    model.log_z.copy_(torch.tensor([[-1.0, -7.0, 0.1]]))
    u = Rng(0).normal((3, 2))
    value = model.log_prob(u)
    torch.testing.assert_close(value.value, model._log_tilde({})(u).double() + 1.0)
    assert bool((value.stderr >= 3).all()) and value.quality is Quality.ESTIMATE


def test_refusals():
    with pytest.raises(ValueError, match="objective"):
        Energy(objective="ml")
    model = Energy(chains=4, width=8, depth=1).build(real(2))
    gaps = torch.tensor([[True, False]] * 2)
    with pytest.raises(Unsupported, match="complete"):
        model._loss(Batch(torch.zeros(2, 2), {}, gaps), Rng(0))
    with pytest.raises(Unsupported, match="complete"):
        model.log_prob(torch.zeros(2, 2), observed=gaps)
