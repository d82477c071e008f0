"""Style: type and the small pieces of HTML that every section of the page is made of.

Offers `CSS`, `colours_of`, `escape`, `figure`, `missing`, `picture`, `plot`. All pictures become data URIs: one file.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.drawing.style import MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREYS = {"independent": "#8f959c", "copy": "#a9afb5", "uniform": "#c3c8cd"}

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1f2328; font: 16px/1.55 "Source Sans 3", "Source Sans Pro", "Segoe UI",
  "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 36px 28px 72px; }
h1 { font-size: 34px; line-height: 1.2; margin: 0 0 6px; font-weight: 650; letter-spacing: -0.01em; }
h2 { font-size: 24px; margin: 58px 0 8px; padding-top: 14px; border-top: 1px solid #dcdfe3; font-weight: 650; }
h3 { font-size: 18px; margin: 26px 0 6px; font-weight: 650; }
p { max-width: 78ch; margin: 8px 0 12px; }
.lead { font-size: 18px; max-width: 88ch; }
.muted, .note { color: #6a7078; } .note { font-size: 14px; }
nav { margin: 16px 0 0; font-size: 14px; } nav a { margin-right: 16px; white-space: nowrap; }
a { color: #0b5cad; text-decoration: none; } a:hover { text-decoration: underline; }
table { border-collapse: collapse; margin: 10px 0 6px; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 9px; text-align: right; vertical-align: top; border-bottom: 1px solid #e9ebed; }
th { font-weight: 600; border-bottom: 1.5px solid #9aa1a8; vertical-align: bottom; line-height: 1.25; }
th:first-child, td:first-child, .left { text-align: left; }
th small, td small { display: block; font-weight: 400; font-size: 11.5px; color: #6a7078; white-space: nowrap; }
.best { background: #e2f0e4; font-weight: 650; }
.below { color: #a8530f; } .baseline td { color: #848a91; } .baseline td small { color: #9aa1a8; }
.board td, .heat td { white-space: nowrap; } .board td.wrap { white-space: normal; }
.block td { background: #f6f7f8; text-align: left; font-size: 13px; padding: 7px 9px; }
.tag { display: inline-block; padding: 0 7px; border-radius: 9px; font-size: 11.5px; line-height: 18px;
  background: #eceef0; color: #444a51; white-space: nowrap; }
.tag.copy { background: #b3261e; color: #fff; } .tag.proven { background: #dcefdf; color: #1c5a28; }
.tag.experimental { background: #fbe9d3; color: #7d430a; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
.scroll { overflow-x: auto; }
figure { margin: 14px 0 22px; break-inside: avoid; }
figcaption { font-size: 14px; color: #4d535a; max-width: 92ch; margin-top: 6px; }
figure img, .drawing { max-width: 100%; height: auto; display: block; }
svg text { font-family: "Source Sans 3", "Source Sans Pro", "Segoe UI", "Helvetica Neue", Helvetica, Arial,
  "Liberation Sans", sans-serif; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 18px 22px; }
.panel { break-inside: avoid; } .panel h4, .strip h4 { margin: 0 0 4px; font-size: 14px; font-weight: 650; }
.panel h4 span, .strip h4 span { font-weight: 400; color: #6a7078; margin-left: 6px; }
.pixels { image-rendering: pixelated; width: 100%; display: block; }
.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(520px, 1fr)); gap: 18px 34px; }
.strip { break-inside: avoid; } .ticks { display: grid; font-size: 11.5px; color: #6a7078; text-align: center;
  margin-top: 2px; font-variant-numeric: tabular-nums; }
.rows { display: grid; grid-template-columns: 130px minmax(0, 560px); gap: 14px; align-items: center;
  font-size: 13.5px; }
.card { border: 1px solid #dcdfe3; border-radius: 8px; padding: 14px 20px 16px; margin: 16px 0; break-inside: avoid; }
.card h3 { margin-top: 2px; } .card dl { display: grid; grid-template-columns: 110px 1fr; gap: 2px 12px; margin: 8px 0;
  font-size: 14px; align-content: start; } .card dt { color: #6a7078; } .card dd { margin: 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 4px 30px; }
.heat th, .heat td { text-align: center; min-width: 62px; }
.heat td:first-child, .heat th:first-child { text-align: left; }
dl.words { display: grid; grid-template-columns: 150px minmax(0, 1fr); gap: 8px 18px; font-size: 14.5px; }
dl.words dt { font-weight: 650; } dl.words dt small { display: block; color: #6a7078; font-weight: 400; }
dl.words dd { margin: 0; max-width: 88ch; }
.gap { background: #fbeccd; } .filled { background: #fdf6e6; }
code { font: 12.5px/1.4 "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; word-break: break-word; }
pre { font: 12px/1.45 "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; white-space: pre-wrap;
  background: #f6f7f8; padding: 8px 12px; border-radius: 6px; }
.missing { color: #6a7078; font-size: 14px; border-left: 3px solid #dcdfe3; padding-left: 12px; }
@media (max-width: 900px) { main { padding: 20px 14px 48px; } .two, .strips { grid-template-columns: 1fr; }
  h1 { font-size: 27px; } .rows { grid-template-columns: 96px minmax(0, 1fr); } dl.words { grid-template-columns: 1fr; }
  th, td { padding: 4px 6px; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { main { max-width: none; padding: 0; } body { font-size: 12px; } nav { display: none; }
  .lead { font-size: 14px; } h1 { font-size: 25px; }
  .tag { font-size: 8px; line-height: 11px; } .block td { font-size: 10px; }
  h2 { break-after: avoid; margin-top: 30px; } h3 { break-after: avoid; } table { font-size: 9.5px; }
  th, td { padding: 2px 4px; } th small, td small { font-size: 8px; } .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def escape(value: Any) -> str:
    """Text that cannot become markup."""
    return html.escape(str(value), quote=True)


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is drawn, in pixels; generous, so that boxes never cut it."""
    narrow = sum(c in "iljtfr.,:;|!'()[] " for c in text)
    return size * (0.62 if bold else 0.57) * (len(text) - narrow) + size * 0.36 * narrow


