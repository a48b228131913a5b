r"""OPT fine-tuned on its own beam-searched text, generation after generation.

Claim (Shumailov et al. 2024): fine-tuned on text of the previous generation's model, OPT-125m's
perplexity on real text rises from 34 by 20 to 28 within 9 generations, but hardly if a tenth of the
original text is kept; generated text concentrates on sequences that generation 0 finds likely, with
a growing tail of ones that it finds unlikely. `quick` first trains a small model on Python's help
text:

  python -m experiments.language --flagfile=experiments/presets/language_quick.flags \
    --workdir=runs/language

The paper's settings (b), and likewise (c), for a GPU or TPU; can be interrupted any time:

  python -m experiments.language --flagfile=experiments/presets/language_paper_b.flags \
    --workdir=runs/language_paper
"""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.config import RunConfig, SnapshotConfig
from collapse_jax.families import language

from . import launch
from .flags import call_with_flags, from_flags
from .pretraining import SmallModel

if TYPE_CHECKING:
    from collapse_jax.data.text_splits import Text
    from collapse_jax.family import Family
    from collapse_jax.lm.finetune import Perplexity
    from collapse_jax.regimes import Regime
    from collapse_jax.reports.page import Section
    from collapse_jax.runner import Result

REGIMES = ("replace", "preserve", "accumulate", "subsample")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Conditions to compare.

    Attributes:
      base: the pretrained model: a directory, or an id on the Hugging Face hub such as
        facebook/opt-125m; default a small model that is trained first.
      arms: conditions to compare, regime:epochs, comma-separated; regimes are replace, preserve,
        accumulate and subsample. Each has a directory in the workdir; the report covers the
        conditions of the last call.
      real_fraction: share of original blocks under the regime preserve.
    """

    base: str | None = None
    arms: str = "replace:5,preserve:5"
    real_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Rejects invalid conditions, and shares outside [0, 1]."""
        arguments.share("real_fraction", self.real_fraction)
        assert self.listed

    @property
    def listed(self) -> list[tuple[str, int]]:
        """(regime, epochs) of each condition."""
        found = []
        for arm in self.arms.split(","):
            regime, _, epochs = arm.partition(":")
            if regime not in REGIMES or not epochs.isdecimal() or int(epochs) < 1:
                raise SettingError(
                    f"arms: expected regime:epochs with a regime of {', '.join(REGIMES)} and at"
                    f" least one epoch, got {arm!r}"
                )
            found.append((regime, int(epochs)))
        if len(set(found)) < len(found):
            raise SettingError(f"arms: expected each once, got {self.arms!r}")
        return found


SETTINGS = (Comparison, language, SmallModel, SnapshotConfig, RunConfig)
GIVEN = ("skip", "epochs")  # set by the small model and by the conditions, respectively
# Defaults of flags that differ from those of the functions.
DEFAULTS: dict[str, Any] = {
    "workdir": "runs/language", "chains": 3, "generations": 10, "checkpoint_every": 1,
    "checkpoint_seconds": 180.0, "chains_per_batch": 1, "snapshots": "0,1,2,3,5,9",
    "keep": "chains",
}  # fmt: skip
# Metrics that are compared between conditions, and figures that are shown for each condition.
_COMPARED = ("test_perplexity", "tail_mass", "distinct_3", "text_log_perplexity")
_OWN = ("perplexity_density", "survival")


def run(
    compared: Comparison,
    settings: dict[str, Any],
    small: SmallModel,
    snapshots: SnapshotConfig,
    how: RunConfig,
) -> "Section":
    """Runs each condition in a separate directory under the workdir, and writes a joint report.

    Args:
      compared: the conditions, and the pretrained model.
      settings: arguments of `language` by name, except for `base`; `skip` and the number of epochs
        are replaced.
      small: the model that is trained first if there is no base.
      snapshots: generations shown in figures and tables.
      how: settings of the runs.

    Returns:
      The report's section.

    Raises:
      ValueError: for invalid settings; before any training if possible.
    """
    from collapse_jax.engine import planning
    from collapse_jax.saving.workdir import Workdir

    _check(compared, settings, small, how)
    conditions, directory = compared.listed, Workdir(str(how.workdir)).path
    base, skip = compared.base, 0.0
    if base is None:
        base, skip = str(directory / "base"), small.pretraining_share
        _pretrain(settings, small, Path(directory), how.seed)
    family_of = functools.cache(functools.partial(_family, settings, base, skip))
    pairs = {}
    for name, epochs in conditions:
        family = family_of(epochs)
        regime = _regime(name, family.config["blocks"], compared.real_fraction)
        planning.check_pair(family, regime, how.generations)
        pairs[f"{name}, {epochs} epoch{'s'[: epochs > 1]}"] = (
            family,
            regime,
            directory / f"{name}_{epochs}",
        )
    first = family_of(conditions[0][1])
    zero_shot = _zero_shot(settings, base, skip, family=first, directory=directory)
    results = {}
    for label, (family, regime, place) in pairs.items():
        config = dataclasses.replace(how, workdir=str(place))
        results[label] = launch.run(family, regime, config, snapshots.generations)
    places = {label: place / "plots" for label, (_, _, place) in pairs.items()}
    return _write(
        settings,
        base,
        generations=snapshots.generations,
        zero_shot=zero_shot,
        runs=results,
        directory=directory,
        places=places,
    )


