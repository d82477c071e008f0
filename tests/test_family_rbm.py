"""RBM: sums against brute force, the sandwich of log Z, Gibbs moves that leave p alone, gradients, parts of x."""

import math
from dataclasses import replace

import pytest
import torch

from pofx.data import Batch, Data, open_data
from pofx.engines.boltzmann import Boltzmann, Codes
from pofx.families.rbm import RBM
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng

torch.set_num_threads(1)
LEVELS = (2, 3, 4, 2)


def vector(levels=LEVELS) -> Space:
    return Space((len(levels),), tuple(Variable(f"x{i}", "category", k) for i, k in enumerate(levels)), dtype="int64")


def machine(levels=LEVELS, H=5, spread=1.0, seed=0) -> Boltzmann:
    codes, rng = Codes(levels), Rng(seed)
    draw = lambda *shape: spread * rng.normal(shape, torch.float64)  # noqa: E731
    return Boltzmann(codes, draw(codes.size, H), draw(codes.size), draw(H))


def states(levels=LEVELS):
    return torch.cartesian_prod(*(torch.arange(k) for k in levels)).reshape(-1, len(levels))


def random_rbm(levels=LEVELS, H=5, given=None, spread=1.0, **knobs) -> RBM:
    model = RBM(hidden=H, **knobs).build(vector(levels), given)
    rng = Rng(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(spread * rng.normal(tuple(p.shape)))
    return model.eval()


def digits() -> Data:
    """The 8 x 8 digits, a pixel on where its level is above 7."""
    data = open_data("digits", test=300)
    pixel = replace(data.space.variables[0], levels=2, values=None, mean=0.3, scale=0.46)
    space = data.space.replace(variables=(pixel,), meta={"white": 1, "axis": True})
    return replace(data, x=(data.x > 7).to(torch.uint8), space=space)


def trained(data: Data, steps: int, seed: int = 0, **knobs) -> RBM:
    """A short fit by a plain loop."""
    model, train = RBM(**knobs).build(data.space, seed=seed), data.part("train")
    (player,) = model.train().players()
    optimiser = torch.optim.Adam(player.params, lr=5e-3)
    for k in range(steps):
        rng = Rng.derive(seed, k)
        optimiser.zero_grad()
        player.loss(train.take(rng.integers(len(train), (100,))), rng).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def of_digits() -> RBM:
    return trained(digits(), 250, hidden=15, temperatures=400)


@pytest.mark.parametrize("levels", [(2, 2, 2), LEVELS, (3, 3), (1, 2, 3)])
def test_codes_and_units_are_one_to_one(levels):
    codes, x = Codes(levels), states(levels)
    s = codes.units(x)
    assert torch.equal(codes.codes(s), x) and len(torch.unique(s, dim=0)) == len(x)
    t = Rng(0).normal((7, codes.size))
    logits = codes.logits(t)
    assert bool((logits[..., 0] == 0).all()) and logits.shape == (7, len(levels), max(levels))
    torch.testing.assert_close(codes.log_sum(t), torch.logsumexp(logits, -1))


@pytest.mark.parametrize("levels", [(2, 2, 2), LEVELS])
def test_codes_are_drawn_with_their_frequencies(levels):
    codes = Codes(levels)
    t = Rng(1).normal((1, codes.size))
    x = codes.codes(codes.sample(t.expand(20_000, -1), Rng(2)))
    p = codes.logits(t)[0].softmax(-1)
    for i, k in enumerate(levels):
        share = torch.bincount(x[:, i], minlength=k) / len(x)
        z = (share - p[i, :k]) / (p[i, :k] * (1 - p[i, :k]) / len(x)).sqrt()
        assert float(z.abs().max()) < 5


def test_hidden_units_are_summed_out():
    """log p~(s) and log Z against the sum over every pair (s, h)."""
    m = machine()
    s, h = m.codes.units(states()).double(), states((2,) * 5).double()
    joint = (s @ m.b)[:, None] + (h @ m.a)[None] + s @ m.W @ h.T
    torch.testing.assert_close(m.log_tilde(s), torch.logsumexp(joint, 1))
    for log_z in (m.log_z(), m.log_z_by_codes()):
        assert float(log_z) == pytest.approx(float(torch.logsumexp(joint.flatten(), 0)))


def test_parts_of_x_are_sums_over_the_rest():
    m, x = machine(), states()
    s, observed = m.codes.units(x), torch.tensor([True, False, True, False]).expand(len(x), -1)
    part = m.log_part(s, observed)
    same = (x[:, None, [0, 2]] == x[None, :, [0, 2]]).all(-1)
    whole = m.log_tilde(s.double()).expand(len(x), -1).masked_fill(~same, -torch.inf)
    torch.testing.assert_close(part, torch.logsumexp(whole, 1))


def test_gibbs_leaves_p_alone_and_clamped_gibbs_the_conditional():
    m, n = machine(spread=0.7), 30_000
    p = m.log_tilde(m.codes.units(states()).double()).softmax(0)
    start = m.codes.units(states()[torch.multinomial(p, n, True, generator=torch.Generator().manual_seed(0))]).double()
    _assert_law(m.codes.codes(m.gibbs(start, 3, Rng(1))), p)
    observed = torch.tensor([True, False, False, True])
    fixed = m.codes.of_units(observed.expand(n, -1))
    moved = m.gibbs(start, 3, Rng(2), fixed)
    assert torch.equal(moved[fixed], start[fixed])
    _assert_law(m.codes.codes(moved), p)  # the law of x is that of x_o, then of the rest given x_o


def test_completion_is_exact():
    m, n = machine(), 20_000
    x = torch.tensor([[1, 2, 3, 0]])
    observed = torch.tensor([[True, False, False, True]])
    drawn = m.codes.codes(m.complete(m.codes.units(x), observed, n, Rng(0))[:, 0])
    assert bool((drawn[:, [0, 3]] == x[:, [0, 3]]).all())
    p = m.log_tilde(m.codes.units(states()).double())
    p = p.masked_fill((states()[:, [0, 3]] != x[:, [0, 3]]).any(1), -torch.inf).softmax(0)
    _assert_law(drawn, p)


def _assert_law(x, p):
    """Frequencies of the states, by z-scores."""
    place = torch.tensor([24, 8, 2, 1])
    count = torch.bincount((x * place).sum(1), minlength=len(p)).double()
    often = p * len(x) > 5
    z = (count - len(x) * p)[often] / (len(x) * p * (1 - p))[often].sqrt()
    assert float(z.abs().max()) < 5


def test_log_prob_adds_up_given_each_code_and_none():
    model, x = random_rbm(given={"label": category(3)}), states()
    for given in ({}, *({"label": torch.full((len(x),), k)} for k in range(3))):
        value = model.log_prob(x, given)
        assert value.quality is Quality.EXACT
        assert float(torch.logsumexp(value.value, 0)) == pytest.approx(0, abs=1e-4)
    a, b = (model.log_prob(x, {"label": torch.full((len(x),), k)}).value for k in (0, 1))
    assert float((a - b).abs().max()) > 0.1


def test_real_givens_have_a_log_z_each():
    model, x = random_rbm(given={"y": real(2)}, spread=0.5), states()
    y = Rng(0).normal((2, 2)).double()
    value = model.log_prob(x.repeat(2, 1), {"y": y.repeat_interleave(len(x), 0)})
    assert value.quality is Quality.EXACT
    torch.testing.assert_close(
        torch.logsumexp(value.value.unflatten(0, (2, -1)), 1), torch.zeros(2).double(), atol=1e-4, rtol=0
    )


def test_few_codes_and_many_hidden_units_have_an_exact_log_z():
    model = random_rbm(H=24, spread=0.3)
    value = model.log_prob(states())
    assert value.quality is Quality.EXACT and model.sampler is Quality.ESTIMATE
    assert float(torch.logsumexp(value.value, 0)) == pytest.approx(0, abs=1e-4)


def test_encode_and_decode_are_the_two_halves():
    """p(x, h) / p(x) = p(h | x), and p(x, h) / p(h) = p(x | h)."""
    model, x = random_rbm(), states()
    m = model.machine().double()
    s, h = m.codes.units(x).double(), states((2,) * 5).double()
    joint = (s @ m.b)[:, None] + (h @ m.a)[None] + s @ m.W @ h.T
    on_h = model.encode(x).log_prob(h[:, None].float()).T.double()
    torch.testing.assert_close(on_h, joint.log_softmax(1), atol=1e-4, rtol=1e-4)
    on_x = torch.stack([model.decode(row.expand(len(x), -1)).log_prob(x).sum(1) for row in h.float()], 1)
    torch.testing.assert_close(on_x.double(), joint.log_softmax(0), atol=1e-4, rtol=1e-4)


def test_pcd_gradient_at_the_models_own_data_vanishes_and_points_right_elsewhere():
    """With chains of exact draws the loss has the gradient of -log p; with one Gibbs sweep from the data, nearly."""
    model, n = random_rbm(spread=0.5, objective="cd"), 4000
    x = states()[torch.multinomial(torch.ones(len(states())), n, True, generator=torch.Generator().manual_seed(0))]
    model.train().moments.batches.fill_(50)
    exact = torch.autograd.grad(
        -(model.machine().log_tilde(model._units(x)).mean() - model.machine().log_z()), model.W
    )[0]
    cd = torch.autograd.grad(model._loss(Batch(x), Rng(1)), model.W)[0]
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(), cd.flatten(), dim=0)
    assert float(cosine) > 0.8
    own = model.sample(n, rng=2)
    at_home = torch.autograd.grad(model._loss(Batch(own), Rng(3)), model.W)[0]
    assert float(at_home.norm()) < 0.1 * float(exact.norm())


