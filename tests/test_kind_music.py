"""Music against what went in, the body of intervals against its walk and against transposition."""

import gzip
import json
import wave
import zipfile

import matplotlib
import numpy as np
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.families.autoregressive import Autoregressive
from pofx.kinds import KINDS
from pofx.kinds._scores import as_roll, notes_of, read_scores, write_midi
from pofx.kinds._synth import RATE, rendered
from pofx.kinds.music import END, NONE, PAD, chords_of, roll_of

matplotlib.use("Agg")
MUSIC = KINDS["music"]


def rolls(n=4, seed=0, most=4):
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        roll = np.zeros((int(rng.integers(6, 12)), 88), np.uint8)
        for step in roll:
            step[rng.choice(np.arange(30, 60), rng.integers(0, most + 1), replace=False)] = 1
        roll[0, 40] = 1
        found.append(roll)
    return found


def read(source, **options):
    return open_data(source, options=options, test=0, valid=0)


# --- what is read comes back


def test_rolls_come_back_bit_identical():
    many = rolls()
    data = read(many)
    assert data.kind.name == "music" and data.space.shape[0] == max(map(len, many)) + 1
    assert all(np.array_equal(a, b) for a, b in zip(data.restore(data.x), many, strict=True))
    x, observed = MUSIC.encode(many, data.space)
    assert torch.equal(x, data.x) and bool(observed.all())
    assert type(data.space).from_json(data.space.to_json()) == data.space


def test_chords_stand_from_the_highest_down():
    roll = np.zeros((3, 88), np.uint8)
    roll[0, [10, 30, 20]], roll[2, 87] = 1, 1
    assert chords_of(roll, 3).tolist() == [[30, 20, 10], [NONE] * 3, [87, NONE, NONE]]
    assert np.array_equal(roll_of(chords_of(roll, 3)), roll)


def test_midi_comes_back(tmp_path):
    pytest.importorskip("mido")
    many = rolls(3)
    for hold in (True, False):
        for k, roll in enumerate(many):
            write_midi(tmp_path / f"{k}.mid", roll, step=0.5, hold=hold)
        back, notes = read_scores(tmp_path, 0.5)
        assert not notes and all(np.array_equal(b.roll, r) for b, r in zip(back, many, strict=True))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for k in range(3):
            archive.write(tmp_path / f"{k}.mid", f"{k}.mid")
    assert len(read(tmp_path / "all.zip", step=0.5)) == 3


def test_a_struck_note_is_struck_again_only_where_asked():
    roll = np.zeros((4, 88), np.uint8)
    roll[:3, 5] = 1
    assert notes_of(roll) == [(5, 0, 3)] and notes_of(roll, hold=False) == [(5, 0, 1), (5, 1, 2), (5, 2, 3)]


def test_lists_of_chords_with_their_parts(tmp_path):
    pieces = {"train": [[[60, 64], [62], []]], "valid": [[[60], [61]]], "test": [[[72], [70], [69, 21]]]}
    path = tmp_path / "chords.json.gz"
    path.write_bytes(gzip.compress(json.dumps(pieces).encode()))
    data = read(path)
    codes, space = data.aside["part"]
    assert [space.variables[0].values[k] for k in codes] == ["train", "valid", "test"]
    assert [[list(np.flatnonzero(s) + 21) for s in r] for r in data.restore(data.x)] == [
        [[60, 64], [62], []],
        [[60], [61]],
        [[72], [70], [21, 69]],
    ]


