"""How fast the compiled segment of `run()` is beside NumPy, and what checkpoints cost.

Claim: on two cores a Gaussian chain whose samples are drawn as moments advances at least 15 times
as fast as with NumPy's M = 100 rows, more than 1000 times at M = 10,000 (O(1) against O(M)), and at
about the speed of the same O(1) recursion in NumPy; drawing M = 1000 rows, at least 1.5 times; the
words of WikiText-2 about as fast as `Generator.multinomial` or faster; a checkpoint every 50
generations costs less than 5 %. Both sides run in turn in one process; medians; what is timed on
our side includes the default metrics and fetching the record. About 5 minutes on two quiet cores:

  python -m experiments.benchmark --suite=all --data_dir=...
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_jax.config import check_choice, from_flags, setting
from experiments import launch

if TYPE_CHECKING:
    from experiments.benchmarks.timing import Case

SUITES = ("gaussian", "discrete", "checkpoint", "all")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured; see each field's help."""

    suite: str = setting("all", "What to measure.", SUITES)
    repeats: int = setting(7, "Timings of which the median is taken, at least 5.")
    chains: int = setting(100_000, "Chains of the Gaussian and checkpoint suites.")
    data_dir: str | None = setting(
        None, "Where WikiText-2 is; none: $COLLAPSE_JAX_DATA, else a user cache directory."
    )

    def __post_init__(self) -> None:
        """Refuses values outside their range."""
        check_choice("suite", self.suite, SUITES)
        if self.repeats < 5:
            raise ValueError(f"repeats: expected at least 5, got {self.repeats}")
        if self.chains < 1:
            raise ValueError(f"chains: expected at least 1, got {self.chains}")

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that are wanted."""
        return SUITES[:-1] if self.suite == "all" else (self.suite,)


def measure(config: BenchmarkConfig) -> "Iterator[Case]":
    """All cases of the suites that are wanted, as they are measured."""
    from experiments.benchmarks import checkpoint, discrete, gaussian

    for suite in config.suites:
        if suite == "gaussian":
            yield from gaussian.cases(config.chains, config.repeats)
        elif suite == "discrete":
            yield from discrete.cases(repeats=config.repeats, data_dir=config.data_dir)
        else:
            yield from checkpoint.cases(config.chains)


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


def main() -> None:
    """Measures what the flags describe; a line of JSON a case, then a table."""
    records = []
    for case in measure(from_flags(BenchmarkConfig)):
        records.append(case.record())
        print(json.dumps(records[-1]), flush=True)
    print_table(records)


if __name__ == "__main__":
    launch.define(BenchmarkConfig)
    launch.start(main)
