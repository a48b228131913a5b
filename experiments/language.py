r"""OPT fine-tuned on its own beam-searched text, generation after generation.

Claim (Shumailov et al. 2024): fine-tuned on text that the generation before wrote, OPT-125m's
perplexity on real text rises from 34 by 20 to 28 within 9 generations, and hardly if a tenth of the
original text is kept; what is written concentrates on what generation 0 found likely, with a
growing tail of what it found unlikely. `quick` trains a small model first, on Python's help text:

  python -m experiments.language --flagfile=experiments/presets/language_quick.flags \
    --workdir=runs/language

The paper's settings (b) and (c), for a GPU or TPU, interrupted at will:

  python -m experiments.language --flagfile=experiments/presets/language_paper_b.flags \
    --workdir=runs/language_paper
"""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax.arguments import SettingError
from collapse_jax.config import RunConfig, SnapshotConfig, from_flags

from . import launch
from .family_flags import LanguageConfig, SmallModelConfig

if TYPE_CHECKING:
    from collapse_jax.families.language.blocks import Counts
    from collapse_jax.family import Family
    from collapse_jax.lm.finetune import Perplexity
    from collapse_jax.regimes import Regime
    from collapse_jax.reports.page import Section
    from collapse_jax.runner import Result

    from .pretraining import Small

CONFIGS = (LanguageConfig, SmallModelConfig, SnapshotConfig, RunConfig)
# Where a flagfile or a command line says nothing.
DEFAULTS: dict[str, Any] = {
    "workdir": "runs/language", "chains": 3, "generations": 10, "checkpoint_every": 1,
    "checkpoint_seconds": 180.0, "chains_per_batch": 1, "snapshots": "0,1,2,3,5,9",
    "keep": "chains",
}  # fmt: skip
# Of the experiment's settings, those that are not the family's.
_OF_ARMS = ("base", "arms", "real_fraction")
# Metrics that arms are compared by, and figures that each arm has of its own.
_COMPARED = ("test_perplexity", "tail_mass", "distinct_3", "text_log_perplexity")
_OWN = ("perplexity_density", "survival")


def run(
    config: LanguageConfig, small: SmallModelConfig, snapshots: SnapshotConfig, how: RunConfig
) -> "Section":
    """Runs every arm in a directory of its own under the workdir; writes a report of them together.

    Returns:
      The report's section.

    Raises:
      ValueError: for settings that cannot be run; before anything is trained, where that is known.
    """
    from collapse_jax.engine import planning
    from collapse_jax.saving.workdir import Workdir

    _check(config, small, how)
    arms, directory = config.listed, Workdir(str(how.workdir)).path
    base, skip = config.base, 0.0
    if base is None:
        base, skip = str(directory / "base"), small.pretraining_share
        _pretrain(config, small, Path(directory), how.seed)
    family_of = functools.cache(functools.partial(_family, config, base, skip))
    pairs = {}
    for name, epochs in arms:
        family = family_of(epochs)
        regime = _regime(name, family.config["blocks"], config.real_fraction)
        planning.check_pair(family, regime, how.generations)
        pairs[f"{name}, {epochs} epoch{'s'[: epochs > 1]}"] = (
            family,
            regime,
            directory / f"{name}_{epochs}",
        )
    zero_shot = _zero_shot(config, base, skip, family_of(arms[0][1]), directory)
    results = {}
    for label, (family, regime, place) in pairs.items():
        settings = dataclasses.replace(how, workdir=str(place))
        results[label] = launch.run(family, regime, settings, snapshots.generations)
    places = {label: place / "plots" for label, (_, _, place) in pairs.items()}
    return _write(config, base, snapshots.generations, zero_shot, results, directory, places)


def _check(config: LanguageConfig, small: SmallModelConfig, how: RunConfig) -> None:
    """Refuses what can be known to be wrong before anything is read or trained."""
    from collapse_jax.families.language import blocks, writing
    from collapse_jax.lm import finetune

    from . import pretraining

    if not importlib.util.find_spec("tokenizers"):
        raise SettingError("language models need the extra lm: pip install 'collapse_jax[lm]'")
    if how.workdir is None:
        raise SettingError("workdir: expected a path; the arms and the small model are kept there")
    if config.base is None:
        if "://" in how.workdir:
            raise SettingError(
                f"workdir: expected a local path, where the small model is trained, got"
                f" {how.workdir}; or a --base"
            )
        pretraining.check(_small(small))
    blocks.check_length(config.length)
    given = dataclasses.asdict(config)
    names = set(finetune.Settings._fields) & set(given)
    finetune.Settings(**{name: given[name] for name in names}).check()
    names = set(writing.Decoder._fields) & set(given) - {"batch"}
    decoder = writing.Decoder(config.decoder, batch=config.decode_batch)
    decoder._replace(**{name: given[name] for name in names}).check()