def colours_of(known: Sequence[str], present: Sequence[str]) -> dict[str, str]:
    """Family -> colour: the registry's order decides, so that a family keeps its colour from report to report."""
    names = [*known, *(n for n in present if n not in known and n not in GREYS)]
    return {n: PALETTE[i % len(PALETTE)] for i, n in enumerate(names)} | GREYS


def figure(body: str, caption: str) -> str:
    """Something to look at, with a caption that says what to look at."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def missing(text: str) -> str:
    """Says what is not there, where it would have been."""
    return f'<p class="missing">{escape(text)}</p>'


def name_of(family: str, colours: Mapping[str, str]) -> str:
    """A family's name beside a dot of its colour."""
    return f'<span class="dot" style="background:{colours.get(family, MUTED)}"></span>{escape(family)}'


def picture(pixels: np.ndarray, alt: str) -> str:
    """An image tag of an array `(H, W, 3)` of bytes, shown pixel by pixel."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return f'<img class="pixels" alt="{escape(alt)}" src="{_uri(out.getvalue(), "png")}">'


def plot(drawing: Figure, alt: str, vector: bool = True) -> str:
    """An image tag of a matplotlib figure: SVG, or PNG where thousands of points would weigh too much."""
    from matplotlib import rc_context

    out, kind = io.BytesIO(), "svg" if vector else "png"
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "pofx", "font.sans-serif": _fonts()}):
        metadata = {"Date": None, "Creator": None} if vector else {}
        drawing.savefig(out, format=kind, dpi=150, metadata=metadata)
    return f'<img alt="{escape(alt)}" src="{_uri(out.getvalue(), "svg+xml" if vector else "png")}">'


@lru_cache(maxsize=1)
def _fonts() -> list[str]:
    """The page's type, where this machine has it."""
    from matplotlib.font_manager import get_font_names

    known = set(get_font_names())
    wanted = ("Source Sans 3", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
    return [name for name in wanted if name in known]


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
