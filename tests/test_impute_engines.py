"""What Conditionals is made of: normal laws, leave-one-out in closed form against refits, trees, donors."""

import numpy as np
import pytest
import torch

from pofx.engines.donors import Donors, nearest, repeats
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
        assert torch.allclose(law.without(group), known(u, rest, m, s).mean, atol=1e-9)


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


def test_trees_are_those_of_scikit_learn(monkeypatch):
    from sklearn import tree

    grown = []

    class Kept(tree.ExtraTreeRegressor):
        def fit(self, *rows):
            grown.append(self)
            return super().fit(*rows)

    monkeypatch.setattr(tree, "ExtraTreeRegressor", Kept)
    x, y, weight = rows(80)
    ours, new = Forest(7, least=2), np.random.default_rng(5).normal(size=(50, 4))
    without = ours.fit(x, y, weight, Rng(3))
    said = np.mean([one.predict(new) for one in grown], 0)
    assert len(grown) == 7 and np.allclose(ours(torch.from_numpy(new)).numpy(), said, atol=1e-5)
    leaf = ours.leaves(torch.from_numpy(x))
    in_bag = np.stack([np.isin(np.arange(80), ours.member[ours.first[r] : ours.stop[n]]) for r, n in spans(ours)])
    every = ours.value[leaf].numpy()  # (rows, trees, M)
    free = ~in_bag.T[:, :, None]
    some = free.any(1)[:, 0]
    assert some.sum() > 70 and np.allclose(without[some], ((every * free).sum(1)[some] / free.sum(1)[some]), atol=1e-6)
    assert np.allclose(without[~some], every[~some].mean(1), atol=1e-6)  # every tree saw it


def spans(forest: Forest) -> list[tuple[int, int]]:
    """The first and the last node of every tree."""
    starts = [*forest.root.tolist(), len(forest.feature)]
    return [(a, b - 1) for a, b in zip(starts[:-1], starts[1:], strict=True)]


def test_a_leaf_lends_the_rows_of_a_branch():
    """Of the smallest branch around it that has enough of them: all rows below one node, by walking there."""
    x, y, weight = rows(60)
    forest = Forest(5)
    forest.fit(x, y, weight, Rng(0))
    leaf = forest.held[0]
    own = {n: set(forest.member[forest.first[n] : forest.stop[n]].tolist()) for n in np.unique(leaf)}
    parent = {int(c): n for n, pair in enumerate(forest.child.tolist()) for c in pair if int(c) != n}

    def below(node: int) -> list[int]:
        pair = [int(c) for c in forest.child[node]]
        return [node] if pair[0] == node else below(pair[0]) + below(pair[1])

    times = {t: np.bincount(forest.times[t]) for t in range(5)}
    assert sum(int(k * n) for t in times.values() for k, n in enumerate(t)) == 5 * 60
    forest.lend(12)
    for node in np.unique(leaf)[::9].tolist():
        lent, at = forest.member[forest.first[node] : forest.stop[node]].tolist(), node
        while sum(map(len, (lent_by(forest, leaf, n) for n in below(at)))) < 12 and at in parent:
            at = parent[at]
        assert sorted(lent) == sorted(r for n in below(at) for r in lent_by(forest, leaf, n)) and own[node] <= set(lent)


def lent_by(forest: Forest, leaf: np.ndarray, node: int) -> list[int]:
    """The rows that a tree grew a leaf on, as often as they were in its bag."""
    tree = int(np.searchsorted(forest.root.numpy(), node, side="right")) - 1
    inside = np.flatnonzero(leaf[tree] == node)
    return [int(r) for r in inside for _ in range(int(forest.times[tree][r]))]


def test_leaves_know_their_rows():
    """A leaf's value is the mean of its rows, each as often as it was drawn; a row lends where it was learnt."""
    x, y, weight = rows(60)
    weight[:30] = 20.0
    forest = Forest(40, least=3)
    forest.fit(x, y, weight, Rng(0))
    leaf = forest.leaves(torch.from_numpy(x))
    for node in leaf.unique()[:50].tolist():
        inside = forest.member[forest.first[node] : forest.stop[node]].long()
        assert len(inside.unique()) >= 3
        assert torch.allclose(torch.from_numpy(y)[inside].mean(0), forest.value[node].double(), atol=1e-5)
    assert float((forest.member < 30).double().mean()) > 0.88  # by weight 600 to about 60
    one = torch.stack([forest.lender(leaf, Rng(k)) for k in range(400)])  # (draws, rows)
    law = torch.stack([
        torch.stack([
            (forest.member[forest.first[n] : forest.stop[n]] == i).double().mean() for n in leaf[0].tolist()
        ]).mean()
        for i in range(60)
    ])  # fmt: skip
    share = torch.bincount(one[:, 0], minlength=60) / 400
    assert float((share - law).abs().max()) < 4 * (0.25 / 400) ** 0.5 and abs(float(law.sum()) - 1) < 1e-9


