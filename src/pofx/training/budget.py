"""Budget and plan: how long to train, with how many threads and in which precision, decided once by a short measurement.

A budget in seconds becomes a step count: (seconds - spent) / (seconds a step), measured on a copy of the model that is
thrown away. Candidates are one thread and all threads, float32 and, where the processor multiplies bfloat16 in hardware,
bf16; the fastest wins, and the plan says so. The plan is stored in the checkpoint, so a resumed fit repeats it.
"""

from __future__ import annotations

import copy
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WORDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "min": 60.0, "minutes": 60.0, "h": 3600.0, "m": 60.0}


@dataclass(frozen=True)
class Budget:
    """How long a fit may take: a number of steps, or seconds by a clock ("wall" or "cpu")."""

    steps: int | None = None
    seconds: float | None = None
    clock: str = "wall"

    @classmethod
    def parse(cls, text: str | int | float | Budget) -> Budget:
        """A budget from "500 steps", "60s", "5 min", "60 cpu s", or an int number of steps.

        Raises:
            ValueError: it is none of these, or not positive.

        >>> Budget.parse("2 min").seconds
        120.0
        """
        if isinstance(text, Budget):
            return text
        if isinstance(text, int):
            text = f"{text} steps"
        found = re.fullmatch(r"\s*([\d.]+)\s*(cpu)?\s*-?\s*([a-z]+)\s*", str(text).lower())
        amount = float(found[1]) if found and re.fullmatch(r"\d*\.?\d+\.?", found[1]) else 0.0
        if found and amount > 0 and found[3] in ("step", "steps"):
            return cls(steps=max(1, int(amount)))
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

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def candidates(threads: int | str, precision: str, device: torch.device) -> list[tuple[int, str]]:
    """The (threads, precision) pairs worth measuring."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = sorted({1, cores}) if threads == "auto" else [int(threads)]
    precisions = [precision]
    if precision == "auto":
        precisions = ["32-true"] + (["bf16-mixed"] if _multiplies_bf16(device) else [])
    return [(t, p) for t in (counts if device.type == "cpu" else counts[:1]) for p in precisions]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(f in flags.read_text() for f in ("amx_bf16", "avx512_bf16"))


def measure(step: Callable[[int], None], clock: str, seconds: float) -> float:
    """Median seconds of one step, over at least three steps after one warm-up."""
    now, times = CLOCKS[clock], []
    step(0)
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        start = now()
        step(len(times) + 1)
        times.append(now() - start)
    return sorted(times)[len(times) // 2]


def plan_for(
    make_step: Callable[[Any, str], Callable[[int], None]],
    model: torch.nn.Module,
    budget: Budget,
    batch: int,
    seed: int,
    threads: int | str,
    precision: str,
    device: torch.device,
    started: float,
) -> Plan:
    """Measure the candidates on copies of the model and settle threads, precision and steps.

    Args:
        make_step: (model, precision) -> a function that runs training step k.
        started: reading of the budget's clock when the fit began, so that what was spent counts.
    """
    pairs = candidates(threads, precision, device)
    if budget.steps is not None and len(pairs) == 1:
        return Plan(budget.steps, batch, *pairs[0], 0.0, seed, "as asked", budget.clock)
    times: dict[tuple[int, str], float] = {}
    each = min(2.0, 0.03 * (budget.seconds or 40.0)) / len(pairs)
    for count, word in pairs:
        torch.set_num_threads(count)
        times[count, word] = measure(make_step(copy.deepcopy(model), word), budget.clock, each)
    best = _fastest(times)
    named = {f"{t} thread{'s' * (t > 1)}, {p}": s for (t, p), s in times.items()}
    reason = f"fastest of {len(pairs)} measured" if len(pairs) > 1 else "as asked"
    steps = budget.steps
    if steps is None:
        left = (budget.seconds or 0.0) - (CLOCKS[budget.clock]() - started)
        steps = max(1, int(0.93 * left / max(times[best], 1e-9)))  # the rest validates and saves
    return Plan(steps, batch, *best, times[best], seed, reason, budget.clock, named)


def _fastest(times: dict[tuple[int, str], float]) -> tuple[int, str]:
    best = min(times, key=times.__getitem__)
    # more threads must win clearly: on a half-busy machine they can turn several times slower
    one = min((p for p in times if p[0] == 1), key=times.__getitem__, default=best)
    return one if times[best] > 0.8 * times[one] else best