def test_pieces_end_and_windows_do_not():
    many = rolls()
    data = read(many)
    for x, roll in zip(data.x, many, strict=True):
        assert (x[: len(roll)] <= NONE).all() and x[len(roll), 0] == END and (x[len(roll), 1:] == PAD).all()
    cut = read(many, length=3)
    assert cut.x.shape[1:] == (3, 4) and "end" not in cut.space.meta and int(cut.x.max()) <= NONE
    assert len(cut) == sum(len(r) // 3 for r in many)


# --- ABC


def abc(tmp_path, body, key="C", more=""):
    path = tmp_path / "tune.abc"
    path.write_text(f"X:1\nT:one\nM:4/4\nL:1/8\n{more}K:{key}\n{body}\n")
    (score,), _ = read_scores(path, 0.25)
    return [(k + 21, a / 4, b / 4) for k, a, b in notes_of(score.roll)]


def test_abc_pitches_and_lengths(tmp_path):
    assert abc(tmp_path, "C2 c c' C,|z2 D/ E/") == [
        (60, 0, 1), (72, 1, 1.5), (84, 1.5, 2), (48, 2, 2.5), (62, 3.5, 3.75), (64, 3.75, 4),
    ]  # fmt: skip
    assert abc(tmp_path, "F ^F =F|F", key="G") == [(66, 0, 1), (65, 1, 1.5), (66, 1.5, 2)]
    assert abc(tmp_path, "^F F|F") == [(66, 0, 1), (65, 1, 1.5)]  # an accidental lasts a bar
    assert [n[0] for n in abc(tmp_path, "B E A", key="Cm")] == [70, 63, 68]
    assert [n[0] for n in abc(tmp_path, "F C", key="D mix")] == [66, 60]


def test_abc_chords_ties_tuplets_and_broken_rhythm(tmp_path):
    assert abc(tmp_path, "[CEG]2 D2-|D2") == [(60, 0, 1), (64, 0, 1), (67, 0, 1), (62, 1, 3)]
    assert abc(tmp_path, "A>B c<d") == [(69, 0, 0.75), (71, 0.75, 1), (72, 1, 1.25), (74, 1.25, 2)]
    path = tmp_path / "t.abc"
    path.write_text("X:1\nL:1/8\nK:C\n(3CDE F\n")
    (score,), _ = read_scores(path, 1 / 12)
    assert notes_of(score.roll) == [(39, 0, 4), (41, 4, 8), (43, 8, 12), (44, 12, 18)]
    named = abc(tmp_path, '"C"E4 "Am"E4')
    assert {n[0] for n in named} == {64, 48, 52, 55, 57, 60}


# --- bad input


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.mid", b"", "empty"),
        ("a.mid", b"RIFF0000", "expected MThd"),
        ("a.mid", b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0MTrk\x00\x00\x10\x00\x00\x90", "damaged or cut short"),
        ("a.abc", b"no tune", "begins with X:"),
        ("a.abc", b"X:1\nK:C\nCDE $ F\n", "line 3: the glyph '\\$' at column 5"),
        ("a.abc", "X:1\nK:C\nCD 도\n".encode(), "the glyph '도'"),
        ("a.abc", b"X:1\nCDE\n", "before the key"),
        ("a.abc", b"X:1\nK:H\nCDE\n", "the key 'H' is unknown"),
        ("a.abc", b"X:1\nV:2\nK:C\nCDE\n", "several voices"),
        ("a.abc", b"X:1\nK:C\n[CE\n", "not closed"),
        ("a.abc", b"X:1\nK:C\nz4 z4\n", "nothing to learn"),
        ("a.abc", b"X:1\nK:C\nC'''''\n", "beyond the piano"),
        ("a.json", b"[[[60, 61], [200]]]", "step 1: the note 200"),
        ("a.json", b'[[["C"]]]', "expected MIDI numbers"),
        ("a.json", b"[[]]", "no steps"),
    ],
)  # fmt: skip
def test_damaged_files_say_what_is_wrong(tmp_path, name, content, says):
    pytest.importorskip("mido")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        KINDS["music"].read(tmp_path / name)


def test_a_damaged_file_among_good_ones_is_left_out(tmp_path):
    pytest.importorskip("mido")
    for k, roll in enumerate(rolls(3)):
        write_midi(tmp_path / f"{k}.mid", roll)
    whole = (tmp_path / "0.mid").read_bytes()
    (tmp_path / "cut.mid").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.abc").write_text("X:1\nK:C\nCDEF\nX:2\nK:C\n$$\n")
    data = read(tmp_path)
    assert len(data) == 4 and sum("left out" in n for n in data.notes) == 2


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([np.zeros((5, 88), np.uint8)] * 3, "nothing to learn"),
        ([np.full((5, 88), 2, np.uint8)] * 3, "holds 2"),
    ],
)
def test_rolls_that_are_none_are_refused(source, says):
    with pytest.raises(ValueError, match=says):
        read(source)
    with pytest.raises(ValueError, match="roll"):
        as_roll(np.zeros((5, 87)), "it")


def test_asking_about_other_music_is_refused():
    data = read(rolls(most=2), voices=3)
    thick = np.zeros((4, 88), np.uint8)
    thick[0, 40:45] = 1  # five
    with pytest.raises(ValueError, match="5 notes at once"):
        MUSIC.encode([thick], data.space)
    with pytest.raises(ValueError, match="steps; the model knows"):
        MUSIC.encode([np.eye(40, 88, dtype=np.uint8)], data.space)
    with pytest.raises(ValueError, match="voices=4 cannot|voices=2 cannot"):
        read(rolls(), voices=2)
    for option in ({"step": 0}, {"length": -1}):
        with pytest.raises(ValueError, match="expected more than 0"):
            read(rolls(), **option)
    with pytest.raises(ValueError, match="a window of 50 needs"):
        read(rolls(), length=50)


