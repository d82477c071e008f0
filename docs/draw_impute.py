"""Draw docs/questions/impute.png: concrete with 30 % of its cells hidden, filled by `pofx.Imputer`, beside the truth.

POFX_DATA=... python docs/draw_impute.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import pofx
from pofx.data import find
from pofx.tasks.base import rows_of
from pofx.tasks.impute import figure

NAMES = ("cement", "slag", "fly ash", "water", "plasticiser", "coarse", "fine", "age", "strength")
SHOWN = ("cement", "water", "age", "strength")


def main() -> None:
    """Fit, fill and draw."""
    x = np.loadtxt(find("tables/uci_regression/concrete/data.txt.gz"))
    rng = np.random.default_rng(0)
    gone = rng.random(x.shape) < 0.3
    whole = pd.DataFrame(x, columns=list(NAMES))
    imputer = pofx.Imputer().fit(whole.mask(gone))
    gaps = whole.mask(gone & np.isin(NAMES, SHOWN)).iloc[:400]  # four columns are enough to look at
    answer = imputer.answer(gaps)
    truth, _ = rows_of(imputer.models_[0], whole.iloc[:400])
    figure(answer, truth).savefig(Path(__file__).parent / "questions" / "impute.png", dpi=110)


if __name__ == "__main__":
    main()
