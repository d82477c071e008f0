"""Diagrams: a family's computation as boxes and arrows, drawn from data.

    edges = (("x", "encoder"), ("encoder", "q(z | x)"), ...)   ->   SVG, left to right, a cycle as an arc below

A family may declare its own edges in the class attribute `diagram`: (from, to) or (from, to, words on the arrow).
Otherwise the words of its card choose a sketch, and a family that no sketch knows shows its submodules. A box that is
named like a submodule states the numbers learnt there and its layer sizes, read from the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pofx.drawing.style import BRANCH, INK, MUTED, SOFT
from pofx.model import Card, Model
from pofx.reporting.numbers import shown
from pofx.reporting.style import escape, text_width

Edge = tuple[str, ...]
GAP, HEIGHT, LEVEL, TOP = 44.0, 40.0, 70.0, 16.0


@dataclass(frozen=True)
class Sketch:
    """How families with some word on their card compute: edges, and which submodule a box may stand for."""

    words: tuple[str, ...]
    edges: tuple[Edge, ...]
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)


SKETCHES = (
    Sketch(
        ("variational",),
        (("x", "encoder"), ("encoder", "q(z | x)"), ("q(z | x)", "z"), ("N(0, I) to sample", "z"),
         ("z", "decoder"), ("decoder", "p(x | z)")),
    ),
    Sketch(
        ("flow",),
        (("x", "invertible steps"), ("invertible steps", "z"), ("z", "log N(z; 0, I) + log |det J|"),
         ("z", "x", "the inverse of every step: samples")),
        {"invertible steps": ("bijection", "flow", "steps", "layers", "transforms")},
    ),
    Sketch(
        ("autoregressive",),
        (("x before i", "causal network"), ("causal network", "p(x_i | x before i)"), ("p(x_i | x before i)", "x_i"),
         ("x_i", "x before i", "one entry after the other: samples")),
        {"causal network": ("body", "net", "network", "transformer")},
    ),
    Sketch(
        ("diffusion", "bound", "denois"),
        (("u", "u_t = u + sigma e"), ("noise e", "u_t = u + sigma e"), ("u_t = u + sigma e", "denoiser", "and sigma"),
         ("denoiser", "E[u | u_t]"), ("E[u | u_t]", "u_t = u + sigma e",
         "a little less noise, again and again: samples")),
        {"denoiser": ("net", "body", "network", "unet")},
    ),
    Sketch(
        ("energy",),
        (("u", "energy network"), ("energy network", "E(u)"), ("E(u)", "p(u) = exp(-E(u)) / Z"),
         ("E(u)", "u", "Langevin steps downhill with noise: samples")),
        {"energy network": ("body", "net", "network", "energy")},
    ),
    Sketch(
        ("direct", "gan"),
        (("z ~ N(0, I)", "generator"), ("generator", "made-up x"), ("made-up x", "critic"), ("real x", "critic"),
         ("critic", "real or made up?")),
    ),
    Sketch(
        ("kernel", "training rows"),
        (("training row i", "kernel around it"), ("kernel around it", "p(x) = mean over i"),
         ("p(x) = mean over i", "x", "draw")),
    ),
    Sketch(("mixture",), (("k ~ pi", "component k"), ("component k", "p(x | k)"), ("p(x | k)", "p(x) = sum over k"))),
    Sketch(
        ("linear",),
        (("z ~ N(0, I)", "u = m + L z"), ("u = m + L z", "u ~ N(m, L L^T)"),
         ("u ~ N(m, L L^T)", "z ~ N(0, I)", "z = L^-1 (u - m): log p, encode")),
    ),
)  # fmt: skip


def diagram(model: Model | None, card: Card, edges: Sequence[Edge] = ()) -> str:
    """The SVG of a family: its own edges, else a sketch by its card, else its submodules; "" where nothing is known."""
    core = None if model is None else model.core
    sketch = sketch_of(card)
    edges = tuple(edges) or tuple(getattr(type(core), "diagram", ())) or (sketch.edges if sketch else ())
    if edges:
        return _drawn(edges, _notes(core, edges, sketch))
    return _boxes(core) if core is not None else ""


def sketch_of(card: Card) -> Sketch | None:
    """The first sketch with a word that the card's branch, then its architecture, holds."""
    for text in (" ".join(card.branch).lower(), card.architecture.lower()):
        for sketch in SKETCHES:
            if any(w in text for w in sketch.words):
                return sketch
    return None


