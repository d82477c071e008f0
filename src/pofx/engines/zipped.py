"""Zipped: how many nats a general-purpose compressor needs for each x.

    L(x) = min over compressors of  8 ln 2 (bytes of its code of x)

deflate, bzip2 and LZMA on the bytes, and for pictures PNG and lossless WebP as well. What they need is a rough upper
bound of the complexity of x, the same whatever a model has learnt. Offers `code_nats`. Nothing is fitted.
Reference: Serra et al. 2020 (arXiv:1909.11480).
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DICTIONARY = 2**16  # one x is small, and a larger window costs more than it finds
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": DICTIONARY}]
BYTES: tuple[Callable[[bytes], bytes], ...] = (
    lambda raw: zlib.compress(raw, 9),
    lambda raw: bz2.compress(raw, 9),
    lambda raw: lzma.compress(raw, lzma.FORMAT_RAW, filters=FILTERS),
)


def code_nats(levels: Array) -> Array:
    """Nats of the shortest code of each row of whole numbers, float64 `(N,)`; a row's does not depend on the others.

    Args:
        levels: `(N, *event)` of an integer dtype; an event (H, W, 1) or (H, W, 3) of uint8 is a picture.

    Raises:
        ValueError: the dtype is not an integer's.
    """
    levels = np.asarray(levels)
    if levels.dtype.kind not in "iu":
        raise ValueError(f"code_nats: got numbers of dtype {levels.dtype}; expected levels, of an integer dtype.")
    picture = levels.dtype == np.uint8 and levels.ndim == 4 and levels.shape[-1] in (1, 3)
    lengths = [min(map(len, _codes(np.ascontiguousarray(row), picture))) for row in levels]
    return np.array(lengths, dtype=np.float64) * 8 * math.log(2)


def _codes(row: Array, picture: bool) -> Iterator[bytes]:
    raw = row.tobytes()
    yield from (compress(raw) for compress in BYTES)
    if picture:
        from PIL import Image

        image = Image.fromarray(row.squeeze(-1) if row.shape[-1] == 1 else row)
        png, webp = io.BytesIO(), io.BytesIO()
        image.save(png, "PNG", optimize=True)
        image.save(webp, "WEBP", lossless=True, quality=50)
        yield from (png.getvalue(), webp.getvalue())
