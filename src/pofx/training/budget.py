"""Budget and plan: how long to train, with how many threads and in which precision, settled by a short measurement.

    steps = (seconds - spent - validations x seconds of one) / (seconds of a step)

measured on a copy of the model that is thrown away. One thread in float32 is measured first; all of torch's threads,
and bf16 where the processor multiplies it in hardware, are tried only where a step is long enough for them to win, and
must win clearly. So many steps, on a processor, stay in float32: who counts them wants the same numbers again. The plan
is stored in the checkpoint, so a resumed fit repeats it.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WORDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
PRECISIONS = ("auto", "32-true", "bf16-mixed")
VALIDATIONS, VALIDATING = 20, 0.15  # of one fit: as many, or fewer that take this share of the budget
PROCESSOR = Path("/proc/cpuinfo")
SHORT = 3e-3  # seconds of a step below which sharing it between threads, or halving its numbers, wins nothing
NOISE = 0.2  # distance of the quartiles of a measurement, over its median, above which it is repeated
MARGIN = 0.8  # another plan must take less than this share of the time: a half-busy machine makes threads much slower


@dataclass(frozen=True)
class Budget:
    """How long a fit may take: a number of steps, or seconds by a clock ("wall" or "cpu")."""

    steps: int | None = None
    seconds: float | None = None
    clock: str = "wall"

    @classmethod
    def parse(cls, text: str | int | Budget) -> Budget:
        """A budget from "500 steps", "60s", "5 min", "60 cpu s", or an int number of steps.

        Raises:
            ValueError: it is none of these, or not positive.

        >>> Budget.parse("2 min").seconds
        120.0
        """
        if isinstance(text, Budget):
            return text
        words = f"{text} steps" if isinstance(text, int) else str(text).lower()
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(cpu)?[\s-]*([a-z]+)\s*", words)
        amount = float(found[1]) if found else 0.0
        if found and amount >= 1 and found[3] in ("step", "steps") and not found[2]:
            return cls(steps=int(amount))
        if found and amount > 0 and found[3] in WORDS:
            return cls(seconds=amount * WORDS[found[3]], clock="cpu" if found[2] else "wall")
        raise ValueError(f'budget: got {text!r}; expected "500 steps", "60s", "5 min" or "60 cpu s".')


@dataclass(frozen=True)
class Plan:
    """What the measurement decided: steps, batch rows, threads, precision, and the seconds of one step."""

    steps: int
    batch: int
    threads: int
    precision: str
    seconds_per_step: float
    seed: int
    reason: str
    clock: str = "wall"
    measured: dict[str, float] = field(default_factory=dict)
    validations: int = 20

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


class Trial(Protocol):
    """A thing that can run a training step and one validation, such as a Loop on a copy of the model."""

    period: int

    def step(self, k: int) -> None:
        """Training step k."""

    def validate(self) -> object:
        """One validation."""

    def settle(self) -> None:
        """Wait until what was asked for is done."""


@dataclass(frozen=True)
class Asked:
    """What the user asked of a plan: budget, seed, batch rows (None: the family's), threads, precision (or "auto")."""

    budget: Budget
    seed: int = 0
    batch: int | None = None
    threads: int | str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, value, free in (("threads", self.threads, "auto"), ("batch", self.batch, None)):
            if value != free and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: got {value!r}; expected a whole number from 1 on, or {free!r}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}; expected one of {', '.join(PRECISIONS)}.")


