"""The kinds of data. A new kind is one file and one line here."""

from __future__ import annotations

from pofx.kinds.array import Array
from pofx.kinds.base import Kind
from pofx.kinds.image import Image
from pofx.kinds.table import Table

KINDS: dict[str, Kind] = {k.name: k for k in (Table(), Image(), Array())}
