"""Plan on systems whose best actions are known: linear with quadratic cost, and a walk on whole numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.engines.search import Codes, Normals, search
from pofx.families.discriminative import Discriminative
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable
from pofx.model import Model, Unsupported
from pofx.randomness import Rng
from pofx.tasks.plan import plan
from pofx.wrappers import Ensemble

A, B, NOISE, RHO, START, H = 1.1, 0.5, 0.03, 0.4, 1.5, 5


def cost(state, action, then):
    return -(then[:, 0].square() + RHO * action[:, 0].square())


def optimum() -> tuple[np.ndarray, float]:
    """The best open-loop actions by least squares, and their expected reward with the noise."""
    reach = np.array([[A ** (t - j) * B if j <= t else 0.0 for j in range(H)] for t in range(H)])
    free = START * A ** np.arange(1, H + 1)
    rows = np.concatenate([reach, np.sqrt(RHO) * np.eye(H)])
    best = np.linalg.lstsq(rows, np.concatenate([-free, np.zeros(H)]), rcond=None)[0]
    noise = sum(NOISE**2 * A ** (2 * j) * (H - j) for j in range(H))
    return best, -float(((free + reach @ best) ** 2).sum() + RHO * (best**2).sum() + noise)


def joint() -> Gaussian:
    """p(x, u, x') with x, u ~ N(0, 1) and x' = A x + B u + noise, in closed form."""
    model = Gaussian()
    model.build(Space((3,), tuple(Variable(n, scale=1.0) for n in ("x", "u", "then")), dtype="float64"))
    model.covariance = torch.tensor([[1.0, 0.0, A], [0.0, 1.0, B], [A, B, A**2 + B**2 + NOISE**2]], dtype=torch.float64)
    return model


class Moves(Model):
    """s' = s + b a + noise e, for one state and one action; a code 0 or 1 is a step down or up."""

    def __init__(self, b: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.b, self.noise = b, noise

    def _sample(self, count, given, rng):
        action = given["action"].reshape(count, 1).double()
        action = 2 * action - 1 if self.given["action"].variables[0].discrete else action
        return given["state"].double() + self.b * action + self.noise * rng.normal((count, 1), torch.float64)


def moves(b=1.0, noise=0.0, codes=False) -> Moves:
    action = Space((), (Variable("action", "binary", 2, ("down", "up")),), dtype="int64") if codes else real("action")
    return Moves(b, noise).build(real("next"), {"state": real("state"), "action": action})


def real(name: str) -> Space:
    return Space((1,), (Variable(name),), dtype="float64")


def test_search_finds_the_least_of_a_quadratic_and_keeps_within_limits():
    goal = torch.tensor([[0.3], [-0.8]], dtype=torch.float64)
    wide = Normals.within(torch.tensor([-1.0]), torch.tensor([1.0]), 2)
    found = search(lambda a: -(a - goal).square().sum((1, 2)), wide, Rng(0), 100, 12, 10)
    assert (found.proposal.centre - goal).abs().max() < 0.01
    assert list(found.trace) == sorted(found.trace)
    far = search(lambda a: -(a - 3).square().sum((1, 2)), wide, Rng(0), 100, 12, 10)
    assert (far.proposal.centre <= 1).all() and (far.proposal.centre > 0.95).all()


def test_search_over_codes_finds_the_word():
    word = torch.tensor([2, 0, 1, 2])
    found = search(lambda a: (a == word).sum(1).double(), Codes.even(3, 4), Rng(0), 64, 5, 8)
    assert (found.proposal.centre == word).all() and (found.finalists[1] == word).all()
    torch.testing.assert_close(found.proposal.shares.sum(1), torch.ones(4, dtype=torch.float64))


def test_linear_quadratic_control_is_found_by_conditioning_a_joint_model():
    best, value = optimum()
    ask = {"horizon": H, "limits": (-3, 3), "penalty": 0, "draws": 2, "candidates": 200, "rounds": 12}
    found = plan(joint(), [START], cost, **ask, rng=0)
    assert found.route == "condition" and found.value.shape == (H, 1)
    np.testing.assert_allclose(found.value[:, 0], best, atol=0.12)
    assert abs(found.diagnostics["return"] - value) < 0.01 * abs(value) + 5 * float(found.stderr)
    free = START
    for t, u in enumerate(found.value[:, 0]):
        free = A * free + B * u
        assert abs(found.diagnostics["states"][t + 1, 0] - free) < 5 * NOISE * 3 / 8
    again = plan(joint(), [START], cost, **ask, rng=0)
    assert (again.value == found.value).all()


def test_linear_quadratic_control_is_found_from_random_transitions():
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 600, 1))
    then = A * x + B * u + NOISE * rng.standard_normal((600, 1))
    model = pofx.fit(then - x, Discriminative(), given={"state": x, "action": u}, progress=False, threads=1)
    ask = {"changes": True, "limits": (-3, 3), "penalty": 0, "draws": 2, "candidates": 200, "rounds": 10}
    found = plan(model, [START], cost, H, **ask)
    best, value = optimum()
    assert found.route == "search"
    np.testing.assert_allclose(found.value[:, 0], best, atol=0.15)
    assert abs(found.diagnostics["return"] - value) < 0.03 * abs(value)