def test_the_level_of_a_class_cannot_run_away():
    """Chains of other classes than the rows would lower the level of the commoner class without end."""
    model = RBM(hidden=4, chains=64).build(vector((2, 2, 2, 2)), {"label": category(2)})
    label = torch.arange(64) % 2
    x = label[:, None].expand(-1, 4).clone()
    model._loss(Batch(x[:1].repeat(64, 1), {"label": label[:1].repeat(64)}, None, torch.arange(64)), Rng(0))
    assert not bool(model.replay.given_0.any()), "all chains begin in class 0"
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    for k in range(200):
        adam.zero_grad()
        model._loss(Batch(x, {"label": label}, None, torch.arange(64)), Rng(k)).backward()
        adam.step()
    found = model.eval().log_prob(x[:2], {"label": label[:2]}).value
    assert float(found.min().exp()) > 0.7


def test_pcd_learns_digits_and_the_sandwich_brackets_log_z(of_digits):
    test = digits().part("test").x
    value = of_digits.log_prob(test)
    assert value.quality is Quality.EXACT
    p = (digits().part("train").x.double().mean(0) * 0.998 + 0.001).clamp(1e-3, 1 - 1e-3)
    alone = torch.where(test > 0, p.log(), (1 - p).log()).flatten(1).sum(1).mean()
    assert float(value.value.mean()) > float(alone) + 4  # independent pixels
    exact = float(of_digits.partition()[0, 0])
    low, high, stderr = of_digits.sandwich(0, 1).tolist()
    assert low - 4 * stderr <= exact <= high + 4 * stderr
    assert abs(low - exact) < 0.5 and abs(high - exact) < 0.5


