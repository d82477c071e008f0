"""GAN: the penalty and both losses in closed form, what each player may move, masks, and modes that are all found."""

import math

import pytest
import torch
from torch import nn

from pofx.data import Batch
from pofx.families.gan import GAN, squared_slope
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Unsupported
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "depth": 1}


class Linear(nn.Module):
    """A critic w . u of the first d inputs, which leaves the mask alone."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x, c=None):
        return x[:, : len(self.w)] @ self.w


@pytest.fixture
def linear():
    model = GAN(**SMALL, gamma=0.7).build(real(2))
    model.critic = Linear([3.0, -4.0])
    model.moments.eval()  # v = u
    return model


def test_slope_of_a_linear_critic(linear):
    u = Rng(0).normal((7, 2)).requires_grad_()
    f = linear._judge(u, None, None)
    assert squared_slope(f, u).item() == pytest.approx(25.0)


def test_critic_loss_in_closed_form(linear):
    """softplus(-(w . (real - fake))) + gamma / 2 (|w|^2 + |w|^2), R1 and R2 alike."""
    batch = Batch(Rng(1).normal((64, 2)))
    loss = linear._critic_loss(batch, Rng(5))
    fake, _ = linear._shared
    gap = (batch.x - fake).detach() @ torch.tensor([3.0, -4.0])
    want = torch.log1p(torch.exp(-gap)).mean() + 0.35 * 50
    torch.testing.assert_close(loss.detach(), want)


def test_generator_loss_is_the_mirror(linear):
    batch = Batch(Rng(1).normal((64, 2)))
    linear._critic_loss(batch, Rng(5))
    fake, _ = linear._shared
    gap = (fake - batch.x).detach() @ torch.tensor([3.0, -4.0])
    loss = linear._generator_loss(batch, Rng(6))
    torch.testing.assert_close(loss.detach(), torch.log1p(torch.exp(-gap)).mean())
    assert linear._shared is None


def test_directions_of_the_players(linear):
    """The critic's step raises D(real) - D(fake), the generator's raises D(fake): signs that cannot be swapped."""
    batch = Batch(torch.tensor([[2.0, 0.0]]).repeat(32, 1))
    linear.penalty_weight = 0.0
    critic, generator = linear.players()
    (slope,) = torch.autograd.grad(critic.loss(batch, Rng(0)), linear.critic.w)
    fake, _ = linear._shared
    towards_real = (batch.x - fake).mean(0).detach()
    assert float(-slope @ towards_real) > 0
    before = linear._judge(linear._generate(Rng(9).normal((256, linear.z_size)), {}), None, None).mean()
    grads = torch.autograd.grad(generator.loss(batch, Rng(0)), generator.params, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(generator.params, grads, strict=True):
            p.sub_(0 if g is None else 1e-3 * g)
    after = linear._judge(linear._generate(Rng(9).normal((256, linear.z_size)), {}), None, None).mean()
    assert bool(after > before)


def test_the_players_share_draws_but_no_weights():
    model = GAN(**SMALL).build(real(3), {"label": category(3)})
    critic, generator = model.players()
    assert not {id(p) for p in critic.params} & {id(p) for p in generator.params}
    assert {id(p) for p in model.parameters()} == {id(p) for p in [*critic.params, *generator.params]}
    batch = Batch(Rng(0).normal((8, 3)), {"label": Rng(0).integers(3, (8,))})
    grads = torch.autograd.grad(critic.loss(batch, Rng(1)), critic.params)
    assert all(float(g.abs().max()) > 0 for g in grads[:2])
    shared = model._shared[0]
    generator.loss(batch, Rng(2)).backward()
    again = model._generate(Rng(1).normal((8, model.z_size)), {}, {})
    assert shared.shape == again.shape


def test_masks_hide_what_is_missing():
    """Values at missing entries change no loss, and the draws are judged under the same masks."""
    model = GAN(**SMALL).build(real(2))
    observed = torch.tensor([[True, False]]).repeat(16, 1)
    x = Rng(0).normal((16, 2))
    other = torch.where(observed, x, 1e6)
    for loss in (model._critic_loss, model._generator_loss):
        one, two = (loss(Batch(v, {}, observed), Rng(3)) for v in (x, other))
        assert torch.equal(one, two)
    u = Rng(1).normal((16, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(model._judge(u, None, observed).sum(), u)
    assert bool((slope[:, 1] == 0).all() and (slope[:, 0] != 0).any())


def test_it_offers_samples_only():
    model = GAN(**SMALL).build(real(2))
    assert model.offers() == {"sample"}
    with pytest.raises(Unsupported, match="log_prob"):
        model.log_prob(torch.zeros(1, 2))


def test_pictures_and_seeds():
    space = Space((1, 5, 4), (Variable("u"),), "grid", "chart", "float32")
    model = GAN(**SMALL).build(space, {"label": category(4)}).eval()
    given = {"label": torch.tensor([0, 3])}
    one, two, three = (model.sample(3, given, rng=k) for k in (1, 1, 2))
    assert one.shape == (3, 2, 1, 5, 4) and one.dtype == torch.float32
    assert torch.equal(one, two) and not torch.equal(one, three)
    batch = Batch(Rng(0).normal((6, 1, 5, 4)), {"label": Rng(0).integers(4, (6,))})
    for player in model.players():
        grads = torch.autograd.grad(player.loss(batch, Rng(0)), player.params, allow_unused=True)
        assert sum(g is not None and float(g.abs().sum()) > 0 for g in grads) > len(grads) / 2


def test_small_coordinates_are_drawn_in_their_own_units():
    """Draws are m + d v, with m and d of the entries seen; what is missing has no say."""
    model = GAN(**SMALL).build(real(2))
    observed = Rng(1).bernoulli(0.5, (400, 2))
    x = torch.tensor([3.0, -1.0]) + torch.tensor([2.0, 0.5]) * Rng(0).normal((400, 2))
    for part in torch.arange(400).split(50):
        gaps = torch.where(observed, x, 1e6)[part]
        model._critic_loss(Batch(gaps, {}, observed[part]), Rng(0))
    seen = [x[observed[:, j], j] for j in range(2)]
    mean, deviation = (torch.stack(t) for t in zip(*((s.mean(), s.std(correction=0)) for s in seen), strict=True))
    torch.testing.assert_close(model.moments.mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.moments.deviation, deviation, rtol=1e-3, atol=0)
    z = Rng(7).normal((5, model.z_size))
    torch.testing.assert_close(model.eval().sample(5, rng=7).float(), mean + deviation * model._generate(z, {}))


@pytest.mark.slow
def test_four_modes_are_all_found():
    centres = 1.2 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    rng = Rng(0)
    x = centres[rng.integers(4, (2000,))] + 0.15 * rng.normal((2000, 2))
    model = GAN(width=64).build(real(2))
    players, steps = model.players(), 500
    optimisers = [torch.optim.AdamW(p.params, p.lr, p.betas, weight_decay=0.0) for p in players]
    for k in range(steps):
        batch = Batch(x[Rng.derive(1, k).integers(2000, (128,))])
        draw = Rng.derive(2, k)
        for player, optimiser in zip(players, optimisers, strict=True):
            optimiser.param_groups[0]["lr"] = player.lr * 0.5 * (1 + math.cos(math.pi * k / steps))
            grads = torch.autograd.grad(player.loss(batch, draw), player.params)
            for p, g in zip(player.params, grads, strict=True):
                p.grad = g
            optimiser.step()
    u = model.eval().sample(1000, rng=3).float()
    distance, nearest = torch.cdist(u, centres).min(1)
    share = torch.bincount(nearest, minlength=4) / 1000
    assert float(share.min()) > 0.12
    assert float((distance < 0.6).float().mean()) > 0.75
