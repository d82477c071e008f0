"""How fast are exact kernel sums? pofx and scikit-learn's KernelDensity side by side, same rows, one thread.

    python benchmarks/kde_speed.py [--rows 20000] [--repeats 3]

Prints one line for each case: the medians, their ratio, and the error of each in nats against differences squared in
double precision, on 500 rows of which half are the least likely (where KernelDensity is known to lose digits).
"""

import argparse
import math
import statistics
import time

import torch
from sklearn.neighbors import KernelDensity

from pofx.data import Data
from pofx.engines.bins import LOG_2PI
from pofx.engines.kernels import exact_log_kernel_sum
from pofx.families.kde import KDE
from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng


def rows(n: int, kind: str, seed: int) -> torch.Tensor:
    """Rows of 8 numbers: one normal cloud (nothing can be pruned), or 16 clusters."""
    rng, z = Rng(seed), Rng(seed + 100).normal((n, 8), torch.float64)
    if kind == "normal":
        return z
    centre, spread = 3 * Rng(7).normal((16, 8), torch.float64), 0.3 + Rng(8).uniform((16, 8), torch.float64)
    pick = rng.integers(16, (n,))
    return centre[pick] + spread[pick] * z


def seconds(run) -> tuple[float, torch.Tensor]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, torch.as_tensor(result)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = Space((8,), tuple(Variable(f"x{j}") for j in range(8)))
    print(f"{args.rows} queries x {args.rows} centres x 8; CPU seconds, median of {args.repeats}")
    print(
        f"{'rows':>9} {'offset':>7} {'h':>5} {'pofx':>7} {'sklearn':>8} {'ratio':>6} {'error':>9} {'sklearn error':>14}"
    )
    for kind in ("normal", "clusters"):
        for offset in (0.0, 1e4):
            for h in (0.2, 0.5):
                c, q = (rows(args.rows, kind, seed) + offset for seed in (0, 1))
                model = KDE(bandwidth=h).build(space)
                model.fit_closed(Data(c, space, split={"train": torch.arange(len(c))}), Rng(0), lambda line: None)
                peer = KernelDensity(bandwidth=h, algorithm="kd_tree").fit(c.numpy())
                times = {"ours": [], "theirs": []}
                for _ in range(args.repeats):
                    ours, log_p = seconds(lambda m=model, q=q: m.log_prob(q).value)
                    theirs, want = seconds(lambda p=peer, q=q: p.score_samples(q.numpy()))
                    times["ours"].append(ours)
                    times["theirs"].append(theirs)
                a, b = (statistics.median(times[k]) for k in ("ours", "theirs"))
                some = torch.cat([log_p.argsort()[:250], torch.arange(250)])
                exact = exact_log_kernel_sum(q[some] / h, c / h) - math.log(len(c)) - 8 * math.log(h) - 4 * LOG_2PI
                errors = [float((v[some] - exact).abs().max()) for v in (log_p, want)]
                line = f"{kind:>9} {offset:7.0f} {h:5.2f} {a:7.2f} {b:8.2f} {b / a:6.1f}"
                print(f"{line} {errors[0]:9.1e} {errors[1]:14.1e}", flush=True)


if __name__ == "__main__":
    main()
