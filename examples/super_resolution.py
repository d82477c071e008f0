"""Super-resolution: four times as many pixels a side, from p(fine | coarse) learnt on photographs.

    POFX_DATA=... python examples/super_resolution.py [--folder runs/super_resolution] [--share 1] [--no-picture]

    mean      m = B c + E[r | c],   r = fine - B c       a denoiser of pure noise, which has c alone to go by
    GAN       y = m + 0.7 G(z, m)                        near its row, with its features, and taken for real (SRGAN)
    draw      y = m + r,  r ~ p(r | m)                   a diffusion; with 0.7 r a draw at a lower temperature
    restore   y ~ p(fine) p(c | fine)                    a diffusion of photographs, which has seen no pair
    back      y <- y + B (c - A y)                       so that A y, y made small, is c

c is the coarse luma, B bicubic interpolation, A bicubic averaging. The mean has the least squared error and too little
power at high frequencies; the GAN and the draws have the photograph's texture, in places that are made up. Pictures of
any size go in tiles that overlap; for a draw every step of the diffusion is blended, so that tiles agree.

Trained on 36 photographs, none of them shown: Set5 and Set14 with their own low-resolution files, the luma, a border of
4 pixels cut. The script checks what it claims. A fit in a folder is resumed, or not repeated.

References: SRGAN (Ledig 2017, arXiv:1609.04802); a share of it (ESRGAN, Wang 2018, arXiv:1809.00219), of a draw
(SRFlow, Lugmayr 2020, arXiv:2006.14200); SR3 (Saharia 2021, arXiv:2104.07636); the mean first, then what it lacks
(Whang 2021, arXiv:2112.02475); blended tiles (Bar-Tal 2023, arXiv:2302.08113); zero shot (Rozet 2024,
arXiv:2405.13712); perception and distortion (Blau 2018, arXiv:1711.06077).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import super_resolution_scores as scores
import torch
from PIL import Image
from super_resolution_scores import SCALE, luma, resized
from torch import Tensor

import pofx
from pofx.data import Data, find
from pofx.engines.diffusion import VE, sample
from pofx.families.diffusion import Diffusion
from pofx.families.gan import GAN

COARSE, TILE, PATCH = 16, 32, 48  # pixels a side of the tiles: coarse ones, of the GAN and the draws, of photographs
NOISE = 80.0  # deviations: nothing can be seen through it
STEP = 16  # from a tile of them to the next
SHARE = 0.7  # of what is made up: between the least error and the most texture
CROP, DRAWS = 96, 4  # pixels a side of what the draws are compared on; of each
PURE = {"sigma_min": NOISE / 2, "sigma_max": NOISE, "focus": 0.0, "frequencies": 0}
FAMILIES = {
    "mean": Diffusion(**PURE, width=32, depth=1, patch=4, lr=3e-3),
    "gan": GAN(body="dcgan", width=16, fidelity=5.0, perceptual=5.0),
    "draw": Diffusion(width=16, solver_steps=12),
    "prior": Diffusion(width=16),
}
SECONDS = {"mean": 150, "gan": 160, "draw": 120, "prior": 100}
BATCH = {"mean": 8, "gan": 16, "draw": 16, "prior": 16}


# data
def photographs() -> list[np.ndarray]:
    """The luma of photographs, (H, W) each."""
    paths = sorted(find("images/photos/cbsd68_first34").glob("*.png"))
    content = sorted(find("images/style/content").glob("*"))  # twice as large, and compressed: made small
    return [luma(Image.open(p)) for p in paths] + [shrunk(luma(Image.open(p)), 0.5) for p in content]


def shrunk(y: np.ndarray, share: float) -> np.ndarray:
    """The same picture with that share of the pixels a side, a multiple of four of them."""
    h, w = (int(n * share) // SCALE * SCALE for n in y.shape)
    return resized(y, h, w) if share != 1 else y[:h, :w]


def coarse_of(fine: np.ndarray) -> np.ndarray:
    """A quarter of the pixels a side, in whole grey levels."""
    return np.clip(resized(fine, fine.shape[0] // SCALE, fine.shape[1] // SCALE).round(), 16, 235)


def places(size: Sequence[int], side: int, step: int) -> list[tuple[int, int]]:
    """The corners of tiles that cover a picture."""
    rows, columns = ([*range(0, n - side, step), n - side] for n in size)
    return [(i, j) for i in rows for j in columns]


def cut(y: Tensor, corners: list[tuple[int, int]], side: int) -> Tensor:
    """Tiles `(T B, side, side)` of pictures `(B, H, W)`."""
    return torch.cat([y[:, i : i + side, j : j + side] for i, j in corners])


def levels(y: Tensor) -> Tensor:
    """Numbers around 0 as bytes around 128, `(N, H, W, 1)`."""
    return (y + 128).round().clamp(0, 255).to(torch.uint8).unsqueeze(-1)


def centred(tiles: Tensor) -> Tensor:
    """Tiles less their means, as bytes: how bright a place is says nothing of its edges."""
    return levels(tiles - tiles.mean((1, 2), keepdim=True))


def data_of(x: Tensor, given: Tensor | None = None, name: str = "low") -> Data:
    """Pictures, without those that show nothing."""
    shows = (x if given is None else given).double().flatten(1).std(1) > 4
    givens = {} if given is None else {name: given[shows].numpy()}
    return pofx.open_data(x[shows].numpy(), given=givens or None, test=10, valid=100)


def pairs_coarse() -> Data:
    """What bicubic interpolation lacks, given the coarse tile; at three sizes."""
    rests, given = [], []
    for y in photographs():
        for share in (1, 0.75, 0.55):
            fine = shrunk(y, share)
            c = coarse_of(fine)
            corners = places(c.shape, COARSE, 5)
            rest = torch.from_numpy(fine - resized(c, *fine.shape))[None]
            rests.append(levels(cut(rest, [(SCALE * i, SCALE * j) for i, j in corners], SCALE * COARSE)))
            given.append(centred(cut(torch.from_numpy(c)[None], corners, COARSE)))
    return data_of(torch.cat(rests), torch.cat(given))


def pairs_fine(mean: pofx.Model) -> Data:
    """What the mean lacks, given the mean."""
    rests, given = [], []
    for y in photographs():
        fine = shrunk(y, 1)
        m = torch.from_numpy(expected(mean, coarse_of(fine)))[None]
        corners = places(fine.shape, TILE, STEP)
        rests.append(levels(cut(torch.from_numpy(fine)[None] - m, corners, TILE)))
        given.append(centred(cut(m, corners, TILE)))
    return data_of(torch.cat(rests), torch.cat(given), "mean")


def patches() -> Data:
    """Photographs alone."""
    found = []
    for y in photographs():
        corners = places(y.shape, PATCH, PATCH // 2)
        found.append(levels(cut(torch.from_numpy(y)[None] - 128, corners, PATCH)))
    return data_of(torch.cat(found))


def turned(batch: pofx.Batch, rng: pofx.Rng) -> pofx.Batch:
    """Rows and what they are given, turned and mirrored alike."""
    turn, mirror = int(rng.integers(4, (1,))), int(rng.integers(2, (1,)))

    def moved(t: Tensor) -> Tensor:
        axes = (1, 2) if t.shape[-1] == 1 else (2, 3)  # bytes have their channel last, the chart has it first
        t = torch.rot90(t, turn, axes)
        return t.flip(axes[1]) if mirror else t

    return pofx.Batch(moved(batch.x), {k: moved(v) for k, v in batch.given.items()}, batch.observed, batch.index)


def learnt(name: str, data: Callable[[], Data], folder: Path, seconds: float) -> pofx.Model:
    """The model of the folder; fitted, or fitted further, where it is not finished."""
    path = folder / name
    if (path / "model.json").exists() and not (path / "checkpoint.safetensors").exists():
        return pofx.load(path)
    clock = time.process_time()
    settings: dict[str, Any] = {
        "batch": BATCH[name],
        "precision": "32-true",
        "seed": 0,
        "threads": 1,
        "augment": turned,
    }
    budget = f"{seconds:g} cpu s"
    model = pofx.fit(data(), FAMILIES[name], budget=budget, folder=path, resume=path.exists(), **settings)
    print(f"{name}: fitted in {time.process_time() - clock:.0f} CPU s with its data", flush=True)
    return model


# answers
def blended(parts: Tensor, corners: list[tuple[int, int]], size: Sequence[int], fade: int, idle: int = 0) -> Tensor:
    """Pictures `(B, H, W)` of tiles `(T B, side, side)`, which fade in over so many pixels after `idle` unused ones."""
    side, count = parts.shape[-1], len(parts) // len(corners)
    ramp = ((torch.arange(side, dtype=torch.float64) + 0.5 - idle) / fade).clamp(0, 1)
    line = (torch.minimum(ramp, ramp.flip(0)) * torch.pi / 2).sin().square()
    window = line[:, None] * line[None] + 1e-9
    total, weight = torch.zeros(count, *size, dtype=torch.float64), torch.zeros(*size, dtype=torch.float64)
    for (i, j), part in zip(corners, parts.double().split(count), strict=True):
        total[:, i : i + side, j : j + side] += window * part
        weight[i : i + side, j : j + side] += window
    return total / weight


def small(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """A picture at the coarse size, within the levels that there are."""
    return np.clip(resized(fine, *coarse.shape), 16, 235)


def consistent(fine: np.ndarray, coarse: np.ndarray, rounds: int = 200) -> np.ndarray:
    """What the coarse picture says is kept, to half a level."""
    for _ in range(rounds):
        fine = np.clip(fine, 16, 235)
        gap = coarse - small(fine, coarse)
        if np.abs(gap).max() < 0.4:
            break
        fine = fine + resized(gap, *fine.shape)
    return np.clip(fine, 16, 235)


def expected(model: pofx.Model, coarse: np.ndarray) -> np.ndarray:
    """m: at pure noise the denoiser answers E[r | c]."""
    pad = COARSE // 4
    c = torch.from_numpy(np.pad(coarse, pad, mode="reflect"))[None]
    corners = places(c.shape[1:], COARSE, COARSE // 2)
    found = []
    for low in centred(cut(c, corners, COARSE)).split(256):
        u = torch.zeros(len(low), 1, SCALE * COARSE, SCALE * COARSE)
        ones = torch.ones(len(low))
        with torch.no_grad():
            found.append(model.chart.unrounded(model.denoise(u, ones, NOISE * ones, {"low": low}))[..., 0] - 128)
    size = (SCALE * c.shape[1], SCALE * c.shape[2])
    rest = blended(torch.cat(found), [(SCALE * i, SCALE * j) for i, j in corners], size, 2 * COARSE)
    edge = SCALE * pad
    inner = rest[0, edge:-edge, edge:-edge].numpy()
    return consistent(resized(coarse, *inner.shape) + inner, coarse)


def generated(model: pofx.Model, mean: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The GAN's answer: the same z in every tile, so that they agree where they meet."""
    m = torch.from_numpy(np.pad(mean, STEP, mode="reflect"))[None]
    corners = places(m.shape[1:], TILE, STEP)
    z = pofx.Rng(0).normal((1, model.core.z_size))
    found = []
    for given in centred(cut(m, corners, TILE)).split(256):
        with torch.no_grad():
            found.append(model.decode(z.expand(len(given), -1), {"mean": given}).mean().reshape(-1, TILE, TILE) - 128)
    rest = blended(torch.cat(found), corners, m.shape[1:], STEP // 2, STEP // 4)[0, STEP:-STEP, STEP:-STEP]
    return consistent(mean + SHARE * rest.numpy(), coarse)


def drawn(model: pofx.Model, means: np.ndarray, seed: int) -> np.ndarray:
    """Draws (B, H, W) given the means: tiles are denoised, and blended at every step."""
    m = torch.from_numpy(means)
    size: tuple[int, int] = (m.shape[1], m.shape[2])
    corners = places(size, TILE, STEP)
    given = {"mean": centred(cut(m, corners, TILE))}

    def denoise(u: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        tiles, every = cut(u[:, 0], corners, TILE)[:, None], len(corners)
        d = model.denoise(tiles, alpha.repeat(every), sigma.repeat(every), given)
        return blended(d[:, 0], corners, size, STEP)[:, None].to(u)

    with torch.no_grad():
        u = sample(denoise, (len(m), 1, *size), VE(), seed, steps=12)
        tiles = model.chart.unrounded(cut(u[:, 0], corners, TILE)[:, None])[..., 0]
    return (m + blended(tiles - 128, corners, size, STEP)).numpy()


def measured(x: Tensor) -> Tensor:
    """The coarse pixels of a patch that need no neighbours, (B, 8, 8, 1)."""
    y = x.permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(y, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    return small[:, :, 2:-2, 2:-2].permute(0, 2, 3, 1)


def restored(prior: pofx.Model, coarse: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """Draws (draws, B, 48, 48) of photographs that become these coarse pixels (B, 8, 8)."""
    found = pofx.restore(prior, torch.from_numpy(coarse)[..., None], measured, noise=1.0, draws=draws, rng=0)
    assert found.raw is not None
    return found.raw[..., 0].double().numpy()


# what is shown
@dataclass(frozen=True)
class Shown:
    """A test picture, and answers by name."""

    name: str
    truth: np.ndarray
    coarse: np.ndarray
    answers: dict[str, np.ndarray]

    @property
    def corner(self) -> tuple[int, int]:
        """Of the square in the middle."""
        h, w = ((n - CROP) // 2 // SCALE * SCALE for n in self.truth.shape)
        return h, w

    def middle(self, y: np.ndarray, side: int = CROP) -> np.ndarray:
        """The square in the middle of a picture."""
        i, j = (n + (CROP - side) // 2 for n in self.corner)
        return y[i : i + side, j : j + side]

    def squares(self, side: int = CROP) -> dict[str, np.ndarray]:
        """Of every answer."""
        return {name: self.middle(y, side) for name, y in self.answers.items()}

    def pasted(self, square: np.ndarray, name: str) -> np.ndarray:
        """A picture whose middle is another one."""
        y, (i, j) = self.answers[name].copy(), self.corner
        y[i : i + CROP, j : j + CROP] = square
        return consistent(y, self.coarse)


def opened(folder: str, models: dict[str, pofx.Model]) -> list[Shown]:
    """The pictures of a test set, enlarged."""
    found = []
    for path in sorted(find(f"images/photos/{folder}").glob("*x4_HR.png")):
        coarse = luma(Image.open(path.with_name(path.name.replace("HR", "LR"))))
        truth = luma(Image.open(path))[: coarse.shape[0] * SCALE, : coarse.shape[1] * SCALE]
        mean = expected(models["mean"], coarse)
        gan = generated(models["gan"], mean, coarse)
        answers = {"bicubic": resized(coarse, *truth.shape), "mean": mean, "GAN": gan}
        found.append(Shown(f"{folder} {path.stem[4:7]}", truth, coarse, answers))
    return found


def whole(folder: str, shown: list[Shown], judge: pofx.Model) -> dict[str, np.ndarray]:
    """Means over a test set: dB, features, texture, spectrum, and the largest misfit to a coarse pixel."""
    table, wanted = {}, [scores.maps(judge, one.truth) for one in shown]
    for name in ("bicubic", "mean", "GAN"):
        rows = []
        for one, seen in zip(shown, wanted, strict=True):
            y, truth = one.answers[name], one.truth
            back = np.abs(small(y.round(), one.coarse) - one.coarse).max()
            distances = (scores.features(judge, y, seen), scores.texture(y, truth), scores.spectrum_gap(y, truth))
            rows.append((scores.psnr(y, truth), *distances, back))
        table[name] = np.array(rows).mean(0)
        table[name][-1] = np.max([row[-1] for row in rows])
        words = "dB {:.2f}  features {:.3f}  texture {:.3f}  spectrum {:.2f}  back {:.2f}"
        print(f"{folder:6s} {name:14s} " + words.format(*table[name]), flush=True)
    return table


def in_squares(shown: list[Shown], models: dict[str, pofx.Model]) -> dict[str, np.ndarray]:
    """Draws by both diffusions in the middle of pictures, beside the other answers, by the same scores."""
    means = np.stack([s.middle(s.answers["mean"]) for s in shown])
    draws = np.stack([drawn(models["draw"], means, seed) for seed in range(DRAWS)])
    coarse = np.stack([s.coarse[(s.corner[0] + 32) // 4 :, (s.corner[1] + 32) // 4 :][:8, :8] for s in shown])
    zero = restored(models["prior"], coarse)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for k, one in enumerate(shown):
        one.answers["draw"] = one.pasted(draws[0, k], "mean")
        squares = one.squares(TILE)
        squares["0.7 of it"] = squares["mean"] + SHARE * (squares["draw"] - squares["mean"])
        squares["mean of 4"] = np.mean([one.middle(one.pasted(d, "mean"), TILE) for d in draws[:, k]], 0)
        truth = one.middle(one.truth, PATCH)
        wanted = scores.maps(models["prior"], truth)
        squares["restore"], squares["its mean of 4"] = zero[0, k, 8:-8, 8:-8], zero[:, k, 8:-8, 8:-8].mean(0)
        for name, y in squares.items():
            framed = truth.copy()
            framed[8:-8, 8:-8] = y  # only the middle differs
            distances = (scores.features(models["prior"], framed, wanted), scores.spectrum_gap(y, truth[8:-8, 8:-8]))
            rows.setdefault(name, []).append((scores.psnr(y, truth[8:-8, 8:-8], 0), *distances))
    table = {name: np.mean(values, 0) for name, values in rows.items()}
    for name, values in table.items():
        print(f"{len(shown)} squares {name:14s} " + "dB {:.2f}  features {:.3f}  spectrum {:.2f}".format(*values))
    return table


def check(tables: dict[str, dict[str, np.ndarray]], squares: dict[str, np.ndarray], edges: dict[str, float]) -> None:
    """What the page claims."""
    for folder, table in tables.items():
        gain = table["mean"][0] - table["bicubic"][0]
        assert gain >= 1.0, f"{folder}: the mean gains {gain:.2f} dB over bicubic; 1 dB is claimed"
        for score, column in (("features", 1), ("spectrum", 3)):
            gan, plain = table["GAN"][column], table["bicubic"][column]
            assert gan < plain, f"{folder}: the GAN's {score} are {gan:.3f} from the photograph, bicubic's {plain:.3f}"
        back = max(table["mean"][4], table["GAN"][4])
        assert back <= 1, f"{folder}: made small again, an answer is {back:.2f} levels from the coarse picture"
    assert squares["draw"][2] < squares["mean"][2], "a draw's spectrum is further off than the mean's"
    for name, share in edges.items():
        # a seam is a larger step; where tiles fade into each other the texture that a GAN makes up is a little weaker
        assert 0.85 < share < 1.05, f"{name}: steps across the edges of tiles are {share:.2f} of those elsewhere"


def main() -> None:
    """Fit, enlarge both test sets, and check the figures that are claimed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/super_resolution"))
    parser.add_argument("--share", type=float, default=1.0, help="of the CPU seconds of each fit; below 1 claims fail")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    clock, models = time.process_time(), dict[str, pofx.Model]()
    for name, seconds in SECONDS.items():
        data = {"mean": pairs_coarse, "prior": patches}.get(name, lambda: pairs_fine(models["mean"]))
        models[name] = learnt(name, data, asked.folder, asked.share * seconds)
    sets = {folder: opened(folder, models) for folder in ("set5", "set14")}
    tables = {folder: whole(folder, shown, models["prior"]) for folder, shown in sets.items()}
    every = sets["set5"] + sets["set14"]
    edges = {
        "mean": np.mean([scores.seams(s.answers["mean"] - s.answers["bicubic"], 32, 16) for s in every]),
        "GAN": np.mean([scores.seams(s.answers["GAN"] - s.answers["mean"], STEP, STEP // 2) for s in every]),
    }
    print("steps across the edges of tiles, of those elsewhere: " + ", ".join(f"{k} {v:.3f}" for k, v in edges.items()))
    squares = in_squares(every[:6], models)
    print(f"{time.process_time() - clock:.0f} CPU s in all")
    if not asked.no_picture:
        scores.picture([(s.name, s.squares(), s.middle(s.truth)) for s in (every[1], every[2], every[5])])
    check(tables, squares, edges)


if __name__ == "__main__":
    main()
