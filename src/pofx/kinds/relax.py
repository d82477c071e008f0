"""Chart: the Euclidean coordinates u of a data point x, with q(u | x) and p(x | u).

    ordinal            u = (x + e - mean) / scale,  e ~ U(-1/2, 1/2)                    p(x | u) = 1 on the bin
    real, resolution r u = (x + r e - mean) / scale                                     p(x | u) = 1 on the bin
    real, resolution 0 u = (x - mean) / scale                                           a change of variables, exact
    bounded            the same, then u = logit of the position between the bounds
    category, binary   u = code(x) + s e,  e ~ N(0, I), code(x) in {-1, 1}^bits         p(x | u) by Bayes' rule

    log p(x) >= E_q [ log p(u) + log p(x | u) - log q(u | x) ]

With `points=True` a vector's discrete variables are points instead, for a family that knows where these are: an ordinal
is (x - mean) / scale, a category sqrt(2) in the entry of its code and 0 in the others, both without noise, and log p(u)
is then the log probability of these points.

Pictures are (H, W, C) outside and (C, H, W) in the chart, videos (T, H, W, C) and (T C, H, W).
References: Theis et al. 2016 (arXiv:1511.01844); analog bits, Chen et al. 2022 (arXiv:2208.04202).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng

CODE_SIZE = math.sqrt(2)  # two codes are 2 apart
CODE_NOISE = 0.3  # two codes 2 apart overlap by 4e-4: smooth enough to learn, and decoded almost surely


class Chart(nn.Module):
    """The map between x `(B, *event)` and u `(B, *chart_event)`.

    Args:
        space: what one x is.
        points: whether the discrete variables of a vector are points.
    """

    step: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    bounded: Tensor
    cloud: Tensor

    def __init__(self, space: Space, points: bool = False) -> None:
        super().__init__()
        self.data_space = space
        self.points = points and space.layout == "vector" and any(v.discrete for v in space.variables)
        self.channels_first = space.picture or (space.layout == "grid" and len(space.shape) == 4)
        self.exact = all(v.density or (self.points and v.discrete) for v in space.variables)
        variables = [space.variable(i) for i in range(space.size)]
        self.smooth = [i for i, v in enumerate(variables) if v.support not in ("category", "binary")]
        self.codes = [i for i, v in enumerate(variables) if v.support in ("category", "binary")]
        numbers = [_numbers(variables[i]) for i in self.smooth] or [(0.0, 0.0, 1.0, 0.0, 1.0, 0.0)]
        columns = torch.tensor(numbers, dtype=torch.float64).T
        for name, column in zip(("step", "mean", "scale", "low", "high", "bounded"), columns, strict=True):
            self.register_buffer(name, column.clone() if self.smooth else column[:0].clone(), persistent=False)
        self.levels = [variables[i].levels for i in self.codes]
        self.bits = self.levels if self.points else [_bits(levels) for levels in self.levels]
        clouds = [not (self.points and variables[i].discrete) for i in self.smooth]
        self.register_buffer("cloud", torch.tensor(clouds, dtype=torch.bool), persistent=False)
        self.space = self._chart_space()

    def encode(self, x: Tensor, rng: Rng | None = None) -> Tensor:
        """u ~ q(u | x), or the centre of q where rng is None."""
        flat = x.flatten(1).double()
        parts = []
        if self.smooth:
            parts.append(self._encode_smooth(flat[:, self.smooth] if self.codes else flat, rng))
        for column, bits in zip(self.codes, self.bits, strict=True):
            code = flat[:, column].long()
            if self.points:
                parts.append(CODE_SIZE * torch.nn.functional.one_hot(code, bits))
                continue
            u = _code(code, bits)
            parts.append(u if rng is None else u + CODE_NOISE * rng.normal(tuple(u.shape)))
        return self._to_event(parts[0] if len(parts) == 1 else torch.cat(parts, 1))

    def log_weight(self, u: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x | u) - log q(u | x), `(B,)`: what is added to log p(u) for a bound on (or the value of) log p(x).

        With `observed` `(B, *event)`, of those entries alone.
        """
        flat, smooth = self._from_event(u).double(), len(self.smooth)
        seen = torch.ones_like(x, dtype=torch.bool).flatten(1) if observed is None else observed.flatten(1)
        total = torch.where(seen[:, self.smooth] & self.cloud, self._log_volume(flat[:, :smooth]), 0.0).sum(1)
        if self.points:
            return total
        start = smooth
        for column, bits, levels in zip(self.codes, self.bits, self.levels, strict=True):
            part, start = flat[:, start : start + bits], start + bits
            weight = _log_code_weight(part, x.flatten(1)[:, column].long(), bits, levels)
            total = total + torch.where(seen[:, column], weight, 0.0)
        return total

    def outside(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Rows with an observed entry beyond its bounds, `(B,)` bool: they have no u, and probability 0."""
        number = x.flatten(1)[:, self.smooth].double()
        beyond = (self.bounded > 0) & ((number < self.low) | (number > self.high))
        seen = True if observed is None else observed.flatten(1)[:, self.smooth]
        return (beyond & seen).any(1)

    def decode(self, u: Tensor, rng: Rng | None = None) -> Tensor:
        """x ~ p(x | u), or the most likely x where rng is None; `(B, *event)` in the Space's dtype."""
        flat, smooth = self._from_event(u).double(), len(self.smooth)
        x = flat.new_zeros(len(flat), self.data_space.size)
        if self.smooth:
            x[:, self.smooth] = self._decode_smooth(flat[:, :smooth])
        start = smooth
        for column, bits, levels in zip(self.codes, self.bits, self.levels, strict=True):
            part = flat[:, start : start + bits]
            logits = part if self.points else _code_logits(part, bits, levels)
            # between points there is nothing to draw: the nearest is meant
            x[:, column] = (logits.argmax(-1) if rng is None or self.points else rng.categorical(logits)).double()
            start += bits
        return x.reshape(-1, *self.data_space.shape).to(self.data_space.torch_dtype)

    def unrounded(self, u: Tensor) -> Tensor:
        """x at u before it is rounded to its levels or its resolution, `(B, *event)` float64, differentiable in u.

        Raises:
            ValueError: there are categories, between whose codes lies nothing.
        """
        if self.codes:
            names = [self.data_space.variable(i).name for i in self.codes[:3]]
            raise ValueError(f"{names} are categories: there are no numbers between their codes.")
        return self._numbers(self._from_event(u).double()).reshape(-1, *self.data_space.shape)

    def by_entry(self, u: Tensor) -> Tensor:
        """Numbers of coordinates `(B, *chart_event)`, one an entry `(B, *event)`, float64: a code is their sum."""
        flat, start = self._from_event(u).double(), len(self.smooth)
        out = flat.new_zeros(len(flat), self.data_space.size)
        out[:, self.smooth] = flat[:, :start]
        for column, bits in zip(self.codes, self.bits, strict=True):
            out[:, column], start = flat[:, start : start + bits].sum(1), start + bits
        return out.reshape(-1, *self.data_space.shape)

    def mask(self, observed: Tensor) -> Tensor:
        """Which chart coordinates an observed mask `(B, *event)` fixes, `(B, *chart_event)` bool."""
        flat = observed.flatten(1)
        parts = [flat[:, self.smooth]] if self.smooth else []
        parts += [flat[:, [c]].expand(-1, bits) for c, bits in zip(self.codes, self.bits, strict=True)]
        return self._to_event(torch.cat(parts, 1), dtype=torch.bool)

    def _encode_smooth(self, x: Tensor, rng: Rng | None) -> Tensor:
        if rng is not None and not self.exact:
            x = x + self.step * self.cloud * (rng.uniform(tuple(x.shape), torch.float64) - 0.5)
        u = (x - self.mean) / self.scale
        if self.bounded.any():
            position = ((x - self.low) / (self.high - self.low)).clamp(1e-9, 1 - 1e-9)
            u = torch.where(self.bounded > 0, torch.logit(position), u)
        return u

    def _numbers(self, u: Tensor) -> Tensor:
        x = u * self.scale + self.mean
        if self.bounded.any():
            x = torch.where(self.bounded > 0, self.low + (self.high - self.low) * torch.sigmoid(u), x)
        return x

    def _decode_smooth(self, u: Tensor) -> Tensor:
        x = self._numbers(u)
        step = torch.where(self.step > 0, self.step, torch.ones_like(self.step))
        rounded = torch.round(x / step) * step
        first, last = self.low + step / 2, self.high - step / 2
        return torch.where(self.step > 0, torch.minimum(torch.maximum(rounded, first), last), x)

    def _log_volume(self, u: Tensor) -> Tensor:
        # q is uniform on a bin of width step (its log is -log step) and u is a change of variables of x
        slope = -self.scale.log().expand_as(u)
        if self.bounded.any():
            width = (self.high - self.low).log() + torch.nn.functional.logsigmoid(u)
            slope = torch.where(self.bounded > 0, -(width + torch.nn.functional.logsigmoid(-u)), slope)
        log_step = torch.where(self.step > 0, self.step, torch.ones_like(self.step)).log()
        return slope + log_step

    def _to_event(self, flat: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.turned(flat).reshape(-1, *self.space.shape).to(dtype)

    def _from_event(self, u: Tensor) -> Tensor:
        return self.unturned(u).flatten(1)

    def turned(self, flat: Tensor) -> Tensor:
        """Entries in the order of x as a picture's (C, H, W); the frames of a video are channels, (T C, H, W)."""
        if not self.channels_first:
            return flat
        *frames, h, w, c = self.data_space.shape
        return flat.reshape(-1, *(frames or [1]), h, w, c).permute(0, 1, 4, 2, 3)

    def unturned(self, u: Tensor) -> Tensor:
        """The way back, `(B, T, H, W, C)` of a video or a picture (one frame)."""
        if not self.channels_first:
            return u
        *frames, h, w, c = self.data_space.shape
        return u.reshape(-1, *(frames or [1]), c, h, w).permute(0, 1, 3, 4, 2)

    def _chart_space(self) -> Space:
        shape = self.data_space.shape
        if not self.codes and self.channels_first:
            *frames, h, w, c = shape
            shape, layout = (math.prod(frames) * c, h, w), "grid"
        elif not self.codes:
            layout = self.data_space.layout
        else:
            shape, layout, self.channels_first = (len(self.smooth) + sum(self.bits),), "vector", False
        return Space(shape, (Variable("u"),), layout, "chart", "float32", self._meta())

    def _meta(self) -> dict[str, Any]:
        """The narrowest level's width, and where points are, column by column in u: kind, first entry, levels."""
        levels = torch.tensor([self.data_space.variable(i).discrete for i in self.smooth], dtype=torch.bool)
        widths = (self.step / self.scale)[levels & self.cloud]
        finest: dict[str, Any] = {"finest": float(widths.min())} if len(widths) else {}
        if self.channels_first and self.data_space.planes > 1:
            finest["planes"] = self.data_space.planes
        if not self.points:
            return finest
        columns: list[tuple[str, int, list[float]]] = []
        for k, i in enumerate(self.smooth):
            v = self.data_space.variable(i)
            levels = [(code - v.mean) / v.scale for code in range(v.levels)]
            columns.append(("levels" if v.discrete else "smooth", k, levels))
        start = len(self.smooth)
        for levels_of in self.levels:
            columns.append(("codes", start, [CODE_SIZE] * levels_of))
            start += levels_of
        return finest | {"columns": columns}


def _numbers(v: Variable) -> tuple[float, float, float, float, float, float]:
    step = 1.0 if v.discrete else v.resolution
    if v.discrete:
        return step, v.mean, v.scale, -0.5, v.levels - 0.5, 0.0
    if v.support == "bounded":
        return step, v.mean, v.scale, v.low - step / 2, v.high + step / 2, 1.0  # type: ignore[operator]
    return step, v.mean, v.scale, -math.inf if v.low is None else v.low - step / 2, math.inf, 0.0


def _bits(levels: int) -> int:
    return max(1, math.ceil(math.log2(levels)))


def _code(code: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(bits, device=code.device)
    return ((code.unsqueeze(-1) >> shifts) & 1).double() * 2 - 1


def _code_logits(u: Tensor, bits: int, levels: int) -> Tensor:
    codes = _code(torch.arange(levels, device=u.device), bits)
    # |u - c|^2 up to what all codes share, since |c|^2 = bits for each of them
    return (u @ codes.T) / CODE_NOISE**2


def _log_code_weight(u: Tensor, code: Tensor, bits: int, levels: int) -> Tensor:
    log_p = _code_logits(u, bits, levels).log_softmax(-1).gather(-1, code.unsqueeze(-1)).squeeze(-1)
    error = (u - _code(code, bits)) / CODE_NOISE
    log_q = -0.5 * error.square().sum(-1) - bits * (math.log(CODE_NOISE) + 0.5 * math.log(2 * math.pi))
    return log_p - log_q
