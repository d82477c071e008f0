"""Loop: one step for every player, an average of the weights, validation, checkpoints.

    step k:  rows = permutation(seed, epoch)[k],  rng = (seed, k)      for each player:  g = grad loss;  clip;  AdamW
             average <- d average + (1 - d) weights
             every V steps: validate with the averaged weights and keep the best

The randomness of step k is a function of (seed, k, global row): one process, two processes and a resumed fit see the
same numbers. The learning rate warms up, then falls as a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).
Nothing in a step waits for a device: losses are summed there, clipping and the skipping of a step whose gradient is
not finite happen inside the optimiser's kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx import files
from pofx.data import Batch, Data
from pofx.model import Model, Player
from pofx.randomness import Rng, Rows
from pofx.training import state
from pofx.training.budget import VALIDATIONS, Plan
from pofx.training.collapse import Watch
from pofx.training.signals import Stop
from pofx.training.streams import forked, share_dropout
from pofx.training.validation import ROWS, validate

AVERAGE_EVERY = 8  # averaging all weights costs a pass over them; every eighth step it is not felt
PATIENCE = VALIDATIONS // 2  # validations without a better one until the fit ends early
LINES = 100  # of history
Augment = Callable[[Batch, Rng], Batch]


class Diverged(RuntimeError):
    """The loss stopped being a finite number; the last good weights are kept."""


@dataclass(frozen=True)
class Parts:
    """The rows that a loop sees, on its device; `train.index` numbers them; `paired`: their givens belong to them."""

    train: Batch
    valid: Batch
    paired: bool = True

    @classmethod
    def of(cls, data: Data, device: torch.device) -> Parts:
        """The training part, and the head of the validation part."""
        train, valid = (data.part(name) for name in ("train", "valid"))
        train = Batch(train.x, train.given, train.observed, torch.arange(len(train)))
        return cls(train.to(device), valid.take(torch.arange(min(ROWS, len(valid)))).to(device), data.paired)


class Loop:
    """The state of one fit and its `step`.

    Args:
        model: built; its players are optimised.
        parts: the rows.
        plan: steps, batch rows, precision, seed.
        fabric: devices and processes.
        folder: where checkpoints and history go; None keeps nothing on disk.
        report: called with each line of history.
        identity: what a checkpoint must agree on to be resumed.
        every: seconds between checkpoints.
        augment: changes the rows of every training step.
        past: lines of history of earlier stages.
    """

    def __init__(
        self,
        model: Model,
        parts: Parts,
        plan: Plan,
        fabric: Any,
        folder: Path | None = None,
        report: Callable[[dict[str, Any]], None] = lambda line: None,
        identity: dict[str, Any] | None = None,
        every: float = 15.0,
        augment: Augment | None = None,
        past: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.model, self.parts, self.plan, self.fabric = model, parts, plan, fabric
        self.folder, self.report, self.identity, self.every = folder, report, identity or {}, every
        self.augment = augment
        self.players = model.players()
        self.optimisers = [_optimiser(p) for p in self.players]
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.best: tuple[float, dict[str, Tensor] | None] = (math.inf, None)
        self.k, self.seconds, self.stale = 0, 0.0, 0
        self.history: list[dict[str, Any]] = list(past)
        self.before = past[-1] if past else {"step": 0, "seconds": 0.0}
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.other: tuple[int, Tensor] = (-1, torch.empty(0))
        self.sums = [torch.zeros((), device=fabric.device) for _ in self.players]
        self.counts = [0] * len(self.players)
        self.period = math.lcm(*(p.every for p in self.players))
        self.size = min(plan.batch, len(parts.train))
        self.rows = _rows(self.size, fabric)
        if fabric.world_size > 1:
            share_dropout(model, lambda: self.rows)
        self.watch = Watch.of(model, parts.train, plan.seed) if len(parts.valid) else None
        self.autocast = contextlib.nullcontext if plan.precision == "32-true" else fabric.autocast
        model.train()

    def step(self, k: int) -> None:
        """Optimise every player once on the rows of step k."""
        seed, device = self.plan.seed, self.fabric.device
        batch = self._batch(k)
        rng = Rng.derive(seed, 2, k, device=device, rows=self.rows)
        with forked(device, seed, 4, k):
            if self.augment is not None:
                batch = self.augment(batch, Rng.derive(seed, 5, k, device=device, rows=self.rows))
            for i, (player, optimiser) in enumerate(zip(self.players, self.optimisers, strict=True)):
                if k % player.every:
                    continue
                with self.autocast():
                    loss = player.loss(batch, rng)
                self._descend(player, optimiser, loss, k)
                self.sums[i] += loss.detach()
                self.counts[i] += 1
        every = AVERAGE_EVERY if self.plan.steps >= 100 * AVERAGE_EVERY else 1
        if k % every == every - 1 or k == self.plan.steps - 1:
            decay = min(0.999, (k + 1) / (k + 10)) ** every
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def run(self) -> None:
        """Train from the present step to the last, validating, reporting and checkpointing on the way.

        Raises:
            Diverged: the loss is not finite. KeyboardInterrupt: Ctrl-C, after the step that it met was finished.
        """
        steps, started = self.plan.steps, time.perf_counter() - self.seconds
        log_every, validate_every = max(1, steps // LINES), max(1, steps // self.plan.validations)
        saved = time.perf_counter()
        with Stop() as stop:
            while self.k < steps and self.stale < PATIENCE:
                self.step(self.k)
                self.k += 1
                self.seconds = time.perf_counter() - started
                validating = self.k % validate_every == 0 or self.k == steps
                logging = self.k % log_every == 0 or validating
                if logging:
                    self._log(validating)
                now = time.perf_counter()
                due = self._agreed(now - saved > self.every, logging)
                stopping = self._agreed(stop.asked, logging)
                if due or stopping:
                    self.save()
                    saved = now
                if stopping:
                    raise KeyboardInterrupt

    def finish(self) -> None:
        """Put the best averaged weights into the model."""
        if self.best[1] is not None:
            state.load_weights(self.model, self.best[1])
        else:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.average)
        for p in self.parameters:
            p.grad = None
        self.model.eval()
        self.model.history, self.model.record = self.history, {"plan": self.plan.to_json()}

    def validate(self) -> float | None:
        """The validation value of the averaged weights; the best weights are kept."""
        if len(self.parts.valid) == 0 or self.model.validate_by == "none":
            return None
        with self._averaged():
            chunk = max(64, self.plan.batch)
            value = validate(self.model, self.players[0], self.parts.valid, self.plan.seed, chunk, self.watch)
            if value < self.best[0] or self.best[1] is None:
                best = value if math.isfinite(value) else math.inf
                self.best, self.stale = (best, state.weights_of(self.model)), 0
            else:
                self.stale += 1
        return value

    def settle(self) -> None:
        """Wait until the device has done what was asked of it."""
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)

    def save(self) -> None:
        """Write the checkpoint (the first process only)."""
        if self.folder is None or self.fabric.global_rank != 0:
            return
        words = {"identity": self.identity, "plan": self.plan.to_json(), "k": self.k, "seconds": self.seconds}
        words |= {"best": self.best[0], "stale": self.stale, "counts": self.counts, "history": self.history}
        words["before"] = self.before
        files.save_tensors(
            self.folder / files.CHECKPOINT, self._tensors() if self.k or self.before["step"] else {}, words
        )

    def restore(self, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
        """Go back to a checkpoint.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        self.history = words["history"]
        if self.folder is not None and self.fabric.global_rank == 0:
            files.rewrite_history(self.folder, self.history)
        self.before = words["before"]
        if not tensors:
            return
        device = self.fabric.device
        state.load_weights(self.model, state.under("model.", tensors))
        for average, saved in zip(self.average, _numbered("average", tensors), strict=True):
            average.copy_(saved)
        best = {k: v.to(device) for k, v in state.under("best.", tensors).items()}
        self.best = (words["best"], best or None)
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            state.load_optimiser(player.name, optimiser, tensors)
        self.sums = [t.to(device) for t in _numbered("sum", tensors)]
        self.k, self.seconds, self.stale, self.counts = (words[k] for k in ("k", "seconds", "stale", "counts"))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best[1] or {}).items()}
        tensors |= {f"average.{i}": v for i, v in enumerate(self.average)}
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            tensors |= state.optimiser_tensors(player.name, optimiser)
        return tensors | {f"sum.{i}": v for i, v in enumerate(self.sums)}

    def _agreed(self, own: bool, logging: bool) -> bool:
        """What the first process thinks. Several ask it at lines of history only, for asking makes all wait."""
        return own if self.fabric.world_size == 1 else logging and self.fabric.broadcast(own)

    def _descend(self, player: Player, optimiser: Any, loss: Tensor, k: int) -> None:
        for p in player.params:
            p.grad = None
        loss.backward(inputs=player.params)  # the other players' gradients stay as they are
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in player.params]
        if self.fabric.world_size > 1:
            flat = self._shared(torch.cat([g.flatten() for g in own]))
            means = flat.split([g.numel() for g in own])
            own = [g.copy_(m.view(g.shape)) for g, m in zip(own, means, strict=True)]  # in the strides of p
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(own))).float()
        for p, g in zip(player.params, own, strict=True):
            p.grad = g
        optimiser.param_groups[0]["lr"] = player.lr * _schedule(k, self.plan.steps)
        if norm.device.type == "cpu":  # reading a number waits for nothing here, and dividing beforehand is cheaper
            if math.isfinite(size := float(norm)):
                torch._foreach_mul_(own, 1 / max(1.0, size))
                optimiser.step()
            return
        # the fused kernel divides by grad_scale and leaves everything as it is where found_inf is 1
        optimiser.grad_scale, optimiser.found_inf = norm.clamp_min(1.0), (~norm.isfinite()).float()
        optimiser.step()

    def _shared(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.fabric.world_size == 1:
            return tensor
        return self.fabric.all_reduce(tensor, reduce_op="mean")

    def _batch(self, k: int) -> Batch:
        n = len(self.parts.train)
        epoch, position = divmod(k, n // self.size)
        if self.order[0] != epoch:
            order = Rng.derive(self.plan.seed, 1, epoch).permutation(n)
            self.order = (epoch, order.to(self.fabric.device))
        first = position * self.size + self.rows.start
        batch = self.parts.train.take(self.order[1][first : first + self.rows.count])
        return batch if self.parts.paired else dataclasses.replace(batch, given=self._strangers(epoch, first))

    def _strangers(self, epoch: int, first: int) -> dict[str, Tensor]:
        """Givens in an order of their own, for rows that they do not belong to."""
        if self.other[0] != epoch:
            order = Rng.derive(self.plan.seed, 8, epoch).permutation(len(self.parts.train))
            self.other = (epoch, order.to(self.fabric.device))
        rows = self.other[1][first : first + self.rows.count]
        return {name: v[rows] for name, v in self.parts.train.given.items()}

    def _log(self, validating: bool) -> None:
        means = (self._shared(torch.stack(self.sums)) / torch.tensor(self.counts, device=self.fabric.device)).tolist()
        line: dict[str, Any] = {"step": self.before["step"] + self.k}
        line |= {p.name if i else "loss": means[i] for i, p in enumerate(self.players) if self.counts[i]}
        odd = [p.name for i, p in enumerate(self.players) if self.counts[i] and not math.isfinite(means[i])]
        if odd:
            raise Diverged(
                f"the loss of {odd[0]} is not a finite number by step {self.k}; the best weights so far are kept. "
                "Try a lower lr, another seed, or look for odd values in the data."
            )
        for total in self.sums:
            total.zero_()
        self.counts = [0] * len(self.players)
        if validating and (valid := self.validate()) is not None:
            line["valid"] = valid
            line |= {} if self.watch is None else self.watch.found
        line["seconds"] = round(self.before["seconds"] + self.seconds, 3)
        self.history.append(line)
        if validating and self.watch and (warning := self.watch.warning(self.history, self.k, self.plan.steps)):
            line["warning"] = warning
        if self.fabric.global_rank == 0:
            if self.folder is not None:
                files.append_history(self.folder, line)
            self.report(line)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        raw = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
            self.model.eval()
            try:
                yield
            finally:
                torch._foreach_copy_(self.parameters, raw)
                self.model.train()


def _numbered(name: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """The tensors name.0, name.1, ... in order."""
    found = state.under(f"{name}.", tensors)
    return [found[str(i)] for i in range(len(found))]


def _rows(size: int, fabric: Any) -> Rows:
    """The part of each global batch that this process holds."""
    count = size // fabric.world_size
    return Rows(fabric.global_rank * count, count, count * fabric.world_size)


def _schedule(k: int, steps: int) -> float:
    warm = min(200, max(1, steps // 20))
    if k < warm:
        return (k + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (k - warm) / max(1, steps - warm)))


def _optimiser(player: Player) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        player.params, lr=player.lr, betas=player.betas, weight_decay=player.weight_decay, eps=1e-8, fused=True
    )