def sizes(module: nn.Module) -> str:
    """The layers in a few words: widths of a plain chain of Linear layers, else counts by type."""
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    chain = [m for m in layers if isinstance(m, nn.Linear)]
    linked = all(a.out_features == b.in_features for a, b in zip(chain[:-1], chain[1:], strict=True))
    if chain and len(chain) == len(layers) and linked and len(chain) <= 5:
        return " → ".join(str(s) for s in (chain[0].in_features, *(m.out_features for m in chain)))
    counts: dict[str, int] = {}
    for layer in layers:
        word = "linear" if isinstance(layer, nn.Linear) else "convolution"  # a masked one is one, too
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{n} {word}{'s' * (n > 1 and word != 'linear')}" for word, n in counts.items())


def parts_of(core: nn.Module) -> list[tuple[str, str, int, str]]:
    """(name, class, numbers learnt, layers) of every top-level submodule and loose tensor that holds any."""
    found = [(n, type(m).__name__, _count(m), sizes(m)) for n, m in core.named_children() if _count(m)]
    loose = [(n, p) for n, p in core.named_parameters(recurse=False)]
    if not found and not loose:  # a closed form keeps what it learnt in buffers
        loose = [(n, b) for n, b in core.named_buffers() if b.numel()]
    return found + [(n, "tensor", t.numel(), " x ".join(map(str, t.shape))) for n, t in loose]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _notes(core: nn.Module | None, edges: Sequence[Edge], sketch: Sketch | None) -> dict[str, list[str]]:
    """Box -> what is written below its name."""
    if core is None:
        return {}
    children, notes = dict(core.named_children()), {}
    for node in dict.fromkeys(n for e in edges for n in e[:2]):
        names = (node, *(sketch.parts.get(node, ()) if sketch else ()))
        child = next((children[n] for n in names if n in children), None)
        if child is not None and _count(child):
            notes[node] = [f"{shown(_count(child), 0)} weights", *([sizes(child)] if sizes(child) else [])]
    return notes


def _layers(edges: Sequence[Edge]) -> tuple[dict[str, int], list[Edge]]:
    """Node -> column by the longest path, and the edges that would turn back."""
    column: dict[str, int] = {}
    back: list[Edge] = []
    forward: list[Edge] = []
    for edge in edges:
        (back if _reaches(forward, edge[1], edge[0]) else forward).append(edge)
    nodes = list(dict.fromkeys(n for e in edges for n in e[:2]))
    for _ in nodes:
        for node in nodes:
            column[node] = max([column.get(e[0], 0) + 1 for e in forward if e[1] == node], default=0)
    for node in nodes:  # a source stands just before what it feeds
        fed = [column[e[1]] for e in forward if e[0] == node]
        if fed and not any(e[1] == node for e in forward):
            column[node] = min(fed) - 1
    return column, back


def _reaches(edges: Sequence[Edge], start: str, goal: str) -> bool:
    seen, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node == goal:
            return True
        seen.add(node)
        todo += [e[1] for e in edges if e[0] == node and e[1] not in seen]
    return False


def _drawn(edges: Sequence[Edge], notes: dict[str, list[str]]) -> str:
    column, back = _layers(edges)
    spots = _spots(column, notes, edges)
    deepest = max(y + h for _, y, _, h in spots.values())
    parts = [_arrow(spots[e[0]], spots[e[1]], e[2] if len(e) > 2 else "") for e in edges if e not in back]
    for k, edge in enumerate(back):
        parts.append(_turn(spots[edge[0]], spots[edge[1]], deepest + 22 + 26 * k, edge[2] if len(edge) > 2 else ""))
    parts += [_node(name, spot, notes.get(name, []), name in notes) for name, spot in spots.items()]
    width = max(x + w for x, _, w, _ in spots.values()) + 4
    height = deepest + (4 + 26 * len(back) if back else 8)
    return _svg(width, height, "".join(parts))


