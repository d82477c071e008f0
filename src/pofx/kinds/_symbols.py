"""Symbols: what one code of a text stands for: a character, a byte, or a piece of a trained byte-pair encoding.

    codes = symbols.codes(text)           text = symbols.text(codes)           text(codes(t)) == t for every text t

Characters are those of the training text, in the order of Unicode; bytes are 0 .. 255 of UTF-8; pieces are learnt by
the `tokenizers` library over bytes (Sennrich 2016, arXiv:1508.07909), so that no text is unknown to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Words = str | bytes
UNITS = ("character", "byte", "bpe")
UNKNOWN = "\ufffd"  # stands for every rare character, where the user asked for that
NEEDED = "unit='bpe' needs the library tokenizers: pip install 'pofx[text]'"


class Symbols:
    """The symbols of one unit.

    Args:
        unit: one of UNITS.
        values: the character of each code (unit "character").
        tokenizer: the trained tokenizer as JSON (unit "bpe").
    """

    def __init__(self, unit: str, values: Sequence[str] = (), tokenizer: str = "") -> None:
        self.unit, self.values, self.tokenizer = unit, tuple(values), tokenizer
        self.points = np.array([ord(v) for v in self.values], dtype=np.uint32)
        self.pieces = _tokenizer(tokenizer) if unit == "bpe" else None

    @classmethod
    def learnt(cls, unit: str, texts: Sequence[Words], rare: int, vocabulary: int) -> Symbols:
        """The symbols of some texts."""
        if unit == "byte":
            return cls(unit)
        if unit == "bpe":
            return cls(unit, tokenizer=_trained([words(t) for t in texts], vocabulary))
        points, counts = np.unique(_points("".join(words(t) for t in texts)), return_counts=True)
        kept = [chr(p) for p, n in zip(points.tolist(), counts.tolist(), strict=True) if n >= rare]
        return cls(unit, sorted({*kept, UNKNOWN}) if len(kept) < len(points) else kept)

    @property
    def count(self) -> int:
        """K, how many there are."""
        if self.unit == "byte":
            return 256
        return len(self.values) if self.pieces is None else self.pieces.get_vocab_size()

    @property
    def names(self) -> tuple[str, ...]:
        """What the user calls each code."""
        if self.unit == "byte":
            return tuple(f"{b:02x}" for b in range(256))
        return self.values if self.pieces is None else tuple(self.pieces.id_to_token(k) for k in range(self.count))

    def codes(self, text: Words, where: str) -> np.ndarray:
        """The codes of a text.

        Raises:
            ValueError: a character that the training text did not have; the message says which, and `where`.
        """
        if self.unit == "byte":
            return np.frombuffer(text if isinstance(text, bytes) else _utf8(text, where), np.uint8).astype(np.int64)
        if self.pieces is not None:
            return np.array(self.pieces.encode(words(text)).ids, dtype=np.int64)
        points = _points(words(text))
        place = np.searchsorted(self.points, points).clip(max=len(self.points) - 1)
        strange = self.points[place] != points
        if not strange.any():
            return place.astype(np.int64)
        if UNKNOWN in self.values:
            return np.where(strange, self.values.index(UNKNOWN), place).astype(np.int64)
        k = int(np.flatnonzero(strange)[0])
        raise ValueError(
            f"{where}: {chr(int(points[k]))!r} (U+{int(points[k]):04X}) at place {k} is not among the {self.count} "
            "characters of the training text; leave it out, or fit with the option unit='byte' or rare=2."
        )

    def text(self, codes: np.ndarray, kind: str) -> Words:
        """The text of codes, as "str" or "bytes"; bytes that are no UTF-8 come back as U+FFFD in a str."""
        if self.unit == "byte":
            raw = codes.astype(np.uint8).tobytes()
            return raw if kind == "bytes" else raw.decode("utf-8", errors="replace")
        if self.pieces is not None:
            found = self.pieces.decode([int(c) for c in codes], skip_special_tokens=False)
        else:
            found = "".join(self.values[int(c)] for c in codes)
        return found if kind == "str" else found.encode("utf-8", "surrogatepass")


def words(text: Words) -> str:
    """A text as str."""
    return text if isinstance(text, str) else text.decode("utf-8")


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: half a surrogate pair at place {error.start}; it is no character.") from error


def _tokenizer(saved: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(NEEDED) from error
    return Tokenizer.from_str(saved)


def _trained(texts: Sequence[str], vocabulary: int) -> str:
    """A byte-level tokenizer, trained on texts, as JSON."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise ValueError(NEEDED) from error
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made.to_str()
