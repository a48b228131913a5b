"""Texts: all layouts give the same rows; one-line errors."""

import functools
import gzip
import hashlib
import lzma
import os
import platform
import sys
from pathlib import Path

import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet

from collapse_jax.data import files, text_splits
from collapse_jax.families.language import blocks
from collapse_jax.lm import tokenizer

PACKINGS = [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
NAMES = ["wikitext-2-raw", "wikitext-2"]
# As in the hub's tables, where a blank line is an empty row; in the plain files it is " \n".
ROWS = {
    "train": ["", " = Sea = \n", "", " the sea , the <unk> – \n", " a @-@ b \n"],
    "validation": ["", " = Land = \n", "", " dry \n"],
    "test": ["", " = Sky = \n", " blue \n", ""],
}
FILES = {"train": "train", "validation": "valid", "test": "test"}


@pytest.fixture(autouse=True)
def nothing_remembered():
    text_splits.load_text.cache_clear()
    yield
    text_splits.load_text.cache_clear()


def laid_out(rows):
    """A split in the format of the plain files."""
    return "".join(row or " \n" for row in rows).encode()


@pytest.fixture
def published(monkeypatch):
    """A dozen rows in place of WikiText-2, with their checksums."""
    for suffix in ("raw", "tokens"):
        for split, stem in FILES.items():
            checksum = hashlib.sha256(laid_out(ROWS[split])).hexdigest()
            monkeypatch.setitem(text_splits.SHA256, f"wiki.{stem}.{suffix}", checksum)


@pytest.fixture
def offline(monkeypatch):
    """Fails on any download."""

    def reject(*args, **kwargs):
        raise AssertionError(f"fetched {args}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", reject)


def write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return str(path)


def write_table(path, rows, column="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: rows}), path)
    return str(path)


def write_plain(directory, name, splits=ROWS, suffix="", pack=bytes):
    """WikiText-2 in its authors' layout."""
    kind = "raw" if name == "wikitext-2-raw" else "tokens"
    for split, rows in splits.items():
        path = directory / "wikitext-2" / f"wiki.{FILES[split]}.{kind}{suffix}"
        write(path, pack(laid_out(rows)))


def write_hub(directory, name, splits=ROWS):
    """WikiText-2 in the hub's layout."""
    for split, rows in splits.items():
        write_table(directory / f"{name}-v1" / f"{split}-00000-of-00001.parquet", rows)


def write_directory(directory, splits=ROWS):
    for split, rows in splits.items():
        write(directory / f"{split}.txt", "".join(row or "\n" for row in rows).encode())
    return str(directory)


def same_rows(text, expected=ROWS):
    assert {split: getattr(text, split) for split in text_splits.SPLITS} == {
        split: tuple(rows) for split, rows in expected.items()
    }


def error_message(name, *args, kind=ValueError):
    with pytest.raises(kind) as caught:
        text_splits.load_text(str(name), *args)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message


# --- WikiText-2 in its layouts -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("suffix", "pack"), PACKINGS)
def test_wikitext_2_in_plain_files(tmp_path, published, offline, name, suffix, pack):
    write_plain(tmp_path, name, suffix=suffix, pack=pack)
    text = text_splits.load_text(name, tmp_path)
    same_rows(text)
    assert text.title == ("WikiText-2, raw" if name == "wikitext-2-raw" else "WikiText-2")
    assert text.sources["validation"].startswith("wiki.valid.")
    assert text.sources["validation"].endswith(suffix)


@pytest.mark.parametrize("name", NAMES)
def test_wikitext_2_in_the_hubs_tables_is_the_same_text(tmp_path, published, offline, name):
    write_plain(tmp_path / "plain", name)
    write_hub(tmp_path / "hub", name)
    plain, hub = (text_splits.load_text(name, tmp_path / layout) for layout in ("plain", "hub"))
    same_rows(hub)
    assert hub.sha256 == plain.sha256
    assert hub.sources == {split: f"{name}-v1/{split} (parquet)" for split in text_splits.SPLITS}


def test_tables_in_many_pieces_are_put_together_in_order(tmp_path, published, offline):
    write_hub(tmp_path, "wikitext-2")
    directory = tmp_path / "wikitext-2-v1"
    (directory / "train-00000-of-00001.parquet").unlink()
    for number in (2, 0, 1):
        rows = ROWS["train"][2 * number : 2 * number + 2]
        write_table(directory / f"train-0000{number}-of-00003.parquet", rows)
    same_rows(text_splits.load_text("wikitext-2", tmp_path))


def test_layouts_may_be_mixed_and_plain_files_come_first(tmp_path, published, offline):
    write_plain(tmp_path, "wikitext-2-raw", {"test": ROWS["test"]}, ".xz", lzma.compress)
    write_hub(tmp_path, "wikitext-2-raw")
    text = text_splits.load_text("wikitext-2-raw", tmp_path)
    same_rows(text)
    assert text.sources["train"] == "wikitext-2-raw-v1/train (parquet)"
    assert text.sources["test"] == "wiki.test.raw.xz"


def test_wikitext_2_lies_where_the_environment_says(tmp_path, published, offline, monkeypatch):
    write_plain(tmp_path, "wikitext-2")
    monkeypatch.setenv("COLLAPSE_JAX_DATA", str(tmp_path))
    same_rows(text_splits.load_text("wikitext-2"))


def test_the_checksum_is_of_all_rows_and_of_where_the_splits_are(tmp_path):
    moved = {
        **ROWS,
        "train": ROWS["train"][:-1],
        "validation": [*ROWS["train"][-1:], *ROWS["validation"]],
    }
    changed = {**ROWS, "test": [*ROWS["test"], " more \n"]}
    checksums = {
        text_splits.load_text(write_directory(tmp_path / str(number), splits)).sha256
        for number, splits in enumerate((ROWS, moved, changed, ROWS))
    }
    assert len(checksums) == 3


@pytest.mark.parametrize("name", NAMES)
def test_wikitext_2_that_was_changed_is_rejected_with_both_checksums(
    tmp_path, published, offline, name
):
    changed = {**ROWS, "validation": [*ROWS["validation"], " more \n"]}
    write_plain(tmp_path / "plain", name, changed)
    write_hub(tmp_path / "hub", name, changed)
    kind = "raw" if name == "wikitext-2-raw" else "tokens"
    expected = text_splits.SHA256[f"wiki.valid.{kind}"]
    found = hashlib.sha256(laid_out(changed["validation"])).hexdigest()
    for layout, file in [
        ("plain", f"wikitext-2/wiki.valid.{kind}"),
        ("hub", f"{name}-v1/validation-00000-of-00001.parquet"),
    ]:
        message = error_message(name, tmp_path / layout)
        for part in (str(tmp_path / layout / file), expected, found, "fetch it again"):
            assert part in message


# --- WikiText-2 from the hub ---------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Requests to a mock hub that has every file."""
    asked = []

    def download(repo_id, filename, *, repo_type, revision):
        asked.append((repo_id, filename, repo_type, revision))
        return str(tmp_path / "the hub" / filename)

    for name in NAMES:
        write_hub(tmp_path / "the hub", name)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("revision", [None, "b08601e"])
def test_what_is_missing_is_fetched(tmp_path, published, hub, name, revision):
    text = text_splits.load_text(name, tmp_path / "empty", revision)
    same_rows(text)
    assert hub == [
        (
            "Salesforce/wikitext",
            f"{name}-v1/{split}-00000-of-00001.parquet",
            "dataset",
            revision,
        )
        for split in ("train", "validation", "test")
    ]
    assert text.sources["train"] == f"{name}-v1/train (parquet)"


def test_what_is_there_is_not_fetched(tmp_path, published, hub):
    write_plain(tmp_path, "wikitext-2", {"validation": ROWS["validation"]})
    write_hub(tmp_path, "wikitext-2", {"test": ROWS["test"]})
    same_rows(text_splits.load_text("wikitext-2", tmp_path))
    assert [file for _, file, _, _ in hub] == ["wikitext-2-v1/train-00000-of-00001.parquet"]


def test_what_the_hub_changed_is_rejected(tmp_path, published, hub):
    path = tmp_path / "the hub" / "wikitext-2-v1" / "test-00000-of-00001.parquet"
    write_table(path, [*ROWS["test"], " more \n"])
    message = error_message("wikitext-2", tmp_path / "empty")
    assert str(path) in message
    assert text_splits.SHA256["wiki.test.tokens"] in message


def out_of_reach(repo_id, filename, *, repo_type, revision):
    raise OSError("no route to the hub\nmore about it\n")


def without_a_word(repo_id, filename, *, repo_type, revision):
    raise ConnectionError


@pytest.mark.parametrize(
    ("download", "reason"),
    [
        (out_of_reach, "(no route to the hub)"),
        (without_a_word, "(ConnectionError())"),
        (huggingface_hub.hf_hub_download, ""),
    ],
)
def test_offline_the_error_says_what_to_do(tmp_path, published, monkeypatch, download, reason):
    if download is huggingface_hub.hf_hub_download:  # as itself, without a network or a cache
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        download = functools.partial(download, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    write_plain(tmp_path, "wikitext-2-raw", {"train": ROWS["train"]})
    message = error_message("wikitext-2-raw", tmp_path, kind=FileNotFoundError)
    for part in (
        f"the validation split of wikitext-2-raw at {tmp_path / 'wikitext-2' / 'wiki.valid.raw'}",
        "Salesforce/wikitext as wikitext-2-raw-v1/validation-00000-of-00001.parquet",
        reason,
        "--data_dir",
        "COLLAPSE_JAX_DATA",
        "--dataset=pydoc-topics",
    ):
        assert part in message
    # Files that have been added since are found.
    write_hub(tmp_path, "wikitext-2-raw")
    same_rows(text_splits.load_text("wikitext-2-raw", tmp_path))


def test_without_the_hubs_library_the_error_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = error_message("wikitext-2", tmp_path, kind=(FileNotFoundError, ValueError))
    assert "huggingface_hub" in message


# --- pydoc-topics --------------------------------------------------------------------------------


def test_pydoc_topics_is_at_hand(offline):
    text = text_splits.load_text("pydoc-topics", "/nowhere")
    assert len(text.train) > 1000
    assert min(len(text.validation), len(text.test)) > 20
    for row in (*text.train, *text.validation, *text.test):
        assert row.strip()
        assert row.endswith("\n")
    assert platform.python_version() in text.title
    assert set(text.sources.values()) == {text.title}


def test_pydoc_topics_rows_are_paragraphs_and_every_tenth_topic_is_held_out(monkeypatch):
    topics = {f"topic {number:02}": f"{number}, one\n\n\n\n{number}\ntwo" for number in range(20)}
    monkeypatch.setattr("pydoc_data.topics.topics", dict(reversed(topics.items())))
    text = text_splits.load_text("pydoc-topics")

    def rows(numbers):
        return [row for number in numbers for row in (f"{number}, one\n", f"{number}\ntwo\n")]

    validation, test = [8, 18], [9, 19]
    train = [number for number in range(20) if number not in validation + test]
    same_rows(text, {"train": rows(train), "validation": rows(validation), "test": rows(test)})


# --- a directory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "pack"), PACKINGS)
def test_a_directory_of_text_files(tmp_path, suffix, pack):
    for split, rows in ROWS.items():
        raw = "".join(row or "\t\n" for row in rows).encode()
        write(tmp_path / "mine" / f"{split}.txt{suffix}", pack(raw))
    text = text_splits.load_text(str(tmp_path / "mine"), "/nowhere")
    same_rows(text)
    assert text.title == "mine"
    assert text.sources == {split: f"{split}.txt{suffix}" for split in ROWS}


def test_a_directory_of_tables(tmp_path):
    for split, rows in ROWS.items():
        write_table(tmp_path / f"{split}.parquet", [row or None for row in rows])
    text = text_splits.load_text(str(tmp_path))
    same_rows(text)
    assert text.sources["train"] == "train.parquet"


def test_a_directory_may_mix_kinds_and_be_under_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_directory(tmp_path / "mine", {"train": ROWS["train"]})
    write_table(tmp_path / "mine" / "validation.parquet", ROWS["validation"])
    raw = "".join(row or "\n" for row in ROWS["test"]).encode()
    write(tmp_path / "mine" / "test.txt.xz", lzma.compress(raw))
    same_rows(text_splits.load_text("~/mine"))


def test_the_last_line_needs_no_end_and_a_byte_order_mark_is_no_word(tmp_path):
    write_directory(tmp_path)
    write(tmp_path / "train.txt", "\ufeffone\n\ntwo".encode())
    assert text_splits.load_text(str(tmp_path)).train == ("one\n", "", "two")


@pytest.mark.parametrize("split", text_splits.SPLITS)
def test_a_directory_that_lacks_a_split(tmp_path, split):
    directory = Path(write_directory(tmp_path))
    (directory / f"{split}.txt").unlink()
    message = error_message(directory, kind=FileNotFoundError)
    for part in (split, str(directory / f"{split}.txt"), str(directory / f"{split}.parquet")):
        assert part in message


@pytest.mark.parametrize("split", text_splits.SPLITS)
@pytest.mark.parametrize("raw", [b"", b" \n\t\n\n"])
def test_a_split_without_words(tmp_path, split, raw):
    directory = Path(write_directory(tmp_path))
    write(directory / f"{split}.txt", raw)
    assert f"{directory}: expected words in the {split} split" in error_message(directory)


# --- one file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "pack"), PACKINGS)
@pytest.mark.parametrize("count", [10, 57, 100])
def test_a_file_is_cut_by_tenths_of_its_rows(tmp_path, suffix, pack, count):
    rows = [f"row {number}\n" if number % 7 else "" for number in range(1, count + 1)]
    raw = "".join(row or "\n" for row in rows).encode()
    text = text_splits.load_text(write(tmp_path / f"mine.txt{suffix}", pack(raw)))
    tenth = count // 10
    expected = {
        "train": rows[: -2 * tenth],
        "validation": rows[-2 * tenth : -tenth],
        "test": rows[-tenth:],
    }
    same_rows(text, expected)
    assert text.title == f"mine.txt{suffix}"
    assert set(text.sources.values()) == {text.title}


def test_a_file_of_fewer_than_ten_rows_leaves_nothing_to_hold_out(tmp_path):
    path = write(tmp_path / "short.txt", b"a row\n" * 9)
    assert f"{path}: expected words in the validation split" in error_message(path)


@pytest.mark.parametrize("name", ["wikitext-3", "no/such/file.txt"])
def test_a_text_that_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = error_message(name, kind=FileNotFoundError)
    assert repr(name) in message
    for known in ("wikitext-2", "wikitext-2-raw", "pydoc-topics"):
        assert known in message


# --- invalid files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"ok\0bad", "a NUL at byte 2"),
        ("caf\xe9 noir".encode("latin-1"), "byte 0xe9 at 3, which is not UTF-8"),
    ],
)
def test_binary_is_rejected_with_the_offending_byte(tmp_path, monkeypatch, raw, problem):
    path = write(tmp_path / "mine.txt", raw)
    assert f"{path}, got {problem}" in error_message(path)
    directory = Path(write_directory(tmp_path / "mine"))
    path = write(directory / "test.txt", raw)
    assert f"{path}, got {problem}" in error_message(directory)
    # A file of WikiText-2 without a published checksum.
    monkeypatch.delitem(text_splits.SHA256, "wiki.train.raw", raising=False)
    path = write(tmp_path / "wikitext-2" / "wiki.train.raw", raw)
    assert f"{path}, got {problem}" in error_message("wikitext-2-raw", tmp_path)


@pytest.mark.parametrize(("suffix", "pack"), PACKINGS[1:])
def test_a_truncated_archive_is_rejected(tmp_path, suffix, pack):
    path = write(tmp_path / f"mine.txt{suffix}", pack(b"a row\n" * 20)[:-4])
    assert f"complete {suffix} file at {path}" in error_message(path)


def damaged(path):
    path.write_bytes(path.read_bytes()[:-6])


def overwritten(path):
    path.write_bytes(b"not a table")


def emptied(path):
    path.write_bytes(b"")


def of_another_column(path):
    write_table(path, ["a", "b"], column="label")


def of_numbers(path):
    write_table(path, [1, 2])


@pytest.mark.parametrize("damage", [damaged, overwritten, emptied, of_another_column, of_numbers])
def test_a_table_that_is_not_one_of_texts_is_rejected_in_one_line(tmp_path, damage):
    for split, rows in ROWS.items():
        write_table(tmp_path / f"{split}.parquet", rows)
    damage(tmp_path / "test.parquet")
    message = error_message(tmp_path)
    assert f"parquet file with a column text at {tmp_path / 'test.parquet'}" in message


def test_without_pyarrow_tables_are_rejected_and_text_is_not(tmp_path, monkeypatch):
    for split, rows in ROWS.items():
        write_table(tmp_path / "tables" / f"{split}.parquet", rows)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = error_message(tmp_path / "tables")
    for part in ("pyarrow", str(tmp_path / "tables" / "train.parquet"), "install the extra lm"):
        assert part in message
    same_rows(text_splits.load_text(write_directory(tmp_path / "text")))


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0c"])
def test_rows_end_where_lines_do_and_at_no_other_separator(tmp_path, character):
    splits = {split: [f"one{character}two\n", "three\n"] for split in ROWS}
    same_rows(text_splits.load_text(write_directory(tmp_path, splits)), splits)


# --- the published files -------------------------------------------------------------------------


def data(reason):
    directory = os.environ.get("COLLAPSE_JAX_DATA")
    if not directory:
        pytest.skip(f"COLLAPSE_JAX_DATA is not set: {reason}")
    return Path(directory)


def test_published_wikitext_2_has_the_published_figures(offline):
    data("the published WikiText-2 was not read")
    text = text_splits.load_text("wikitext-2")
    rows = {split: getattr(text, split) for split in text_splits.SPLITS}
    assert {split: len(of_split) for split, of_split in rows.items()} == {
        "train": 36_718, "validation": 3_760, "test": 4_358
    }  # fmt: skip
    # Words and one <eos> per row, the numbers of the paper.
    assert {
        split: sum(len(row.split()) + 1 for row in of_split) for split, of_split in rows.items()
    } == {"train": 2_088_628, "validation": 217_646, "test": 245_569}
    for of_split in rows.values():
        assert of_split[0] == ""
        assert all(row.endswith(" \n") for row in of_split if row)


def test_published_raw_text_in_both_layouts_and_its_number_of_tokens(
    tmp_path, offline, monkeypatch
):
    directory = data("the published raw texts were not read, and their tokens not counted")
    monkeypatch.delitem(text_splits.SHA256, "wiki.train.raw", raising=False)
    for split in ("validation", "test"):
        path = files.find(directory / "wikitext-2" / f"wiki.{FILES[split]}.raw")
        (tmp_path / "plain" / "wikitext-2").mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / "wikitext-2" / path.name).symlink_to(path.resolve())
    write_plain(tmp_path / "plain", "wikitext-2-raw", {"train": ROWS["train"]})
    plain = text_splits.load_text("wikitext-2-raw", tmp_path / "plain")
    write_hub(
        tmp_path / "hub",
        "wikitext-2-raw",
        {split: getattr(plain, split) for split in text_splits.SPLITS},
    )
    hub = text_splits.load_text("wikitext-2-raw", tmp_path / "hub")  # which also verifies checksums
    assert hub[1:4] == plain[1:4]
    opt = tokenizer.load(directory / "opt_tokenizer")
    for split, tokens in {"validation": 251_049, "test": 287_645}.items():
        assert blocks.of_rows(opt, getattr(plain, split), 1, split).shape == (tokens, 1)
