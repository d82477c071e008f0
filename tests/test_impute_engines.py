"""What Conditionals is made of: leave-one-out in closed form against refits, trees against scikit-learn, donors."""

import numpy as np
import pytest
import torch

from pofx.engines.donors import Donors
from pofx.engines.leave_out import known, normal_em
from pofx.engines.regressors import NOISES, PENALTIES, Forest, Kernel, Line, Stack
from pofx.randomness import Rng


def rows(n: int = 30, p: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    y = np.stack([np.sin(2 * x[:, 0]) + x[:, 1], x[:, 2] ** 2], 1) + 0.1 * rng.normal(size=(n, 2))
    return x, y, rng.integers(1, 4, n).astype(float)


def test_without_a_group_is_the_law_of_the_rest():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    s, m = torch.from_numpy(root @ root.T + np.eye(5)), torch.from_numpy(rng.normal(size=5))
    u, seen = torch.from_numpy(rng.normal(size=(40, 5))), torch.from_numpy(rng.random((40, 5)) < 0.6)
    seen[:, 2] = seen[:, 1]  # a group is known or missing as a whole
    law = known(u, seen, m, s)
    for group in ([0], [1, 2], [4]):
        rest = seen.clone()
        rest[:, group] = False
        mean, variance = law.without(group)
        direct = known(u, rest, m, s)
        assert torch.allclose(mean, direct.mean, atol=1e-9) and torch.allclose(variance, direct.variance, atol=1e-9)


def test_a_normal_law_is_that_of_the_textbook():
    s = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    law = known(torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[True, False]]), torch.ones(2).double(), s)
    assert np.isclose(law.mean[0, 1], 1 + 0.8 * (2 - 1)) and np.isclose(law.variance[0, 1], 1 - 0.64)


def test_em_finds_the_law_despite_gaps():
    rng = np.random.default_rng(1)
    truth = np.array([[1.0, 0.7, 0.2], [0.7, 1.0, 0.4], [0.2, 0.4, 1.0]])
    u = torch.from_numpy(rng.multivariate_normal([0, 1, 2], truth, 4000))
    m, s = normal_em(u, torch.from_numpy(rng.random(u.shape) < 0.7), torch.ones(4000).double())
    assert np.abs(s.numpy() - truth).max() < 0.1 and np.abs(m.numpy() - [0, 1, 2]).max() < 0.08


def test_weights_are_repetitions():
    rng = np.random.default_rng(2)
    u, seen = torch.from_numpy(rng.normal(size=(50, 3))), torch.from_numpy(rng.random((50, 3)) < 0.8)
    count = torch.from_numpy(rng.integers(1, 4, 50))
    one = normal_em(u, seen, count.double())
    two = normal_em(
        u.repeat_interleave(count, 0), seen.repeat_interleave(count, 0), torch.ones(int(count.sum())).double()
    )
    assert torch.allclose(one[0], two[0], atol=1e-6) and torch.allclose(one[1], two[1], atol=1e-6)


@pytest.mark.parametrize("member, grid", [(Line, "PENALTIES"), (Kernel, "NOISES")])
def test_what_a_row_gets_without_itself_is_a_refit_without_it(member, grid, monkeypatch):
    """With one penalty and fixed moments; a row of weight w counts w times, and all of it is left out."""
    x, y, weight = rows()
    x = (x - x.mean(0)) / x.std(0)
    monkeypatch.setattr(f"pofx.engines.regressors.{grid}", (0.1,))
    monkeypatch.setattr("pofx.engines.regressors.WIDTHS", (0.7,))
    monkeypatch.setattr("pofx.engines.regressors._moments", lambda z: (np.zeros(z.shape[1]), np.ones(z.shape[1])))
    without = member().fit(x, y, weight, Rng(0))
    errors = []
    for i in range(6):
        keep = np.arange(len(x)) != i
        again = member()
        again.fit(x[keep], y[keep], weight[keep], Rng(0))
        errors.append(np.abs(again(torch.from_numpy(x[i : i + 1])).numpy()[0] - without[i]).max())
    # the kernel's offset (the mean of y) is not refitted in the closed form
    assert max(errors) < (1e-8 if member is Line else 0.1), max(errors)
    assert len(PENALTIES) > 1 and len(NOISES) > 1


def test_trees_are_those_of_scikit_learn():
    from sklearn.ensemble import ExtraTreesRegressor

    x, y, weight = rows(80)
    ours, new = Forest(7), np.random.default_rng(5).normal(size=(50, 4))
    ours.fit(x, y, weight, Rng(3))
    theirs = ExtraTreesRegressor(7, min_samples_leaf=2, bootstrap=True, random_state=Rng(3).seed() % 2**31)
    theirs.fit(x, y, sample_weight=weight)
    assert np.allclose(ours(torch.from_numpy(new)).numpy(), theirs.predict(new), atol=1e-5)


