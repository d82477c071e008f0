"""ABC: tunes in the letters of ABC notation (standard 2.1, one voice) as notes on a line of quarters.

Read: headers X T M L K Q, notes with accidentals that last a bar, octaves, lengths, broken rhythm, rests, chords in
brackets, ties, tuplets, "chord names" (which sound as triads an octave and more below, as they are played). Repeats and
endings are read once, as written; decorations, grace notes, slurs and words are left out. Any other glyph is an error
that says where. Offers `tunes`.
"""

from __future__ import annotations

import re
from fractions import Fraction

Note = tuple[int, float, float]  # MIDI number, first quarter, last quarter
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SHARPS = "FCGDAEB"
MODES = {"maj": 0, "ion": 0, "mix": -1, "dor": -2, "m": -3, "min": -3, "aeo": -3, "phr": -4, "loc": -5, "lyd": 1}
FIFTHS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F": -1}
TUPLETS = {2: 3, 3: 2, 4: 3, 5: 2, 6: 2, 7: 2, 8: 3, 9: 2}
CHORDS = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "dim": (0, 3, 6),
    "maj7": (0, 4, 7, 11),
}
TOKEN = re.compile(
    r"(?P<note>[\^_=]{0,2}[A-Ga-g][,']*)(?P<length>\d*(?:/+\d*)?)|(?P<rest>[zx])(?P<pause>\d*(?:/+\d*)?)"
    r"|(?P<name>\"[^\"]*\")|(?P<open>\[(?=[\^_=A-Ga-g]))|(?P<close>\])(?P<all>\d*(?:/+\d*)?)|(?P<tuplet>\(\d(?::\d*)*)"
    r"|(?P<bar>:*\|[\]|:]*\s*(?:\[?\d(?:[,-]\d)*)?|::|\[\d|\[\|)|(?P<field>\[[A-Za-z]:[^\]]*\])|(?P<broken>[<>]+)|(?P<tie>-)"
    r"|(?P<skip>![^!]*!|\+[^+]*\+|\{[^}]*\}|[()~.TuvHLMOPSy`\s\\])"
)


def tunes(text: str, where: str) -> tuple[list[tuple[str, list[Note], float]], list[str]]:
    """Every tune of a file: its title, its notes and its length in quarters; and what is wrong with the others.

    Raises:
        ValueError: no tune.
    """
    found: list[_Tune] = []
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(?<!\\)%.*", "", line).rstrip()
        header = re.match(r"([A-Za-z]):(.*)", line)
        if header and header[1] == "X":
            found.append(_Tune())
        if not found or not line.strip() or found[-1].broken:
            continue
        try:
            if header:
                found[-1].header(header[1], header[2].strip())
            else:
                found[-1].body(line)
        except ValueError as error:
            found[-1].broken = True
            wrong.append(f"{where}, line {number}: {error}")
    if not found:
        raise ValueError(f"{where} has no tune; expected a line that begins with X:.")
    return [(t.title, t.notes, float(t.now)) for t in found if not t.broken], wrong


