"""Interpolation: ends come back, arcs are typical, and the flow of a Gaussian is its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pofx
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import real
from pofx.tasks.interpolate import linear, spherical


@pytest.fixture(scope="module")
def normal():
    """A correlated Gaussian in two columns with a denoiser in closed form."""
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    return pofx.fit(x.numpy(), "gaussian", seed=0)


def test_arcs_and_chords():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    arc = spherical(a, b, 5)[:, 0]
    assert torch.allclose(arc[0], a[0]) and torch.allclose(arc[-1], b[0], atol=1e-6)
    assert torch.allclose(arc.norm(dim=1), torch.linspace(2, 4, 5))
    angles = torch.atan2(arc[:, 1], arc[:, 0])
    assert torch.allclose(angles.diff(), torch.full((4,), torch.pi / 8), atol=1e-6)
    assert torch.allclose(linear(a, b, 3)[1, 0], torch.tensor([1.0, 2.0]))
    assert torch.allclose(spherical(a, 3 * a, 3)[1, 0], torch.tensor([4.0, 0.0])), "parallel: the chord"


def test_the_ends_come_back_by_the_flow(normal):
    x = normal.sample(20, rng=1)
    answer = pofx.interpolate(normal, x[:10], x[10:], 7, route="noise")
    assert answer.raw.shape == (10, 7, 2)
    assert torch.allclose(answer.raw[:, 0], x[:10], atol=0.03) and torch.allclose(answer.raw[:, -1], x[10:], atol=0.03)
    assert answer.diagnostics["end error"] < 0.02
    assert answer.value.shape == (70, 2)


def test_the_middle_of_an_arc_is_typical_and_of_a_chord_is_not():
    model = pofx.fit(np.random.default_rng(0).normal(size=(6000, 24)), "gaussian", seed=0)
    x = model.sample(200, rng=0)
    middle = {
        w: pofx.interpolate(model, x[:100], x[100:], 3, way=w, route="noise").raw[:, 1] for w in ("spherical", "linear")
    }
    square = {w: float(m.square().sum(1).mean()) / 24 for w, m in middle.items()}
    assert square["spherical"] == pytest.approx(1.0, abs=0.12)
    assert square["linear"] == pytest.approx(0.5, abs=0.1)


def test_through_latents():
    model = pofx.fit("moons", "vae", budget="150 steps", seed=0)
    x = pofx.open_data("moons", seed=0).part("test").x[:8]
    answer = pofx.interpolate(model, x[:4], x[4:], 5)
    assert answer.route == "latents"
    assert answer.raw.shape == (4, 5, 2)
    assert torch.isfinite(answer.raw).all()


def test_the_ends_of_black_and_white_pictures_are_those_pictures():
    """The decoder's means lie below 1: they are rounded, not cut off."""
    x = torch.zeros(64, 4, 4, dtype=torch.uint8)
    x[::2, :2], x[1::2, 2:] = 1, 1
    model = pofx.fit(pofx.open_data(x.numpy(), kind="image"), "vae", budget="150 steps", threads=1, progress=False)
    strips = pofx.interpolate(model, x[:1, ..., None], x[1:2, ..., None], 3).raw[0]
    assert torch.equal(strips[0, ..., 0], x[0]) and torch.equal(strips[-1, ..., 0], x[1])


def test_what_cannot_be_asked(normal):
    x = normal.sample(4, rng=0)
    with pytest.raises(ValueError, match="pairs"):
        pofx.interpolate(normal, x[:1], x[1:])
    with pytest.raises(ValueError, match="way"):
        pofx.interpolate(normal, x[:2], x[2:], way="scenic")
    x[0, 0] = torch.nan
    with pytest.raises(ValueError, match="missing"):
        pofx.interpolate(normal, x[:2], x[2:])
    bare = Gaussian().build(real(2))
    bare.offers = lambda: frozenset({"sample"})
    with pytest.raises(pofx.Unsupported, match="encode"):
        pofx.interpolate(bare, x[1:2], x[2:3])
