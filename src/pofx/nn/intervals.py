"""Intervals: notes of several voices, each predicted by its distance from the notes before it.

    x = (T, V): T steps of V notes, from the highest down or voice by voice; codes are keys, then "none" (and endings)
    r   = the last key of the same voice                       the note is x = r + an interval
    h   = perceptron(sum_j E_{v,j}[x_{i-j} - r], tones so far relative to r, place)
    l_k = U[k - r] h + sum_j (g + G h) . S_{v,j}[k - x_{i-j}] + sum_tones C_v[k - tone] + A_{v,k}
    y   = log((1 - a) softmax(l) + sum_s a_s [k = x_{s,v}])    a: how well step s fits in here, for phrases come again

Nothing but A and one small table knows how high the music is, so what is learnt in one key holds in all: a transposed
piece needs no second look. The walk recomputes one note from the codes so far.

References: relative pitch by tied networks (Johnson 2017); harmony by keyed distances (Boulanger-Lewandowski 2012,
arXiv:1206.6392); pointer mixtures (Merity 2016, arXiv:1609.07843).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entries import Causal, Entries, Size, Walk
from .mlp import Modulation

REACH = 36  # semitones beyond which an interval is told as the longest
PAST = 6  # steps whose notes are told
NEAR = 3  # steps whose notes speak to every key by themselves
MIXED = 6  # ways in which they can speak
DECAYS = (0.75, 0.97)  # of the tones so far, a step
BARS = 8  # places within two bars
MIDDLE = 39  # middle C, from which the first notes are told
CLUES = 8  # what is known about a step that might come again


class Intervals(Causal):
    """A perceptron over intervals, tables that speak to every key, and a pointer to steps that fit."""

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        if len(entries.shape) != 2 or not entries.shared or not entries.pitches:
            raise ValueError(
                f"body 'intervals' reads steps of notes (T, V), codes that begin with keys; got shape {entries.shape} "
                f"with {entries.pitches} keys."
            )
        width, depth, dropout, _ = size.over(width=192, depth=2, dropout=0.4)
        self.steps, self.voices = entries.shape
        self.keys, self.codes, self.pad = entries.pitches, entries.levels[0], entries.pad
        self.told, self.near = PAST * self.voices, NEAR * self.voices
        self.names = self.codes - self.keys + 1  # what is no key, and what is before the beginning
        spans = 2 * REACH + 1 + self.names
        self.past = nn.EmbeddingBag(self.voices * self.told * spans, width, mode="sum")
        self.own = nn.Embedding(self.voices * self.keys, width)
        self.place = nn.Embedding(self.voices * BARS, width)
        self.tones = nn.Linear(12 * len(DECAYS) + 1, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.modulate = nn.ModuleList(Modulation(size.c_dim, width) for _ in range(depth))
        self.first = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.last, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.move = nn.Linear(width, 2 * self.keys - 1)
        self.name = nn.Linear(width, self.codes - self.keys)
        self.gate = nn.Linear(width, MIXED)
        self.speak = nn.Parameter(torch.zeros(self.voices, self.near, 2 * self.keys - 1, MIXED))
        self.tonal = nn.Parameter(torch.zeros(self.voices, len(DECAYS), 12))
        self.height = nn.Parameter(torch.zeros(self.voices, self.keys))
        fit = nn.Linear(16, 1)
        self.fits = nn.Sequential(nn.Linear(CLUES, 16), nn.GELU(), fit)
        with torch.no_grad():
            self.past.weight.mul_(0.15)
            self.own.weight.mul_(0.05)
            self.place.weight.mul_(0.1)
            self.move.weight.mul_(0.3)
            self.speak.normal_(0, 0.02)
            fit.bias.fill_(-4.0)  # at first, nothing fits

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, D K) of every note."""
        codes = x.long()
        row, at = (codes != self.pad).nonzero().unbind(1)
        y = self.answer(codes, row, at, None if c is None else c[row])
        out = y.new_zeros(len(x), x.shape[1], self.codes)
        return out.index_put((row, at), y).flatten(1)

    def answer(self, codes: Tensor, row: Tensor, at: Tensor, c: Tensor | None) -> Tensor:
        """Log masses (M, K) of the notes `at` (M,) of rows `row` (M,), from the codes (B, D) before them."""
        voice, steps = at % self.voices, codes.reshape(-1, self.steps, self.voices)
        r, lags = self._reference(steps, row, at), self._lags(codes, row, at)
        tones = self._tones(steps)[row, at // self.voices]
        h = self._context(r, lags, tones, voice, at, c)
        keys = torch.arange(self.keys, device=codes.device)
        moved = self.move(h).gather(1, keys - r[:, None] + self.keys - 1)
        moved = moved + self._spoken(h, lags, voice) + self.height[voice]
        moved = moved + self._tuned(tones, voice)[:, keys % 12]
        log_p = torch.cat([moved, self.name(h)], 1).log_softmax(1)
        return self._pointed(log_p, steps, row, at)

    def _reference(self, steps: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """The last key (M,) of the same voice."""
        own = steps.transpose(1, 2)[row, at % self.voices]
        time = torch.arange(self.steps, device=at.device)
        sounds = (time < (at // self.voices)[:, None]) & (own < self.keys)
        last = torch.where(sounds, time, -1).amax(1)
        found = own.gather(1, last.clamp_min(0)[:, None])[:, 0]
        start = MIDDLE * self.keys // 88 + (self.voices - 1 - 2 * (at % self.voices)) * 4
        return torch.where(last >= 0, found, start.clamp(0, self.keys - 1))

    def _lags(self, codes: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """The codes (M, J) before each note, the nearest first; K before the beginning."""
        place = at[:, None] - 1 - torch.arange(self.told, device=at.device)
        return torch.where(place >= 0, codes[row[:, None], place.clamp_min(0)], self.codes)

    def _tones(self, steps: Tensor) -> Tensor:
        """The share of each tone before every step, (B, T, decays, 12)."""
        sounds = steps < self.keys
        counts = (F.one_hot(torch.where(sounds, steps % 12, 0), 12) * sounds.unsqueeze(-1)).sum(2).float()
        time = torch.arange(self.steps, device=steps.device)
        age = time[:, None] - time - 1
        fade = torch.stack([torch.where(age >= 0, d ** age.clamp_min(0), 0.0) for d in DECAYS])
        summed = torch.einsum("dts,bsk->btdk", fade, counts)
        return summed / (summed.sum(-1, keepdim=True) + 1)

    def _context(self, r: Tensor, lags: Tensor, tones: Tensor, voice: Tensor, at: Tensor, c: Tensor | None) -> Tensor:
        interval = (lags - r[:, None]).clamp(-REACH, REACH) + REACH
        interval = torch.where(lags < self.keys, interval, 2 * REACH + 1 + lags - self.keys)
        slot = voice[:, None] * self.told + torch.arange(self.told, device=at.device)
        spans = 2 * REACH + 1 + self.names
        turn = (torch.arange(12, device=at.device) + r[:, None]) % 12
        turned = tones.gather(2, turn[:, None].expand(-1, len(DECAYS), -1)).flatten(1)
        time = (at // self.voices + 1).float().log()[:, None] / 4
        h = self.past(slot * spans + interval) + self.own(voice * self.keys + r)
        h = h + self.place(voice * BARS + at // self.voices % BARS) + self.tones(torch.cat([turned, time], 1))
        h = self.drop(h)
        for norm, modulate, first, second in zip(self.norms, self.modulate, self.first, self.second, strict=True):
            h = h + self.drop(second(self.drop(F.gelu(first(modulate(norm(h), c))))))
        return self.last(h)

    def _spoken(self, h: Tensor, lags: Tensor, voice: Tensor) -> Tensor:
        """What each near note says to every key, (M, keys)."""
        keys = torch.arange(self.keys, device=h.device)
        table = self.speak[:, :, keys - keys[:, None] + self.keys - 1]  # (voice, lag, note, key, way)
        table = F.pad(table, (0, 0, 0, 0, 0, 1)).flatten(0, 2).flatten(1)  # what is no key says nothing
        slot = voice[:, None] * self.near + torch.arange(self.near, device=h.device)
        rows = slot * (self.keys + 1) + lags[:, : self.near].clamp_max(self.keys)
        said = F.embedding_bag(rows, table, mode="sum").unflatten(1, (self.keys, MIXED))
        return (said @ (1 + self.gate(h)).unsqueeze(-1)).squeeze(-1)

    def _tuned(self, tones: Tensor, voice: Tensor) -> Tensor:
        """What the tones so far say to each of the twelve, (M, 12)."""
        twelve = torch.arange(12, device=tones.device)
        around = self.tonal[:, :, (twelve[:, None] - twelve) % 12]  # (voice, decay, key, tone)
        return torch.einsum("mdt,mdkt->mk", tones, around[voice])

    def _pointed(self, log_p: Tensor, steps: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """A mixture with the notes of earlier steps that fit in here."""
        t, voice, time = at // self.voices, at % self.voices, torch.arange(self.steps, device=at.device)
        all_, clues = steps[row], []
        run = torch.ones(len(at), self.steps, dtype=torch.bool, device=at.device)
        for k in (1, 2, 3):
            then = steps[row, (t - k).clamp_min(0)]
            same = F.pad((all_ == then[:, None]).sum(2), (k, 0))[:, : self.steps].masked_fill((t < k)[:, None], 0)
            run = run & (same == self.voices)
            clues += [run.float(), same / self.voices] if k < 3 else [run.float()]
        above = torch.arange(self.voices, device=at.device) < voice[:, None]
        agree = ((all_ == steps[row, t][:, None]) & above[:, None]).sum(2)
        clues += [(agree == voice[:, None]).float(), agree / voice.clamp_min(1)[:, None]]
        clues += [(t[:, None] - time).clamp_min(1).float().log() / 4]
        score = self.fits(torch.stack(clues, -1)).squeeze(-1).masked_fill(time >= t[:, None], -torch.inf)
        log_a = torch.cat([score, torch.zeros_like(score[:, :1])], 1).log_softmax(1)
        said = all_.gather(2, voice[:, None, None].expand(-1, self.steps, 1)).squeeze(2)
        copied = torch.zeros_like(log_p).scatter_add(1, said, log_a[:, :-1].exp())
        return torch.logaddexp(log_p + log_a[:, -1:], (copied + 1e-12).log())

    def walk(self, rows: int, c: Tensor | None = None) -> IntervalWalk:
        """A walk through the notes of this many pieces."""
        return IntervalWalk(self, rows, c)


class IntervalWalk(Walk):
    """The codes so far are the whole cache."""

    def __init__(self, net: Intervals, rows: int, c: Tensor | None) -> None:
        self.net, self.c, self.t = net, c, 0
        self.codes = torch.zeros(rows, net.steps * net.voices, dtype=torch.long, device=net.speak.device)

    def outputs(self) -> Tensor:
        row = torch.arange(len(self.codes), device=self.codes.device)
        return self.net.answer(self.codes, row, torch.full_like(row, self.t), self.c)

    def put(self, x: Tensor, z: Tensor) -> None:
        self.codes[:, self.t] = x.long()
        self.t += 1

    def reorder(self, rows: Tensor) -> None:
        self.codes, self.c = self.codes[rows], None if self.c is None else self.c[rows]
