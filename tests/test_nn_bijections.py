"""Bijections: Jacobians by autograd, inverses, written-out gradients, triangular maps and their fixed points."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from pofx.engines.jacobi import jacobi
from pofx.nn.bijections import ActNorm, Chain, Inverted, Mixing, Reverse
from pofx.nn.couplings import Coupling
from pofx.nn.images import Multiscale, Raster, RasterBody, Squeeze
from pofx.nn.marginals import BATCHES, Marginal
from pofx.nn.splines import Additive, Affine, Spline, plain, spline
from pofx.nn.triangular import Autoregressive, MaskedBody
from pofx.randomness import Rng

MAPS = {"additive": Additive(), "affine": Affine(), "spline": Spline(5, 4.0)}


@pytest.fixture(autouse=True)
def _private_global_stream():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shake(net: torch.nn.Module, size: float = 0.3, seed: int = 1) -> torch.nn.Module:
    """Move every parameter off its start."""
    rng = Rng(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * rng.normal(tuple(p.shape)).to(p.dtype) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)
    return net


def half(*shape: int) -> Tensor:
    return (torch.arange(math.prod(shape)) % 2 == 0).reshape(shape)


def masked(name: str, d: int = 5, c_dim: int = 3, width: int = 11, depth: int = 2) -> Autoregressive:
    return Autoregressive(MaskedBody(d, MAPS[name].numbers, width, depth, c_dim), MAPS[name])


def raster(channels: int = 2, height: int = 3, width: int = 3) -> Raster:
    shape = (channels, height, width)
    body = RasterBody(channels, MAPS["spline"].numbers, 5, 1, 3)
    return Raster(
        shape, body, MAPS["spline"], Marginal(math.prod(shape), 5), lambda f, u, most: jacobi(f, u, most).value
    )


LAYERS = {
    "raster": (lambda: raster(), (2, 3, 3)),
    "spline": (lambda: Coupling(half(5), 16, 1, Spline(8), c_dim=3), (5,)),
    "affine": (lambda: Coupling(half(5), 16, 1, Affine(), c_dim=3), (5,)),
    "additive": (lambda: Coupling(half(5), 16, 1, Additive(), c_dim=3), (5,)),
    "alone": (lambda: Coupling(torch.zeros(4, dtype=torch.bool), 16, 1, Spline(8), c_dim=3), (4,)),
    "picture": (lambda: Coupling(half(2, 3, 3), 8, 1, Spline(4), c_dim=3), (2, 3, 3)),
    "autoregressive spline": (lambda: masked("spline"), (5,)),
    "autoregressive affine": (lambda: masked("affine"), (5,)),
    "autoregressive additive": (lambda: masked("additive"), (5,)),
    "inverse autoregressive": (lambda: Inverted(masked("spline")), (5,)),
    "marginal": (lambda: Marginal(4, 6), (4,)),
    "marginal picture": (lambda: Marginal(6, 6), (2, 3, 1)),
    "actnorm": (lambda: ActNorm(5), (5,)),
    "actnorm2d": (lambda: ActNorm(2), (2, 3, 2)),
    "reverse": (lambda: Reverse(), (5,)),
    "mixing": (lambda: Mixing(5), (5,)),
    "permutation": (lambda: Mixing(5, learned=False), (5,)),
    "mixing2d": (lambda: Mixing(3), (3, 2, 2)),
    "squeeze": (lambda: Squeeze(2, 3), (2, 4, 3)),
    "scales": (
        lambda: Multiscale(
            [Chain([Squeeze(2, 2), Mixing(4)]), Chain([Squeeze(2, 1), ActNorm(4)])], [(4, 2, 1), (4, 1, 1)]
        ),
        (1, 4, 2),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_invertible_and_its_log_det_is_that_of_the_jacobian(name):
    build, shape = LAYERS[name]
    layer = shake(build()).double()
    u, c = 1.5 * Rng(2).normal((4, *shape), torch.float64), Rng(3).normal((4, 3), torch.float64)
    z, log_det = layer(u, c)
    assert torch.allclose(layer.inverse(z, c), u, atol=1e-9, rtol=0)
    for i in range(4):
        J = torch.autograd.functional.jacobian(lambda v, i=i: layer(v[None], c[i : i + 1])[0].flatten(), u[i])
        expected = torch.linalg.slogdet(J.reshape(z[i].numel(), -1))[1]
        assert torch.allclose(log_det[i], expected, atol=1e-9), name


# maps of one number


def test_spline_is_monotone_smooth_with_linear_tails_and_identity_at_zero():
    raw = 0.7 * Rng(0).normal((17, 1), torch.float64)
    x = torch.linspace(-6, 6, 12001, dtype=torch.float64)
    y, log_slope = spline(x, raw.expand(-1, len(x)), 4.0)
    outside = x.abs() >= 4
    assert torch.allclose(y[outside], x[outside], atol=1e-12) and (log_slope[outside].abs() < 1e-12).all()
    # the slope is positive, it is the derivative, and it jumps nowhere: neither at the knots nor where the tails begin
    slope = (y.diff() / x.diff()).log()
    assert (slope - (log_slope[1:] + log_slope[:-1]) / 2).abs().max() < 0.01
    assert log_slope.diff().abs().max() < 0.1 and log_slope.abs().max() > 0.3
    assert torch.allclose(spline(x, raw.expand(-1, len(x)) * 0, 4.0)[0], x, atol=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 8])
@pytest.mark.parametrize("inverse", [False, True])
def test_written_gradient_of_the_spline_is_that_of_its_plain_steps(bins, inverse):
    x = (2.5 * Rng(0).normal((3, 40), torch.float64)).requires_grad_()
    raw = (1.5 * Rng(1).normal((3 * bins - 1, 3, 40), torch.float64)).requires_grad_()
    weights = [Rng(s).normal((3, 40), torch.float64) for s in (2, 3)]
    ours, theirs = spline(x, raw, 4.0, inverse), plain(x, raw, 4.0, inverse)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-11)
    for a, b in zip(*(torch.autograd.grad(f, (x, raw), weights) for f in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-9)


def test_a_spline_keeps_its_digits_under_autocast():
    x, raw = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 2, torch.randn(23, 3, 50)
    want = spline(x, raw, 4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spline(x, raw, 4.0)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_spline_can_be_differentiated_twice():
    x, raw = (Rng(0).normal((4,), torch.float64) + 0.1).requires_grad_(), Rng(1).normal((8, 4), torch.float64)

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad(spline(x, raw, 4.0)[0].sum(), x, create_graph=True)[0]

    bend, h = torch.autograd.grad(slope(x).sum(), x)[0], 1e-6
    assert torch.allclose(bend, (slope(x + h) - slope(x - h)).detach() / (2 * h), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 40.0, 1e4])
def test_spline_is_stable_for_extreme_parameters(dtype, scale):
    raw = (scale * Rng(1).normal((23, 2000), dtype)).requires_grad_()
    y = 10 * Rng(2).uniform((2000,), dtype) - 5
    y[:6] = torch.tensor([-4.0, 4.0, 1e30, -1e30, 1e-40, 4 - 2.4e-7])
    y.requires_grad_()
    for inverse in (False, True):
        x, log_slope = spline(y, raw, 4.0, inverse)
        grads = torch.autograd.grad((x, log_slope), (y, raw), (torch.ones_like(x), torch.ones_like(x)))
        assert all(torch.isfinite(t).all() for t in (x, log_slope, *grads))
    inside = y.abs() <= 4
    assert (x[inside].abs() <= 4 + 1e-5).all() and torch.allclose(x[~inside], y[~inside])
    back, forward_slope = spline(x, raw, 4.0)
    assert ((back - y).abs() < (1e-8 if dtype == torch.float64 else 0.4))[inside].all()
    if dtype == torch.float64 and scale < 1e3:
        assert torch.allclose(forward_slope, -log_slope, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_one_number_are_inverted(name):
    x, raw = Rng(0).normal((9,), torch.float64), Rng(1).normal((MAPS[name].numbers, 9), torch.float64)
    y, log_slope = MAPS[name](x, raw)
    back, log_back = MAPS[name](y, raw, inverse=True)
    assert torch.allclose(back, x) and torch.allclose(log_back, -log_slope)
    assert (y - x).abs().max() > 0.1


# autoregressive maps


@pytest.mark.parametrize("name", MAPS)
def test_jacobian_is_triangular_and_every_earlier_entry_is_seen(name):
    layer = shake(masked(name, width=20)).double()
    u, c = Rng(0).normal((6, 5), torch.float64), Rng(1).normal((6, 3), torch.float64)
    J = torch.stack(
        [torch.autograd.functional.jacobian(lambda v, i=i: layer(v[None], c[i : i + 1])[0][0], u[i]) for i in range(6)]
    )
    assert (J.triu(1) == 0).all()
    seen = J.abs().amax(0) > 1e-6
    assert seen.tril(-1).sum() == 10 and seen.diagonal().all()
    assert not torch.allclose(layer(u, c)[0][:, 0], layer(u, c + 1)[0][:, 0])  # the first entry hears c too
    inverse = Inverted(layer)
    J = torch.autograd.functional.jacobian(lambda v: inverse(v[None], c[:1])[0][0], u[0])
    assert (J.triu(1) == 0).all()


def test_raster_sees_all_before_a_pixel_and_the_channels_before_its_own():
    layer = shake(raster(2, 3, 4)).double()
    u = Rng(0).normal((2, 3, 4), torch.float64)
    J = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0].reshape(2, 3, 4), u)
    J = J.permute(1, 2, 0, 4, 5, 3).reshape(24, 24)  # rows, columns, then channels
    assert (J.triu(1) == 0).all() and (J.tril(-1) != 0).sum() == 24 * 23 / 2


@pytest.mark.parametrize("d, width, c_dim", [(1, 4, 0), (2, 3, 2), (7, 16, 0), (7, 3, 3)])
def test_entry_by_entry_is_what_d_whole_passes_would_find(d, width, c_dim):
    layer = shake(masked("spline", d, c_dim, width)).double()
    z, c = Rng(0).normal((9, d), torch.float64), Rng(1).normal((9, c_dim), torch.float64) if c_dim else None
    u = torch.zeros_like(z)
    for i in range(d):
        raw = layer.body(u, c)
        u[:, i] = layer.monotone(z[:, i], raw[:, i], inverse=True)[0]
    differentiable = layer.inverse(z, c)
    with torch.no_grad():
        assert torch.allclose(layer.inverse(z, c), u, atol=1e-12)
    assert torch.allclose(differentiable, u, atol=1e-12) and differentiable.requires_grad


def test_inverse_layer_is_trained_through_its_own_inverse():
    layer = shake(masked("spline", 3, 0)).double()
    twin = copy.deepcopy(layer)
    inverted, z = Inverted(layer), Rng(0).normal((8, 3), torch.float64)
    u, log_det = inverted(z)
    (u.sum() + log_det.sum()).backward()
    p, h = layer.body.outlet.bias, 1e-6
    for j in range(0, len(p), 7):
        ends = []
        for side in (h, -h):
            with torch.no_grad():
                twin.body.outlet.bias.copy_(p)[j] += side
                ends.append(sum(t.sum() for t in Inverted(twin)(z)))
        assert float(p.grad[j]) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), abs=1e-5)


# fixed points


def test_jacobi_is_exact_after_as_many_rounds_as_entries_and_not_before():
    d = 6
    L = torch.diag(torch.full((d - 1,), 2.0, dtype=torch.float64), -1)  # a chain: news travel one entry a round
    z, rounds = Rng(0).normal((5, d), torch.float64), []

    def update(u: Tensor, rows: Tensor) -> Tensor:
        rounds.append(len(u))
        return z[rows] - u @ L.T

    found = jacobi(update, torch.zeros_like(z), d)
    exact = torch.linalg.solve_triangular(torch.eye(d, dtype=torch.float64) + L, z.T, upper=False).T
    assert found.rounds == d == len(rounds) and torch.allclose(found.value, exact, atol=1e-12)
    assert (found.change == 0).all()
    less = jacobi(update, torch.zeros_like(z), d - 1)
    assert torch.allclose(less.value[:, : d - 1], exact[:, : d - 1]) and not torch.allclose(less.value, exact)


def test_jacobi_stops_early_row_by_row():
    d, scale = 40, torch.tensor([0.01, 0.5], dtype=torch.float64)
    z, calls = Rng(0).normal((2, d), torch.float64), []

    def update(u: Tensor, rows: Tensor) -> Tensor:
        calls.append(rows.tolist())
        shifted = torch.nn.functional.pad(u[:, :-1], (1, 0))
        return z[rows] + scale[rows, None] * shifted.sin()

    found, exact = jacobi(update, z, d, 1e-7), jacobi(update, z, d)
    assert found.rounds < 30 and torch.allclose(found.value, exact.value, atol=1e-6)
    calls.clear()
    jacobi(update, z, d, 1e-7)
    assert calls[0] == [0, 1] and calls[-1] == [1] and sum(0 in c for c in calls) < 8
    assert (found.change <= 1e-7).all()


def test_jacobi_inverts_a_masked_layer():
    rounds = []

    def solver(update, start: Tensor, most: int) -> Tensor:
        found = jacobi(update, start, most, 1e-10)
        rounds.append(found.rounds)
        return found.value

    layer = shake(masked("spline", 12, 3, 24), 0.2).double()
    z, c = Rng(0).normal((50, 12), torch.float64), Rng(1).normal((50, 3), torch.float64)
    with torch.no_grad():
        exact = layer.sequential(z, c)
        layer.solver = solver
        assert torch.allclose(layer.inverse(z, c), exact, atol=1e-8)
    assert rounds[0] <= 12


# marginals


def columns(rows: int, seed: int) -> Tensor:
    """Columns of two known laws: exponential, and two narrow humps."""
    hump = 4 * Rng(seed + 2).bernoulli(0.5, (rows,)) - 2
    return torch.stack([-(1 - Rng(seed).uniform((rows,))).log(), hump + 0.5 * Rng(seed + 1).normal((rows,))], 1)


def test_marginal_makes_any_column_normal_from_its_quantiles_alone():
    layer = Marginal(2, 24).train()
    for k in range(BATCHES):
        layer.measure(columns(1000, 10 * k))
    before = layer.quantiles.clone()
    layer.measure(columns(1000, 5) + 7)
    assert torch.equal(layer.quantiles, before)  # enough is enough
    x = columns(20000, 999)
    with torch.no_grad():
        z, log_det = layer.eval()(x)
    even = torch.tensor(norm.ppf((torch.arange(20000) + 0.5) / 20000))
    assert float((z.sort(0).values - even[:, None]).abs().mean()) < 0.04
    own = float((log_det - 0.5 * z.square().sum(1) - math.log(2 * math.pi)).mean())
    humps = torch.logsumexp(torch.stack([torch.tensor(norm.logpdf(x[:, 1], m, 0.5)) for m in (-2, 2)]), 0) - math.log(2)
    exact = float((humps - x[:, 0]).mean())
    assert exact - 0.1 < own < exact + 5e-3


def test_marginal_of_ties_constants_and_far_rows_is_finite_and_invertible():
    layer = Marginal(3, 16).train()
    rows = torch.stack([torch.zeros(500), Rng(0).bernoulli(0.4, (500,)).float(), Rng(1).normal((500,))], 1)
    for _ in range(BATCHES):
        layer.measure(rows)
    u = torch.cat([rows[:50], torch.full((1, 3), 1e4), torch.full((1, 3), -1e4)]).double()
    layer = layer.double().eval()
    z, log_det = layer(u)
    assert torch.isfinite(z).all() and torch.isfinite(log_det).all() and z.abs().max() < 40
    assert torch.allclose(layer.inverse(z), u, rtol=1e-9, atol=1e-9)
