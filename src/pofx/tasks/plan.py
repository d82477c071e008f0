"""Plan: what should be done, if the model knows what comes of it?

    s_{t+1} ~ p(s' | s_t, a_t)         a* = argmax over a_1..a_H of   E sum_t r(s_t, a_t, s_{t+1})  -  w sum_t U_t

U_t is how unsure the model is of s_t along the way: the standard deviation of its members' mean states (an `Ensemble`;
what the data do not settle), or of its draws (one model; what is random in the world, too), root mean square over the
entries, in units of `scale`. Without it a search finds where the model errs in its favour.
Routes, best first: cross-entropy search over a model of s' given "state" and "action"; the same over a joint model of
rows (s, a, s'), conditioned on its first entries; a model of actions, or of a whole trajectory (actions and the states
that they led to), given "state" and "return", asked for a high return (no search, no reward). Every draw of a member
stays with that member, so errors that go together add up.
Only the first action should be taken; then plan again from what came of it (`after=` begins where the last plan ended).

References: de Boer 2005 (cross-entropy method); PETS (Chua 2018, arXiv:1805.12114); MOPO (Yu 2020, arXiv:2005.13239);
Diffuser (Janner 2022, arXiv:2205.09991); return-conditioned (Emmons 2021, arXiv:2112.10751;
Ajay 2023, arXiv:2211.15657).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.plans import Plan, plan_figure
from pofx.engines.search import Codes, Normals, Proposal, search
from pofx.kinds.base import Space, Variable
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, route, solve
from pofx.wrappers import Ensemble

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What should be done, if the model knows what comes of it?"
UNIT = "actions"
SURE = 64  # ways that the finalists go, at least
Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor, Rng], Tensor]  # states (B, S), actions (B, ...), rng -> next states (B, S)


@dataclass(frozen=True)
class Problem:
    """What is asked, beside the model."""

    state: Tensor
    reward: Reward | None
    over: Callable[[Tensor], Tensor] | None
    horizon: int
    changes: bool
    trajectory: bool
    limits: tuple[Any, Any] | None
    target: float | None
    penalty: float
    scale: Tensor | None
    draws: int
    candidates: int
    rounds: int
    after: Answer | None
    rng: Rng

    def __post_init__(self) -> None:
        x = self.state
        if x.ndim != 1 or not bool(torch.isfinite(x).all()):
            raise ValueError(f"plan: got a state of shape {tuple(x.shape)}; expected finite numbers (S,).")
        if self.horizon < 1 or self.draws < 1 or self.candidates < 16:
            got = f"horizon {self.horizon}, draws {self.draws}, candidates {self.candidates}"
            raise ValueError(f"plan: {got}; expected 1, 1, 16 or more.")
        if not self.penalty >= 0:
            raise ValueError(f"plan: got penalty = {self.penalty}; expected 0 (none) or more.")


def plan(
    model: Model,
    state: Any,
    reward: Reward | None = None,
    horizon: int = 15,
    *,
    over: Callable[[Tensor], Tensor] | None = None,
    changes: bool = False,
    trajectory: bool = False,
    limits: tuple[Any, Any] | None = None,
    target: float | None = None,
    penalty: float = 1.0,
    scale: Sequence[float] | None = None,
    draws: int = 4,
    candidates: int = 64,
    rounds: int = 3,
    after: Answer | None = None,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """The sequence of actions with the highest expected reward, less what the model is unsure of.

    Args:
        model: of the next state given "state" `(S,)` and "action", or an `Ensemble` of such; or of rows (state, action,
            next state); or given "state" and "return" of the next actions, or of trajectories.
        state: where to begin, `(S,)`.
        reward: states `(B, S)`, actions `(B, A)` or codes `(B,)`, next states `(B, S)` -> `(B,)`.
        horizon: actions to plan.
        over: next states `(B, S)` -> bool `(B,)`: after such a state nothing is earned.
        changes: the model's event is s' - s, not s'.
        trajectory: the model given "return" is of steps `(H, A + S)`: the actions of one, then the state they led to.
        limits: (low, high) of actions that are numbers, each a number or `(A,)`; None: two deviations of the data.
        target: the return asked for, where the model was fitted given "return".
        penalty: w, reward for each unit of U; 0: none.
        scale: `(S,)`, what counts as one unit of each entry of a state; None: the deviations that the model knows.
        draws: ways that each candidate may go, for one model or for each member of an ensemble.
        candidates, rounds: of the search; an eighth of the candidates is kept.
        after: the last plan, one action of which was taken.
        rng: a seed or generator. route: a route by name; None takes the best.

    Returns:
        An Answer: value is the actions, codes as their values `(H,)` or numbers `(H, A)`; stderr that of the expected
        return. Diagnostics: `return` and `spread` (mean and deviation over the ways), `uncertainty` (sum of U),
        `states` (mean, `(H + 1, S)`), `trace` (score of the elite, by round) and `proposal`, for `after`.

    Raises:
        ValueError: a state or limits that do not fit, no reward. Unsupported: the model is of something else.
    """
    x = torch.as_tensor(np.asarray(state), dtype=torch.float64)
    u = None if scale is None else torch.as_tensor(scale, dtype=torch.float64)
    rng = Rng(rng)
    problem = Problem(
        x, reward, over, horizon, changes, trajectory, limits, target, penalty, u, draws, candidates, rounds, after, rng
    )
    with torch.no_grad():
        found = solve("plan", ROUTES, model, route, problem=problem)
    return replace(found, question={"problem": replace(problem, after=None)})  # no chain of all plans before


def by_search(model: Model, problem: Problem) -> Answer:
    """Cross-entropy search, by draws of the next state given state and action."""
    if not {"state", "action"} <= set(model.given):
        raise Unsupported(f"it was fitted given {sorted(model.given) or 'nothing'}, not state and action")
    space = model.given["action"]
    _check_state(problem, model.given["state"])
    if tuple(model.space.shape) != tuple(problem.state.shape):
        raise Unsupported(f"its event {model.space.shape} is no next state {tuple(problem.state.shape)}")
    members: Sequence[Model] = list(model.members) if isinstance(model, Ensemble) else [model]
    steps = [_given_step(m, problem.changes) for m in members]
    variables = [space.variable(i) for i in range(space.size)]
    return _searched(steps, variables, _deviations(model.given["state"]), problem, model.sampler)


def by_condition(model: Model, problem: Problem) -> Answer:
    """The same search, by draws of the last entries of a row (state, action, next state)."""
    size, s = model.space.size, len(problem.state)
    wide = size - 2 * s
    if len(model.space.shape) != 1 or wide < 1 or model.given:
        raise Unsupported(f"its event {model.space.shape} is no row of state {s}, action and next state {s}")
    variables = [model.space.variable(i) for i in range(size)]
    observed = torch.arange(size) < s + wide

    def step(states: Tensor, actions: Tensor, rng: Rng) -> Tensor:
        known = torch.cat([states, actions.reshape(len(states), wide).double(), torch.zeros_like(states)], 1)
        known = known.to(model.space.torch_dtype)
        found = model.condition(known, observed.expand_as(known)).sample(1, rng)[0, :, s + wide :].double()
        return states + found if problem.changes else found

    scale = torch.tensor([v.scale for v in variables[:s]], dtype=torch.float64)
    return _searched([step], variables[s : s + wide], scale, problem, model.sampler)


def by_return(model: Model, problem: Problem) -> Answer:
    """The model's own actions, given the state and the return that is asked for: their mode, or their mean.

    Of a model of trajectories `(H, A + S)` the actions, and the mean states on the way as a diagnostic.
    """
    if not {"state", "return"} <= set(model.given):
        raise Unsupported("it was not fitted given state and return")
    if problem.target is None:
        raise ValueError("plan: the model was fitted given a return; say target=, the return to ask for.")
    _check_state(problem, model.given["state"])
    n, space = problem.candidates, model.given["return"]
    given = {
        "state": problem.state.expand(n, -1),
        "return": torch.full((n, *space.shape), float(problem.target), dtype=torch.float64),
    }
    drawn = model.sample(1, given, problem.rng)[0]
    words: dict[str, Any] = {}
    if problem.trajectory:
        if drawn.ndim != 3 or drawn.shape[2] <= len(problem.state):
            raise ValueError(
                f"plan: got events {tuple(drawn.shape[1:])}; a trajectory is (H, A + {len(problem.state)})."
            )
        drawn, states = drawn.tensor_split([drawn.shape[2] - len(problem.state)], 2)
        words["states"] = torch.cat([problem.state[None], states.double().mean(0)]).numpy()
    variable = model.space.variable(0)
    chosen = drawn.mode(0).values if variable.discrete else drawn.double().mean(0)
    share = (drawn == chosen).double().mean() if variable.discrete else drawn.double().std(0).mean()
    words["agreement" if variable.discrete else "spread"] = float(share)
    if not variable.discrete:
        words["deviation"] = drawn.double().std(0).numpy()
    return Answer(_valued(chosen, [variable]), UNIT, Quality.ESTIMATE, raw=chosen, diagnostics=words)


ROUTES = (
    route(by_search, "sample", sources="Chua 2018"),
    route(by_condition, "condition", sources="Chua 2018"),
    route(by_return, "sample", sources="Emmons 2021"),
)


@dataclass(frozen=True)
class Ways:
    """What may come of N candidates: returns `(K P, N)`, uncertainty `(N,)`, mean states `(H + 1, N, S)`."""

    returns: Tensor
    uncertainty: Tensor
    states: Tensor


def _searched(
    steps: Sequence[Step], actions: list[Variable], known: Tensor, problem: Problem, sampler: Quality
) -> Answer:
    if problem.reward is None:
        raise ValueError("plan: say reward=, a function of states, actions and next states.")
    scale = known if problem.scale is None else problem.scale
    if scale.shape != problem.state.shape or not bool((scale > 0).all()):
        raise ValueError(f"plan: got scale {scale.tolist()}; expected {len(problem.state)} numbers above 0.")

    def score(candidates: Tensor) -> Tensor:
        ways = _rolled(steps, candidates, scale, problem, problem.draws)
        return ways.returns.mean(0) - problem.penalty * ways.uncertainty

    proposal = _proposal(actions, problem)
    elites = max(2, problem.candidates // 8)
    found = search(score, proposal, problem.rng, problem.candidates, problem.rounds, elites)
    ways = _rolled(steps, found.finalists, scale, problem, max(problem.draws, SURE // len(steps)))
    won = int((ways.returns.mean(0) - problem.penalty * ways.uncertainty).argmax())
    best, returns = found.finalists[won], ways.returns[:, won]
    words = {
        "return": float(returns.mean()),
        "spread": float(returns.std()),
        "uncertainty": float(ways.uncertainty[won]),
        "states": ways.states[:, won].numpy(),
        "trace": found.trace,
        "proposal": found.proposal,
    }
    error = float(returns.std() / len(returns) ** 0.5)
    return Answer(_valued(best, actions), UNIT, Quality.ESTIMATE + sampler, raw=best, stderr=error, diagnostics=words)


def _rolled(steps: Sequence[Step], candidates: Tensor, scale: Tensor, problem: Problem, draws: int) -> Ways:
    """Follow N sequences of actions `(N, H, ...)`, `draws` ways by each of K members."""
    n, k, s = len(candidates), len(steps), len(problem.state)
    state = problem.state.expand(k, draws * n, s)
    alive = torch.ones(k, draws * n, dtype=torch.bool)
    earned, unsure, path = torch.zeros(k, draws * n).double(), torch.zeros(n).double(), [problem.state.expand(n, s)]
    for t in range(problem.horizon):
        action = candidates[:, t].repeat(draws, *[1] * (candidates.ndim - 2))
        then = torch.stack([step(state[j], action, problem.rng) for j, step in enumerate(steps)])
        every = action.repeat(k, *[1] * (action.ndim - 1))
        assert problem.reward is not None
        gain = problem.reward(state.reshape(-1, s), every, then.reshape(-1, s)).double().reshape(k, -1)
        earned = earned + torch.where(alive, gain, torch.zeros_like(gain))
        unsure = unsure + _spread(then.reshape(k, draws, n, s), scale) * alive.reshape(-1, n).double().mean(0)
        if problem.over is not None:
            alive = alive & ~problem.over(then.reshape(-1, s)).reshape(k, -1)
        state = then
        path.append(then.reshape(k * draws, n, s).mean(0))
    return Ways(earned.reshape(k * draws, n), unsure, torch.stack(path))


def _spread(states: Tensor, scale: Tensor) -> Tensor:
    """How far members `(K, P, N, S)` disagree, or the draws of a single one, in units of `scale`: `(N,)`."""
    several = states.mean(1) if len(states) > 1 else states[0]
    if len(several) < 2:
        return torch.zeros(states.shape[2], dtype=torch.float64)
    return (several.std(0) / scale).square().mean(-1).sqrt()


def _given_step(model: Model, changes: bool) -> Step:
    space = model.given["action"]

    def step(states: Tensor, actions: Tensor, rng: Rng) -> Tensor:
        given = {"state": states, "action": actions.reshape(len(states), *space.shape)}
        found = model.sample(1, given, rng)[0].double()
        return states + found if changes else found

    return step


def _proposal(actions: list[Variable], problem: Problem) -> Proposal:
    if problem.after is not None:
        before = problem.after.diagnostics.get("proposal")
        if before is None or len(before.centre) != problem.horizon:
            raise ValueError("plan: after= is no searched plan of the same horizon.")
        return before.later()
    if any(v.discrete for v in actions):
        if len(actions) > 1:
            raise Unsupported("it acts by several entries of which some are codes; one code, or numbers only")
        return Codes.even(actions[0].levels, problem.horizon)
    low, high = problem.limits or (None, None)
    lows = [v.mean - 2 * v.scale for v in actions] if low is None else low
    highs = [v.mean + 2 * v.scale for v in actions] if high is None else high
    edges = [torch.as_tensor(e, dtype=torch.float64).expand(len(actions)) for e in (lows, highs)]
    if not bool((edges[0] < edges[1]).all()):
        raise ValueError(f"plan: got limits {edges[0].tolist()} to {edges[1].tolist()}; expected low below high.")
    return Normals.within(edges[0], edges[1], problem.horizon)


def _valued(chosen: Tensor, actions: list[Variable]) -> np.ndarray:
    """Actions as the user holds them."""
    values = actions[0].values
    if actions[0].discrete and values is not None:
        return np.array([values[int(code)] for code in chosen.flatten()]).reshape(tuple(chosen.shape))
    return chosen.numpy()


def _check_state(problem: Problem, space: Space) -> None:
    if tuple(space.shape) != tuple(problem.state.shape):
        raise ValueError(f"plan: got a state of shape {tuple(problem.state.shape)}; the model knows {space.shape}.")


def _deviations(space: Space) -> Tensor:
    return torch.tensor([space.variable(i).scale for i in range(space.size)], dtype=torch.float64)


def figure(answer: Answer) -> Figure:
    """Actions over the steps with their spread, the mean states on the way, and how the search went."""
    assert answer.model is not None and answer.raw is not None
    model, facts, problem = answer.model, answer.diagnostics, answer.question["problem"]
    space, width = model.given.get("action"), len(problem.state)
    if answer.route == "condition":
        known = [model.space.variable(i) for i in range(model.space.size)]
        actions, states = known[width : model.space.size - width], known[:width]
    else:
        owner, side = space or model.space, model.given["state"]
        actions, states = ([s.variable(i) for i in range(s.size)] for s in (owner, side))
    proposal, chosen = facts.get("proposal"), answer.raw.cpu().numpy()
    spread = proposal.deviation.cpu().numpy() if isinstance(proposal, Normals) else facts.get("deviation")
    plan = Plan(
        chosen.flatten() if actions[0].discrete else chosen.reshape(len(chosen), -1),
        None if spread is None else spread.reshape(len(chosen), -1),
        proposal.shares.cpu().numpy() if isinstance(proposal, Codes) else None,
        [str(v) for v in actions[0].values or ()],
        facts.get("states"),
        ([v.name for v in actions], [v.name for v in states]),
        [float(v) for v in facts.get("trace", ())],
        (facts["return"], facts["spread"]) if "return" in facts else None,
    )
    return plan_figure(plan)
