"""Shape: voxels and points come back as they were, a ball keeps its volume through mesh and voxels, damage is told."""

import gzip

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pofx.baselines import mean_shape
from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.metrics.shapes import chamfer, iou, overlaps, surface_points

matplotlib.use("Agg")

SHAPE = KINDS["shape"]
CUBE = "OFF\n8 12 0\n" + "".join(f"{x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
FACES = ["0 1 3", "0 3 2", "4 6 7", "4 7 5", "0 4 5", "0 5 1", "2 3 7", "2 7 6", "0 2 6", "0 6 4", "1 5 7", "1 7 3"]
CUBE_OFF = CUBE + "".join(f"3 {f}\n" for f in FACES)


def ball(radius, side=16, centre=None):
    at = np.indices((side,) * 3) - (np.full(3, (side - 1) / 2) if centre is None else centre).reshape(3, 1, 1, 1)
    return np.square(at).sum(0) <= radius**2


def balls(n=8):
    return np.stack([ball(2 + 0.5 * k) for k in range(n)])


def test_voxels_come_back_as_they_went_in(tmp_path):
    x = balls()
    data = open_data(x)
    assert data.space.kind == "shape" and data.space.layout == "grid" and data.space.unit() == "nats"
    np.testing.assert_array_equal(data.restore(data.x), x)
    assert torch.equal(SHAPE.encode(x, data.space)[0], data.x) and data.restore(data.x).dtype == bool
    assert Space.from_json(data.space.to_json()) == data.space
    assert Chart(data.space).space.shape == (16, 16, 16)  # the last axis is channels: every body of pictures fits
    np.save(tmp_path / "a.npy", x[:, None].astype(float))
    (tmp_path / "b.npy.gz").write_bytes(gzip.compress((tmp_path / "a.npy").read_bytes()))
    np.savez(tmp_path / "c.npz", x=x, label=np.arange(8) % 2)
    for name in ("a.npy", "b.npy.gz", "c.npz"):
        assert torch.equal(open_data(tmp_path / name).x, data.x)
    assert open_data(tmp_path / "c.npz", given="label").given["label"].tolist() == [0, 1] * 4


def test_points_are_a_set():
    x = np.random.default_rng(0).normal(3, 2, (7, 20, 3))
    data = open_data(x, kind="shape")
    assert data.space.layout == "set" and data.space.shape == (20, 3) and "density" in data.space.unit()
    np.testing.assert_array_equal(data.restore(data.x), x)
    some = SHAPE.read(x, points=5).x
    assert some.shape == (7, 5, 3) and all(any((p == q).all() for q in x[2]) for p in some[2].numpy())


def test_a_ball_keeps_its_volume_from_voxels_to_mesh_and_back(tmp_path):
    pytest.importorskip("trimesh")
    cells = ball(10, 32)
    data = open_data(np.stack([cells] * 3))
    mesh = SHAPE.mesh(data.x[0], data.space)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 1000, rel=0.05)
    np.testing.assert_allclose(mesh.bounds.mean(0), [15.5] * 3, atol=0.1)
    for suffix in (".off", ".obj", ".ply", ".stl", ".glb"):
        (path,) = SHAPE.write(data.x[:1], tmp_path / f"ball{suffix}", data.space)
        back = SHAPE.read(path, resolution=32).x[0].numpy()
        share = back.sum() / (4 / 3 * np.pi * 15**3)  # the longest side now fills the cube, less a margin
        assert 0.9 < share < 1.1, (suffix, share)
        assert back[16, 16, 16]  # its inside is filled
    surface = SHAPE.read(path, points=400).x[0].numpy()
    radius = np.linalg.norm(surface - surface.mean(0), axis=1)
    assert 9.5 < radius.mean() < 10.6 and radius.std() < 0.5
    assert np.array_equal(SHAPE.read(path, points=400).x[0], surface)


def test_up_is_up(tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / "a.off").write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 9 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    x = SHAPE.read(tmp_path / "a.off", resolution=16, up="y").x[0].numpy()
    extent = [int(np.ptp(np.argwhere(x)[:, k])) for k in range(3)]
    assert extent[2] > 8 > extent[0] + extent[1]


def test_a_mesh_with_holes_is_its_surface_alone(tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / "whole.off").write_text(CUBE_OFF)
    (tmp_path / "open.off").write_text(CUBE_OFF.replace("8 12 0", "8 11 0").rsplit("3 1 7 3", 1)[0])
    whole, hollow = (SHAPE.read(tmp_path / name, resolution=16) for name in ("whole.off", "open.off"))
    assert whole.x[0, 8, 8, 8] == 1 and not any("holes" in n for n in whole.notes)
    assert hollow.x[0, 8, 8, 8] == 0 and any("has holes" in n for n in hollow.notes)