def test_annealing_is_a_lower_and_an_upper_bound_on_average():
    m, start = machine(H=6, spread=1.2), 0.7 * Rng(9).normal((Codes(LEVELS).size,), torch.float64)
    exact, lows, highs = float(m.log_z()), [], []
    for seed in range(12):
        rng = Rng(seed)
        s = m.codes.sample(start.expand(40, -1), rng)
        lows.append(float(m.anneal(s, start, 4, rng, 1).value))
        drawn = m.complete(s, torch.zeros(1, 4, dtype=torch.bool).expand(40, -1), 1, rng)[0]
        highs.append(float(m.anneal(drawn, start, 4, rng, 1, reverse=True).value))
    assert sum(lows) / 12 < exact < sum(highs) / 12
    assert sum(highs) / 12 - sum(lows) / 12 < 1.5


def test_chains_of_a_big_machine_report_how_they_mixed():
    model = trained(digits(), 30, hidden=20, sweeps=30)
    assert model.sampler is Quality.ESTIMATE
    x = model.sample(40, rng=0)
    assert x.shape == (40, 8, 8, 1) and x.dtype is torch.uint8
    assert model.record["mixing"]["kept"] == 30 and model.record["mixing"]["effective_size"] > 0
    observed = torch.ones(2, 8, 8, 1, dtype=torch.bool)
    observed[:, 4:] = False
    rows = digits().x[:2]
    with pytest.raises(Unsupported, match="hidden"):
        model.log_prob(rows, observed=observed)
    conditional = model.condition(rows, observed)
    drawn = conditional.sample(3, Rng(0))
    assert conditional.quality is Quality.ESTIMATE and torch.equal(drawn[:, observed], rows[observed].expand(3, -1))


def test_rows_with_gaps_are_learnt():
    """Two bits that always agree, one of them missing in every second row."""
    bit = Rng(0).bernoulli(0.5, (400,)).long()
    x, observed = torch.stack([bit, bit], 1), torch.ones(400, 2, dtype=torch.bool)
    observed[::2, 1] = False
    data = Data(torch.where(observed, x, 0), vector((2, 2)), observed=observed, split={"train": torch.arange(400)})
    model = trained(data, 600, hidden=4, moves=2)
    p = model.log_prob(states((2, 2))).value.exp()
    assert float(p[0] + p[3]) > 0.9 and math.isclose(float(p.sum()), 1, abs_tol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="objective"):
        RBM(objective="ml")
    with pytest.raises(Unsupported, match="bin it"):
        RBM().build(real(2))
    with pytest.raises(Unsupported, match="32 levels"):
        RBM().build(vector((40, 2)))
