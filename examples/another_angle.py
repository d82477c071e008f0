"""A view from another angle: p(view | object, angle) of the COIL-20 turntable, views that were left out.

    POFX_DATA=/folder/of/data python examples/another_angle.py [--out docs/kinds] [--views FILE.npz]

Every fourth view is held out; its neighbours, 5 degrees to either side, are known. Checks that the expected view is
nearer to the truth than the blend of the two neighbouring views, the usual baseline.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import pofx
from pofx.data import find, open_data
from pofx.kinds._clips import contact_sheet
from pofx.metrics import paired_difference
from pofx.metrics.video import psnr


def open_views(path: Path):
    """Views with the object and (cos, sin) of the angle; every fourth one is held out."""
    file = np.load(find(path))
    x, thing, view = file["x"], file["obj"].astype(int), file["view"].astype(int)
    angle = np.deg2rad(5.0 * view)
    data = open_data(x, kind="image", given={"object": thing, "angle": np.stack([np.cos(angle), np.sin(angle)], 1)})
    held = (view % 4 == 2) & (view < view.max())
    split = {"train": np.flatnonzero(~held), "valid": np.flatnonzero(held)[:0], "test": np.flatnonzero(held)}
    return replace(data, split={k: torch.from_numpy(v) for k, v in split.items()}, name="coil"), thing, view


def neighbours(data, thing, view):
    """The views before and after each held-out one."""
    place = {(t, v): i for i, (t, v) in enumerate(zip(thing, view, strict=True))}
    rows = data.split["test"].tolist()
    return tuple(data.x[[place[thing[i], view[i] + d] for i in rows]].double().numpy() for d in (-1, 1))


def each(x, truth):
    """PSNR of each view."""
    error = np.square(x - truth).reshape(len(x), -1).mean(1)
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--views", type=Path, default=Path("shapes/views_coil20_32x32/coil20_32x32.npz"))
    asked = parser.parse_args()
    data, thing, view = open_views(asked.views)
    model = pofx.fit(data, "process", progress=False)
    test, truth = data.part("test"), data.part("test").x.double().numpy()
    before, after = neighbours(data, thing, view)
    hidden = torch.zeros_like(test.x, dtype=torch.bool)
    answer = pofx.impute(model, torch.zeros_like(test.x), test.given, observed=hidden, draws=4, rng=0)
    expected = np.asarray(answer.diagnostics["mean"], dtype=np.float64).reshape(truth.shape)
    found = {"nearest view": before, "blend of two": (before + after) / 2, "process, expected": expected}
    for name, x in found.items():
        print(f"{name:18s} {psnr(x, truth)}")
    gain = paired_difference(each(expected, truth), each(found["blend of two"], truth), name="dB above the blend")
    print(gain)
    if asked.out:
        show = slice(3, None, 40)
        columns = [before, truth, expected, *np.asarray(answer.raw.double()), after]
        sheet = contact_sheet(np.stack([c[show] for c in columns], 1).round().astype(np.uint8), columns=len(columns))
        save(sheet, asked.out / "another_angle.png", 3)
    assert gain.low > 0, "the blend of the two neighbouring views was no worse"


def save(sheet, path: Path, scale: int) -> None:
    """A sheet as a picture, each pixel a square."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet[..., 0].repeat(scale, 0).repeat(scale, 1)).save(path)


if __name__ == "__main__":
    main()
