r"""The three error sources of model collapse, each alone, and their sum against the whole process.

Claim (Shumailov et al. 2024): statistical error vanishes with M but returns every generation,
expressivity acts at generation 0 only, and approximation error lasts even with infinite data and
the right class. Measured here for a Gaussian, a Gaussian mixture and a small neural density, from
generation 0 to 50: statistical error goes as 1/M at generation 0 and more steeply at generation 50,
expressivity costs 0.177, 0.082 and 0.090 nats at generation 0 and nothing after it, approximation
grows, but levels off for the mixture and the neural density. The whole process is 1.00, 1.36 and
0.98 times the sum of the three at generation 0, and 1.05, 0.39 and 0.34 times at generation 50,
standard errors 0.07, 0.05 and 0.03. About 35 s on 2 cores. Grid points are 0.04 apart, which
changes integrals of the narrowest allowed component (standard deviation 0.1) by less than 1e-12.

  python -m experiments.error_sources --workdir=runs/error_sources
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax import arguments
from collapse_jax.arguments import SettingError

from . import launch
from .flags import call_with_flags

if TYPE_CHECKING:
    from collapse_jax.reports.page import Section


@dataclasses.dataclass(frozen=True)
class ErrorSourcesConfig:
    """Settings of the study; sizes of the model classes follow from the original.

    Attributes:
      workdir: directory of the results.
      generations: number of fits, generation 0 included, at least 2.
      chains: chains of each sample size, at least 2.
      sizes: sample sizes M of the statistical study, comma-separated, each in [10, 10^8].
      samples: M of the whole process; one of --sizes.
      seed: seed of all random numbers, an integer in [0, 2^32).
      truth: modes of the original: weights, means and covariances of one dimension as JSON or in
        a file, in data units within [-10, 10]; default three modes.
      gaussian_steps: gradient steps of the Gaussian's early fit.
      mixture_steps: EM steps of the mixture's early fit.
      neural_steps: Adam steps of the neural density's early fit.
    """

    workdir: str = "runs/error_sources"
    generations: int = 51
    chains: int = 32
    sizes: str = "100,1000,10000,100000,1000000"
    samples: int = 1000
    seed: int = 0
    truth: str | None = None
    gaussian_steps: int = 15
    mixture_steps: int = 20
    neural_steps: int = 60

    def __post_init__(self) -> None:
        """Rejects values outside their range."""
        from collapse_jax.error_sources.truth import parse_modes

        for name in ("gaussian_steps", "mixture_steps", "neural_steps"):
            arguments.integer(name, getattr(self, name), at_least=1)
        # Lasting errors need two generations to show, and a standard error needs two chains.
        arguments.integer("generations", self.generations, at_least=2)
        arguments.integer("chains", self.chains, at_least=2)
        arguments.integer("seed", self.seed, at_least=0, below=2**32)
        if not self.workdir:
            raise SettingError(f"workdir: expected a path, got {self.workdir!r}")
        if self.samples not in self.listed:
            raise SettingError(f"samples: expected one of sizes {self.sizes}, got {self.samples}")
        parse_modes(self.truth)

    @property
    def listed(self) -> list[int]:
        """All values of M, ascending."""
        try:
            sizes = sorted({int(part) for part in self.sizes.split(",")})
        except ValueError:
            raise SettingError(
                f"sizes: expected comma-separated integers, got {self.sizes!r}"
            ) from None
        if sizes[0] < 10 or sizes[-1] > 10**8:
            raise SettingError(f"sizes: expected integers in [10, 10^8], got {self.sizes!r}")
        return sizes


SETTINGS = (ErrorSourcesConfig,)
# Steps of exact fits in each generation; docs/results.md says how close they come to the maximum.
EXACT_STEPS = {"gmm": 60, "neural": 30}


def run(config: ErrorSourcesConfig) -> "Section":
    """Runs the study and writes its files.

    Returns:
      The report's section.

    Raises:
      ValueError: if the workdir cannot be written or holds another study.
    """
    from collapse_jax.error_sources import figure, study, summary, words
    from collapse_jax.error_sources.truth import parse_modes
    from collapse_jax.reports import figures, files, page
    from collapse_jax.saving.workdir import Workdir

    directory = Workdir(config.workdir)
    text = _identity(config, directory)
    truth = parse_modes(config.truth)
    steps = config.gaussian_steps, config.mixture_steps, config.neural_steps
    early = dict(zip(study.CLASSES, steps, strict=True))
    classes = study.make_learners(truth, early, EXACT_STEPS)
    began = time.perf_counter()
    found = study.study(
        truth,
        config.listed,
        config.samples,
        chains=config.chains,
        generations=config.generations,
        seed=config.seed,
        classes=classes,
    )
    seconds = time.perf_counter() - began
    found.attrs["config"] = text
    local = Path(directory.path)
    directory.write_text("config.json", text)
    files.write_history(local / "history.nc", found)
    summary.write_csv(local / "summary.csv", found)
    paths = figures.save({"error_sources": figure.error_sources(found)}, local / "plots")
    section = page.Section(
        "Error sources",
        f"{words.in_words(found)}\n\nSeed {config.seed}; {seconds:.1f} seconds.",
        {"Each source alone, and their sum against the whole": paths["error_sources"]},
        [summary.table(found)],
    )
    page.write(local / "report.html", "Error sources of model collapse", [section])
    return section


def _identity(config: ErrorSourcesConfig, directory: Any) -> str:
    """New content of config.json; rejects a directory that holds another study."""
    from collapse_jax.config import differences
    from collapse_jax.families.gmm import originals

    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "workdir"}
    if config.truth is not None:  # a file's content, not its path
        settings["truth"] = originals.load_original(config.truth).config
    path = directory.path / "config.json"
    if path.exists():
        try:
            stored = json.loads(path.read_bytes())
        except ValueError as error:
            raise SettingError(f"workdir: {path} cannot be read: {error}") from error
        changed = differences(stored, settings)
        if changed:
            raise SettingError(
                f"workdir: {directory.path} holds another study ({'; '.join(changed)}); use another"
                " workdir or the same settings"
            )
    return json.dumps(settings, indent=2) + "\n"


def main() -> None:
    """Runs the study that the flags describe."""
    config = call_with_flags(ErrorSourcesConfig)
    section = run(config)
    print(section.text.replace("\n\n", "\n"))
    print(f"written to {config.workdir}")


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
