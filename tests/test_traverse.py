"""Directions and their number: closed forms on normals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pofx
from pofx.kinds.base import real
from pofx.model import Card, Model
from pofx.tasks.dimension import dimension, two_nearest
from pofx.tasks.traverse import traverse

CARD = Card("exact", "fast", "none", "none", "none", ("explicit", "tractable"), "none", "a line", "here")


class Line(Model):
    """x = A z in four columns, z in two, of unlike width; its posterior is the pseudo-inverse."""

    card = CARD

    def _build(self):
        self.register_buffer("a", torch.linalg.qr(pofx.Rng(0).normal((4, 2)).double()).Q)

    def _encode(self, x, given):
        return torch.distributions.Normal(x.double() @ self.a, 0.1)

    def _decode(self, z, given):
        return type("Point", (), {"mean": lambda _: z.double() @ self.a.T})()


@pytest.fixture(scope="module")
def normal():
    """Three columns in standard deviations: two that nearly agree, one alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 3))
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    return pofx.fit(x, "gaussian", seed=0)


def test_the_dimension_of_a_normal_in_closed_form(normal):
    u = normal.chart.encode(normal.sample(20000, rng=1)).double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(u.T))
    for scale in (0.02, 0.3, 1.5):
        answer = dimension(normal, scale=scale, draws=16, rng=2)
        want = float((eigenvalues / (eigenvalues + scale**2)).sum())
        assert abs(answer.value - want) < 5 * float(answer.stderr) + 0.02, (answer.value, want)
        assert answer.diagnostics["rows"].shape == (500,)
    curve = list(answer.diagnostics["curve"].values())
    assert curve == sorted(curve, reverse=True), "the coarser, the fewer"


@pytest.mark.parametrize("scale", [0.3, 0.6])
def test_pairs_of_draws_tell_the_same_dimension(normal, scale):
    """Of a normal law both are sum l / (l + s^2)."""
    want = dimension(normal, scale=scale, draws=16, rng=2).value
    found = [dimension(normal, scale=scale, rng=k, route="pairs").value for k in range(4)]
    error = np.std(found, ddof=1) / 2
    assert abs(np.mean(found) - want) < 5 * max(error, 0.01)
    with pytest.raises(pofx.Unsupported, match="pairs"):
        dimension(normal, scale=1e-4, route="pairs")


def test_two_nearest_neighbours():
    rng = np.random.default_rng(0)
    for d in (1, 2, 4):
        x = torch.from_numpy(rng.uniform(size=(3000, d)) @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:d])
        assert abs(two_nearest(x) - d) < 0.12 * d
    assert two_nearest(torch.zeros(9, 2)) == 0.0
    kde = pofx.fit(rng.normal(size=(400, 2)).round(2), "kde", threads=1, progress=False)
    assert dimension(kde, route="neighbours").value == pytest.approx(2, abs=0.3)


def test_traversal_walks_the_widest_axis():
    model = Line().build(real(4))
    z = pofx.Rng(1).normal((500, 2)).double() * torch.tensor([3.0, 0.5])
    x = z @ model.a.T
    answer = traverse(model, x, 5, steps=5, reach=2.0)
    assert answer.raw.shape == (2, 5, 4) and answer.value.shape == (10, 4)
    strip = answer.raw[0].double() @ model.a
    middle, axis = strip[2], strip[4] - strip[0]
    assert torch.allclose(middle, z.mean(0), atol=1e-4) and abs(float(axis[0])) == pytest.approx(12, rel=0.1)
    assert torch.allclose(strip[0] + strip[4], 2 * middle, atol=1e-4)
    assert answer.diagnostics["shares"][0] == pytest.approx(9 / 9.25, abs=0.01)
    moved = traverse(model, x, 1, steps=3, start=x[:1]).raw
    assert torch.allclose(moved[0, 1].double(), x[0], atol=1e-4)
    plane = traverse(model, x, steps=3, plane=True).raw
    assert plane.shape == (3, 3, 4)
    corner = plane[0, 0] + plane[2, 2]
    assert torch.allclose(corner, 2 * plane[1, 1], atol=1e-4)


def test_a_column_takes_the_others_along(normal):
    x = normal.sample(4000, rng=3)
    answer = traverse(normal, x, 3, steps=3, reach=1.0)
    assert answer.route == "column" and answer.raw.shape == (3, 3, 3)
    strip = answer.raw[0].double()
    assert strip[2, 0] - strip[0, 0] == pytest.approx(2, abs=0.15), "one deviation either way"
    assert strip[2, 1] - strip[0, 1] == pytest.approx(2, abs=0.2), "the second follows the first"
    assert abs(float(strip[2, 2] - strip[0, 2])) < 0.1, "the third does not"


def test_what_is_asked_wrongly(normal):
    with pytest.raises(ValueError, match="scale"):
        dimension(normal, scale=0)
    with pytest.raises(ValueError, match="missing"):
        dimension(normal, torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="expected 2"):
        traverse(normal, normal.sample(1, rng=0))
    with pytest.raises(pofx.Unsupported, match="encode"):
        traverse(pofx.fit("moons", "autoregressive", budget="1 steps", seed=0), torch.zeros(3, 2), route="latents")
