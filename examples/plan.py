"""Plan: a pole is balanced by a model that was learnt from 5 000 random steps.

    p(s' - s | s, a)  fitted to random transitions     ->     pofx.plan     ->     one action, and again

Gymnasium's CartPole-v1, 500 steps at most. Beside it: random actions; the best linear policy that cross-entropy search
finds in the same number of real steps, without a model; and from the same random steps two models that are asked for a
high return: of the action given the state and the return that followed, and of a whole trajectory of eight actions and
states. The planner knows what the task calls a fall and is paid for
staying away from it. Every finished episode is a line in --store, so a run that was cut short goes on.

    python examples/plan.py --seeds 0 1 2          needs: pip install "pofx[plan]"
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium
import matplotlib as mpl
import numpy as np
import pandas as pd
import torch

import pofx
from pofx.families.diffusion import Diffusion
from pofx.families.discriminative import Discriminative
from pofx.wrappers import Ensemble

mpl.use("Agg")
import matplotlib.pyplot as plt

STEPS, GOAL = 5000, 450
EDGE, LEAN = 2.4, 0.2095  # where the cart leaves the track, and the pole counts as fallen
HORIZON, WINDOW, AHEAD = 10, 50, 8


def random_steps(seed: int) -> dict[str, np.ndarray]:
    """5 000 steps of random actions: state, action, next state, and the steps (at most 50) that still followed."""
    env, rng = gymnasium.make("CartPole-v1"), np.random.default_rng(seed)
    state, _ = env.reset(seed=seed)
    rows, begun, ended = [], 0, []
    while len(rows) < STEPS:
        action = int(rng.integers(2))
        then, _, down, out, _ = env.step(action)
        rows.append((state, action, then))
        state = then
        if down or out or len(rows) == STEPS:
            ended += [len(rows) - begun - k for k in range(len(rows) - begun)]
            state, begun = env.reset()[0], len(rows)
    s, a, n = (np.array([r[k] for r in rows]) for k in range(3))
    left = np.array(ended)
    return {
        "state": s.astype(float), "action": a, "next": n.astype(float), "left": left,
        "return": np.minimum(left, WINDOW).astype(float),
    }  # fmt: skip


def played(policy, seed: int) -> tuple[int, np.ndarray]:
    """How many steps a policy lasts from a start of its own, and the states on the way."""
    env = gymnasium.make("CartPole-v1")
    state, _ = env.reset(seed=10_000 + seed)
    path = [state]
    while True:
        state, _, down, out, _ = env.step(policy(state))
        path.append(state)
        if down or out:
            return len(path) - 1, np.array(path)


def dynamics(known: dict[str, np.ndarray], seed: int, members: int) -> tuple[pofx.Model, np.ndarray]:
    """Networks of the change of state, everything in deviations of the random states."""
    unit = known["state"].std(0)
    given = {"state": known["state"] / unit, "action": known["action"]}
    family = [Discriminative(method="network", width=64, dropout=0.0, weight_decay=1e-4) for _ in range(members)]
    change = (known["next"] - known["state"]) / unit
    data = pofx.open_data(change, given=given, test=0)
    fitted = [
        pofx.fit(data, f, budget="400 steps", seed=10 * seed + k, threads=1, progress=False)
        for k, f in enumerate(family)
    ]
    return Ensemble(fitted) if members > 1 else fitted[0], unit


def planner(known: dict[str, np.ndarray], seed: int, members: int = 2, penalty: float = 0.05):
    """The policy that plans ten steps ahead and takes the first."""
    model, unit = dynamics(known, seed, members)
    size, last, rng = torch.from_numpy(unit), [None], pofx.Rng(seed)

    def reward(state, action, then):
        x = then * size
        return 1 - x[:, 0].abs() / EDGE - x[:, 2].abs() / LEAN

    def over(then):
        x = then * size
        return (x[:, 0].abs() > EDGE) | (x[:, 2].abs() > LEAN)

    def policy(state) -> int:
        last[0] = pofx.plan(
            model, state / unit, reward, HORIZON, over=over, changes=True, penalty=penalty, scale=(1, 1, 1, 1),
            draws=1, candidates=32, rounds=2, after=last[0], rng=rng,
        )  # fmt: skip
        return int(last[0].value[0])

    return policy


def asked_for_return(known: dict[str, np.ndarray], seed: int):
    """The policy of a model of actions given state and return, asked for the longest life."""
    unit = known["state"].std(0)
    given = {"state": known["state"] / unit, "return": known["return"] / WINDOW}
    family = Discriminative(method="network", width=64, dropout=0.0)
    data = pofx.open_data(pd.DataFrame({"action": known["action"]}), given=given, test=0)
    model = pofx.fit(data, family, budget="400 steps", seed=seed, threads=1, progress=False)
    rng = pofx.Rng(seed)
    return lambda state: int(pofx.plan(model, state / unit, target=1.0, rng=rng).raw.flatten()[0])


def asked_for_trajectory(known: dict[str, np.ndarray], seed: int):
    """The policy of a diffusion of the next steps, actions (-1, 1) and states, asked for the longest life."""
    unit = known["state"].std(0)
    steps = np.concatenate([2.0 * known["action"][:, None] - 1, known["next"] / unit], 1)
    begin = (known["left"] >= AHEAD).nonzero()[0]
    given = {"state": known["state"][begin] / unit, "return": known["return"][begin] / WINDOW}
    data = pofx.open_data(np.stack([steps[t : t + AHEAD] for t in begin]), given=given, test=0)
    model = pofx.fit(data, Diffusion(), budget="90 cpu s", seed=seed, threads=1, progress=False)
    rng, ask = pofx.Rng(seed), {"target": 1.0, "candidates": 16, "trajectory": True}
    return lambda state: int(pofx.plan(model, state / unit, rng=rng, **ask).value[0, 0] > 0)


def linear(seed: int):
    """The best of linear policies by cross-entropy search, without a model, within 5 000 real steps."""
    rng, mean, deviation, spent = np.random.default_rng(seed), np.zeros(4), np.ones(4), 0
    while spent < STEPS:
        drawn, lasted = mean + deviation * rng.standard_normal((16, 4)), []
        for k, w in enumerate(drawn):
            lasted.append(played(lambda s, w=w: int(s @ w > 0), 1000 * seed + spent + k)[0])
            spent += lasted[-1]
            if spent >= STEPS:
                break
        best = drawn[np.argsort(lasted)[::-1][:4]]
        mean, deviation = best.mean(0), best.std(0) + 0.05
    return lambda s: int(s @ mean > 0)


def cell(name: str, seed: int, episodes: int) -> dict:
    """Episodes of one way to act, from one set of random steps."""
    begun, rng = time.process_time(), np.random.default_rng(seed)
    known = random_steps(seed)
    if name == "random":
        policy = lambda state: int(rng.integers(2))  # noqa: E731
    elif name == "linear policy, no model":
        policy = linear(seed)
    elif name == "asked for the return":
        policy = asked_for_return(known, seed)
    elif name == "a trajectory, asked for it":
        policy = asked_for_trajectory(known, seed)
    else:
        policy = planner(known, seed, *{"one model, no penalty": (1, 0.0)}.get(name, ()))
    lasted, path = [], None
    for k in range(episodes):
        steps, walked = played(policy, 100 * seed + k)
        lasted.append(steps)
        path = walked if path is None else path
    seconds = round(time.process_time() - begun, 1)
    return {
        "cell": f"{name}:{seed}",
        "steps": lasted,
        "path": path[:, [0, 2]].round(4).tolist(),
        "cpu seconds": seconds,
    }


EPISODES = {
    "random": 20, "linear policy, no model": 20, "asked for the return": 5,
    "a trajectory, asked for it": 5, "pofx.plan": 1, "one model, no penalty": 1,
}  # fmt: skip


def draw(found: dict[str, dict], path: str) -> None:
    """Steps by way to act, and the first planned episode."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for y, name in enumerate(EPISODES):
        steps = [s for c, line in found.items() if c.rsplit(":", 1)[0] == name for s in line["steps"]]
        if steps:
            own = "C0" if name == "pofx.plan" else "0.75"
            axes[0].barh(y, np.mean(steps), color=own)
            axes[0].plot(steps, [y] * len(steps), "k.", ms=3, alpha=0.4)
    axes[0].set(yticks=range(len(EPISODES)), yticklabels=list(EPISODES), xlim=(0, 510), xlabel="steps upright")
    axes[0].axvline(GOAL, color="0.4", lw=0.8, ls=":")
    line = next((v for c, v in found.items() if c.startswith("pofx.plan")), None)
    if line is not None:
        walked = np.array(line["path"])
        axes[1].plot(walked[:, 0], lw=1, label=f"cart, of ±{EDGE}")
        axes[1].plot(walked[:, 1], lw=1, label=f"pole, of ±{LEAN}")
        axes[1].set(xlabel="step", title="one planned episode")
        axes[1].legend(frameon=False, fontsize=8)
    for a in axes:
        a.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Play what is not stored, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="ways to act, or the beginnings of their names")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--store", type=Path, default=Path("runs/plan.jsonl"))
    parser.add_argument("--out", default="plan.png")
    asked = parser.parse_args()
    asked.store.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.store.read_text().splitlines() if asked.store.exists() else []
    found = {line["cell"]: line for line in map(json.loads, lines)}
    for name, episodes in EPISODES.items():
        for seed in asked.seeds:
            if f"{name}:{seed}" in found or (asked.only and not any(name.startswith(o) for o in asked.only)):
                continue
            line = found[f"{name}:{seed}"] = cell(name, seed, episodes)
            with asked.store.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line["cell"], line["steps"], line["cpu seconds"], flush=True)
    for name in EPISODES:
        steps = [s for c, line in found.items() if c.rsplit(":", 1)[0] == name for s in line["steps"]]
        if steps:
            goal = f"; {'as stated' if np.mean(steps) >= GOAL else 'NOT as stated'}" if name == "pofx.plan" else ""
            print(f"{name:26s} {np.mean(steps):6.1f} steps over {len(steps)} episode(s){goal}")
    draw(found, asked.out)


if __name__ == "__main__":
    main()
