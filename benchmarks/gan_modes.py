"""How many modes does a GAN find? 25 Gaussians on a grid, a ring of 8, and stacked MNIST (1000 modes), one thread.

    POFX_DATA=folder python benchmarks/gan_modes.py [--only grid ring stacked] [--seeds 5] [--budget 90] [--stacked 600]

grid     5 x 5 centres, spacing 1, deviation 0.05;  ring: 8 centres on a circle of radius 1, deviation 0.02
         10 000 draws; one counts within 3 deviations of a centre. A mode is covered by one such draw, and has its
         share by at least a fifth of the draws that it should have.
stacked  three random digits of MNIST as the channels of one picture 28 x 28 x 3; 26 000 draws, each channel read by a
         network trained here on MNIST (its accuracy on the test part is printed); a mode is one of the 1000 triples.

The same settings serve the grid and the ring. Beside pofx, in the same run and with the same CPU seconds: a plain GAN
(Goodfellow 2014: non-saturating, Adam) of the same width on the toys, and a plain DCGAN (Radford 2015: batch norm,
Adam 2e-4) of the same width on the pictures. Finished cells are kept in runs/gan_modes.jsonl and not run again.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import pofx
from pofx.kinds._pictures import read_idx

RESULTS, FOLDER = Path("runs/gan_modes.jsonl"), Path("runs/gan_modes")
TOY = {}  # the library's defaults
PICTURES = {"body": "dcgan", "width": 16, "pack": 2}
ROWS = {"toy": 20_000, "stacked": 50_000}
WIDTH = {"toy": 128, "stacked": 16}


def centres(name: str) -> tuple[np.ndarray, float]:
    """The centres of a toy (K, 2), and its deviation."""
    if name == "grid":
        side = np.arange(-2.0, 3.0)
        return np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), 0.05
    angle = np.arange(8) * np.pi / 4
    return np.stack([np.cos(angle), np.sin(angle)], 1), 0.02


def toy(name: str, seed: int) -> np.ndarray:
    """Rows of a toy."""
    c, deviation = centres(name)
    r = np.random.default_rng(seed)
    return c[r.integers(len(c), size=ROWS["toy"])] + deviation * r.normal(size=(ROWS["toy"], 2))


def toy_score(name: str, draws: np.ndarray) -> dict[str, float]:
    """Modes covered, modes with their share, and the share of draws that count."""
    c, deviation = centres(name)
    distance = np.linalg.norm(draws[:, None] - c, axis=2)
    good = distance.min(1) <= 3 * deviation
    count = np.bincount(distance.argmin(1)[good], minlength=len(c))
    enough = int((count >= len(draws) / len(c) / 5).sum())
    return {"modes": int((count > 0).sum()), "with share": enough, "of": len(c), "good": float(good.mean())}


def ours(x: np.ndarray, settings: dict, budget: float, seed: int, draws: int, folder: Path | None = None):
    """Draws of pofx's GAN, and what is to be said of its fit."""
    known = folder is not None and (folder / "checkpoint.safetensors").exists()
    model = pofx.fit(
        x, "gan", budget=f"{budget} cpu s", seed=seed, threads=1, progress=False, hyper_parameters=settings,
        folder=folder, resume=known, precision="32-true",
    )  # fmt: skip
    parts = [np.asarray(model.sample(min(2000, draws - i), rng=1 + i)) for i in range(0, draws, 2000)]
    said = [line["warning"] for line in model.history if "warning" in line]
    return np.concatenate(parts), {"steps": model.record["plan"]["steps"], "warning": said}


