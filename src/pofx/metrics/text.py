"""How a model of text is judged: bits and nats for each symbol.

    bits per character = - sum_i log2 p(text_i) / sum_i characters_i            perplexity = exp(nats per symbol)

Offers `bits_per_symbol`. The count is the caller's: characters make numbers comparable between units (characters,
bytes, pieces), and a document's END, which its log p includes, counts as no character.
"""

from __future__ import annotations

import math

import numpy as np

from pofx.metrics.base import ArrayLike, Metric, RngSource, bootstrap, vector


def bits_per_symbol(
    log_p: ArrayLike, symbols: ArrayLike, rng: RngSource = 0, draws: int = 200, unit: str = "bits per character"
) -> Metric:
    """Bits a symbol over texts with log probabilities (N,) in nats and counts of symbols (N,), longer texts count more.

    The interval is a bootstrap over texts; the note says it in nats, and as perplexity.

    Raises:
        ValueError: shapes differ, no symbols, a positive log probability, or one that is not finite.
    """
    a, n = vector(log_p, "log_p"), vector(symbols, "symbols")
    if a.shape != n.shape or not len(a) or n.sum() <= 0 or (n < 0).any() or (a > 1e-6).any():
        raise ValueError(f"bits_per_symbol: got {len(a)} log probabilities and {len(n)} counts; expected log p <= 0.")
    pairs = np.stack([a, n], 1)

    def bits(rows: np.ndarray) -> float:
        return float(-rows[:, 0].sum() / max(rows[:, 1].sum(), 1) / math.log(2))

    value, (low, high) = bits(pairs), bootstrap(bits, [pairs], rng, draws)
    nats = value * math.log(2)
    return Metric(unit, value, low, high, len(a), "lower", f"{nats:.4f} nats, perplexity {math.exp(nats):.3g}")
