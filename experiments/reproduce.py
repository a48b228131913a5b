"""All experiments in miniature, or at the papers' settings: figures and one report.html.

Claim: one offline command shows model collapse for every family of this package. `--preset=quick`
takes about four minutes on 2 cores; `--preset=paper` runs the papers' sizes, with WikiText-2 and
MNIST if they are found (--data_dir). Its mixtures alone need hours: extrapolated from a few
generations, timed on a busy machine, to all 2050, N = 10,000 takes 3 minutes, 50,000 half an hour
and 200,000 two hours; MNIST's autoencoders and OPT need an accelerator. Each run has its own
workdir under --workdir, so the same command resumes after an interruption.

  python -m experiments.reproduce --preset=quick
"""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from collapse_jax import arguments
from collapse_jax.config import RunConfig, SnapshotConfig

from . import launch
from .flags import call_with_flags, from_flagfile

if TYPE_CHECKING:
    from collapse_jax.family import Family
    from collapse_jax.reports.page import Section
    from collapse_jax.runner import Result

Preset = Literal["quick", "paper"]


@dataclasses.dataclass(frozen=True)
class ReproduceConfig:
    """Settings of the reproduction.

    Attributes:
      preset: miniatures ("quick"), or the papers' settings ("paper").
      workdir: directory of figures and report.
      data_dir: directory of the data sets; default $COLLAPSE_JAX_DATA, else a user cache directory.
    """

    preset: Preset = "quick"
    workdir: str = "runs/reproduce"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Rejects an unknown preset."""
        arguments.choice("preset", self.preset, get_args(Preset))


SETTINGS = (ReproduceConfig,)


@dataclasses.dataclass(frozen=True)
class _Scale:
    chains: int
    generations: int
    sizes: tuple[int, ...]
    draws: int
    mixture_sizes: tuple[int, ...]  # must contain 1,000, which gets all figures
    mixture_generations: int
    validation_chains: int  # per closed-form study


_SCALES = {
    "quick": _Scale(
        chains=2_000,
        generations=300,
        sizes=(100, 1_000),
        draws=10_000,
        mixture_sizes=(1_000,),
        mixture_generations=110,
        validation_chains=20_000,
    ),
    "paper": _Scale(
        chains=10_000,
        generations=1_000,
        sizes=(100, 500, 1_000, 10_000),
        draws=100_000,
        mixture_sizes=(500, 1_000, 10_000, 50_000, 200_000),
        mixture_generations=2_050,
        validation_chains=100_000,
    ),
}


def gaussian_sections(scale: _Scale, workdir: Path) -> "Iterator[Section]":
    """The paper's Gaussian for several M, and under several regimes."""
    from collapse_jax import regimes
    from collapse_jax.families import gaussian
    from collapse_jax.reports import figures, moment_figures, page
    from collapse_jax.results import closed_forms

    family = gaussian()
    run = functools.partial(_run, chains=scale.chains, generations=scale.generations)
    runs = {
        f"M = {size:,}": run(family, regimes.replace(size), workdir / f"gaussian_{size}")
        for size in scale.sizes
    }
    yield _section(next(iter(runs.values())))
    size = scale.sizes[0]
    ml = gaussian(estimator="ml")
    others = {
        "replace": regimes.replace(size),
        "fresh 10 %": regimes.fresh(size, 0.1),
        "preserve 10 %, fixed": regimes.preserve(size, 0.1, fixed=True),
        "accumulate": regimes.accumulate(size),
    }
    compared = {
        label: run(ml, regime, workdir / f"gaussian_ml_{regime.name}").summary
        for label, regime in others.items()
    }
    theory = {
        label: closed_forms.curves(ml, regime, scale.generations)
        for label, regime in others.items()
    }
    drawn = {
        "estimation_error": moment_figures.estimation_error(
            {k: r.history for k, r in runs.items()}
        ),
        "regimes": figures.overlay(compared, "log_variance", theory),
    }
    paths = figures.save(drawn, workdir / "gaussian_regimes")
    yield page.Section(
        "Sample sizes and regimes",
        "The paper's figure of estimation errors, for replace at several sample sizes; and the"
        f" log-variance at M = {size} (maximum likelihood) under four regimes: any lasting share of"
        " original data stops the collapse.",
        {"Errors of the fitted mean and standard deviation": paths["estimation_error"],
         "Log-variance by regime": paths["regimes"]},
        [],
    )  # fmt: skip


