"""Translate: the bridge of two Gaussians is its closed form, noise part-way has two ends, the learnt is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import pofx
from pofx.tasks.translate import translate


def cloud(seed, matrix, mean, rows=3000):
    """Correlated normals (rows, 2), float64."""
    e = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return e @ torch.tensor(matrix, dtype=torch.float64).T + torch.tensor(mean, dtype=torch.float64)


@pytest.fixture(scope="module")
def sides():
    """Two Gaussians that share neither mean, scale nor correlation, with their data."""
    a = pofx.open_data(cloud(0, [[1.0, 0.0], [0.6, 0.8]], [3.0, -40.0]).numpy())
    b = pofx.open_data(cloud(1, [[5.0, 0.0], [-3.0, 0.5]], [0.0, 100.0]).numpy())
    return tuple((pofx.fit(d, "gaussian", seed=0), d) for d in (a, b))


def root(matrix, power=0.5):
    """A power of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**power) @ vectors.T


def moments(side):
    """Mean and covariance of a Gaussian in its chart."""
    core = side[0].core
    return core.mean, core.covariance


def closed(source, target, y, low=None, high=None):
    """C2^(1/2) C1^(-1/2) (u - m1) + m2 between the charts; with ends of the noise, exactly at these."""
    (m1, c1), (m2, c2) = moments(source), moments(target)
    eye = torch.eye(2, dtype=torch.float64)
    u = source[0].chart.encode(y).double()
    if low is None:
        u = m2 + (u - m1) @ root(c1, -0.5) @ root(c2)
    else:
        z = m1 + (u - m1) @ root(c1 + low**2 * eye, -0.5) @ root(c1 + high**2 * eye)
        u = m2 + (z - m2) @ root(c2 + high**2 * eye, -0.5) @ root(c2)
    chart = target[0].chart
    return chart.unrounded(u)


def test_the_bridge_of_two_gaussians_is_its_closed_form_and_the_solver_is_of_second_order(sides):
    a, b = sides
    y, scale = a[0].sample(50, rng=0), b[1].x.std(0)
    exact = closed(a, b, y, 0.002, 80.0)
    gaps = []
    for steps in (32, 64, 128):
        raw = pofx.translate(b[0], y, source=a[0], steps=steps, rng=0).raw.double()
        gaps.append(float(((raw - exact) / scale).square().mean().sqrt()))
    assert gaps[0] < 0.02
    assert gaps[2] < 1.5e-3
    assert 2.8 < gaps[0] / gaps[1] < 5.5, gaps
    wide = closed(a, b, y)
    assert float(((exact - wide) / scale).abs().max()) < 2e-3, "80 deviations of noise are nearly all"


def test_the_bridge_moves_the_law_of_one_side_to_the_other_and_back(sides):
    (model_a, _), (model_b, data_b) = sides
    y = model_a.sample(2000, rng=1)
    answer = translate(model_b, y, source=model_a, steps=48, rng=0)
    assert answer.route == "bridge"
    assert answer.value.shape == (2000, 2)
    for j in range(2):
        p = stats.ks_2samp(answer.raw[:, j].numpy(), data_b.x[:, j].numpy()).pvalue
        assert p > 1e-4
    again = translate(model_a, answer.raw, source=model_b, steps=48, rng=0).raw
    assert float(((again - y) / y.std(0)).abs().max()) < 0.06


def test_a_bridge_to_itself_changes_nothing(sides):
    (model, _), _ = sides
    y = model.sample(30, rng=2)
    same = translate(model, y, source=model, steps=64).raw
    assert float(((same - y) / y.std(0)).abs().max()) < 0.02


def test_no_strength_gives_the_rows_back_and_full_strength_forgets_them(sides):
    (model, data), _ = sides
    far = torch.tensor([[9.0, -10.0]], dtype=torch.float64).expand(1500, 2)
    assert torch.equal(translate(model, far, strength=0).raw, far)
    gone = translate(model, far, strength=1, rng=0).raw
    other = translate(model, far - torch.tensor([20.0, 80.0]), strength=1, rng=0).raw
    assert torch.equal(gone, other), "nothing of the drawing is left"
    for j in range(2):
        assert stats.ks_2samp(gone[:, j].numpy(), data.x[:, j].numpy()).pvalue > 1e-4
    third = translate(model, far, strength=1, rng=1).raw
    assert not torch.equal(gone, third)


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.8])
def test_in_between_the_law_is_the_closed_form(strength):
    """Of N(0, 1): u -> cos(f) u + sin(f) e, and its flow leaves a standard normal as it is."""
    z = []
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(4000, 1))
        model = pofx.fit(x, "gaussian", seed=0)
        chart = model.chart
        start = chart.decode(torch.full((2000, 1), 1.5))
        u = chart.encode(translate(model, start, strength=strength, rng=seed).raw).double()[:, 0]
        f = strength * np.pi / 2
        v = float(chart.encode(model.sample(4000, rng=0)).var())  # near 1; the draws' own deviation is allowed for
        z.append(float((u.mean() - 1.5 * np.cos(f)) / (np.sin(f) / 2000**0.5 + abs(v - 1) + 0.02)))
        assert abs(float(u.std()) / np.sin(f) - 1) < 0.08
    assert max(map(abs, z)) < 5


def test_more_strength_leaves_less_of_the_drawing(sides):
    (model, data), _ = sides
    x = data.x[:600]
    near = [float(torch.corrcoef(torch.stack([translate(model, x, strength=s, rng=0).raw[:, 0], x[:, 0]]))[0, 1])
            for s in (0.1, 0.4, 0.7, 1.0)]  # fmt: skip
    assert near[0] > 0.95 and near[0] > near[1] > near[2] > near[3]
    assert abs(near[3]) < 5 / 600**0.5


def test_what_was_learnt_from_pairs_is_drawn():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(3000, 1))
    x = 2 * y + 0.3 * rng.normal(size=(3000, 1)) + 7
    model = pofx.fit(pofx.open_data(x, given={"y": y}), "mixture", seed=0, hyper_parameters={"components": 1})
    told = np.linspace(-1, 1, 400)[:, None]
    answer = translate(model, told, rng=0)
    assert answer.route == "learned"
    gap = np.asarray(answer.raw) - (2 * told + 7)
    assert abs(gap.mean()) / (0.3 / 20) < 5
    assert gap.std() == pytest.approx(0.3, rel=0.25)


def test_what_cannot_be_asked(sides):
    (a, _), (b, _) = sides
    y = a.sample(3, rng=0)
    with pytest.raises(ValueError, match="one of them"):
        translate(b, y, source=a, strength=0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        translate(b, y, strength=1.5)
    with pytest.raises(ValueError, match="steps"):
        translate(b, y, strength=0.5, steps=1)
    with pytest.raises(pofx.Unsupported, match="source"):
        translate(b, y)
    one = pofx.fit(np.random.default_rng(0).normal(size=(50, 1)), "gaussian", seed=0)
    with pytest.raises(pofx.Unsupported, match="not alike"):
        translate(one, y, source=a)
    blind = pofx.fit("moons", "vae", budget="2 steps", seed=0)
    with pytest.raises(pofx.Unsupported, match="denoise"):
        translate(a, y, source=blind)
    gap = y.clone()
    gap[0, 0] = torch.nan
    with pytest.raises(ValueError, match="missing"):
        translate(b, gap, source=a)
