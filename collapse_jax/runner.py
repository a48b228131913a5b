"""run(): restores, advances and saves a run, and returns its results.

A run has one or more cohorts of chains that advance together, each split into batches; extending a
run by more chains adds a cohort. Within a cohort the loop over segments encloses that over batches,
so that all chains are at the same generation when they are saved.
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
    """Results of a run.

    Attributes:
      history: values of every chain with dims (chain, generation, ...), or the summary with
        keep="summary"; always with early_collapse, late_collapse and nonfinite by chain.
      summary: count, mean, sd and quantiles of each metric over chains, by generation.
      params: parameters of the last generation's models, one pytree per batch of chains, leaves
        [chain, ...]; the last batch may be padded with chains beyond the run's.
      family, regime, config: as given.
      seconds: wall-clock time of this call.
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
      progress: whether to show progress on standard error: a bar on a terminal, else a line a
        minute.
      devices: devices to distribute batches over; default all.
      flagfile: flags that repeat the run from the command line; kept in the workdir as flags.txt.
      **settings: `chains`, `generations` and the other fields of `collapse_jax.config.RunConfig`,
        which documents them.

    Returns:
      A `Result`, which does not depend on the number of devices, on the segments of a run, or on
      interruptions.

    Raises:
      ValueError: for invalid settings, with the expected and the given value.
      CheckpointError: if saved progress cannot be read or written.
      Stopped: after SIGTERM or Ctrl-C, once all progress is saved (runs with a workdir).
    """
    config = RunConfig(**settings)
    planning.check_processes()
    planning.check_pair(family, regime, config.generations)
    workdir = Workdir(config.workdir) if config.workdir else None
    with workdir.lock() if workdir else contextlib.nullcontext():
        return _run(
            family,
            regime,
            config,
            workdir=workdir,
            progress=progress,
            devices=devices,
            flagfile=flagfile,
        )


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
    history_data, summary_data = _datasets(family, config, plan.keep, parts=parts, passages=joined)
    attributes = {
        "title": f"{family.name}, {regime.name}",
        "family": json.dumps(identity["family"]),
        "regime": json.dumps(identity["regime"]),
        "description": family.description,
        "seed": config.seed,
        "fingerprint": fingerprint(identity),
    }
    history_data.attrs |= attributes
    summary_data.attrs |= attributes
    return Result(
        history=history_data,
        summary=summary_data,
        params=params,
        family=family,
        regime=regime,
        config=config,
        seconds=time.perf_counter() - began,
    )


def _store(workdir: Workdir | None, index: int, config: RunConfig) -> MemoryStore | DiskStore:
    if workdir is None:
        return MemoryStore()
    directory = workdir.path / "checkpoints" / f"cohort-{index}"
    return DiskStore(directory, config.keep_checkpoints)


_Engine = FusedEngine | SteppedEngine
# Engines of the last few runs with their arguments, so that another run of the same family and
# regime objects (another seed, more chains) compiles nothing.
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
    """The history and its summary; the summary twice if only summaries are kept."""
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
    """All settings that change results, including those chosen automatically."""
    return {
        "family": {"name": family.name, **family.config},
        "regime": {"name": regime.name, **regime.config},
        "seed": config.seed,
        "prng": config.prng,
        "chains_per_batch": plan.batch,
        "keep": plan.keep,
    }
