"""How fast is EM? pofx and scikit-learn's GaussianMixture side by side: same rows, same start, one thread, CPU seconds.

    python benchmarks/mixture_em.py [--rows 20000] [--repeats 5]

Both run the same number of iterations from the same responsibilities, and print the mean log likelihood they reach.
"""

import argparse
import statistics
import time
import warnings

import torch
from sklearn.mixture import GaussianMixture

from pofx.engines.em import Mixed, em, initialise
from pofx.engines.normals import Normal
from pofx.randomness import Rng


def rows(n: int) -> torch.Tensor:
    """16 overlapping clusters in 8 dimensions."""
    rng = Rng(0)
    centre, turn = 2 * Rng(7).normal((16, 8), torch.float64), Rng(8).normal((16, 8, 8), torch.float64) / 2
    turn = turn + torch.eye(8, dtype=torch.float64)  # no cluster is so flat that only the regularisation counts
    pick = rng.integers(16, (n,))
    return centre[pick] + (turn[pick] @ rng.normal((n, 8, 1), torch.float64)).squeeze(2)


def ours(x: torch.Tensor, full: bool, iterations: int) -> tuple[float, float, Normal, torch.Tensor]:
    """CPU seconds of the iterations, the mean log likelihood reached, and the start they share."""
    block = Normal(x.shape[1], full, 1e-4)
    prepared = block.prepare(x, None, True)
    mixture = Mixed([block], torch.zeros(1, dtype=torch.float64))
    initialise(mixture, [prepared], x, 16, Rng(1))
    start = {k: v.clone() for k, v in block.state_dict().items()}, mixture.log_pi.clone()
    clock = time.process_time()
    prepared = block.prepare(x, None, True)
    em(mixture, [prepared], iterations)
    spent = time.process_time() - clock
    reached = float(torch.logsumexp(mixture.log_joint([block.prepare(x, None)]), 1).mean())
    return spent, reached, start


def theirs(x: torch.Tensor, full: bool, iterations: int, start) -> tuple[float, float]:
    """The same of scikit-learn, from the same parameters."""
    state, log_pi = start
    S = state["covariance"]
    precisions = torch.linalg.inv(S) if full else 1 / S
    peer = GaussianMixture(
        16, covariance_type="full" if full else "diag", tol=0.0, max_iter=iterations, reg_covar=1e-6,
        weights_init=log_pi.exp().numpy(), means_init=state["mean"].numpy(), precisions_init=precisions.numpy(),
        init_params="random",
    )  # fmt: skip
    clock = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(x.numpy())
    return time.process_time() - clock, float(peer.score(x.numpy()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=34)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = rows(args.rows)
    print(f"{args.rows} x 8, 16 components, {args.iterations} iterations; CPU seconds, median of {args.repeats}")
    print(f"{'covariance':>10} {'pofx':>6} {'sklearn':>8} {'ratio':>6} {'(range)':>12}  {'log p':>9} {'sklearn':>9}")
    for full in (True, False):
        pairs = []
        for _ in range(args.repeats):
            a, log_a, start = ours(x, full, args.iterations)
            b, log_b = theirs(x, full, args.iterations, start)
            pairs.append((a, b))
        ratios = [b / a for a, b in pairs]
        a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        spread = f"{min(ratios):.1f}-{max(ratios):.1f}"
        name = "full" if full else "diagonal"
        print(f"{name:>10} {a:6.2f} {b:8.2f} {b / a:6.1f} {spread:>12}  {log_a:9.4f} {log_b:9.4f}", flush=True)


if __name__ == "__main__":
    main()
