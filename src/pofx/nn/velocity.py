"""Velocity body: a point, a time and a condition to a vector at the point, by the body that suits its layout.

    F(u, l, c) = body([u / n, mask, exp(-w^2 l^2 / 2) sin(w u), ... cos(w u)], clock(log l) + c),   n^2 = 1 + l^2

The waves are smoothed Fourier features: sin(w u) of a clean u shrinks by that factor under noise of level l, so finer
waves vanish rather than alias. They let the body resolve the edges of rounded data.

`Form.of` is the one place that chooses: an MLP for vectors, a U-Net for pictures, one of three axes for clips and
solids (`grids`), attention without places for sets (`sets`); a series takes the MLP, or a U-Net of one axis if asked.

References: Fourier features (Tancik 2020, arXiv:2006.10739); EDM (Karras 2022, arXiv:2206.00364).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .conditioner import Condition
from .grids import GridUNet
from .mlp import MLP
from .sets import SetNet
from .unet import UNet, fourier

SHORT = 16  # entries of a short vector
PLACES = 1024  # of a grid at full size, up to which no patch is taken
BODIES = ("vector", "picture", "volume", "series", "set")


def octaves(finest: float | None) -> int:
    """Octaves of waves, from 2 radians: 4, or as many up to 8 as resolve levels of the width `finest`.

    >>> octaves(None), octaves(1 / 6), octaves(0.01)
    (4, 6, 8)
    """
    return 4 if finest is None else max(4, min(8, math.ceil(math.log2(2 * math.pi / finest))))


class Clock(nn.Module):
    """Noise levels (B,) and a condition c (B, width), if any, to one vector (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor, c: Tensor | None = None) -> Tensor:
        """The vector that a body is conditioned on."""
        h = self.net(fourier(level.log() / 4, self.width, 0.5, 60.0))
        return h if c is None else h + c