def test_every_tree_sees_one_version_of_the_rows():
    """y is the first feature where it is known; in half of the versions it is noise: half of the trees know y."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 300, 2))
    y = x[0, :, :1]
    forest = Forest(10)
    forest.fit(x, y, np.ones(300), Rng(0))
    leaf = forest.leaves(torch.from_numpy(x[0]))
    error = (forest.value[leaf][:, :, 0] - torch.from_numpy(y)).square().mean(0)
    assert float(error[::2].max()) < 0.1 < 0.5 < float(error[1::2].min())


def test_the_stack_is_no_worse_than_its_parts():
    x, y, weight = rows(300)
    stack = Stack(trees=30)
    said = stack.fit(x, y, weight, Rng(0))
    new_x, new_y, _ = rows(400, seed=9)
    errors = [
        float(((m(torch.from_numpy(new_x)).numpy() - new_y) ** 2).mean())
        for m in (stack, stack.line, stack.kernel, stack.forest)
    ]
    assert errors[0] < 1.2 * min(errors[1:])
    held = float((weight[:, None] * (said - y) ** 2).sum() / weight.sum() / 2)
    assert 0.6 < held / errors[0] < 1.7  # what it says of rows it did not see is honest


def test_donors_give_the_law_of_the_errors():
    """y = 2 x + s e, s a step: intervals of draws hold new y as often as they say on both sides, and differ."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(5000, 2))
    loud = x[:, 1] > 0
    y = 2 * x[:, 0] + np.where(loud, 0.8, 0.1) * rng.normal(size=5000)
    law, new = Donors(), torch.from_numpy(x[3000:])
    law.learn(x[None, :3000], y[:3000, None], np.ones(3000), np.ones(3000), False, Rng(0))
    draws = torch.cat([law.draw(new, Rng(k))[1] for k in range(59)], 1).sort(1).values.numpy()
    assert torch.allclose(law.draw(new, Rng(0))[0], law(new))
    held, quiet = (y[3000:] > draws[:, 2]) & (y[3000:] < draws[:, 56]), ~loud[3000:]
    assert abs(held.mean() - 0.9) < 0.03 and held[~quiet].mean() > 0.8 and held[quiet].mean() > 0.88
    assert abs((draws.mean(1) - 2 * x[3000:, 0])[~quiet].mean()) < 0.05  # standard error 0.03 of what was learnt
    assert draws[quiet].std(1).mean() < 0.65 * draws[~quiet].std(1).mean()


def test_the_mean_of_draws_is_what_is_said():
    """Of every row by itself, also where the trees find something in the errors."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = np.sign(x[:, :1]) * x[:, 1:2] + 0.3 * rng.normal(size=(300, 1))
    law = Donors(trees=32)
    law.learn(x[None], y, np.ones(300), np.ones(300), False, Rng(0))
    asked = torch.from_numpy(rng.normal(size=(12, 3)))
    said, draws = law.draw(asked.repeat(4000, 1), Rng(1))
    said, draws = said[:12, 0], draws.reshape(4000, 12)
    score = (draws.mean(0) - said) / (draws.std(0) / 4000**0.5)
    assert float(score.abs().max()) < 4.5, score
    assert float(law.usual.abs().max()) > 0.1  # there is something to be found


def test_donors_lend_beside_the_line_and_not_their_places():
    """Beyond all rows the line goes on, and what is lent is an error, not a value."""
    x = np.linspace(-1, 1, 400)[:, None]
    y = 3 * x + 0.05 * np.random.default_rng(0).normal(size=x.shape)
    law = Donors(trees=32)
    law.learn(x[None], y, np.ones(400), np.ones(400), False, Rng(0))
    said, drawn = law.draw(torch.full((500, 1), 0.98).double(), Rng(0))
    assert abs(float(said.mean()) - 2.94) < 0.05 and abs(float(drawn.mean()) - 2.94) < 0.08
    assert float(drawn.std()) < 0.12


def test_values_that_stand_out_are_kept():
    """Two fifths of y are 0, of the others none occurs twice: as many draws are 0, and none lies between the values."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    y = np.where(rng.random(1000) < 0.4, 0.0, 5 + x[:, 0] + 0.3 * rng.normal(size=1000))
    law = Donors()
    law.learn(x[None], y[:, None], np.ones(1000), np.ones(1000), False, Rng(0))
    drawn = law.draw(torch.from_numpy(rng.normal(size=(2000, 2))), Rng(0))[1][:, 0]
    assert set(drawn.tolist()) <= set(y.tolist())
    assert abs(float((drawn == 0).double().mean()) - 0.4) < 0.06


def test_rounding_is_no_atom_and_few_values_are():
    """Rounded to thirds every value is common and none stands out; of five values, caps and twins it does."""
    rng = np.random.default_rng(1)
    y = torch.from_numpy(rng.uniform(-4, 4, 600) + rng.normal(size=600))
    assert not repeats((3 * y).round() / 3)
    assert repeats(y.clamp(-2, 2).round()) and repeats(y.clamp_min(-3))  # all that is less is there as -3
    assert repeats(torch.where(y < -2.5, -2.5, torch.where((y > 0) & (y < 0.5), 0.25, y)))  # as common as each other


def test_the_nearest_value():
    value = torch.tensor([-1.0, 0.0, 4.0])
    assert nearest(torch.tensor([[-9.0], [-0.4], [1.9], [2.1], [9.0]]), value)[:, 0].tolist() == [-1, 0, 0, 4, 4]
    assert nearest(torch.tensor([3.0]), torch.tensor([7.0])).tolist() == [7]
