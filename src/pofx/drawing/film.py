"""Film: rows that change over time, as an animated GIF.

    film(frames (T, N, *event), space, path, fps)        N rows side by side; a bar below says how far the film is

Pictures are enlarged pixel by pixel, series and columns are drawn within limits that hold for the whole film, and other
kinds draw themselves. The bar keeps neighbouring frames apart, which a GIF would make one where they are alike.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pofx.drawing.pixels import enlarged, pictured, pixels, sheet
from pofx.drawing.style import ACCENT, LINE, PAPER, blank, plain
from pofx.drawing.values import columnar, label_words, names, spread_out, units, wordy
from pofx.files import write_atomic
from pofx.kinds import KINDS
from pofx.kinds.base import Space

Array = np.ndarray[Any, np.dtype[Any]]
ABREAST, HEIGHT, BAR = 8, 192, 4  # rows, and pixels: of a picture about, and of the bar
COLUMNS, CHANNELS = 12, 4
SHORTEST = 0.02  # seconds: browsers show shorter frames slowly


def film(frames: Tensor, space: Space, path: str | Path, fps: float) -> Path:
    """Write frames `(T, N, *event)` as an animated GIF that repeats; gives its path.

    Args:
        frames: T moments of N rows, of which the first eight are shown.
        space: of a row.
        path: that ends in .gif; its folder is made.
        fps: frames a second, at most 50.

    Raises:
        ValueError: another ending, or no frame. OSError: it cannot be written.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".gif" or not len(frames) or not fps > 0:
        raise ValueError(
            f"film: got {len(frames)} frames at {fps:g} a second for {path.name}; expected a .gif of some."
        )
    few = frames[:, :ABREAST]
    shown = _pictures(few, space) if pictured(space) else _drawn(few, space)
    shown = np.stack([_with_bar(one, t / max(len(shown) - 1, 1)) for t, one in enumerate(shown)])
    grey = bool((shown == shown[..., :1]).all())  # kept as they are; colours are brought to 256 of them
    made = [Image.fromarray(one[..., 0] if grey else one) for one in shown]
    made = made if grey else [one.quantize(256, dither=Image.Dither.NONE) for one in made]
    out, lasts = io.BytesIO(), round(1000 * max(1 / fps, SHORTEST))
    made[0].save(out, "GIF", save_all=True, append_images=made[1:], duration=lasts, loop=0, optimize=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, out.getvalue())
    return path


def _pictures(frames: Tensor, space: Space) -> Array:
    """Bytes `(T, H, W, 3)`: pictures side by side."""
    shown = pixels(frames, space)
    times = max(1, HEIGHT // shown.shape[2])
    return np.stack([enlarged(sheet(one[None]), times) for one in shown])


def _with_bar(frame: Array, share: float) -> Array:
    """A frame above a bar whose ink reaches as far as the film is."""
    h, w, _ = frame.shape
    bar = np.full((2 * BAR, w, 3), 255, dtype=np.uint8)
    bar[BAR:] = 220
    bar[BAR:, : max(1, round(share * w))] = 80
    return np.concatenate([frame, bar])


def _drawn(frames: Tensor, space: Space) -> Array:
    """Bytes `(T, H, W, 3)`: what matplotlib draws of each frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    count = frames.shape[1]
    drawing = blank(min(2.6 * count + 0.6, 12), 2.6)
    drawing.patch.set(facecolor=PAPER, alpha=1)
    canvas, shown = FigureCanvasAgg(drawing), []
    low, high = _limits(frames, space)
    for one in frames:
        drawing.clear()
        for k, axes in enumerate(drawing.subplots(1, count, squeeze=False)[0]):
            if columnar(space) and space.size == 2:  # the whole way, on which the dot goes
                axes.plot(*units(space, frames[:, k]).T, color=LINE, linewidth=1.5, zorder=0)
            _one(axes, one[k : k + 1], space, low, high)
        canvas.draw()
        shown.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return np.stack(shown)


def _limits(frames: Tensor, space: Space) -> tuple[Array, Array]:
    """Least and greatest of each entry over the film, `(D,)`."""
    if space.kind == "series":
        flat = frames.double().numpy().reshape(-1, space.shape[-1])
        return flat.min(0), flat.max(0)
    if not columnar(space):
        return np.zeros(0), np.zeros(0)
    flat = units(space, frames).reshape(-1, space.size)
    return flat.min(0), flat.max(0)


def _one(axes: Any, x: Tensor, space: Space, low: Array, high: Array) -> None:
    """One row at one moment."""
    air = 0.08 * np.where(high - low > 1e-12, high - low, 1.0)
    if space.kind == "series":
        values, axis = x[0].double().numpy(), axes
        count = min(len(space.meta["channels"]), CHANNELS)
        for c in range(count):
            axis = axes.inset_axes((0, 1 - (c + 0.94) / count, 1, 0.88 / count)) if count > 1 else axes
            axis.plot(values[:, c], color=ACCENT, linewidth=1.3)
            axis.set_ylim(low[c] - air[c], high[c] + air[c])
            plain(axis)
        if count > 1:
            axes.set_axis_off()
        return
    if not columnar(space):
        KINDS[space.kind].draw(axes, x, space)
        return
    values = units(space, x)[0]
    if space.size == 2:
        axes.plot(*values, "o", color=ACCENT, markersize=9)
        axes.set(xlim=(low[0] - air[0], high[0] + air[0]), ylim=(low[1] - air[1], high[1] + air[1]))
        axes.set(xlabel=names(space)[0], ylabel=names(space)[1])
        label_words(axes.xaxis, space.variable(0))
        label_words(axes.yaxis, space.variable(1))
        plain(axes)
        return
    _bars(axes, values, space, low, high)


def _bars(axes: Any, values: Array, space: Space, low: Array, high: Array) -> None:
    """A line for each column, from its least to its greatest value in the film, with a dot where it is now."""
    few = spread_out(space.size, COLUMNS)
    place = np.arange(len(few))[::-1]
    size = np.where(high - low > 1e-12, high - low, np.inf)
    axes.hlines(place, 0, 1, color=LINE, linewidth=2)
    axes.plot(((values - low) / size)[few], place, "o", color=ACCENT, markersize=6)
    axes.set_yticks(place, [names(space)[j] for j in few])
    for at, j in zip(place, few, strict=True):
        v = space.variable(j)
        said = str((v.values or ())[round(values[j])])[:9] if wordy(v) else f"{values[j]:.3g}"
        axes.text(1.06, at, said, fontsize=7, va="center")
    axes.set(xlim=(-0.05, 1.4), xticks=[])
    plain(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