def discrete_sections(scale: _Scale, workdir: Path, data_dir: str | None) -> "Iterator[Section]":
    """Words of the standard library's help text; at the paper's settings also of WikiText-2."""
    from collapse_jax import regimes
    from collapse_jax.families import discrete
    from collapse_jax.reports import page

    from .discrete import original

    family = discrete(**original())
    regime = regimes.replace(scale.draws)
    yield _section(_run(family, regime, workdir / "discrete", chains=64, generations=100))
    if scale is not _SCALES["paper"]:
        return
    try:
        family = discrete(**original("wikitext-2", data_dir=data_dir))
    except FileNotFoundError as missing:
        print(f"skipped: {missing}")
        yield page.Section("WikiText-2", f"Did not run: {missing}")
        return
    regime = regimes.replace(2_088_628)
    yield _section(_run(family, regime, workdir / "discrete_wikitext", chains=16, generations=100))


def mixture_sections(scale: _Scale, workdir: Path) -> "Iterator[Section]":
    """The paper's mixture at its sample sizes, and one with original data kept."""
    from collapse_jax import regimes
    from collapse_jax.families import gmm
    from collapse_jax.reports import figures, files, page

    family, generations = gmm(), scale.mixture_generations
    run = functools.partial(_run, chains=64, generations=generations)
    results = {
        size: run(family, regimes.replace(size), workdir / f"gmm_{size}")
        for size in scale.mixture_sizes
    }
    size = 1_000
    result = results[size]
    snapshots = [g for g in (0, 50, 100, 150, 200, 350, 2000) if g < generations]
    yield files.write_all(str(result.config.workdir), result, snapshots)
    kept = run(family, regimes.preserve(size, 0.1), workdir / "gmm_preserve")
    by_size = {f"N = {n:,}": one.summary for n, one in results.items()}
    by_regime = {"replace": result.summary, "preserve 10 %": kept.summary}
    paths = figures.save(
        {name: figures.overlay(runs, "integrated_squared_error", {})
         for name, runs in (("sizes", by_size), ("regimes", by_regime))},
        workdir / "gmm_compared",
    )  # fmt: skip
    yield page.Section(
        "Mixtures by sample size, and with original data kept",
        f"The integral of (p - q)^2 over generations, for replace by N, and at N = {size:,} with a"
        " tenth of each training set from the original data, redrawn each generation: then the"
        " model stays near the original.",
        {"Integral of (p - q)^2 by N": paths["sizes"],
         "Integral of (p - q)^2 by regime": paths["regimes"]},
    )  # fmt: skip


def vae_sections(scale: _Scale, workdir: Path, data_dir: str | None) -> "Iterator[Section]":
    """Autoencoders of 8x8 digits; at the paper's settings also its convolutional one of MNIST."""
    from collapse_jax.families import vae
    from collapse_jax.families.vae.training import VaeTraining
    from collapse_jax.reports import page

    training = VaeTraining(epochs=40, batch=64)
    small = vae(hidden=64, latent=8, training=training, test_images=360)
    paper = scale is _SCALES["paper"]
    yield from _autoencoders(
        small,
        1_400,
        chains=4,
        generations=6,
        workdir=workdir / "vae_digits",
        with_preserve=paper,
    )
    if not paper:
        return
    try:
        mnist = vae("mnist", "conv", test_images=2_000, data_dir=data_dir)
    except FileNotFoundError as missing:
        print(f"skipped: {missing}")
        yield page.Section("MNIST", f"Did not run: {missing}")
        return
    yield from _autoencoders(
        mnist,
        60_000,
        chains=5,
        generations=21,
        workdir=workdir / "vae_mnist",
        with_preserve=True,
    )