def test_views_show_the_shape_from_the_side_that_is_asked():
    x = np.zeros((1, 16, 16, 16), bool)
    x[0, 7:9, 7:9, 1:15] = True  # a pole
    x[0, 12:15, 7:9, 1:3] = True  # a foot towards +x
    space = open_data(np.repeat(x, 3, 0)).space
    t = torch.from_numpy(x.astype(np.uint8))
    front, side, above = (SHAPE.view(t, space, *s, size=32)[0] for s in ((0, 0), (90, 0), (0, 90)))
    rows, columns = np.argwhere(side > 0).T
    assert np.ptp(rows) > 15 and (side[-10:] > 0).sum() > (side[:10] > 0).sum()  # the foot is below
    assert np.ptp(np.argwhere(front > 0)[:, 1]) < np.ptp(columns)  # it hides the pole's foot from the front
    assert np.ptp(np.argwhere(above > 0)[:, 0]) < 15
    np.testing.assert_array_equal(SHAPE.view(x, space, 90, 0, size=32)[0], side)  # an array, as the user has it
    axes = Figure().add_subplot()
    SHAPE.draw(axes, t, space)
    points = open_data(np.random.default_rng(0).normal(size=(4, 50, 3)), kind="shape")
    SHAPE.draw(axes, points.x, points.space)
    views = SHAPE.view(points.x.numpy(), points.space)
    np.testing.assert_array_equal(views, SHAPE.view(points.x, points.space))
    assert len(axes.images) == 2


def test_the_numbers_of_the_metrics():
    a, b = np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2, 2))
    a[0, 0, 0], b[0, 0, :, 0] = 1, 1
    np.testing.assert_allclose(overlaps(a, b), [1 / 3, 1.0])
    assert iou(a, b).value == pytest.approx(2 / 3)
    p = np.zeros((1, 3))
    assert chamfer(p, p + [3, 4, 0]) == 50 and chamfer(p, p) == 0
    assert chamfer(np.array([[0.0, 0, 0], [2, 0, 0]]), p) == pytest.approx(2)
    assert len(surface_points(np.ones((4, 4, 4)))) == 64 - 8
    x = balls(4)
    assert abs(mean_shape(x).sum() - x.sum() / 4) < 0.5 * x.sum() / 4
    with pytest.raises(ValueError, match="same"):
        overlaps(a, b[:1])
    with pytest.raises(ValueError, match="at least one"):
        chamfer(p, p[:0])


# --- bad input


def test_damaged_meshes(tmp_path):
    pytest.importorskip("trimesh")
    files = {
        "empty.off": "", "words.obj": "hello\nworld\n", "cut.off": CUBE_OFF[:60], "cloud.ply": "ply\n",
        "flat.off": "OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "nothing.off": "OFF\n0 0 0\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="cannot be read|no faces|no extent"):
            SHAPE.read(tmp_path / name)
    (tmp_path / "a.obj.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match="cannot be read"):
        SHAPE.read(tmp_path / "a.obj.gz")
    (tmp_path / "good.off").write_text(CUBE_OFF)
    raw = SHAPE.read(tmp_path, resolution=8)
    assert len(raw.x) == 1 and sum("left out" in n for n in raw.notes) == len(files) + 1
    with pytest.raises(ValueError, match="holds no mesh"):
        SHAPE.read(tmp_path.parent / tmp_path.name / "..", resolution=8) if False else SHAPE.read(_empty(tmp_path))


def _empty(folder):
    (folder / "none").mkdir()
    return folder / "none"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 4, 4, 4), bool), "none of 3 shapes"),
        (np.ones((3, 1, 1, 1), bool), "at least 2 cells"),
        (np.full((3, 4, 4, 4), 0.5), "threshold"),
        (np.ones((3, 4)), "expected voxels"),
        (np.ones((0, 4, 4, 4), bool), "at least one"),
        (np.full((3, 4, 3), np.nan), "finite"),
        (np.array([["a"]]), "expected voxels"),
    ],
)
def test_bad_arrays(source, words):
    with pytest.raises(ValueError, match=words):
        SHAPE.read(source)


def test_shapes_without_a_cell_are_left_out_and_one_voxel_is_a_shape(tmp_path):
    x = balls(4)
    x[1] = False
    x[2] = False
    x[2, 3, 3, 3] = True
    raw = SHAPE.read(x)
    assert len(raw.x) == 3 and any("1 shapes without" in n for n in raw.notes) and int(raw.x[1].sum()) == 1
    pytest.importorskip("trimesh")
    assert SHAPE.mesh(raw.x[1], raw.space).volume > 0
    with pytest.raises(ValueError, match="no surface"):
        SHAPE.mesh(raw.x[1] * 0, raw.space)
    with pytest.raises(ValueError, match="ends in .obj"):
        SHAPE.write(raw.x[:1], tmp_path / "a.txt", raw.space)
    with pytest.raises(ValueError, match="expected"):
        SHAPE.encode(x[:, :5], raw.space)
    with pytest.raises(ValueError, match="resolution"):
        SHAPE.read(x, resolution=1)
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(ValueError, match="cannot be read"):
        SHAPE.read(tmp_path / "a.npy")


def test_without_trimesh_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    (tmp_path / "a.off").write_text(CUBE_OFF)
    with pytest.raises(ImportError, match=r"pofx\[shapes\]"):
        SHAPE.read(tmp_path / "a.off")


def test_real_meshes(data_dir):
    raw = SHAPE.read(data_dir / "shapes/meshes/cow.obj.gz", up="y")
    assert 0.03 < raw.x.double().mean() < 0.1
