"""fit: the same model however it is run, budgets, kills, Ctrl-C, divergence, processes, the choice of a family."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import pofx
from pofx import files
from pofx.data import Batch, Data, open_data
from pofx.kinds.base import Space, Variable, category
from pofx.model import Card, Model, Player, Unsupported, Value
from pofx.randomness import Rng, Rows
from pofx.training import budget as budgets
from pofx.training.budget import Asked, Budget, Plan, plan_for
from pofx.training.loop import Diverged, Loop, Parts
from pofx.training.pick import Pick, pick
from pofx.training.processes import fit_in_processes
from pofx.training.run import Settings, fabric_of
from pofx.training.streams import forked, share_dropout
from pofx.training.validation import energy_distance

CARD = Card("exact", "fast", "gradients", "none", "small", ("explicit",), "refuses", "a family for tests", "none")


class Small(Model):
    """N(x; net(0), 1) through a little network with dropout, one buffer that counts its training steps."""

    card = CARD
    batch_size = 16

    def __init__(self, *, width: int = 8, dropout: float = 0.5, lr: float = 1e-2, bad: int = -1, sleep: float = 0.0):
        super().__init__()
        self.width, self.dropout, self.lr, self.bad, self.sleep = width, dropout, lr, bad, sleep

    def _build(self):
        d = self.space.size
        self.net = nn.Sequential(
            nn.Linear(d, self.width), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(self.width, d)
        )
        self.register_buffer("count", torch.zeros(()))

    def _players(self):
        return [Player("small", list(self.net.parameters()), self._loss, lr=self.lr)]

    def _loss(self, batch: Batch, rng: Rng):
        x = batch.x.flatten(1).float()
        if self.training:
            self.count += 1
            time.sleep(self.sleep)
        noise = rng.normal(tuple(x.shape))
        loss = (self.net(noise) - x).square().sum(1).mean() / 2
        return loss * float("nan") if self.training and self.bad == int(self.count) else loss

    def _sample(self, count, given, rng):
        return rng.normal((count, *self.space.shape)).double()

    def _log_prob(self, x, given, observed, draws, rng):
        return Value(-0.5 * x.flatten(1).square().sum(1))


class Wide(Small):
    """Batch rows remembered, to see which rows a step saw."""

    def _loss(self, batch, rng):
        self.seen = [*getattr(self, "seen", []), batch.index.clone()]
        return super()._loss(batch, rng)


class Mean(Model):
    """Closed form, and it says so in two lines of history."""

    card = CARD

    def _build(self):
        self.register_buffer("m", torch.zeros(self.space.size, dtype=torch.float64))

    def _fit_closed(self, data, rng, report):
        for k in range(2):
            self.m = data.part("train").x.mean(0)
            report({"step": k + 1, "loss": 1.0})

    def _log_prob(self, x, given, observed, draws, rng):
        return Value(-0.5 * (x - self.m).square().sum(1))


def rows(n: int = 120, d: int = 3, seed: int = 0) -> Data:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))
    return Data(x, Space((d,), tuple(Variable(f"x{j}") for j in range(d)))).splitted(0.1, 0.2)


def same(a: Model, b: Model) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return set(left) == set(right) and all(torch.equal(left[k], right[k]) for k in left)


def untimed(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def fitted(data=None, family=Small, budget="60 steps", **options) -> Model:
    return pofx.fit(rows() if data is None else data, family, budget=budget, progress=False, **options)


def settings(budget: str = "60 steps", **options) -> Settings:
    start = {clock: now() for clock, now in budgets.CLOCKS.items()}
    return Settings(Asked(Budget.parse(budget)), start, **options)


def loop_of(model: Model, data: Data, steps: int = 20, batch: int = 16, **options) -> Loop:
    fabric = fabric_of("cpu")
    built = model.build(data.space, data.given_spaces, 0)
    return Loop(
        built, Parts.of(data, fabric.device), Plan(steps, batch, 1, "32-true", 0.0, 0, "test"), fabric, **options
    )


# the same numbers


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first = fitted()
    assert torch.equal(before, torch.get_rng_state())
    with forked(torch.device("cpu"), 99):  # another state of the caller's stream changes nothing
        second = fitted()
    assert same(first, second) and untimed(first.history) == untimed(second.history)
    assert not same(first, fitted(seed=1))


def test_measuring_changes_neither_what_is_trained_nor_the_callers_state() -> None:
    threads, stream = torch.get_num_threads(), torch.get_rng_state()
    data, asked = rows(), Asked(Budget(steps=25))
    model = Small().build(data.space)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def trial(precision: str) -> Loop:
        copied = Small().build(data.space)
        copied.load_state_dict(model.state_dict())
        plan = Plan(10**6, 16, 1, precision, 0.0, 0, "measuring")
        return Loop(copied, Parts.of(data, torch.device("cpu")), plan, fabric_of("cpu"))

    measured = plan_for(trial, Asked(Budget(seconds=0.5)), 16, torch.device("cpu"), time.perf_counter())
    assert measured.steps > 0 and measured.seconds_per_step > 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(stream, torch.get_rng_state())
    with_plan = fitted(budget="25 steps", threads=1)  # nothing to measure
    measured_fit = fitted(budget="25 steps")
    assert same(with_plan, measured_fit)
    assert torch.get_num_threads() == threads and asked.budget.steps == 25


def test_dropout_is_on_in_steps_and_off_in_validation() -> None:
    loop = loop_of(Small(dropout=0.9), rows())
    assert loop.model.training
    values = {loop.validate() for _ in range(3)}
    assert len(values) == 1 and loop.model.training
    with torch.no_grad():
        batch = loop.parts.valid
        losses = {float(loop.players[0].loss(batch, Rng(0))) for _ in range(2)}
    assert len(losses) == 2  # in training mode the masks differ


@pytest.mark.parametrize(
    "layer, event", [(nn.Dropout(0.3), (5,)), (nn.Dropout2d(0.3), (6, 4, 4)), (nn.Dropout(0.0), (2,))]
)
def test_each_process_drops_what_one_process_drops_in_its_rows(layer, event) -> None:
    x = torch.randn(8, *event, generator=torch.Generator().manual_seed(0))
    with forked(torch.device("cpu"), 1):
        whole = layer(x)
    model = nn.Sequential(layer)
    for start in (0, 4):
        share_dropout(model, lambda start=start: Rows(start, 4, 8))
        with forked(torch.device("cpu"), 1):
            assert torch.allclose(model(x[start : start + 4]), whole[start : start + 4])
    model.eval()
    assert torch.equal(model(x[:4]), x[:4])


def test_a_step_takes_each_row_once_an_epoch() -> None:
    data = rows(96)
    loop = loop_of(Wide(), data, batch=16)
    n = len(data.split["train"])
    for k in range(n // 16):
        loop.step(k)
    seen = torch.cat(loop.model.seen)
    assert len(seen) == n // 16 * 16 == len(set(seen.tolist()))


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    loop = loop_of(Small(bad=3), rows())
    for k in range(2):
        loop.step(k)
    before = [p.detach().clone() for p in loop.parameters]
    loop.step(2)
    assert all(torch.equal(a, b) for a, b in zip(before, loop.parameters, strict=True))
    loop.step(3)
    assert not any(torch.equal(a, b) for a, b in zip(before, loop.parameters, strict=True))


def test_gradients_are_clipped_to_norm_one() -> None:
    class Steep(Small):
        def _loss(self, batch, rng):
            return 1e6 * super()._loss(batch, rng)

    loop = loop_of(Steep(dropout=0.0), rows())
    loop.step(0)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in loop.players[0].params))
    assert norm == pytest.approx(1.0, rel=1e-4)  # the fused kernel has divided them


class Turned(Small):
    """The gradient of a transposed weight comes with other strides than the weight's."""

    def _build(self):
        self.W = nn.Parameter(torch.linspace(-1, 1, 15).reshape(3, 5))

    def _players(self):
        return [Player("turned", [self.W], self._loss, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)]

    def _loss(self, batch, rng):
        return (self.W.t() * torch.arange(15.0).reshape(5, 3)).sum() + (self.W**3).sum()