def _spots(
    column: dict[str, int], notes: dict[str, list[str]], edges: Sequence[Edge]
) -> dict[str, tuple[float, float, float, float]]:
    """Node -> (x, y, width, height)."""
    widths = {n: _box_width(n, notes.get(n, [])) for n in column}
    heights = {n: HEIGHT + 15 * len(notes.get(n, [])) for n in column}
    columns = [[n for n in column if column[n] == k] for k in range(max(column.values()) + 1)]
    tallest = max(sum(heights[n] for n in c) + (LEVEL - HEIGHT) * (len(c) - 1) for c in columns)
    spots, x = {}, 4.0
    for k, nodes in enumerate(columns):
        wide = max(widths[n] for n in nodes)
        y = TOP + (tallest - sum(heights[n] for n in nodes) - (LEVEL - HEIGHT) * (len(nodes) - 1)) / 2
        for node in nodes:
            spots[node] = (x + (wide - widths[node]) / 2, y, widths[node], heights[node])
            y += heights[node] + LEVEL - HEIGHT
        said = [text_width(e[2], 11) for e in edges if len(e) > 2 and column[e[0]] == k and column[e[1]] == k + 1]
        x += wide + max([GAP, *(w + 18 for w in said)])
    return spots


def _box_width(name: str, notes: Sequence[str]) -> float:
    return max(text_width(name, 13.5, bold=bool(notes)), *(text_width(n, 11.5) for n in [*notes, ""]), 14.0) + 22


def _node(name: str, spot: tuple[float, float, float, float], notes: Sequence[str], network: bool) -> str:
    x, y, w, h = spot
    radius, fill, stroke = (4, SOFT, INK) if network else (h / 2, "#fff", BRANCH)
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{radius:.0f}" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="1.2"/>',
        _text(x + w / 2, y + HEIGHT / 2 + 5, name, 13.5, INK, 600 if network else 400),
    ]
    parts += [_text(x + w / 2, y + HEIGHT + 3 + 15 * k, note, 11.5, MUTED) for k, note in enumerate(notes)]
    return "".join(parts)


def _arrow(start: tuple[float, float, float, float], end: tuple[float, float, float, float], words: str) -> str:
    x0, y0 = start[0] + start[2], start[1] + start[3] / 2
    x1, y1 = end[0] - 2, end[1] + end[3] / 2
    middle = (x0 + x1) / 2
    line = (
        f'<path d="M{x0:.1f},{y0:.1f} C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1 - 5:.1f},{y1:.1f}" '
        f'fill="none" stroke="{MUTED}" stroke-width="1.3"/>{_head(x1, y1)}'
    )
    return line + (_text(middle, min(y0, y1) - 6 + abs(y1 - y0) / 2, words, 11, MUTED) if words else "")


def _turn(
    start: tuple[float, float, float, float], end: tuple[float, float, float, float], low: float, words: str
) -> str:
    """An arc below, from a later node back to an earlier one."""
    x0, y0, x1, y1 = start[0] + start[2] / 2, start[1] + start[3], end[0] + end[2] / 2, end[1] + end[3] + 2
    line = (
        f'<path d="M{x0:.1f},{y0:.1f} V{low - 8:.1f} Q{x0:.1f},{low:.1f} {x0 - 8:.1f},{low:.1f} H{x1 + 8:.1f} '
        f'Q{x1:.1f},{low:.1f} {x1:.1f},{low - 8:.1f} V{y1 + 6:.1f}" fill="none" stroke="{MUTED}" stroke-width="1.2" '
        f'stroke-dasharray="4 3"/>'
        f'<path d="M{x1 - 4:.1f},{y1 + 7:.1f} L{x1:.1f},{y1:.1f} L{x1 + 4:.1f},{y1 + 7:.1f} Z" fill="{MUTED}"/>'
    )
    return line + (_text((x0 + x1) / 2, low - 5, words, 11, MUTED) if words else "")


def _head(x: float, y: float) -> str:
    return f'<path d="M{x - 7:.1f},{y - 4:.1f} L{x:.1f},{y:.1f} L{x - 7:.1f},{y + 4:.1f} Z" fill="{MUTED}"/>'


def _text(x: float, y: float, words: str, size: float, colour: str, weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="middle" '
        f'fill="{colour}">{escape(words)}</text>'
    )


def _boxes(core: Any) -> str:
    """The top-level submodules in the order they were declared, without arrows: nobody said what feeds what."""
    parts, x, drawn = parts_of(core), 4.0, []
    for name, kind, count, layers in parts[:8]:
        notes = [kind, f"{shown(count, 0)} numbers", *([layers] if layers else [])]
        spot = (x, TOP, _box_width(name, notes), HEIGHT + 15 * len(notes))
        drawn.append(_node(name, spot, notes, True))
        x += spot[2] + 16
    return _svg(x, TOP + HEIGHT + 52, "".join(drawn)) if drawn else ""


def _svg(width: float, height: float, body: str) -> str:
    return (
        f'<svg class="drawing" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="how the family computes">{body}</svg>'
    )
