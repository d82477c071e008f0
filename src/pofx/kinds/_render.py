"""Render: shapes as seen from a side, in parallel projection, `(N, size, size)` grey levels; 0 where nothing stands.

    pixel = light at the nearest point: (1 - deep) + deep (1 - depth), times ambient + (1 - ambient) |n . l|

Axes of a shape are (x, y, z), z upwards. Azimuth turns around z (0 looks along -x, 90 along -y), elevation rises from
the ground, both in degrees. The frame is the same for all shapes of one size, so places can be compared.
"""

from __future__ import annotations

import numpy as np

AMBIENT, DEEP = 0.35, 0.45
SIDES = ((35.0, 20.0), (0.0, 0.0), (90.0, 0.0), (215.0, 30.0))  # from which a shape is drawn
Array = np.ndarray


def camera(azimuth: float, elevation: float) -> tuple[Array, Array, Array]:
    """The directions right, up and into the picture."""
    a, e = np.deg2rad([azimuth, elevation])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    into = -np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return right, np.cross(right, into), into


def view_voxels(voxels: Array, azimuth: float = 35.0, elevation: float = 20.0, size: int = 32) -> Array:
    """Occupied cells `(N, D, H, W)` bool as pictures `(N, size, size)` uint8."""
    sides = np.array(voxels.shape[1:])
    corner = np.stack(np.meshgrid(*[[-0.3, 0.3]] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    out = np.zeros((len(voxels), size, size), dtype=np.uint8)
    for k, cells in enumerate(voxels):
        at = np.argwhere(cells)
        if len(at):
            points = (at - (sides - 1) / 2 + corner).reshape(-1, 3) / (0.4 * np.linalg.norm(sides))
            out[k] = _splat(points, np.tile(_normals(cells, at), (8, 1)), azimuth, elevation, size)
    return out


def view_points(points: Array, azimuth: float = 35.0, elevation: float = 20.0, size: int = 64) -> Array:
    """Point clouds `(N, P, 3)` as pictures `(N, size, size)` uint8, all in the frame of the largest."""
    middle = (points.min(1) + points.max(1))[:, None] / 2
    reach = max(float(np.abs(points - middle).max()), 1e-12) * 1.5
    flat = np.zeros_like(points[0])
    return np.stack(
        [_splat((p - m) / reach, flat, azimuth, elevation, size) for p, m in zip(points, middle, strict=True)]
    )


def _splat(points: Array, normals: Array, azimuth: float, elevation: float, size: int) -> Array:
    right, up, into = camera(azimuth, elevation)
    light = -(into + 0.5 * right - 0.6 * up)
    lit = np.abs(normals @ (light / np.linalg.norm(light)))
    shade = np.where(np.any(normals != 0, -1), AMBIENT + (1 - AMBIENT) * lit, 1.0)
    depth = np.clip((points @ into + 1) / 2, 0, 1)
    column = ((points @ right + 1) / 2 * size).astype(int).clip(0, size - 1)
    row = ((1 - points @ up) / 2 * size).astype(int).clip(0, size - 1)
    order = np.argsort(-depth, kind="stable")  # the nearest is written last
    picture = np.zeros((size, size), dtype=np.uint8)
    picture[row[order], column[order]] = 255 * (shade * (1 - DEEP * depth))[order]
    return picture


def _normals(cells: Array, at: Array) -> Array:
    solid = np.pad(cells.astype(np.float32), 1)
    for axis in range(3):  # a box of three cells smooths the steps
        solid = (np.roll(solid, 1, axis) + solid + np.roll(solid, -1, axis)) / 3
    slope = np.stack(list(np.gradient(solid)), -1)[tuple((at + 1).T)]
    return slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
