"""OPT's tokenizer on known texts, and small tokenizers trained here."""

import dataclasses
import lzma
import os
import re
from pathlib import Path

import pytest

from collapse_jax.lm import tokenizer, weights
from tests.lm.small import SMALL
from tests.lm.small import weights as made

DATA = os.environ.get("COLLAPSE_JAX_DATA")
TEXTS = ["the cat sat on the mat", "a cat and a dog", "the dog sat"] * 20


def published():
    if not DATA:
        pytest.skip("COLLAPSE_JAX_DATA is not set")
    return tokenizer.load(Path(DATA, "opt_tokenizer"))


def test_known_encodings():
    opt = published()
    assert opt.vocabulary == 50265
    assert (opt.begin, opt.pad) == (2, 1)
    assert opt.encode("Hello world") == [2, 31414, 232]
    assert opt.encode("A photo of a cat") == [2, 250, 1345, 9, 10, 4758]
    assert opt.encode("") == [2]
    assert opt.decode([2, 31414, 232, 1, 1]) == "Hello world"


@pytest.mark.parametrize(("split", "tokens"), [("valid", 251_049), ("test", 287_645)])
def test_published_numbers_of_tokens(split, tokens):
    opt = published()
    with lzma.open(
        Path(DATA, "wikitext-2", f"wiki.{split}.raw.xz"), "rt", encoding="utf-8"
    ) as file:
        rows = [line if line.strip() else "" for line in file]
    assert sum(map(len, opt.encode_all(rows))) == tokens
    assert opt.encode_all(rows[:40]) == [opt.encode(row) for row in rows[:40]]


ODD = [
    "", " ", "  two  spaces ", "\n\n", "Hello world", "naïve café — “quoted” … 日本語 🙂",
    "</s> inside <pad> and <s> and <unk>", "tabs\tand\r\nlines", "1,000.50 @-@ don't WON'T",
    "\u00a0x",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("source", ["published", "trained"])
def test_encodings_are_those_of_transformers(source, tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="the extra benchmark is not installed"
    )
    ours = published() if source == "published" else tokenizer.train(TEXTS, 300)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (2, 2, 1)
    for text in ODD:
        ids = ours.encode(text)
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def test_trained_on_a_text():
    small = tokenizer.train(TEXTS, 300)
    assert 260 < small.vocabulary <= 300
    assert (small.begin, small.pad) == (2, 1)
    text = "the cat — sat on naïve </s> mats"
    assert (
        small.decode(small.encode("the cat — sat on naïve mats")) == "the cat — sat on naïve mats"
    )
    assert small.encode(text).count(2) == 2
    assert len(small.encode("the cat sat")) < len("the cat sat")
    again = tokenizer.train(TEXTS, 300)
    assert again.encode(TEXTS[0]) == small.encode(TEXTS[0])


def test_saved_and_loaded(tmp_path):
    small = tokenizer.train(TEXTS, 300)
    small.save(tmp_path / "new")
    loaded = tokenizer.load(tmp_path / "new")
    assert loaded.encode_all(TEXTS) == small.encode_all(TEXTS)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="vocabulary: expected an integer >= 260, got 100"):
        tokenizer.train(TEXTS, 100)
    with pytest.raises(FileNotFoundError, match=r"expected a tokenizer's file at .*vocab.json"):
        tokenizer.load(tmp_path)
    tokenizer.train(TEXTS, 300).save(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match="expected a byte-level BPE in"):
        tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="expected the tokens </s> and <pad>"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize("lines", [1, 6, -1])
def test_merges_that_end_early_are_rejected(lines, tmp_path):
    tokenizer.train(TEXTS, 300).save(tmp_path)
    path = tmp_path / "merges.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    with pytest.raises(ValueError, match=r"expected all merges of vocab.json in .*merges.txt"):
        tokenizer.load(tmp_path)


def test_the_guide_works_as_it_stands(tmp_path, capsys, monkeypatch):
    """Runs docs/language_models.md with a small model instead of the published one."""
    guide = Path(__file__).parents[2].joinpath("docs", "language_models.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    trained = tokenizer.train(TEXTS, 300)
    config = dataclasses.replace(SMALL, vocabulary=trained.vocabulary, positions=128)
    weights.save(tmp_path, config, made(config))
    trained.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks).replace("facebook/opt-125m", str(tmp_path))
    exec(compile(code, "docs/language_models.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("1.0 Perplexity(mean_of_blocks=")
    assert weights.load("mine")[0].vocabulary == trained.vocabulary
