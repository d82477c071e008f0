"""Shape: voxels (D, H, W) of 0 and 1, or point clouds (P, 3) without an order.

    voxels   x_dhw = 1 where the cell is occupied: an ordinal of two levels, layout "grid" (D, H, W), z (up) last
    points   x = {p_1, ..., p_P}, p in R^3: real coordinates, layout "set"; their order says nothing

Reads OFF, OBJ, PLY, STL and GLB meshes (.gz too) and folders of them (a folder for each class gives the label), npy and
npz arrays (.npy.gz too), and NumPy arrays: voxels (N, D, H, W) or (N, 1, D, H, W) of bool or of 0 and 1, with
kind="shape" also points (N, P, 3). Written as a mesh by marching cubes. Its trivial baseline is the mean shape
(`baselines.mean_shape`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._arrays import header, is_arrays, label_array, load_arrays, main_array
from pofx.kinds._meshes import mesh_of, mesh_suffix, points_on, read_mesh, voxelised, write_mesh
from pofx.kinds._render import SIDES, view_points, view_voxels
from pofx.kinds.base import Kind, Raw, Space, Variable, numbered
from pofx.kinds.image import _label

SHOWN = 8  # shapes of a drawing


class Shape(Kind):
    """Shapes: one object is one x."""

    name = "shape"
    layout = "grid"
    endings = (".obj", ".off", ".ply", ".stl", ".glb")
    together = False

    def reads(self, source: object) -> bool:
        if isinstance(source, np.ndarray):
            return _is_voxels(source.shape, source.dtype)
        if not isinstance(source, Path):
            return False
        if source.is_dir():
            return any(mesh_suffix(p) for p in source.rglob("*"))
        return bool(mesh_suffix(source)) or (is_arrays(source) and _is_voxels(*header(source)))

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        resolution: int = 32,
        points: int | None = None,
        fill: bool | None = None,
        up: str = "z",
        seed: int = 0,
    ) -> Raw:
        """Voxels `(N, D, H, W)` uint8, or points `(N, P, 3)` float64.

        Args:
            source: a mesh, a folder of meshes, an npy, npz or npy.gz file, or an array.
            given: "label", wherever there is one.
            resolution: cells of a side, for meshes.
            points: so many points on the surface of each mesh in place of voxels; of an array (N, P, 3), so many of P.
            fill: whether the inside of a mesh is occupied; None: where it has no holes.
            up: which axis of the meshes points up, "z" or "y".
            seed: of the points.

        Raises:
            ValueError: nothing there, nothing readable, no occupied cell, a grid of one cell, other numbers than 0 and
                1, or an option that does not fit. ImportError: meshes need trimesh, which is not there.
        """
        if up not in ("z", "y") or resolution < 4 or (points is not None and points < 1):
            raise ValueError(
                f"up is {up!r}, resolution {resolution}, points {points}; expected z or y, 4 and 1 at least."
            )
        if isinstance(source, Path) and (source.is_dir() or mesh_suffix(source)):
            x, label, notes = _meshes(source, resolution, points, fill, up, seed)
        else:
            x, label = _array_of(source)
            notes = []
            if x.ndim == 3 and points is not None:
                x = _some(x, points, seed)
        if x.ndim == 4:
            x, label, more = _occupied(x, label)
            notes += more
        space = _voxel_space(x) if x.ndim == 4 else _point_space(x)
        known = {} if label is None else {"label": _label(label, len(x))}
        values, spaces = {k: v for k, (v, _) in known.items()}, {k: s for k, (_, s) in known.items()}
        return Raw(torch.from_numpy(x), space, values, spaces, notes=tuple(notes))

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        values = np.asarray(rows.detach().cpu() if isinstance(rows, Tensor) else rows)
        values = values[None] if values.shape == space.shape else values
        if values.shape[1:] != space.shape or values.dtype.kind not in "buif":
            want = str(("N", *space.shape)).replace("'", "")
            raise ValueError(f"got shapes of {values.shape}, {values.dtype}; expected {want}, as in the training data.")
        observed = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
        if space.layout == "set":
            x = torch.from_numpy(np.where(observed, values, space.variables[0].mean).astype(np.float64))
            return x, torch.from_numpy(observed)
        _binary(values[observed])
        return torch.from_numpy(np.where(observed, values, 0).astype(np.uint8)), torch.from_numpy(observed)

    def restore(self, x: Tensor, space: Space) -> np.ndarray:
        return x.detach().cpu().numpy().astype(np.float64 if space.layout == "set" else bool)

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> np.ndarray:
        own = np.array(rows.detach().cpu() if isinstance(rows, Tensor) else rows, copy=True)
        hole = ~observed.cpu().numpy().reshape(own.shape)
        own[hole] = x.detach().cpu().numpy().reshape(own.shape)[hole].astype(own.dtype)
        return own if space.layout == "set" or own.dtype.kind != "f" else own.astype(bool)

    def blank(self, rows: Any, observed: Tensor, space: Space) -> np.ndarray:
        return np.where(observed.cpu().numpy().reshape(rows.shape), np.asarray(rows, dtype=np.float64), np.nan)

    def rows(self, source: Any, space: Space) -> np.ndarray:
        """The shapes of a file, at the resolution (or with as many points) that the model knows."""
        points = space.shape[0] if space.layout == "set" else None
        return self.restore(
            self.read(source, resolution=space.shape[0] if points is None else 32, points=points).x, space
        )

    def view(self, x: Any, space: Space, azimuth: float = 35.0, elevation: float = 20.0, size: int = 32) -> np.ndarray:
        """Shapes (a tensor or an array) as seen from a side, pictures `(N, size, size)` uint8.

        They are what a photo-to-shape model may be given.
        """
        values = torch.as_tensor(x).detach().cpu().numpy()
        if space.layout == "set":
            return view_points(values, azimuth, elevation, size)
        return view_voxels(values > 0.5, azimuth, elevation, size)

    def mesh(self, x: Tensor, space: Space, level: float = 0.5) -> Any:
        """One x (or the probabilities of its cells) as a trimesh, in units of cells."""
        if space.layout == "set":
            raise ValueError("points have no surface; a mesh is made of voxels.")
        return mesh_of(x.detach().cpu().double().numpy(), level)

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Shapes as meshes (.obj, .off, .ply, .stl, .glb), points as .ply: one to `path`, several to path-0, ..."""
        x = torch.as_tensor(rows).reshape(-1, *space.shape)
        paths = numbered(path, len(x), (".ply",) if space.layout == "set" else self.endings)
        for one, to in zip(x, paths, strict=True):
            write_mesh(to, one.detach().cpu().numpy() if space.layout == "set" else self.mesh(one, space))
        return paths

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """The first shapes, a column for each, from several sides."""
        some = x[:SHOWN]
        rows = [np.concatenate(list(self.view(some, space, *side, size=64)), 1) for side in SIDES[:3]]
        axes.set_axis_off()
        axes.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _is_voxels(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether an array is voxels by its looks: bool with four axes, or numbers with a single channel and a cube."""
    if dtype is None:
        return False
    if len(shape) == 4:
        return dtype == np.bool_ and shape[-1] > 3
    return len(shape) == 5 and shape[1] == 1 and len(set(shape[2:])) == 1


def _array_of(source: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels `(N, D, H, W)` uint8 or points `(N, P, 3)`, and labels."""
    label = None
    if isinstance(source, Path):
        arrays = load_arrays(source, "shapes, voxels (N, D, H, W) or points (N, P, 3)")
        source, label = main_array(arrays), label_array(arrays)
    x = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    x = x[:, 0] if x.ndim == 5 and x.shape[1] == 1 else x
    if x.dtype.kind not in "buif" or x.ndim not in (3, 4) or 0 in x.shape or (x.ndim == 3 and x.shape[2] != 3):
        raise ValueError(
            f"got an array of shape {x.shape} and dtype {x.dtype}; expected voxels (N, D, H, W) of 0 and 1, or points "
            "(N, P, 3), at least one of each."
        )
    if x.ndim == 3:
        if not np.isfinite(x).all():
            raise ValueError("the points hold NaN or inf; expected finite coordinates (drop those shapes).")
        return x.astype(np.float64), label
    _binary(x)
    return x.astype(np.uint8), label


def _binary(values: np.ndarray) -> None:
    odd = values[(values != 0) & (values != 1)] if values.dtype != np.bool_ else values[:0]
    if odd.size:
        raise ValueError(f"got voxels of {odd.flat[0]:g}; expected 0 (empty) and 1 (occupied): threshold them first.")


def _occupied(x: np.ndarray, label: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Shapes that have a cell; a grid must have more than one."""
    if min(x.shape[1:]) < 2:
        raise ValueError(f"got voxels {x.shape[1:]}; a shape needs at least 2 cells along each axis.")
    full = x.any((1, 2, 3))
    if not full.any():
        raise ValueError(f"none of {len(x)} shapes has an occupied cell.")
    notes = [f"{len(x)} shapes of {x.shape[1]} x {x.shape[2]} x {x.shape[3]} cells, {x.mean():.1%} occupied"]
    notes += [f"{int((~full).sum())} shapes without an occupied cell are left out"] if not full.all() else []
    return x[full], None if label is None else label[full], notes


def _some(x: np.ndarray, points: int, seed: int) -> np.ndarray:
    if points > x.shape[1]:
        raise ValueError(f"points is {points}; the clouds have {x.shape[1]}.")
    rng = np.random.default_rng(seed)
    return np.stack([cloud[rng.permutation(len(cloud))[:points]] for cloud in x])


def _meshes(
    source: Path, resolution: int, points: int | None, fill: bool | None, up: str, seed: int
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Voxels or points of a mesh or of a folder of them, their class folders, and notes."""
    paths = sorted(p for p in source.rglob("*") if mesh_suffix(p)) if source.is_dir() else [source]
    if not paths:
        raise ValueError(f"{source} holds no mesh; expected files that end in .off, .obj, .ply, .stl or .glb.")
    done, kept, notes = [], [], []
    for k, path in enumerate(paths):
        try:
            mesh = read_mesh(path, up)
        except ValueError as error:
            if len(paths) == 1:
                raise
            notes.append(f"left out: {error}")
            continue
        cells, note = voxelised(mesh, resolution, fill) if points is None else (points_on(mesh, points, seed + k), "")
        notes += [f"{path.name}: {note}"] if note else []
        done.append(cells)
        kept.append(path.relative_to(source).parts[:-1] if source.is_dir() else ())
    if not done:
        raise ValueError(f"{source}: none of {len(paths)} meshes can be read; the first: {notes[0]}")
    words = None if any(not c for c in kept) or len(set(kept)) < 2 else np.array(["/".join(c) for c in kept])
    x = np.stack(done)
    return (x.astype(np.uint8) if points is None else x), words, notes


def _voxel_space(x: np.ndarray) -> Space:
    share = float(x.mean())
    v = Variable("cell", "ordinal", 2, mean=share, scale=max(float(np.sqrt(share * (1 - share))), 0.25))
    return Space(tuple(x.shape[1:]), (v,), "grid", "shape", "uint8", {"white": 1, "form": "voxels"})


def _point_space(x: np.ndarray) -> Space:
    v = Variable("coordinate", mean=float(x.mean()), scale=float(x.std()) or 1.0)
    return Space(tuple(x.shape[1:]), (v,), "set", "shape", "float64", {"form": "points"})
