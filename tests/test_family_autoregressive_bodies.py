"""Every body of the autoregressive family: sums to one, draws what a naive loop draws, learns, is given, has gaps."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from pofx.data import Batch
from pofx.engines.logistic import PixelMixture
from pofx.families.autoregressive import Autoregressive
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality, Unsupported
from pofx.nn.bodies import BODIES, body_class
from pofx.randomness import Rng

# two bodies read waves and notes alone, and are tested with those kinds
USUAL = [name for name in BODIES if name not in ("adaptive", "intervals")]
PICTURES = [name for name in USUAL if body_class(name).grid]
VECTORS = [name for name in USUAL if not body_class(name).grid]


def pictures(height: int, wide: int, channels: int, levels: int) -> Space:
    v = Variable("pixel", "ordinal", levels, mean=(levels - 1) / 2, scale=max(0.5, levels / 4))
    return Space((height, wide, channels), (v,), "grid", "image", "uint8")


def table() -> Space:
    variables = (
        Variable("colour", "category", 3),
        Variable("size", "ordinal", 4, mean=1.5),
        Variable("wet", "binary", 2),
        Variable("weight", "real", mean=2.0, scale=3.0, resolution=0.5),
    )
    return Space((4,), variables, kind="table")


def words(length: int, levels: int) -> Space:
    return Space((length,), (Variable("token", "category", levels),), "sequence", dtype="int64")


def made(body: str | None, space: Space, given: dict[str, Space] | None = None, **options: object) -> Autoregressive:
    """Random weights well away from their start, so that every dependence shows."""
    depth = 1 if body == "nade" else 2
    model = Autoregressive(body=body, width=16, depth=depth, **options).build(space, given)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()  # type: ignore[return-value]


def every(space: Space) -> Tensor:
    levels = [range(space.variable(i).levels) for i in range(space.size)]
    return torch.tensor(list(product(*levels))).reshape(-1, *space.shape).to(space.torch_dtype)


def test_the_body_follows_the_data_and_what_does_not_fit_is_refused() -> None:
    assert Autoregressive().build(pictures(2, 2, 1, 2)).chosen == "gated"
    assert Autoregressive().build(table()).chosen == "any-order"
    sequence = Autoregressive().build(words(5, 3))
    assert sequence.chosen == "transformer" and sequence.net.place is None
    with pytest.raises(ValueError, match="reads pictures"):
        Autoregressive(body="gated").build(table())
    with pytest.raises(ValueError, match="expected one of"):
        Autoregressive(body="pixelsnail").build(table())
    real = Space((2, 2, 1), (Variable("x"),), "grid")
    with pytest.raises(ValueError, match="ordinal pixels"):
        Autoregressive(body="pixelcnn++").build(real)


@pytest.mark.parametrize("body", USUAL)
@pytest.mark.parametrize("space", [pictures(2, 2, 1, 2), pictures(2, 2, 2, 2), pictures(1, 2, 3, 3)])
def test_all_pictures_sum_to_one(body: str, space: Space) -> None:
    log_p = made(body, space).log_prob(every(space))
    assert log_p.quality is Quality.EXACT
    assert log_p.value.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert log_p.value.exp().std() > 0.1 / len(log_p.value)


@pytest.mark.parametrize("body", VECTORS)
def test_all_rows_and_all_sentences_sum_to_one(body: str) -> None:
    for space in (words(4, 3), Space((3,), table().variables[:3], kind="table")):
        model = made(body, space, order=(1, 2, 0) if space.size == 3 else None)
        assert model.log_prob(every(space)).value.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("body, space", [
    *((b, s) for b in USUAL for s in (pictures(4, 5, 1, 3), pictures(3, 4, 3, 40))),
    *((b, s) for b in VECTORS for s in (table(), words(7, 4))),
])  # fmt: skip
def test_the_cache_draws_what_a_naive_loop_draws(body: str, space: Space) -> None:
    """A full forward pass for every entry, with the same stream of random numbers."""
    model, rng, n = made(body, space), Rng(5), 5
    x = torch.zeros(n, *space.shape, dtype=space.torch_dtype)
    for i in range(space.size):
        with torch.no_grad():
            y = model.net(x.flatten(1), model._standard(x.flatten(1)))
        x.view(n, -1)[:, i] = model._one(i).sample(_entry(model, y, x, i), rng)[:, 0].to(x.dtype)
    assert torch.equal(x, model.sample(n, rng=5))
    assert (x.flatten(1).double().std(0) > 0).sum() > space.size / 2  # rows differ: equality says something


def _entry(model: Autoregressive, y: Tensor, x: Tensor, i: int) -> Tensor:
    """The parameters of entry i among all outputs y."""
    if model.mixture is not None:
        c, pixels = model.mixture.channels, y.unflatten(1, (-1, model.mixture.size))
        known = x.flatten(1).unflatten(1, (-1, c))[:, i // c]
        return model.mixture.log_masses(pixels[:, i // c], known, i % c)
    start = 0
    for g in model.likelihood.groups:
        if i in g.entries:
            start += g.entries.index(i) * g.width
            return y[:, start : start + g.width]
        start += g.width * len(g.entries)
    raise AssertionError(i)


@pytest.mark.parametrize("body", PICTURES)
def test_given_and_gaps_train_and_are_asked(body: str) -> None:
    """Left column equals the label, right column its opposite; a third of the pixels is missing in training."""
    space = pictures(2, 2, 1, 2)
    label = torch.arange(2000) % 2
    x = torch.stack([label, 1 - label, label, 1 - label], 1).reshape(-1, 2, 2, 1).to(torch.uint8)
    observed = Rng(0).bernoulli(0.67, tuple(x.shape))
    model = made(body, space, {"label": category(2)}, dropout=0.0)
    batch = Batch(torch.where(observed, x, torch.zeros_like(x)), {"label": label}, observed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for k in range(120):
        optimiser.zero_grad()
        model._loss(batch.take(Rng(k).integers(2000, (64,))), Rng(k)).backward()
        optimiser.step()
    assert [k for k, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []
    log_p = model.log_prob(x[:2], {"label": label[:2]}).value
    assert (log_p > -0.25).all()
    wrong = model.log_prob(x[:2], {"label": 1 - label[:2]}).value
    assert (wrong < -2).all()
    assert model.log_prob(x[:2]).value.exp().sum().item() == pytest.approx(1, abs=0.25)
    top = torch.tensor([True, True, False, False]).reshape(1, 2, 2, 1).expand(2, -1, -1, -1)
    drawn = model.condition(x[:2], top).sample(20, Rng(0))
    assert (drawn == x[:2]).all(-1).float().mean() > 0.9


@pytest.mark.parametrize("body", VECTORS)
def test_rows_are_given_and_have_gaps(body: str) -> None:
    space = table()
    label = torch.arange(3000) % 3
    x = torch.stack([label, label, label // 2, 2.0 * label], 1).double()
    observed = Rng(0).bernoulli(0.8, tuple(x.shape))
    model = Autoregressive(body=body, width=32, depth=1, dropout=0.0).build(space, {"label": category(3)})
    batch = Batch(torch.where(observed, x, torch.zeros_like(x)), {"label": label}, observed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for k in range(200):
        optimiser.zero_grad()
        model._loss(batch.take(Rng(k).integers(3000, (64,))), Rng(k)).backward()  # type: ignore[attr-defined]
        optimiser.step()
    model.eval()
    drawn = model.sample(30, {"label": torch.tensor([0, 1, 2])}, rng=0)
    assert (drawn == x[:3]).all(-1).float().mean() > 0.8
    free = model.sample(300, rng=1)
    counts = (free[:, None] == x[:3]).all(-1).float().mean(0)
    assert (counts > 0.12).all()


@pytest.mark.parametrize("body", ["made", "transformer", "diagonal-bilstm"])
def test_a_fixed_order_answers_prefixes_exactly_and_the_rest_by_particles(body: str) -> None:
    space = pictures(2, 2, 1, 3)
    model, fits = made(body, space, particles=64), every(space)
    p = model.log_prob(fits).value.exp()
    hole = torch.tensor([True, False, False, True]).reshape(1, 2, 2, 1)
    conditional = model.condition(fits[50:51], hole)
    assert conditional.quality is Quality.ESTIMATE and conditional.log_prob is None
    drawn = conditional.sample(2000, Rng(0))[:, 0]
    keep = ((fits == fits[50]) | ~hole).flatten(1).all(1)
    hits = (drawn.flatten(1)[:, None] == fits[keep].flatten(1)).all(-1).double().mean(0)
    truth = p[keep].double() / p[keep].sum()
    assert (hits - truth).abs().max() < 0.05
    with pytest.raises(Unsupported, match="any-order"):
        model.log_prob(fits[50:51], observed=~hole)
    top = torch.tensor([True, True, False, False]).reshape(1, 2, 2, 1)
    keep = (fits[:, 0] == fits[50, 0]).flatten(1).all(1)
    prefix = model.log_prob(fits[50:51], observed=top)
    assert prefix.quality is Quality.EXACT
    assert prefix.value.item() == pytest.approx(p[keep].sum().log().item(), abs=1e-4)


@pytest.mark.parametrize("channels, levels", [(1, 5), (2, 4), (3, 3), (1, 2)])
def test_the_mixture_of_a_pixel_sums_to_one_and_agrees_with_its_steps(channels: int, levels: int) -> None:
    mixture = PixelMixture(channels, levels, 4)
    params = 2 * Rng(0).normal((mixture.size,), torch.float64)
    k = torch.tensor(list(product(range(levels), repeat=channels)))
    rows = params.expand(len(k), -1)
    log_p = mixture.log_prob(rows, k)
    assert log_p.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-9)
    for c in range(channels):
        masses = mixture.log_masses(rows, k, c)
        assert torch.allclose(masses.exp().sum(1), torch.ones(len(k), dtype=torch.float64))
        assert torch.allclose(masses.gather(1, k[:, c : c + 1])[:, 0], log_p[:, c])
    if channels > 1:  # the components are shared: the joint is a mixture of products, summed once
        log_w, mu, log_s, a = mixture._split(params)
        x = 2 * k.double() / (levels - 1) - 1
        joint = log_w.expand(len(k), -1)
        for c in range(channels):
            mean = mu[c] + sum(a[c * (c - 1) // 2 + b] * x[:, b : b + 1] for b in range(c))
            level, edge, s = k[:, c : c + 1], 1 / (levels - 1), log_s[c].exp()
            up, down = (((x[:, c : c + 1] + e - mean) / s).sigmoid() for e in (edge, -edge))
            mass = torch.where(level == levels - 1, 1.0, up) - torch.where(level == 0, 0.0, down)
            joint = joint + mass.log()
        assert torch.allclose(joint.logsumexp(1), log_p.sum(1))


def test_the_mixture_stays_finite_far_out() -> None:
    mixture = PixelMixture(1, 256, 2)
    params = torch.tensor([0.0, 0.0, 30.0, -30.0, -20.0, -20.0]).expand(256, -1).clone().requires_grad_()
    log_p = mixture.log_prob(params, torch.arange(256)[:, None])
    log_p.sum().backward()
    assert torch.isfinite(log_p).all() and torch.isfinite(params.grad).all()