def _autoencoders(
    family: "Family", size: int, chains: int, generations: int, workdir: Path, with_preserve: bool
) -> "Iterator[Section]":
    """A family of autoencoders; with `with_preserve` also with original images kept."""
    from collapse_jax import regimes
    from collapse_jax.reports import figures, files, page

    run = functools.partial(_run, chains=chains, generations=generations, every=1)
    result = run(family, regimes.replace(size), workdir)
    yield files.write_all(str(result.config.workdir), result, [0, 1, 2, 5, 10, 20])
    if not with_preserve:  # saves compiling again
        return
    kept = run(family, regimes.preserve(size, 0.1), workdir.with_name(f"{workdir.name}_preserve"))
    runs = {"replace": result.summary, "preserve 10 %": kept.summary}
    compared = figures.overlay(runs, "latent_sd", {})
    yield page.Section(
        f"Autoencoders with and without original images, M = {size:,}",
        "The spread of generated images in generation 0's latent space if all images are synthetic,"
        " and if a tenth of each training set is original.",
        figures.save({"regimes": compared}, workdir.with_name(f"{workdir.name}_regimes")),
    )


def language_sections(quick: bool, workdir: Path, data_dir: str | None) -> "Iterator[Section]":
    """A small model trained on its own text; at the paper's settings OPT-125m, (b) and (c)."""
    from collapse_jax.reports import page

    from . import language

    if not importlib.util.find_spec("tokenizers"):
        print("skipped: language models, which need the extra lm")
        yield page.Section("Language models", "Did not run: they need the extra lm.")
        return
    for name in ("quick",) if quick else ("paper_b", "paper_c"):
        path = Path(language.__file__).parent / "presets" / f"language_{name}.flags"
        defaults = {**language.DEFAULTS, "workdir": str(workdir / f"language_{name}")}
        compared, settings, small, snapshots, how = from_flagfile(
            path, *language.SETTINGS, given=language.GIVEN, **defaults
        )
        try:
            yield language.run(
                compared=language.Comparison(**compared),
                settings={**settings, "data_dir": data_dir},
                small=language.SmallModel(**small),
                snapshots=SnapshotConfig(**snapshots),
                how=RunConfig(**how),
            )
        except FileNotFoundError as missing:
            print(f"skipped: {missing}")
            yield page.Section(f"Language models, {name}", f"Did not run: {missing}")


