"""Autoregressive: sums to one, walks as it computes, samples its own law, conditions as its orders say."""

from itertools import product

import pytest
import torch
from torch import Tensor

from pofx.data import Batch
from pofx.families.autoregressive import Autoregressive
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Cursor, Quality, Unsupported
from pofx.randomness import Rng


def picture_space(height: int, wide: int, channels: int, levels: int) -> Space:
    v = Variable("pixel", "ordinal", levels, mean=(levels - 1) / 2, scale=max(0.5, levels / 4))
    return Space((height, wide, channels), (v,), "grid", "image", "uint8")


def mixed_space() -> Space:
    variables = (
        Variable("colour", "category", 3),
        Variable("size", "ordinal", 4, mean=1.5),
        Variable("wet", "binary", 2),
    )
    return Space((3,), variables, kind="table")


def with_real() -> Space:
    variables = (
        Variable("a", "category", 3),
        Variable("b", "real", mean=2.0, scale=3.0),
        Variable("c", "bounded", low=0.0, high=1.0, mean=0.5, scale=0.3),
        Variable("d", "real", resolution=0.5),
    )
    return Space((4,), variables, kind="table")


def rough(model: Autoregressive, size: float = 0.3) -> Autoregressive:
    """Random weights well away from their start, so that every dependence shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return model.eval()


def small(space: Space, given: dict[str, Space] | None = None, size: float = 0.3, **options: object) -> Autoregressive:
    return rough(Autoregressive(width=16, depth=2, **options).build(space, given), size)  # type: ignore[arg-type]


def every(space: Space) -> Tensor:
    levels = [range(space.variable(i).levels) for i in range(space.size)]
    return torch.tensor(list(product(*levels))).reshape(-1, *space.shape).to(space.torch_dtype)


def fitted(model: Autoregressive, batch: Batch, steps: int, lr: float = 5e-3) -> Autoregressive:
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    rows = 64
    for k in range(steps):
        pick = Rng(k).integers(len(batch), (rows,))
        loss = model.train()._loss(batch.take(pick), Rng(k))
        optimiser.param_groups[0]["lr"] = lr * (1 - k / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def walked(cursor: Cursor, x: Tensor) -> Tensor:
    """The log probability that a cursor gives to every entry of flat x (B, D), in the entries' own numbering."""
    log_p, predictive = torch.zeros(x.shape, dtype=torch.float64), cursor.start()
    for i in cursor.order:
        assert predictive is not None
        log_p[:, i] = predictive.log_prob(x[:, i : i + 1])[:, 0].double()
        predictive = cursor.next(x[:, i])
    assert predictive is None
    return log_p


@pytest.mark.parametrize(
    "space", [picture_space(2, 2, 1, 2), picture_space(1, 2, 2, 3), picture_space(3, 1, 1, 3), mixed_space()]
)
@pytest.mark.parametrize("longest", [None, 1])
def test_all_x_sum_to_one(space: Space, longest: int | None) -> None:
    log_p = small(space, longest=longest).log_prob(every(space))
    assert log_p.quality is Quality.EXACT
    assert log_p.value.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert log_p.value.exp().std() > 0.1 / len(log_p.value)  # far from uniform, so the sum says something


def test_a_real_density_integrates_to_one() -> None:
    model = small(real(2), size=0.1)
    u = torch.cartesian_prod(*[torch.linspace(-30, 30, 400, dtype=torch.float64)] * 2)
    assert model.log_prob(u).value.exp().sum().item() * (60 / 399) ** 2 == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("space", [picture_space(5, 4, 3, 40), picture_space(4, 5, 1, 7), mixed_space(), with_real()])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_cursor_agrees_with_log_prob(space: Space, labelled: bool) -> None:
    model = small(space, {"label": category(3)} if labelled else None)
    given = {"label": torch.arange(6) % 3} if labelled else {}
    x = model.sample(1 if labelled else 6, given or None, rng=0).reshape(6, *space.shape)
    log_p = model.log_prob(x, given or None).value
    assert torch.allclose(walked(model.steps(6, given), x.flatten(1)).sum(1), log_p, atol=1e-3)