class _Tune:
    """What is known while a tune is read, from left to right."""

    def __init__(self) -> None:
        self.title, self.notes, self.now, self.broken = "", list[Note](), Fraction(0), False
        self.unit, self.key = Fraction(0), dict[str, int]()
        self.meter, self.keyed = Fraction(1), False
        self.bar, self.ties = dict[str, int](), dict[int, int]()
        self.factor, self.left, self.next = Fraction(1), 0, Fraction(1)
        self.chord: list[tuple[int, Fraction]] | None = None
        self.last: list[int] = []
        self.harmony: tuple[tuple[int, ...], Fraction] | None = None

    def header(self, name: str, value: str) -> None:
        """A line such as K:Gm."""
        if name == "T" and not self.title:
            self.title = value
        elif name == "L":
            self.unit = _fraction(value) * 4
        elif name == "M":
            self.meter = Fraction(1) if value[:1] in ("C", "n", "") else _fraction(value)
        elif name == "K":
            self.key, self.keyed = _signature(value), True
        elif name == "V":
            raise ValueError(f"V:{value}: several voices; only tunes of one voice are read.")

    def body(self, line: str) -> None:
        """A line of music."""
        if not self.keyed:
            raise ValueError("music before the key; expected K: as the last header.")
        at = 0
        while at < len(line):
            found = TOKEN.match(line, at)
            if found is None:
                raise ValueError(f"the glyph {line[at]!r} at column {at + 1} is not ABC that is read; leave it out.")
            self._take(found)
            at = found.end()
        if self.chord is not None:
            raise ValueError("a chord [ is not closed.")
        self._silence()

    def _take(self, found: re.Match[str]) -> None:
        kind, word = str(found.lastgroup), found[0]
        if found["note"]:
            self._note(found["note"], _length(found["length"]))
        elif found["rest"]:
            self._sound([], _length(found["pause"]))
        elif kind == "open":
            self.chord = []
        elif found["close"]:
            chord, self.chord = self.chord or [], None
            if chord:
                self._sound([pitch for pitch, _ in chord], chord[0][1] * _length(found["all"]))
        elif kind == "bar":
            self.bar = {}
        elif kind == "tuplet":
            self._tuplet(word)
        elif kind == "broken":
            self._broken(word)
        elif kind == "tie" and self.chord is None:
            self.ties = {self.notes[k][0]: k for k in self.last}
        elif kind == "name":
            self._name(word.strip('"'))
        elif kind == "field":
            self.header(word[1], word[3:-1].strip())

    def _note(self, word: str, length: Fraction) -> None:
        mark, letter, octave = re.fullmatch(r"([\^_=]*)([A-Ga-g])([,']*)", word).groups()  # type: ignore[union-attr]
        place = letter.upper() + str(letter.islower()) + octave
        if mark:
            self.bar[place] = mark.count("^") - mark.count("_")
        shift = self.bar.get(place, self.key.get(letter.upper(), 0))
        up = 12 * (letter.islower() + octave.count("'") - octave.count(","))
        pitch = 60 + STEPS[letter.upper()] + up + shift
        if self.chord is not None:
            self.chord.append((pitch, length))
        else:
            self._sound([pitch], length)

    def _sound(self, pitches: list[int], length: Fraction) -> None:
        unit = self.unit or (Fraction(1, 4) if self.meter < Fraction(3, 4) else Fraction(1, 2))
        length = length * unit * self.next
        self.next = Fraction(1)
        if self.left:
            length, self.left = length * self.factor, self.left - 1
        self.last, end, ties, self.ties = [], self.now + length, self.ties, {}
        for pitch in pitches:
            if pitch in ties:  # one note that goes on
                k = ties[pitch]
                self.notes[k] = (pitch, self.notes[k][1], float(end))
            else:
                k = len(self.notes)
                self.notes.append((pitch, float(self.now), float(end)))
            self.last.append(k)
        self.now = end

    def _tuplet(self, word: str) -> None:
        parts = [int(p) if p else 0 for p in word[1:].split(":")]
        p = parts[0]
        q = parts[1] if len(parts) > 1 and parts[1] else TUPLETS.get(p, 0)
        if not q or not p:
            raise ValueError(f"the tuplet {word!r} has no length; expected (2 to (9.")
        self.factor, self.left = Fraction(q, p), parts[2] if len(parts) > 2 and parts[2] else p

    def _broken(self, word: str) -> None:
        more = 2 - Fraction(1, 2 ** len(word))
        first = more if word[0] == ">" else Fraction(1, 2 ** len(word))
        for k in self.last:
            pitch, start, end = self.notes[k]
            end = start + (end - start) * float(first)
            self.notes[k] = (pitch, start, end)
        if self.last:
            pitch, start, end = self.notes[self.last[0]]
            self.now = Fraction(end).limit_denominator(960)
        self.next = 2 - first

    def _name(self, name: str) -> None:
        self._silence()
        found = re.match(r"([A-G])([#b]?)(maj7|m7|dim|m|7)?", name)
        if found and not name.startswith(("^", "_", "<", ">", "@")):
            root = 48 + (STEPS[found[1]] + (found[2] == "#") - (found[2] == "b")) % 12
            self.harmony = tuple(root + k for k in CHORDS[found[3] or ""]), self.now

    def _silence(self) -> None:
        """The chord by name sounds until now."""
        if self.harmony is not None and self.now > self.harmony[1]:
            pitches, start = self.harmony
            before = len(self.notes)
            self.notes += [(p, float(start), float(self.now)) for p in pitches]
            assert len(self.notes) == before + len(pitches)
            self.harmony = (pitches, self.now)


def _length(word: str) -> Fraction:
    """3/2, /2, /, // or nothing."""
    if not word:
        return Fraction(1)
    top, slash, under = word.partition("/")
    halves = under.count("/") + 1 if slash and not under.strip("/") else 0
    bottom = 2**halves if halves else int(under.strip("/") or 1) if slash else 1
    if not bottom or (top and not int(top)):
        raise ValueError(f"the length {word!r} is none; expected something like 3/2.")
    return Fraction(int(top or 1), bottom)


def _fraction(word: str) -> Fraction:
    found = re.match(r"(\d+)(?:/(\d+))?", word)
    if not found or not int(found[1]) or (found[2] and not int(found[2])):
        raise ValueError(f"got {word!r}; expected a fraction such as 1/8.")
    return Fraction(int(found[1]), int(found[2] or 1))


def _signature(word: str) -> dict[str, int]:
    """Letter -> -1, 0 or 1 of a key such as Gm, F#mix or D dorian."""
    if not word or word.lower().startswith(("none", "hp")):
        return {}
    found = re.match(r"([A-G])([#b]?)\s*([A-Za-z]*)", word)
    if not found:
        raise ValueError(f"the key {word!r} is unknown; expected something like G, Am or F#mix.")
    mode = found[3].lower()
    change = MODES.get(mode[:3], MODES.get(mode, 0 if not mode else None))  # type: ignore[arg-type]
    if change is None:
        raise ValueError(f"the mode {found[3]!r} is unknown; expected one of {', '.join(MODES)}.")
    fifths = FIFTHS[found[1]] + 7 * ((found[2] == "#") - (found[2] == "b")) + change
    if abs(fifths) > 7:
        raise ValueError(f"the key {word!r} has {abs(fifths)} sharps or flats; expected 7 at most.")
    marked = SHARPS[:fifths] if fifths >= 0 else SHARPS[fifths:]
    return dict.fromkeys(marked, 1 if fifths > 0 else -1)