def kde_section(scale: _Scale, workdir: Path) -> "Section":
    """Kernel densities: the variance for two bandwidths."""
    from collapse_jax import regimes
    from collapse_jax.families import kde
    from collapse_jax.reports import figures, page
    from collapse_jax.results import closed_forms

    size, length = 100, 100
    run = functools.partial(_run, chains=scale.chains // 4, generations=length)
    regime = regimes.replace(size)
    bandwidths: dict[str, Any] = {"h = 0.01": 0.01, "Scott": "scott"}
    families = {label: kde(size, bandwidth=bandwidth) for label, bandwidth in bandwidths.items()}
    runs = {
        label: run(families[label], regime, workdir / f"kde_{bandwidth}").summary
        for label, bandwidth in bandwidths.items()
    }
    theory = {
        label: closed_forms.curves(family, regime, length, heavy_tailed=True)
        for label, family in families.items()
    }
    paths = figures.save({"variance": figures.overlay(runs, "variance", theory)}, workdir / "kde")
    return page.Section(
        "Kernel densities",
        "Every fit widens the density by its bandwidth h. With a fixed h the variance settles at"
        f" M h^2 (here {size * 0.01**2:g}); with Scott's rule, in proportion to the standard"
        " deviation, it grows.",
        {"Variance by bandwidth": paths["variance"]},
    )


def regression_section(scale: _Scale, workdir: Path) -> "Section":
    """Linear regression: the excess risk under replace and accumulate."""
    from collapse_jax import regimes
    from collapse_jax.families import regression
    from collapse_jax.reports import figures, page
    from collapse_jax.results import closed_forms

    family, rows, length = regression(10), 100, 100
    chosen = {"replace": regimes.replace(rows), "accumulate": regimes.accumulate(rows)}
    runs = {
        label: _run(
            family,
            regime,
            workdir / f"regression_{label}",
            chains=scale.chains,
            generations=length,
        ).summary
        for label, regime in chosen.items()
    }
    theory = {
        label: closed_forms.curves(family, regime, length) for label, regime in chosen.items()
    }
    drawn = {"excess_risk": figures.overlay(runs, "excess_risk", theory)}
    paths = figures.save(drawn, workdir / "regression")
    return page.Section(
        "Linear regression",
        f"d = 10 weights fitted to T = {rows} rows labelled by the previous fit plus noise of"
        " variance 1. The excess risk grows by d / (T - d - 1) each generation; if data"
        " accumulate, it stays bounded (Gerstgrasser et al., arXiv 2404.01413).",
        {"Excess risk by regime": paths["excess_risk"]},
    )


def error_sources_section(quick: bool, workdir: Path) -> "Section":
    """The three error sources alone and together; with fewer chains and generations if `quick`."""
    from .error_sources import ErrorSourcesConfig, run

    small: dict[str, Any] = {"chains": 8, "generations": 21, "sizes": "100,1000,10000"}
    return run(ErrorSourcesConfig(workdir=str(workdir / "error_sources"), **small if quick else {}))


def checks_section(scale: _Scale, quick: bool) -> "Section":
    """Closed forms against chains."""
    from collapse_jax import validation
    from collapse_jax.reports import page

    checks = [
        check for study in validation.studies(scale.validation_chains, quick) for check in study()
    ]
    rows = [check.row for check in checks]
    return page.Section(
        "Closed forms",
        f"{len(checks)} closed forms against chains; the largest |z| is"
        f" {validation.worst(checks):.2f}."
        + (" All studies: python -m experiments.validate." if quick else ""),
        {},
        [page.Table("Measured and theoretical values after n fits", validation.COLUMNS, rows)],
    )


def _run(
    family: Any, regime: Any, workdir: Path, chains: int, generations: int, every: int = 100
) -> "Result":
    from collapse_jax import runner

    settings: dict[str, Any] = {
        "chains": chains,
        "generations": generations,
        "workdir": str(workdir),
    }
    # Checkpoints let an interrupted reproduction continue.
    return runner.run(family, regime, checkpoint_every=every, progress=True, **settings)


def _section(result: "Result") -> "Section":
    from collapse_jax.reports import files

    return files.write_all(str(result.config.workdir), result)


def main() -> None:
    """Runs everything and prints the time of each part."""
    from collapse_jax.reports import page
    from collapse_jax.saving.workdir import Workdir

    config = call_with_flags(ReproduceConfig)
    scale, workdir = _SCALES[config.preset], Workdir(config.workdir).path
    sections: list[Section] = []
    parts = {
        "gaussian": lambda: list(gaussian_sections(scale, workdir)),
        "discrete": lambda: list(discrete_sections(scale, workdir, config.data_dir)),
        "mixtures": lambda: list(mixture_sections(scale, workdir)),
        "kernel density": lambda: [kde_section(scale, workdir)],
        "regression": lambda: [regression_section(scale, workdir)],
        "error sources": lambda: [error_sources_section(config.preset == "quick", workdir)],
        "autoencoders": lambda: list(vae_sections(scale, workdir, config.data_dir)),
        "language models": lambda: list(
            language_sections(config.preset == "quick", workdir, config.data_dir)
        ),
        "closed forms": lambda: [checks_section(scale, config.preset == "quick")],
    }
    for name, part in parts.items():
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        sections += part()
        print(f"== {name}: {time.perf_counter() - began:.0f} s", flush=True)
    path = workdir / "report.html"
    page.write(path, f"Model collapse, preset {config.preset}", sections)
    print(f"report: {path}")


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