def test_the_cursor_follows_a_canonical_order() -> None:
    model = small(mixed_space(), order=(2, 0, 1))
    x = every(model.space)
    cursor = model.steps(len(x))
    assert cursor.order == [2, 0, 1]
    assert torch.allclose(walked(cursor, x).sum(1), model.log_prob(x).value, atol=1e-4)
    assert model.log_prob(x).value.exp().sum().item() == pytest.approx(1, abs=1e-5)
    wet = torch.tensor([[False, False, True]]).expand(len(x), -1)
    assert model.log_prob(x, observed=wet).quality is Quality.EXACT


@pytest.mark.parametrize("space", [picture_space(4, 3, 2, 5), mixed_space()])
def test_a_reordered_cursor_goes_on_from_other_rows(space: Space) -> None:
    model = small(space)
    x = model.sample(4, rng=1).flatten(1)
    rows, cut = torch.tensor([3, 3, 0]), space.size // 2 + 1
    cursor = model.steps(4)
    predictive = cursor.start()
    for i in range(cut):
        predictive = cursor.next(x[:, i])
    cursor.reorder(rows)
    predictive = cursor.next(x[rows, cut]) if cut + 1 < space.size else predictive
    fresh = walked(model.steps(3), x[rows])
    for i in range(cut + 1, space.size):
        assert torch.allclose(predictive.log_prob(x[rows, i : i + 1])[:, 0].double(), fresh[:, i], atol=1e-4)
        predictive = cursor.next(x[rows, i])


@pytest.mark.parametrize("space", [picture_space(4, 4, 2, 6), mixed_space()])
def test_the_cache_draws_what_a_naive_loop_draws(space: Space) -> None:
    model, rng = small(space), Rng(5)
    x = torch.zeros(7, *space.shape, dtype=space.torch_dtype)
    for i in range(space.size):
        params = _params(model, x, i)
        x.view(7, -1)[:, i] = model._one(i).sample(params, rng)[:, 0]
    assert torch.equal(x, model.sample(7, rng=5))


def _params(model: Autoregressive, x: Tensor, i: int) -> Tensor:
    """The parameters of entry i, from the whole network."""
    with torch.no_grad():
        params = model.net(x.flatten(1), model._standard(x.flatten(1)))
        if model.picture:
            width = params.shape[1] // model.space.size
            return params[:, i * width : (i + 1) * width]
        start = sum(g.width * len(g.entries) for g in model.likelihood.groups if i > max(g.entries))
        return params[:, start : start + model.likelihood.widths()[i]]


@pytest.mark.parametrize("space", [picture_space(2, 2, 1, 2), picture_space(1, 1, 3, 2), mixed_space()])
def test_samples_follow_log_prob(space: Space) -> None:
    model, n = small(space), 4000
    every_x = every(space)
    p = model.log_prob(every_x).value.exp()
    assert _chi_square(model.sample(n, rng=2), every_x, p) < 5


def _chi_square(x: Tensor, every_x: Tensor, p: Tensor) -> float:
    """The z-score of Pearson's statistic."""
    hits = (x.flatten(1)[:, None] == every_x.flatten(1)[None]).all(-1).double().sum(0)
    expected = p.detach().double() / p.detach().sum() * len(x)
    live = expected > 1
    statistic = ((hits - expected).square() / expected)[live].sum()
    k = int(live.sum()) - 1
    return float((statistic - k) / (2 * k) ** 0.5)


@pytest.mark.parametrize("space", [picture_space(3, 3, 1, 4), mixed_space(), with_real()])
def test_rows_do_not_see_their_batch(space: Space) -> None:
    model = small(space)
    x = model.sample(9, rng=3)
    assert torch.allclose(model.log_prob(x).value[4:5], model.log_prob(x[4:5]).value, atol=1e-4)


@pytest.mark.parametrize("mask", [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 0)])
def test_condition_draws_its_own_conditional(mask: tuple[int, ...]) -> None:
    model = small(mixed_space())
    observed = torch.tensor([mask]).bool()
    x0 = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64)
    conditional = model.condition(x0, observed)
    fits = every(model.space)
    fits = fits[((fits == x0) | ~observed).all(1)]
    masks = observed.expand(len(fits), -1)
    log_p = model.condition(fits, masks).log_prob(fits).value
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    drawn = conditional.sample(3000, Rng(4))[:, 0]
    assert torch.equal(drawn[:, observed[0]], x0.expand(3000, -1)[:, observed[0]])
    assert len(fits) == 1 or _chi_square(drawn, fits, log_p.exp()) < 5
    prefix = mask in ((1, 0, 0), (1, 1, 0), (0, 0, 0))
    assert conditional.quality is (Quality.EXACT if prefix else Quality.ESTIMATE)
    if prefix:  # Bayes' rule on the enumerated joint
        joint = model.log_prob(fits).value
        assert torch.allclose(joint - joint.logsumexp(0), log_p, atol=1e-4)


