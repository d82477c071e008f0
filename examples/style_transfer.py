"""Style transfer: photographs in the manner of paintings, by both routes of pofx.stylise, and how well they did.

    search     x* = argmin  S(x, style) + w C(x, content)
    network    x = decode(encode(content, style)),  fitted once, on crops of other photographs and six of the styles

Nothing is downloaded: the features are fixed random filters at several scales. Judged by what neither saw, filters of
another seed: the Gram distance to the style, which should fall tenfold by search; and whether the answer still shows
its own photograph: how many other photographs it is farther from than from its own. Last, a picture in its own style,
which should come back. Every finished pair is a line and a picture beside --store; the network is a folder there.

    POFX_DATA=... python examples/style_transfer.py --size 192 --budget "200 cpu s"
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
from pofx.families.adain import AdaIN

mpl.use("Agg")
import matplotlib.pyplot as plt

CONTENT = ("chicago", "hoovertowernight")
KNOWN = ("starry_night", "la_muse", "wave", "composition_vii", "candy", "mosaic")  # of which the network sees crops
STYLES = (*KNOWN, "feathers", "the_scream", "udnie")
ROUTES = ("search", "network")
PHOTOS = ("images/photos/set14", "images/photos/cbsd68_first34")
ALIKE = 128  # pixels a side at which photographs are compared
CROPS, CROP, CROP_OF_STYLE = 3000, 64, 80  # what the network is fitted on, and their pixels a side
SIZES = (160, 208, 272)  # of the longer side, from which crops are taken
SHOWN = ("starry_night", "wave", "candy", "the_scream", "feathers")


def opened(path: Path, size: int) -> np.ndarray:
    """Bytes (H, W, 3), `size` pixels on the longer side."""
    picture = Image.open(path).convert("RGB")
    times = size / max(picture.size)
    return np.asarray(picture.resize([round(times * s) for s in picture.size], Image.Resampling.LANCZOS))


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def square(picture: np.ndarray) -> torch.Tensor:
    return tensor(np.asarray(Image.fromarray(picture).resize((ALIKE, ALIKE), Image.Resampling.LANCZOS)))


def photographs() -> list[Path]:
    """Of other things than the content."""
    paths = [p for folder in PHOTOS for p in sorted(find(folder).rglob("*.png")) if "LR" not in p.name]
    return [p for p in paths if "x2" not in p.name]


def crops(paths: list[Path], side: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random squares of random pictures at random sizes, some mirrored."""
    many = [p for path in paths for p in (opened(path, size) for size in SIZES) if min(p.shape[:2]) > side]
    found = []
    for k in rng.integers(len(many), size=count):
        y, x = (rng.integers(n - side + 1) for n in many[k].shape[:2])
        square = many[k][y : y + side, x : x + side]
        found.append(square[:, ::-1] if rng.random() < 0.5 else square)
    return found


