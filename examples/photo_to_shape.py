"""A photograph to a shape: p(voxels | one view), several plausible chairs for each view.

    POFX_DATA=/folder/of/data python examples/photo_to_shape.py [--out docs/kinds]

Chairs of ModelNet10 as 32^3 voxels, each rendered once from the same side; copies of a chair are left out, so that none
is in training and test. Checks that the mean of 8 draws overlaps the truth by 5 points more than the nearest
neighbour's shape does; the level at which it is cut is chosen on validation rows.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import pofx
from pofx.baselines import mean_shape
from pofx.data import find, open_data
from pofx.kinds import KINDS
from pofx.metrics.shapes import chamfer, iou, overlaps, surface_points

SIDE = (30.0, 25.0)  # azimuth and elevation of the photograph
DRAWS = 8


def open_chairs(path: Path):
    """Chairs that differ, given a picture of each."""
    raw = KINDS["shape"].read(find(path))
    first = np.sort(np.unique(raw.x.flatten(1).numpy(), axis=0, return_index=True)[1])
    x = raw.x[torch.from_numpy(first)]
    view = KINDS["shape"].view(x, raw.space, *SIDE, size=32)
    return open_data(x.numpy().astype(bool), given={"view": view}, test=140, valid=60)


def nearest(data, rows):
    """The shapes of the training views that are nearest to the views of some rows."""
    view, train = data.given["view"].flatten(1).double(), data.split["train"]
    return data.x[train[torch.cdist(view[rows], view[train]).argmin(1)]].numpy()


def level_of(model, data) -> float:
    """The level at which the mean of the draws overlaps validation shapes best."""
    rows = data.split["valid"]
    mean = model.sample(DRAWS, {"view": data.given["view"][rows]}, rng=1).double().mean(0)
    levels = [(k - 0.5) / DRAWS for k in range(1, DRAWS)]
    return max(levels, key=lambda level: overlaps(mean, data.x[rows].double(), level).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shapes", type=Path, default=Path("shapes/modelnet10_voxels/chair.npy.gz"))
    asked = parser.parse_args()
    data = open_chairs(asked.shapes)
    model = pofx.fit(data, "process", hyper_parameters={"shrinkage": 0.01}, progress=False)
    rows, train = data.split["test"], data.split["train"]
    truth, found = data.x[rows].numpy(), nearest(data, data.split["test"])
    level = level_of(model, data)
    draws = model.sample(DRAWS, {"view": data.given["view"][rows]}, rng=0)
    mean = draws.double().mean(0).numpy()
    typical = np.repeat(mean_shape(data.x[train])[None], len(rows), 0)
    answers = {"mean shape": typical, "nearest neighbour": found, f"mean of {DRAWS} draws > {level:.2f}": mean > level}
    for name, x in answers.items():
        pairs = [chamfer(surface_points(a), surface_points(b)) for a, b in zip(x, truth, strict=True)]
        print(f"{name:28s} {iou(x, truth)}; Chamfer {np.mean(pairs):.2f} square cells")
    one, differ = iou(draws[0], truth).value, 1 - iou(draws[0], draws[1]).value
    print(f"one draw: IoU {one:.3f}; two draws of a view differ by {differ:.3f}")
    gain = overlaps(mean, truth, level) - overlaps(found, truth)
    print(
        f"gain over the nearest neighbour: {100 * gain.mean():.1f} +- {196 * gain.std() / len(gain) ** 0.5:.1f} points"
    )
    if asked.out:
        show(asked.out, data, rows, truth, found, draws, mean > level)
    assert gain.mean() >= 0.05, "less than 5 points above nearest-neighbour retrieval"


def show(out: Path, data, rows, truth, found, draws, answer) -> None:
    """The photographs, the truth, the nearest neighbour, the answer and two draws; and one mesh."""
    from PIL import Image

    shape, space, some = KINDS["shape"], data.space, slice(0, 8)
    out.mkdir(parents=True, exist_ok=True)
    lines = [data.given["view"][rows[some], ..., 0].numpy().repeat(2, 1).repeat(2, 2).astype(np.uint8)]
    for x in (truth, found, answer, draws[0].numpy(), draws[1].numpy()):
        lines.append(shape.view(torch.from_numpy(np.asarray(x[some], dtype=np.uint8)), space, 60, 20, size=64))
    Image.fromarray(np.concatenate([np.concatenate(list(line), 1) for line in lines])).save(out / "photo_to_shape.png")
    shape.write(torch.from_numpy(answer[:1].astype(np.uint8)), out / "chair.obj", space)


if __name__ == "__main__":
    main()