def test_steps_are_those_of_a_loop_written_by_hand() -> None:
    loop = loop_of(Turned(), rows(), steps=20)
    W = loop.model.W.detach().clone().requires_grad_()
    average = W.detach().clone()
    optimiser = torch.optim.AdamW([W], lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)
    for k in range(8):
        loop.step(k)
        loss = (W.t() * torch.arange(15.0).reshape(5, 3)).sum() + (W**3).sum()
        (gradient,) = torch.autograd.grad(loss, [W])
        W.grad = (gradient / max(1.0, float(gradient.norm()))).contiguous()
        optimiser.param_groups[0]["lr"] = 0.1 * (1.0 if k < 1 else 0.5 * (1 + math.cos(math.pi * (k - 1) / 19)))
        optimiser.step()
        average.lerp_(W.detach(), 1 - (k + 1) / (k + 10))
    assert torch.allclose(W, loop.model.W, atol=1e-5)
    assert torch.allclose(loop.average[0], average, atol=1e-5)


def test_a_long_fit_averages_every_eighth_step_with_as_much_decay() -> None:
    loop = loop_of(Turned(), rows(), steps=800)
    start = loop.model.W.detach().clone()
    for k in range(8):
        assert torch.equal(loop.average[0], start)
        loop.step(k)
    assert torch.allclose(loop.average[0], start.lerp(loop.model.W.detach(), 1 - (8 / 17) ** 8), atol=1e-5)


