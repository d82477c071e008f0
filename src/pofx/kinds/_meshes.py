"""Meshes: OFF, OBJ, PLY, STL and GLB files as voxels or points on the surface, and back (trimesh, scikit-image).

    voxels   cells of a cube of side R that holds the mesh in its middle, its longest side R - 2 cells
    points   P points drawn evenly on the surface, in the mesh's own units
    mesh     the surface between occupied and empty cells, by marching cubes (Lorensen and Cline 1987)

A mesh without holes is filled; one with holes (not watertight) has no inside, so its surface alone is taken, with a
note. Offers `read_mesh`, `voxelised`, `points_on`, `mesh_of`, `write_mesh`.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb")
NEEDED = "shapes in files of meshes need the libraries trimesh and scikit-image: pip install 'pofx[shapes]'"
Array = np.ndarray


def mesh_suffix(path: Path) -> str:
    """The ending of a mesh's name, without .gz; "" where it is no mesh."""
    name = path.name.lower().removesuffix(".gz")
    return next((s for s in SUFFIXES if name.endswith(s)), "")


def read_mesh(path: Path, up: str = "z") -> Any:
    """A trimesh with z upwards.

    Raises:
        ValueError: it cannot be read, has no faces, or no extent. ImportError: trimesh is missing.
    """
    trimesh = _trimesh()
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        _whole_off(content) if mesh_suffix(path) == ".off" else None
        mesh = trimesh.load(io.BytesIO(content), file_type=mesh_suffix(path)[1:], force="mesh", process=True)
        vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(getattr(mesh, "faces", []))
    except Exception as error:  # every reader of trimesh has exceptions of its own
        raise ValueError(f"{path} cannot be read as a mesh ({type(error).__name__}: {error}).") from error
    if not len(faces) or not len(vertices):
        raise ValueError(f"{path}: the mesh has {len(vertices)} points and no faces; expected a surface.")
    if not np.isfinite(vertices).all() or not float(np.ptp(vertices, 0).max()) > 0:
        raise ValueError(f"{path}: the mesh has no extent, or points that are no numbers.")
    if up == "y":
        mesh.vertices = vertices[:, [0, 2, 1]] * [1.0, -1.0, 1.0]
    return mesh


def _whole_off(content: bytes) -> None:
    """Raise ValueError where an OFF file, which says how much it holds, holds less."""
    lines = [line.split(b"#")[0].split() for line in content.splitlines()]
    words = [line for line in lines if line]
    first = words[0][1:] if words and words[0][:1] == [b"OFF"] else []
    counts, rest = (first, words[1:]) if first else (words[1] if len(words) > 1 else [], words[2:])
    if len(counts) >= 2 and all(c.isdigit() for c in counts[:2]) and len(rest) < int(counts[0]) + int(counts[1]):
        want = f"{int(counts[0])} points and {int(counts[1])} faces"
        raise ValueError(f"cut short: it says {want}, and {len(rest)} lines follow")


def voxelised(mesh: Any, resolution: int, fill: bool | None) -> tuple[Array, str]:
    """Cells `(R, R, R)` bool, and a note where the surface alone was taken; `fill` None fills a mesh without holes."""
    whole = bool(mesh.is_watertight)
    pitch = float(np.ptp(mesh.vertices, 0).max()) / max(1, resolution - 3)  # so that no more than R - 2 cells are met
    grid = mesh.voxelized(pitch)
    filled = whole if fill is None else fill
    cells = np.asarray((grid.fill() if filled else grid).matrix, dtype=bool)
    out = np.zeros((resolution,) * 3, dtype=bool)
    cells = cells[:resolution, :resolution, :resolution]
    start = [(resolution - s) // 2 for s in cells.shape]
    out[tuple(slice(a, a + s) for a, s in zip(start, cells.shape, strict=True))] = cells
    note = "the mesh has holes, so it has no inside: its surface alone is taken" if not whole and fill is None else ""
    return out, note


def points_on(mesh: Any, count: int, seed: int) -> Array:
    """Points `(count, 3)` drawn evenly on the surface; the same seed gives the same points."""
    rng = np.random.default_rng(seed)
    triangles = np.asarray(mesh.triangles)
    area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1)
    chosen = triangles[rng.choice(len(area), count, p=area / area.sum())]
    a, b = rng.random((2, count, 1))
    fold = a + b > 1
    a, b = np.where(fold, 1 - a, a), np.where(fold, 1 - b, b)
    return chosen[:, 0] + a * (chosen[:, 1] - chosen[:, 0]) + b * (chosen[:, 2] - chosen[:, 0])


def mesh_of(cells: Array, level: float = 0.5) -> Any:
    """The surface of cells `(D, H, W)` (or of their probabilities, at a level) as a trimesh without holes.

    Raises:
        ValueError: no cell is above the level.
    """
    trimesh = _trimesh()
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise ImportError(NEEDED) from error
    solid = np.pad(np.asarray(cells, dtype=np.float32), 1)
    if not (solid > level).any():
        raise ValueError(f"no cell is above the level {level}: there is no surface.")
    vertices, faces, _, _ = marching_cubes(solid, level)
    return trimesh.Trimesh(vertices - 1, faces[:, ::-1], process=True)


def write_mesh(path: Path, mesh: Any) -> None:
    """Write a mesh (or points `(P, 3)`) as .off, .obj, .ply, .stl or .glb (points: .ply).

    Raises:
        ValueError: another ending.
    """
    if isinstance(mesh, np.ndarray):
        if path.suffix.lower() != ".ply":
            raise ValueError(f"{path}: points are written as .ply.")
        mesh = _trimesh().PointCloud(mesh)
    elif path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a mesh is written as {', '.join(SUFFIXES)}.")
    content = mesh.export(file_type=path.suffix.lower()[1:])
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(NEEDED) from error
    return trimesh
