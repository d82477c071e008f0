"""Pictures: samples, nearest training rows, completions and extremes of picture data, pixel by pixel.

    sheet (N, H, W, C) -> one image, `columns` wide, white between; dark data is ink on paper, as in `Image.draw`

Offers `samples`, `neighbours`, `completions`, `extremes`: HTML of each for every family that has the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.style import HOLE
from pofx.kinds.base import Space
from pofx.reporting.evidence import Evidence, Nearest
from pofx.reporting.numbers import shown
from pofx.reporting.style import escape, figure, missing, name_of, picture

SIDE = 320  # pixels of width that a sheet should have at least
ROW, COLUMNS, FEWER = 12, 10, 8


def sheet(x: Tensor, space: Space, columns: int, holes: Tensor | None = None) -> np.ndarray:
    """Pictures `(N, H, W, C)` as one array of bytes `(H', W', 3)`; what is hidden is tinted."""
    colour = _coloured(x, space)
    if holes is not None:
        hidden = holes.any(-1).cpu().numpy()
        colour[hidden] = HOLE
    n, h, w, _ = colour.shape
    scale = max(1, round(SIDE / (columns * w)))
    colour = colour.repeat(scale, 1).repeat(scale, 2)
    gap = max(1, scale * min(h, w) // 5)
    h, w, rows = h * scale, w * scale, -(-n // columns)
    out = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, dtype=np.uint8)
    for k, one in enumerate(colour):
        top, left = (k // columns) * (h + gap), (k % columns) * (w + gap)
        out[top : top + h, left : left + w] = one
    return out


def samples(seen: Evidence) -> str:
    """Real pictures first, then samples of every family, the same number."""
    count, space = ROW * 4, seen.data.space
    real = picture(sheet(seen.test.x[:count], space, ROW), "held-out pictures")
    panels = [f'<div class="panel"><h4>real, held out</h4>{real}</div>']
    for name, tensors in seen.answered("samples"):
        body = picture(sheet(tensors["samples"][:count], space, ROW), f"samples of {name}")
        panels.append(f'<div class="panel"><h4>{name_of(name, seen.colours)}{_tag(seen, name)}</h4>{body}</div>')
    return figure(
        f'<div class="grid">{"".join(panels)}</div>',
        "Uncurated: the first draws of every family, beside held-out pictures. Look for strokes that end "
        "nowhere, speckle between strokes, and pictures that repeat.",
    )


def neighbours(seen: Evidence) -> str:
    """The samples that lie nearest to a training row, each above that row; held-out rows show what is normal."""
    held = seen.nearest(seen.test.x)
    strips = [_pairs(seen, "real, held out", seen.test.x, held, f"median distance of all {shown(held.median, 2)}")]
    for name, tensors in seen.answered("samples"):
        found = seen.nearest(tensors["samples"])
        label = name_of(name, seen.colours) + _tag(seen, name)
        strips.append(
            _pairs(seen, label, tensors["samples"], found, f"median distance of all {shown(found.median, 2)}")
        )
    return figure(
        f'<div class="strips">{"".join(strips)}</div>',
        "Upper row: the ten draws nearest to any training picture, nearest first. Lower row: that training picture. "
        "The number is the root mean square difference of a pixel, in levels; 0 is a copy. Held-out pictures "
        "are real and "
        "new, so distances as small as theirs are no sign of copying; much smaller ones are.",
    )


def completions(seen: Evidence, rows: int = COLUMNS, draws: int = 3) -> str:
    """Pictures with a hole, and what every family draws into it."""
    done = seen.answered("imputed")
    if not done:
        return missing("No family completed anything.")
    space, holes = seen.data.space, done[0][1]["holes"][:rows]
    x = seen.test.x[:rows]
    lines = [
        ("<b>original</b>", picture(sheet(x, space, rows), "original pictures")),
        ("<b>what was shown</b>", picture(sheet(x, space, rows, holes), "pictures with a hole")),
    ]
    for name, tensors in done:
        drawn = tensors["imputed"][:draws, :rows].flatten(0, 1)
        lines.append((name_of(name, seen.colours), picture(sheet(drawn, space, rows), f"completions by {name}")))
    body = "".join(f"<div>{label}</div><div>{image}</div>" for label, image in lines)
    return figure(
        f'<div class="rows">{body}</div>',
        "Rows below the hole: three draws from p(missing given observed) a family, in the column of their picture. "
        "Draws of one picture should differ where the shown part leaves a choice, and join it without a seam.",
    )


def extremes(seen: Evidence, count: int = FEWER) -> str:
    """The most and the least likely held-out pictures of every family."""
    strips = []
    for name, tensors in seen.answered("log_p"):
        order = _order(tensors["log_p"])
        if len(order) < 2 * count or name in seen.flat:
            continue
        parts = []
        for words, rows in (("most likely", order[:count]), ("least likely", order[-count:].flip(0))):
            image = picture(sheet(seen.test.x[rows], seen.data.space, count), f"{words} pictures by {name}")
            ticks = [shown(float(tensors["log_p"][r]), 0) for r in rows]
            parts.append(f"<h4>{words}</h4>{image}{_ticks(ticks)}")
        quality = escape(seen.row(name).get("quality") or "")
        head = f"<h4>{name_of(name, seen.colours)}<span>log p in nats, {quality}</span></h4>"
        strips.append(
            f'<div class="strip">{head}<div class="two">{"".join(f"<div>{p}</div>" for p in parts)}</div></div>'
        )
    if not strips:
        return missing("No family has a log p to sort by.")
    return figure(
        f'<div class="strips wide">{"".join(strips)}</div>',
        "Held-out pictures sorted by each family's own log p. Likely ones tend to be plain, with few pixels of "
        "ink; unlikely "
        "ones are bold or unusual. That a density prefers simple x is known, and is why log p alone is a poor "
        "outlier test.",
    )


def _coloured(x: Tensor, space: Space) -> np.ndarray:
    white, values = space.meta.get("white", 255), x.detach().cpu().numpy().astype(np.float64)
    grey = values[..., :1] if values.shape[-1] not in (1, 3) else values
    share = np.clip(grey / white, 0, 1)
    if share.shape[-1] == 1:
        ink = space.variables[0].mean < 0.4 * white
        share = np.repeat(1 - share if ink else share, 3, -1)
    return (255 * share).round().astype(np.uint8)


def _pairs(seen: Evidence, label: str, x: Tensor, found: Nearest, note: str) -> str:
    rows = found.distance.argsort()[:COLUMNS]
    both = torch.cat([x[rows], seen.train.x[found.index[rows]]])
    image = picture(sheet(both, seen.data.space, len(rows)), "draws above their nearest training pictures")
    ticks = _ticks([shown(float(found.distance[r]), 2) for r in rows])
    return f'<div class="strip"><h4>{label}<span>{note}</span></h4>{image}{ticks}</div>'


def _ticks(words: Sequence[str]) -> str:
    cells = "".join(f"<span>{w}</span>" for w in words)
    return f'<div class="ticks" style="grid-template-columns:repeat({len(words)},1fr)">{cells}</div>'


def _tag(seen: Evidence, name: str) -> str:
    row = seen.row(name)
    copy = ' <span class="tag copy">COPY</span>' if row.get("copying") else ""
    return copy + ("<span>baseline</span>" if row.get("baseline") else "")


def _order(log_p: Tensor) -> Tensor:
    rows = torch.isfinite(log_p).nonzero().squeeze(1)
    return rows[log_p[rows].argsort(descending=True)]