def test_the_penalty_moves_the_plan_by_as_much_as_members_disagree():
    slopes, goal, scale, weight = np.array([0.4, 1.0, 1.6]), 2.0, 0.5, 1.5
    model = Ensemble([moves(b) for b in slopes])
    for w in (0.0, weight):
        want = (goal * slopes.mean() - w * slopes.std(ddof=1) / (2 * scale)) / (slopes**2).mean()
        found = plan(
            model, [0.0], lambda s, a, n: -(n[:, 0] - goal).square(), 1, limits=(-3, 3), penalty=w, scale=[scale],
            draws=1, candidates=200, rounds=15,
        )  # fmt: skip
        assert abs(float(found.value[0, 0]) - want) < 0.02
        unsure = slopes.std(ddof=1) * abs(want) / scale
        assert found.diagnostics["uncertainty"] == pytest.approx(unsure, rel=0.05)


def test_members_that_know_only_a_stretch_keep_the_plan_within_it():
    rng, members = np.random.default_rng(0), []
    x, u = rng.uniform(-1, 1, (2, 40, 1))
    then = x + 0.5 * u + 0.3 * rng.standard_normal((40, 1))
    data = pofx.open_data(then, given={"state": x, "action": u}, test=0, valid=0.1)
    for _ in range(5):
        rows = torch.from_numpy(rng.choice(data.split["train"].numpy(), 20))
        part = pofx.Data(data.x, data.space, data.given, data.given_spaces, split={**data.split, "train": rows})
        members.append(pofx.fit(part, Discriminative(penalty=0.1), progress=False, threads=1))
    ask = {"horizon": 4, "limits": (-2, 2), "draws": 4, "candidates": 100, "rounds": 6}
    bold = plan(Ensemble(members), [0.0], lambda s, a, n: 0.2 * n[:, 0], penalty=0, **ask)
    careful = plan(Ensemble(members), [0.0], lambda s, a, n: 0.2 * n[:, 0], penalty=4, **ask)
    assert bold.diagnostics["states"][-1, 0] > 2.5  # twice as far as there are data
    assert np.abs(careful.diagnostics["states"][:, 0]).max() < 1.2
    assert careful.diagnostics["uncertainty"] < 0.5 * bold.diagnostics["uncertainty"]


def test_uncertainty_of_one_model_is_the_spread_of_its_walk():
    found = plan(moves(noise=0.2), [0.0], lambda s, a, n: -a[:, 0].square(), 4, draws=2000, candidates=16, rounds=1)
    assert found.diagnostics["uncertainty"] == pytest.approx(0.2 * np.sqrt([1, 2, 3, 4]).sum(), rel=0.05)
    sure = plan(moves(), [0.0], lambda s, a, n: -a[:, 0].square(), 4, draws=3)
    assert sure.diagnostics["uncertainty"] == 0 and sure.diagnostics["spread"] == 0


def test_codes_come_back_as_values_and_nothing_is_earned_after_the_end():
    walk = moves(codes=True)
    home = plan(walk, [3.0], lambda s, a, n: -n[:, 0].abs(), 5)
    assert home.value[:3].tolist() == ["down"] * 3 and home.diagnostics["return"] == -4  # 2 + 1 + 0 + 1 + 0
    up = plan(walk, [0.0], lambda s, a, n: n[:, 0], 4)
    assert up.value.tolist() == ["up"] * 4 and up.diagnostics["return"] == 10
    over = plan(walk, [0.0], lambda s, a, n: torch.ones(len(n)) + 9 * (n[:, 0] > 1), 4, over=lambda n: n[:, 0] > 1)
    assert over.diagnostics["return"] == 13  # the end, worth 10, comes last: 1 + 1 + 1 + 10


def test_the_next_plan_begins_where_the_last_one_ended():
    ask = {"limits": (-1, 1), "penalty": 0}
    first = plan(moves(), [2.0], lambda s, a, n: -n[:, 0].square(), 6, rounds=6, **ask)
    begun = first.diagnostics["proposal"].later()
    np.testing.assert_array_equal(begun.mean[:-1].numpy(), first.diagnostics["proposal"].mean[1:].numpy())
    assert begun.mean[-1] == 0 and (begun.deviation == begun.wide).all()
    cold = plan(moves(), [1.0], lambda s, a, n: -n[:, 0].square(), 6, rounds=1, **ask)
    warm = plan(moves(), [1.0], lambda s, a, n: -n[:, 0].square(), 6, rounds=1, after=first, **ask)
    assert warm.diagnostics["trace"][0] > cold.diagnostics["trace"][0]
    with pytest.raises(ValueError, match="same horizon"):
        plan(moves(), [1.0], lambda s, a, n: -n[:, 0].square(), 5, after=first, **ask)