def test_every_player_plays_in_its_turn_and_the_others_stay() -> None:
    class Two(Small):
        def _players(self):
            first, last = self.net[0], self.net[3]
            return [
                Player("a", list(first.parameters()), self._loss),
                Player("b", list(last.parameters()), self._loss, every=2),
            ]

    loop = loop_of(Two(), rows())
    weight = loop.model.net[3].weight
    loop.step(0)
    at_0 = weight.detach().clone()
    loop.step(1)
    assert torch.equal(at_0, weight) and loop.period == 2 and loop.counts == [2, 1]
    loop.step(2)
    assert not torch.equal(at_0, weight)
    history = fitted(family=Two).history
    assert all("loss" in line for line in history if line["step"] % 2)
    assert [line["step"] for line in history if "b" in line][:2] == [1, 3]


# best weights


class Table(Model):
    """One free logit for each of 50 codes: with 60 rows it over-fits at once."""

    card = CARD

    def _build(self):
        self.logits = nn.Parameter(torch.zeros(self.space.variables[0].levels))

    def _players(self):
        loss = lambda batch, rng: -self.logits.log_softmax(0)[batch.x[:, 0].long()].mean()  # noqa: E731
        return [Player("table", [self.logits], loss, lr=0.3)]


def test_the_best_weights_by_validation_are_restored_and_the_fit_ends_early() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 50, size=(120, 1)).astype(np.uint8))
    space = Space((1,), (Variable("x", "ordinal", 50),), dtype="uint8")
    data = Data(x, space).splitted(0.1, 0.4)
    model = fitted(data, Table, "400 steps")
    values = [line["valid"] for line in model.history if "valid" in line]
    with torch.no_grad():
        reached = float(model.players()[0].loss(data.part("valid"), Rng(0)))
    assert reached == pytest.approx(min(values), rel=1e-5) and values[-1] > min(values) + 0.1
    assert model.history[-1]["step"] < 400 and len(values) == values.index(min(values)) + 1 + 10


def test_without_validation_rows_the_averaged_weights_are_kept() -> None:
    data = rows()
    data = Data(data.x, data.space, split={**data.split, "valid": torch.empty(0, dtype=torch.long)})
    model = fitted(data)
    assert "valid" not in model.history[-1]
    assert not torch.equal(model.net[0].weight, Small().build(data.space).net[0].weight)


def test_buffers_come_back_with_the_best_weights() -> None:
    model = fitted()
    best = min((line for line in model.history if "valid" in line), key=lambda line: line["valid"])
    assert float(model.count) == best["step"]


def test_closed_forms_are_validated_and_timed() -> None:
    told = []
    data = rows()
    model = pofx.fit(data, Mean, progress=False, report=told.append)
    assert told == model.history and [line["step"] for line in told] == [1, 2]
    assert all("seconds" in line for line in told)
    expected = -float(model.log_prob(data.part("valid").x).value.mean())
    assert told[-1]["valid"] == pytest.approx(expected) and model.record["plan"] is None


def test_an_instance_can_be_fitted_twice() -> None:
    own = Small(width=5)
    first, second = fitted(family=own), fitted(family=own, seed=1)
    assert first is not second and not same(first, second) and not hasattr(own, "space")


def test_energy_distance_is_zero_between_equal_laws_and_not_between_others() -> None:
    z = []
    for seed in range(10):
        rng = Rng(seed)
        u, v = rng.normal((300, 2)), rng.normal((300, 2))
        assert float(energy_distance(u, v + 2)) > 0.5
        z.append(float(energy_distance(u, v)))
    assert abs(np.mean(z)) < 5 * np.std(z) / math.sqrt(10)


# budgets


