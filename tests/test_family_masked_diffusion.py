"""Masked diffusion: the two forms of its bound, the sum over orders, draws against masses, gaps."""

import itertools
import math

import pytest
import torch

from pofx.check.probe import states
from pofx.data import Batch
from pofx.families.masked_diffusion import MaskedDiffusion, _rank
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "depth": 1, "dropout": 0.0}
CODES = Space((3,), tuple(Variable(f"x{j}", "category", k) for j, k in enumerate((2, 3, 2))), dtype="int64")
PIXELS = Space((2, 2, 1), (Variable("pixel", "ordinal", 2, mean=0.5, scale=0.5),), "grid", "image", "uint8")
WIDE = Space((8,), (Variable("x", "category", 3),), dtype="int64")
MIXED = Space((2,), (Variable("k", "category", 3), Variable("r", mean=5.0, scale=2.0)))


def made(space, seed=1, given=None, size=0.4, **changes):
    """A model whose weights are far from their start."""
    model = MaskedDiffusion(**{**SMALL, **changes}).build(space, given).eval()
    rng = Rng(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * rng.normal(tuple(p.shape)).to(p))
    return model


def entry(model, x, seen, i):
    """log p(x_i | x_seen) for one set of seen entries of all rows, straight from the network."""
    mask = torch.zeros(len(x), model.space.size, dtype=torch.bool)
    mask[:, list(seen)] = True
    return model._entries(x, mask, None)[:, i]


def sizes(model, x):
    """E sum_{i hidden} log p for every size k of the hidden set, by enumeration: {k: (B,)}."""
    d = model.space.size
    found = {}
    for k in range(1, d + 1):
        sets = list(itertools.combinations(range(d), k))
        total = sum(entry(model, x, set(range(d)) - set(s), i) for s in sets for i in s)
        found[k] = total / len(sets)
    return found