class Laid(Protocol):
    """What one x is, as a Space says it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def layout(self) -> str: ...

    @property
    def meta(self) -> dict[str, Any]: ...


class Form(NamedTuple):
    """How a body sees an event.

    Args:
        body: one of BODIES.
        shape: of the event.
        axes: (T, H, W) of a grid: of a volume's places, of a picture (1, H, W), of a series (L, 1, 1).
        channels: numbers at each place, or of each point of a set.
    """

    body: str
    shape: tuple[int, ...]
    axes: tuple[int, int, int] = (1, 1, 1)
    channels: int = 1

    @classmethod
    def of(cls, space: Laid, body: str | None = None) -> Form:
        """The form that suits a Space, or that of the body asked for.

        Raises:
            ValueError: the Space has no such form.
        """
        fit = _forms(space)
        if body is not None and body not in fit:
            raise ValueError(f"body: got {body!r}; x of shape {space.shape} ({space.layout}) takes {', '.join(fit)}.")
        return fit[body or next(iter(fit))]

    @property
    def width(self) -> int:
        """The usual number of features, or of channels at full size."""
        size = math.prod(self.shape)
        if self.body == "vector":
            return 128 if size <= SHORT else 256
        return 64 if self.body == "set" else 16 if self.body == "picture" and size <= 256 else 32

    @property
    def patch(self) -> int:
        """The usual side of the cells that enter as channels."""
        if self.body == "picture":
            return 2 if max(self.axes) >= 24 else 1
        places, sides = math.prod(self.axes), sum(n > 1 for n in self.axes)
        return next((p for p in (1, 2) if places <= PLACES * p**sides), 4)

    def features(self, width: int | None = None) -> int:
        """Size of the condition vector of such a body of this width."""
        features = (width or self.width) * {"vector": 1, "set": 2}.get(self.body, 4)
        return features + features % 2


def _forms(space: Laid) -> dict[str, Form]:
    """The forms that an event can take, the usual one first."""
    shape, found = tuple(space.shape), {}
    if space.layout == "grid" and len(shape) == 3:
        deep = space.meta.get("planes", 1)
        if deep > 1:
            found["volume"] = Form("volume", shape, (deep, *shape[1:]), shape[0] // deep)
        found["picture"] = Form("picture", shape, (1, *shape[1:]), shape[0])
    if space.layout == "set" and len(shape) == 2:
        found["set"] = Form("set", shape, channels=shape[1])
    found["vector"] = Form("vector", shape)
    if space.layout == "sequence" and shape and shape[0] > 1:  # slower, and no better in the same seconds
        found["series"] = Form("series", shape, (shape[0], 1, 1), math.prod(shape[1:]))
    return found


class Velocity(nn.Module):
    """u (B, *event), level (B,), c (B, c_dim) -> (B, *event); the output starts at exactly 0.

    Args:
        form: how the body sees the event; a shape stands for a vector.
        width: features, or channels at full size; None: the form's.
        depth: sizes of a U-Net or blocks of the others; None: by the form.
        blocks: residual blocks at each size of a U-Net.
        dropout: probability inside each block.
        frequencies: octaves of Fourier features of each entry, from 2 radians; 0 for none.
        patch: side of the cells of places that enter a U-Net as channels; None: the form's.
        maps: channels of a given map (B, maps, H, W) that stands beside a picture, or beside every plane of a volume.
        tokens: whether a U-Net attends to given tokens.
    """

    omega: Tensor

    def __init__(
        self,
        form: Form | tuple[int, ...],
        width: int | None = None,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float = 0.0,
        frequencies: int = 4,
        patch: int | None = None,
        maps: int = 0,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        self.form = form if isinstance(form, Form) else Form("vector", form)
        entries, width, c = 2 + 2 * frequencies, width or self.form.width, self.form.features(width)
        self.net = _net(self.form, entries, width, depth, blocks, c, dropout, patch or self.form.patch, maps, tokens)
        self.clock = Clock(c)
        self.register_buffer("omega", 2.0 ** torch.arange(1, frequencies + 1), persistent=False)

    def forward(
        self, scaled: Tensor, u: Tensor, level: Tensor, c: Condition | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """F at u, whose unit-variance version is `scaled`; `observed` says which entries are no pure noise."""
        h = self.clock(level, None if c is None else c.vector)
        mask = torch.ones_like(scaled) if observed is None else observed.to(scaled.dtype)
        entries = torch.cat([scaled[:, None], mask[:, None], *self._waves(u, level)], 1)
        body = self.form.body
        if body == "vector":
            return self.net(entries.flatten(1), h).reshape(scaled.shape)
        if body == "set":
            return self.net(entries.transpose(1, 2).flatten(2), h)
        if body == "series":
            steps = entries.flatten(3) if entries.ndim > 3 else entries[..., None]
            y = self.net(steps.transpose(2, 3).flatten(1, 2)[..., None, None], h)
            return y[..., 0, 0].transpose(1, 2).reshape(scaled.shape)
        beside, tokens = (None, None) if c is None else (c.map, c.tokens)
        if body == "picture":
            flat = entries.flatten(1, 2)
            return self.net(flat if beside is None else torch.cat([flat, beside], 1), h, tokens)
        planes = entries.unflatten(2, (self.form.axes[0], -1)).transpose(2, 3).flatten(1, 2)
        if beside is not None:  # every plane sees all of it
            planes = torch.cat([planes, beside[:, :, None].expand(-1, -1, planes.shape[2], -1, -1)], 1)
        return self.net(planes, h, tokens).transpose(1, 2).flatten(1, 2)

    def _waves(self, u: Tensor, level: Tensor) -> list[Tensor]:
        if not len(self.omega):
            return []
        shrink = torch.exp(-0.5 * (self.omega * level[:, None]).square())
        shrink = shrink.reshape(*shrink.shape, *[1] * (u.ndim - 1))
        angle = u[:, None] * self.omega.reshape(-1, *[1] * (u.ndim - 1))
        return [torch.nan_to_num(shrink * wave) for wave in (angle.sin(), angle.cos())]


def _net(
    form: Form,
    entries: int,
    width: int,
    depth: int | None,
    blocks: int,
    c: int,
    dropout: float,
    patch: int,
    maps: int,
    tokens: bool,
) -> nn.Module:
    """The network itself, of so many numbers an entry."""
    size, enter, leave = math.prod(form.shape), form.channels * entries + maps, form.channels
    if form.body == "vector":
        return MLP(size * entries, size, width, depth or 4, c, dropout, zero=True)
    if form.body == "set":
        return SetNet(enter, leave, width, depth or 4, c, dropout)
    if form.body == "picture":
        depth = depth or max(1, min(4, round(math.log2(max(form.axes) / patch / 4)) + 1))
        return UNet(enter, leave, width, depth, blocks, c, dropout=dropout, patch=patch, tokens=tokens)
    return GridUNet(enter, leave, form.axes, width, depth, blocks, c, dropout, patch, tokens)
