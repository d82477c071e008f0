"""Text against what went in, END and PAD against sums over all documents, bits against closed forms."""

import gzip
import itertools
import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.kinds._symbols import UNKNOWN
from pofx.kinds.base import Space
from pofx.kinds.ending import Ending
from pofx.metrics.text import bits_per_symbol
from pofx.randomness import Rng

matplotlib.use("Agg")

DOCUMENTS = ["hello world", "help", "", "held by\nthe sea", "안녕 세계", "naïve 🙂"]
TEXT = KINDS["text"]


def read(source, **options):
    return open_data(source, kind="text", options=options, test=0, valid=0)


# --- what is read comes back


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_documents_come_back_as_they_went_in(unit):
    data = read(DOCUMENTS, unit=unit)
    assert data.restore(data.x) == DOCUMENTS
    x, observed = TEXT.encode(DOCUMENTS, data.space)
    assert torch.equal(x, data.x) and bool(observed.all())
    assert Space.from_json(data.space.to_json()) == data.space


def test_bytes_come_back_as_bytes():
    documents = [b"\x00\xff\xfe", b"", b"abc"]
    data = read(documents, unit="byte")
    assert data.restore(data.x) == documents


def test_pieces_of_any_script_come_back(tmp_path):
    pytest.importorskip("tokenizers")
    documents = [*DOCUMENTS, *["hello hello help"] * 20]
    data = read(documents, unit="bpe", vocabulary=300, length=60)
    assert data.restore(data.x) == documents
    fresh = ["한국어 never seen <end>", "hello"]
    x, _ = TEXT.encode(fresh, data.space)
    assert TEXT.restore(x, data.space) == fresh
    assert int(Ending.of(data.space).lengths(x)[1]) < 5  # learnt pieces are longer than letters
    data.save(tmp_path / "data")
    assert type(data).load(tmp_path / "data").restore(data.x) == documents


def test_without_the_library_pieces_are_refused_in_words(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ValueError, match="pip install"):
        read(DOCUMENTS, unit="bpe")


def test_a_stream_is_windows_and_its_parts_share_no_symbol(tmp_path):
    text = "".join(chr(97 + int(k)) for k in Rng(0).integers(26, (1000,)))
    (tmp_path / "a.txt").write_text(text)
    raw = TEXT.read(tmp_path / "a.txt", length=20, stride=7)
    assert TEXT.restore(raw.x, raw.space) == [text[s : s + 20] for s in raw.start.tolist()]
    data = open_data(tmp_path / "a.txt", options={"length": 20, "stride": 7}, test=0.2, valid=0.1)
    ends = {part: (raw.start[rows].min(), raw.start[rows].max() + 20) for part, rows in data.split.items()}
    assert ends["train"][1] <= ends["valid"][0] and ends["valid"][1] <= ends["test"][0]