def test_a_model_of_actions_is_asked_for_a_return():
    rng = np.random.default_rng(0)
    state, action = rng.standard_normal((500, 2)), rng.integers(0, 2, 500)
    follows = np.where(action == (state[:, 0] > 0), 1.0, 0.0) * np.abs(state[:, 0])
    both = np.concatenate([state, follows[:, None] * np.sign(state[:, :1])], 1)  # linear in the product
    data = pofx.open_data(pd.DataFrame({"action": action}), given={"state": both, "return": follows}, test=0)
    model = pofx.fit(data, Discriminative(), progress=False, threads=1)
    for side in (1.0, -1.0):
        found = plan(model, [side, 0.0, side], target=1.0)
        assert found.route == "return" and float(found.raw.flatten()[0]) == (side > 0)
    with pytest.raises(ValueError, match="target"):
        plan(model, [1.0, 0.0, 1.0])


def test_a_model_of_trajectories_is_asked_for_a_return():
    """s' = s + a with random actions, return s_H: to end at 3 from 1 in four steps, every action is 1/2."""
    rng = np.random.default_rng(0)
    start, action = rng.standard_normal((4000, 1)), rng.standard_normal((4000, 4))
    states = start + action.cumsum(1)
    way = np.stack([action, states], 2) + 0.01 * rng.standard_normal((4000, 4, 2))
    given = {"state": start, "return": states[:, -1]}
    model = pofx.fit(pofx.open_data(way, given=given, test=0), "gaussian", progress=False, threads=1)
    found = plan(model, [1.0], target=3.0, candidates=2000, trajectory=True)
    assert found.route == "return" and found.value.shape == (4, 1)
    assert np.abs(found.value - 0.5).max() < 5 * (0.75 / 2000) ** 0.5 + 0.02
    assert np.abs(found.diagnostics["states"][:, 0] - [1, 1.5, 2, 2.5, 3]).max() < 0.1
    assert abs(found.diagnostics["spread"] - 0.75**0.5) < 0.05  # the variance of one of four, their sum known
    assert plan(model, [1.0], target=3.0).value.shape == (4, 2)  # unless it is said, all entries are actions
    flat = pofx.fit(pofx.open_data(action, given=given, test=0), "gaussian", progress=False, threads=1)
    with pytest.raises(ValueError, match="trajectory"):
        plan(flat, [1.0], target=3.0, trajectory=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": [np.nan]}, "finite"),
        ({"state": [0.0, 1.0]}, "state of shape"),
        ({"reward": None}, "reward"),
        ({"horizon": 0}, "horizon 0"),
        ({"candidates": 3}, "candidates 3"),
        ({"limits": (1, -1)}, "low below high"),
        ({"scale": [0.0]}, "above 0"),
        ({"penalty": -1}, "penalty"),
    ],
)
def test_a_mistake_is_told(change, words):
    ask = {"state": [0.0], "reward": lambda s, a, n: n[:, 0], "horizon": 3} | change
    with pytest.raises(ValueError, match=words):
        plan(moves(), **ask)


def test_a_model_of_something_else_is_refused():
    with pytest.raises(Unsupported, match="no row of state"):
        plan(joint(), [0.0, 0.0], cost)
    with pytest.raises(Unsupported, match="not state and action"):
        plan(joint(), [0.0], cost, route="search")


def test_the_command_takes_a_reward_from_a_file(tmp_path):
    import json

    from typer.testing import CliRunner

    from pofx.cli import app

    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 100, 1))
    model = pofx.fit(x + u, Discriminative(), given={"state": x, "action": u}, progress=False, threads=1)
    model.save(tmp_path / "run")
    (tmp_path / "mine.py").write_text("def reward(state, action, then):\n    return -then[:, 0] ** 2\n")
    ask = ["plan", str(tmp_path / "run"), "1.0", "--horizon", "1", "--penalty", "0", "--json", "--reward"]
    told = CliRunner().invoke(app, [*ask, f"{tmp_path}/mine.py:reward"])
    assert told.exit_code == 0 and abs(json.loads(told.stdout)["actions"][0][0] + 1) < 0.2
    assert CliRunner().invoke(app, [*ask, f"{tmp_path}/mine.py:regret"]).exit_code != 0