def _check(
    compared: Comparison, settings: dict[str, Any], small: SmallModel, how: RunConfig
) -> None:
    """Rejects invalid settings before anything is read or trained."""
    from collapse_jax.families.language import blocks
    from collapse_jax.families.language.family import check_settings

    from . import pretraining

    if not importlib.util.find_spec("tokenizers"):
        raise SettingError("language models need the extra lm: pip install 'collapse_jax[lm]'")
    if how.workdir is None:
        raise SettingError(
            "workdir: expected a path for the conditions and the small model, got None"
        )
    if compared.base is None:
        if "://" in how.workdir:
            raise SettingError(
                f"workdir: expected a local path, since the small model is trained there, or a"
                f" --base; got {how.workdir}"
            )
        pretraining.check(small)
    blocks.check_length(settings["length"])
    check_settings(*(settings[name] for name in ("start", "dtype", "training", "decoding")))


def _pretrain(settings: dict[str, Any], small: SmallModel, directory: Path, seed: int) -> None:
    from collapse_jax.families.language import blocks
    from collapse_jax.lm import finetune

    from . import pretraining

    text, length = _text(settings), settings["length"]
    tokenizer = pretraining.tokenizer_of(directory, text, small)
    # The chains' text is checked before hours of training, not after.
    chains = blocks.cut_blocks(
        tokenizer, text, length, skip=small.pretraining_share, counts=settings["counts"]
    )
    finetune.check_batch(len(chains.train), settings["training"].batch)
    pretraining.pretrain(directory, tokenizer, text, small=small, length=length, seed=seed)


def _text(settings: dict[str, Any]) -> "Text":
    from collapse_jax.data.text_splits import load_text

    return load_text(*(settings[name] for name in ("dataset", "data_dir", "data_revision")))


def _family(settings: dict[str, Any], base: str, skip: float, epochs: int) -> "Family":
    training = settings["training"]._replace(epochs=epochs)
    return language(base, **{**settings, "skip": skip, "training": training})


def _regime(name: str, blocks: int, fraction: float) -> "Regime":
    from collapse_jax import regimes

    if name == "preserve":
        return regimes.preserve(blocks, fraction)
    simple = {
        "replace": regimes.replace,
        "accumulate": regimes.accumulate,
        "subsample": regimes.subsample,
    }
    return simple[name](blocks)


def _zero_shot(
    settings: dict[str, Any], base: str, skip: float, family: "Family", directory: Any
) -> "Perplexity":
    """The pretrained model's perplexities on the test text, cached in the workdir."""
    from collapse_jax.atomic import replacing
    from collapse_jax.families.language import blocks
    from collapse_jax.families.language.base import load
    from collapse_jax.lm import finetune, opt

    names = "base", "dataset", "length", "test_blocks", "dtype"
    identity = {name: family.config[name] for name in names}
    path = directory / "zero_shot.json"
    if (stored := _stored(path, identity)) is not None:
        return stored
    pretrained, text = load(base, settings["revision"]), _text(settings)
    cut = blocks.cut_blocks(
        pretrained.tokenizer, text, length=settings["length"], skip=skip, counts=settings["counts"]
    )
    network = opt.model(pretrained.config, settings["dtype"])
    found = finetune.evaluate(network, pretrained.params, cut.test)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"of": identity, "perplexity": found}, indent=2) + "\n")
    return found


def _stored(path: Any, identity: dict[str, Any]) -> "Perplexity | None":
    """The result of an earlier call; None if it is missing, incomplete or of other settings."""
    from collapse_jax.lm.finetune import Perplexity

    try:
        stored = json.loads(path.read_text())
        mean_of_blocks, of_corpus = stored["perplexity"]
        if stored["of"] == identity:
            return Perplexity(float(mean_of_blocks), float(of_corpus))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    return None


def _write(
    settings: dict[str, Any],
    base: str,
    generations: list[int],
    zero_shot: "Perplexity",
    runs: "dict[str, Result]",
    directory: Any,
    places: "dict[str, Any]",
) -> "Section":
    """Writes the joint report, with the figures that each run has written into its place."""
    from collapse_jax.families.language.base import load
    from collapse_jax.reports import figures, language_tables, page

    tokenizer = load(base, settings["revision"]).tokenizer
    family = next(iter(runs.values())).family.config
    text = _text(settings)
    summaries = {label: result.summary for label, result in runs.items()}
    start = {_COMPARED[0]: ("before any fine-tuning", zero_shot.mean_of_blocks)}
    compared = {name: figures.overlay(summaries, name, {}, start.get(name)) for name in _COMPARED}
    drawn = {
        name.replace("_", " "): path
        for name, path in figures.save(compared, directory / "plots").items()
    }
    for label, place in places.items():
        for name in _OWN:
            drawn[f"{name.replace('_', ' ')}: {label}"] = place / f"{name}.png"
    tables = [
        language_tables.perplexities(runs),
        language_tables.perplexities(runs, language_tables.OF_CORPUS),
    ]
    prompt = tokenizer.decode(family["prompt_ids"])
    if (table := language_tables.continuations(runs, tokenizer, generations, prompt)) is not None:
        tables.append(table)
    section = page.Section(
        f"Language models on {text.title}",
        language_tables.summary_text(runs, zero_shot, text.sources),
        drawn,
        tables,
    )
    (directory / "perplexity.csv").write_text(language_tables.as_csv(runs))
    page.write(directory / "report.html", section.heading, [section])
    return section


def main() -> None:
    """Runs the experiment that the flags describe."""
    how = call_with_flags(RunConfig)
    section = run(
        compared=call_with_flags(Comparison),
        settings=from_flags(language),
        small=call_with_flags(SmallModel),
        snapshots=call_with_flags(SnapshotConfig),
        how=how,
    )
    print(section.text.replace("\n\n", "\n"))
    print(f"written to {how.workdir}")


if __name__ == "__main__":
    launch.define(*SETTINGS, given=GIVEN, **DEFAULTS)
    launch.start(main)
