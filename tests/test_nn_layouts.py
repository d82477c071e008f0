"""Bodies of grids, series and sets: what they see, in which order, and that each Space gets its own."""

import numpy as np
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.kinds.base import Space, Variable
from pofx.kinds.relax import Chart
from pofx.nn.grids import GridUNet, fold, unfold
from pofx.nn.sets import SetEncoder, SetNet
from pofx.nn.velocity import Form, Velocity


def spoken(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The same network in double precision, whose last layer is no longer 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * (p.shape[-1] if p.ndim > 1 else 4) ** -0.5)
    return net.double().eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (1, 2, 3), (4, 1, 2)])
def test_unfold_inverts_fold_and_cells_are_blocks(factors):
    x = torch.arange(2 * 3 * 4 * 4 * 6).reshape(2, 3, 4, 4, 6)
    h = fold(x, factors)
    assert torch.equal(unfold(h, factors), x)
    a, b, c = factors
    assert torch.equal(h[0, : a * b * c, 0, 0, 0], x[0, 0, :a, :b, :c].flatten())


@pytest.mark.parametrize("axes", [(16, 16, 16), (10, 9, 7), (5, 1, 1), (1, 6, 5), (3, 4, 2), (2, 12, 1)])
@pytest.mark.parametrize("patch", [1, 2])
def test_any_size_comes_back_and_starts_at_zero(axes, patch):
    net = GridUNet(2, 3, axes, 8, c_dim=4, patch=patch)
    x, c = torch.randn(2, 2, *axes), torch.randn(2, 4)
    assert torch.equal(net(x, c), torch.zeros(2, 3, *axes))
    y = spoken(net)(x.double(), c.double())
    assert y.shape == (2, 3, *axes)
    assert bool(y.flatten(1).std(1).min() > 0)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_place_is_heard_along_all_three_axes(patch):
    """One place changes: its six neighbours hear it. Without halvings those far off along every axis do not."""
    axes, at = (9, 9, 9), (4, 4, 4)
    net = spoken(GridUNet(1, 1, axes, 8, depth=1, patch=patch))
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):  # which hears everything
            module.forward = lambda h: h
    x = noise(1, 1, *axes)
    y = x.clone()
    y[(0, 0, *at)] += 1
    with torch.no_grad():
        heard = (net(x) - net(y)).abs()[0, 0] > 1e-12
    for axis in range(3):
        for step in (-patch, patch):
            near = list(at)
            near[axis] += step
            assert heard[tuple(near)], f"the neighbour {step} along axis {axis} hears nothing"
    reach = heard.nonzero()
    for axis in range(3):
        assert int(reach[:, axis].max() - reach[:, axis].min()) >= 4
        assert patch > 1 or int(reach[:, axis].max() - reach[:, axis].min()) < 9 or axis > 0


def test_a_deep_net_hears_everything_everywhere():
    axes = (16, 16, 16)
    net = spoken(GridUNet(1, 1, axes, 8, patch=2))
    x = noise(1, 1, *axes)
    y = x.clone()
    y[0, 0, 0, 0, 0] += 3
    with torch.no_grad():
        assert bool(((net(x) - net(y)).abs() > 0).all())