def plan_for(
    trial: Callable[[str], Trial],
    asked: Asked,
    batch: int,
    device: torch.device,
    started: float,
    agree: Callable[[Any], Any] = lambda own: own,
) -> Plan:
    """Measure on copies of the model and settle threads, precision and steps.

    Args:
        trial: precision -> a Trial on a fresh copy of the model.
        started: the reading of the budget's clock when the fit began, so that what was spent counts.
        agree: in a data-parallel fit, what the first process thinks.
    """
    budget, pairs = asked.budget, _candidates(asked, device)
    if budget.steps is not None and len(pairs) == 1:
        return Plan(budget.steps, batch, *pairs[0], 0.0, asked.seed, "as asked", budget.clock)
    each = min(2.0, 0.03 * (budget.seconds or 20.0))
    times: dict[tuple[int, str], float] = {}
    trials: dict[tuple[int, str], Trial] = {}
    for pair in pairs:
        if times and min(times.values()) < SHORT:
            break
        torch.set_num_threads(pair[0])
        trials[pair] = one = trial(pair[1])
        times[pair] = measure(one, budget.clock, each, agree, min(times.values(), default=math.inf))
    best = _fastest(times)
    reason = f"fastest of {len(times)} measured" if len(times) > 1 else "as asked" if len(pairs) == 1 else "short steps"
    torch.set_num_threads(best[0])
    fitting = (budget.steps, VALIDATIONS) if budget.steps else _steps(trials[best], budget, started, times[best])
    steps, validations = fitting
    named = {f"{t} thread{'s' * (t > 1)}, {p}": s for (t, p), s in times.items()}
    return Plan(steps, batch, *best, times[best], asked.seed, reason, budget.clock, named, validations)


def measure(
    trial: Trial, clock: str, seconds: float, agree: Callable[[Any], Any] = lambda own: own, best: float = math.inf
) -> float:
    """Seconds of one step: the median over groups of steps, measured again for longer where the groups disagree.

    A group is as many steps as it takes for every player to have played, and about 20 ms; the first steps warm up.
    It ends at once where a first look is hopeless against the best so far.
    """
    now, groups, k = CLOCKS[clock], [], trial.period
    first = agree(_group(trial, now, 0, trial.period))
    if first > 10 * best or (first := agree(_group(trial, now, k, trial.period))) > 1.5 * best:
        return first
    size = trial.period * max(1, round(0.02 / (first * trial.period)))
    end, again = time.perf_counter() + seconds, 2
    while True:
        k += size
        groups.append(_group(trial, now, k - k % trial.period, size))
        late = time.perf_counter() > end
        if agree(late and (len(groups) >= 3 or time.perf_counter() > end + seconds)):
            if not agree(again > 0 and _spread(groups) > NOISE):
                return statistics.median(groups)
            again, end = again - 1, time.perf_counter() + seconds / 2


def _group(trial: Trial, now: Callable[[], float], k: int, size: int) -> float:
    start = now()
    for i in range(size):
        trial.step(k + i)
    trial.settle()
    return max(1e-7, (now() - start) / size)


def _spread(times: list[float]) -> float:
    """The distance of the quartiles over the median."""
    if len(times) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def _steps(trial: Trial, budget: Budget, started: float, seconds: float) -> tuple[int, int]:
    """The steps that fit into what is left of the budget, and the validations between them."""
    now, total = CLOCKS[budget.clock], budget.seconds or 0.0
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < 0.01 * total):  # the first warms up, if it is not dear
        start = now()
        trial.validate()
        times.append(now() - start)
    left = total - (now() - started)
    left *= 0.98  # saving, and the steps' own spread
    count = max(2, min(VALIDATIONS, math.floor(VALIDATING * left / max(min(times), 1e-9))))
    steps = (left - count * min(times)) / seconds
    if steps < count:  # then a validation follows every step
        steps = left / (seconds + min(times))
    return max(1, math.floor(steps)), count


def _candidates(asked: Asked, device: torch.device) -> list[tuple[int, str]]:
    """The (threads, precision) pairs that may be worth measuring; the safest first."""
    counts = [1] if asked.threads == "auto" else [int(asked.threads)]
    most = torch.get_num_threads()  # what the caller set, or the number of cores
    if asked.threads == "auto" and most > 1 and device.type == "cpu" and asked.budget.clock == "wall":
        counts.append(most)  # by CPU seconds, more threads never win
    precisions = [asked.precision]
    if asked.precision == "auto":
        counted = asked.budget.steps is not None and device.type == "cpu"
        precisions = ["32-true"] + (["bf16-mixed"] if not counted and _multiplies_bf16(device) else [])
    return [(t, p) for p in precisions for t in counts]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return PROCESSOR.exists() and bool({"amx_bf16", "avx512_bf16"} & set(PROCESSOR.read_text().split()))


def _fastest(times: dict[tuple[int, str], float]) -> tuple[int, str]:
    """The safest pair, unless another wins clearly."""
    safest, best = next(iter(times)), min(times, key=times.__getitem__)
    return best if times[best] < MARGIN * times[safest] else safest
