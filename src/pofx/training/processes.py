"""Processes: one fit shared by several processes of this machine, each with its rows of every batch (data-parallel).

    g = mean over processes of g_i,   each g_i over batch / processes rows

Every process holds the same weights and draws the numbers of its own rows of the global batch, so that the model is
the one that a single process finds, up to the order of sums. They talk over the loopback device alone; the first one
writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from pofx.data import Data
from pofx.model import Model, Unsupported
from pofx.training.budget import CLOCKS, Asked
from pofx.training.folder import load
from pofx.training.loop import Diverged
from pofx.training.run import Settings, built, fabric_of, finished, run

PASSED_ON = {error.__name__: error for error in (Diverged, Unsupported, ValueError, OSError, KeyboardInterrupt)}
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def fit_in_processes(
    data: Data, family: str | type[Model] | Model, processes: int, target: Path | None, settings: Settings
) -> Model:
    """`fit` by several processes; returns the model that the first one wrote to the folder `target`.

    Raises:
        ValueError: no folder, or a number of processes that is none. Else what a process raised.
    """
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes: got {processes!r}; expected a whole number from 1 on.")
    if target is None:
        raise ValueError(f"processes={processes} needs a folder: the model comes back through it.")
    settings = replace(settings, asked=_each(settings.asked, processes), start=_spent(settings, processes))
    own = family if isinstance(family, type) else type(family.core) if isinstance(family, Model) else None
    own = own or type(built(family, data, 0, settings.hyper_parameters).core)
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with _environment(processes):
        context = torch.multiprocessing.spawn(
            _work, (processes, data, family, settings, queue), nprocs=processes, join=False
        )
    try:
        _wait(context)
    except KeyboardInterrupt:
        os.kill(context.pids()[0], signal.SIGINT)  # a terminal has told it already, another sender may not have
        with contextlib.suppress(Exception):
            _wait(context)
        raise
    except Exception as error:
        if queue.empty():
            raise RuntimeError(f"a process of the fit ended: {str(error).strip()}") from error
        name, message = queue.get()
        raise PASSED_ON.get(name, RuntimeError)(message) from error
    return load(target, families=[own])


def _wait(context: Any) -> None:
    while not context.join():
        pass


def _work(rank: int, processes: int, data: Data, family: Any, settings: Settings, queue: Any) -> None:
    """What each process does."""
    os.environ["LOCAL_RANK"] = str(rank)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = fabric_of(settings.device, devices=processes, strategy="ddp")
        fabric.launch()
        model = built(family, data, settings.asked.seed, settings.hyper_parameters)
        run(model, data, settings, fabric)
        if rank == 0:
            finished(model, data, settings, fabric)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        if rank == 0:
            queue.put((type(error).__name__, str(error)))
        raise


def _each(asked: Asked, processes: int) -> Asked:
    """What is asked of each process: one thread, its share of the CPU seconds."""
    budget = asked.budget
    if budget.clock == "cpu" and budget.seconds is not None:
        budget = replace(budget, seconds=budget.seconds / processes)
    precision = "32-true" if asked.precision == "auto" else asked.precision
    return replace(asked, budget=budget, threads=1, precision=precision)


def _spent(settings: Settings, processes: int) -> dict[str, float]:
    """The readings of a process's clocks at which the fit began: its CPU clock starts at 0, the wall clock is ours."""
    cpu = CLOCKS["cpu"]() - settings.start["cpu"]
    return {"wall": settings.start["wall"], "cpu": -cpu / processes}


@contextlib.contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Within, a process that is started knows whom to meet, and over the loopback device only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK,
        "NODE_RANK": "0", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in words}
    os.environ.update(words)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