def test_the_stack_is_no_worse_than_its_parts():
    x, y, weight = rows(300)
    stack = Stack(trees=30)
    said = stack.fit(x, y, weight, Rng(0))
    new_x, new_y, _ = rows(400, seed=9)
    errors = [float(((m(torch.from_numpy(new_x)).numpy() - new_y) ** 2).mean()) for m in (stack, *stack.members)]
    assert errors[0] < 1.2 * min(errors[1:])
    held = float((weight[:, None] * (said - y) ** 2).sum() / weight.sum() / 2)
    assert 0.6 < held / errors[0] < 1.7  # what it says of rows it did not see is honest


def test_donors_give_the_law_of_the_errors():
    """y = f + v e with spread v: the quantiles are f + v times those of e; an atom keeps its share."""
    rng = np.random.default_rng(0)
    f, v = rng.normal(size=4000), np.exp(rng.choice([-1.0, 0.0], 4000))
    y = f + v * rng.normal(size=4000)
    lender, one = Donors(near=200), torch.ones(4000).double()
    lender.learn(*(torch.from_numpy(t) for t in (y, f, v)), one, False, Rng(0))
    level = torch.tensor([[0.05, 0.5, 0.95]] * 2).double()
    found = lender.quantiles(torch.tensor([0.3, 0.3]).double(), torch.tensor([1.0, np.exp(-1.0)]).double(), level)
    wanted = 0.3 + np.array([[1.0], [np.exp(-1.0)]]) * np.array([-1.645, 0, 1.645])
    assert np.abs(found.numpy() - wanted).max() < 0.35
    atom = torch.from_numpy(np.where(rng.random(4000) < 0.4, 0.0, y))
    lender.learn(atom, torch.zeros(4000).double(), one, one, False, Rng(0))
    fine = torch.linspace(0.001, 0.999, 999).double().unsqueeze(0)
    drawn = lender.quantiles(torch.zeros(1).double(), torch.ones(1).double(), fine)
    assert abs(float((drawn == 0).double().mean()) - 0.4) < 0.12 and set(drawn[0].tolist()) <= set(atom.tolist())


def test_few_donors_cover_what_comes_next():
    """With 20 donors the next number lies below a quantile as often as its level says, also beyond the outermost."""
    rng, levels = np.random.default_rng(0), np.array([0.02, 0.05, 0.25, 0.5, 0.75, 0.95, 0.98])
    zero, one = torch.zeros(20).double(), torch.ones(20).double()
    below = []
    for _ in range(1500):
        y = torch.from_numpy(rng.normal(size=21))
        lender = Donors(near=20)
        lender.learn(y[:20], zero, one, one, False, Rng(0))
        lender.facts[2:] = torch.tensor([-9.0, 9.0])  # no bounds
        found = lender.quantiles(zero[:1], one[:1], torch.from_numpy(levels).unsqueeze(0))
        below.append((y[20] < found[0]).numpy())
    assert np.abs(np.mean(below, 0) - levels).max() < 0.035  # three standard errors of the median's
    assert abs(np.mean(below, 0)[1] - 0.05) < 0.017 and abs(np.mean(below, 0)[5] - 0.95) < 0.017
    assert abs(np.mean(below, 0)[0] - 0.02) < 0.011 and abs(np.mean(below, 0)[6] - 0.98) < 0.011


def test_rounding_is_no_atom_and_few_values_are():
    """Rounded to halves every value is common and none stands out: errors are lent; of five values, the values are."""
    rng = np.random.default_rng(1)
    f = torch.from_numpy(rng.uniform(-4, 4, 600))
    one, y = torch.ones(600).double(), f + torch.from_numpy(rng.normal(size=600))
    asked = torch.tensor([0.1]).double(), one[:1], torch.tensor([[0.3, 0.5]]).double()
    lender = Donors(near=50)
    lender.learn((3 * y).round() / 3, f, one, one, False, Rng(0))
    assert not float(lender.facts[1])
    assert all(abs(float(3 * q) - round(float(3 * q))) > 1e-6 for q in lender.quantiles(*asked)[0])
    lender.learn(y.clamp(-2, 2).round(), f, one, one, False, Rng(0))
    assert set(lender.quantiles(*asked)[0].tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert float(lender.facts[1])
    lender.learn(y.clamp_min(-3), f, one, one, False, Rng(0))
    assert float(lender.facts[1])  # all that is less is there as -3
    twice = torch.where(y < -2.5, -2.5, torch.where((y > 0) & (y < 0.5), 0.25, y))
    lender.learn(twice, f, one, one, False, Rng(0))
    assert float(lender.facts[1])  # two that are as common as each other


def test_donors_lend_their_errors_not_their_places():
    """The donors of f = 0.9 lie below it, f_i from -0.7 on: their values are moved to it."""
    f = torch.linspace(-1, 1, 60).double()
    y = f + 0.05 * torch.sin(37 * f)
    lender = Donors(near=50)
    lender.learn(y, f, torch.ones_like(f), torch.ones_like(f), False, Rng(0))
    median = lender.quantiles(torch.tensor([0.9]).double(), torch.ones(1).double(), torch.tensor([[0.5]]).double())
    assert abs(float(median) - 0.9) < 0.04
