"""KDE against SciPy and scikit-learn, enumeration, quadrature; the fast sums against the exact ones."""

import math

import pytest
import torch
from scipy import stats
from sklearn.neighbors import KernelDensity
from torch import Tensor

from pofx.data import Data
from pofx.engines.kernels import exact_log_kernel_sum, log_kernel_sum
from pofx.families.kde import KDE
from pofx.kinds.base import Space, Variable, category
from pofx.model import Unsupported
from pofx.randomness import Rng

F64 = torch.float64
MIXED = Space(
    (3,),
    (Variable("kind", "category", 3), Variable("size", "ordinal", 5, mean=2.0, scale=1.2), Variable("is", "binary", 2)),
)


def fitted(x: Tensor, space: Space, observed: Tensor | None = None, given=None, report=None, **knobs) -> KDE:
    values = {k: v for k, (v, _) in (given or {}).items()}
    spaces = {k: s for k, (_, s) in (given or {}).items()}
    split = {"train": torch.arange(len(x)), "valid": torch.arange(0), "test": torch.arange(0)}
    model = KDE(**knobs).build(space, spaces)
    model.fit_closed(Data(x, space, values, spaces, observed, split), Rng(0), report or (lambda line=None: True))
    return model


def mixed_rows(n: int, seed: int = 0) -> Tensor:
    rng = Rng(seed)
    a = rng.integers(3, (n,))
    b = (a + rng.integers(3, (n,))).clamp_max(4)
    return torch.stack([a, b, ((a == 1) ^ rng.bernoulli(0.2, (n,))).long()], 1).double()


def every_row() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(n, dtype=F64) for n in (3, 5, 2)])


def plain(d: int) -> Space:
    return Space((d,), tuple(Variable(f"x{j}", mean=0.5 * j, scale=1.0 + j) for j in range(d)))


