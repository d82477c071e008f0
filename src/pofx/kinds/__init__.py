"""The kinds of data. A new kind is one file and one line here."""

from __future__ import annotations

from pofx.kinds.array import Array
from pofx.kinds.audio import Audio
from pofx.kinds.base import Kind
from pofx.kinds.image import Image
from pofx.kinds.music import Music
from pofx.kinds.series import Series
from pofx.kinds.shape import Shape
from pofx.kinds.table import Table
from pofx.kinds.text import Text
from pofx.kinds.video import Video

# the last is asked first whether it reads a source: a kind that knows its own by sight stands below one that takes any,
# and a kind of the user's own below all of these
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Array(),
        Text(),
        Image(),
        Table(),
        Audio(),
        Series(),
        Video(),
        Shape(),
        Music(),
    )
}