def test_each_row_has_its_own_mask() -> None:
    model = small(with_real())
    x = model.sample(16, rng=0)
    observed = torch.tensor(list(product([False, True], repeat=4)))
    conditional = model.condition(x, observed)
    drawn = conditional.sample(5, Rng(1))
    assert drawn.shape == (5, 16, 4) and torch.isfinite(drawn).all()
    assert torch.equal(drawn[:, observed], x.expand(5, -1, -1)[:, observed])
    assert (drawn[:, ~observed] != x.expand(5, -1, -1)[:, ~observed]).any()
    whole = conditional.log_prob(x).value + model.log_prob(x, observed=observed).value
    order = model._orders(observed)
    assert torch.allclose(whole, model._entries(x, None, order).sum(1), atol=1e-4)
    alone = model.condition(x[5:6], observed[5:6]).log_prob(x[5:6]).value
    assert torch.allclose(alone, conditional.log_prob(x).value[5:6], atol=1e-4)


def test_the_observed_part_does_not_see_what_is_missing() -> None:
    model = small(with_real())
    x, other = model.sample(8, rng=0), model.sample(8, rng=1)
    observed = torch.tensor([[True, False, True, False]]).expand(8, -1)
    mixed = torch.where(observed, x, other)
    a, b = (model.log_prob(v, observed=observed) for v in (x, mixed))
    assert torch.equal(a.value, b.value) and a.quality is Quality.ESTIMATE
    first = torch.tensor([[True, True, False, False]]).expand(8, -1)
    exact = model.log_prob(x, observed=first)
    assert exact.quality is Quality.EXACT
    assert torch.allclose(exact.value, walked(model.steps(8), x)[:, :2].sum(1), atol=1e-4)


def test_pictures_continue_exactly_and_refuse_other_densities() -> None:
    model = small(picture_space(2, 2, 1, 2))
    fits = every(model.space)
    p = model.log_prob(fits).value
    top = torch.tensor([True, True, False, False]).reshape(1, 2, 2, 1)
    keep = (fits[:, 0] == fits[5, 0]).flatten(1).all(1)
    conditional = model.condition(fits[5:6], top)
    assert conditional.quality is Quality.EXACT
    assert _chi_square(conditional.sample(3000, Rng(0))[:, 0], fits[keep], p[keep].exp()) < 5
    masks = top.expand(int(keep.sum()), -1, -1, -1)
    log_p = model.condition(fits[keep], masks).log_prob(fits[keep]).value
    assert torch.allclose(log_p, p[keep] - p[keep].logsumexp(0), atol=1e-4)
    top_log_p = model.log_prob(fits[5:6], observed=top)
    assert top_log_p.quality is Quality.EXACT
    assert top_log_p.value.item() == pytest.approx(p[keep].logsumexp(0).item(), abs=1e-4)
    with pytest.raises(Unsupported, match="prefix"):
        model.log_prob(fits[5:6], observed=~top)


def test_pictures_with_a_hole_are_filled_by_particles() -> None:
    model = small(picture_space(2, 2, 1, 3), particles=64)
    fits = every(model.space)
    hole = torch.tensor([True, False, False, True]).reshape(1, 2, 2, 1)
    p = model.log_prob(fits).value.exp()
    keep = ((fits == fits[50]) | ~hole).flatten(1).all(1)
    conditional = model.condition(fits[50:51], hole)
    assert conditional.quality is Quality.ESTIMATE and conditional.log_prob is None
    drawn = conditional.sample(2000, Rng(0))[:, 0]
    assert torch.equal(drawn[:, hole[0]], fits[50:51].expand(2000, -1, -1, -1)[:, hole[0]])
    assert _chi_square(drawn, fits[keep], p[keep]) < 8  # 64 particles leave a small bias
    ignoring = small(picture_space(2, 2, 1, 3), particles=1).condition(fits[50:51], hole).sample(2000, Rng(0))[:, 0]
    assert _chi_square(ignoring, fits[keep], p[keep]) > 8  # the test bites: without weights the law is wrong


