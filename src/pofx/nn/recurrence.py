"""Recurrence: a convolutional LSTM that moves a whole line of pixels at a time, with its own backward pass.

    [o, f, i, g] = pre_t + sum_s W_s h_{t-1}[n + s],    c_t = f c_{t-1} + i g,    h_t = o tanh(c_t)

o, f, i pass through a sigmoid and g through a tanh. A line is a row, or a diagonal, of the picture, and n is a place on
it. States outside the picture are zero. One line is one product for the whole batch, and the backward pass needs no
graph: a picture of 28 x 28 is 28 or 55 products, not 784. Pixels stand in the order of their lines, so that each line
is a view.

References: LSTM (Hochreiter 1997); Row LSTM and Diagonal BiLSTM (van den Oord 2016, arXiv:1601.06759).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Line = tuple[int, int]  # the places low .. high - 1 that are inside the picture


def rows_of(height: int, wide: int) -> list[Line]:
    """The lines of a picture row by row; a place is a column."""
    return [(0, wide)] * height


def diagonals_of(height: int, wide: int) -> tuple[list[Line], Tensor]:
    """The diagonals i + j = t, where a place is a row, and the pixels (H W,) in their order."""
    lines = [(max(0, t - wide + 1), min(height, t + 1)) for t in range(height + wide - 1)]
    pixels = [i * wide + t - i for t, (low, high) in enumerate(lines) for i in range(low, high)]
    return lines, torch.tensor(pixels)


def gates(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h, c) of one LSTM step from the gates before their curves a (..., 4 width) and the last c (..., width)."""
    o, f, i, g = a.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def recur(pre: Tensor, weight: Tensor, lines: list[Line], shifts: tuple[int, ...], places: int) -> Tensor:
    """All states h (G, pixels, B, width); one backward pass at most, for memory is used again.

    Args:
        pre: what the input says, (G, pixels, B, 4 width), line after line; G recurrences run side by side. It is
            written over, so it must be nobody else's.
        weight: W of all shifts, (G, len(shifts) width, 4 width).
        lines: in the order in which they are made.
        shifts: s, the places of the last line that a place reads.
        places: in a whole line.
    """
    with torch.autocast(pre.device.type, enabled=False):
        return _Recurrence.apply(pre.to(weight.dtype), weight, lines, shifts, places)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, weight: Tensor, lines: list[Line], shifts: tuple[int, ...], places: int
    ) -> Tensor:
        groups, pixels, rows, four = pre.shape
        width, margin = four // 4, max(abs(s) for s in shifts)
        # the gates, before and then after their curves, in the same memory: fresh memory costs more than the sums do
        a = pre.data.reshape(groups, pixels * rows, four)
        state = pre.new_zeros(groups, (places + 2 * margin) * rows, width)
        cell = pre.new_zeros(groups, places * rows, width)
        past = a.new_empty(*a.shape[:2], len(shifts) * width)
        before, curved, h = (a.new_empty(*a.shape[:2], width) for _ in range(3))
        last = 0
        for line, low, high in _spans(lines, rows):
            reads = [state[:, low + (margin + s) * rows : high + (margin + s) * rows] for s in shifts]
            torch.cat(reads, -1, out=past[:, line])
            gate = a[:, line].baddbmm_(past[:, line], weight)
            gate[..., : 3 * width].sigmoid_()
            _tanh_(gate[..., 3 * width :])
            o, f, i, g = gate.split(width, -1)
            kept, old, new = cell[:, low:high], before[:, line], h[:, line]
            torch.addcmul(i * g, f, old.copy_(kept), out=kept)
            torch.mul(o, _tanh_(curved[:, line].copy_(kept)), out=new)
            state[:, last + margin * rows : low + margin * rows], last = 0.0, low  # these are outside by then
            state[:, low + margin * rows : high + margin * rows] = new
        ctx.save_for_backward(weight, a, past, before, curved)
        ctx.rest = (lines, shifts, places, rows, margin)
        return h.unflatten(1, (pixels, rows))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.rest is None:
            raise RuntimeError("recur: a second backward pass through one forward pass; compute the forward again.")
        weight, a, past, before, curved = ctx.saved_tensors
        lines, shifts, places, rows, margin = ctx.rest
        groups, pixels, _, width = grad.shape
        d_h, back, ctx.rest = grad.flatten(1, 2), weight.transpose(1, 2), None
        d_state = grad.new_zeros(groups, (places + 2 * margin) * rows, width)
        d_cell = grad.new_zeros(groups, places * rows, width)
        told = grad.new_empty(groups, places * rows, 3 * width)
        for line, low, high in reversed(_spans(lines, rows)):
            start, stop = low + margin * rows, high + margin * rows
            line_h, line_c = d_h[:, line] + d_state[:, start:stop], d_cell[:, low:high]
            _unstep(a[:, line], before[:, line], curved[:, line], line_h, line_c, told[:, : stop - start])
            d_past = torch.bmm(a[:, line], back)
            d_state.zero_()
            for s, part in zip(shifts, d_past.split(width, -1), strict=True):
                d_state[:, start + s * rows : stop + s * rows] += part
        return a.unflatten(1, (pixels, rows)), past.transpose(1, 2) @ a, None, None, None


def _spans(lines: list[Line], rows: int) -> list[tuple[slice, int, int]]:
    """For each line where it is among the pixels, and its places, all times the rows."""
    spans, start = [], 0
    for low, high in lines:
        end = start + (high - low) * rows
        spans.append((slice(start, end), low * rows, high * rows))
        start = end
    return spans


def _tanh_(x: Tensor) -> Tensor:
    """tanh in place, by the sigmoid, which is several times faster on a CPU."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _unstep(a: Tensor, before: Tensor, curved: Tensor, d_h: Tensor, d_c: Tensor, told: Tensor) -> None:
    """The gates become the gradients of themselves before their curves, and the gradient of c that of the last c."""
    (o, f, i, g), width, aten = a.chunk(4, -1), before.shape[-1], torch.ops.aten
    d_c += aten.tanh_backward(d_h * o, curved)
    for k, (left, right) in enumerate(((d_h, curved), (d_c, before), (d_c, g))):
        torch.mul(left, right, out=told[..., k * width : (k + 1) * width])
    new, sigmoids = d_c * i, a[..., : 3 * width]
    d_c *= f
    aten.sigmoid_backward.grad_input(told, sigmoids, grad_input=sigmoids)
    aten.tanh_backward.grad_input(new, g, grad_input=g)


class Recurrence(nn.Module):
    """`groups` convolutional LSTMs of `width` units side by side; see `recur` for the shapes."""

    def __init__(self, groups: int, width: int, shifts: tuple[int, ...]) -> None:
        super().__init__()
        self.shifts = shifts
        inside = len(shifts) * width
        self.weight = nn.Parameter(torch.randn(groups, inside, 4 * width) / inside**0.5)

    def forward(self, pre: Tensor, lines: list[Line], places: int) -> Tensor:
        """pre (G, pixels, B, 4 width) -> h (G, pixels, B, width)."""
        return recur(pre, self.weight, lines, self.shifts, places)


def leftward(x: Tensor, taps: int) -> Tensor:
    """Pixels x (H, W, B, F) beside the taps - 1 to their left: (H, W, B, taps F), the farthest first."""
    wide = x.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, taps - 1, 0))
    return torch.cat([padded[:, k : k + wide] for k in range(taps)], -1)