@pytest.mark.parametrize("h", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_fast_sums_are_the_exact_ones(h, offset):
    c = torch.cat([Rng(0).normal((1500, 5), F64), 0.1 * Rng(1).normal((700, 5), F64) + 3])
    q = torch.cat([Rng(2).normal((300, 5), F64), torch.full((1, 5), 40.0, dtype=F64)])
    got = log_kernel_sum((q + offset) / h, (c + offset) / h)
    want = exact_log_kernel_sum(q / h, c / h)
    assert float((got - want).abs().max()) < 1e-3 if h > 0.1 else float(((got - want) / want).abs().max()) < 1e-6
    assert torch.allclose(log_kernel_sum(q[:7] / h, c / h), got[:7], atol=2e-4, rtol=1e-6)


def test_density_is_that_of_scikit_learn_and_scipy():
    x, q = 2 * Rng(0).normal((400, 2), F64) + 50, 3 * Rng(1).normal((200, 2), F64) + 50
    space = Space((2,), tuple(Variable(f"x{j}", mean=50.0, scale=2.0) for j in range(2)))
    model = fitted(x, space, bandwidth=0.3)
    peer = KernelDensity(bandwidth=0.6).fit(x.numpy())
    assert torch.allclose(model.log_prob(q).value, torch.from_numpy(peer.score_samples(q.numpy())), atol=1e-3)
    one = Space((1,), (Variable("x", mean=50.0, scale=2.0),))
    scipy = stats.gaussian_kde(x[:, 0].numpy(), bw_method=0.5)
    model = fitted(x[:, :1], one, bandwidth=0.5 * float(x[:, 0].std()) / 2)
    assert torch.allclose(model.log_prob(q[:, :1]).value, torch.from_numpy(scipy.logpdf(q[:, 0].numpy())), atol=1e-3)


def test_a_mixed_table_sums_to_one_and_its_marginals_and_conditionals_are_sums():
    model = fitted(mixed_rows(200), MIXED)
    x = every_row()
    p = model.log_prob(x).value.exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    observed = torch.tensor([True, False, True]).expand(len(x), -1)
    table = p.reshape(3, 5, 2).sum(1, keepdim=True).expand(3, 5, 2).reshape(-1)
    assert torch.allclose(model.log_prob(x, observed=observed).value.exp(), table, atol=1e-10)
    assert torch.allclose(model.condition(x, observed).log_prob(x).value.exp(), p / table, atol=1e-9)


def test_draws_have_the_enumerated_frequencies_and_keep_what_was_observed():
    model = fitted(mixed_rows(60), MIXED)
    p, n = model.log_prob(every_row()).value.exp(), 40_000
    draws = model.sample(n, rng=0)
    index = (draws @ torch.tensor([10.0, 2.0, 1.0], dtype=F64)).long()
    z = (torch.bincount(index, minlength=30) / n - p) / (p * (1 - p) / n).sqrt()
    assert float(z.abs().max()) < 5
    row, observed = torch.tensor([[1.0, 0.0, 1.0]], dtype=F64), torch.tensor([[True, False, True]])
    draws = model.condition(row, observed).sample(n, Rng(1))
    assert torch.equal(draws[:, observed], row[observed].expand(n, -1))
    want = p.reshape(3, 5, 2)[1, :, 1]
    want = want / want.sum()
    z = (torch.bincount(draws[:, 0, 1].long(), minlength=5) / n - want) / (want * (1 - want) / n).sqrt()
    assert float(z.abs().max()) < 5


def test_bins_and_bounds_sum_and_integrate_to_one():
    space = Space(
        (2,),
        (
            Variable("age", resolution=0.5, mean=3.0, scale=2.0),
            Variable("share", "bounded", low=0.0, high=2.0, mean=1.0, scale=0.5),
        ),
    )
    rng = Rng(0)
    x = torch.stack([((3 + 2 * rng.normal((40,), F64)) * 2).round() / 2, 0.1 + 1.8 * rng.uniform((40,), F64)], 1)
    model = fitted(x, space)
    middle = (torch.arange(1000, dtype=F64) + 0.5) / 500
    total = model.log_prob(torch.cartesian_prod(torch.arange(-20, 40, dtype=F64) / 2, middle)).value.exp().sum() / 500
    assert float(total) == pytest.approx(1, abs=1e-3)
    assert bool(model.log_prob(torch.tensor([[1.0, 2.5]], dtype=F64)).value.isneginf())


def test_marginals_of_densities_are_integrals_and_conditionals_ratios():
    x = Rng(0).normal((100, 2), F64)
    model = fitted(x, plain(2), bandwidth=0.3)
    grid = torch.linspace(-15, 15, 3001, dtype=F64)
    rows = torch.stack([torch.full_like(grid, 0.4), grid], 1)
    observed = torch.tensor([True, False]).expand(len(rows), -1)
    marginal = float(model.log_prob(rows[:1], observed=observed[:1]).value)
    integral = math.log(float(model.log_prob(rows).value.exp().sum() * (grid[1] - grid[0])))
    assert marginal == pytest.approx(integral, abs=1e-3)
    p = model.condition(rows, observed).log_prob(rows).value.exp()
    mean = (p * grid).sum() / p.sum()
    variance = (p * (grid - mean).square()).sum() / p.sum()
    draws = model.condition(rows[:1], observed[:1]).sample(20_000, Rng(0))[:, 0, 1]
    assert abs(float((draws.mean() - mean) / (variance / 20_000).sqrt())) < 5


def test_leave_one_out_likelihood_rises_and_ends_near_its_maximum():
    x, lines = Rng(0).normal((300, 1), F64), []
    space = Space((1,), (Variable("x"),))
    model = fitted(x, space, report=lambda line=None: line is None or lines.append(line) is None)
    loss = torch.tensor([line["loss"] for line in lines])
    assert float(loss.diff().max()) < 1e-9

    def left_out(h: float) -> float:
        log_k = -0.5 * ((x - x.T) / h).square() - math.log(h * math.sqrt(2 * math.pi) * 299)
        return float(torch.logsumexp(log_k.fill_diagonal_(-torch.inf), 1).mean())

    best = max(left_out(0.05 * 1.05**k) for k in range(60))
    assert left_out(float(model.h[0])) == pytest.approx(best, abs=5e-3)
    assert -float(loss[-1]) == pytest.approx(left_out(float(model.h[0])), abs=5e-3)


def test_a_given_category_selects_the_rows_of_the_class():
    x = torch.cat([Rng(0).normal((80, 2), F64), Rng(1).normal((40, 2), F64) + 5])
    label = (torch.arange(120) >= 80).long()
    model = fitted(x, plain(2), given={"label": (label, category(2))}, bandwidth=0.4)
    alone = fitted(x[:80], plain(2), bandwidth=0.4)
    got = model.log_prob(x[:80], {"label": torch.zeros(80, dtype=torch.long)}).value
    assert torch.allclose(got, alone.log_prob(x[:80]).value, atol=1e-3)
    both = model.log_prob(x).value
    assert torch.allclose(both, fitted(x, plain(2), bandwidth=0.4).log_prob(x).value, atol=1e-3)
    draws = model.sample(50, {"label": torch.tensor([0, 1])}, rng=0)
    assert float(draws[:, 0].mean()) < 1.5 < 3.5 < float(draws[:, 1].mean())


@pytest.mark.parametrize("alpha, sigma", [(1.0, 0.7), (0.4, 0.9)])
def test_denoise_and_score_are_those_of_the_density(alpha, sigma):
    space = Space((2,), (Variable("u"),))
    model = fitted(Rng(0).normal((50, 2), F64), space, bandwidth=0.3)
    axis = torch.linspace(-6, 6, 301, dtype=F64)
    u = torch.cartesian_prod(axis, axis)
    u_t = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=F64)
    log_p = model._log_kernels(u, None).logsumexp(1)
    want = (log_p - 0.5 * ((u_t.unsqueeze(1) - alpha * u) / sigma).square().sum(2)).softmax(1) @ u
    assert torch.allclose(model.denoise(u_t, torch.tensor(alpha), torch.tensor(sigma)), want, atol=1e-5)
    v = u_t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model._log_kernels(v, None).logsumexp(1).sum(), v)
    assert torch.allclose(model.score(u_t), slope, atol=1e-8)


def test_rows_with_gaps_are_no_centres_and_none_left_is_refused():
    x = Rng(0).normal((30, 2), F64)
    observed = torch.ones(30, 2, dtype=torch.bool)
    observed[:10, 1] = False
    assert len(fitted(x, plain(2), observed).centres) == 20
    with pytest.raises(Unsupported, match="impute"):
        fitted(x, plain(2), observed & torch.tensor([True, False]))


def test_loads_into_an_unfitted_model():
    x = mixed_rows(50)
    model = fitted(x, MIXED)
    other = KDE().build(MIXED)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.log_prob(x).value, model.log_prob(x).value)
    assert torch.allclose(model.log_prob(x[:5]).value, model.log_prob(x).value[:5], atol=1e-12)


def test_wrong_knobs_say_what_was_expected():
    with pytest.raises(ValueError, match="bandwidth"):
        KDE(bandwidth=-1.0)