def test_training_finds_the_law_of_a_table_and_its_conditionals() -> None:
    space, n = mixed_space(), 4000
    p = Rng(3).uniform((24,)).square() + 0.01
    p = p / p.sum()
    rows = every(space)[Rng(4).categorical(p.log().expand(n, -1))]
    net = Autoregressive(width=32, depth=1, dropout=0.0, any_order=0.9).build(space)
    model = fitted(net, Batch(rows), 400, lr=1e-2)
    log_p = model.log_prob(every(space)).value
    assert (p * (p.log() - log_p)).sum() < 0.04
    fits = every(space)
    observed = torch.tensor([[False, True, True]]).expand(24, -1)
    same = (fits[:, None, 1:] == fits[None, :, 1:]).all(-1)
    truth = p.log() - (same * p).sum(1).log()
    estimate = model.condition(fits, observed).log_prob(fits).value
    assert (p * (truth - estimate)).sum() < 0.04


def test_training_on_gaps_finds_what_is_missing_at_random() -> None:
    space = Space((2,), (Variable("a", "binary", 2), Variable("b", "ordinal", 3, mean=1.0)), kind="table")
    a = Rng(0).bernoulli(0.7, (6000,)).long()
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    x = torch.stack([a, Rng(1).categorical(logits[a])], 1).double()
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, 1] = ~(Rng(2).uniform((6000,)) < torch.where(a == 1, 0.8, 0.1))  # b is missing mostly where a is 1
    x[~observed] = 0.0  # must not be learnt as a level
    model = fitted(Autoregressive(width=16, depth=1, dropout=0.0).build(space), Batch(x, observed=observed), 300)
    log_p = model.log_prob(every(space)).value.reshape(2, 3)
    truth = torch.tensor([[0.3], [0.7]]) * logits.exp()
    assert (truth * (truth.log() - log_p)).sum() < 0.02


def test_pictures_with_gaps_train_on_what_is_seen() -> None:
    space = picture_space(2, 2, 1, 2)
    first = Rng(0).bernoulli(0.5, (4000, 1)).long()
    x = first.expand(-1, 4).reshape(-1, 2, 2, 1).to(torch.uint8)  # all four alike
    observed = Rng(1).bernoulli(0.7, tuple(x.shape))
    holed = torch.where(observed, x, torch.zeros_like(x))
    model = fitted(Autoregressive(width=8, depth=1, dropout=0.0).build(space), Batch(holed, observed=observed), 250)
    p = model.log_prob(every(space)).value.exp()
    assert p[0] + p[-1] > 0.9 and abs(p[0] - p[-1]) < 0.2


def test_the_given_matters_and_may_be_missing() -> None:
    space = mixed_space()
    label = torch.arange(3000) % 2
    x = torch.stack([label, 2 * label, label], 1).double()
    batch = Batch(x, {"label": label})
    model = fitted(Autoregressive(width=16, depth=1, dropout=0.0).build(space, {"label": category(2)}), batch, 200)
    drawn = model.sample(50, {"label": torch.tensor([0, 1])}, rng=0)
    assert (drawn == x[:2]).all(-1).double().mean() > 0.95
    free = model.log_prob(x[:2]).value.exp()
    assert torch.allclose(free, torch.full_like(free, 0.5), atol=0.15)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="permutation"):
        Autoregressive(order=(0, 0, 1)).build(mixed_space())
    with pytest.raises(ValueError, match="raster"):
        Autoregressive(order=(0, 1, 2, 3)).build(picture_space(2, 2, 1, 2))


def test_every_parameter_learns() -> None:
    for space in (picture_space(3, 3, 3, 4), with_real()):
        model = small(space, {"label": category(2)})
        batch = Batch(model.sample(4, {"label": torch.arange(2)}, rng=0).flatten(0, 1), {"label": torch.arange(8) % 2})
        model._loss(batch, Rng(0)).backward()
        unused = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert unused == []
