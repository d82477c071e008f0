"""The kinds of data. A new kind is one file and one line here."""

from __future__ import annotations

from pofx.kinds.array import Array
from pofx.kinds.base import Kind
from pofx.kinds.image import Image
from pofx.kinds.series import Series
from pofx.kinds.table import Table
from pofx.kinds.text import Text

# the first that reads a source has it, so a kind that knows its own by sight stands before one that takes any
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Series(),
        Table(),
        Image(),
        Text(),
        Array(),
    )
}
