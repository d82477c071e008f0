"""Retrieval: does x find its own caption among others?

    log p(y | x) = sum_w [ y_w log q_w(x) + (1 - y_w) log(1 - q_w(x)) ],   y_w: has y the word, or pair of words, w?
    s(x, y)      = sum_{w in y} logit q_w(x) = log p(y | x) + a constant of x          loss = -mean log p(y | x)
    first        = share of x whose own caption has the largest s among K              chance is 1 / K

q reads pictures (N, H, W, C) by convolutions and other rows by a small network; pairs are words that follow each
other, so that "red on blue" is not "blue on red". Offers `Retrieval.fit(x, captions)`, which learns q from *real* pairs
without downloads, then `retrieval.scores(x, candidates)`; `candidates`, captions to choose from, part of them near
misses; and `right_first`, which takes any scores. Fit it on real pairs that hold every combination that it must judge,
and always report what fresh real pairs reach beside what samples do: a judge that cannot tell real captions apart says
nothing of samples.

References: samples judged by the rank of their own caption ("R-precision", Xu 2018, arXiv:1711.10485); words as labels
of pictures (Joulin 2016, arXiv:1511.02251).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pofx.metrics.base import Array, ArrayLike, Metric, RngSource, proportion, to_numpy
from pofx.randomness import Rng

CHUNK = 1024  # rows that are looked at together


@dataclass(frozen=True)
class Retrieval:
    """p(caption | x) with its words, and pairs of words, independent given x.

    Attributes: `net` gives the logits of q; `symbols` numbers the words and pairs; `mean` and `scale` standardise x;
    `event` is the shape of one x.
    """

    net: nn.Module
    symbols: dict[str, int]
    mean: float
    scale: float
    event: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        captions: Sequence[str],
        rng: RngSource = 0,
        *,
        steps: int = 500,
        batch: int = 128,
        width: int = 16,
        lr: float = 4e-3,
        rare: int = 2,
    ) -> Retrieval:
        """Learn q from real pairs: x (N, *event) and N captions.

        Args:
            steps, batch: of the training.
            width: channels of the first convolution.
            lr: of Adam, falling as a cosine.
            rare: pairs of words that fewer captions have are left out.

        Raises:
            ValueError: another number of captions, fewer than two different ones, one without words, or NaN in x.
        """
        a, texts, rng = _numbers(x), list(captions), Rng(rng)
        if len(a) != len(texts) or len(set(texts)) < 2:
            raise ValueError(
                f"Retrieval.fit: got {len(a)} rows and {len(texts)} captions, {len(set(texts))} of them different; "
                "expected one caption for every row, and at least two different ones."
            )
        symbols, event = _symbols(texts, rare), tuple(a.shape[1:])
        with torch.random.fork_rng(devices=[]):  # torch's layers draw their weights from its global stream
            torch.default_generator.manual_seed(rng.seed())
            net = _net(event, width, len(symbols))
        some = a[rng.permutation(len(a))[:CHUNK]].float()
        made = cls(net, symbols, float(some.mean()), float(some.std()) or 1.0, event)
        made._learn(a, texts, rng, steps, min(batch, len(a)), lr)
        return made

    def logits(self, x: ArrayLike) -> Array:
        """logit q_w(x), (N, words and pairs). Raises ValueError where the event has another shape."""
        a = _numbers(x)
        if tuple(a.shape[1:]) != self.event:
            raise ValueError(f"Retrieval: got rows of shape {tuple(a.shape[1:])}; expected {self.event} as in fit.")
        with torch.no_grad():
            return torch.cat([self._see(rows) for rows in a.split(CHUNK)]).numpy()

    def bags(self, captions: Sequence[str]) -> Array:
        """y_w, (N, words and pairs) of 0 and 1; a pair that no caption of the fit had is left out.

        Raises:
            ValueError: a caption without words, or with a word that no caption of the fit had.
        """
        found = np.zeros((len(captions), len(self.symbols)), np.float32)
        for bag, text in zip(found, captions, strict=True):
            parts = _parts(text)
            strange = [p for p in parts if " " not in p and p not in self.symbols]
            if strange:
                raise ValueError(f"caption {text!r}: the word {strange[0]!r} was in no caption of the fit; reword it.")
            bag[[self.symbols[p] for p in parts if p in self.symbols]] = 1
        return found

    def scores(self, x: ArrayLike, candidates: Sequence[Sequence[str]]) -> Array:
        """log p(y | x) + a constant of x, (N, K), of every x and its own K candidates; see `right_first`."""
        seen = self.logits(x)
        if len(seen) != len(candidates) or len({len(row) for row in candidates}) != 1:
            raise ValueError(
                f"got {len(candidates)} lists of captions for {len(seen)} rows; expected one each, of equal lengths."
            )
        distinct = {c: k for k, c in enumerate(dict.fromkeys(c for row in candidates for c in row))}
        bags = self.bags(list(distinct))
        return np.stack([bags[[distinct[c] for c in row]] @ one for one, row in zip(seen, candidates, strict=True)])

    def _see(self, a: Tensor) -> Tensor:
        return self.net((a.float() - self.mean) / self.scale)

    def _learn(self, a: Tensor, texts: list[str], rng: Rng, steps: int, batch: int, lr: float) -> None:
        distinct, own = np.unique(np.array(texts), return_inverse=True)
        bags, own = torch.from_numpy(self.bags([str(t) for t in distinct])), torch.from_numpy(own)
        with torch.no_grad():  # it starts at how often each word comes, so that no step is spent on that
            head = [m for m in self.net.modules() if isinstance(m, nn.Linear)][-1]
            head.bias.copy_(torch.logit(bags[own].mean(0), eps=1e-4))
        optimiser = torch.optim.Adam(self.net.parameters(), lr=lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            rows = rng.integers(len(a), (batch,))
            loss = F.binary_cross_entropy_with_logits(self._see(a[rows]), bags[own[rows]], reduction="sum") / batch
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
        self.net.eval().requires_grad_(False)


def right_first(scores: ArrayLike, own: ArrayLike | int = 0, level: float = 0.95) -> Metric:
    """Share of rows whose own candidate has the largest of K scores; Wilson's interval. Chance is 1 / K.

    Bias in N: none. More candidates make it harder: compare only at the same K.

    Args:
        scores: (N, K), higher is nearer; a tie with the own one counts as a miss.
        own: which column is the row's own: one for all, or (N,).

    Raises:
        ValueError: NaN, fewer than two candidates, or an own that is none of them.
    """
    s = to_numpy(scores).astype(np.float64)
    if s.ndim != 2 or s.shape[1] < 2 or not len(s) or np.isnan(s).any():
        raise ValueError(f"right_first: got scores of shape {s.shape} or NaN; expected numbers (N, K), K from 2 on.")
    at = np.broadcast_to(to_numpy(own) if not isinstance(own, int) else np.array(own), (len(s),)).astype(int)
    if not 0 <= at.min() <= at.max() < s.shape[1]:
        raise ValueError(f"right_first: own is {at.min()} .. {at.max()}; expected columns 0 .. {s.shape[1] - 1}.")
    mine = s[np.arange(len(s)), at][:, None]
    hits = float(((s >= mine).sum(1) == 1).sum())
    note = f"{s.shape[1]} candidates: chance is {1 / s.shape[1]:.3g}"
    return proportion("right first", hits, len(s), "higher", level, note)


def candidates(
    captions: Sequence[str], pool: Sequence[str], rng: RngSource = 0, *, count: int = 20, near: float = 0.5
) -> list[list[str]]:
    """For each caption: itself first, then others of the pool, all different, `count` in all.

    Args:
        near: share of the others that have the most words in common with it, chance deciding between equals; the rest
            are drawn at random. A *wrong* caption is found more seldom than by chance where some are near: one of its
            near misses is nearer to x.

    Raises:
        ValueError: the pool has fewer than `count` different captions, or `near` is no share.
    """
    others, rng = list(dict.fromkeys([*pool, *captions])), Rng(rng)
    if not 2 <= count <= len(others) or not 0 <= near <= 1:
        raise ValueError(
            f"candidates: got count={count}, near={near} and {len(others)} different captions; expected 2 .. "
            f"{len(others)} and a share."
        )
    place, bags = {c: k for k, c in enumerate(others)}, _bags_of_words(others)
    found, close = [], round(near * (count - 1))
    for caption in captions:
        chance = rng.uniform((len(others),)).numpy()
        common = bags @ bags[place[caption]]
        order = np.argsort(-(common + 0.5 * chance), kind="stable")
        order = order[order != place[caption]]
        rest = order[close:][np.argsort(rng.uniform((len(order) - close,)).numpy())]
        chosen = [*order[:close], *rest[: count - 1 - close]]
        found.append([caption, *(others[k] for k in chosen)])
    return found


def _numbers(x: ArrayLike) -> Tensor:
    """x as a tensor; bytes stay bytes, as sets of pictures are large."""
    a = x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(x)))
    a = a if a.dtype == torch.uint8 else a.float()
    if a.ndim < 2 or not len(a) or not bool(torch.isfinite(a).all()):
        raise ValueError(f"Retrieval: got shape {tuple(a.shape)} with NaN or no rows; expected finite (N, *event).")
    return a


def _words(text: str) -> list[str]:
    """The words of a caption. Raises ValueError where there is none."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    if not words:
        raise ValueError(f"caption {text!r} has no words; describe the row, or leave it out.")
    return words


