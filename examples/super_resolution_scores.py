"""What super-resolution is scored by: decibels, features, spectra, seams; and its picture.

    PSNR        10 log10(255^2 / mean |y - x|^2), in whole grey levels, the border cut
    features    mean over the layers f of a network, and over pixels, of | f(y) / |f(y)| - f(x) / |f(x)| |^2
    texture     | G(y) - G(x) |^2 / | G(x) - m m^T |^2,   G = second moments of random filters at several scales
    spectrum    mean |log10 P_y - log10 P_x| over the frequencies above those that the coarse picture has
    seams       mean step of y - m across the edges of tiles, over its mean step anywhere

The network of `features` is a denoiser that was fitted on photographs alone and that no other model has seen; the
random filters have a seed of their own.

References: learned distances (Zhang 2018, arXiv:1801.03924); a denoiser's features (Baranchuk 2022, arXiv:2112.03126);
random filters (Ustyuzhaninov 2017, arXiv:1606.00021).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import pofx
from pofx.engines.style import gram, gram_distance, random_filters

SCALE, BORDER, BINS = 4, 4, 40
SEEN = 48  # pixels a side of what the network sees
LEVEL = 0.1  # noise, in deviations, that its denoiser is told of
OUT = Path("docs/applications/super_resolution.png")


def luma(picture: Image.Image) -> np.ndarray:
    """Y of ITU-R BT.601 in 16 .. 235, as the field compares it, (H, W) float64."""
    rgb = np.asarray(picture.convert("RGB"), np.float64)
    return 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255


def resized(y: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic, with smoothing where it shrinks."""
    return np.asarray(Image.fromarray(y.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC), float)


def psnr(y: np.ndarray, truth: np.ndarray, border: int = BORDER) -> float:
    """Decibels, the border cut."""
    gap = (np.clip(y.round(), 16, 235) - truth.round())[border : len(y) - border, border : y.shape[1] - border]
    return float(10 * np.log10(255**2 / np.square(gap).mean()))


def spectrum(y: np.ndarray) -> np.ndarray:
    """Log power by frequency, up to half a cycle a pixel, (40,)."""
    window = np.hanning(y.shape[0])[:, None] * np.hanning(y.shape[1])[None]
    power = np.abs(np.fft.fft2((y - y.mean()) * window)) ** 2
    f = np.hypot(np.fft.fftfreq(y.shape[0])[:, None], np.fft.fftfreq(y.shape[1])[None])
    bins = (f * 2 * BINS).astype(int).ravel()  # the corners, beyond half a cycle, are left out
    counts = np.bincount(bins, minlength=BINS)[:BINS]
    return np.log10(np.bincount(bins, power.ravel(), BINS)[:BINS] / np.maximum(counts, 1) + 1e-9)


def spectrum_gap(y: np.ndarray, truth: np.ndarray) -> float:
    """Orders of magnitude between the powers of what the coarse picture cannot show."""
    return float(np.abs(spectrum(y) - spectrum(truth))[BINS // SCALE :].mean())


def tiles_of(y: np.ndarray) -> Tensor:
    """Squares spread over a picture, (T, 1, 48, 48) float64."""
    rows, columns = ([*range(0, n - SEEN, 2 * SEEN), n - SEEN] for n in y.shape)
    return torch.from_numpy(np.stack([y[i : i + SEEN, j : j + SEEN] for i in rows for j in columns]))[:, None]


def maps(judge: pofx.Model, y: np.ndarray) -> list[Tensor]:
    """What the layers of a denoiser hold of a picture's tiles, each pixel's features of length 1."""
    tiles, found = tiles_of(y), list[Tensor]()

    def keep(module: torch.nn.Module, seen: object, out: Tensor) -> None:
        found.append(out / out.norm(dim=1, keepdim=True).clamp_min(1e-6))

    hooks = [stage.register_forward_hook(keep) for stage in judge.core.net.net.going]
    ones = torch.ones(len(tiles))
    u = judge.chart.encode(tiles.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8))
    with torch.no_grad():
        judge.denoise(u, ones, LEVEL * ones)
    for hook in hooks:
        hook.remove()
    return found


def features(judge: pofx.Model, y: np.ndarray, wanted: list[Tensor]) -> float:
    """The distance of a picture from another one, whose `maps` are wanted."""
    pairs = zip(maps(judge, y), wanted, strict=True)
    return float(torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean())


def texture(y: np.ndarray, truth: np.ndarray) -> float:
    """The distance of two pictures in the statistics of random filters."""
    filters = random_filters(scales=2, filters=64, seed=7)
    found, wanted = (
        [gram(m) for m in filters(torch.from_numpy(p / 255).float().expand(1, 3, *p.shape))] for p in (y, truth)
    )
    return float(gram_distance(found, wanted))


def seams(rest: np.ndarray, step: int, first: int) -> float:
    """How much larger the steps across the edges of tiles are than those elsewhere; 1: nothing shows.

    Only edges of coarse pixels are compared, for a step across one is not like a step within.
    """
    across = np.abs(np.diff(rest, axis=1)).mean(0)
    place = np.arange(1, rest.shape[1]) - first
    inner = (place % SCALE == 0) & (place > BORDER - first) & (place < rest.shape[1] - BORDER - first)
    at = place % step == 0
    return float(across[inner & at].mean() / across[inner & ~at].mean())


def picture(shown: list[tuple[str, dict[str, np.ndarray], np.ndarray]]) -> None:
    """Answers and the truth of some squares, and their spectra."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    words = ("bicubic", "mean", "GAN", "draw", "photograph")
    colours = ("#999999", "#0072b2", "#d55e00", "#009e73", "black")
    figure, axes = plt.subplots(len(shown), 6, figsize=(15, 2.7 * len(shown)), layout="constrained")
    for line, (name, answers, truth) in enumerate(shown):
        row = axes[line]
        for axis, word, colour in zip(row, words, colours, strict=False):
            y = answers.get(word, truth)
            axis.imshow(y, cmap="gray", vmin=16, vmax=235, interpolation="nearest")
            axis.set_axis_off()
            axis.set_title(word if line == 0 else "")
            row[5].plot(np.linspace(0, 0.5, BINS), spectrum(y), color=colour, label=word, lw=1.2)
        row[0].text(-0.08, 0.5, name, rotation=90, va="center", ha="right", transform=row[0].transAxes)
        row[5].axvline(0.5 / SCALE, color="#cccccc", lw=0.8, zorder=0)
        row[5].set_xlabel("cycles a pixel" if line == len(shown) - 1 else "")
        row[5].set_title("log10 power" if line == 0 else "")
    axes[0][5].legend(fontsize=7, frameon=False)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=80)
    Image.open(OUT).convert("RGB").quantize(192, kmeans=2).save(OUT, optimize=True)
