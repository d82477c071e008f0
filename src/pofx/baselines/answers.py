"""Answers that need no model: what comes next is what was, what is small is enlarged, a shape is the mean shape.

    hold        x_{T+h} = x_T,  or of a season s ago:  x_{T+h} = x_{T+h-s ceil(h/s)}        (last value, seasonal naive)
    enlarged    bicubic interpolation, a = -1/2                                             (Keys 1981)
    mean shape  the cells that are most often occupied, as many as shapes have on average

A model's answer counts where it beats these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]


def hold(past: Any, ahead: int, season: int = 1) -> Array:
    """The last step, or the last season again and again, `(N, ahead, ...)` of series or clips `(N, T, ...)`.

    Args:
        past: (N, T, C) of series, (N, T, H, W, C) of clips.
        ahead: steps.
        season: steps of a season; 1 is the last value.

    Raises:
        ValueError: fewer steps than a season, or none ahead.
    """
    x = _numbers(past)
    if x.ndim not in (3, 5) or ahead < 1 or not 1 <= season <= x.shape[1]:
        raise ValueError(
            f"hold: got {x.shape}, ahead {ahead}, season {season}; expected series (N, T, C) or clips (N, T, H, W, C), "
            "at least 1 step ahead, and a season of 1 to T steps."
        )
    return x[:, x.shape[1] - season + np.arange(ahead) % season]


def enlarged(pictures: Any, size: tuple[int, int], white: float = 255.0) -> Array:
    """Pictures `(N, h, w)` or `(N, h, w, C)` as `(N, *size)` or `(N, *size, C)`, bicubic, cut to 0 .. white.

    Raises:
        ValueError: another shape, or no size.
    """
    x = _numbers(pictures)
    if x.ndim not in (3, 4) or min(size) < 1 or not x.size:
        raise ValueError(f"enlarged: got {x.shape} and size {size}; expected pictures (N, h, w) or (N, h, w, C).")
    first = torch.from_numpy(np.moveaxis(x[..., None] if x.ndim == 3 else x, -1, 1).astype(np.float64))
    y = torch.nn.functional.interpolate(first, size=size, mode="bicubic", antialias=True).clamp(0, white).numpy()
    return np.moveaxis(y, 1, -1) if x.ndim == 4 else y[:, 0]


def mean_shape(x: Any) -> Array:
    """The cells `(D, H, W)` bool that are most often occupied, as many as the shapes `(N, D, H, W)` have on average."""
    cells = _numbers(x) > 0.5
    share, count = cells.mean(0), max(1, round(float(cells.sum()) / len(cells)))
    least = np.partition(share.ravel(), -count)[-count]
    return (share >= least) & (share > 0)


def _numbers(x: Any) -> Array:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
