"""How foretold frames and new views are judged: squared error and PSNR.

    MSE  = mean (x - y)^2                 a frame's sum over pixels of levels / white, where `per_frame` (as published)
    PSNR = 10 log10(white^2 / MSE)        of each picture; the mean over pictures is what is reported

Offers `psnr`, `frame_errors`. What a forecast must beat is the last frame, held (`pofx.baselines.hold`).
References: moving digits, Srivastava 2015 (arXiv:1502.04681); Shi 2015 (arXiv:1506.04214: the sum over a frame).
"""

from __future__ import annotations

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, mean_metric, to_numpy


def psnr(x: ArrayLike, truth: ArrayLike, white: float = 255.0, axes: int = 3) -> Metric:
    """Mean peak signal to noise ratio of pictures, decibel; the last `axes` axes are one picture.

    An exact copy counts as 100 dB, since its own value is infinite. Raises ValueError where shapes differ.
    """
    a, b = _pair("psnr", x, truth)
    error = np.square(a - b).reshape(*a.shape[: a.ndim - axes], -1).mean(-1).ravel()
    values = np.minimum(100.0, 10 * np.log10(white**2 / np.maximum(error, 1e-30)))
    return mean_metric("PSNR (dB)", values, "higher")


def frame_errors(x: ArrayLike, truth: ArrayLike, white: float = 255.0) -> Array:
    """Sum over pixels of ((x - truth) / white)^2 of each frame, `(*batch, T)`, for clips `(*batch, T, H, W, C)`."""
    a, b = _pair("frame_errors", x, truth)
    return np.square((a - b) / white).sum((-1, -2, -3))


def _pair(name: str, x: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    a, b = (to_numpy(v).astype(np.float64) for v in (x, truth))
    if a.shape != b.shape or not a.size:
        raise ValueError(f"{name}: got shapes {a.shape} and {b.shape}; expected the same, not empty.")
    return a, b
