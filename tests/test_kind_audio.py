"""Audio against what went in; spectra against tones; adaptive prediction against its walk, and against FLAC."""

import io
import math
import struct
import zipfile

import matplotlib
import numpy as np
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.families.autoregressive import Autoregressive
from pofx.kinds import KINDS
from pofx.kinds._sounds import Sound, flac_bytes, write_sound
from pofx.kinds._spectra import Mel, companded, expanded
from pofx.kinds.base import Space
from pofx.nn.adaptive import grid_of, predicted

soundfile = pytest.importorskip("soundfile")
matplotlib.use("Agg")
AUDIO = KINDS["audio"]
RATE = 8000


def tones(n=5, seed=0, bits=16, length=400):
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        t = np.arange(int(rng.integers(length // 2, length)))
        wave = np.sin(t * rng.uniform(0.05, 0.5)) + 0.01 * rng.standard_normal(len(t))
        found.append(np.round(0.3 * wave * 2 ** (bits - 1)).astype(np.int32))
    return found


def folder(path, sounds, suffix="wav", rate=RATE, bits=16, name="{k}_who_{k}"):
    path.mkdir(exist_ok=True)
    for k, x in enumerate(sounds):
        write_sound(path / f"{name.format(k=k)}.{suffix}", x, rate, bits)
    return path


def read(source, **options):
    return open_data(source, options=options, test=0, valid=0)


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# --- what is read comes back


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_files_come_back_bit_identical(tmp_path, suffix, bits):
    many = tones(bits=bits)
    data = read(folder(tmp_path / "a", many, suffix, bits=bits))
    assert data.kind.name == "audio" and data.space.variables[0].levels == 2**bits
    back = [w[o] for w, o in zip(data.restore(data.x), data.observed.numpy(), strict=True)]
    assert same(back, many)
    AUDIO.write(back, tmp_path / "b", data.space)
    assert same([w[o] for w, o in zip(*(lambda d: (d.restore(d.x), d.observed.numpy()))(read(tmp_path / "b")))], many)
    x, observed = AUDIO.encode(many, data.space)
    assert torch.equal(x, data.x) and torch.equal(observed, data.observed)
    assert Space.from_json(data.space.to_json()) == data.space


def test_windows_stand_side_by_side_and_archives_are_folders(tmp_path):
    many = tones()
    path = folder(tmp_path / "a", many)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for p in sorted(path.iterdir()):
            archive.write(p, f"recordings/{p.name}")
    data = read(tmp_path / "a.zip", length=100, names="digit_who_take")
    assert len(data) == sum(-(-len(x) // 100) for x in many)
    assert int(data.observed.sum()) == sum(map(len, many))
    digit, space = data.aside["digit"]
    assert space.variables[0].values == ("0", "1", "2", "3", "4") and len(digit) == len(data)
    assert np.array_equal(np.concatenate([w[o] for w, o in zip(data.restore(data.x), data.observed.numpy())]),
                          np.concatenate(many))  # fmt: skip


def test_mu_law_is_fine_where_sound_is_small():
    x = np.array([0, 1, -1, 100, -100, 32767, -32768])
    codes = companded(x, 16)
    assert (
        codes[0] == 128
        and codes.min() >= 1
        and (np.diff(companded(np.arange(-32768, 32768, 64), 16).astype(int)) >= 0).all()
    )
    every = np.arange(1, 256)
    assert np.array_equal(companded(expanded(every, 16), 16), every)
    wave = np.arange(-32768, 32768, 7)
    error = np.abs(expanded(companded(wave, 16), 16) - wave)
    assert (error <= 0.025 * np.abs(wave) + 5).all()
    data = read(tones(), view="mu-law", rate=RATE)
    assert data.space.variables[0].levels == 256 and data.x.dtype == torch.uint8


# --- spectra


def test_a_tone_stands_in_its_band_and_comes_back_at_its_pitch():
    pytest.importorskip("librosa")
    mel, t = Mel(RATE), np.arange(RATE // 2)
    wave = 0.5 * np.sin(2 * np.pi * 1000 * t / RATE)
    levels = mel.levels_of(wave)
    assert levels.shape == (mel.frames(len(wave)), 32)
    band = int(np.median(levels.argmax(1)))
    centre = (mel.bank[band] * np.arange(129)).sum() / mel.bank[band].sum() * RATE / 256
    assert abs(centre - 1000) < 100
    back = mel.sound(levels)
    peak = np.abs(np.fft.rfft(back * np.hanning(len(back)))).argmax() * RATE / len(back)
    assert abs(peak - 1000) < 60
    loud = [np.sqrt(np.mean(w[1000:3000] ** 2)) for w in (wave, back)]
    assert abs(20 * math.log10(loud[1] / loud[0])) < 4
    inner = levels[3 : len(mel.levels_of(back)) - 3].astype(int)
    assert np.abs(mel.levels_of(back)[3:-3].astype(int) - inner)[inner > 40].mean() < 4
    assert not mel.levels_of(np.zeros(1000)).any()


def test_a_gap_is_mended_and_what_was_known_stays():
    pytest.importorskip("librosa")
    t = np.arange(4000)
    wave = np.round(9000 * np.sin(2 * np.pi * 500 * t / RATE)).astype(np.int32)
    space = read([wave] * 3, view="mel", rate=RATE, length=4000).space
    x, observed = AUDIO.encode([wave], space)
    observed[:, 12:18] = False
    made = AUDIO.complete([wave], x, observed, space)[0]
    lost = np.zeros(4000, bool)
    lost[int(11.5 * 128) : int(17.5 * 128) + 1] = True
    assert np.array_equal(made[~lost], wave[~lost])
    gap = slice(12 * 128, 17 * 128)
    assert 0.3 < np.abs(made[gap]).mean() / np.abs(wave[gap]).mean() < 2
    whole = AUDIO.complete([wave], x, torch.ones_like(observed), space)[0]
    assert np.array_equal(whole, wave)


@pytest.mark.parametrize("view", ["wave", "mu-law", "mel"])
def test_every_view_is_drawn(view):
    from matplotlib.figure import Figure

    data, figure = read(tones(), view=view, rate=RATE), Figure()
    AUDIO.draw(axes := figure.add_subplot(), data.x, data.space)
    figure.canvas.draw()
    shown = [*axes.images, *axes.lines, *axes.collections, *(a for child in axes.child_axes for a in child.images)]
    assert shown, "nothing was drawn"


# --- bad input


def wav(x=(1, 2, 3, 4) * 50, channels=1):
    out = io.BytesIO()
    soundfile.write(out, np.tile(np.array(x, np.int16)[:, None], channels), RATE, format="WAV")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.wav", b"", "empty"),
        ("a.wav", b"not a sound at all, only words", "damaged or no sound"),
        ("a.wav", wav()[:-100], "cut short: 300 of 400 bytes"),
        ("a.wav", wav()[:30], "cut short"),
        ("a.flac", b"fLaC" + b"\x00" * 60, "damaged or no sound"),
        ("a.wav", wav(channels=2), "2 channels; mono=True"),
        ("a.wav", wav([0] * 100), "silent"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        AUDIO.read(tmp_path / name)


def test_a_file_of_no_samples_is_refused(tmp_path):
    head = wav()[:36]
    (tmp_path / "a.wav").write_bytes(head + b"data" + struct.pack("<I", 0))
    with pytest.raises(ValueError, match="cut short|damaged"):
        AUDIO.read(tmp_path / "a.wav")


def test_a_damaged_or_silent_file_among_good_ones_is_left_out(tmp_path):
    path = folder(tmp_path / "a", tones(4))
    (path / "bad.wav").write_bytes(wav()[:-50])
    write_sound(path / "silence.wav", np.zeros(1000, np.int32), RATE)
    data = read(path)
    assert len(data) == 4 and sum("left out" in n for n in data.notes) == 2


def test_mixed_rates_and_widths_name_the_option_that_helps(tmp_path):
    path = folder(tmp_path / "a", tones(3))
    folder(path, tones(1), rate=16000, name="other{k}")
    with pytest.raises(ValueError, match="8000 Hz \\(3\\), 16000 Hz \\(1\\); rate=8000"):
        read(path)
    pytest.importorskip("librosa")
    assert len(read(path, rate=8000)) == 4
    other = folder(tmp_path / "b", tones(3))
    folder(other, tones(1, bits=24), bits=24, name="wide{k}")
    with pytest.raises(ValueError, match="16 bits \\(3\\), 24 bits \\(1\\); bits=24"):
        read(other)
    assert len(read(other, bits=16)) == 4


def test_an_hour_of_silence_and_a_sound_that_is_too_long():
    hour = np.zeros(3600 * RATE, np.int16)
    with pytest.raises(ValueError, match="silent: there is nothing to learn"):
        read([hour], rate=RATE)
    noise = np.random.default_rng(0).integers(-9, 9, 2**18).astype(np.int16)
    with pytest.raises(ValueError, match="say length="):
        read([noise], rate=RATE)
    assert len(read([noise], rate=RATE, length=2**14)) == 16


def test_asking_about_other_sounds_is_refused(tmp_path):
    data = read(tones(), rate=RATE)
    with pytest.raises(ValueError, match="samples; the model knows"):
        AUDIO.encode([np.ones(9999, np.int32)], data.space)
    with pytest.raises(ValueError, match="16000 Hz; the model knows 8000"):
        AUDIO.encode([Sound(np.ones(10, np.int32), 16000, 16)], data.space)
    with pytest.raises(ValueError, match="whole samples"):
        AUDIO.encode([np.ones(10)], data.space)
    with pytest.raises(ValueError, match="expected 16 bits"):
        AUDIO.encode([np.array([40000], np.int32)], data.space)
    with pytest.raises(ValueError, match="do not say their rate"):
        read(tones())
    with pytest.raises(ValueError, match="view is 'phase'"):
        read(tones(), rate=RATE, view="phase")
    with pytest.raises(ValueError, match="given \\['digit'\\]"):
        open_data(folder(tmp_path / "a", tones()), given="digit")
    with pytest.raises(ValueError, match="has 2 parts; the file '0_who_0' has 3"):
        read(tmp_path / "a", names="digit_speaker")


# --- adaptive prediction


def test_a_sine_is_predicted_once_it_was_heard():
    v = torch.sin(torch.arange(300).double() * 0.3).expand(2, -1)
    error = (v - predicted(v, 4, 200.0)).abs()
    assert float(error[:, 100:].max()) < 1e-3 < float(error[:, :8].max())


def test_predictions_do_not_look_ahead():
    v = torch.randn(1, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = v.clone()
    other[:, 41:] += 1
    assert torch.equal(predicted(v, 6, 50.0)[:, :42], predicted(other, 6, 50.0)[:, :42])


def test_unused_bits_are_counted_from_the_past():
    whole = torch.tensor([[0, 16, 48, 8, 0, 1]])
    assert grid_of(whole)[0].tolist() == [[15, 0], [15, 0], [4, 1], [4, 2], [3, 3], [3, 3]]


def test_the_body_walks_as_it_goes_forward():
    data = read([(x // 16) * 16 if k else x for k, x in enumerate(tones(3, length=120))], rate=RATE)
    model = Autoregressive(components=9).build(data.space, seed=3)
    assert model.chosen == "adaptive"
    with torch.no_grad():
        whole = model.net(data.x, None).unflatten(1, (data.space.size, -1))
        walk = model.net.walk(3)
        for t in range(data.space.size):
            assert torch.allclose(walk.outputs(), whole[:, t], atol=1e-4)
            walk.put(data.x[:, t], None)


def test_the_masses_of_a_sample_sum_to_one():
    data = read([x // 128 for x in tones(3, bits=16, length=60)], rate=RATE, bits=9)
    model = Autoregressive(components=8).build(data.space)
    cursor = model.steps(3)
    predictive = cursor.start()
    for t in range(30):
        predictive = cursor.next(data.x[:, t])
    total = predictive.masses(512).sum(1)
    assert torch.allclose(total, torch.ones(3, dtype=total.dtype), atol=1e-4)


def test_flac_counts_what_it_must():
    rng = np.random.default_rng(0)
    noise = rng.integers(-(2**15), 2**15, 20000)
    assert 16 <= 8 * flac_bytes(noise, RATE) / 20000 < 16.3
    assert 8 * flac_bytes(np.zeros(20000, int), RATE) / 20000 < 0.2


@pytest.mark.slow
def test_real_digits_take_fewer_bits_than_flac(data_dir):
    options = {"names": "digit_speaker_take", "length": 2000}
    data = open_data("audio/fsdd/recordings_idx0-9.zip", options=options, limit=200, test=60, valid=10)
    model = pofx.fit(data, Autoregressive(components=20, lr=3e-3), budget="60 steps", seed=0, progress=False)
    test = data.part("test")
    log_p = model.log_prob(test.x, observed=test.observed).value
    ours = -float(log_p.sum()) / math.log(2)
    sounds = [w[o] for w, o in zip(data.restore(test.x), test.observed.numpy(), strict=True)]
    assert ours < 8 * sum(flac_bytes(x, RATE) for x in sounds)
