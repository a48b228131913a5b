"""How fast the compiled segment of `run()` is beside its peers, and what saving costs.

Claim: on two cores a Gaussian chain whose samples are drawn as moments advances at least 15 times
as fast as with NumPy's M = 100 rows, more than 1000 times at M = 10,000 (O(1) against O(M)), and at
about the speed of the same O(1) recursion in NumPy; drawing M = 1000 rows, at least 1.5 times; the
words of WikiText-2 about as fast as `Generator.multinomial` or faster; mixtures at N = 10,000 at
least 8 times as fast as scikit-learn's; kernel densities at least 10 times as fast as
scikit-learn's and faster than NumPy's, even those that measure nothing; regressions at least 5
times as fast as NumPy on T = 100 rows, and about as fast as the same O(d^2) recursion in NumPy;
error sources of a mixture at least 10 times as fast as scikit-learn at M = 1000, of a Gaussian
slower than NumPy's rows at M = 1000 (the grid costs the same for every M) and faster at M =
100,000; autoencoders trained 1.6 times (one hidden layer) and as fast (convolutional) as in
PyTorch, which the `benchmark` extra brings, and 8 chains at most 8.8 times the time of one; beam
search of OPT-125m at least 1.5, 2 and 4 times as fast as transformers' at 4, 16 and 64 prompts, a
step of fine-tuning 1.2 times (processors with AVX-512; with AVX2 3.7 times at 64, and no faster); a
whole generation of both; a checkpoint every 50 generations costs less than 5 % (missed: see
docs/benchmarks.md). Both sides alternate in one process; medians; our time includes the default
metrics and fetching the record. More than an hour on two quiet cores, most of it
transformers' beam search:

  python -m experiments.benchmark --suite=all --data_dir=...
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from collapse_jax import arguments

from . import launch
from .flags import call_with_flags

if TYPE_CHECKING:
    from .benchmarks.timing import Case

Suite = Literal[
    "gaussian", "discrete", "gmm", "kde", "regression", "error_sources", "vae", "beam", "finetune",
    "language", "checkpoint", "all",
]  # fmt: skip
SUITES: tuple[Suite, ...] = get_args(Suite)
WITH_PEERS = (
    "vae",
    "beam",
    "finetune",
    "language",
)  # what these compare with is the extra `benchmark`


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Attributes:
      suite: what to measure.
      repeats: timings of which the median is taken, at least 5.
      chains: chains of the Gaussian and checkpoint suites.
      data_dir: where WikiText-2 is; none: $COLLAPSE_JAX_DATA, else a user cache directory.
    """

    suite: Suite = "all"
    repeats: int = 7
    chains: int = 100_000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuses values outside their range."""
        arguments.choice("suite", self.suite, SUITES)
        arguments.integer("repeats", self.repeats, at_least=5)
        arguments.integer("chains", self.chains, at_least=1)


def measure(config: BenchmarkConfig) -> "Iterator[Case]":
    """The cases of one suite, as they are measured."""
    from .benchmarks import (
        checkpoint,
        discrete,
        error_sources,
        gaussian,
        gmm,
        kde,
        language,
        opt,
        regression,
        vae,
    )

    if config.suite == "gaussian":
        yield from gaussian.cases(config.chains, config.repeats)
    elif config.suite == "discrete":
        yield from discrete.cases(repeats=config.repeats, data_dir=config.data_dir)
    elif config.suite == "gmm":
        launch.use_all_cores()
        yield from gmm.cases(repeats=config.repeats)
    elif config.suite == "kde":
        yield from kde.cases(repeats=config.repeats)
    elif config.suite == "regression":
        yield from regression.cases(repeats=config.repeats)
    elif config.suite == "error_sources":
        yield from error_sources.cases(repeats=config.repeats)
    elif config.suite == "vae":
        yield from vae.cases(repeats=config.repeats)
    elif config.suite == "beam":
        yield from opt.beam_cases(repeats=config.repeats)
    elif config.suite == "finetune":
        yield from opt.finetune_cases(repeats=config.repeats)
    elif config.suite == "language":
        yield from language.cases(repeats=config.repeats)
    else:
        yield from checkpoint.cases(config.chains)


def measure_all(config: BenchmarkConfig) -> Iterator[str]:
    """Lines of JSON of every suite, each in a process of its own: none inherits another's state."""
    for suite in SUITES[:-1]:
        if suite in WITH_PEERS and not importlib.util.find_spec("transformers"):
            print(f"skipped: {suite}, whose peers are the extra benchmark", file=sys.stderr)
            continue
        settings = dataclasses.asdict(dataclasses.replace(config, suite=suite))
        flags = [f"--{name}={value}" for name, value in settings.items() if value is not None]
        command = [sys.executable, "-m", f"{__package__}.benchmark", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield from (line for line in process.stdout if line.startswith("{"))
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)


def print_table(records: list[dict[str, Any]]) -> None:
    """The cases side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Medians of interleaved timings; a ratio above 1 is in our favour")
    for name in ("suite", "case", "peer", "target", "note"):
        table.add_column(name, overflow="fold")
    for name in ("ours", "peer's", "unit", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        unit = record["unit"].replace("chain-generations", "c-g")
        numbers = [f"{record[name]:,.4g}" if record[name] < 1e4 else f"{record[name] / 1e6:.3g} M"
                   for name in ("ours", "peer")]  # fmt: skip
        texts = [record["suite"], record["case"], record["peer_name"],
                 record.get("target", ""), record.get("note", "")]  # fmt: skip
        table.add_row(*texts, *numbers, unit, f"{record['ratio']:,.4g}")
    Console(width=max(140, Console().width)).print(table)


SETTINGS = (BenchmarkConfig,)


def main() -> None:
    """Measures what the flags describe; a line of JSON a case, then a table."""
    config, records = call_with_flags(BenchmarkConfig), []
    if config.suite == "all":
        lines = measure_all(config)
    else:
        lines = (json.dumps(case.record()) for case in measure(config))
    for line in lines:
        records.append(json.loads(line))
        print(line.strip(), flush=True)
    print_table(records)


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main, keep_compiled=False)  # compile times are measured
