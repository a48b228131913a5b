"""Architecture of an OPT model, as described by a Hugging Face config.json."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapse_jax import arguments
from collapse_jax.arguments import MissingFileError, SettingError

# Config field -> key of config.json, where they differ.
_KEYS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "ffn_dim",
    "positions": "max_position_embeddings",
    "vocabulary": "vocab_size",
    "embedding": "word_embed_proj_dim",
    "norm_before": "do_layer_norm_before",
    "begin": "bos_token_id",
    "end": "eos_token_id",
    "pad": "pad_token_id",
}
# Other entries of a config.json, with the one value that this port supports.
_KNOWN = {
    "model_type": "opt",
    "activation_function": "relu",
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "layerdrop": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture of a model.

    Attributes:
      vocabulary: number of rows of the embedding; token ids are below it.
      hidden: width of the residual stream.
      layers: number of layers.
      heads: number of attention heads per layer; a divisor of `hidden`.
      inner: width of the feed-forward layers.
      positions: maximum sequence length, tokens.
      embedding: width of the word embedding; if it is not `hidden` (350m), linear projections
        connect the two.
      norm_before: LayerNorm before attention and feed-forward; if False, after them (350m).
      final_norm: LayerNorm after the last layer; requires `norm_before`.
      dropout: dropout rate of the outputs of attention and feed-forward, in training.
      begin, end, pad: ids of these tokens. OPT begins every text with "</s>".
      init_std: standard deviation of new weights.
    """

    vocabulary: int = 50272
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    positions: int = 2048
    embedding: int = 768
    norm_before: bool = True
    final_norm: bool = True
    dropout: float = 0.1
    begin: int = 2
    end: int = 2
    pad: int = 1
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Checks every field; raises SettingError."""
        for name in ("vocabulary", "hidden", "layers", "heads", "inner", "positions", "embedding"):
            checked = arguments.integer(name, getattr(self, name), at_least=1)
            object.__setattr__(self, name, checked)
        if self.hidden % self.heads:
            raise SettingError(
                f"heads: expected a divisor of hidden = {self.hidden}, got {self.heads}"
            )
        if self.final_norm and not self.norm_before:
            raise SettingError("final_norm: expected False where norm_before is False")
        object.__setattr__(self, "dropout", arguments.share("dropout", self.dropout, below=1))
        for name in ("begin", "end", "pad"):
            if not 0 <= getattr(self, name) < self.vocabulary:
                raise SettingError(
                    f"{name}: expected an id below vocabulary = {self.vocabulary},"
                    f" got {getattr(self, name)}"
                )

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


def from_json(values: Mapping[str, Any], source: str = "config") -> Config:
    """A config from the entries of a config.json; missing entries take OPT's defaults.

    Args:
      values: the entries.
      source: name of their source in error messages.

    Raises:
      ValueError: for another architecture, or a value that this port does not support.
    """
    if values.get("model_type") != "opt":
        raise SettingError(
            f"{source}: model_type: expected 'opt', got {values.get('model_type')!r}; no other"
            " architecture is supported"
        )
    for key, known in _KNOWN.items():
        if values.get(key, known) != known:
            raise SettingError(f"{source}: {key}: expected {known!r}, got {values[key]!r}")
    given: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        key = _KEYS.get(field.name, field.name)
        if key in values:
            given[field.name] = _typed(values[key], field.type, f"{source}: {key}")
    given.setdefault("embedding", given.get("hidden", Config.hidden))
    before = given.get("norm_before", True)
    given["final_norm"] = before and not values.get("_remove_final_layer_norm", False)
    try:
        return Config(**given)
    except ValueError as error:
        raise SettingError(f"{source}: {error}") from error


def read_config(path: Path) -> Config:
    """The config in a config.json.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a JSON object, or does not describe an OPT model.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"expected a config.json at {path}, but there is none") from None
    except (OSError, ValueError) as error:
        raise SettingError(f"expected JSON at {path}, but reading it failed: {error}") from error
    if not isinstance(values, dict):
        raise SettingError(f"expected a JSON object at {path}, got a {type(values).__name__}")
    return from_json(values, str(path))


def to_json(config: Config) -> dict[str, Any]:
    """Entries of a config.json that transformers can read."""
    values = {
        _KEYS.get(field.name, field.name): getattr(config, field.name)
        for field in dataclasses.fields(Config)
        if field.name != "final_norm"
    }
    return {
        "architectures": ["OPTForCausalLM"],
        **_KNOWN,
        **values,
        "_remove_final_layer_norm": config.norm_before and not config.final_norm,
    }


def _typed(value: Any, kind: Any, name: str) -> Any:
    """Returns the value if it has the field's type; integers are accepted as floats."""
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise SettingError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value
