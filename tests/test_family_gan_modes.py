"""Watch: a generator that leaves out clusters or repeats itself is told of once; a good one is not."""

import math

import pytest
import torch

import pofx
from pofx.data import Batch
from pofx.families.gan import GAN
from pofx.kinds.base import real
from pofx.model import Card, Model, Player
from pofx.randomness import Rng
from pofx.reporting.figures import _warned
from pofx.training.collapse import Watch, k_means

torch.set_num_threads(1)
ANGLE = 2 * math.pi * torch.arange(10) / 10
CENTRES = torch.stack([ANGLE.cos(), ANGLE.sin()], 1)


def ring(n, seed, modes=10):
    rng = Rng(seed)
    return (CENTRES[rng.integers(modes, (n,))] + 0.05 * rng.normal((n, 2))).double()


class Ring(Model):
    """Draws of the first `modes` of ten clusters, the noise around them `width`; it learns nothing."""

    card = Card(
        "none", "fast", "none", "none", "none", ("implicit", "direct"), "refuses", "a ring", "here",
        euclidean=False, given=False,
    )  # fmt: skip
    validate_by = "samples"

    def __init__(self, *, modes=10, width=0.05):
        super().__init__()
        self.modes, self.width = modes, width

    def _build(self):
        self.idle = torch.nn.Parameter(torch.zeros(()))

    def _players(self):
        return [Player("ring", [self.idle], lambda batch, rng: self.idle.square())]

    def _sample(self, count, given, rng):
        c = CENTRES[rng.integers(self.modes, (count,))]
        return (c + self.width * rng.normal((count, 2))).to(self.space.torch_dtype)


def fitted(**settings):
    lines = []
    fit = {"budget": "600 steps", "threads": 1, "precision": "32-true", "progress": False, "report": lines.append}
    model = pofx.fit(ring(3000, 0).numpy(), Ring(**settings), **fit)
    return model, lines


def said(lines):
    return [line["warning"] for line in lines if "warning" in line]


def test_a_good_generator_is_not_warned_of():
    model, lines = fitted()
    assert said(lines) == []
    last = [line for line in model.history if "coverage" in line][-1]
    assert last["left_out"] == 0 and last["modes"] == last["clusters"] == 20
    assert last["coverage"] > 0.9 and last["recall"] > 0.8 and last["duplicates"] < 0.05


def test_a_generator_without_some_modes_is_warned_of_once():
    """Seven of ten modes: about 30 % of the data, and six of twenty clusters, get no draws."""
    model, lines = fitted(modes=7)
    (words,) = said(model.history)
    assert said(lines) == [words] and "pack=2" in words
    last = [line for line in model.history if "coverage" in line][-1]
    assert last["left_out"] == pytest.approx(0.3, abs=0.04)
    assert last["modes"] == pytest.approx(14, abs=2)
    assert f"{last['clusters'] - last['modes']} of 20 clusters" in words
    assert last["coverage"] == pytest.approx(0.7, abs=0.06) and last["recall"] == pytest.approx(0.7, abs=0.08)
    assert words in _warned({"ring": model.history, "other": [{"step": 1}]})


def test_a_generator_that_repeats_itself_is_warned_of():
    model, lines = fitted(width=0.0)
    (words,) = said(lines)
    assert "repeats itself" in words or "leaves out" in words
    last = [line for line in model.history if "coverage" in line][-1]
    assert last["duplicates"] > 0.95 and last["recall"] < 0.2


def test_the_beginning_of_a_fit_is_not_warned_of():
    watch = Watch(Ring().build(real(2)), Batch(ring(500, 0)), 0)
    bad = {"coverage": 0.1, "left_out": 0.9, "duplicates": 0.9, "modes": 2, "clusters": 20}
    good = {**bad, "left_out": 0.0, "duplicates": 0.0}
    assert watch.warning([bad] * 9, 150, 400) is None  # too few steps
    assert watch.warning([bad] * 9, 900, 10_000) is None  # too early
    assert watch.warning([bad, bad], 3000, 10_000) is None  # not often enough
    assert watch.warning([bad, good, bad], 3000, 10_000) is None
    assert watch.warning([good, bad, bad, bad], 3000, 10_000) is not None
    assert watch.warning([{**bad, "warning": "said"}, bad, bad, bad], 3000, 10_000) is None


def test_only_who_merely_draws_is_watched():
    assert Watch.of(Ring().build(real(2)), Batch(ring(100, 0)), 0) is not None
    assert Watch.of(GAN(width=8, depth=1).build(real(2)), Batch(ring(100, 0)), 0) is not None
    explicit = type("Explicit", (Ring,), {"card": pofx.families.family("mixture").card})
    assert Watch.of(explicit().build(real(2)), Batch(ring(100, 0)), 0) is None


def test_rare_clusters_are_left_to_chance():
    """A cluster that should have three draws may well have none."""
    watch = Watch(Ring().build(real(2)), Batch(ring(3000, 0)), 0)
    watch.centres, watch.shares = CENTRES.double(), torch.tensor([0.19, *[0.09] * 9]).double()
    u = ring(30, 1, modes=1)

    def look(u):
        v = ring(60, 2)
        watch.look(u, v, torch.cdist(u, u), torch.cdist(v, v), torch.cdist(u, v))
        return watch.found

    assert look(u)["left_out"] == 0  # 2.7 expected, 0 seen: chance 0.07
    assert look(ring(300, 1, modes=1))["left_out"] == pytest.approx(0.81)  # 27 expected, 0 seen


def test_half_of_a_tight_cluster_is_a_mode_that_is_found():
    """Two clusters of deviation 0.02, of which k-means makes many: draws of their upper halves leave nothing out."""
    rng = Rng(0)
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[rng.integers(2, (1000,))].double()
    x = x + 0.02 * rng.normal((1000, 2), torch.float64)
    watch, u = Watch(Ring().build(real(2)), Batch(x), 0), x[x[:, 1] > 0]
    watch.look(u, x, torch.cdist(u, u), torch.cdist(x, x), torch.cdist(u, x))
    assert watch.found["clusters"] == 20 and watch.found["left_out"] == 0
    u = x[x[:, 0] > 0]
    watch.look(u, x, torch.cdist(u, u), torch.cdist(x, x), torch.cdist(u, x))
    assert watch.found["left_out"] == pytest.approx(0.5, abs=0.05)


def test_centres_of_far_clusters_are_found():
    u = ring(600, 3)
    centres = k_means(u, 10, Rng(0))
    gap = torch.cdist(CENTRES.double(), centres).min(1).values
    assert int((gap < 0.05).sum()) >= 8


@pytest.mark.slow
def test_a_crippled_gan_is_warned_of_and_a_whole_one_is_not():
    """The same fit with a latent of nothing: z = 0 always."""

    class Crippled(GAN):
        def _generate(self, z, given, keep=None):
            return super()._generate(torch.zeros_like(z), given, keep)

    x = ring(2000, 0)[:, :2].numpy()
    settings = {"budget": "600 steps", "threads": 1, "precision": "32-true", "progress": False, "batch": 64}
    broken = pofx.fit(x, Crippled(width=32, cells=False), **settings)
    assert len(said(broken.history)) == 1
    whole = pofx.fit(x, GAN(width=32), **settings)
    assert said(whole.history) == []
