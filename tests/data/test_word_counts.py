"""Corpora: their location, word counts, and one-line errors."""

import gzip
import hashlib
import lzma
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from collapse_jax.data import files, word_counts

ROWS = " = Sea = \n \n the sea , the <unk> \n"  # layout of wiki.train.tokens: blank rows " \n"


@pytest.fixture
def toy_wikitext(tmp_path, monkeypatch):
    """A data directory with three rows in place of WikiText-2, and their checksum."""
    (tmp_path / "wikitext-2").mkdir()
    checksum = hashlib.sha256(ROWS.encode()).hexdigest()
    monkeypatch.setitem(word_counts.SHA256, word_counts.WIKITEXT_2, checksum)
    return tmp_path


def write(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    return str(path)


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message


# --- location of corpora -------------------------------------------------------------------------


def test_data_dir_prefers_flag_then_environment_then_cache(monkeypatch):
    monkeypatch.setenv("COLLAPSE_JAX_DATA", "/from/environment")
    monkeypatch.setenv("XDG_CACHE_HOME", "/from/xdg")
    monkeypatch.setenv("HOME", "/home/reader")
    assert files.data_dir("/from/flag") == Path("/from/flag")
    assert files.data_dir("~/corpora") == Path("/home/reader/corpora")
    assert files.data_dir(None) == Path("/from/environment")
    monkeypatch.setenv("COLLAPSE_JAX_DATA", "")
    assert files.data_dir(None) == Path("/from/xdg/collapse_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    assert files.data_dir(None) == Path("/home/reader/.cache/collapse_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.data_dir(None) == Path("/home/reader/.cache/collapse_jax")


def test_import_is_light():
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "print(sorted({'jax', 'flax', 'xarray', 'matplotlib', 'pydoc_data'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, word_counts.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- word counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_wikitext_2_counts_words_and_one_eos_a_row(toy_wikitext, suffix, compress):
    write(toy_wikitext / "wikitext-2" / f"wiki.train.tokens{suffix}", compress(ROWS.encode()))
    corpus = word_counts.load_corpus("wikitext-2", toy_wikitext)
    assert corpus.words == ("<eos>", "=", "the", ",", "<unk>", "Sea", "sea")
    np.testing.assert_array_equal(corpus.counts, [3, 2, 2, 1, 1, 1, 1], strict=True)
    assert corpus.counts.dtype == np.int64
    assert corpus.name == "wikitext-2"
    assert corpus.title == "WikiText-2"
    assert corpus.sha256 == hashlib.sha256(ROWS.encode()).hexdigest()


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_text_file_words_are_what_whitespace_separates(tmp_path, suffix, compress):
    text = "b a\tB\nb  c'est  é "
    path = write(tmp_path / f"mine.txt{suffix}", compress(text.encode()))
    corpus = word_counts.load_corpus(path)
    assert corpus.words == ("b", "B", "a", "c'est", "é")
    np.testing.assert_array_equal(corpus.counts, [2, 1, 1, 1, 1])
    assert corpus.title == f"mine.txt{suffix}"
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_text_file_byte_order_mark_is_not_part_of_a_word(tmp_path):
    path = write(tmp_path / "notepad.txt", "\ufeffthe the".encode())
    assert word_counts.load_corpus(path).words == ("the",)


def test_pydoc_topics_is_at_hand_and_names_its_version():
    corpus = word_counts.load_corpus("pydoc-topics", data_dir="/nowhere")
    assert corpus.words[0] == "the"
    assert len(corpus.words) > 2000
    assert corpus.counts.sum() > 40_000
    assert np.all(np.diff(corpus.counts) <= 0)
    assert len(set(corpus.words)) == len(corpus.words)
    assert platform.python_version() in corpus.title
    assert corpus.sha256[:8] in corpus.title
    assert word_counts.load_corpus("pydoc-topics").sha256 == corpus.sha256


def test_pydoc_topics_words_are_runs_of_letters_with_inner_apostrophes(monkeypatch):
    topics = {"z": "isn\u2019t snake_case 'Red'", "a": "don't\nx86 ''' é"}
    monkeypatch.setattr("pydoc_data.topics.topics", topics)
    corpus = word_counts.load_corpus("pydoc-topics")
    assert corpus.words == ("case", "don't", "isn't", "red", "snake", "x", "é")
    joined = "don't\nx86 ''' é\nisn\u2019t snake_case 'Red'"
    assert corpus.sha256 == hashlib.sha256(joined.encode()).hexdigest()


# --- vocabulary ----------------------------------------------------------------------------------


@pytest.fixture
def letters(tmp_path):
    return write(tmp_path / "letters.txt", b"a a a b b c d e")


def test_vocabulary_pools_rare_words_last_and_keeps_the_sum(letters):
    whole = word_counts.load_corpus(letters)
    pooled = word_counts.load_corpus(letters, vocabulary=2)
    assert pooled.words == ("a", "b", "<other>")
    np.testing.assert_array_equal(pooled.counts, [3, 2, 3], strict=True)
    assert pooled.counts.dtype == np.int64
    assert pooled.sha256 == whole.sha256
    assert pooled.title == "letters.txt, 2 most frequent words"


def test_vocabulary_of_every_type_pools_nothing(letters):
    whole = word_counts.load_corpus(letters)
    same = word_counts.load_corpus(letters, vocabulary=5)
    assert same.words == whole.words
    assert same.title == whole.title
    np.testing.assert_array_equal(same.counts, whole.counts)


@pytest.mark.parametrize("vocabulary", [-1, 0, 6])
def test_vocabulary_out_of_range_is_rejected(letters, vocabulary):
    with pytest.raises(ValueError, match="vocabulary from 1 to 5") as caught:
        word_counts.load_corpus(letters, vocabulary=vocabulary)
    assert f"got {vocabulary};" in one_line(caught)


def test_vocabulary_is_rejected_where_the_pool_would_meet_a_word_of_its_name(tmp_path):
    path = write(tmp_path / "tagged.txt", b"<other> <other> a b")
    with pytest.raises(ValueError, match="<other>") as caught:
        word_counts.load_corpus(path, vocabulary=1)
    one_line(caught)
    # As one of the rare words it is pooled like any other.
    path = write(tmp_path / "rare.txt", b"a a b <other>")
    assert word_counts.load_corpus(path, vocabulary=1).words == ("a", "<other>")


# --- errors --------------------------------------------------------------------------------------


def test_missing_wikitext_2_says_where_it_looked_and_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        word_counts.load_corpus("wikitext-2", tmp_path)
    message = one_line(caught)
    looked_for = str(tmp_path / "wikitext-2" / "wiki.train.tokens")
    for part in (looked_for, "--data_dir", "COLLAPSE_JAX_DATA", "Salesforce/wikitext"):
        assert part in message


@pytest.mark.parametrize("name", ["wikitext-3", "", "no/such/file.txt"])
def test_missing_text_file_names_the_corpora_there_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        word_counts.load_corpus(name)
    message = one_line(caught)
    assert repr(name) in message
    assert "wikitext-2, pydoc-topics" in message


def test_changed_wikitext_2_is_rejected_with_both_checksums(toy_wikitext):
    changed = ROWS.encode().replace(b"the", b"The")
    path = write(toy_wikitext / "wikitext-2" / "wiki.train.tokens", changed)
    with pytest.raises(ValueError, match="SHA-256") as caught:
        word_counts.load_corpus("wikitext-2", toy_wikitext)
    message = one_line(caught)
    for part in (path, word_counts.SHA256["wikitext-2"], hashlib.sha256(changed).hexdigest()):
        assert part in message


@pytest.mark.parametrize("raw", [b"", b" \n\t\n"])
def test_empty_text_is_rejected(tmp_path, raw):
    path = write(tmp_path / "empty.txt", raw)
    with pytest.raises(ValueError, match="with words in it") as caught:
        word_counts.load_corpus(path)
    assert path in one_line(caught)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"ok\0bad", "a NUL at byte 2"),
        ("the sea".encode("utf-16-le"), "a NUL at byte 1"),
        ("caf\xe9 noir".encode("latin-1"), "byte 0xe9 at 3, which is not UTF-8"),
    ],
)
def test_binary_is_rejected_with_the_offending_byte(tmp_path, raw, problem):
    path = write(tmp_path / "binary.txt", raw)
    with pytest.raises(ValueError, match=problem) as caught:
        word_counts.load_corpus(path)
    assert path in one_line(caught)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_archives_are_rejected(toy_wikitext, suffix, compress):
    whole = compress(ROWS.encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for raw in (whole[:-1], whole[: len(whole) // 2], bytes(flipped), b"not an archive"):
        path = write(toy_wikitext / "wikitext-2" / f"wiki.train.tokens{suffix}", raw)
        for name in ("wikitext-2", path):
            with pytest.raises(ValueError, match="reading it failed") as caught:
                word_counts.load_corpus(name, toy_wikitext)
            assert path in one_line(caught)


def test_python_without_topics_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"pydoc_data\.topics") as caught:
        word_counts.load_corpus("pydoc-topics")
    one_line(caught)


# --- the published file --------------------------------------------------------------------------


def test_published_wikitext_2_has_the_published_figures():
    if not os.environ.get("COLLAPSE_JAX_DATA"):
        pytest.skip(
            "COLLAPSE_JAX_DATA is not set: the published WikiText-2 was not read, so its checksum "
            "and its 2,088,628 words of 33,278 types were not checked"
        )
    corpus = word_counts.load_corpus("wikitext-2")
    count = dict(zip(corpus.words, corpus.counts.tolist(), strict=True))
    assert corpus.counts.sum() == 2_088_628
    assert len(corpus.words) == 33_278
    assert count["<eos>"] == 36_718
    assert corpus.words[:2] == ("the", ",")
    pooled = word_counts.load_corpus("wikitext-2", vocabulary=10_000)
    assert pooled.counts.sum() == 2_088_628
    assert len(pooled.words) == 10_001
