"""Style transfer: photographs in the manner of paintings, by pofx.stylise, and how well it did.

    x* = argmin  S(x, style) + w C(x, content)

Nothing is trained and nothing downloaded: the features are fixed random filters at five scales. Judged by what the
search did not see, filters of another seed: the Gram distance to the style, which should fall tenfold; and whether the
answer still shows its own photograph: how many other photographs it is farther from than from its own. Last, a picture
in its own style, which should come back. Every finished pair is a line and a picture beside --store.

    POFX_DATA=... python examples/style_transfer.py --size 256
"""

import argparse
import json
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

import pofx
from pofx.data import find
from pofx.engines import style as engine

mpl.use("Agg")
import matplotlib.pyplot as plt

CONTENT = ("chicago", "hoovertowernight")
STYLES = ("starry_night", "la_muse", "wave", "composition_vii", "candy", "mosaic")
PHOTOS = ("images/photos/set14", "images/photos/cbsd68_first34")
ALIKE = 128  # pixels a side at which photographs are compared


def opened(path: Path, size: int) -> np.ndarray:
    """Bytes (H, W, 3), `size` pixels on the longer side."""
    picture = Image.open(path).convert("RGB")
    times = size / max(picture.size)
    return np.asarray(picture.resize([round(times * s) for s in picture.size], Image.Resampling.LANCZOS))


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def square(picture: np.ndarray) -> torch.Tensor:
    return tensor(np.asarray(Image.fromarray(picture).resize((ALIKE, ALIKE), Image.Resampling.LANCZOS)))


def others() -> list[torch.Tensor]:
    """Photographs that are not the content."""
    paths = [p for folder in PHOTOS for p in sorted(find(folder).rglob("*.png")) if "LR" not in p.name]
    paths = [p for p in paths if "x2" not in p.name]
    return [square(np.asarray(Image.open(p).convert("RGB"))) for p in paths]


def gain(before: np.ndarray, after: np.ndarray, style: np.ndarray) -> float:
    """How many times the Gram distance to the style fell, in filters that the search did not see."""
    maps = engine.random_filters(seed=1)
    goal, first, last = ([engine.gram(m) for m in maps(tensor(p))] for p in (style, before, after))
    return float(engine.gram_distance(first, goal) / engine.gram_distance(last, goal))


def nearer(picture: np.ndarray, content: np.ndarray, many: list[torch.Tensor]) -> tuple[float, float]:
    """The share of other photographs that the answer is farther from than its own: by unseen features, by seen."""
    shown, found = square(picture), []
    for distance in (apart, bands_apart):
        own = distance(square(content), shown)
        found.append(float(np.mean([distance(other, shown) > own for other in many])))
    return found[0], found[1]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """1 - correlation of the maps of the grey pictures, place by place, in filters that the search did not see."""
    maps = engine.random_filters(scales=4, seed=1)
    pairs = zip(*(maps(p.mean(1, keepdim=True).expand(-1, 3, -1, -1)) for p in (a, b)), strict=True)
    return float(np.mean([1 - torch.corrcoef(torch.stack([f.flatten(), g.flatten()]))[0, 1] for f, g in pairs]))


def bands_apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(engine.structure_distance(engine.structure(a), engine.structure(b)))


def pair(content: str, style: str, asked: argparse.Namespace, many: list[torch.Tensor]) -> dict:
    """One picture, stored, and its figures."""
    begun = time.process_time()
    photo = opened(find(f"images/style/content/{content}.jpg"), asked.size)
    manner = opened(find(f"images/style/styles/{style}.jpg"), asked.size)
    answer = pofx.stylise(photo, manner, weight=asked.weight, statistic=asked.statistic, steps=asked.steps, rng=0)
    Image.fromarray(answer.value).save(asked.store.parent / f"style-{content}-{style}.png")
    unseen, seen = nearer(answer.value, photo, many)
    line = {"gain": gain(photo, answer.value, manner), "nearer": unseen, "nearer seen": seen}
    line |= {"gain seen": answer.diagnostics["gain"], "content": answer.diagnostics["content"]}
    return line | {"cpu seconds": time.process_time() - begun}


def itself(style: str, asked: argparse.Namespace) -> dict:
    """PSNR of a picture in its own style."""
    picture = opened(find(f"images/style/styles/{style}.jpg"), asked.size)
    found = pofx.stylise(picture, picture, steps=asked.steps).value
    error = np.square(found.astype(float) - picture).mean()
    return {"psnr": float(10 * np.log10(255**2 / max(error, 1e-3)))}


def draw(asked: argparse.Namespace, cells: list[tuple[str, str]]) -> None:
    """Styles above, what they make of each photograph below."""
    rows, columns = sorted({c for c, _ in cells}), [s for s in STYLES if any(s == b for _, b in cells)]
    size = (1.9 * (len(columns) + 1), 1.75 * (len(rows) + 1))
    figure, axes = plt.subplots(len(rows) + 1, len(columns) + 1, figsize=size, layout="constrained", squeeze=False)
    for a in axes.flat:
        a.set_axis_off()
    for x, style in enumerate(columns, 1):
        axes[0, x].imshow(opened(find(f"images/style/styles/{style}.jpg"), asked.size))
        axes[0, x].set_title(style.replace("_", " "), fontsize=9)
    for y, content in enumerate(rows, 1):
        axes[y, 0].imshow(opened(find(f"images/style/content/{content}.jpg"), asked.size))
        for x, style in enumerate(columns, 1):
            made = asked.store.parent / f"style-{content}-{style}.png"
            if made.exists():
                axes[y, x].imshow(np.asarray(Image.open(made)))
    figure.savefig(asked.out, dpi=130)


def main() -> None:
    """Make what is not stored, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of content:style")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--weight", type=float, default=0.05)
    parser.add_argument("--statistic", default="gram")
    parser.add_argument("--store", type=Path, default=Path("runs/style.jsonl"))
    parser.add_argument("--out", default="stylise.png")
    parser.add_argument("--no-own", action="store_true", help="leave out the picture in its own style")
    asked = parser.parse_args()
    asked.store.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.store.read_text().splitlines() if asked.store.exists() else []
    found, many = {line["cell"]: line for line in map(json.loads, lines)}, others()
    for content in CONTENT:
        for style in STYLES:
            name = f"{content}:{style}"
            if name in found or (asked.only and not any(name.startswith(o) for o in asked.only)):
                continue
            figures = {k: round(v, 3) for k, v in pair(content, style, asked, many).items()}
            found[name] = {"cell": name, **figures}
            with asked.store.open("a") as file:
                file.write(json.dumps(found[name]) + "\n")
            print(json.dumps(found[name]), flush=True)
    rows = [line for line in found.values() if "gain" in line]
    good = all(r["gain"] >= 10 and r["nearer"] >= 0.95 for r in rows)
    least = [min(r[k] for r in rows) for k in ("gain", "nearer")]
    words = "as stated" if good else "NOT as stated"
    print(f"{len(rows)} pictures: Gram distance falls {least[0]:.0f} times at least; own photograph nearer than "
          f"{least[1]:.0%} of {len(many)} others at least: {words}")  # fmt: skip
    if not asked.no_own:
        own = itself(STYLES[0], asked)["psnr"]
        print(f"a picture in its own style: {own:.1f} dB; {'as stated' if own >= 30 else 'NOT as stated'}")
    draw(asked, [tuple(name.split(":")) for name in found])


if __name__ == "__main__":
    main()
