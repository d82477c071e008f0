"""Draw docs/questions/trust.png: how far class probabilities may be trusted, of ten splits of benchmarks/classify.py.

POFX_DATA=... python docs/draw_trust.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from pofx.drawing.style import ACCENT, BRANCH, LINE, blank, plain, png
from pofx.metrics.classes import reliability, risk_coverage

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from classify import TUNED, halves, told

OUT = Path(__file__).parent / "questions" / "trust.png"


def main() -> None:
    """Reliability of ten splits together, and the mean of their risk-coverage curves: normals, logistic regression."""
    figure = blank(9.4, 3.9)
    left, right = figure.subplots(1, 2)
    left.plot([0.4, 1], [0.4, 1], color=BRANCH, lw=0.9)
    for name, tone in (("normal, full", ACCENT), (TUNED, "#b8722c")):
        found = [(*told(name, halves(seed), seed)[:2], halves(seed).part("test").given["label"]) for seed in range(10)]
        y = torch.cat([one[2] for one in found])
        for k, style, when in ((0, (0, (4, 2)), "as it is"), (1, "-", "with its temperature")):
            sure, often, _ = reliability(torch.cat([one[k] for one in found]), y, 30)
            left.plot(sure, often, color=tone, ls=style, marker="o", ms=3, lw=1.2, label=f"{name}: {when}")
            lines = [risk_coverage(one[k].max(1).values, one[k].argmax(1) != one[2]) for one in found]
            share, risk = lines[0][0], 100 * np.mean([line[1] for line in lines], 0)
            right.plot(share, risk, color=tone, ls=style, lw=1.4, label=f"{name}: {when}, area {risk.mean():.2f} %")
    left.set(xlabel="how sure (30 bins of equal count)", ylabel="how often right", xlim=(0.4, 1.01), ylim=(0.4, 1.02))
    right.set(xlabel="share of rows kept, surest first", ylabel="wrong among them, %", xlim=(0, 1.01), ylim=(0, None))
    plain(left, "reliability: on the line, as often right as sure")
    plain(right, "risk and coverage: who answers fewer rows errs less")
    for axes in (left, right):
        axes.grid(color=LINE, lw=0.6)
        axes.legend(frameon=False, fontsize=8)
    OUT.write_bytes(png(figure, 100))


if __name__ == "__main__":
    main()