def _small(config: SmallModelConfig) -> "Small":
    from .pretraining import Small

    values = dataclasses.asdict(config)
    for name in ("share", "epochs", "batch"):
        values[name] = values.pop(f"pretraining_{name}")
    return Small(learning_rate=values.pop("pretraining_rate"), **values)


def _pretrain(config: LanguageConfig, small: SmallModelConfig, directory: Path, seed: int) -> None:
    from collapse_jax.data.text_splits import load_text
    from collapse_jax.families.language import blocks
    from collapse_jax.lm import finetune

    from . import pretraining

    text, opt = load_text(config.dataset, config.data_dir, config.data_revision), _small(small)
    words = pretraining.tokenizer_of(directory, text, opt)
    # What the chains are to read is looked at before, not after, hours of training.
    chains = blocks.cut(words, text, config.length, opt.share, _counts(config))
    finetune.check_batch(len(chains.train), config.batch)
    pretraining.pretrain(directory, words, text, opt, config.length, seed)


def _counts(config: LanguageConfig) -> "Counts":
    from collapse_jax.families.language.blocks import Counts

    return Counts(config.blocks, config.validation_blocks, config.test_blocks)


def _family(config: LanguageConfig, base: str, skip: float, epochs: int) -> "Family":
    from collapse_jax.families import language

    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OF_ARMS}
    return language(base, skip=skip, epochs=epochs, **values)


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
    config: LanguageConfig, base: str, skip: float, family: "Family", directory: Any
) -> "Perplexity":
    """The pretrained model's perplexities on the test, which are kept beside the arms."""
    from collapse_jax.data import files
    from collapse_jax.data.text_splits import load_text
    from collapse_jax.families.language import base as bases
    from collapse_jax.families.language import blocks
    from collapse_jax.lm import finetune, opt

    names = "base", "dataset", "length", "test_blocks", "dtype"
    identity = {name: family.config[name] for name in names}
    path = directory / "zero_shot.json"
    if (stored := _stored(path, identity)) is not None:
        return stored
    pretrained = bases.load(base, config.revision)
    text = load_text(config.dataset, config.data_dir, config.data_revision)
    test = blocks.cut(pretrained.words, text, config.length, skip, _counts(config)).test
    found = finetune.evaluate(opt.model(pretrained.config, config.dtype), pretrained.params, test)
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps({"of": identity, "perplexity": found}, indent=2) + "\n")
    return found


def _stored(path: Any, identity: dict[str, Any]) -> "Perplexity | None":
    """What an earlier call found; None if there was none, of something else, or cut short."""
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
    config: LanguageConfig,
    base: str,
    generations: list[int],
    zero_shot: "Perplexity",
    arms: "dict[str, Result]",
    directory: Any,
    places: "dict[str, Any]",
) -> "Section":
    """The report of all arms, with the figures that each has drawn into its place."""
    from collapse_jax.data.text_splits import load_text
    from collapse_jax.families.language import base as bases
    from collapse_jax.reports import figures, language_tables, page

    words = bases.load(base, config.revision).words
    family = next(iter(arms.values())).family.config
    text = load_text(config.dataset, config.data_dir, config.data_revision)
    summaries = {label: result.summary for label, result in arms.items()}
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
        language_tables.perplexities(arms),
        language_tables.perplexities(arms, language_tables.OF_CORPUS),
    ]
    prompt = words.decode(family["prompt_ids"])
    if (table := language_tables.continuations(arms, words, generations, prompt)) is not None:
        tables.append(table)
    section = page.Section(
        f"Language models on {text.title}",
        language_tables.in_words(arms, zero_shot, text.sources),
        drawn,
        tables,
    )
    (directory / "perplexity.csv").write_text(language_tables.as_csv(arms))
    page.write(directory / "report.html", section.heading, [section])
    return section


def main() -> None:
    """Runs the experiment that the flags describe."""
    config, small, snapshots, how = (from_flags(kind) for kind in CONFIGS)
    section = run(config, small, snapshots, how)
    print(section.text.replace("\n\n", "\n"))
    print(f"written to {how.workdir}")


if __name__ == "__main__":
    launch.define(*CONFIGS, **DEFAULTS)
    launch.start(main)
