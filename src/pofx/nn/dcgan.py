"""Plain convolutions that double or halve a picture: the cheapest generator and critic of pictures.

    generator   z -> 4 x 4 maps -> [transposed 4 x 4 convolution, stride 2 -> norm -> relu] ... -> picture
    critic      picture -> [4 x 4 convolution, stride 2 -> leaky relu] ... -> features f;  D = w . f + (W c) . f

The sizes are those of `convnet.halvings`, so that 28, 8 and 5 x 7 work as 32 does. Normalisation is within a row
(groups of channels) and in the generator only: rows must not see each other, and a critic whose slope is penalised
needs none.

References: Radford 2015, arXiv:1511.06434; projection of the condition (Miyato 2018, arXiv:1802.05637).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convnet import group_norm, halvings
from .mlp import check_condition
from .scalar import Projection


class DCGenerator(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B, C, H, W).

    Args:
        d_in: numbers in.
        shape: (C, H, W) of the output.
        width: channels at half size; doubled at each further halving, at most 4 times.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, d_in: int, shape: Sequence[int], width: int = 32, c_dim: int = 0) -> None:
        super().__init__()
        self.shape, self.c_dim = tuple(shape), c_dim
        self.sizes = halvings(*self.shape[1:])[::-1]
        widths = [width * min(2**i, 4) for i in range(len(self.sizes) - 1)][::-1] or [width]
        self.inlet = nn.Linear(d_in + c_dim, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        outs = [*widths[1:], self.shape[0]] if len(self.sizes) > 1 else []
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, outs, strict=bool(outs))
        )
        self.norms = nn.ModuleList(group_norm(w) for w in widths)
        self.only = nn.Conv2d(width, self.shape[0], 3, padding=1) if not outs else None  # a picture of at most 4 x 4

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z (B, d_in) -> (B, C, H, W)."""
        if c is not None:
            check_condition(c, self.c_dim)
            z = torch.cat([z, c], 1)
        h = self.inlet(z).unflatten(1, (-1, *self.sizes[0]))
        for norm, up, size in zip(self.norms, self.up, self.sizes[1:], strict=False):
            h = up(F.relu(norm(h)))[:, :, : size[0], : size[1]]
        return h if self.only is None else self.only(F.relu(self.norms[0](h)))


class DCCritic(nn.Module):
    """(B, C, H, W), c (B, c_dim) -> (B,).

    Args:
        shape: (C, H, W) of a picture.
        width: channels at half size.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, shape: Sequence[int], width: int = 32, c_dim: int = 0) -> None:
        super().__init__()
        channels, *size = shape
        sizes = halvings(*size)[1:] or [(size[0], size[1])]
        widths = [channels, *[width * min(2**i, 4) for i in range(len(sizes))]]
        # a side that is odd is padded to the next even one, as `halvings` rounds up
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.halve = max(size) > 4
        if not self.halve:
            self.down = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])
        self.head = Projection(widths[-1] * sizes[-1][0] * sizes[-1][1], c_dim)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> scores (B,)."""
        return self.score(self.maps(x), c)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each layer sees of x (B, C, H, W), finest first."""
        found = []
        for layer in self.down:
            if self.halve:
                x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
            x = F.leaky_relu(layer(x), 0.2)
            found.append(x)
        return found

    def score(self, maps: list[Tensor], c: Tensor | None = None) -> Tensor:
        """The scores (B,) of what the layers saw."""
        return self.head(maps[-1].flatten(1), c)