def plain(x: np.ndarray, generator: nn.Module, critic: nn.Module, latent: int, budget: float, seed: int, draws: int):
    """Draws of a plain non-saturating GAN: Adam 2e-4 with beta 0.5, batches of 64."""
    rows, rng = torch.from_numpy(x), torch.Generator().manual_seed(seed)
    rate = {"lr": 2e-4 if x.ndim > 2 else 1e-3, "betas": (0.5, 0.999)}
    of_g, of_d = (torch.optim.Adam(net.parameters(), **rate) for net in (generator, critic))
    start, steps = time.process_time(), 0
    while time.process_time() - start < budget:
        real = _scaled(rows[torch.randint(len(rows), (64,), generator=rng)])
        fake = generator(torch.randn(64, latent, generator=rng))
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
        of_d.zero_grad()
        loss.backward()
        of_d.step()
        of_g.zero_grad()
        F.softplus(-critic(fake)).mean().backward()
        of_g.step()
        steps += 1
    generator.eval()
    with torch.no_grad():
        parts = [generator(torch.randn(min(2000, draws - i), latent, generator=rng)) for i in range(0, draws, 2000)]
    y = torch.cat(parts)
    if x.ndim > 2:
        y = ((y.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return y.numpy(), {"steps": steps}


def _scaled(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1 if x.ndim > 2 else x.float()


def plain_mlp(d_in: int, d_out: int, width: int) -> nn.Module:
    """Three hidden layers."""
    sizes = [d_in, width, width, width, d_out]
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


def dcgan(width: int, latent: int) -> tuple[nn.Module, nn.Module]:
    """Generator and critic of 28 x 28 x 3 pictures in [-1, 1]."""
    g = nn.Sequential(
        nn.Linear(latent, 4 * width * 16), nn.Unflatten(1, (4 * width, 4, 4)), nn.BatchNorm2d(4 * width), nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    d = nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(4 * width * 16, 1),
    )  # fmt: skip
    for layer in [*g, *d]:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
    return g, d


def mnist(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) and their digits."""
    folder = Path(os.environ["POFX_DATA"]) / "images" / "mnist"
    return tuple(read_idx(folder / f"{part}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))


def stacked(seed: int) -> np.ndarray:
    """Pictures (N, 28, 28, 3) of three random digits."""
    x, _ = mnist("train")
    pick = np.random.default_rng(seed).integers(len(x), size=(ROWS["stacked"], 3))
    return np.stack([x[pick[:, k]] for k in range(3)], -1)


def reader() -> nn.Module:
    """A network that reads digits, trained once and kept."""
    torch.manual_seed(0)  # of this script's process alone
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    path = FOLDER / "reader.safetensors"
    if path.exists():
        net.load_state_dict(load_file(path))
        return net.eval()
    x, digit = (torch.from_numpy(np.array(a)) for a in mnist("train"))
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for k in range(1200):
        rows = torch.randint(len(x), (128,))
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - k / 1200)
        loss = F.cross_entropy(net(x[rows].unsqueeze(1) / 255), digit[rows].long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    return net.eval()


def read(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """The digits of pictures (N, 28, 28) uint8."""
    with torch.no_grad():
        return np.concatenate([net(torch.from_numpy(p).unsqueeze(1) / 255).argmax(1).numpy() for p in _parts(x)])


def _parts(x: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(x[i : i + 2000]) for i in range(0, len(x), 2000)]


def stacked_score(net: nn.Module, draws: np.ndarray) -> dict[str, float]:
    """Triples seen, and how far their frequencies are from even ones (KL, nats)."""
    digits = [read(net, draws[..., k]) for k in range(3)]
    share = np.bincount(100 * digits[0] + 10 * digits[1] + digits[2], minlength=1000) / len(draws)
    seen = share[share > 0]
    return {"modes": int((share > 0).sum()), "of": 1000, "KL": float((seen * np.log(1000 * seen)).sum())}


def run_toy(name: str, who: str, seed: int, budget: float) -> dict:
    x = toy(name, seed)
    if who == "pofx":
        y, more = ours(x, TOY, budget, seed, 10_000)
    else:
        torch.manual_seed(seed)
        mean, scale = x.mean(0), x.std(0)
        nets = plain_mlp(8, 2, WIDTH["toy"]), plain_mlp(2, 1, WIDTH["toy"])
        y, more = plain((x - mean) / scale, *nets, 8, budget, seed, 10_000)
        y = y * scale + mean
    return {**toy_score(name, y), **more}


def run_stacked(who: str, seed: int, budget: float) -> dict:
    net = reader()
    x_test, digit = mnist("t10k")
    accuracy = float((read(net, x_test) == digit).mean())
    x = stacked(seed)
    real = stacked_score(net, x[:26_000])["modes"]
    if who == "pofx":
        y, more = ours(x, PICTURES, budget, seed, 26_000, FOLDER / f"stacked-{seed}")
    else:
        torch.manual_seed(seed)
        y, more = plain(x, *dcgan(WIDTH["stacked"], 64), 64, budget, seed, 26_000)
    save_file({"draws": torch.from_numpy(y[:200].copy())}, FOLDER / f"draws-{who}-{seed}.safetensors")
    return {**stacked_score(net, y), **more, "reader": accuracy, "real modes": real}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["grid", "ring", "stacked"])
    parser.add_argument("--who", nargs="*", default=["pofx", "plain"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=90)
    parser.add_argument("--stacked", type=float, default=600)
    args = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for cell in args.only:
        seeds, budget = (range(1), args.stacked) if cell == "stacked" else (range(args.seeds), args.budget)
        for seed in seeds:
            for who in args.who:
                key = {"cell": cell, "who": who, "seed": seed, "budget": budget}
                row = next((r for r in done if all(r.get(k) == v for k, v in key.items())), None)
                if row is None:
                    start = time.process_time()
                    found = run_stacked(who, seed, budget) if cell == "stacked" else run_toy(cell, who, seed, budget)
                    row = {**key, **found, "cpu": round(time.process_time() - start, 1)}
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
