"""Adult census (mixed types, missing values): six families, three CPU minutes each, one thread.

    POFX_DATA=... python benchmarks/adult_tables.py [--budget "180 cpu s"] [--out runs/adult] [families ...]

Prints held-out nats a row at the stated resolution beside independent columns (over all held-out rows, and over those
without gaps, where an any-order model's value is exact), and the column-shape and pair-trend errors of samples as
SDMetrics defines them: 5000 samples against 5000 held-out rows, and as many samples as training rows against these.
Beside them stands what real rows have against other real rows: no error can be lower. The trend error is printed with
the bins of the real column and with each table's own bins: the latter moves with a single extreme value of fnlwgt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from pofx.baselines import Independent
from pofx.data import Batch, Data, find, open_data
from pofx.metrics import column_shapes, pair_trends
from pofx.reporting.leaderboard import Watch, table
from pofx.reporting.page import write_report
from pofx.tasks.compare import compare
from pofx.tasks.density import density
from pofx.tasks.sample import sample
from pofx.training.folder import load

NAMES = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
FAMILIES = ("mixture", "autoregressive", "vae", "flow", "diffusion", "gan")


def adult(seed: int = 0) -> Data:
    """The training file with a hold-out of 5000 rows."""
    path = find("tables/adult/adult-train.csv.gz")
    return open_data(path, options={"header": False, "names": list(NAMES)}, test=5000, valid=2000, seed=seed)


def real_rows(data: Data, part: str) -> pd.DataFrame:
    """The real rows of a part with their gaps."""
    seen = data.part(part).observed
    rows = data.kind.restore(data.part(part).x, data.space)
    return rows if seen is None else rows.where(seen.numpy())


def errors(real: pd.DataFrame, fake: pd.DataFrame) -> str:
    """Shape error, trend error by the real column's bins and by each table's own, in words."""
    shape = column_shapes(real, fake, draws=2).mean.value
    trends = [pair_trends(real, fake, draws=2, edges=edges).mean.value for edges in ("real", "own")]
    return f"shape {shape:.4f}  trend {trends[0]:.4f} (own bins {trends[1]:.4f})"


def floor(data: Data) -> str:
    """What real rows have against other real rows."""
    test, train = real_rows(data, "test"), real_rows(data, "train")
    return f"5000 rows: {errors(test, train.iloc[: len(test)])}; 5000 against training rows: {errors(train, test)}"


def large(data: Data, folder: Path) -> str:
    """As many samples as training rows, against the training rows."""
    model = load(folder / "model")
    train = real_rows(data, "train")
    return errors(train, sample(model, len(train), rng=1).value)


def complete(data: Data, folder: Path) -> str:
    """Nats a row over independent columns on held-out rows without gaps, with the quality of the value."""
    alone = load(folder.parent / "independent" / "model", [Independent])
    test = data.part("test")
    whole = Batch(test.x if test.observed is None else test.x[test.observed.flatten(1).all(1)])
    answer = density(load(folder / "model"), whole, draws=8)
    gain = (answer.value - density(alone, whole).value).mean()
    return f"{float(gain):+.2f} nats a row over independent ({answer.quality.value}, {len(whole)} rows)"


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--budget", default="180 cpu s")
    parser.add_argument("--out", default="runs/adult")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    try:
        data = adult(asked.seed)
    except FileNotFoundError as missing:
        print(f"skipped: {missing}")
        return
    print("\n".join(data.notes))
    print(f"real against real, {floor(data)}")
    with Watch() as watch:
        found = compare(
            data, asked.families, budget=asked.budget, folder=asked.out, samples=5000, draws=8, seed=asked.seed,
            report=watch.show, resume=asked.resume,
        )  # fmt: skip
    base = next(r for r in found.rows if r["family"] == "independent")["nats"]
    print(table(found))
    for row in [r for r in found.rows if not r.get("error") and r["family"] in asked.families]:
        folder = Path(asked.out) / row["family"]
        print(row["family"])
        if row.get("nats") is not None:
            print(f"  all held-out rows: {row['nats'] - base:+.2f} nats a row over independent ({row['quality']})")
        if "log_prob" in load(folder / "model").offers():
            print(f"  rows without gaps: {complete(data, folder)}")
        print(f"  5000 samples against held-out rows: shape {row['shape_error']:.4f}  trend {row['trend_error']:.4f}")
        print(f"  against training rows: {large(data, folder)}; copying: {row['copying_why']}", flush=True)
    print(f"report: {write_report(found)}")


if __name__ == "__main__":
    main()
