"""Integer flow: bijections of whole numbers, masses that add up, draws against masses, what is refused."""

import math

import pytest
import torch

from pofx.check.probe import states
from pofx.data import Batch
from pofx.families.integer_flow import IntegerFlow
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.nn.integers import Body, Shift, lattice, sides
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "dropout": 0.0, "components": 3}
TINY = Space((3,), tuple(Variable(f"x{j}", "ordinal", k, mean=1, scale=1) for j, k in enumerate((3, 4, 2))))
PIXELS = Space((2, 2, 1), (Variable("pixel", "ordinal", 3, mean=1, scale=0.8),), "grid", "image", "uint8")
COUNTS = Space((2,), (Variable("n", low=0.0, resolution=1.0, mean=2, scale=2), Variable("d", resolution=0.5, scale=2)))


def made(space, size=0.3, given=None, **changes):
    """A model whose weights are away from their start."""
    model = IntegerFlow(**{**SMALL, **changes}).build(space, given).eval()
    rng = Rng(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * rng.normal(tuple(p.shape)))
    return model


def shift(levels, size=2.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Shift(Body(torch.tensor([0, 2]), torch.tensor([1, 3]), 1, 8, 1), torch.zeros(4), torch.ones(4), levels)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(size * Rng(1).normal(tuple(p.shape)))
    return layer


class TestLayers:
    @torch.no_grad()
    def test_shifts_are_undone_exactly_on_whole_numbers_and_on_residues(self):
        x = Rng(0).integers(5, (200, 4)).double()
        for levels in (torch.zeros(4), torch.full((4,), 5.0), torch.tensor([0.0, 5.0, 0.0, 0.0])):
            layer = shift(levels)
            z = layer(x)
            assert torch.equal(layer.inverse(z), x) and torch.equal(z, z.round())
            assert not torch.equal(z, x) and torch.equal(z[:, [0, 2]], x[:, [0, 2]])
            inside = (z >= 0) & (z < 5)
            assert bool(inside[:, levels > 0].all())

    def test_the_gradient_passes_the_rounding(self):
        layer = shift(torch.zeros(4))
        layer.scale = torch.tensor([1.0, 3.0, 1.0, 1.0])
        x = Rng(0).integers(5, (6, 4)).double()
        (gradient,) = torch.autograd.grad(layer(x)[:, 1].sum(), layer.body.free)
        torch.testing.assert_close(gradient, torch.tensor([[18.0], [0.0]]))

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (2, 6, 10), (1, 7, 5), (13,), (1,)], ids=str)
    @pytest.mark.parametrize("levels", [None, 0, 1, 2])
    def test_every_entry_ends_once(self, shape, levels):
        units = torch.arange(math.prod(shape)).reshape(shape)
        ended, left = [], math.prod(shape)
        for every, ends, rest in lattice(units, levels):
            assert every.numel() == left == ends.numel() + rest.numel()
            ended += ends.flatten().tolist()
            left = rest.numel()
        assert sorted(ended) == list(range(math.prod(shape))) and left == 0

    def test_the_first_entries_to_end_lie_between_the_others(self):
        _, ends, rest = next(lattice(torch.arange(16).reshape(1, 4, 4)))
        white = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 1
        assert set(ends.flatten().tolist()) == set(torch.arange(16).reshape(4, 4)[white].tolist())

    @pytest.mark.parametrize("n", [1, 2, 3, 8])
    def test_every_unit_is_moved_by_some_coupling(self, n):
        moved = set()
        for kept, changed in sides(torch.arange(n), 4):
            assert sorted([*kept.tolist(), *changed.tolist()]) == list(range(n)) and len(kept) and len(changed)
            moved |= set(changed.tolist())
        assert moved == (set(range(n)) if n > 1 else set())


