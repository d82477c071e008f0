"""Loop: one step for every player, an average of the weights, validation, checkpoints.

    step k:  rows = permutation(seed, epoch)[k],  rng = (seed, k)      for each player:  g = grad loss;  clip;  AdamW
             average <- d average + (1 - d) weights
             every V steps: validate with the averaged weights and keep the best

The randomness of step k is a function of (seed, k, global row): one process, two processes and a resumed fit see the
same numbers. The learning rate warms up, then falls as a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx import files
from pofx.data import Batch, Data
from pofx.model import Model, Player
from pofx.randomness import Rng, Rows
from pofx.training import state
from pofx.training.budget import Plan
from pofx.training.validation import validate

AVERAGE_EVERY = 8  # averaging all weights costs a pass over them; every eighth step it is not felt
CHECKPOINT_SECONDS = 15.0


class Diverged(RuntimeError):
    """The loss stopped being a finite number; the last good weights are kept."""


class Loop:
    """The state of one fit and its `step`.

    Args:
        model: built; its players are optimised.
        data: its "train" and "valid" parts are used.
        plan: steps, batch rows, precision, seed.
        fabric: devices and processes.
        folder: where checkpoints and history go; None keeps nothing on disk.
        report: called with each line of history.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        plan: Plan,
        fabric: Any,
        folder: Path | None = None,
        report: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self.model, self.plan, self.fabric, self.folder, self.report = model, plan, fabric, folder, report
        self.train = _indexed(data.part("train")).to(fabric.device)
        self.valid = data.part("valid").take(torch.arange(min(512, len(data.part("valid"))))).to(fabric.device)
        self.players = model.players()
        self.optimisers = [_optimiser(p) for p in self.players]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.best: tuple[float, list[Tensor]] = (math.inf, [p.clone() for p in self.average])
        self.k, self.history, self.seconds, self.stale = 0, [], 0.0, 0
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.sums = [torch.zeros((), device=fabric.device) for _ in self.players]
        self.counts = [0] * len(self.players)

    def step(self, k: int) -> None:
        """Optimise every player once on the rows of step k."""
        batch, rows = self._batch(k)
        rng = Rng.derive(self.plan.seed, 2, k, device=self.fabric.device, rows=rows)
        for i, (player, optimiser) in enumerate(zip(self.players, self.optimisers, strict=True)):
            if k % player.every:
                continue
            with self.fabric.autocast():
                loss = player.loss(batch, rng)
            self._descend(player, optimiser, loss, k)
            self.sums[i] += loss.detach()
            self.counts[i] += 1
        if k % AVERAGE_EVERY == AVERAGE_EVERY - 1 or k == self.plan.steps - 1:
            decay = min(0.999, (k + 1) / (k + 10)) ** AVERAGE_EVERY
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def run(self) -> None:
        """Train from the present step to the last, validating, reporting and checkpointing on the way.

        Raises:
            Diverged: the loss is not finite; the model holds the last good weights.
        """
        steps, started = self.plan.steps, time.perf_counter() - self.seconds
        log_every, validate_every = max(1, steps // 100), max(1, steps // 20)
        patience = max(6, 20 // 2)
        saved = time.perf_counter()
        self.model.train()
        while self.k < steps:
            self.step(self.k)
            self.k += 1
            validating = self.k % validate_every == 0 or self.k == steps
            if self.k % log_every == 0 or validating:
                self.seconds = time.perf_counter() - started
                self._log(validating)
            if self.folder is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.perf_counter()
            if self.stale >= patience:
                break
        self.seconds = time.perf_counter() - started

    def finish(self) -> None:
        """Put the best averaged weights into the model."""
        with torch.no_grad():
            for p, best in zip(self.parameters, self.best[1], strict=True):
                p.copy_(best)
        self.model.eval()

    def save(self) -> None:
        """Write the checkpoint (the first process only)."""
        if self.folder is None or self.fabric.global_rank != 0:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for i, (average, best) in enumerate(zip(self.average, self.best[1], strict=True)):
            tensors[f"average.{i}"], tensors[f"best.{i}"] = average, best
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            tensors |= state.optimiser_tensors(player.name, optimiser)
        for i, total in enumerate(self.sums):
            tensors[f"sum.{i}"] = total
        words = {"k": self.k, "best": self.best[0], "seconds": self.seconds, "plan": self.plan.to_json()}
        words |= {"stale": self.stale, "counts": self.counts}
        files.save_tensors(self.folder / files.CHECKPOINT, tensors, words)

    def restore(self, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
        """Go back to a checkpoint."""
        device = self.fabric.device
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        state.load_weights(self.model, weights)
        for i, p in enumerate(self.average):
            p.copy_(tensors[f"average.{i}"])
        self.best = (words["best"], [tensors[f"best.{i}"].to(device) for i in range(len(self.average))])
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            state.load_optimiser(player.name, optimiser, tensors)
        self.sums = [tensors[f"sum.{i}"].to(device) for i in range(len(self.players))]
        self.k, self.seconds, self.stale, self.counts = (words[k] for k in ("k", "seconds", "stale", "counts"))
        if self.folder is not None and self.fabric.global_rank == 0:
            self.history = files.read_history(self.folder, until=self.k)
            files.rewrite_history(self.folder, self.history)

    def _descend(self, player: Player, optimiser: torch.optim.Optimizer, loss: Tensor, k: int) -> None:
        grads = torch.autograd.grad(loss, player.params, allow_unused=True)
        for p, g in zip(player.params, grads, strict=True):
            p.grad = torch.zeros_like(p) if g is None else g
        own = [p.grad for p in player.params if p.grad is not None]
        if self.fabric.world_size > 1:
            flat = self.fabric.all_reduce(torch.cat([g.flatten() for g in own]), reduce_op="mean")
            for g, mean in zip(own, flat.split([g.numel() for g in own]), strict=True):
                g.copy_(mean.view_as(g))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(own)))
        torch._foreach_mul_(own, (1.0 / norm.clamp_min(1.0)).nan_to_num(0.0, 0.0, 0.0))
        optimiser.param_groups[0]["lr"] = player.lr * _schedule(k, self.plan.steps)
        optimiser.step()

    def _batch(self, k: int) -> tuple[Batch, Rows]:
        n, size = len(self.train), min(self.plan.batch, len(self.train))
        per_epoch = n // size
        epoch, position = divmod(k, per_epoch)
        if self.order[0] != epoch:
            order = Rng.derive(self.plan.seed, 1, epoch).permutation(n)
            self.order = (epoch, order.to(self.fabric.device))
        local = size // self.fabric.world_size
        first = position * size + self.fabric.global_rank * local
        rows = Rows(self.fabric.global_rank * local, local, local * self.fabric.world_size)
        return self.train.take(self.order[1][first : first + local]), rows

    def _log(self, validating: bool) -> None:
        line: dict[str, Any] = {"step": self.k}
        means = [float(total) / max(1, count) for total, count in zip(self.sums, self.counts, strict=True)]
        line |= {p.name if i else "loss": m for i, (p, m) in enumerate(zip(self.players, means, strict=True))}
        if not all(math.isfinite(m) for m in means):
            raise Diverged(
                f"the loss became {means[0]} at step {self.k}; the best weights so far are kept. Try a lower lr."
            )
        for total in self.sums:
            total.zero_()
        self.counts = [0] * len(self.players)
        if validating:
            line["valid"] = self._validate()
        line["seconds"] = round(self.seconds, 3)
        self.history.append(line)
        if self.fabric.global_rank == 0:
            if self.folder is not None:
                files.append_history(self.folder, line)
            self.report(line)

    def _validate(self) -> float:
        with self._averaged():
            value = validate(self.model, self.players[0], self.valid, self.plan.seed)
        if value < self.best[0]:
            self.best, self.stale = (value, [p.clone() for p in self.average]), 0
        else:
            self.stale += 1
        return value

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        raw = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
            self.model.eval()
            yield
            torch._foreach_copy_(self.parameters, raw)
            self.model.train()


def _schedule(k: int, steps: int) -> float:
    warm = min(200, max(1, steps // 20))
    if k < warm:
        return (k + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (k - warm) / max(1, steps - warm)))


def _optimiser(player: Player) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        player.params, lr=player.lr, betas=player.betas, weight_decay=player.weight_decay, eps=1e-8, fused=True
    )


def _indexed(batch: Batch) -> Batch:
    return Batch(batch.x, batch.given, batch.observed, torch.arange(len(batch)))
