"""Next frames: p(ten frames | the ten before) of two moving digits, made here from MNIST; several futures.

    POFX_DATA=/folder/of/data python examples/next_frame.py [--seconds 400] [--out docs/kinds]

A conditional diffusion and a ConvLSTM get the same CPU seconds on the same clips, of training digits; the test clips
are of other digits. The expected future is the denoiser's answer to pure noise, E[x | past], which needs one step.
Checks that its squared error is below that of holding the last frame, of the mean future, which knows no past, and of
the ConvLSTM, and that futures differ.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pofx
from pofx.baselines import hold
from pofx.data import find, open_data
from pofx.kinds._clips import contact_sheet, write_clip
from pofx.kinds._pictures import read_idx
from pofx.metrics.video import frame_errors

SIDE, DIGIT, FRAMES, AHEAD = 32, 14, 20, 10


def moving_digits(pictures, clips: int, digits: int = 2, seed: int = 0):
    """Clips `(clips, 20, 32, 32)` of digits of half size that move at 1 to 2 pixels a frame and bounce."""
    rng = np.random.default_rng(seed)
    small = pictures.reshape(len(pictures), DIGIT, 2, DIGIT, 2).mean((2, 4)).astype(np.uint8)
    out, room = np.zeros((clips, FRAMES, SIDE, SIDE), dtype=np.uint8), SIDE - DIGIT
    for clip in out:
        for _ in range(digits):
            digit, at, angle = small[rng.integers(len(small))], rng.uniform(0, room, 2), rng.uniform(0, 2 * np.pi)
            step = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(1, 2)
            for t in range(FRAMES):
                path = (at + t * step) % (2 * room)  # a wall mirrors the straight path
                y, x = np.round(np.minimum(path, 2 * room - path)).astype(int)
                part = clip[t, y : y + DIGIT, x : x + DIGIT]
                np.maximum(part, digit, out=part)
    return out


class ConvLSTM(nn.Module):
    """The published baseline (Shi 2015, arXiv:1506.04214), one cell at half resolution, fed with its own frames."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Conv2d(4, width, 3, padding=1)  # squares of 2 x 2 pixels
        self.gates = nn.Conv2d(2 * width, 4 * width, 5, padding=2)
        self.leave = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        """Frames `(B, T, H, W)` in [0, 1] -> the next ten, as logits."""
        h = c = past.new_zeros(len(past), self.width, SIDE // 2, SIDE // 2)
        frames, frame = [], past[:, 0]
        for t in range(past.shape[1] + AHEAD - 1):
            frame = past[:, t] if t < past.shape[1] else frames[-1].sigmoid()
            e = torch.relu(self.enter(nn.functional.pixel_unshuffle(frame[:, None], 2)))
            i, f, o, g = self.gates(torch.cat([e, h], 1)).chunk(4, 1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            if t >= past.shape[1] - 1:
                frames.append(nn.functional.pixel_shuffle(self.leave(h), 2)[:, 0])
        return torch.stack(frames, 1)


def train_convlstm(past, future, seconds: float):
    """Squared error by Adam for so many seconds of this process."""
    start, rng = time.process_time(), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        net = ConvLSTM()
    optimiser, steps = torch.optim.Adam(net.parameters(), lr=2e-3), 0
    while time.process_time() - start < seconds:
        rows = torch.randint(len(past), (16,), generator=rng)
        loss = (net(past[rows].float() / 255).sigmoid() - future[rows].float() / 255).square().sum((2, 3)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        steps += 1
    print(f"ConvLSTM: {steps} steps")
    return net


def expected(model, past, sigma: float = 80.0):
    """E[future | past] in levels: what the denoiser makes of noise that hides everything."""
    shape = (len(past), *model.chart.space.shape)
    noise = sigma * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    one = torch.ones(len(past), 1, 1, 1)
    with torch.no_grad():
        u = model.denoise(noise, one, sigma * one, {"past": past})
    return model.chart.unrounded(u).clamp(0, 255).numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--digits", type=Path, default=Path("images/mnist/train-images-idx3-ubyte.gz"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    pictures = read_idx(find(asked.digits))
    clips = moving_digits(pictures[:50_000], asked.clips, seed=0)
    test = moving_digits(pictures[50_000:], 100, seed=1)[..., None]
    past, truth = torch.from_numpy(test[:, :-AHEAD]), test[:, -AHEAD:].astype(np.float64)
    data = open_data(clips, kind="video", given="past", options={"ahead": AHEAD}, test=1, valid=100)
    start = time.process_time()
    plain = {"frequencies": 0, "patch": 2, "body": "picture"}  # waves of ten frames of bytes would be most of the work
    plain["weighting"] = "even"  # what is expected is asked at large noise, which the bound hardly sees
    budget = f"{asked.seconds:g} cpu s"
    model = pofx.fit(
        data, "diffusion", budget=budget, seed=0, threads=1, batch=32, progress=False, hyper_parameters=plain
    )
    rows = torch.from_numpy(clips)
    spent = time.process_time() - start  # a busy machine gives fewer than were asked for
    print(f"diffusion: {spent:.0f} CPU seconds, {model.history[-1]['step']} steps")
    net = train_convlstm(rows[:, :-AHEAD], rows[:, -AHEAD:], spent)
    with torch.no_grad():
        peer = torch.cat([net(some[..., 0].float() / 255).sigmoid() for some in past.split(20)])[..., None]
    few = past[:2]
    futures = model.sample(4, {"past": few[None].expand(4, *few.shape)}, rng=0)[0].double().numpy()
    print(f"{time.process_time() - start:.0f} CPU seconds in all")
    usual = clips[:, -AHEAD:].mean(0)[None, ..., None].repeat(len(past), 0)
    answers = {"last frame": hold(past, AHEAD), "mean future": usual, "ConvLSTM": 255 * peer.double().numpy()}
    answers["diffusion, expected"] = expected(model, past)
    error = {name: float(frame_errors(x, truth).mean()) for name, x in answers.items()}
    for name, value in error.items():
        print(f"{name:22s} squared error of a frame {value:.2f}")
    apart = [float(frame_errors(futures[0], f).mean()) for f in futures[1:]]
    print(f"two futures of one past differ by {np.mean(apart):.2f}")
    if asked.out:
        show(asked.out, test, answers, futures)
    best = min(value for name, value in error.items() if name != "diffusion, expected")
    assert error["diffusion, expected"] < best, "not better than the baselines"
    assert min(apart) > 0.5, "the futures are all alike"


def show(out: Path, test, answers, futures) -> None:
    """A sheet: the clip as it went on, the answers and two futures; and an animation."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for k in (0, 1):
        went = [x[k] for x in (answers["ConvLSTM"], answers["diffusion, expected"], futures[0], futures[1])]
        lines += [test[k], *[np.concatenate([test[k, :-AHEAD], x]) for x in went]]
    clips = np.stack(lines).round().clip(0, 255).astype(np.uint8)
    sheet = contact_sheet(clips, columns=FRAMES)[..., 0]
    Image.fromarray(sheet.repeat(2, 0).repeat(2, 1)).save(out / "next_frame.png")
    write_clip(out / "next_frame.gif", np.concatenate(list(clips[[0, 2, 3, 4]]), 2), rate=8, scale=3)


if __name__ == "__main__":
    main()