class TestMass:
    @torch.no_grad()
    @pytest.mark.parametrize("space", [TINY, PIXELS], ids=["vector", "picture"])
    @pytest.mark.parametrize("changes", [{}, {"levels": 0}, {"levels": 1, "layers": 2}], ids=str)
    def test_masses_add_up_to_one_and_the_map_is_a_bijection(self, space, changes):
        model, x = made(space, **changes), states(space)
        value = model.log_prob(x)
        assert value.quality is Quality.EXACT and not model.leaks
        assert float(value.value.exp().sum()) == pytest.approx(1, abs=1e-5)
        z = model.forward_map(x)
        assert len(z.unique(dim=0)) == len(x) and not torch.equal(z, x.flatten(1).double())
        assert torch.equal(model.inverse(z), x)
        torch.testing.assert_close(model.encode(x).mean, z)

    @torch.no_grad()
    def test_convolutions_are_a_bijection_too(self):
        space = Space((2, 4, 1), (Variable("pixel", "ordinal", 2, mean=0.5, scale=0.5),), "grid", "image", "uint8")
        model, x = made(space, body="conv"), states(space)
        assert model.stages[0][0].body.convolve
        assert float(model.log_prob(x).value.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert torch.equal(model.inverse(model.forward_map(x)), x)

    @torch.no_grad()
    def test_without_wrapping_the_mass_is_one_on_all_whole_numbers_and_less_on_the_valid_ones(self):
        space = Space((2,), tuple(Variable(f"x{j}", "ordinal", 4, mean=1.5, scale=1) for j in range(2)))
        model = made(space, wrap=False)
        assert model.leaks and model.log_prob(states(space)).quality is Quality.LOWER
        axis = torch.arange(-150.0, 150.0, dtype=torch.float64)
        every = torch.cartesian_prod(axis, axis)
        mass = model._log_mass(every, None).exp()
        valid = ((every >= 0) & (every < 4)).all(1)
        assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
        share = float(mass[valid].sum())
        assert 0.01 < share < 0.99
        # invalid draws are drawn anew: the law of the draws is the mass over its valid share
        n, x = 4000, states(space)
        drawn = model.sample(n, rng=0)
        p = model.log_prob(x).value.exp() / share
        counts = (drawn[:, None] == x[None]).all(2).sum(0)
        assert float(((counts - n * p) / (n * p * (1 - p)).sqrt().clamp_min(1e-9)).abs().max()) < 5

    @torch.no_grad()
    @pytest.mark.parametrize("space", [TINY, PIXELS], ids=["vector", "picture"])
    def test_draws_follow_the_masses(self, space):
        model, x, n = made(space), states(space), 6000
        p = model.log_prob(x).value.exp()
        counts = (model.sample(n, rng=0)[:, None] == x[None]).flatten(2).all(2).sum(0)
        z = (counts - n * p) / (n * p * (1 - p)).sqrt()
        assert float(z[n * p > 5].abs().max()) < 5 and float(z[n * p > 5].square().mean()) < 2

    @torch.no_grad()
    def test_counts_and_rounded_columns_keep_their_units(self):
        model = made(COUNTS)
        assert model.leaks  # counts end at 0
        x = model.sample(500, rng=0)
        assert bool((x[:, 0] >= 0).all()) and torch.equal(x[:, 0], x[:, 0].round())
        assert torch.equal(2 * x[:, 1], (2 * x[:, 1]).round()) and bool((x[:, 1] % 1 != 0).any())
        assert torch.equal(model.inverse(model.forward_map(x)), x)
        assert bool((model.log_prob(torch.tensor([[-1.0, 0.5]])).value == -math.inf).all())

    @torch.no_grad()
    def test_bounded_columns_wrap_at_their_bounds(self):
        v = Variable("share", "bounded", low=-0.5, high=1.0, resolution=0.25, mean=0.2, scale=0.4)
        model = made(Space((2,), (v,)))
        axis = -0.5 + 0.25 * torch.arange(7, dtype=torch.float64)
        value = model.log_prob(torch.cartesian_prod(axis, axis))
        assert value.quality is Quality.EXACT and float(value.value.exp().sum()) == pytest.approx(1, abs=1e-5)
        drawn = model.sample(300, rng=0)
        assert float(drawn.min()) >= -0.5 and float(drawn.max()) <= 1.0

    @torch.no_grad()
    def test_given_and_rows(self):
        model, x = made(TINY, given={"c": category(2)}), states(TINY)
        c = [torch.full((len(x),), k) for k in (0, 1)]
        mass = [model.log_prob(x, {"c": k}).value.exp() for k in c]
        assert float((mass[0] - mass[1]).abs().max()) > 0.01
        assert float(mass[0].sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(
            model.log_prob(x[3:4], {"c": c[1][:1]}).value.exp(), mass[1][3:4], rtol=1e-4, atol=1e-6
        )
        z = model.forward_map(x, {"c": c[1]})
        assert torch.equal(model.inverse(z, {"c": c[1]}), x) and not torch.equal(z, model.forward_map(x))


class TestFit:
    def test_it_learns_that_one_entry_follows_from_the_other(self):
        """b = a + 3 modulo 7: log 7 nats are all there is to say."""
        a = Rng(0).integers(7, (2000, 1)).double()
        x = torch.cat([a, (a + 3) % 7], 1)
        space = Space((2,), tuple(Variable(f"x{j}", "ordinal", 7, mean=3, scale=2) for j in range(2)))
        model = IntegerFlow(width=32, dropout=0.0, layers=1).build(space).train()
        (player,) = model.players()
        optimiser = torch.optim.AdamW(player.params, 1e-2)
        for k in range(200):
            rng = Rng.derive(3, k)
            optimiser.param_groups[0]["lr"] = 1e-2 * (1 - k / 200)
            optimiser.zero_grad()
            player.loss(Batch(x[rng.integers(2000, (128,))]), rng).backward()
            optimiser.step()
        with torch.no_grad():
            nats = -float(model.eval().log_prob(x[:300]).value.mean())
        assert nats < math.log(7) + 0.3

    def test_complete_rows_only(self):
        model, observed = made(TINY), torch.tensor([[True, True, True], [True, False, True]])
        x = torch.tensor([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0]])
        loss = model._loss(Batch(x, {}, observed), Rng(0))
        torch.testing.assert_close(loss, model._loss(Batch(x[:1]), Rng(0)))
        with pytest.raises(Unsupported, match="complete"):
            model.train()._loss(Batch(x[1:], {}, observed[1:]), Rng(0))


@pytest.mark.parametrize(
    ("variable", "says"), [(Variable("who", "category", 3), "who.*category"), (Variable("w"), "w.*rounding")]
)
def test_what_has_no_whole_numbers_is_refused(variable, says):
    with pytest.raises(Unsupported, match=says):
        IntegerFlow().build(Space((1,), (variable,)))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="body"):
        IntegerFlow(body="tree")
    with pytest.raises(ValueError, match="pictures"):
        IntegerFlow(body="conv").build(TINY)
    with pytest.raises(Unsupported, match="rounding"):
        IntegerFlow().build(real(2))
