"""Flow: Jacobians by autograd, inverses, densities that integrate to 1, draws that agree with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pofx.data import Batch
from pofx.families.flow import Flow
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng
from pofx.wrappers import adapted


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


VECTORS = [(5,), (2,), (1,)]
PICTURES = [(1, 7, 5), (3, 6, 5), (2, 1, 1), (1, 1, 9), (1, 16, 8)]


@pytest.mark.parametrize(
    "shape, body", [(s, "mlp") for s in VECTORS + PICTURES] + [(s, "conv") for s in PICTURES], ids=str
)
def test_flow_is_invertible_in_any_shape(shape, body):
    flow = Flow(body=body, width=8, depth=1, layers=2, bins=4).build(chart(*shape), seed=1)
    shake(flow, 0.1).double().eval()
    u = Rng(0).normal((3, *shape), torch.float64)
    z, log_det = flow.bijection(flow._enter(u), None)
    assert z.shape == (3, math.prod(shape))
    assert torch.allclose(flow.bijection.inverse(z).reshape(u.shape), u, atol=1e-9, rtol=0)
    J = torch.autograd.functional.jacobian(lambda v: flow.bijection(flow._enter(v[None]))[0][0], u[0])
    assert torch.allclose(torch.linalg.slogdet(J.reshape(len(z[0]), -1))[1], log_det[0], atol=1e-8)


def chart(*shape: int) -> Space:
    """The Space of a chart: standard coordinates, pictures (C, H, W)."""
    return Space(shape, (Variable("u"),), "grid" if len(shape) == 3 else "vector", "chart", "float32")


def grid2(bound: float, n: int) -> tuple[Tensor, float]:
    line = torch.linspace(-bound, bound, n)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


FORMS = [(t, c) for t in ("spline", "affine", "additive") for c in ("autoregressive", "coupling")] + [
    ("affine", "inverse"),
    ("spline", "inverse"),
]


@pytest.mark.parametrize("transform, coupling", FORMS)
def test_density_integrates_to_one_and_draws_agree_with_it(transform, coupling):
    flow = Flow(transform=transform, coupling=coupling, width=16, depth=1, layers=3).build(chart(2), seed=0)
    shake(flow, 0.1).eval()
    x, cell = grid2(12.0, 500)
    with torch.no_grad():
        log_p = flow.log_prob(x).value.double()
    p = log_p.exp() * cell
    assert abs(float(p.sum()) - 1) < 2e-3
    for seed in range(10):
        u = flow.sample(2000, rng=seed)
        for f in (lambda v: v[:, 0], lambda v: v[:, 0] * v[:, 1], lambda v: v[:, 1].square().clamp_max(9)):
            mean = float((p * f(x)).sum())
            z = (float(f(u).mean()) - mean) / float(f(u).std()) * 2000**0.5
            assert abs(z) < 5
        with torch.no_grad():
            own = flow.log_prob(u).value.double()
        assert abs(float(own.mean() - (p * log_p).sum()) / float(own.std()) * 2000**0.5) < 5


def test_one_variable_gets_a_spline_whose_density_is_that_of_its_draws():
    flow = shake(Flow(width=16, depth=1).build(chart(1), seed=0), 0.7).eval()
    x = torch.linspace(-9, 9, 20001)[:, None]
    with torch.no_grad():
        p = flow.log_prob(x).value.double().exp() * float(x[1] - x[0])
    assert abs(float(p.sum()) - 1) < 1e-3
    cdf, u = p.cumsum(0), flow.sample(4000, rng=3)[:, 0].sort().values
    at = cdf[((u + 9) / 18 * 20000).round().long().clamp(0, 20000)]
    steps = torch.arange(1, 4001) / 4000
    assert float((at - steps).abs().max()) < 1.95 / 4000**0.5  # Kolmogorov-Smirnov at 1e-3


def test_given_is_heard_and_may_be_missing():
    given = {"label": category(3), "size": real(2)}
    flow = shake(Flow(width=16, depth=1, layers=2).build(chart(2), given, seed=0), 0.15).eval()
    x, cell = grid2(10.0, 160)
    values = []
    for g in ({}, {"label": 0}, {"label": 2}, {"label": 0, "size": 1}, {"size": 1}):
        rows = {
            k: torch.full((len(x),), v) if k == "label" else torch.full((len(x), 2), float(v)) for k, v in g.items()
        }
        with torch.no_grad():
            values.append(flow.log_prob(x, rows).value)
        assert abs(float(values[-1].double().exp().sum()) * cell - 1) < 5e-3
    for i, a in enumerate(values):
        assert all(float((a - b).abs().max()) > 1e-3 for b in values[:i])


def test_rows_do_not_see_each_other_and_score_is_the_gradient():
    flow = shake(Flow(body="conv", width=8, depth=1, layers=2, bins=4).build(chart(1, 4, 4)), 0.2).double().eval()
    x = Rng(0).normal((5, 1, 4, 4), torch.float64)
    whole = flow.log_prob(x).value
    assert torch.allclose(whole[2:3], flow.log_prob(x[2:3]).value, atol=1e-10)
    score = flow.score(x)
    v = Rng(1).normal((5, 1, 4, 4), torch.float64)
    slope = (flow.log_prob(x + 1e-5 * v).value - flow.log_prob(x - 1e-5 * v).value) / 2e-5
    assert torch.allclose((score * v).flatten(1).sum(1), slope, atol=1e-5)


def test_encode_gives_the_z_that_sample_would_turn_back():
    flow = shake(Flow(width=16, depth=1).build(chart(3)), 0.2).eval()
    u = flow.sample(7, rng=0)
    z = flow.encode(u).mean
    assert torch.allclose(z, Rng(0).normal((7, 3)), atol=1e-4)
    assert torch.allclose(flow.decode(z).mean(), u.double(), atol=1e-4)


def test_all_binary_pictures_through_relaxed_sum_to_at_most_one():
    space = Space((2, 2, 1), (Variable("b", "binary", 2),), "grid", "image", "uint8")
    model = adapted(Flow(width=16, depth=1, layers=2, bins=4), space).build(space, seed=0).eval()
    x = torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, 2, 2, 1).to(torch.uint8)
    value = model.log_prob(x, draws=150, rng=0)
    assert value.quality is Quality.LOWER
    p = value.value.detach().double().exp()
    error = float((p * value.stderr.detach()).square().sum().sqrt())
    assert abs(float(p.sum()) - 1) < 5 * error + 0.01


def train(model, x: Tensor, steps: int, batch: int = 256) -> None:
    player = model.players()[0]
    optimiser = torch.optim.Adam(player.params, lr=3e-3)
    for step in range(steps):
        rng = Rng.derive(0, step)
        loss = player.loss(Batch(x[rng.integers(len(x), (batch,))]), rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def test_it_learns_a_ring_and_every_parameter_has_a_gradient():
    angle = 2 * math.pi * Rng(0).uniform((4000,))
    ring = 1.2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * Rng(1).normal((4000, 2))
    flow = Flow(width=32, depth=1, layers=4).build(chart(2), seed=0)
    flow._loss(Batch(ring[:64]), Rng(0)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())
    train(flow, ring, 100, 128)
    x, cell = grid2(6.0, 200)
    with torch.no_grad():
        assert abs(float(flow.log_prob(x).value.double().exp().sum()) * cell - 1) < 0.01
        loss = -float(flow.log_prob(ring).value.mean())
    truth = math.log(2 * math.pi * 1.2) + 0.5 * math.log(2 * math.pi * math.e * 0.15**2)
    gaussian = 0.5 * 2 * math.log(2 * math.pi * math.e * (1.2**2 / 2 + 0.15**2))
    assert truth - 0.02 < loss < truth + 0.5 * (gaussian - truth)


def test_training_drops_the_given_so_that_it_may_be_missing():
    flow = Flow(width=8, depth=1, layers=2).build(chart(2), {"label": category(3)}, seed=0)
    flow._loss(Batch(Rng(0).normal((64, 2)), {"label": Rng(1).integers(3, (64,))}), Rng(2)).backward()
    null = flow.conditioner.parts[0].null.grad
    assert null is not None and null.abs().sum() > 0


def test_what_it_cannot_do_it_says():
    flow = Flow(width=8).build(chart(2))
    x, observed = torch.zeros(2, 2), torch.tensor([[True, False], [True, True]])
    with pytest.raises(Unsupported, match="some entries"):
        flow.log_prob(x, observed=observed)
    with pytest.raises(Unsupported, match="complete"):
        flow._loss(Batch(x[:1], observed=observed[:1]), Rng(0))
    torn = torch.where(observed, x, torch.nan)
    assert torch.equal(flow._loss(Batch(torn, observed=observed), Rng(0)), flow._loss(Batch(x[1:]), Rng(0)))
    with pytest.raises(Unsupported, match="no log p"):
        flow.decode(x).log_prob(x)
    with pytest.raises(ValueError, match="transform"):
        Flow(transform="cubic")
    with pytest.raises(ValueError, match="conv"):
        Flow(body="conv").build(chart(3))
