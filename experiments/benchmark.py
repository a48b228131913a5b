"""Speed of the compiled segment of `run()` against NumPy, scikit-learn, PyTorch and transformers.

Claims, on two cores:
- Gaussian chains with sampled moments: at least 15 times as fast as NumPy's M = 100 rows, more than
  1000 times at M = 10,000 (O(1) against O(M)), and about as fast as the same O(1) recursion in
  NumPy; with M = 1000 rows drawn, at least 1.5 times.
- Words of WikiText-2: about as fast as `Generator.multinomial`, or faster.
- Mixtures at N = 10,000: at least 8 times as fast as scikit-learn.
- Kernel densities: at least 10 times as fast as scikit-learn and faster than NumPy, even where
  NumPy computes no metrics.
- Regressions: at least 5 times as fast as NumPy on T = 100 rows, and about as fast as the same
  O(d^2) recursion in NumPy.
- Error sources: of a mixture, at least 10 times as fast as scikit-learn at M = 1000; of a Gaussian,
  slower than NumPy's rows at M = 1000 (the grid costs the same for every M), faster at M = 100,000.
- Training of autoencoders: 1.6 times as fast as PyTorch (one hidden layer), or as fast
  (convolutional); 8 chains take at most 8.8 times the time of one.
- OPT-125m: beam search at least 1.5, 2 and 4 times as fast as transformers at 4, 16 and 64 prompts,
  a step of fine-tuning 1.2 times (processors with AVX-512; with AVX2 3.7 times at 64 prompts, and a
  step no faster); also a whole generation of both.
- Saving: a checkpoint every 50 generations costs less than 5 % (missed: see docs/benchmarks.md).

Both sides alternate in one process, and medians are reported; our time includes the default metrics
and fetching the record. PyTorch and transformers come with the extra `benchmark`. More than an hour
on two idle cores, most of it transformers' beam search:

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
WITH_PEERS = ("vae", "beam", "finetune", "language")  # peers from the extra `benchmark`


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark.

    Attributes:
      suite: suite to measure.
      repeats: number of timings, whose median is reported; at least 5.
      chains: chains of the Gaussian and checkpoint suites.
      data_dir: directory of WikiText-2; default $COLLAPSE_JAX_DATA, else a user cache directory.
    """

    suite: Suite = "all"
    repeats: int = 7
    chains: int = 100_000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Rejects values outside their range."""
        arguments.choice("suite", self.suite, SUITES)
        arguments.integer("repeats", self.repeats, at_least=5)
        arguments.integer("chains", self.chains, at_least=1)


def measure(config: BenchmarkConfig) -> "Iterator[Case]":
    """Yields the cases of one suite as they are measured."""
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
    """Yields lines of JSON from all suites, each run in a separate process with a clean state."""
    for suite in SUITES[:-1]:
        if suite in WITH_PEERS and not importlib.util.find_spec("transformers"):
            print(f"skipped: {suite}, whose peers come with the extra benchmark", file=sys.stderr)
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
    """Prints the cases as a table."""
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
    """Measures the chosen suites; prints a line of JSON per case, then a table."""
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
