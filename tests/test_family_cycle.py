"""Cycle: two unpaired sets become each other, both ways; unpaired rows come in two orders, the same after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pofx
from pofx.check import check_model
from pofx.data import Batch, Data
from pofx.engines.adversarial import critic_loss, generator_loss
from pofx.families.cycle import Cycle
from pofx.nn.ways import PatchCritic, Way, moved
from pofx.randomness import Rng
from pofx.training.budget import Plan
from pofx.training.loop import Loop, Parts
from pofx.training.run import fabric_of


def lines(rows=1500):
    """Numbers around 10 (deviation 3), and others around -2 (deviation 0.5): unpaired."""
    rng = np.random.default_rng(0)
    return pofx.open_data(
        10 + 3 * rng.normal(size=(rows, 1)), given={"y": -2 + 0.5 * rng.normal(size=(rows, 1))}, paired=False, seed=0
    )


def pictures(rows=120):
    """Dark pictures with a bright corner, and bright ones with a dark corner, in three colours."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 60, (rows, 8, 8, 1)).astype(np.uint8) for _ in range(2))
    x[:, :4, :4], y[:, :4, :4] = x[:, :4, :4] + 150, y[:, :4, :4] + 90
    return pofx.open_data(x, given={"y": pofx.open_data(np.repeat(255 - y, 3, 3))}, paired=False, test=20, valid=20)


@pytest.fixture(scope="module")
def fitted():
    return pofx.fit(lines(), Cycle(width=32), budget="400 steps", seed=0, threads=1)


def test_each_side_becomes_the_other(fitted):
    y = torch.from_numpy(-2 + 0.5 * np.random.default_rng(1).normal(size=(1000, 1)))
    x = fitted.sample(1, {"y": y}, rng=0)[0]
    assert float(x.mean()) == pytest.approx(10, abs=0.6)
    assert float(x.std()) == pytest.approx(3, rel=0.2)
    again = fitted.back.sample(1, {"x": x}, rng=0)[0]
    assert float((again - y).abs().mean()) < 0.1, "the way there and back"
    assert abs(float(torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1])) > 0.95, "a map, not a draw of its own"


def test_the_task_takes_both_ways(fitted):
    y = np.full((5, 1), -2.0)
    there = pofx.translate(fitted, y, rng=0)
    assert there.route == "learned"
    back = pofx.translate(fitted.back, there.value, rng=0)
    assert back.value.shape == (5, 1)
    assert np.allclose(back.value, y, atol=0.2)


def test_it_keeps_its_promises_on_pictures_of_two_shapes():
    data = pictures()
    model = pofx.fit(data, Cycle(width=4, depth=2), budget="6 steps", seed=0, threads=1)
    report = check_model(model, data=data)
    assert report.ok, report.explain()
    x = data.part("test").x[:3]
    y = model.back.sample(1, {"x": x}, rng=0)[0]
    assert y.shape == (3, 8, 8, 3)
    assert y.dtype is torch.uint8


def test_both_generators_get_the_slopes_of_one_loss():
    data = pictures()
    model = Cycle(width=4, depth=2)
    model.build(pofx.fit(data, Cycle(width=4, depth=2), budget="1 steps", threads=1).chart.space, data.given_spaces)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
    u = torch.randn(6, *model.space.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(u, {"y": data.given["y"][:6]})
    there, back = list(model.there.parameters()), list(model.back_again.parameters())
    value = model._both(model._played(batch, Rng(0)))
    wanted = torch.autograd.grad(value, [*there, *back])
    model._shared = None
    players = {p.name: p for p in model.players()}
    assert set(players) == {"critic", "critic back", "there", "back"}
    parts = [players[n].loss(batch, Rng(0)) for n in ("there", "back")]
    got = [g for part, params in zip(parts, (there, back), strict=True) for g in torch.autograd.grad(part, params)]
    assert all(torch.allclose(part, value) for part in parts)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(got, wanted, strict=True))


def test_a_known_slope_is_borne():
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    number = moved([p], torch.tensor(7.0), [torch.tensor([3.0, 5.0])])
    assert number.item() == 7.0
    assert torch.autograd.grad(number, p)[0].tolist() == [3.0, 5.0]


