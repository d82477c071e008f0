"""Distilled: a diffusion that draws in a few network calls.

    u_k at node k of a path, a_k, s_k        the teacher takes several Heun steps from node k to node k + 1:  u_{k+1}
    D*  such that one DDIM step lands there: u_{k+1} = a_{k+1} D* + s_{k+1} (u_k - a_k D*) / s_k
    loss = w_k |D_student(u_k) - D*|^2,   w_k = max(1, a_k^2 / s_k^2)

This is one stage of progressive distillation whose teacher takes many steps for one of the student, so that no error is
handed on from stage to stage; u_k are noisy rows of the data. What the student says is where a path leads, no longer
E[u | u_t]: it draws, and offers nothing else. The teacher may be guided; its guidance is then distilled too.

References: progressive distillation (Salimans 2022, arXiv:2202.00512); of guided models (Meng 2022, arXiv:2210.03142);
of whole paths (Luhman 2021, arXiv:2101.02388).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pofx.data import Batch, Data
from pofx.engines.diffusion import ddim, heun_step, nodes, prior
from pofx.engines.paths import Path, path_of
from pofx.model import Given, Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.wrappers.base import Wrapped

Node = tuple[float, float]


class Distilled(Wrapped):
    """A student that goes from node to node of a path by DDIM steps.

    Args:
        inner: a built model with `denoise`, whose weights become the student's.
        steps: network calls of a draw.
        path: "vp", "vp-linear" or "linear"; see `engines.paths`.

    Raises:
        Unsupported: the model has no denoise, or no weights to train. ValueError: fewer than one step, unknown path.
    """

    def __init__(self, inner: Model, steps: int = 4, path: str = "vp") -> None:
        super().__init__()
        if "denoise" not in inner.offers() or not any(True for _ in inner.parameters()):
            raise Unsupported(f"Distilled needs a model with denoise and weights; {inner.name} is not one.")
        if path == "edm":
            raise ValueError("Distilled: got path 'edm', whose last step of a few is too small to learn; take 'vp'.")
        self.inner, self.few, self.path = inner, steps, path
        self.space, self.given = inner.space, inner.given
        self._path = path_of(path)
        self._nodes = nodes(self._path, steps)

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """What a few steps draw is an estimate of what many would."""
        return Quality.ESTIMATE

    def offers(self) -> frozenset[str]:
        return frozenset({"sample"})

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        u = self.from_noise(prior(self._path, (count, *self.chart.space.shape), rng), given)
        return self.chart.decode(u, rng)

    def from_noise(self, u: Tensor, given: Given | None = None) -> Tensor:
        """Where noise u `(B, *chart_event)` of the path's end leads, in the chart."""
        return ddim(lambda v, a, s: self.inner.denoise(v, a, s, given), u, self._path, self.few)

    def distillation_loss(self, batch: Batch, teacher: Model, substeps: int, rng: Rng) -> Tensor:
        """The loss at the top of this file, each row at a node of its own.

        Args:
            batch: u in the chart, and its givens.
            teacher: a model with `denoise` of the same chart.
            substeps: Heun steps of the teacher for one of the student.
            rng: of nodes and noise.
        """
        total = torch.zeros((), device=batch.x.device)
        for k, rows in enumerate(torch.arange(len(batch)).chunk(self.few)):
            part = batch.take(rows.to(batch.x.device))
            # dropped for all rows of a node together: one call has one set of givens
            given = {} if bool(rng.bernoulli(0.1, (1,))) else part.given
            here = self._nodes[k]
            u = here[0] * part.x + here[1] * rng.normal(tuple(part.x.shape), part.x.dtype)
            target = self._target(teacher, u, given, k, substeps)
            ones = torch.ones(len(u), dtype=u.dtype, device=u.device)
            error = self.inner.denoise(u, here[0] * ones, here[1] * ones, given) - target
            total = total + max(1.0, (here[0] / here[1]) ** 2) * error.square().sum()
        return total / len(batch)

    @torch.no_grad()
    def _target(self, teacher: Model, u: Tensor, given: Given, k: int, substeps: int) -> Tensor:
        """D* for u at node k."""
        count = len(self._nodes) - 1
        (a, s), (a1, s1) = self._nodes[k], self._nodes[k + 1]
        v = u
        for here, there in _between(self._path, 1 - k / count, 1 - (k + 1) / count, substeps):
            v = heun_step(lambda w, al, si: teacher.denoise(w, al, si, given), v, here, there)
        return (v - s1 / s * u) / (a1 - a * s1 / s)


def distil(
    model: Model,
    data: Data,
    steps: int = 4,
    *,
    teacher: Model | None = None,
    updates: int = 500,
    batch: int = 128,
    substeps: int = 4,
    lr: float = 1e-3,
    path: str = "vp",
    rng: Rng | torch.Generator | int | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Distilled:
    """A model that draws in `steps` network calls what `model` draws in many.

    Args:
        model: fitted, with `denoise` and weights; it is copied.
        data: rows to start from; those with gaps are left out.
        steps: network calls of a draw.
        teacher: what is imitated; None: the model itself. `Guided(model, ...)` distils guidance.
        updates, batch, lr: of the training, with a rate that falls to 0 as a cosine.
        substeps: Heun steps of the teacher for one step of the student.
        path: see `Distilled`.
        rng: a seed or generator.
        report: called with each update and its loss.

    Raises:
        Unsupported: the model has no denoise or no weights. ValueError: no complete row to train on.
    """
    rng, rows = Rng(rng, model.device), data.part("train")
    if rows.observed is not None:
        rows = rows.take(rows.observed.flatten(1).all(1).nonzero()[:, 0])
    if len(rows) == 0:
        raise ValueError("distil: got no row without gaps; expected some to start from.")
    student, teacher = Distilled(copy.deepcopy(model), steps, path), teacher or model
    params = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr, weight_decay=0.0)
    for k in range(updates):
        part = rows.take(rng.integers(len(rows), (batch,)).to(rows.x.device)).to(model.device)
        part = Batch(model.chart.encode(part.x, rng), part.given)
        loss = student.distillation_loss(part, teacher, substeps, rng)
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (k + 1) / 20) * 0.5 * (1 + math.cos(math.pi * k / updates))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        report(k, float(loss.detach()))
    return student.eval()  # type: ignore[return-value]


def _between(path: Path, start: float, end: float, count: int) -> list[tuple[Node, Node]]:
    """Nodes between two positions of a path's own clock, in pairs."""
    t = torch.linspace(start, end, count + 1, dtype=torch.float64) ** path.power
    pairs = list(zip(path.alpha(t).tolist(), path.sigma(t).tolist(), strict=True))
    return list(zip(pairs[:-1], pairs[1:], strict=True))
