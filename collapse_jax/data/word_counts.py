r"""Text corpora as word counts.

Three kinds of corpus, by name:

* ``wikitext-2``: the training split of WikiText-2 (Merity et al. 2016, arXiv:1609.07843; CC BY-SA),
  36,718 rows. Words are separated by whitespace, with one ``<eos>`` for each row: 2,051,910 +
  36,718 = 2,088,628 words of 33,277 + 1 = 33,278 types, as in the paper. The file is not
  downloaded; it can be made from the rows of Hugging Face's ``Salesforce/wikitext`` (configuration
  ``wikitext-2-v1``, split ``train``) with ``"".join(text or " \n" for text in rows)``.
* ``pydoc-topics``: the language reference that ships with Python, always available. Words are
  lower-cased runs of letters and inner apostrophes. The text differs between Python versions, so
  the title contains the version and the start of the checksum.
* any other name is the path of a UTF-8 text file, plain, ``.gz`` or ``.xz``. Words are separated by
  whitespace and not modified.
"""

import os
import platform
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse_jax.arguments import MissingFileError, SettingError
from collapse_jax.data import files

WIKITEXT_2 = "wikitext-2"
PYDOC_TOPICS = "pydoc-topics"
OTHER = "<other>"

SHA256 = {  # of the published file, decompressed
    WIKITEXT_2: "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
}


class Corpus(NamedTuple):
    """Word counts of a text.

    Axis names: ``word`` indexes word types, most frequent first, ties in alphabetical order. The
    pool of rare words, if any, comes last regardless of its count.
    """

    name: str
    title: str  # for plots and reports
    words: tuple[str, ...]  # [word]
    counts: np.ndarray  # i64[word]
    sha256: str  # of the raw bytes, decompressed


def load_corpus(
    name: str, data_dir: str | os.PathLike[str] | None = None, vocabulary: int | None = None
) -> Corpus:
    """Loads a corpus and counts its words.

    Args:
        name: ``wikitext-2``, ``pydoc-topics``, or the path of a UTF-8 text file (plain, ``.gz`` or
            ``.xz``).
        data_dir: directory that contains ``wikitext-2/wiki.train.tokens`` (or ``.gz``, ``.xz``);
            ``None`` for the default of ``files.data_dir``.
        vocabulary: number of most frequent words to keep; all others are counted as one symbol
            ``<other>``. ``None`` keeps every word.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, not the published one, not UTF-8 text or without words,
            or ``vocabulary`` is not between 1 and the number of word types.

    Examples:
        >>> corpus = load_corpus("pydoc-topics", vocabulary=1)
        >>> corpus.words
        ('the', '<other>')
    """
    if name == WIKITEXT_2:
        title, raw = "WikiText-2", _wikitext_2_bytes(data_dir)
        text = decode(raw, title)
        tally = Counter(text.split())
        tally["<eos>"] += text.count("\n")
    elif name == PYDOC_TOPICS:
        raw = "\n".join(pydoc_topics().values()).encode()
        title = f"Python {platform.python_version()} topics ({files.sha256(raw)[:8]})"
        tally = Counter(_english_words(raw.decode()))
    else:
        path = _user_path(name)
        title, raw = path.name, files.read(path)
        tally = Counter(decode(raw, str(path)).split())
    if not tally:
        raise SettingError(f"expected a text with words in it, got none in {name!r}; give another")
    ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    words, counts = zip(*ranked, strict=True)
    corpus = Corpus(
        name=name,
        title=title,
        words=words,
        counts=np.array(counts, np.int64),
        sha256=files.sha256(raw),
    )
    return corpus if vocabulary is None else _pool_rare_words(corpus, vocabulary)


def _pool_rare_words(corpus: Corpus, vocabulary: int) -> Corpus:
    types = len(corpus.words)
    if not 1 <= vocabulary <= types:
        raise SettingError(
            f"expected a vocabulary from 1 to {types}, the word types of {corpus.title}, got "
            f"{vocabulary}; choose one in that range, or none to keep every word"
        )
    if vocabulary == types:
        return corpus
    kept = corpus.words[:vocabulary]
    if OTHER in kept:
        raise SettingError(
            f"expected {OTHER} to be free for the pooled words, but {corpus.title} uses it as a "
            "word; rename it there, or give no vocabulary"
        )
    return corpus._replace(
        title=f"{corpus.title}, {vocabulary:,} most frequent words",
        words=(*kept, OTHER),
        counts=np.append(corpus.counts[:vocabulary], corpus.counts[vocabulary:].sum()),
    )


def _wikitext_2_bytes(override: str | os.PathLike[str] | None) -> bytes:
    plain = files.data_dir(override) / "wikitext-2" / "wiki.train.tokens"
    path = files.find(plain)
    if path is None:
        raise MissingFileError(
            f"expected WikiText-2's training split at {plain} (or .gz, .xz), found no file; set "
            f"--data_dir or {files.ENVIRONMENT_VARIABLE} to the directory that contains "
            "wikitext-2, or make the file from the Hugging Face data set Salesforce/wikitext, "
            'configuration wikitext-2-v1, split train: "".join(text or " \\n" for text in rows); '
            f"{PYDOC_TOPICS} needs no file"
        )
    raw = files.read(path)
    if files.sha256(raw) != SHA256[WIKITEXT_2]:
        raise SettingError(
            f"expected WikiText-2's training split at {path}, SHA-256 {SHA256[WIKITEXT_2]} after "
            f"decompression, got {files.sha256(raw)} ({len(raw):,} bytes); fetch it again, or "
            "give the file's path as the corpus to use it as it is"
        )
    return raw


def pydoc_topics() -> dict[str, str]:
    """Texts of the language reference that ships with Python, by topic.

    Raises:
        ValueError: if this Python was installed without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise SettingError(
            "expected Python's own pydoc_data.topics, but this Python was installed without it "
            f"({error}); name another corpus, or a text file of your own"
        ) from error
    return {key: topics[key] for key in sorted(topics)}


def _english_words(text: str) -> list[str]:
    """Lower-cased runs of letters, which may contain apostrophes, straight or typographic.

    At the ends of a run they are quotation marks: ``'red'`` is the word ``red``, ``isn’t`` is
    ``isn't``.
    """
    letters = r"[^\W\d_]+"
    return re.findall(rf"{letters}(?:'{letters})*", text.lower().replace("\u2019", "'"))


def _user_path(name: str) -> Path:
    path = Path(os.path.expanduser(name))
    if not path.is_file():
        raise MissingFileError(
            f"expected a corpus ({WIKITEXT_2}, {PYDOC_TOPICS}) or the path of a text file, got "
            f"{name!r}, and there is no such file; correct the name, or give the path in full"
        )
    return path


def decode(raw: bytes, source: str) -> str:
    """Decodes UTF-8 bytes.

    Raises:
        ValueError: if they are not UTF-8; the message names `source`.
    """
    nul = raw.find(0)  # English in UTF-16, like many binary files, is valid UTF-8 with NULs
    if nul < 0:
        try:
            return raw.decode(
                "utf-8-sig"
            )  # drops a byte-order mark, which is not part of the first word
        except UnicodeDecodeError as error:
            problem = f"byte 0x{raw[error.start]:02x} at {error.start:,}, which is not UTF-8"
    else:
        problem = f"a NUL at byte {nul:,}"
    raise SettingError(
        f"expected UTF-8 text in {source}, got {problem}; convert it, or give another"
    )