@pytest.mark.parametrize(
    "text, steps, seconds, clock",
    [
        ("500 steps", 500, None, "wall"), (7, 7, None, "wall"), ("1 step", 1, None, "wall"),
        ("60s", None, 60, "wall"), ("5 min", None, 300, "wall"), ("60 cpu s", None, 60, "cpu"),
        ("60 cpu-s", None, 60, "cpu"), ("1.5h", None, 5400, "wall"), ("90 seconds", None, 90, "wall"),
    ],
)  # fmt: skip
def test_budgets_are_read(text, steps, seconds, clock) -> None:
    assert Budget.parse(text) == Budget(steps, seconds, clock)
    assert Budget.parse(Budget(3)) == Budget(3)


@pytest.mark.parametrize("text", ["", "fast", "-3s", "0 steps", "1.2.3 s", "10 parsecs", "5 cpu steps", 0, None, 2.5])
def test_what_is_no_budget_is_refused(text) -> None:
    with pytest.raises(ValueError, match='expected "500 steps"'):
        fitted(budget=text)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threads": 0}, "threads: got 0"), ({"threads": "many"}, "threads: got 'many'"),
        ({"batch": -1}, "batch: got -1"),
        ({"precision": "half"}, "precision: got 'half'"), ({"device": "tpu"}, "device: got 'tpu'"),
        ({"resume": True}, "needs the folder"), ({"hyper_parameters": {"depth": 1}}, "depth"),
        ({"family": Small(), "hyper_parameters": {"width": 1}}, "already has its own"),
        ({"family": None, "hyper_parameters": {"width": 1}}, "name the family"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        fitted(device="cuda")


def test_data_that_the_family_cannot_learn_from_is_refused() -> None:
    data = rows()
    with pytest.raises(Unsupported, match="missing entries"):
        fitted(Data(data.x, data.space, observed=data.x > -1, split=data.split))

    class Alone(Small):
        card = Card(**{**CARD.__dict__, "given": False})

    label = (torch.zeros(len(data), dtype=torch.long), category(2))
    with pytest.raises(Unsupported, match="learns p\\(x\\) only"):
        fitted(data.with_given({"label": label}), Alone)


class Timed:
    """A trial whose steps last as long as a list says, by a clock of its own."""

    def __init__(self, clock: list[float], times, period: int = 1, validation: float = 0.0):
        self.clock, self.times, self.period, self.validation, self.k = clock, times, period, validation, 0

    def step(self, k: int) -> None:
        self.clock[0] += self.times(self.k)
        self.k += 1

    def validate(self) -> None:
        self.clock[0] += self.validation

    def settle(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch):
    reading = [0.0]
    monkeypatch.setitem(budgets.CLOCKS, "wall", lambda: reading[0])
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: reading[0])
    return reading


@pytest.mark.parametrize("period", [1, 5])
def test_a_budget_in_seconds_is_spent_within_five_percent(clock, period) -> None:
    # every fifth step is dear, some steps stumble, the first ones warm up, a validation costs ten steps
    times = lambda k: 0.01 * (1 + 4 * (k % period == 0)) * (20 if k % 37 == 5 else 1) + 0.5 * (k < 2)  # noqa: E731
    trial = Timed(clock, times, period, 0.1)
    plan = plan_for(lambda precision: trial, Asked(Budget(seconds=60.0), threads=1, precision="32-true"), 16, CPU, 0.0)
    mean = sum(0.01 * (1 + 4 * (k % period == 0)) for k in range(1000)) / 1000
    spent = clock[0] + plan.steps * mean + 20 * 0.1
    assert 0.93 * 60 < spent < 1.02 * 60
    assert clock[0] < 0.1 * 60


def test_dear_validations_take_a_share_of_the_budget_and_no_more(clock) -> None:
    trial = Timed(clock, lambda k: 0.05, 1, 3.0)  # twenty of them would take the whole minute
    plan = plan_for(lambda precision: trial, Asked(Budget(seconds=60.0), threads=1, precision="32-true"), 16, CPU, 0.0)
    assert plan.validations == 2
    assert 0.93 * 60 < clock[0] + plan.steps * 0.05 + plan.validations * 3.0 < 1.02 * 60
    cheap = Timed(clock, lambda k: 0.05, 1, 0.01)
    asked = Asked(Budget(seconds=60.0), threads=1, precision="32-true")
    assert plan_for(lambda precision: cheap, asked, 16, CPU, clock[0]).validations == 20


