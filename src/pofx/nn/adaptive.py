"""Adaptive linear prediction: the next sample of a wave from the last ones, re-fitted as the wave goes on.

    w_k = argmin sum_{t before block k} g^age (v_t - w . (v_{t-1}, ..., v_{t-P}))^2        every BLOCK samples
    e_t = v_t - w_k . (v_{t-1}, ..., v_{t-P}),      s_t = mean of the last |e|              of each predictor
    y_t = perceptron(ratios of the s_t, last e / s_t, differences of the predictions / s_t) -> a mixture around them

What is adaptive is computed, not learnt, so the perceptron only learns how far to trust what, and a few seconds of
sound are enough to fit it. Coefficients are never sent, as they are in FLAC: both sides compute them from the past.
Some components stand on the multiples of the power of two that all samples so far are multiples of (samples of few bits
in a wider file), with a gate that learns when to believe it.

The outputs are 3 M numbers a sample: logits, means, log scales of M logistics in the standard units of x, in the layout
of kinds/likelihood.py.

References: Atal and Hanauer 1971; FLAC (RFC 9639, 2024); TTA and OptimFROG adapt backwards; mixtures of logistics
(Salimans 2017, arXiv:1701.05517).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entries import Causal, Entries, Size, Walk
from .mlp import Modulation

BLOCK = 8  # samples between two fits of the coefficients
BANK = ((12, 160.0), (24, 1200.0))  # (order, memory in samples) of each predictor
WINDOWS = (4, 16, 64, 256)  # samples over which errors are averaged
LAST = 4  # errors that the perceptron is told one by one
RIDGE = 1e-6  # of the energy, so that silence has coefficients too
DEEPEST = 15  # bits that a file may leave unused
FAR = 30.0


class Adaptive(Causal):
    """A bank of adaptive predictors and a small perceptron."""

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        width, depth, _, _ = size.over(width=48, depth=2, dropout=0.0)
        if not entries.shared or len(entries.shape) != 1 or len(entries.groups) != 1 or entries.groups[0][1] % 3:
            raise ValueError(
                f"body 'adaptive' reads waves: one variable for all samples of a sequence, of more levels than a "
                f"softmax takes; got shape {entries.shape} with {entries.levels[:1]} levels."
            )
        self.size, self.levels, self.unit, self.centre = entries.size, entries.levels[0], entries.scale, entries.mean
        self.components = entries.groups[0][1] // 3
        self.loose = max(1, min(4, self.components // 2))
        told = len(BANK) * (len(WINDOWS) + LAST + 1) + 5
        self.inlet = nn.Linear(told, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulate = nn.ModuleList(Modulation(size.c_dim, width) for _ in range(depth))
        self.outlet = nn.Linear(width, len(BANK) + 3 * self.loose + 2)
        with torch.no_grad():
            self.outlet.weight.mul_(0.1)
            self.outlet.bias.zero_()

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, 3 M D) of every sample; what is not observed must come last."""
        length = (
            x.shape[1]
            if observed is None
            else 1 + int((observed.any(0).long() * torch.arange(x.shape[1], device=x.device)).max())
        )
        return F.pad(self._outputs(x[:, :length], c), (0, 0, 0, x.shape[1] - length)).flatten(1)

    def _outputs(self, x: Tensor, c: Tensor | None) -> Tensor:
        with torch.no_grad():
            v = self.value(x)
            told, guesses, s = self.told(*self._heard(v), grid_of(self._whole(x)))
        return self.answer(told, guesses, s, c)

    def value(self, x: Tensor) -> Tensor:
        """Samples around 0, in units of the spread, float64."""
        return (x.double() - self.levels // 2) / self.unit

    def _whole(self, x: Tensor) -> Tensor:
        return x.long() - self.levels // 2

    def _heard(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """What each predictor says of every sample, and its errors, (B, D, predictors)."""
        guesses = torch.stack([predicted(v, order, memory) for order, memory in BANK], -1)
        return guesses, v.unsqueeze(-1) - guesses

    def told(
        self, guesses: Tensor, errors: Tensor, grid: Tensor, at: slice | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the perceptron is told of the samples `at`, what the predictors say of them, and the scale, (..., 1)."""
        at = slice(0, guesses.shape[1]) if at is None else at
        guesses, grid = guesses[:, at], grid[:, at]
        size = errors.abs().cumsum(1)
        size = F.pad(size, (0, 0, 1, 0))  # entry t: the sum before t
        place = torch.arange(at.start, at.stop, device=errors.device)
        floor = 0.25 / self.unit
        means = []
        for w in WINDOWS:
            first = (place - w).clamp_min(0)
            means.append((size[:, place] - size[:, first]) / (place - first).clamp_min(1)[:, None] + floor)
        spread = torch.stack(means, -1).log()  # (B, T, predictors, windows)
        best = spread[..., 1].min(-1, keepdim=True).values
        s = best.exp()
        padded = F.pad(errors, (0, 0, LAST, 0))
        last = torch.stack([padded[:, place + LAST - 1 - k] for k in range(LAST)], -1) / s.unsqueeze(-1)
        time = (place.double() + 1).log().expand(len(guesses), -1)
        bits, count = grid.unbind(-1)
        parts = [
            (spread - best.unsqueeze(-1)).flatten(2),
            torch.asinh(last).flatten(2),
            torch.asinh((guesses - guesses[..., :1]) / s),
            best + math.log(self.unit) - 4,
            (bits / 4).unsqueeze(-1),
            (bits * count.log1p() / 16).unsqueeze(-1),
            ((best.squeeze(-1) + math.log(self.unit)) - bits * math.log(2)).unsqueeze(-1) / 4,
            (time / 4).unsqueeze(-1),
        ]
        step = 2.0**bits / self.unit
        return torch.cat(parts, -1).float(), guesses, torch.cat([s, step.unsqueeze(-1)], -1)

    def answer(self, told: Tensor, guesses: Tensor, scales: Tensor, c: Tensor | None) -> Tensor:
        """The outputs (..., 3 M) of some samples."""
        h = F.silu(self.inlet(told))
        for layer, modulate in zip(self.layers, self.modulate, strict=True):
            h = h + F.silu(layer(modulate(h, c)))
        trust, logits, shift, width, gate = self.outlet(h).split((len(BANK), *3 * (self.loose,), 2), -1)
        s, step = scales.unbind(-1)
        middle = (trust.softmax(-1).double() * guesses).sum(-1)  # float64: a sample is 1e-5 of the spread
        logits = logits.log_softmax(-1) + F.logsigmoid(-gate[..., :1])
        spread = torch.linspace(-1.0, 0.5, self.loose, device=h.device)
        log_s = s.log().unsqueeze(-1).float() + width + spread - 0.4
        mean = middle.unsqueeze(-1) + (shift * s.unsqueeze(-1).float()).double()
        on = self.components - self.loose
        if on:
            points = step.unsqueeze(-1) * (
                (middle / step).round().unsqueeze(-1) + torch.arange(on, device=h.device) - on // 2
            )
            narrow = (s / step).float().log().unsqueeze(-1) + gate[..., 1:]
            away = ((points - middle.unsqueeze(-1)) / step.unsqueeze(-1)).float()
            mass = _log_bin(away, narrow.clamp(-4, 8))
            logits = torch.cat([logits, mass.log_softmax(-1) + F.logsigmoid(gate[..., :1])], -1)
            mean = torch.cat([mean, points], -1)
            log_s = torch.cat([log_s, torch.full_like(mass, -FAR)], -1)
        shift = (self.levels // 2 - self.centre) / self.unit
        fixed = torch.linspace(-1.5, 1.5, self.components, device=h.device, dtype=torch.float64)
        return torch.cat([logits, (mean + shift - fixed).float(), log_s + 1.0], -1)

    def walk(self, rows: int, c: Tensor | None = None) -> AdaptiveWalk:
        """A walk through the samples of this many waves."""
        return AdaptiveWalk(self, rows, c)


class AdaptiveWalk(Walk):
    """Keeps the samples, what was said of them, and the moments of every predictor."""

    def __init__(self, net: Adaptive, rows: int, c: Tensor | None) -> None:
        self.net, self.c, self.t = net, c, 0
        new = net.inlet.weight.new_zeros
        self.v = new(rows, net.size, dtype=torch.float64)
        self.guesses = new(rows, net.size, len(BANK), dtype=torch.float64)
        self.errors = torch.zeros_like(self.guesses)
        self.grid = new(rows, net.size + 1, 2, dtype=torch.float64)
        self.grid[:, 0, 0] = DEEPEST
        self.moments = [new(rows, order + 1, order + 1, dtype=torch.float64) for order, _ in BANK]
        self.weights = [new(rows, order, dtype=torch.float64) for order, _ in BANK]
        self._guess()

    def outputs(self) -> Tensor:
        first = max(0, self.t - max(WINDOWS))  # what is older is not looked at
        near = slice(self.t - first, self.t - first + 1)
        guesses, errors, grid = (part[:, first : self.t + 1] for part in (self.guesses, self.errors, self.grid))
        told, guesses, s = self.net.told(guesses, errors, grid, near)
        told[..., -1] = math.log(self.t + 1) / 4
        return self.net.answer(told, guesses, s, self.c)[:, 0]

    def put(self, x: Tensor, z: Tensor) -> None:
        v = self.net.value(x)
        self.v[:, self.t] = v
        self.errors[:, self.t] = v.unsqueeze(-1) - self.guesses[:, self.t]
        self.grid[:, self.t + 1] = _grid_next(self.grid[:, self.t], x.long() - self.net.levels // 2)
        self.t += 1
        if self.t < self.net.size:
            if self.t % BLOCK == 0:
                self._refit()
            self._guess()

    def _refit(self) -> None:
        for k, (order, memory) in enumerate(BANK):
            rows = lagged(self.v[:, max(0, self.t - BLOCK - order) : self.t], order)[:, -BLOCK:]
            self.moments[k] = self.moments[k] * math.exp(-BLOCK / memory) + rows.transpose(1, 2) @ rows
            self.weights[k] = _solved(self.moments[k])

    def _guess(self) -> None:
        for k, (order, _) in enumerate(BANK):
            past = self.v[:, max(0, self.t - order) : self.t].flip(1)
            self.guesses[:, self.t, k] = (past * self.weights[k][:, : past.shape[1]]).sum(1)

    def reorder(self, rows: Tensor) -> None:
        for name in ("v", "guesses", "errors", "grid"):
            setattr(self, name, getattr(self, name)[rows])
        self.moments, self.weights = [m[rows] for m in self.moments], [w[rows] for w in self.weights]
        self.c = None if self.c is None else self.c[rows]


def lagged(v: Tensor, order: int) -> Tensor:
    """(v_t, v_{t-1}, ..., v_{t-P}) of every t, (B, T, P + 1); before the first sample is silence."""
    return F.pad(v, (order, 0)).unfold(1, order + 1, 1).flip(-1)


def predicted(v: Tensor, order: int, memory: float) -> Tensor:
    """What a predictor says of every sample (B, T), each from those before it, with weights of its block."""
    rows, length = lagged(v, order), v.shape[1]
    blocks = -(-length // BLOCK)
    padded = F.pad(rows, (0, 0, 0, blocks * BLOCK - length)).unflatten(1, (blocks, BLOCK))
    fresh = padded.transpose(2, 3) @ padded
    moments, decay = torch.zeros_like(fresh), math.exp(-BLOCK / memory)
    for k in range(1, blocks):
        torch.add(fresh[:, k - 1], moments[:, k - 1], alpha=decay, out=moments[:, k])
    weights = _solved(moments)
    return (padded[..., 1:] @ weights.unsqueeze(-1)).squeeze(-1).flatten(1)[:, :length]


def _solved(moments: Tensor) -> Tensor:
    """Weights (..., P) of least squares from the moments of (v_t, v_{t-1}, ..., v_{t-P})."""
    between, with_next = moments[..., 1:, 1:], moments[..., 1:, 0]
    energy = between.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = RIDGE * energy + 1e-9
    system = between + ridge[..., None, None] * torch.eye(between.shape[-1], dtype=moments.dtype, device=moments.device)
    return torch.cholesky_solve(with_next.unsqueeze(-1), torch.linalg.cholesky(system)).squeeze(-1)


def grid_of(whole: Tensor) -> Tensor:
    """For every sample (B, T): the bits that no sample before it has used, and how many were not 0, (B, T, 2)."""
    deep = torch.full_like(whole, DEEPEST)
    for b in range(DEEPEST - 1, -1, -1):  # the lowest bit in use is written last
        deep = torch.where((whole >> b) & 1 != 0, torch.full_like(deep, b), deep)
    before = F.pad(deep, (1, -1), value=DEEPEST)
    count = F.pad((whole != 0).long(), (1, -1)).cumsum(1)
    return torch.stack([before.cummin(1).values, count], -1).double()


def _grid_next(grid: Tensor, whole: Tensor) -> Tensor:
    own = grid_of(torch.stack([whole, whole], 1))[:, 1]
    return torch.stack([torch.minimum(grid[:, 0], own[:, 0]), grid[:, 1] + own[:, 1]], 1)


def _log_bin(away: Tensor, log_s: Tensor) -> Tensor:
    """Log mass of the bin of width 1 around `away` under a logistic of mean 0."""
    s = log_s.exp()
    high, low = (away + 0.5) / s, (away - 0.5) / s
    return F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-1 / s))