# --- sound and picture


def test_a_key_sounds_at_its_pitch(tmp_path):
    roll = np.zeros((4, 88), np.uint8)
    roll[:, 48] = 1  # A4, 440 Hz
    x = rendered(roll, 0.5).astype(float)
    spectrum = np.abs(np.fft.rfft(x[: 2 * RATE]))
    assert abs(np.argmax(spectrum) / 2 - 440) < 1
    space = read(rolls()).space
    (path,) = MUSIC.write(roll, tmp_path / "a.wav", space)
    with wave.open(str(path)) as file:
        assert file.getframerate() == RATE and abs(file.getnframes() / RATE - 4 * 60 / 90) < 0.5
    with pytest.raises(ValueError, match=r"ends in .mid, .midi, .wav"):
        MUSIC.write(roll, tmp_path / "a.mp3", space)


def test_rolls_are_drawn():
    from matplotlib.figure import Figure

    data, figure = read(rolls()), Figure()
    MUSIC.draw(axes := figure.add_subplot(), data.x, data.space)
    figure.canvas.draw()
    assert len(axes.child_axes) == min(6, len(data.x))
    drawn = [len(child.collections[0].get_segments()) for child in axes.child_axes]
    assert all(n > 0 for n in drawn), drawn


# --- the body of intervals


def small(**more):
    return Autoregressive(width=16, depth=1, dropout=0.0, **more)


def test_the_body_walks_as_it_goes_forward_and_sums_to_one():
    data = read(rolls())
    model = small().build(data.space, seed=1)
    assert model.chosen == "intervals"
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        x = data.x.flatten(1)
        whole = model.net(x, None).unflatten(1, (x.shape[1], -1))
        walk = model.net.walk(len(x))
        for t in range(x.shape[1]):
            alive = x[:, t] != PAD
            y = walk.outputs()
            assert torch.allclose(y[alive], whole[alive, t], atol=1e-5)
            assert torch.allclose(y.logsumexp(1), torch.zeros(len(x)), atol=1e-5)
            walk.put(x[:, t], None)


def test_later_notes_say_nothing():
    data = read(rolls(seed=2))
    model = small().build(data.space)
    x = data.x.flatten(1)[:1]
    other = x.clone()
    other[:, 9:] = (other[:, 9:] + 7) % 80
    with torch.no_grad():
        a, b = (model.net(v, None).unflatten(1, (x.shape[1], -1))[:, :10] for v in (x, other))
    assert torch.equal(a, b)


def test_transposed_music_is_as_likely_but_for_the_height():
    data = read(rolls(seed=3))
    model = small().build(data.space)
    with torch.no_grad():
        model.net.own.weight.zero_()
        model.net.height.zero_()
        walks = [model.net.walk(1), model.net.walk(1)]
        x = data.x.flatten(1)[:1]
        # after the first notes of every voice are known, only distances are left
        for t in range(24):
            y = [w.outputs() for w in walks]
            if t >= 16 and bool((data.x[0, :4] < NONE).all()):
                low, high = (v[:, 10:80].log_softmax(1) for v in (y[0], y[1].roll(-3, 1)))
                assert torch.allclose(low, high, atol=1e-4)
            note = x[:, t]
            walks[0].put(note, None)
            walks[1].put(torch.where(note < NONE, note + 3, note), None)


def test_a_known_voice_comes_back_and_pieces_go_on():
    many = rolls(8, seed=4)
    data = open_data(many, test=1, valid=1)
    model = pofx.fit(data, small(particles=4), budget="3 steps", progress=False)
    x, observed = MUSIC.voice(many[:2], model.space)
    answer = pofx.impute(model, x, observed=observed, draws=2, rng=0)
    assert torch.equal(answer.raw[:, observed], x[observed].expand(2, -1))
    assert not torch.equal(answer.raw[0], answer.raw[1])
    known, mask = MUSIC.past([many[0][:4]], model.space)
    gone_on = MUSIC.restore(pofx.impute(model, known, observed=mask, rng=0).raw[0], model.space)[0]
    assert np.array_equal(gone_on[:4], many[0][:4])
    assert all(r.shape[1] == 88 for r in pofx.sample(model, 2, rng=0).value)