def changed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same manner in other colours, turned."""
    turned = np.rot90(picture, rng.integers(4))[..., rng.permutation(3)]
    return 255 - turned if rng.random() < 0.3 else turned


def fitted(asked: argparse.Namespace) -> pofx.Model:
    """The network, stored beside --store; half of its styles are crops as they are, others changed, or photographs."""
    folder = asked.store.parent / "style-network"
    if (folder / "model.json").exists():
        return pofx.load(folder, families=[AdaIN])
    rng = np.random.default_rng(0)
    paintings = [find(f"images/style/styles/{name}.jpg") for name in KNOWN]
    styles = crops(paintings, CROP_OF_STYLE, CROPS * 5 // 6, rng)
    styles = [changed(s, rng) if k % 5 < 2 else s for k, s in enumerate(styles)]
    styles += crops(photographs(), CROP_OF_STYLE, CROPS - len(styles), rng)
    x = np.stack(crops(photographs(), CROP, CROPS, rng))
    data = pofx.open_data(x, given={"style": pofx.open_data(np.stack(styles))}, paired=False, test=8, valid=16)
    options = {"batch": 4, "threads": 1, "precision": "32-true", "progress": False}
    model = pofx.fit(data, AdaIN(), budget=asked.budget, seed=0, **options)
    model.save(folder)
    return model


def others() -> list[torch.Tensor]:
    """Photographs that are not the content."""
    return [square(np.asarray(Image.open(p).convert("RGB"))) for p in photographs()]


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


def pair(content: str, style: str, model: pofx.Model | None, asked: argparse.Namespace, many: list) -> dict:
    """One picture, stored, and its figures."""
    photo = opened(find(f"images/style/content/{content}.jpg"), asked.size)
    manner = opened(find(f"images/style/styles/{style}.jpg"), asked.size)
    begun = time.process_time()
    options = {"weight": asked.weight, "statistic": asked.statistic, "steps": asked.steps}
    answer = pofx.stylise(photo, manner, model=model, **options, rng=0)
    seconds = time.process_time() - begun
    Image.fromarray(answer.value).save(made(asked, content, style, ROUTES[model is not None]))
    unseen, seen = nearer(answer.value, photo, many)
    line = {"gain": gain(photo, answer.value, manner), "nearer": unseen, "nearer seen": seen}
    line |= {"gain seen": answer.diagnostics["gain"], "content": answer.diagnostics["content"]}
    return line | {"cpu seconds": seconds}


def made(asked: argparse.Namespace, content: str, style: str, route: str) -> Path:
    """Where a picture is stored."""
    return asked.store.parent / f"{asked.store.stem}-{content}-{style}-{route}.png"


def itself(style: str, model: pofx.Model | None, asked: argparse.Namespace) -> float:
    """PSNR of a picture in its own style, at most 78 dB."""
    picture = opened(find(f"images/style/styles/{style}.jpg"), asked.size)
    found = pofx.stylise(picture, picture, model=model, steps=asked.steps).value
    error = np.square(found.astype(float) - picture).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def draw(asked: argparse.Namespace) -> None:
    """Styles above; below, what each route makes of each photograph."""
    lines = [(content, route) for content in CONTENT for route in ROUTES]
    size = (1.75 * (len(SHOWN) + 1), 1.22 * (len(lines) + 1))
    figure, axes = plt.subplots(len(lines) + 1, len(SHOWN) + 1, figsize=size, layout="constrained", dpi=78)
    for a in axes.flat:
        a.set(xticks=[], yticks=[])
        a.spines[:].set_visible(False)
    for x, style in enumerate(SHOWN, 1):
        axes[0, x].imshow(opened(find(f"images/style/styles/{style}.jpg"), asked.size))
        axes[0, x].set_title(style.replace("_", " ") + ("" if style in KNOWN else " (new)"), fontsize=9)
    for y, (content, route) in enumerate(lines, 1):
        axes[y, 0].imshow(opened(find(f"images/style/content/{content}.jpg"), asked.size))
        axes[y, 0].set_ylabel(route, fontsize=9)
        for x, style in enumerate(SHOWN, 1):
            if made(asked, content, style, route).exists():
                axes[y, x].imshow(np.asarray(Image.open(made(asked, content, style, route))))
    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    drawn.quantize(160, dither=Image.Dither.NONE).save(asked.out, optimize=True)  # a small file


def told(rows: list[dict], words: str, bars: dict[str, float], photographs: int) -> bool:
    """Print the least and the median of some pictures; whether the least is as it should be."""
    low, middle = ({k: f([r[k] for r in rows]) for k in ("gain", "nearer", "cpu seconds")} for f in (min, np.median))
    good = all(low[k] >= bar for k, bar in bars.items())
    print(f"{words}, {len(rows)} pictures: Gram distance falls {low['gain']:.1f} times at least, {middle['gain']:.0f} "
          f"in the middle; own photograph nearer than {low['nearer']:.0%} of {photographs} others at least; "
          f"{middle['cpu seconds']:.2f} CPU s each: {'as stated' if good else 'NOT as stated'}")  # fmt: skip
    return good


def judge(found: dict[str, dict], models: dict, asked: argparse.Namespace, photographs: int) -> None:
    """Print what was reached, and whether it is as stated."""
    good = []
    for route, bars in (("search", {"gain": 10, "nearer": 0.95}), ("network", {"gain": 3, "nearer": 0.95})):
        for new in (False, True):
            cells = [f"{c}:{s}:{route}" for c in CONTENT for s in STYLES if (s not in KNOWN) == new]
            rows = [found[c] for c in cells if c in found]
            if rows:
                good.append(told(rows, f"{route}, {'new' if new else 'known'} styles", bars, photographs))
        if route in models and not asked.no_own:
            own = itself(STYLES[0], models[route], asked)
            good.append(own >= 30)
            print(f"{route}, a picture in its own style: {own:.1f} dB; {'as stated' if good[-1] else 'NOT as stated'}")
    assert all(good) or asked.only, "not as stated"


def main() -> None:
    """Make what is not stored, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of content:style")
    parser.add_argument("--routes", nargs="*", default=ROUTES, choices=ROUTES)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--weight", type=float, default=0.05)
    parser.add_argument("--statistic", default="gram")
    parser.add_argument("--budget", default="200 cpu s", help="of the network's fit")
    parser.add_argument("--store", type=Path, default=Path("runs/style.jsonl"))
    parser.add_argument("--out", default="stylise.png")
    parser.add_argument("--no-own", action="store_true", help="leave out the picture in its own style")
    asked = parser.parse_args()
    asked.store.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.store.read_text().splitlines() if asked.store.exists() else []
    found, many = {line["cell"]: line for line in map(json.loads, lines)}, others()
    models = {route: fitted(asked) if route == "network" else None for route in asked.routes}
    for name in [f"{c}:{s}:{r}" for r in models for c in CONTENT for s in STYLES]:
        if name in found or (asked.only and not any(name.startswith(o) for o in asked.only)):
            continue
        content, style, route = name.split(":")
        figures = {k: round(v, 3) for k, v in pair(content, style, models[route], asked, many).items()}
        found[name] = {"cell": name, **figures}
        with asked.store.open("a") as file:
            file.write(json.dumps(found[name]) + "\n")
        print(json.dumps(found[name]), flush=True)
    draw(asked)
    judge(found, models, asked, len(many))


if __name__ == "__main__":
    main()