@torch.no_grad()
def test_in_a_text_places_are_relative_and_order_counts():
    model = made(Space((8,), (Variable("x", "category", 3),), "sequence", "text", "int64"))
    assert model.body.embed.source is None
    x, seen = torch.tensor([[0, 1, 2, 0, 0, 0, 0, 0]]), torch.arange(8)[None] < 3
    turned = torch.tensor([[2, 1, 0, 0, 0, 0, 0, 0]])
    gap = model._params(x, seen, None) - model._params(turned, seen, None)
    assert float(gap.unflatten(1, (8, -1))[0, 3:].abs().min()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("space", [CODES, PIXELS], ids=["codes", "pixels"])
def test_the_integral_over_t_is_the_sum_over_sizes_and_the_estimate_is_unbiased(space):
    model, x = made(space), states(space)
    d, at = space.size, sizes(model, x)
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    binomial = {k: math.comb(d, k) * t**k * (1 - t) ** (d - k) for k in at}
    integral = sum(float((binomial[k] / t).mean()) * at[k] for k in at)
    exact = sum(d / k * at[k] for k in at) / d
    torch.testing.assert_close(integral, exact, rtol=1e-4, atol=1e-4)
    everything = torch.ones(len(x), d, dtype=torch.bool)
    draws = [model._bound(x, everything, None, 8, Rng(seed)) for seed in range(40)]
    mean = torch.stack([b.value for b in draws]).mean(1)
    z = float((mean.mean() - exact.mean()) / (mean.std() / 40**0.5))
    assert abs(z) < 5
    spread = torch.stack([b.value for b in draws]).var(0).mean()
    stated = torch.stack([b.stderr for b in draws]).square().mean()
    assert 0.7 < float(stated / spread) < 1.6
    losses = torch.stack([model._loss(Batch(x), Rng(seed)) for seed in range(60)])
    assert abs(float((losses.mean() + exact.mean()) / (losses.std() / 60**0.5))) < 5


@torch.no_grad()
def test_log_p_is_the_mean_over_all_orders():
    model, x = made(CODES), states(CODES)
    orders = []
    for order in itertools.permutations(range(3)):
        orders.append(sum(entry(model, x, order[:j], i) for j, i in enumerate(order)))
    value = model.log_prob(x)
    assert value.quality is Quality.EXACT
    torch.testing.assert_close(value.value, torch.logsumexp(torch.stack(orders), 0) - math.log(6))
    # of entries 0 and 2 alone: the mean over their two orders, the other one hidden
    seen = torch.tensor([True, False, True]).expand(len(x), -1)
    part = model.log_prob(x, None, seen)
    both = [entry(model, x, (), a) + entry(model, x, (a,), b) for a, b in ((0, 2), (2, 0))]
    torch.testing.assert_close(part.value, torch.logsumexp(torch.stack(both), 0) - math.log(2))
    assert part.quality is Quality.ESTIMATE


@torch.no_grad()
@pytest.mark.parametrize("space", [CODES, PIXELS], ids=["codes", "pixels"])
def test_masses_add_up_to_one_and_the_bound_is_below(space):
    model, x = made(space), states(space)
    log_p = model.log_prob(x).value
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    at = sizes(model, x)
    bound = sum(space.size / k * at[k] for k in at) / space.size
    assert bool((bound <= log_p + 1e-6).all()) and float((log_p - bound).mean()) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("space", [CODES, PIXELS], ids=["codes", "pixels"])
def test_draws_one_at_a_time_follow_the_masses(space):
    model, x, n = made(space), states(space), 6000
    assert model.sampler is Quality.EXACT
    p = model.log_prob(x).value.exp()
    drawn = model.sample(n, rng=0)
    counts = (drawn[:, None] == x[None]).flatten(2).all(2).sum(0)
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert float(z.abs().max()) < 5
    assert float(z.square().mean()) < 2.5


@torch.no_grad()
def test_one_step_draws_all_entries_alone():
    model, x, n = made(CODES, unmask_steps=1), states(CODES), 6000
    assert model.sampler is Quality.ESTIMATE
    p = sum(entry(model, x, (), i) for i in range(3)).exp()
    counts = (model.sample(n, rng=0)[:, None] == x[None]).all(2).sum(0)
    assert float(((counts - n * p) / (n * p * (1 - p)).sqrt()).abs().max()) < 5
    assert float((p - model.log_prob(x).value.exp()).abs().max()) > 0.02  # it is another law


@torch.no_grad()
@pytest.mark.parametrize("steps", [None, 1, 3, 5, 8, 50])
def test_every_entry_is_shown_once_whatever_the_steps(steps):
    model = made(WIDE, unmask_steps=steps)
    asked = []
    params = model._params
    model._params = lambda x, seen, c: (asked.append(seen.clone()), params(x, seen, c))[1]
    model.sample(20, rng=0)
    shown = [int(s.sum()) for s in asked]
    assert len(asked) == min(steps or 8, 8) and shown == sorted(shown) and shown[0] == 0
    each = torch.stack(asked).sum(2).diff(dim=0)
    assert int(each.max()) - int(each.min()) <= 1 if len(asked) > 1 else True


@torch.no_grad()
def test_completions_keep_what_is_observed_and_follow_the_network():
    model, n = made(CODES), 4000
    x, seen = torch.tensor([[1, 2, 0]]), torch.tensor([[True, False, True]])
    conditional = model.condition(x, seen)
    drawn = conditional.sample(n, Rng(0))[:, 0]
    assert conditional.quality is Quality.ESTIMATE
    assert bool((drawn[:, [0, 2]] == x[:, [0, 2]]).all())
    every = torch.tensor([[1, k, 0] for k in range(3)])
    p = entry(model, every, (0, 2), 1).exp()
    counts = torch.bincount(drawn[:, 1], minlength=3)
    assert float(((counts - n * p) / (n * p * (1 - p)).sqrt()).abs().max()) < 5


@torch.no_grad()
def test_a_real_column_beside_a_category_has_a_density():
    model = made(MIXED, size=0.1)
    r = torch.linspace(-95, 105, 8001, dtype=torch.float64)
    rows = [torch.stack([torch.full_like(r, k), r], 1) for k in range(3)]
    mass = torch.stack([model.log_prob(row).value.exp().sum() * (r[1] - r[0]) for row in rows])
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    share = torch.bincount(model.sample(4000, rng=0)[:, 0].long(), minlength=3) / 4000
    torch.testing.assert_close(share.double(), mass, atol=0.04, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("space", [WIDE, PIXELS], ids=["codes", "pixels"])
def test_missing_entries_say_nothing(space):
    model = made(space)
    x = model.sample(12, rng=3)
    observed = Rng(4).bernoulli(0.6, tuple(x.shape))
    other = torch.where(observed, x, 1 - x.clamp(max=1))
    for ask in (
        lambda y: model._loss(Batch(y, {}, observed), Rng(0)),
        lambda y: model.log_prob(y, None, observed, rng=0).value,
        lambda y: model.condition(y, observed).sample(2, Rng(0)).masked_fill(observed, 0),
    ):
        assert torch.equal(ask(x), ask(other))
    gone = torch.zeros_like(observed)
    assert float(model._loss(Batch(x, {}, gone), Rng(0))) == 0.0


@torch.no_grad()
def test_hidden_sets_are_uniform_among_the_observed():
    model = made(WIDE)
    observed = torch.ones(3000, 8, dtype=torch.bool)
    observed[:, 5] = False
    kept = []
    model._entries = lambda x, seen, c: (kept.append(observed & ~seen), torch.ones(3000, 8).double())[1]
    x = torch.zeros(3000, 8, dtype=torch.long)
    term = model._term(x, observed, torch.full((3000,), 2.5 / 7), None, Rng(0))
    hidden = kept[0]
    assert bool((hidden.sum(1) == 3).all()) and not bool(hidden[:, 5].any())
    share = hidden.double().mean(0)[[0, 1, 2, 3, 4, 6, 7]]
    assert float((share - 3 / 7).abs().max()) < 5 * (3 / 7 * 4 / 7 / 3000) ** 0.5
    torch.testing.assert_close(term, torch.full((3000,), 7.0).double())  # n / k times k ones
    assert bool((_rank(torch.rand(5, 8), observed[:5])[:, 5] == 7).all())


def test_it_learns_a_joint_law():
    """Two columns that agree in four of five rows, given a yes-no that turns the first: the right law."""
    rng, n = Rng(0), 4000
    c = rng.integers(2, (n,))
    a = (c + rng.bernoulli(0.2, (n,)).long()) % 2
    b = torch.where(rng.bernoulli(0.8, (n,)), a, rng.integers(3, (n,)))
    space = Space((2,), (Variable("a", "category", 2), Variable("b", "category", 3)), dtype="int64")
    x = torch.stack([a, b], 1)
    model = MaskedDiffusion(**SMALL).build(space, {"c": category(2, "c")}).train()
    (player,) = model.players()
    optimiser = torch.optim.AdamW(player.params, 1e-2)
    for k in range(600):
        step, optimiser.param_groups[0]["lr"] = Rng.derive(1, k), 1e-2 * (1 - k / 600)
        rows = step.integers(n, (256,))
        optimiser.zero_grad()
        player.loss(Batch(x[rows], {"c": c[rows]}), step).backward()
        optimiser.step()
    model.eval()
    every = states(space)
    p_a = torch.tensor([0.8, 0.2])[every[:, 0]]
    p = p_a * (0.8 * (every[:, 0] == every[:, 1]) + 0.2 / 3)
    with torch.no_grad():
        log_q = model.log_prob(every, {"c": torch.zeros(6, dtype=torch.long)}).value
        free = model.log_prob(every).value.exp()
    assert float((p * (p.log() - log_q)).sum()) < 0.01
    mixed = 0.5 * (0.8 * (every[:, 0] == every[:, 1]) + 0.2 / 3)
    torch.testing.assert_close(free, mixed.double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("wrong", [{"unmask_steps": 0}, {"levels": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        MaskedDiffusion(**wrong)