def test_files_folders_tables_and_lines(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for k, text in enumerate(["one\r\ntwo", "three", "four"]):
        (folder / f"{k}.txt").write_bytes(text.encode())
    data = open_data(folder, test=0, valid=0)
    assert data.restore(data.x) == ["one\r\ntwo", "three", "four"]
    with gzip.open(tmp_path / "names.txt.gz", "wt") as file:
        file.write("anna\nbert\n\ncarl\n")
    data = read(tmp_path / "names.txt.gz", form="lines")
    assert data.restore(data.x) == ["anna", "bert", "", "carl"]
    (tmp_path / "t.tsv").write_text('label\tdocument\n1\tso "good\n0\tbad\n1\tfine, thanks\n')
    data = open_data(tmp_path / "t.tsv", kind="text", given="label", test=0, valid=0)
    assert data.restore(data.x) == ['so "good', "bad", "fine, thanks"]
    assert data.given["label"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("rows", [["a?b", "ab"], ("a?b", "ab"), np.array(["a?b", "ab"]), pd.Series(["a?b", "ab"])])
def test_types_come_back_as_they_went_in(rows):
    data = read(["a?b", "ab", "b"] * 5)
    model = pofx.fit(data, "ngram", progress=False)
    gaps = type(rows)(["a█b", "ab"]) if isinstance(rows, (list, tuple)) else rows.copy()
    if not isinstance(rows, (list, tuple)):
        gaps[0] = "a█b"
    value = pofx.impute(model, gaps, rng=0).value[0]
    assert type(value) is type(rows) and len(value[0]) == 3 and value[0][0] == "a" and value[0][2] == "b"
    assert value[1] == "ab"
    assert isinstance(pofx.forecast(model, "a", rng=0).value[0], str)
    assert pofx.impute(model, "a█b", rng=0).value[0][::2] == "ab"


# --- the length is part of x


def every_document(letters, longest):
    return ["".join(w) for n in range(longest) for w in itertools.product(letters, repeat=n)]


def cut_documents(letters, longest):
    return ["".join(w) for w in itertools.product(letters, repeat=longest)]


@pytest.mark.parametrize("family", ["ngram", "autoregressive"])
def test_probabilities_sum_to_one_over_all_documents(family):
    data = read(["a", "ab", "ba", "abb", "", "a"] * 10)
    model = pofx.fit(data, family, budget="20 steps", threads=1, progress=False)
    whole = every_document("ab", 4) + cut_documents("ab", 4)
    assert data.space.shape == (4,)
    x, _ = TEXT.encode(whole, data.space)
    log_p = model.log_prob(x).value.detach()
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    wrong = x[whole.index("a")].clone()
    wrong[3] = 0  # a letter after END
    early = torch.tensor([0, data.space.meta["pad"], data.space.meta["end"], data.space.meta["pad"]])  # PAD before END
    assert model.log_prob(torch.stack([wrong, early])).value.tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("family", ["ngram", "autoregressive"])
def test_steps_agree_with_log_prob_and_draws_with_probabilities(family):
    data = read(["a", "ab", "ba", "abb", "", "a"] * 10)
    model = pofx.fit(data, family, budget="20 steps", threads=1, progress=False)
    x, cursor = data.x[:6], model.steps(6)
    ahead, total = cursor.start(), torch.zeros(6, dtype=torch.float64)
    for t in range(4):
        total += ahead.log_prob(x[:, t : t + 1])[:, 0].double()
        ahead = cursor.next(x[:, t])
    assert torch.allclose(total, model.log_prob(x).value, atol=1e-5)
    drawn = pofx.sample(model, 4000, rng=1).value
    p = float(model.log_prob(TEXT.encode(["ab"], data.space)[0]).value.detach().exp())
    z = (sum(t == "ab" for t in drawn) - 4000 * p) / math.sqrt(4000 * p * (1 - p))
    assert abs(z) < 5


def test_an_ngram_counts_no_pad():
    short, long = (
        pofx.fit(read(["ab", "ba"] * 8, length=n), "ngram", progress=False, hyper_parameters={"smoothing": s})
        for n, s in ((4, "witten-bell"), (40, "witten-bell"))
    )
    one, two = (m.log_prob(TEXT.encode(["ab"], m.space)[0]).value for m in (short, long))
    assert float(one) == pytest.approx(float(two), abs=0.2)  # held-out rows differ; PADs would cost nats


# --- going on, filling in, classes


def test_a_stream_goes_on_beyond_its_window():
    data = open_data(["abcdefghij" * 30], kind="text", options={"form": "stream", "length": 12, "stride": 1}, test=0)
    model = pofx.fit(data, "ngram", progress=False)
    value = pofx.forecast(model, "cdefghijabcdefghijabcdefghij", ahead=40, rng=0).value[0]
    assert value == ("cdefghij" + "abcdefghij" * 6)[:68]
    assert pofx.forecast(model, ["ab", "f"], ahead=3, draws=2, rng=0).value == [["abcde", "fghi"]] * 2


def test_continuing_obeys_the_probabilities_of_what_follows():
    data = read(["aab", "aba", "abb", "b"] * 10)
    model = pofx.fit(data, "ngram", progress=False)
    full = every_document("ab", 4) + cut_documents("ab", 4)
    x, _ = TEXT.encode([t for t in full if t.startswith("a")], data.space)
    p = model.log_prob(x).value.softmax(0)
    target = [t for t in full if t.startswith("a")].index("abb")
    drawn = pofx.forecast(model, "a", draws=2000, rng=3).value
    q = float(p[target])
    assert abs((sum(t == "abb" for t in drawn) - 2000 * q) / math.sqrt(2000 * q * (1 - q))) < 5


def test_log_score_is_the_chain_rule():
    data = read(["aab", "aba", "abb", "b"] * 10)
    model = pofx.fit(data, "ngram", progress=False)
    x = TEXT.encode(["aba"], data.space)[0]
    parts = [float(pofx.log_score(model, x, t).value) for t in range(4)]
    assert parts[0] == pytest.approx(float(model.log_prob(x).value))
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(parts))
    known = model.log_prob(x, observed=torch.tensor([[True, True, False, False]])).value
    assert parts[2] == pytest.approx(parts[0] - float(known))


def test_a_class_by_bayes_rule():
    rng = np.random.default_rng(0)
    letters = np.where(rng.random((200, 8)) < 0.8, np.array(list("ab") * 100)[:, None], "c")
    frame = pd.DataFrame({"document": ["".join(w) for w in letters], "label": ["up", "down"] * 100})
    data = open_data(frame, kind="text", given="label", options={"column": "document"})
    model = pofx.fit(data, "ngram", progress=False)
    found = pofx.classify(model, ["aaaa", "bcbb"])
    assert found.value == ["up", "down"]


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_compress_gives_texts_back(tmp_path, unit):
    data = read(["hello", "help", "held", ""] * 8, unit=unit)
    model = pofx.fit(data, "ngram", progress=False)
    pofx.compress(model, ["help", "", "hell"], tmp_path / "small")
    assert pofx.decompress(model, tmp_path / "small") == ["help", "", "hell"]


# --- bits


def test_bits_of_a_fair_die_are_log2_6():
    lengths = np.array([3, 10, 7])
    found = bits_per_symbol(-lengths * math.log(6), lengths)
    assert found.value == pytest.approx(math.log2(6)) and found.low == pytest.approx(found.high)
    with pytest.raises(ValueError, match="log p <= 0"):
        bits_per_symbol([1.0], [2])


# --- bad input


def test_bad_texts_are_refused_in_words(tmp_path):
    def refused(match, source, **options):
        with pytest.raises(ValueError, match=match):
            read(source, **options)

    refused("text 1 is None", ["a", None, "b"])
    refused("text 2 is nan", ["a", "b", float("nan")])
    refused("str and bytes mixed", ["a", b"b", "c"])
    refused("empty text", ["", "", ""])
    refused("one of character", DOCUMENTS, unit="word")
    refused("expected at least 1", DOCUMENTS, length=0)
    refused("fewer than 50 symbols", DOCUMENTS, form="stream", length=50)
    refused("only, 'a'", ["aaa" * 40], form="stream", length=4)
    refused("not UTF-8", [b"\xff\xfe", b"a", b"b"])
    refused("say length=", ["a" * 2000, "b", "c"])
    for name, content, match in (
        ("empty.txt", b"", "is empty"),
        ("latin.txt", "naïve".encode("latin-1"), "byte 2 is 0xef"),
        ("binary.txt", b"ab\x00cd", "holds NUL at place 2"),
        ("cut.txt.gz", gzip.compress(b"hello" * 99)[:-9], "damaged or cut short"),
        ("not.txt.gz", b"hello", "damaged or cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(match, tmp_path / name)
    (tmp_path / "ragged.tsv").write_text("a\tb\n1\t2\n3\n")
    refused("line 3: got 1 fields", tmp_path / "ragged.tsv")
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    refused("holds text", tmp_path / "numbers.csv")
    (tmp_path / "blank.csv").write_text("a,b\nx,2\n,4\ny,6\n")
    refused("row 1: .* is no text", tmp_path / "blank.csv", column="a")
    refused("only a table has columns", DOCUMENTS, column="a")
    (tmp_path / "none").mkdir()
    refused("no text file", tmp_path / "none")


def test_unknown_glyphs_are_refused_or_one_symbol():
    data = read(["abc", "abd", "ab"] * 3)
    with pytest.raises(ValueError, match=r"text 1: 'é' \(U\+00E9\) at place 2"):
        TEXT.encode(["abc", "abé"], data.space)
    with pytest.raises(ValueError, match="the prompt"):
        pofx.forecast(pofx.fit(data, "ngram", progress=False), "é")
    rare = read(["abc", "abd", "ab"] * 3 + ["abx"], rare=2)
    x, _ = TEXT.encode(["axé"], rare.space)
    assert TEXT.restore(x, rare.space) == [f"a{UNKNOWN}{UNKNOWN}"]
    assert read(["abc", "abd", "ab"] * 3 + ["abx"], unit="byte").restore(TEXT.encode(["é"], data_byte())[0]) == ["é"]


def data_byte():
    return read(["abc", "abd", "ab"] * 3 + ["abx"], unit="byte").space


def test_texts_that_do_not_fit_are_refused():
    data = read(["abc", "abd", "ab"] * 3)
    model = pofx.fit(data, "ngram", progress=False)
    with pytest.raises(ValueError, match="cut it"):
        pofx.density(model, ["abcabc"])
    with pytest.raises(ValueError, match="a document has 4 at most"):
        pofx.forecast(model, "abcd")
    with pytest.raises(ValueError, match="draws = 0"):
        pofx.forecast(model, "a", draws=0)
    with pytest.raises(ValueError, match="0 prompts"):
        pofx.forecast(model, [])
    with pytest.raises(ValueError, match="quantiles of series"):
        pofx.forecast(model, "a", calibration=data)
    cut = read(["abc", "abd", "ab"] * 3, length=2)
    assert any("cut after 2" in note for note in cut.notes) and cut.restore(cut.x)[0] == "ab"


def test_a_gap_mark_of_the_text_itself_is_a_letter():
    data = read(["a█b", "█", "b"] * 4)
    x, observed = TEXT.encode(["█b"], data.space)
    assert bool(observed.all()) and TEXT.restore(x, data.space) == ["█b"]
    with pytest.raises(ValueError, match="cannot mark"):
        TEXT.blank(["█b"], observed, data.space)


def test_draws_itself():
    from matplotlib.figure import Figure

    data = read(DOCUMENTS)
    figure = Figure()
    TEXT.draw(figure.add_subplot(), data.x, data.space)
    assert len(figure.axes[0].texts) == len(DOCUMENTS)


# --- real text


def test_korean_reviews_come_back(data_dir):
    path = data_dir / "text/nsmc/nsmc_raw_20k_neg_20k_pos.tsv.gz"
    data = open_data(path, kind="text", given="label", limit=500, options={"column": "document"})
    texts = data.restore(data.x)
    x, _ = TEXT.encode(texts, data.space)
    assert torch.equal(x, data.x) and max(map(len, texts)) > 50
