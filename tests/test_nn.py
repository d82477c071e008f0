"""Network bodies: masks by Jacobians, conditions that matter, every parameter with a gradient."""

from __future__ import annotations

import pytest
import torch

from pofx.nn.conditioner import Conditioner, drop
from pofx.nn.convnet import ConvCritic, ConvDecoder, ConvEncoder
from pofx.nn.masked import MaskedMLP
from pofx.nn.mlp import MLP
from pofx.nn.transformer import Cache, Transformer
from pofx.nn.unet import UNet, fourier
from pofx.nn.velocity import Velocity
from pofx.randomness import Rng


@pytest.fixture(autouse=True)
def _private_global_stream():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shake(net: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Move every parameter off its (possibly zero) start."""
    rng = Rng(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * rng.normal(tuple(p.shape)) / max(1, p[0].numel() if p.ndim else 1) ** 0.5)
    return net


def jacobian_pattern(net, x: torch.Tensor) -> torch.Tensor:
    """(out, in) bool: which input can change which output, at some of several points."""
    jac = [torch.autograd.functional.jacobian(net, (x + d).double()) for d in (0.0, 0.7)]
    return sum(j.reshape(-1, x.numel()).abs() for j in jac) > 0


NETS = {
    "mlp": (lambda c: MLP(5, 4, 16, 2, c_dim=c), (5,), (4,)),
    "masked": (lambda c: MaskedMLP([2, 1, 2], [1, 3, 2], 32, 2, c_dim=c), (5,), (6,)),
    "encoder": (lambda c: ConvEncoder((2, 9, 6), 7, 8, c_dim=c), (2, 9, 6), (7,)),
    "encoder1x1": (lambda c: ConvEncoder((2, 1, 1), 7, 8, c_dim=c), (2, 1, 1), (7,)),
    "decoder": (lambda c: ConvDecoder(5, (2, 9, 6), 8, c_dim=c), (5,), (2, 9, 6)),
    "decoder1x1": (lambda c: ConvDecoder(5, (3, 1, 1), 8, c_dim=c), (5,), (3, 1, 1)),
    "decoder1x9": (lambda c: ConvDecoder(5, (1, 1, 9), 8, c_dim=c), (5,), (1, 1, 9)),
    "critic": (lambda c: ConvCritic((2, 8, 8), 8, c_dim=c), (2, 8, 8), ()),
    "unet": (lambda c: UNet(2, 3, 8, 3, 1, c_dim=c, attention=True), (2, 7, 10), (3, 7, 10)),
    "unet1x1": (lambda c: UNet(2, 3, 8, 2, 1, c_dim=c), (2, 1, 1), (3, 1, 1)),
    "transformer": (lambda c: Transformer(16, 2, 2, c_dim=c), (6, 16), (6, 16)),
}


@pytest.mark.parametrize("name", NETS)
def test_body_uses_its_condition_its_rows_and_its_parameters(name):
    build, shape_in, shape_out = NETS[name]
    rng = Rng(3)
    net = shake(build(4)).double()
    x, c = rng.normal((3, *shape_in)).double(), rng.normal((3, 4)).double()
    y = net(x, c)
    assert y.shape == (3, *shape_out)
    (y * rng.normal(tuple(y.shape))).sum().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    # weights that only see padding of a 1 x 1 picture are rightly dead inside; whole parameters are not
    assert not dead
    changed = (net(x, c + 1) - y).abs().reshape(3, -1).amax(1)
    assert (changed > 1e-6).all()
    assert (net(x, None) - y).abs().max() > 1e-6
    assert torch.allclose(net(x[1:2], c[1:2]), y[1:2], atol=1e-10)  # rows do not see each other
    plain = shake(build(0)).double()
    assert plain(x).shape == y.shape
    with pytest.raises(ValueError, match="c_dim=0"):
        plain(x, c)
    with pytest.raises(ValueError, match="c_dim=4"):
        net(x, c[:, :3])


def test_zero_outputs_start_at_zero():
    x = Rng(0).normal((2, 3))
    assert (MLP(3, 4, 8, 2, zero=True)(x) == 0).all()
    assert (MLP(3, 4, 8, 2)(x) != 0).any()
    assert (UNet(3, 2, 8, 2)(Rng(0).normal((2, 3, 5, 5))) == 0).all()
    assert (ConvDecoder(3, (1, 5, 5), 8, zero=True)(x) == 0).all()
    assert (MLP(0, 4, 8, 1, c_dim=3)(x[:, :0], x) != 0).any()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
@pytest.mark.parametrize("width", [64, 3])
def test_masked_mlp_is_exactly_triangular_in_any_order(order, width):
    sizes_in, sizes_out = [2, 1, 3, 2], [1, 2, 2, 3]
    net = shake(MaskedMLP(sizes_in, sizes_out, width, 2, order, c_dim=2)).double()
    c = Rng(0).normal((1, 2)).double()
    seen = jacobian_pattern(lambda x: net(x, c), Rng(5).normal((1, 8)))
    rank = torch.argsort(torch.tensor(order))
    r_in = rank.repeat_interleave(torch.tensor(sizes_in))
    r_out = rank.repeat_interleave(torch.tensor(sizes_out))
    assert torch.equal(seen, r_out[:, None] > r_in[None, :])


def test_masked_mlp_one_group_equals_its_slice_and_first_group_is_curved_in_c():
    net = shake(MaskedMLP([1] * 4, [1, 2, 3, 1], 16, 2, [2, 0, 1, 3], c_dim=2)).double()
    x, c = Rng(1).normal((5, 4)).double(), Rng(2).normal((5, 2)).double()
    y, starts = net(x, c), [0, 1, 3, 6, 7]
    for g in range(4):
        assert torch.allclose(net(x, c, group=g), y[:, starts[g] : starts[g + 1]])
    first = lambda c: net(x, c, group=2)  # noqa: E731
    assert ((first(c + 1) + first(c - 1)) / 2 - first(c)).abs().max() > 1e-4


def conditioner() -> Conditioner:
    return shake(Conditioner({"items": ("category", 3), "a.b": ("real", 2), "z": ("real", 4)}, 8))


def test_conditioner_nulls():
    net, rng = conditioner(), Rng(0)
    given = {"items": torch.tensor([0, 1, 2]), "a.b": rng.normal((3, 2)), "z": rng.normal((3, 2, 2))}
    full = net(given, 3)
    for name in given:
        absent = net({k: v for k, v in given.items() if k != name}, 3)
        keep = {name: torch.tensor([True, False, False])}
        some = net(given, 3, keep)
        assert torch.allclose(some[0], full[0])
        assert torch.allclose(some[1:], absent[1:])
        assert ((absent - full).abs().amax(1) > 1e-4).all()
    nothing = net({}, 3)
    assert torch.allclose(nothing[0], nothing[2])
    (net(given, 3) + net({}, 3)).square().sum().backward()
    assert all((p.grad != 0).any() for p in net.parameters())


def test_conditioner_errors():
    net = conditioner()
    with pytest.raises(ValueError, match="expected names"):
        net({"other": torch.ones(2)}, 2)
    with pytest.raises(ValueError, match="2 rows of 2 numbers"):
        net({"a.b": torch.ones(2, 3)}, 2)
    with pytest.raises(ValueError, match="kind"):
        Conditioner({"a": ("word", 2)}, 4)


def test_drop_has_the_stated_rates():
    n = 40000
    keep = drop(["a", "b"], n, Rng(0), p=0.2, p_all=0.1)
    a, b = ~keep["a"], ~keep["b"]
    both, one = 0.1 + 0.9 * 0.04, 0.1 + 0.9 * 0.2
    assert abs(a.double().mean() - one) < 5 * (one / n) ** 0.5
    assert abs((a & b).double().mean() - both) < 5 * (both / n) ** 0.5


def test_cached_transformer_equals_the_uncached_one_and_is_causal():
    net = shake(Transformer(16, 3, 2, c_dim=3)).double()
    h, c = Rng(0).normal((2, 7, 16)).double(), Rng(1).normal((2, 3)).double()
    full, cache, parts = net(h, c, causal=True), Cache(), []
    for a, b in [(0, 3), (3, 4), (4, 7)]:
        parts.append(net(h[:, a:b], c, causal=True, cache=cache))
    assert cache.length == 7
    assert torch.allclose(torch.cat(parts, 1), full, atol=1e-10)
    later = h.clone()
    later[:, 4:] *= torch.linspace(-1, 2, 16)
    moved = (net(later, c, causal=True) - full).abs().amax((0, 2))
    assert (moved[:4] < 1e-12).all()
    assert (moved[4:] > 1e-3).all()
    with pytest.raises(ValueError, match="causal=True"):
        net(h, c, cache=Cache())


def test_transformer_mask_hides_keys_and_rotary_sees_order():
    net, h = shake(Transformer(16, 2, 2)).double(), Rng(0).normal((2, 5, 16)).double()
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 3:] = False
    assert torch.allclose(net(h, mask=mask)[:, :3], net(h[:, :3]), atol=1e-10)
    assert net(h, mask=torch.zeros_like(mask)).isfinite().all()
    square = mask[:, None, :].expand(2, 5, 5)
    assert torch.allclose(net(h, mask=square), net(h, mask=mask))
    per_token = shake(Transformer(16, 2, 2, c_dim=3)).double()
    c = Rng(3).normal((2, 3)).double()
    assert torch.allclose(per_token(h, c[:, None].expand(2, 5, 3)), per_token(h, c))
    flipped = net(h.flip(1)).flip(1)
    assert (flipped - net(h)).abs().max() > 1e-3
    as_set = shake(Transformer(16, 2, 2, rotary=False)).double()
    assert torch.allclose(as_set(h.flip(1)).flip(1), as_set(h), atol=1e-10)


def test_fourier_separates_near_and_far_times():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    f = fourier(t, 32)
    gap = torch.cdist(f, f) + 10 * torch.eye(1001)
    assert f.shape == (1001, 32)
    assert gap.min() > 0.1
    with pytest.raises(ValueError, match="even"):
        fourier(t, 3)


def test_waves_are_plain_without_noise_and_vanish_under_it():
    """sin(w u) at level 0; by Monte Carlo, what is left of E[sin(w (u + l e))] at level l; 0 far beyond."""
    body, u = Velocity((3,), width=8, depth=1, frequencies=3), torch.tensor([[0.3, -0.7, 1.1]])
    w = torch.tensor([2.0, 4.0, 8.0])[:, None]
    sines, cosines = (t[0] for t in body._waves(u, torch.zeros(1)))
    torch.testing.assert_close(sines, (w * u).sin())
    torch.testing.assert_close(cosines, (w * u).cos())
    level = 0.2
    e = torch.randn(200_000, 1, 1, generator=torch.Generator().manual_seed(0))
    left = (w * (u + level * e)).sin().mean(0)
    torch.testing.assert_close(body._waves(u, torch.tensor([level]))[0][0], left, atol=0.01, rtol=0)
    assert max(float(t.abs().max()) for t in body._waves(u, torch.tensor([50.0]))) < 1e-6
