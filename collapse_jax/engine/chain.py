"""One generation of one chain as a list of stages, and the state it returns; pure, no I/O."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.family import (
    NEVER,
    Family,
    Metrics,
    Origin,
    Request,
    Steps,
    Training,
    all_finite,
    run_to_end,
)
from collapse_jax.regimes import Parts, Regime, Sizes

Work = dict[str, Any]


class Purpose(enum.IntEnum):
    """Uses of random numbers within one generation of a chain; each has its own key."""

    INIT = 0
    ORIGINAL = 1
    REALISE = 2
    SAMPLE = 3
    FRESH = 4
    ASSEMBLE = 5
    FIT = 6
    ANCHOR = 7
    MEASURE = 8


Keys = Callable[[Purpose], jax.Array]


class ChainState(NamedTuple):
    """State of one chain between generations; its key is derived from its number."""

    params: Any
    kept: Any  # earlier data that the regime keeps, or None
    origin: Origin  # written once
    passages: dict[str, jax.Array]  # i32[], first generation below a threshold, or NEVER


class Stage(NamedTuple):
    """One step of a generation, from entries of a workspace to new entries.

    Attributes:
      name: name of the step.
      task: the computation.
      reads: (workspace) -> the entries that `inputs` needs.
      inputs: (keys, entries) -> arguments of `task`.
      outputs: (workspace, result of `task`) -> new entries; computes nothing.
      sized: whether `task` or its inputs depend on the generation's sizes.
    """

    name: str
    task: Callable[..., Any] | Steps
    reads: Callable[[Work], Work]
    inputs: Callable[[Keys, Work], tuple[Any, ...]]
    outputs: Callable[[Work, Any], Work]
    sized: bool = False


def chain_key(root: jax.Array, chain: jax.Array | int) -> jax.Array:
    """The key of a chain, which depends only on its number."""
    return jax.random.fold_in(root, chain)


def generation_keys(key: jax.Array, generation: jax.Array | int) -> Keys:
    """Keys of one generation of a chain by purpose: one hash each, and none if unused."""
    return lambda purpose: jax.random.fold_in(key, generation * len(Purpose) + purpose)


def stages(family: Family, regime: Regime, sizes: Sizes, first: bool) -> list[Stage]:
    """The stages of generation 0 (`first`) or of any later one, in order."""
    fit = Stage(
        name="fit",
        task=family.fit,
        reads=_reads("params", "training"),
        inputs=lambda keys, work: (keys(Purpose.FIT), work["params"], work["training"]),
        outputs=lambda work, result: {"params": result[0], "info": result[1]},
    )
    anchor = Stage(
        name="anchor",
        task=family.anchor or (lambda key, params, training: None),
        reads=_reads("params", "training"),
        inputs=lambda keys, work: (keys(Purpose.ANCHOR), work["params"], work["training"]),
        outputs=lambda work, result: {"origin": work["origin"]._replace(anchor=result)},
    )
    measure = Stage(
        name="measure",
        task=family.measure,
        reads=_measured,
        inputs=lambda keys, work: (
            keys(Purpose.MEASURE),
            work["params"],
            work["training"],
            work["origin"],
        ),
        outputs=lambda work, result: {"metrics": {**work["info"], **result}},
    )
    if first:
        return [
            _original(family, regime, sizes),
            fit,
            *([anchor] if family.anchor else []),
            measure,
        ]
    return [*_later_data(family, regime, sizes), fit, measure]


def _reads(*names: str) -> Callable[[Work], Work]:
    return lambda work: {name: work[name] for name in names}


def _measured(work: Work) -> Work:
    """Inputs of measures, of the same structure at every generation: only fits get the teacher."""
    training = work["training"]._replace(teacher=None)
    return {"params": work["params"], "training": training, "origin": work["origin"]}


def _original(family: Family, regime: Regime, sizes: Sizes) -> Stage:
    """Draws D_0, the params before the first fit, and the part of D_0 that the regime keeps."""

    def draw(k_init, k_original):
        # A fixed part of D_0 may be reused for ever. It is drawn from D_0 if the pool can be
        # subsampled (a finite original has each member once), else independently.
        k_data, k_fixed = (jax.random.fold_in(k_original, i) for i in range(2))
        if not (sizes.fresh and sizes.reused):
            data = fixed = family.original(k_data, sizes.fresh or sizes.reused)
        elif family.pools.subsample is not None:
            whole = Request(sizes.fresh.count + sizes.reused.count, sizes.capacity)
            data = family.original(k_data, whole)
            fixed = family.pools.subsample(k_fixed, data, *sizes.reused)
        else:
            fixed = family.original(k_fixed, sizes.reused)
            data = family.original(k_data, sizes.fresh)
            data = family.pools.merge(data, fixed, sizes.capacity)
        return family.init(k_init), data, fixed

    def outputs(work, result):
        params, data, fixed = result
        return {
            "params": params,
            "training": Training(data),
            "kept": data if regime.remembers else None,
            "origin": Origin(fixed if regime.keeps_original else None),
        }

    return Stage(
        name="original",
        task=draw,
        reads=_reads(),
        inputs=lambda keys, work: (keys(Purpose.INIT), keys(Purpose.ORIGINAL)),
        outputs=outputs,
        sized=True,
    )


def _later_data(family: Family, regime: Regime, sizes: Sizes) -> list[Stage]:
    """Samples the model, then has the regime assemble the training set."""

    def realised(keys: Keys) -> Sizes:
        return regime.realise(keys(Purpose.REALISE), sizes) if regime.realise else sizes

    def assemble(keys, work):
        actual = realised(keys)
        fresh = None
        if sizes.fresh:
            fresh = family.original(keys(Purpose.FRESH), actual.fresh)
        parts = Parts(work.get("synthetic"), fresh, work["kept"], work["origin"].data)
        return regime.assemble(keys(Purpose.ASSEMBLE), family.pools, parts, actual)

    def outputs(work, result):
        pool, kept = result
        return {"training": Training(pool, teacher=work["params"]), "kept": kept}

    sample = Stage(
        name="sample",
        task=family.sample,
        reads=_reads("params"),
        inputs=lambda keys, work: (keys(Purpose.SAMPLE), work["params"], realised(keys).synthetic),
        outputs=lambda work, result: {"synthetic": result},
        sized=True,
    )
    assembling = Stage(
        name="assemble",
        task=assemble,
        reads=_reads(*(["synthetic"] if sizes.synthetic else []), "kept", "origin"),
        inputs=lambda keys, work: (keys, work),
        outputs=outputs,
        sized=True,
    )
    return [*([sample] if sizes.synthetic else []), assembling]


def generation(
    family: Family,
    regime: Regime,
    sizes: Sizes,
    key: jax.Array,
    number: jax.Array | int,
    state: ChainState | None,
) -> tuple[ChainState, Metrics, jax.Array]:
    """Runs one generation of one chain.

    Args:
      family, regime: what is run.
      sizes: of this generation; counts may be traced.
      key: the chain's key.
      number: the generation, i32[].
      state: after the previous generation; None at generation 0.

    Returns:
      The new state, this generation's metrics, and whether all of both is finite (bool[]).
    """
    keys = generation_keys(key, number)
    work: Work = {} if state is None else begin_work(state)
    for stage in stages(family, regime, sizes, first=state is None):
        # Without a barrier XLA recomputes a stage, hashing included, in each of its uses.
        inputs = stage.inputs(keys, stage.reads(work))
        result = jax.lax.optimization_barrier(run_to_end(stage.task, inputs))
        work = {**work, **stage.outputs(work, result)}
    return conclude(family, work, number, None if state is None else state.passages)


def begin_work(state: ChainState) -> Work:
    """Workspace of a later generation before its first stage."""
    return {"params": state.params, "kept": state.kept, "origin": state.origin}


def conclude(
    family: Family, work: Work, number: jax.Array | int, passages: dict[str, jax.Array] | None
) -> tuple[ChainState, Metrics, jax.Array]:
    """State, metrics and finiteness from the workspace after all stages."""
    metrics = work["metrics"]
    if set(metrics) != set(family.metrics):
        raise ValueError(
            f"family {family.name!r}: expected metrics {sorted(family.metrics)},"
            f" got {sorted(metrics)}"
        )
    finite = all_finite((work["params"], metrics))
    crossed = {
        name: finite & (metrics[threshold.metric] < threshold.level)
        for name, threshold in family.thresholds.items()
    }
    crossed["nonfinite"] = ~finite
    if passages is None:
        passages = {name: jnp.int32(NEVER) for name in crossed}
    passages = {
        name: jnp.where((passages[name] == NEVER) & crossed[name], number, passages[name])
        for name in crossed
    }
    return ChainState(work["params"], work["kept"], work["origin"], passages), metrics, finite
