"""The contract of a model family: how one chain's model is fitted, sampled and measured.

A family is a factory that returns a `Family` of pure functions of one chain; the engine vmaps,
compiles, saves and resumes them. docs/add_a_family.md builds one from nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.pools import Count, Pool, Pools

Params = Any
Metrics = dict[str, jax.Array]


class Request(NamedTuple):
    """How much data to draw: `count` members into a pool with room for `capacity`."""

    count: Count  # type: ignore[assignment]
    capacity: int  # 0 where a regime never asks for any

    def __bool__(self) -> bool:
        """Whether there is anything to draw; known even where the count is traced."""
        return self.capacity > 0


class Training(NamedTuple):
    """What one fit sees."""

    pool: Pool  # finite data that the regime chose
    teacher: Params | None = None  # params that made the synthetic share; only fits are told


class Origin(NamedTuple):
    """What a chain keeps of its beginning, written once."""

    data: Pool | None  # D_0, for regimes that reuse it
    anchor: Any = None  # e.g. generation 0's encoder


class Steps(NamedTuple):
    """A long fit, sample or measure, cut into pieces between which the runner can save.

    `begin(key, *inputs) -> carry`, `advance(carry) -> carry` (a bounded piece of work),
    `done(carry) -> bool`, `finish(carry) -> outputs`; all pure and of one chain.
    """

    begin: Callable[..., Any]
    advance: Callable[[Any], Any]
    done: Callable[[Any], jax.Array]
    finish: Callable[[Any], Any]


def run_to_end(task: Callable[..., Any] | Steps, inputs: tuple[Any, ...]) -> Any:
    """A stage's task in one piece."""
    if not isinstance(task, Steps):
        return task(*inputs)
    carry = jax.lax.while_loop(lambda carry: ~task.done(carry), task.advance, task.begin(*inputs))
    return task.finish(carry)


def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point entry of a pytree is finite, bool[]."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    finite = jnp.bool_(True)
    for x in floats:
        finite &= jnp.all(jnp.isfinite(x))
    return finite


class Metric(NamedTuple):
    """What one measured quantity is, and where its distribution is expected to lie.

    `scale`, `limit` and `centre` only place the fixed histogram edges of summaries: near-linear
    within centre +- scale, geometric out to centre +- limit (from 0 where `nonnegative`). A vector
    metric may have a centre for each entry of its last dim. Values whose units are "id" are numbers
    of things (tokens): kept where every chain is, but not summarised.
    """

    long_name: str
    units: str = "1"
    dims: tuple[str, ...] = ()
    scale: float = 1.0
    limit: float = 1e4
    nonnegative: bool = False
    centre: float | tuple[float, ...] = 0.0
    original: float | None = None  # its value at the original itself, for figures to show

    @property
    def summarised(self) -> bool:
        """Whether means and quantiles over chains mean anything."""
        return self.units != "id"


NEVER = -1  # the first passage of a chain that has not crossed a threshold


class Threshold(NamedTuple):
    """A collapse: the first generation at which `metric` is below `level`."""

    metric: str
    level: float
    long_name: str


class Family(NamedTuple):
    """Pure functions of one chain, and what the engine must know of them.

    Attributes:
      name: of the family, as on the command line.
      config: everything that changes results; JSON-serialisable; goes into the fingerprint.
      pools: the algebra of its data.
      metrics: {name: Metric} for all that `measure` and `fit`'s info return.
      coords: {dim: values} of vector metrics' dims.
      thresholds: {"early": ..., "late": ...}.
      original: (key, request) -> pool drawn from the population.
      init: (key) -> params before the first fit.
      fit: (key, params, training) -> (params, info), or Steps.
      sample: (key, params, request) -> pool, or Steps.
      measure: (key, params, training, origin) -> {name: array}, or Steps.
      anchor: (key, params, training) -> anchor, once after generation 0, or None.
      population: the original law, for closed forms; f64[symbol] for discrete.
      check: (sizes of a generation) -> None, or a SettingError why this family can't be fitted so.
      serves: (regime) -> None, or a SettingError why this family can't be run under it.
    """

    name: str
    config: Mapping[str, Any]
    pools: Pools
    metrics: Mapping[str, Metric]
    thresholds: Mapping[str, Threshold]
    original: Callable[[jax.Array, Request], Pool]
    init: Callable[[jax.Array], Params]
    fit: Callable[..., Any] | Steps
    sample: Callable[..., Any] | Steps
    measure: Callable[..., Any] | Steps
    anchor: Callable[..., Any] | None = None
    coords: Mapping[str, np.ndarray] = {}
    check: Callable[[Any], None] = lambda sizes: None
    population: Any = None
    serves: Callable[[Any], None] = lambda regime: None


def is_stepped(family: Family) -> bool:
    """Whether any of a family's stages is cut into `Steps`."""
    return any(isinstance(work, Steps) for work in (family.fit, family.sample, family.measure))
