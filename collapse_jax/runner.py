"""run(): restore, advance, save, report. The only outer loop.

A run is one or more cohorts (chains that advance together; more are added when a finished run is
given more chains), each of whole batches. The loop over segments is outside that over batches, so
that all chains of a cohort are at the same generation when they are saved.
"""

import contextlib
import json
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from collapse_jax.config import RunConfig, fingerprint
from collapse_jax.engine import planning
from collapse_jax.engine.cohort import Cohort
from collapse_jax.engine.fused import FusedEngine
from collapse_jax.engine.planning import Plan
from collapse_jax.engine.progress import Progress
from collapse_jax.engine.stepped import SteppedEngine
from collapse_jax.family import Family, is_stepped
from collapse_jax.regimes import Regime
from collapse_jax.results import history, summary
from collapse_jax.saving.checkpoint import DiskStore, MemoryStore
from collapse_jax.saving.signals import StopSignal
from collapse_jax.saving.workdir import Workdir


class Result(NamedTuple):
    """What a run gives back.

    Attributes:
      history: every chain's values with dims (chain, generation, ...), or, with keep="summary",
        the summary; always with early_collapse, late_collapse and nonfinite by chain.
      summary: count, mean, sd and quantiles of each metric over chains, by generation.
      params: of the last generation's models, a pytree a batch of chains, leaves [chain, ...]; the
        last batch may be filled up with chains beyond the run's.
      family, regime, config: what was run.
      seconds: wall-clock of this call.
    """

    history: xr.Dataset
    summary: xr.Dataset
    params: list[Any]
    family: Family
    regime: Regime
    config: RunConfig
    seconds: float


def run(
    family: Family,
    regime: Regime,
    *,
    progress: bool = False,
    devices: list[jax.Device] | None = None,
    flagfile: str | None = None,
    **settings: Any,
) -> Result:
    """Runs chains of a family under a regime; resumes if `workdir` holds the same run.

    Args:
      family: from `collapse_jax.families`.
      regime: from `collapse_jax.regimes`.
      progress: whether to say on standard error how far the run is: a bar on a terminal, elsewhere
        a line a minute.
      devices: to spread batches over; default all.
      flagfile: what repeats the run from the command line; kept in the workdir as flags.txt.
      **settings: `chains`, `generations` and the other fields of `collapse_jax.config.RunConfig`,
        whose documentation is theirs.

    Returns:
      A `Result`; results do not depend on the number of devices, on the segments a run is cut
      into, or on whether it was interrupted.

    Raises:
      ValueError: for settings that cannot be run, saying what was expected and what came.
      CheckpointError: if saved progress cannot be read or written.
      Stopped: after SIGTERM or Ctrl-C, when all progress has been saved (runs with a workdir).
    """
    config = RunConfig(**settings)
    planning.check_processes()
    planning.check_pair(family, regime, config.generations)
    workdir = Workdir(config.workdir) if config.workdir else None
    with workdir.lock() if workdir else contextlib.nullcontext():
        return _run(family, regime, config, workdir, progress, devices, flagfile)


def _run(
    family: Family,
    regime: Regime,
    config: RunConfig,
    workdir: Workdir | None,
    progress: bool,
    devices: list[jax.Device] | None,
    flagfile: str | None,
) -> Result:
    began = time.perf_counter()
    root = jax.random.key(config.seed, impl=config.prng)
    stored = workdir.stored() if workdir else None
    plan = planning.plan(family, regime, config, stored["identity"] if stored else None)
    identity = _identity(family, regime, config, plan)
    cohorts = [(0, config.chains)]
    if workdir:
        cohorts = workdir.open(identity, config.chains, config.generations)
        if flagfile is not None:
            workdir.write_text("flags.txt", flagfile)
    devices = devices or jax.local_devices()
    engine = _engine(family, regime, plan, config.prng)
    parts, passages, params = [], [], []
    with (
        StopSignal(active=workdir is not None) as stop,
        Progress(
            f"{family.name} / {regime.name}", config.chains * config.generations, progress
        ) as bar,
    ):
        for index, (first, count) in enumerate(cohorts):
            store = _store(workdir, index, config)
            try:
                cohort = Cohort(
                    engine=engine,
                    root=root,
                    store=store,
                    config=config,
                    batch=plan.batch,
                    devices=devices,
                    first=first,
                    count=count,
                )
                states, passed = cohort.advance(stop, bar)
                passages.append(passed)
                params += [state.params for state in states if state is not None]
                store.close()
            except BaseException:
                store.abandon()
                raise
            parts.append(store.parts())
    joined = {name: np.concatenate([p[name] for p in passages]) for name in passages[0]}
    whole, short = _datasets(family, config, plan.keep, parts, joined)
    attributes = {
        "title": f"{family.name}, {regime.name}",
        "family": json.dumps(identity["family"]),
        "regime": json.dumps(identity["regime"]),
        "description": family.description,
        "seed": config.seed,
        "fingerprint": fingerprint(identity),
    }
    whole.attrs |= attributes
    short.attrs |= attributes
    return Result(whole, short, params, family, regime, config, time.perf_counter() - began)


def _store(workdir: Workdir | None, index: int, config: RunConfig) -> MemoryStore | DiskStore:
    if workdir is None:
        return MemoryStore()
    directory = workdir.path / "checkpoints" / f"cohort-{index}"
    return DiskStore(directory, config.keep_checkpoints)


_Engine = FusedEngine | SteppedEngine
# The engines of the last few runs with what they were made for, so that another run of the same
# family and regime objects (another seed, more chains) compiles nothing.
_engines: list[tuple[Family, Regime, str, str, _Engine]] = []


def _engine(family: Family, regime: Regime, plan: Plan, prng: str) -> _Engine:
    for entry in _engines:
        if entry[0] is family and entry[1] is regime and entry[2:4] == (plan.keep, prng):
            return entry[4]
    kind = SteppedEngine if is_stepped(family) else FusedEngine
    engine = kind(family, regime, plan.recorder)
    _engines.append((family, regime, plan.keep, prng, engine))
    del _engines[:-8]
    return engine


def _datasets(
    family: Family, config: RunConfig, keep: str, parts: Any, passages: dict[str, np.ndarray]
) -> tuple[xr.Dataset, xr.Dataset]:
    """The history and its summary."""
    times = history.collapse_times(passages, family)
    if keep == "chains":
        whole = history.every_chain(parts, family, config.generations)
        short = summary.from_chains(whole, family.metrics, family.coords)
        return whole.assign(times), short.assign(times)
    merged = history.totals(parts, config.generations)
    short = summary.from_totals(merged, family.metrics, family.coords, config.chains)
    short = short.assign(times)
    return short, short


def _identity(family: Family, regime: Regime, config: RunConfig, plan: Plan) -> dict[str, Any]:
    """Everything that changes results, with what is chosen automatically resolved."""
    return {
        "family": {"name": family.name, **family.config},
        "regime": {"name": regime.name, **regime.config},
        "seed": config.seed,
        "prng": config.prng,
        "chains_per_batch": plan.batch,
        "keep": plan.keep,
    }
