"""GAN: losses and penalties in closed form, what each player may move, masks, packs, moves, modes."""

import math

import pytest
import torch
from torch import nn

import pofx
from pofx.data import Batch
from pofx.engines.adversarial import critic_loss, generator_loss, map_distance, penalty, slopes
from pofx.families.gan import GAN
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Unsupported
from pofx.nn.augment import augmented
from pofx.nn.scalar import LeakyCritic
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "depth": 1}
PLAIN = {**SMALL, "settle": 0.0}  # gamma stays what it is
W = torch.tensor([3.0, -4.0])


class Linear(nn.Module):
    """A critic w . u of the first d inputs, which leaves the mask alone."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x, c=None):
        return x[:, : len(self.w)] @ self.w


def linear_model(**settings):
    model = GAN(**{**PLAIN, "gamma": 0.7, **settings}).build(real(2))
    model.critic = Linear([3.0, -4.0])
    model.moments.eval()  # v = u
    return model


@pytest.fixture
def linear():
    return linear_model()


def picture(C, H, W):
    return Space((C, H, W), (Variable("u"),), "grid", "chart", "float32")


def test_slope_of_a_linear_critic():
    u = Rng(0).normal((7, 2)).requires_grad_()
    assert slopes(u @ W, u).tolist() == pytest.approx([25.0] * 7)


@pytest.mark.parametrize("kind, want", [("none", 0.0), ("r1", 12.5), ("r1+r2", 25.0), ("gradient", 16.0)])
def test_penalties_of_a_linear_critic(kind, want):
    """|w| = 5: half of 25 for R1, twice that for both, (5 - 1)^2 for the gradient penalty."""
    real_, fake = Rng(0).normal((6, 2)), Rng(1).normal((6, 2))
    assert penalty(kind, lambda v: v @ W, real_, fake, Rng(2).uniform((6, 1))).item() == pytest.approx(want)


def test_penalties_look_where_they_should():
    """D = |v|^2 / 2 has the slope |v|: R1 reads real rows alone, the gradient penalty between the two."""
    real_, fake = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    at = {k: penalty(k, lambda v: 0.5 * v.square().sum(1), real_, fake, torch.tensor([[0.25]])).item() for k in
          ("r1", "r1+r2", "gradient")}  # fmt: skip
    assert at["r1"] == pytest.approx(4.5)
    assert at["r1+r2"] == pytest.approx(5.0)
    assert at["gradient"] == pytest.approx((math.hypot(2.25, 0.25) - 1) ** 2, rel=1e-4)


def test_losses_in_closed_form():
    r, f = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])

    def soft(x):
        return math.log1p(math.exp(x))

    want = {
        "relativistic": ((soft(-1.5) + soft(4.0)) / 2, (soft(1.5) + soft(-4.0)) / 2),
        "non-saturating": ((soft(-2) + soft(1) + soft(0.5) + soft(3)) / 2, (soft(-0.5) + soft(-3)) / 2),
        "hinge": ((0 + 2 + 1.5 + 4) / 2, -1.75),
        "wasserstein": (1.25, -1.75),
    }
    for kind, (critic, generator) in want.items():
        assert critic_loss(kind, r, f).item() == pytest.approx(critic, rel=1e-5)
        assert generator_loss(kind, r, f).item() == pytest.approx(generator, rel=1e-5)


def test_critic_loss_in_closed_form(linear):
    """softplus(-(w . (real - fake))) + gamma / 2 (|w|^2 + |w|^2), R1 and R2 alike."""
    batch = Batch(Rng(1).normal((64, 2)))
    loss = linear._critic_loss(batch, Rng(5))
    fake, _ = linear._shared
    gap = (batch.x - fake).detach() @ W
    want = torch.log1p(torch.exp(-gap)).mean() + 0.35 * 50
    torch.testing.assert_close(loss.detach(), want)


def test_both_sides_are_judged_in_units_of_each_coordinate():
    """v = (u - m) / d for real rows, as the generator gives it."""
    model = linear_model(penalty="none")
    model.moments.mean.copy_(torch.tensor([1.0, -2.0]))
    model.moments.square.copy_(torch.tensor([5.0, 4.25]))  # deviations 2 and 1/2
    batch = Batch(Rng(1).normal((64, 2)))
    loss = model._critic_loss(batch, Rng(5))
    v = (batch.x - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
    gap = (v - model._shared[0]).detach() @ W
    torch.testing.assert_close(loss.detach(), torch.log1p(torch.exp(-gap)).mean())
    gap = (v - model._shared[0]).detach() @ W
    torch.testing.assert_close(model._generator_loss(batch, Rng(6)).detach(), torch.log1p(torch.exp(gap)).mean())


def test_gamma_settles():
    """gamma / (1 + k / settle), counted while training alone."""
    model = linear_model(settle=2.0)
    batch = Batch(Rng(1).normal((8, 2)))
    loss = [model._critic_loss(batch, Rng(5)).item() for _ in range(3)]
    assert [a - loss[2] for a in loss] == pytest.approx(
        [0.35 * 50 * (1 / (1 + k / 2) - 1 / 2) for k in range(3)], abs=1e-4
    )
    model.eval()
    assert model._critic_loss(batch, Rng(5)).item() == model._critic_loss(batch, Rng(5)).item()
    assert int(model.turns) == 3


def test_generator_loss_is_the_mirror(linear):
    batch = Batch(Rng(1).normal((64, 2)))
    linear._critic_loss(batch, Rng(5))
    fake, _ = linear._shared
    gap = (fake - batch.x).detach() @ W
    loss = linear._generator_loss(batch, Rng(6))
    torch.testing.assert_close(loss.detach(), torch.log1p(torch.exp(-gap)).mean())
    assert linear._shared is None


@pytest.mark.parametrize("loss", ["relativistic", "non-saturating", "hinge", "wasserstein"])
def test_directions_of_the_players(loss):
    """The critic's step raises D(real) - D(fake), the generator's raises D(fake): signs that cannot be swapped."""
    model = linear_model(loss=loss, penalty="none", spectral=False)
    # scores within the hinge's reach
    model.critic = Linear([0.03, -0.04])
    batch = Batch(torch.tensor([[2.0, 0.0]]).repeat(32, 1))
    critic, generator = model.players()[:2]
    (slope,) = torch.autograd.grad(critic.loss(batch, Rng(0)), model.critic.w)
    fake, _ = model._shared
    towards_real = (batch.x - fake).mean(0).detach()
    assert float(-slope @ towards_real) > 0

    def score():
        fake = model._generate(Rng(9).normal((256, model.z_size)), {})
        return model._judge(model._seen(fake, Batch(fake), {}, Rng(0)), None).mean()

    before = score()
    grads = torch.autograd.grad(generator.loss(batch, Rng(0)), generator.params, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(generator.params, grads, strict=True):
            p.sub_(0 if g is None else 1e-2 * g)
    assert bool(score() > before)


def test_a_wasserstein_critic_plays_five_times():
    assert [p.every for p in GAN(**SMALL, loss="wasserstein").build(real(2)).players()] == [1, 5]
    assert [p.every for p in GAN(**SMALL, critic_steps=3).build(real(2)).players()] == [1, 3]
    assert GAN(**SMALL, loss="wasserstein").build(real(2)).kind == "gradient"


def test_a_pack_is_judged_together():
    """Rows 2 j and 2 j + 1 share a score, which no other row moves; values stand before masks."""
    model = GAN(**SMALL, pack=2).build(real(3))
    v = Rng(0).normal((6, 3)).requires_grad_()
    seen = model._seen(v, Batch(v), {}, Rng(0))
    assert seen.shape == (3, 12)
    assert torch.equal(seen[1, :6], v[2:4].flatten()) and bool((seen[:, 6:] == 1).all())
    (slope,) = torch.autograd.grad(model._judge(seen, None)[1], v)
    assert (slope.abs().sum(1) > 0).tolist() == [False, False, True, True, False, False]
    loss = model._critic_loss(Batch(Rng(1).normal((7, 3))), Rng(0))  # the odd row is left out
    assert torch.isfinite(loss)
    with pytest.raises(ValueError, match="pack=2"):
        model._critic_loss(Batch(Rng(1).normal((1, 3))), Rng(0))


@pytest.mark.parametrize("body", ["mlp", "dcgan", "residual"])
def test_spectral_norms_are_one_and_are_kept(body):
    """After some steps every layer's largest singular value is 1; nothing moves when it is asked."""
    model = GAN(width=8, depth=1, body=body, spectral=True).build(picture(1, 8, 8))
    batch = Batch(Rng(0).normal((8, 1, 8, 8)))
    for _ in range(30):
        model._critic_loss(batch, Rng(1))
    model.eval()
    weights = [m.weight for m in model.critic.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert len(weights) >= 2
    for w in weights:
        assert torch.linalg.matrix_norm(w.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model._critic_loss(batch, Rng(1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = GAN(width=8, depth=1, body=body, spectral=True).build(picture(1, 8, 8), seed=1)
    again.load_state_dict(before)
    assert torch.equal(again.eval()._critic_loss(batch, Rng(1)), model._critic_loss(batch, Rng(1)))


def test_the_given_projects_the_features():
    """D(x, c) - D(x, c') = (W (c - c')) . f(x) / sqrt(width): linear in c, and 0 where the features are."""
    critic = LeakyCritic(3, 8, 1, c_dim=4)
    x, c, other = Rng(0).normal((5, 3)), Rng(1).normal((5, 4)), Rng(2).normal((5, 4))
    middle = critic(x, 0.5 * (c + other))
    torch.testing.assert_close(middle, 0.5 * (critic(x, c) + critic(x, other)))
    assert float((critic(x, c) - critic(x, other)).abs().min()) > 1e-5
    beside = LeakyCritic(3, 8, 1, c_dim=4, projection=False)
    assert float((beside(x, 0.5 * (c + other)) - 0.5 * (beside(x, c) + beside(x, other))).abs().max()) > 1e-5


def test_moves_keep_what_they_should():
    x = Rng(0).normal((64, 4, 8, 8))
    shifted = augmented(x, ["translation"], Rng(1))
    back = [any(torch.equal(shifted[i, :, 1 + a : 7 + a, 1 + b : 7 + b], x[i, :, 1:7, 1:7]) for a in (-1, 0, 1)
                for b in (-1, 0, 1)) for i in range(64)]  # fmt: skip
    assert all(back) and not torch.equal(shifted, x)
    cut = augmented(x, ["cutout"], Rng(1))
    gone = (cut == 0).all(1).flatten(1).sum(1)
    assert int(gone.max()) == 16 and int(gone.min()) >= 4 and torch.equal(cut[cut != 0], x[cut != 0])
    bright = augmented(x, ["brightness"], Rng(1), values=2) - x
    assert torch.equal(bright[:, 2:], torch.zeros(64, 2, 8, 8))
    assert float(bright[:, :2].flatten(1).std(1).max()) < 1e-6 and float(bright[:, :2].abs().max()) <= 0.5 + 1e-6
    assert float(bright[:, 0, 0, 0].std()) > 0.2


def test_gradients_pass_through_moves():
    x = Rng(0).normal((4, 2, 8, 8)).requires_grad_()
    moved = augmented(x, ["translation", "cutout", "brightness"], Rng(3))
    (slope,) = torch.autograd.grad(moved.sum(), x)
    assert set(slope.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("settings, message", [
    ({"loss": "least squares"}, "loss"), ({"penalty": "r3"}, "penalty"), ({"body": "unet"}, "body"),
    ({"pack": 0}, "pack"),
    ({"augment": "rotation"}, "augment"), ({"critic_steps": 0}, "critic_steps"),
])  # fmt: skip
def test_unknown_words_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GAN(**settings)


def test_pictures_are_wanted_where_they_are_needed():
    with pytest.raises(ValueError, match="pictures"):
        GAN(body="dcgan").build(real(2))
    with pytest.raises(ValueError, match="jitter"):
        GAN(augment="all").build(real(2))


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
    model = GAN(**PLAIN).build(real(2))
    observed = torch.tensor([[True, False]]).repeat(16, 1)
    x = Rng(0).normal((16, 2))
    other = torch.where(observed, x, 1e6)
    for loss in (model._critic_loss, model._generator_loss):
        one, two = (loss(Batch(v, {}, observed), Rng(3)) for v in (x, other))
        assert torch.equal(one, two)
    u = Rng(1).normal((16, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(model._judge(model._seen(u, Batch(u, {}, observed), {}, Rng(0)), None).sum(), u)
    assert bool((slope[:, 1] == 0).all() and (slope[:, 0] != 0).any())


def test_it_has_no_density():
    model = GAN(**SMALL).build(real(2))
    assert model.offers() == {"sample", "encode", "decode", "condition"}
    with pytest.raises(Unsupported, match="log_prob"):
        model.log_prob(torch.zeros(1, 2))
    with pytest.raises(Unsupported, match="point"):
        model.decode(torch.zeros(1, model.z_size)).log_prob(torch.zeros(1, 2))


@pytest.mark.parametrize("body, augment, pack", [("mlp", (), 1), ("dcgan", "all", 2), ("residual", "cutout", 3)])
def test_pictures_and_seeds(body, augment, pack):
    space = Space((1, 5, 4), (Variable("u"),), "grid", "chart", "float32")
    model = GAN(**SMALL, body=body, augment=augment, pack=pack).build(space, {"label": category(4)}).eval()
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


@pytest.mark.parametrize("settings", [
    {"loss": "hinge", "pack": 2}, {"loss": "wasserstein", "encoder": True}, {"augment": "jitter", "penalty": "r1"},
])  # fmt: skip
def test_variants_are_fitted_saved_and_loaded(settings, tmp_path):
    """Through the loop, which copies the model to measure a step, and back from a folder."""
    x = Rng(0).normal((200, 3), torch.float64).numpy()
    fit = {"budget": "0.5 cpu s", "threads": 1, "progress": False, "folder": tmp_path / "run"}
    model = pofx.fit(x, "gan", hyper_parameters={**SMALL, **settings}, **fit)
    again = pofx.load(tmp_path / "run")
    assert torch.equal(again.sample(5, rng=1), model.sample(5, rng=1))
    z = model.encode(torch.as_tensor(x[:2])).mean
    assert torch.equal(again.encode(torch.as_tensor(x[:2])).mean, z) and z.shape == (2, 8)
    assert {"coverage", "recall", "duplicates"} <= set(model.history[-1])


class TestTranslator:
    """A given picture makes the generator a U-Net and stands beside what the critic sees."""

    @staticmethod
    def model(**settings) -> GAN:
        space = Space((2, 18, 18), (Variable("u"),), "grid", "chart", "float32")
        given = Space((9, 9, 1), (Variable("low"),), "grid")
        return GAN(**{"width": 4, "body": "residual", **settings}).build(space, {"low": given})

    def test_the_critic_sees_the_given_picture(self):
        model, low = self.model(), torch.randn(4, 9, 9, 1)
        v = torch.randn(4, 2, 18, 18)
        seen = model._seen(v, Batch(v, {"low": low}), {}, Rng(0))
        assert seen.shape == (4, 6, 18, 18)  # the picture, its mask, the given and where it is known
        torch.testing.assert_close(seen[:, 4].mean((1, 2)), low.mean((1, 2, 3)), atol=0.05, rtol=0)
        judged = model._judge(seen, torch.zeros(4, 64))
        other = model._seen(v, Batch(v, {"low": low + 1}), {}, Rng(0))
        assert (model._judge(other, torch.zeros(4, 64)) - judged).abs().max() > 1e-6

    def test_fidelity_alone_finds_the_given(self):
        """With a large weight of |x - G|, the generator's loss falls towards the given picture's negative."""
        torch.manual_seed(0)
        model, low = self.model(fidelity=100.0), torch.randn(32, 9, 9, 1)
        x = -torch.nn.functional.interpolate(low.permute(0, 3, 1, 2), (18, 18), mode="bilinear").repeat(1, 2, 1, 1)
        batch = Batch(x, {"low": low})
        player = model.players()[1]
        optimiser, losses = torch.optim.Adam(player.params, 1e-2), []
        for step in range(12):
            optimiser.zero_grad()
            loss = player.loss(batch, Rng(step))
            loss.backward()
            optimiser.step()
            losses.append(float(loss))
        assert losses[-1] < 0.75 * losses[0]
        assert player.name == "generator"

    @pytest.mark.parametrize("body", ["dcgan", "residual"])
    def test_the_perceptual_term_vanishes_at_the_row_alone(self, body):
        """Its value and its slope are 0 where the draw is the row; elsewhere the draw is pulled towards the row."""
        model = self.model(body=body, perceptual=1.0)
        x, low = torch.randn(8, 2, 18, 18), torch.randn(8, 9, 9, 1)
        batch = Batch(x, {"low": low})

        def near(step):
            y = (x + step * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
            seen = torch.cat([model._seen(v, batch, {}, Rng(0)) for v in (x, y)])
            gap = map_distance(model.critic.maps(seen))
            return gap.detach(), -(torch.autograd.grad(gap, y)[0] * (y - x)).sum().detach()

        gaps, slopes = zip(*(near(step) for step in (0.0, 0.1, 0.5)), strict=True)
        assert gaps[0] == 0 and slopes[0] == 0
        assert 0 < gaps[1] < gaps[2] and slopes[1] < 0 and slopes[2] < 0

    def test_perceptual_is_added_to_the_game(self):
        """The generator's loss is that of the game and the weight times the distance of the critic's maps."""
        x, low = torch.randn(8, 2, 18, 18), torch.randn(8, 9, 9, 1)
        batch = Batch(x, {"low": low})
        losses, models = [], []
        for weight in (0.0, 1.0, 3.0):
            torch.manual_seed(0)
            models.append(self.model(perceptual=weight))
            losses.append(models[-1].players()[1].loss(batch, Rng(0)))
        assert losses[1] > losses[0] + 0.01
        assert torch.allclose(losses[2] - losses[0], 3 * (losses[1] - losses[0]), rtol=1e-4)
        with pytest.raises(ValueError, match="perceptual"):
            GAN(body="mlp", perceptual=1.0).build(Space((3,), (Variable("u"),) * 3))