CPU = torch.device("cpu")


def test_noise_is_measured_for_longer_but_not_for_ever(clock) -> None:
    calm, noisy = [], []
    for collect, spread in ((calm, 0.0), (noisy, 3.0)):
        start = clock[0]
        draws = np.random.default_rng(0).exponential(size=100_000)
        trial = Timed(clock, lambda k, spread=spread, draws=draws: 0.05 * (1 + spread * draws[k]))
        budgets.measure(trial, "wall", 1.0)
        collect.append(clock[0] - start)
    assert 1.0 <= calm[0] < 1.5 and 1.9 < noisy[0] < 4.0


def test_threads_are_tried_only_where_they_can_win_and_must_win_clearly(clock, monkeypatch) -> None:
    monkeypatch.setattr(budgets.torch, "get_num_threads", lambda: 4)
    now = [1]
    monkeypatch.setattr(budgets.torch, "set_num_threads", lambda count: now.__setitem__(0, count))

    def planned(one: float, four: float, **asked) -> Plan:
        seconds = lambda k: one if now[0] == 1 else four  # noqa: E731
        return plan_for(
            lambda precision: Timed(clock, seconds), Asked(Budget(steps=9), precision="32-true", **asked), 16, CPU, 0.0
        )

    assert planned(0.1, 0.04).threads == 4 and len(planned(0.1, 0.04).measured) == 2
    assert planned(0.1, 0.09).threads == 1
    assert len(planned(0.001, 0.0001).measured) == 1  # too short to share
    start = clock[0]
    assert planned(0.01, 30.0).threads == 1 and clock[0] - start < 35  # a hopeless one is given up at once
    assert planned(0.1, 0.04, threads=2) == Plan(9, 16, 2, "32-true", 0.0, 0, "as asked")


def test_cpu_seconds_are_spent_by_one_thread(monkeypatch) -> None:
    monkeypatch.setattr(budgets.torch, "get_num_threads", lambda: 4)
    pairs = budgets._candidates(Asked(Budget(seconds=1, clock="cpu"), precision="32-true"), CPU)
    assert pairs == [(1, "32-true")]