def test_least_squares():
    real, fake = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
    assert float(critic_loss("least-squares", real, fake)) == pytest.approx(0.125 + 2.0)
    assert float(generator_loss("least-squares", None, fake)) == pytest.approx(1.0)


def test_a_way_begins_as_the_identity_and_a_critic_sees_small_places():
    u = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Way((1, 28, 28), (1, 28, 28), True, 8, 2)(u), u)
    critic = PatchCritic(1, 8)
    moved_u = u.clone()
    moved_u[:, :, :3, :3] += 1
    changed = (critic(u) != critic(moved_u)).reshape(2, 7, 7)
    assert changed[:, :3, :3].any()
    assert not changed[:, 4:].any() and not changed[:, :, 4:].any()


def loop_of(data: Data, steps=20) -> Loop:
    model = Cycle(width=4).build(data.space.replace(dtype="float32"), data.given_spaces)
    plan = Plan(steps, 16, 1, "32-true", 0.0, 3, "told")
    return Loop(model, Parts.of(data, torch.device("cpu")), plan, fabric_of("cpu"))


def test_unpaired_rows_come_in_two_orders_that_a_resume_repeats():
    k = np.arange(90, dtype=float)[:, None]
    data = pofx.open_data(k, given={"y": k}, paired=False, seed=0)  # equal numbers show which rows meet
    one = loop_of(data)
    rows = len(data.part("train")) // 16
    met = [(one._batch(s).x[:, 0], one._batch(s).given["y"][:, 0]) for s in range(2 * rows)]
    x, y = (torch.cat([m[i] for m in met[:rows]]) for i in (0, 1))
    assert float((x == y).double().mean()) < 0.1
    assert len(set(y.tolist())) == len(y), "each once an epoch"
    assert not torch.equal(met[0][1], met[rows][1]), "another order in the next"
    other = loop_of(data)
    assert torch.equal(other._batch(rows + 1).given["y"][:, 0], met[rows + 1][1])
    paired = loop_of(pofx.open_data(k, given={"y": k}, seed=0))._batch(3)
    assert torch.equal(paired.x, paired.given["y"])


def test_unpaired_data_is_kept_and_refused_in_words(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.random.default_rng(1).normal(size=(55, 3))
    data = pofx.open_data(x, given={"y": y}, paired=False)
    assert not data.paired
    assert data.given["y"].shape == (40, 3)
    data.save(tmp_path / "d.safetensors")
    again = Data.load(tmp_path / "d.safetensors")
    assert not again.paired
    assert again.fingerprint() == data.fingerprint() != pofx.open_data(x, given={"y": y[:40]}).fingerprint()
    with pytest.raises(ValueError, match="fewer rows"):
        pofx.open_data(y, given={"x": x}, paired=False)
    assert len(pofx.open_data(y, given={"x": x}, paired=False, limit=40)) == 40
    with pytest.raises(ValueError, match="rows of its own"):
        pofx.open_data(x, given="y", paired=False)
    with pytest.raises(pofx.Unsupported, match="pairs"):
        pofx.fit(data, "diffusion", budget="1 steps")
    with pytest.raises(pofx.Unsupported, match="expected one"):
        pofx.fit(x, "cycle", budget="1 steps")
    with pytest.raises(ValueError, match="loss"):
        Cycle(loss="kind")


def test_a_fit_that_was_stopped_goes_on_as_if_nothing_had_happened(tmp_path):
    data, budget = lines(200), {"budget": "12 steps", "seed": 0, "threads": 1, "progress": False}
    whole = pofx.fit(data, Cycle(width=8), **budget)
    again = pofx.fit(data, Cycle(width=8), folder=tmp_path / "run", **budget)
    loaded = pofx.load(tmp_path / "run")
    y = data.given["y"][:5]
    for model in (again, loaded):
        assert torch.equal(model.sample(1, {"y": y}, rng=0), whole.sample(1, {"y": y}, rng=0))
    assert torch.equal(loaded.back.sample(1, {"x": data.x[:5]}, rng=0), whole.back.sample(1, {"x": data.x[:5]}, rng=0))
