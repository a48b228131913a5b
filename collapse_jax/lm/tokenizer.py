"""OPT's tokenizer: byte-level BPE from the `tokenizers` library, with "</s>" before every text."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from collapse_jax import arguments
from collapse_jax.arguments import MissingFileError, SettingError

VOCABULARY, MERGES = "vocab.json", "merges.txt"
BEGIN, PAD = "</s>", "<pad>"
# Special tokens, in the order of their ids in OPT's vocabulary.
SPECIAL = ("<s>", PAD, BEGIN, "<unk>")
# Entries that no merge produces: special tokens, and the padding of OPT's vocabulary.
_UNMERGED = re.compile(r"<.*>|madeupword\d+")
# Tells transformers which tokens to add to a text, and how to pad.
_SETTINGS = {
    "tokenizer_class": "GPT2Tokenizer",
    "add_bos_token": True,
    "add_prefix_space": False,
    "bos_token": BEGIN,
    "eos_token": BEGIN,
    "unk_token": BEGIN,
    "pad_token": PAD,
}


class Tokenizer(NamedTuple):
    """Converts text to token ids and back.

    Attributes:
      library: the underlying `tokenizers` object.
      begin, pad: ids of "</s>" and "<pad>".
    """

    library: Any
    begin: int
    pad: int

    @property
    def vocabulary(self) -> int:
        """One more than the largest id; a model's embedding may have more rows."""
        return 1 + max(self.library.get_vocab().values())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, "</s>" first."""
        return [self.begin, *self.library.encode(text).ids]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, "</s>" first in each; uses all cores."""
        encoded = self.library.encode_batch(list(texts))
        return [[self.begin, *one.ids] for one in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self.library.decode([int(i) for i in ids], skip_special_tokens=True))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes vocab.json and merges.txt, and tokenizer_config.json for transformers."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        self.library.save_model(os.fspath(directory))
        text = json.dumps(_SETTINGS, indent=2) + "\n"
        Path(directory, "tokenizer_config.json").write_text(text, encoding="utf-8")


def load(directory: str | os.PathLike[str]) -> Tokenizer:
    """Loads the tokenizer from a model's directory.

    Raises:
      FileNotFoundError: if vocab.json or merges.txt is missing.
      ValueError: if they are damaged, or lack OPT's special tokens.
    """
    from tokenizers import ByteLevelBPETokenizer

    paths = [Path(directory, name) for name in (VOCABULARY, MERGES)]
    for path in paths:
        if not path.is_file():
            raise MissingFileError(f"expected a tokenizer's file at {path}, but there is none")
    try:
        library = ByteLevelBPETokenizer.from_file(*map(str, paths))
    except Exception as error:  # the library raises bare exceptions
        raise SettingError(f"expected a byte-level BPE in {directory}: {error}") from error
    _check_merges(*paths)
    return _tokenizer(library, str(directory))


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Trains a byte-level BPE, for small models.

    Args:
      texts: training texts.
      vocabulary: maximum number of ids, including the 256 bytes and OPT's 4 special tokens.

    Raises:
      ValueError: if `vocabulary` is below 260.
    """
    from tokenizers import ByteLevelBPETokenizer

    vocabulary = arguments.integer("vocabulary", vocabulary, at_least=256 + len(SPECIAL))
    library = ByteLevelBPETokenizer()
    library.train_from_iterator(
        texts, vocabulary, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False
    )
    # Saved and loaded, as later uses do: training marks more tokens as special than OPT does.
    with tempfile.TemporaryDirectory() as directory:
        library.save_model(directory)
        return load(directory)


def _check_merges(vocabulary: Path, merges: Path) -> None:
    """Rejects a truncated merges.txt, which would tokenize texts differently."""
    lines = merges.read_text(encoding="utf-8").split("\n")
    made = {line.replace(" ", "") for line in lines if not line.startswith("#version")}
    entries = json.loads(vocabulary.read_text(encoding="utf-8"))
    missing = [w for w in entries if len(w) > 1 and w not in made and not _UNMERGED.fullmatch(w)]
    if missing:
        raise SettingError(
            f"expected all merges of {vocabulary.name} in {merges}, got none for {len(missing):,}"
            f" entries, such as {missing[0]!r}"
        )


def _tokenizer(library: Any, source: str) -> Tokenizer:
    begin, pad = (library.token_to_id(token) for token in (BEGIN, PAD))
    if begin is None or pad is None:
        raise SettingError(f"{source}: expected the tokens {BEGIN} and {PAD} in the vocabulary")
    # OPT's tokenizer has no other special tokens: "<unk>" in a text is ordinary text.
    library.add_special_tokens([BEGIN, PAD])
    return Tokenizer(library, begin, pad)
