"""Draw docs/questions/judge.png: real digits in the samples' place, but for the threes, judged as samples.

python docs/draw_judge.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import pofx


def main() -> None:
    """Split, leave one class out, judge and draw."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    x, y = found.images.astype(np.uint8)[order], found.target[order]
    kept = y[1350:] != 3
    judged = pofx.judge(x[900:1350], x[1350:][kept], x[:900], labels=y[:900], target=(y[900:1350], y[1350:][kept]))
    place = Path(__file__).parent / "questions" / "judge.png"
    judged.figure().savefig(place, dpi=110)


if __name__ == "__main__":
    main()