def test_planes_of_the_chart_are_frames_in_their_order():
    """A clip's frames stand in the channels of the chart; the body puts frame t at place t of its first axis."""
    v = Variable("pixel", "ordinal", 256, mean=100.0, scale=50.0)
    for shape, kind, meta in (((6, 5, 4, 3), "video", {}), ((5, 4, 6), "shape", {"form": "voxels"})):
        space = Space(shape, (v,), "grid", kind, "uint8", meta)
        chart = Chart(space)
        form = Form.of(chart.space)
        assert (form.body, form.axes) == ("volume", (6, 5, 4))
        x = torch.randint(256, (2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        u = chart.encode(x)
        planes = u.unflatten(1, (form.axes[0], -1))
        want = (x if kind == "video" else x.permute(0, 3, 1, 2)[..., None]).float()
        torch.testing.assert_close(planes.permute(0, 1, 3, 4, 2), (want - 100) / 50)
        seen = []
        body = Velocity(form, 8, frequencies=0)
        body.net.forward = lambda planes, h, tokens, seen=seen: seen.append(planes) or planes[:, : planes.shape[1] // 2]
        out = body(u, u, torch.ones(2))
        assert torch.equal(out, u), "what leaves stands where it entered"
        torch.testing.assert_close(seen[0][:, : form.channels].permute(0, 2, 3, 4, 1), (want - 100) / 50)


def test_a_map_stands_beside_every_plane():
    from pofx.nn.conditioner import Condition

    form = Form("volume", (4, 3, 3), (4, 3, 3), 1)
    body, seen = Velocity(form, 8, frequencies=0, maps=2), []
    body.net.forward = lambda planes, h, tokens: seen.append(planes) or planes[:, :1]
    given = torch.randn(2, 2, 3, 3)
    body(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3), torch.ones(2), Condition(torch.zeros(2, 32), given))
    assert seen[0].shape == (2, 4, 4, 3, 3)
    for t in range(4):
        assert torch.equal(seen[0][:, 2:, t], given)


# --- series and sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12,), (12, 3)])
def test_a_series_keeps_its_steps_apart(shape):
    form = Form.of(Space(shape, (Variable(),), "sequence"), "series")
    body = Velocity(form, 8, depth=1, frequencies=1)
    seen = []
    body.net.forward = lambda steps, h: seen.append(steps) or steps[:, : form.channels]
    u = torch.randn(2, *shape)
    assert torch.equal(body(u, u, torch.ones(2)), u)
    assert seen[0].shape == (2, 4 * form.channels, 12, 1, 1)


def test_points_in_another_order_are_the_same_points_in_that_order():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    net, x, c = spoken(SetNet(3, 3, 16, 2, c_dim=4)), noise(2, 20, 3), noise(2, 4, seed=3)
    torch.testing.assert_close(net(x[:, order], c), net(x, c)[:, order], rtol=1e-11, atol=1e-11)
    assert (net(x, c)[:, order] - net(x, c)).abs().max() > 0.1, "it tells points apart"
    encode = spoken(SetEncoder(3, 5, 16, 1, c_dim=4))
    torch.testing.assert_close(encode(x[:, order], c), encode(x, c), rtol=1e-11, atol=1e-11)
    y = x.clone()
    y[:, 3] += 0.5
    assert (encode(y, c) - encode(x, c)).abs().min() > 1e-4, "every point counts"


@pytest.mark.parametrize("family", ["diffusion", "continuous_flow"])
def test_a_denoiser_of_points_and_its_bound_know_no_order(family):
    x = np.random.default_rng(0).normal(size=(40, 12, 3))
    model = pofx.fit(open_data(x, kind="shape"), family, budget="4 steps", threads=1, progress=False)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    u, a, s = torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(4)), torch.ones(3), torch.full((3,), 0.7)
    with torch.no_grad():
        torch.testing.assert_close(model.denoise(u[:, order], a, s), model.denoise(u, a, s)[:, order])


# --- who gets what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "bodies"),
    [
        (Space((5,), (Variable(),)), ["vector"]),
        (Space((3, 8, 8), (Variable(),), "grid"), ["picture", "vector"]),
        (Space((8, 8, 8), (Variable(),), "grid", meta={"planes": 8}), ["volume", "picture", "vector"]),
        (Space((30, 8, 8), (Variable(),), "grid", meta={"planes": 10}), ["volume", "picture", "vector"]),
        (Space((20, 3), (Variable(),), "set"), ["set", "vector"]),
        (Space((12, 2), (Variable(),), "sequence"), ["vector", "series"]),
    ],
)
def test_each_layout_has_its_body_and_may_take_others(space, bodies):
    assert Form.of(space).body == bodies[0]
    for body in bodies:
        form = Form.of(space, body)
        x = torch.randn(2, *space.shape)
        assert Velocity(form, 8, frequencies=1)(x, x, torch.ones(2)).shape == x.shape
    with pytest.raises(ValueError, match=f"takes {', '.join(bodies)}"):
        Form.of(space, "flower")


def test_one_frame_is_a_picture():
    v = Variable("pixel", "ordinal", 256)
    assert Chart(Space((1, 4, 4, 3), (v,), "grid", "video", "uint8")).space.meta.get("planes") is None


@pytest.mark.slow
@pytest.mark.parametrize("family", ["diffusion", "continuous_flow"])
def test_neighbouring_planes_are_learnt(family):
    """A block of cells that goes through all planes: where half the planes are known, the rest follow."""
    rng = np.random.default_rng(0)
    x = np.zeros((400, 8, 8, 8), bool)
    for one in x:
        a, b = rng.integers(0, 5, 2)
        one[a : a + 4, b : b + 4] = True
    model = pofx.fit(open_data(x, kind="shape"), family, budget="600 steps", threads=1, progress=False, seed=0)
    drawn = pofx.sample(model, 40, rng=0).raw.float()
    assert float((drawn[..., 1:] == drawn[..., :-1]).float().mean()) > 0.96  # along the other axes 0.87, as in the rows


def test_the_posterior_of_points_knows_no_order():
    x = np.random.default_rng(0).normal(size=(40, 12, 3))
    data = open_data(x, kind="shape")
    points = {"body": "set"}
    model = pofx.fit(data, "vae", hyper_parameters=points, budget="4 steps", threads=1, progress=False)
    plain = pofx.fit(data, "vae", budget="4 steps", threads=1, progress=False)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        q, p = model.encode(data.x[:5]), model.encode(data.x[:5, order])
        torch.testing.assert_close(q.mean, p.mean, rtol=1e-5, atol=1e-6)
        assert float((q.mean[0] - q.mean[1]).abs().max()) > 1e-4
        assert float((plain.encode(data.x[:5]).mean - plain.encode(data.x[:5, order]).mean).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="body='set' wants points"):
        pofx.fit("iris", "vae", hyper_parameters={"body": "set"}, budget="1 steps", progress=False)


def test_gaps_among_points_are_seen():
    x = np.random.default_rng(0).normal(size=(40, 6, 3))
    x[::3, 2, 1] = np.nan
    data = open_data(np.nan_to_num(x), kind="shape")
    points = {"body": "set"}
    model = pofx.fit(data, "vae", hyper_parameters=points, budget="4 steps", threads=1, progress=False)
    seen = torch.ones(3, 6, 3, dtype=torch.bool)
    seen[:, 2] = False
    far = data.x[:3].clone()
    far[:, 2] += 50.0
    with torch.no_grad():
        a, b = (model.log_prob(v, observed=seen, draws=4, rng=0).value for v in (data.x[:3], far))
    torch.testing.assert_close(a, b)
