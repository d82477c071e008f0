"""Style: what a picture is made of, whatever it shows, as statistics of features; and what it shows.

    features    F_l = (relu(W * (x_l - 1/2)), x_l / 2),   x_l the picture at half the size of x_{l-1}, W random filters
    Gram        G_l = (1, F_l) (1, F_l)^T / pixels      style = mean over l of  |G_l(x) - G_l(y)|^2 / |G_l(y) - m m^T|^2
    sliced      mean over l and directions v of  |sort(v F_l(x)) - sort(v F_l(y))|^2 / var(v F_l(y))
    content     mean over bands l of  1 - corr(H_l(x), H_l(y)), with weights 2^l,   H_l an octave of the grey picture

Fixed random filters of a single layer, seen at several scales, are as good a measure of texture as a trained network's
(Ustyuzhaninov 2017), and need no download. Any other network can take their place: pictures (1, 3, H, W) in 0..1 -> a
list of maps.

References: Gatys 2015 (arXiv:1508.06576); Ustyuzhaninov 2017 (arXiv:1606.00021); Heitz 2020 (arXiv:2006.07229, sliced).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pofx.randomness import Rng

Maps = Callable[[Tensor], list[Tensor]]  # (1, 3, H, W) in 0..1 -> maps (1, C_l, H_l, W_l), finest first
SMALLEST = 8  # pixels a side of the coarsest scale, at least


def random_filters(scales: int = 5, filters: int = 64, width: int = 5, seed: int = 0) -> Maps:
    """Rectified responses of fixed random filters at several scales, and the colours themselves.

    Args:
        scales: octaves, the finest being the picture's own. filters: of each scale. width: of a filter, in pixels.
        seed: of the filters, 0 for everyone, so that distances can be compared.
    """
    rng = Rng(seed)
    bank = rng.normal((filters, 3, width, width))
    axis = torch.linspace(-1, 1, width)
    window = torch.exp(-1.5 * (axis[:, None].square() + axis[None].square()))  # no edge of a filter is seen
    bank = bank * window
    bank = bank - bank.mean((2, 3), keepdim=True) * (window / window.mean())
    bank = bank / bank.flatten(1).norm(dim=1)[:, None, None, None]

    def maps(x: Tensor) -> list[Tensor]:
        found = []
        for level in pyramid(x, scales):
            padded = functional.pad(level - 0.5, [width // 2] * 4, mode="replicate")
            response = functional.conv2d(padded, bank.to(x))
            found.append(torch.cat([functional.relu(response), 0.5 * level], 1))
        return found

    return maps


def pretrained(name: str = "vgg19", layers: Sequence[int] = (1, 6, 11, 20, 29)) -> Maps:
    """The rectified maps of a network of torchvision, with its weights as torchvision finds them.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        from torchvision import models  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("style: features='vgg19' needs torchvision; or use the default filters.") from error
    body = getattr(models, name)(weights="DEFAULT").features.eval().requires_grad_(False)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def maps(x: Tensor) -> list[Tensor]:
        h, found = (x - mean.to(x)[:, None, None]) / deviation.to(x)[:, None, None], []
        for k, layer in enumerate(body[: max(layers) + 1]):
            h = functional.relu(h) if isinstance(layer, torch.nn.ReLU) else layer(h)
            if k in layers:
                found.append(h)
        return found

    return maps


def pyramid(x: Tensor, scales: int) -> list[Tensor]:
    """The picture `(1, C, H, W)` at its size, half of it, and so on, as long as a side has 8 pixels."""
    found = [x]
    while len(found) < scales and min(x.shape[-2:]) >= 2 * SMALLEST:
        x = functional.avg_pool2d(x, 2)
        found.append(x)
    return found


def gram(maps: Tensor) -> Tensor:
    """Second moments of the features with their means, `(C + 1, C + 1)`, of maps `(1, C, H, W)`."""
    return moments(maps)[0]


def moments(maps: Tensor) -> Tensor:
    """The Gram matrix of each row, `(B, C + 1, C + 1)`, of maps `(B, C, H, W)`."""
    f = maps.flatten(2)
    f = torch.cat([torch.ones_like(f[:, :1]), f], 1)
    return f @ f.mT / f.shape[2]


def gram_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over scales of the squared distance of Gram matrices, relative to the wanted ones'."""
    return gram_distances(found, wanted).mean()


def gram_distances(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The same row by row, `(B,)`, of matrices `(B, C + 1, C + 1)`."""
    parts = [
        (g - w).square().sum((-2, -1)) / (w - _mean_of(w)).square().sum((-2, -1)).clamp_min(1e-12)
        for g, w in zip(found, wanted, strict=False)
    ]
    return torch.stack(parts).mean(0)


def slices(maps: Tensor, directions: Tensor) -> Tensor:
    """Sorted projections of the features `(1, C, H, W)` on directions `(C, K)`: `(K, H W)`."""
    return (directions.T @ maps.flatten(2)[0]).sort(1).values


def sliced_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over scales of the squared Wasserstein distance along directions, relative to the wanted variance."""
    parts = []
    for f, w in zip(found, wanted, strict=False):
        if w.shape[1] != f.shape[1]:
            w = functional.interpolate(w[None], size=f.shape[1], mode="linear", align_corners=True)[0]
        parts.append((f - w).square().mean() / w.var(1).mean().clamp_min(1e-12))
    return torch.stack(parts).mean()


def structure(x: Tensor, scales: int = 4) -> list[Tensor]:
    """What a picture shows, apart from its colours: bands of the grey picture, each over its own contrast."""
    grey = x.mean(1, keepdim=True)
    levels = pyramid(grey, scales + 1)
    bands = []
    for fine, coarse in zip(levels[:-1], levels[1:], strict=True):
        band = fine - functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        bands.append(band)
    return [*bands, levels[-1] - levels[-1].mean((2, 3), keepdim=True)]


def structure_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over bands of 1 - correlation, for a style may have another contrast; coarse bands weigh more."""
    parts = [
        (_even(f) - _even(w)).square().mean() / 2 * 2.0**k for k, (f, w) in enumerate(zip(found, wanted, strict=True))
    ]
    return torch.stack(parts).sum() / (2.0 ** len(parts) - 1)


def _even(band: Tensor) -> Tensor:
    return band / (band.square().mean((1, 2, 3), keepdim=True) + 1e-6).sqrt()


def _mean_of(w: Tensor) -> Tensor:
    """The part of a Gram matrix that the means alone make."""
    return w[..., :, :1] @ w[..., :1, :]