def _parts(text: str) -> list[str]:
    """The words of a caption, then its pairs of neighbours."""
    words = _words(text)
    return [*words, *(f"{a} {b}" for a, b in zip(words[:-1], words[1:], strict=True))]


def _symbols(texts: Sequence[str], rare: int) -> dict[str, int]:
    """All words, and the pairs that are not rare, numbered."""
    counts: Counter[str] = Counter()
    for text, times in Counter(texts).items():
        counts.update(dict.fromkeys(_parts(text), times))
    kept = sorted(s for s, n in counts.items() if n >= rare or " " not in s)
    return {s: k for k, s in enumerate(kept)}


def _bags_of_words(texts: Sequence[str]) -> Array:
    """Which words each text has, (N, words)."""
    split = [_words(t) for t in texts]
    known = {w: k for k, w in enumerate(sorted({w for row in split for w in row}))}
    bags = np.zeros((len(texts), len(known)), np.float32)
    for bag, row in zip(bags, split, strict=True):
        bag[[known[w] for w in row]] = 1
    return bags


class _Seen(nn.Module):
    """Pictures (N, H, W, C) as convolutions want them, and beside them how far each pixel is from the median colour."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        # this one map shows shapes whatever their colours, so that they are learnt from many fewer pairs
        away = (x - x.flatten(2).median(2).values[:, :, None, None]).square().mean(1, keepdim=True).sqrt()
        return torch.cat([x, away / (away.square().mean((2, 3), keepdim=True).sqrt() + 0.1)], 1)


class _Pooled(nn.Module):
    """Where things are, (N, 16 C) on a grid, and what there is anywhere, (N, C)."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([F.adaptive_avg_pool2d(h, 4).flatten(1), h.amax((2, 3))], 1)


def _net(event: tuple[int, ...], width: int, symbols: int) -> nn.Module:
    if len(event) != 3:
        size = int(np.prod(event))
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 4 * width), nn.GELU(), nn.Linear(4 * width, symbols))
    layers: list[nn.Module] = [_Seen()]
    for a, b, stride in ((event[2] + 1, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 1)):
        layers += [nn.Conv2d(a, b, 3, stride, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    layers += [_Pooled(), nn.Linear(68 * width, 4 * width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(4 * width, symbols))