@pytest.mark.parametrize("flags", ["fma amx_bf16 amx_tile", "avx512f avx512_bf16 avx512_vbmi2", "avx512f avx2"])
def test_half_precision_is_tried_where_the_processor_has_it_and_time_counts(flags, tmp_path, monkeypatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags\t\t: fpu {flags}\n")
    monkeypatch.setattr(budgets, "PROCESSOR", info)
    known = ["32-true", "bf16-mixed"] if "bf16" in flags else ["32-true"]
    assert [p for _, p in budgets._candidates(Asked(Budget(seconds=1), threads=1), CPU)] == known
    assert [p for _, p in budgets._candidates(Asked(Budget(steps=9), threads=1), CPU)] == ["32-true"]


def test_a_fit_in_seconds_says_its_plan() -> None:
    model = fitted(budget="0.5 s")
    plan = model.record["plan"]
    assert plan["steps"] == model.history[-1]["step"] or len(model.history) > 10
    assert plan["reason"] and plan["measured"] and plan["batch"] == 16
    assert model.record["seconds"]["wall"] > 0 and model.record["processes"] == 1


# kills, Ctrl-C, divergence

SCRIPT = """
import sys, os
sys.path.insert(0, {tests!r})
import test_training as t
import pofx
if __name__ == "__main__":
    resume, how = sys.argv[2] == "resume", sys.argv[3]
    t.kill_at(how, sys.argv[1])
    pofx.fit(t.rows(), t.Small(sleep=0.002), budget="60 steps", folder=sys.argv[1], resume=resume, progress=False,
             checkpoint_seconds=0.0)
"""


def kill_at(how: str, folder: str) -> None:
    """Arrange for this process to end by SIGKILL (or SIGINT) at one moment of a fit."""
    name, _, when = how.partition(":")
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if name == "step":
        step = Loop.step
        Loop.step = lambda self, k: (k == int(when) and self.plan.reason != "measuring" and die(), step(self, k))[1]
    if name == "interrupt":
        step = Loop.step
        Loop.step = lambda self, k: (k == int(when) and os.kill(os.getpid(), signal.SIGINT), step(self, k))[1]
    if name == "writing":  # half a temporary file is on the disk
        count, whole = [0], os.fsync

        def fsync(handle: int) -> None:
            count[0] += 1
            if count[0] == int(when):
                os.truncate(handle, os.fstat(handle).st_size // 2)
                die()
            whole(handle)

        os.fsync = fsync
    if name == "renamed":  # a whole file has just taken its place
        replace = os.replace
        os.replace = lambda a, b: (replace(a, b), str(b).endswith(when) and die())[0]


def script(tmp_path: Path, folder: Path, mode: str, how: str = "none") -> subprocess.CompletedProcess:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(pofx.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, str(path), str(folder), mode, how],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


@pytest.fixture(scope="module")
def uninterrupted() -> Model:
    return pofx.fit(rows(), Small(), budget="60 steps", progress=False)


def forked_fit(folder: Path, resume: bool, how: str) -> int:
    """A fit in a forked child, which is quicker than a fresh interpreter; its wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            kill_at(how, str(folder))
            pofx.fit(
                rows(), Small(), budget="60 steps", folder=folder, resume=resume, progress=False, checkpoint_seconds=0.0
            )
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


MOMENTS = [
    "step:0", "step:1", "step:37", "step:59", "writing:1", "writing:2", "writing:3", "writing:30", "writing:64",
    "writing:65", "renamed:weights.safetensors", "renamed:history.jsonl", "renamed:model.json",
]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", MOMENTS)
def test_a_killed_fit_goes_on_as_if_nothing_had_happened(tmp_path, how, uninterrupted) -> None:
    folder = tmp_path / "run"
    assert forked_fit(folder, False, how) == signal.SIGKILL
    resumed = pofx.fit(rows(), Small(), budget="60 steps", folder=folder, resume=True, progress=False)
    assert same(resumed, uninterrupted) and untimed(resumed.history) == untimed(uninterrupted.history)
    assert same(pofx.load(folder, families=[Small]), uninterrupted)
    assert untimed(files.read_history(folder)) == untimed(uninterrupted.history)
    assert sorted(p.name for p in folder.iterdir()) == ["history.jsonl", "model.json", "weights.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fit_killed_twice_goes_on_too(tmp_path, uninterrupted) -> None:
    folder = tmp_path / "run"
    assert forked_fit(folder, False, "step:11") == signal.SIGKILL
    assert forked_fit(folder, True, "writing:20") == signal.SIGKILL
    resumed = pofx.fit(rows(), Small(), budget="60 steps", folder=folder, resume=True, progress=False)
    assert same(resumed, uninterrupted) and untimed(resumed.history) == untimed(uninterrupted.history)


@pytest.mark.slow
def test_an_interrupted_program_goes_on_in_a_new_one(tmp_path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    stopped = script(tmp_path, folder, "begin", "interrupt:41")
    assert stopped.returncode != 0 and "resume=True" in stopped.stderr and str(folder) in stopped.stderr
    assert "stopped at step 42 of 60" in stopped.stderr
    done = script(tmp_path, folder, "resume")
    assert done.returncode == 0, done.stderr
    fitted_here = pofx.fit(rows(), Small(sleep=0.002), budget="60 steps", folder=whole, progress=False)
    assert same(pofx.load(folder, families=[Small]), fitted_here)


def test_ctrl_c_is_obeyed_between_two_steps(tmp_path, capsys, monkeypatch, uninterrupted) -> None:
    step, handler = Loop.step, signal.getsignal(signal.SIGINT)

    def interrupted(self: Loop, k: int) -> None:
        if k == 20:
            signal.raise_signal(signal.SIGINT)
        step(self, k)

    monkeypatch.setattr(Loop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(folder=tmp_path / "run")
    assert "stopped at step 21 of 60" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        fitted()
    assert "nothing is kept" in capsys.readouterr().err
    monkeypatch.setattr(Loop, "step", step)
    assert same(fitted(folder=tmp_path / "run", resume=True), uninterrupted)


def test_a_fit_runs_off_the_main_thread() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(fitted(budget="5 steps")))
    thread.start()
    thread.join()
    assert len(found) == 1


@pytest.fixture
def half(tmp_path, monkeypatch) -> Path:
    """The folder of a fit that was stopped half-way."""
    with monkeypatch.context() as patch:
        step = Loop.step
        patch.setattr(Loop, "step", lambda self, k: (k == 30 and signal.raise_signal(signal.SIGINT), step(self, k))[1])
        with pytest.raises(KeyboardInterrupt):
            fitted(folder=tmp_path / "half")
    return tmp_path / "half"


@pytest.mark.parametrize(
    "options, word",
    [
        ({"data": rows(seed=1)}, "another data"), ({"family": Small(width=9)}, "another hyper-parameters"),
        ({"family": Wide}, "another family"), ({"seed": 1}, "another seed"),
        ({"family": None}, "name the family that it was begun with"),
    ],
)  # fmt: skip
def test_another_fit_cannot_go_on_from_a_checkpoint(half, options, word) -> None:
    with pytest.raises(ValueError, match=word):
        fitted(folder=half, resume=True, **options)
    assert fitted(folder=half, resume=True).history[-1]["step"] == 60


def test_a_damaged_checkpoint_is_refused(half) -> None:
    path = half / files.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged, truncated"):
        fitted(folder=half, resume=True)


def test_folders_that_hold_a_run_or_none_are_refused(tmp_path, half) -> None:
    with pytest.raises(ValueError, match="already holds a run"):
        fitted(folder=half)
    with pytest.raises(ValueError, match="no such folder"):
        fitted(folder=tmp_path / "nowhere", resume=True)
    fitted(folder=tmp_path / "done")
    with pytest.raises(ValueError, match="already holds a run"):
        fitted(folder=tmp_path / "done")
    with pytest.raises(ValueError, match="it is finished"):
        fitted(folder=tmp_path / "done", resume=True)


def test_a_fit_that_ended_early_cannot_be_resumed(tmp_path) -> None:
    model = fitted(family=Small(lr=0.0), folder=tmp_path / "run")
    assert model.history[-1]["step"] < 60
    with pytest.raises(ValueError, match="it is finished"):
        fitted(family=Small(lr=0.0), folder=tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_stops_the_fit_and_keeps_the_best_weights(tmp_path) -> None:
    with pytest.raises(Diverged, match="the loss of small is not a finite number by step 40"):
        fitted(family=Small(bad=40), folder=tmp_path / "run")
    model = pofx.load(tmp_path / "run", families=[Small])
    assert model.history[-1]["step"] == 39 and all(bool(p.isfinite().all()) for p in model.parameters())
    best = min(line["valid"] for line in model.history if "valid" in line)
    expected = fitted(budget="60 steps")  # the same until step 39
    assert best == min(line["valid"] for line in expected.history if "valid" in line and line["step"] < 40)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to .*file/run: Not a directory; give a folder"):
        fitted(folder=tmp_path / "file" / "run")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fitted(folder=tmp_path / "full")
    assert "\n" not in str(caught.value) and list((tmp_path / "full").iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_one_line(tmp_path, monkeypatch) -> None:
    whole, count = os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] > 10:
            raise OSError(28, "No space left on device")
        whole(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write .*checkpoint.*No space left on device; make room"):
        fitted(folder=tmp_path / "run", checkpoint_seconds=0.0)
    monkeypatch.setattr(os, "fsync", whole)
    assert fitted(folder=tmp_path / "run", resume=True).history[-1]["step"] == 60


# processes


def test_two_processes_find_the_model_of_one(tmp_path) -> None:
    data = rows(200)
    one = fitted(data, "flow", "12 steps", batch=32)
    two = fitted(data, "flow", "12 steps", batch=32, processes=2, folder=tmp_path / "run")
    assert two.record["processes"] == 2 and len(one.history) == len(two.history)
    for a, b in zip(one.history, two.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a.get("valid") == pytest.approx(
            b.get("valid"), rel=1e-3
        )
    for k, v in one.state_dict().items():
        assert torch.allclose(v.double(), two.state_dict()[k].double(), atol=2e-3), k
    x = data.part("valid").x
    assert torch.allclose(one.log_prob(x).value, two.log_prob(x).value, atol=5e-3)


@pytest.mark.slow
def test_two_processes_drop_resume_and_fail_like_one(tmp_path) -> None:
    one = fitted(rows(), Small, "30 steps", batch=16)
    two = fitted(rows(), Small, "30 steps", batch=16, processes=2, folder=tmp_path / "run")
    for k, v in one.state_dict().items():
        assert torch.allclose(v, two.state_dict()[k], atol=1e-4), k
    with pytest.raises(Diverged, match="not a finite number by step 20"):
        fitted(rows(), Small(bad=20), "30 steps", processes=2, folder=tmp_path / "bad")
    timed = fitted(rows(), Small, "4 s", processes=2, folder=tmp_path / "timed")
    assert timed.record["plan"]["steps"] >= 1 and timed.record["plan"]["measured"]


def test_processes_need_a_folder_and_a_number(tmp_path) -> None:
    with pytest.raises(ValueError, match="processes=2 needs a folder"):
        fitted(processes=2)
    for count in (0, True, 1.5):
        with pytest.raises(ValueError, match="processes: got"):
            fit_in_processes(rows(), Small, count, tmp_path, settings())


def test_closed_forms_need_one_process(tmp_path) -> None:
    assert fitted(family=Mean, processes=2, folder=tmp_path / "run").record["processes"] == 1


# the choice of a family


def bent(n: int = 600) -> Data:
    return pofx.open_data("moons", limit=n, test=50, valid=100)


def test_the_picked_family_validates_best_and_says_so(capsys) -> None:
    found = pick(bent(), settings("60 steps", progress=True))
    assert isinstance(found, Pick) and found.family == max(found.scores, key=found.scores.__getitem__)
    assert {"gaussian", "flow"} <= set(found.scores) and found.scores[found.family] > found.scores["gaussian"] + 0.3
    assert found.family in found.why and "nats a row" in found.why
    assert found.why in capsys.readouterr().err
    assert 0.6 * 60 <= found.budget.steps < 60
    assert json.loads(json.dumps(found.to_json()))["family"] == found.family


def test_a_fit_without_a_family_picks_one_and_remembers_why(tmp_path) -> None:
    model = fitted(bent(), None, "30 steps", folder=tmp_path / "run")
    assert model.record["picked"]["family"] == model.name and model.record["picked"]["scores"]
    assert pofx.load(tmp_path / "run").record["picked"] == model.record["picked"]


def test_an_interrupted_picked_fit_goes_on_with_what_it_picked(tmp_path, monkeypatch) -> None:
    choice = Pick("flow", Budget(steps=12), "for a test", {"flow": 1.0})
    monkeypatch.setattr("pofx.training.fit.pick", lambda data, settings: choice)
    step = Loop.step
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", lambda self, k: (k == 5 and signal.raise_signal(signal.SIGINT), step(self, k))[1])
        with pytest.raises(KeyboardInterrupt):
            fitted(bent(), None, folder=tmp_path / "run")
    monkeypatch.setattr("pofx.training.fit.pick", lambda data, settings: pytest.fail("picked again"))
    model = fitted(bent(), None, folder=tmp_path / "run", resume=True)
    assert model.name == "flow" and model.record["picked"]["why"] == "for a test"


def test_rows_with_gaps_go_to_a_family_that_can(monkeypatch) -> None:
    data = bent(300)
    observed = torch.from_numpy(np.random.default_rng(0).random(data.x.shape) > 0.2)
    found = pick(Data(data.x, data.space, observed=observed, split=data.split), settings("12 steps"))
    assert "gaussian" in found.scores and math.isfinite(found.scores["gaussian"])


def test_picking_needs_validation_rows() -> None:
    data = bent()
    data = Data(data.x, data.space, split={**data.split, "valid": torch.empty(0, dtype=torch.long)})
    with pytest.raises(ValueError, match="needs validation rows"):
        fitted(data, None)


def test_picking_without_any_candidate_says_why(monkeypatch) -> None:
    monkeypatch.setattr("pofx.training.pick.CLOSED", ())
    monkeypatch.setattr("pofx.training.pick.TRAINED", ("gan",))
    with pytest.raises(ValueError, match="no family could be tried"):
        pick(bent(), settings("3 steps"))


# devices


@pytest.mark.gpu
def test_a_fit_on_a_gpu_never_waits_for_it() -> None:
    data = rows(600)
    fabric = fabric_of("cuda")
    model = Small().build(data.space).to(fabric.device)
    loop = Loop(model, Parts.of(data, fabric.device), Plan(100, 16, 1, "32-true", 0.0, 0, "test"), fabric)
    loop.step(0)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for k in range(1, 20):
            loop.step(k)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(fitted(data, device="cuda").history[-1]["loss"])


def test_a_table_tries_trees_too() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 300), rng.integers(0, 8, 300)
    frame = pd.DataFrame({"a": a, "b": b, "c": np.where((a > 3) ^ (b > 3), "x", "y"), "d": (a * b) % 5})
    found = pick(open_data(frame), settings("30 steps"))
    assert "trees" in found.scores, found.left_out
    assert found.family == max(found.scores, key=found.scores.__getitem__)
    assert "trees" not in pick(bent(), settings("30 steps")).scores
