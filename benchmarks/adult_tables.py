"""Adult census (mixed types, missing values): six families, five CPU minutes each, one thread.

    POFX_DATA=... python benchmarks/adult_tables.py [--budget "300 cpu s"] [--out runs/adult] [families ...]

Prints held-out nats a row at the stated resolution beside independent columns, and the column-shape and pair-trend
errors of samples against held-out rows, as SDMetrics defines them. The floor of both errors is what a second real
sample of the same size has; it is printed too.
"""

from __future__ import annotations

import argparse

from pofx.data import Data, find, open_data
from pofx.metrics import column_shapes, pair_trends
from pofx.reporting.leaderboard import Watch, table
from pofx.reporting.page import write_report
from pofx.tasks.compare import compare

NAMES = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
FAMILIES = ("mixture", "autoregressive", "vae", "flow", "diffusion", "gan")


def adult(seed: int = 0) -> Data:
    """The training file with a hold-out of 5000 rows."""
    path = find("tables/adult/adult-train.csv.gz")
    return open_data(path, options={"header": False, "names": list(NAMES)}, test=5000, valid=2000, seed=seed)


def floor(data: Data) -> tuple[float, float]:
    """Shape and trend error of real rows against other real rows."""
    test, train = (data.kind.restore(data.part(p).x, data.space) for p in ("test", "train"))
    rows = train.iloc[: len(test)]
    return column_shapes(test, rows).mean.value, pair_trends(test, rows).mean.value


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--budget", default="300 cpu s")
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
    print("real against real: shape error {:.4f}, trend error {:.4f}".format(*floor(data)))
    with Watch() as watch:
        found = compare(
            data, asked.families, budget=asked.budget, folder=asked.out, samples=5000, draws=8, seed=asked.seed,
            report=watch.show, resume=asked.resume,
        )  # fmt: skip
    base = next(r for r in found.rows if r["family"] == "independent")["nats"]
    print(table(found))
    for row in found.rows:
        if row.get("nats") is not None:
            print(
                f"{row['family']:16} {row['nats'] - base:+.2f} nats a row over independent columns ({row['quality']})"
            )
    print(f"report: {write_report(found)}")


if __name__ == "__main__":
    main()
