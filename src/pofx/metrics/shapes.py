"""How shapes are judged: overlap of voxels, distance of point clouds.

    IoU(a, b)     = |a and b| / |a or b|            of occupied cells; 1 where both are empty
    Chamfer(a, b) = mean_p min_q |p - q|^2 + mean_q min_p |p - q|^2                 of points p in a, q in b

Offers `iou`, `chamfer`, `surface_points`. What a model must beat is the mean shape (`pofx.baselines.mean_shape`).
References: Choy 2016 (arXiv:1604.00449: IoU of reconstructed voxels); Fan 2016 (arXiv:1612.00603: Chamfer).
"""

from __future__ import annotations

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, mean_metric, to_numpy


def iou(a: ArrayLike, b: ArrayLike, level: float = 0.5) -> Metric:
    """Mean overlap of voxels `(N, D, H, W)`, occupied where above the level. Raises ValueError where shapes differ."""
    return mean_metric("IoU", overlaps(a, b, level), "higher")


def overlaps(a: ArrayLike, b: ArrayLike, level: float = 0.5) -> Array:
    """The overlap of each pair, `(N,)`."""
    x, y = (to_numpy(v) for v in (a, b))
    if x.shape != y.shape or x.ndim < 2:
        raise ValueError(f"iou: got shapes {x.shape} and {y.shape}; expected the same, (N, D, H, W).")
    p, q = ((v > level).reshape(len(v), -1) for v in (x, y))
    either = (p | q).sum(1)
    return np.where(either > 0, (p & q).sum(1) / np.maximum(either, 1), 1.0)


def chamfer(a: ArrayLike, b: ArrayLike) -> float:
    """The distance of two point clouds `(P, 3)` and `(Q, 3)`, in squared units of theirs."""
    from scipy.spatial import cKDTree

    p, q = (np.asarray(to_numpy(v), dtype=np.float64) for v in (a, b))
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != q.shape[1] or not len(p) or not len(q):
        raise ValueError(f"chamfer: got points {p.shape} and {q.shape}; expected (P, 3) and (Q, 3), at least one each.")
    return float(np.square(cKDTree(q).query(p)[0]).mean() + np.square(cKDTree(p).query(q)[0]).mean())


def surface_points(cells: ArrayLike, level: float = 0.5) -> Array:
    """The middles of occupied cells `(P, 3)` that touch an empty one, in cells."""
    solid = np.pad(to_numpy(cells) > level, 1)
    inside = solid.copy()
    for axis in range(3):
        inside &= np.roll(solid, 1, axis) & np.roll(solid, -1, axis)
    return np.argwhere(solid & ~inside) - 1.0
