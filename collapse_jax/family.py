"""The contract of a model family: how one chain's model is fitted, sampled and measured.

A family is a factory that returns a `Family` of pure functions of one chain; the engine vmaps,
compiles, saves and resumes them. docs/add_a_family.md builds one from nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.pools import Count, Pool, Pools

if TYPE_CHECKING:  # importing a family loads neither matplotlib nor xarray
    import xarray as xr
    from matplotlib.figure import Figure

    from collapse_jax.regimes import Regime, Sizes

Params = Any
Metrics = dict[str, jax.Array]
# Closed forms over generations, {(metric, statistic): f64[generation, ...]}; the statistic is
# "mean" or "variance".
Curves = Mapping[tuple[str, str], np.ndarray]


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
    r"""What one measured quantity is, and where its distribution is expected to lie.

    Attributes:
      long_name: what it is, in words.
      units: "1" where it has none. Values whose units are "id" are numbers of things (tokens): kept
        where every chain is, but not summarised.
      dims: of a vector metric, by name.
      scale, limit, centre: where the fixed histogram edges of summaries lie: near-linear within
        centre +- scale, geometric out to centre +- limit (from 0 where `nonnegative`). A vector
        metric may have a centre for each entry of its last dim.
      nonnegative: whether it can't be negative.
      original: its value at the original itself (for each entry of a vector metric), for figures
        to show. The "variance" of a metric called `mean` is its mean square about this value.
      symbol: LaTeX without dollars, as in r"\ln\sigma_n^2", for axes and for E[.] labels; without
        one its name is shown.
    """

    long_name: str
    units: str = "1"
    dims: tuple[str, ...] = ()
    scale: float = 1.0
    limit: float = 1e4
    nonnegative: bool = False
    centre: float | tuple[float, ...] = 0.0
    original: float | tuple[float, ...] | None = None
    symbol: str = ""

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


class RunData(Protocol):
    """What figures see of a run; a `collapse_jax.Result` is one."""

    @property
    def history(self) -> "xr.Dataset":
        """Every chain's values, or the summary where single chains were not kept."""

    @property
    def summary(self) -> "xr.Dataset":
        """Statistics over chains by generation."""


class OwnFigures(NamedTuple):
    """What a family draws of a run beside a figure a metric."""

    drawn: "Mapping[str, Figure]" = {}  # by name, which is also the file's
    replaces: Collection[str] = ()  # metrics that get no figure of the standard kind


class OriginalFunction(Protocol):
    """Draws from the original distribution."""

    def __call__(self, key: jax.Array, request: Request, /) -> Pool:
        """Draws data of one chain.

        Args:
          key: of this chain, generation and purpose.
          request: how much; its count may be traced, and 0 where a regime's sizes are random; its
            capacity is a Python int.

        Returns:
          A pool of `request.count` members with room for `request.capacity`.
        """


class InitFunction(Protocol):
    """Makes the parameters that the first fit is given."""

    def __call__(self, key: jax.Array, /) -> Params:
        """Makes a pytree of arrays, of the same shapes and dtypes as those that a fit returns."""


class FitFunction(Protocol):
    """Fits a model to a training set."""

    def __call__(
        self, key: jax.Array, params: Params, training: Training, /
    ) -> tuple[Params, Metrics]:
        """Fits one chain's model.

        Args:
          key: of this chain, generation and purpose.
          params: of the generation before; at generation 0 what `init` made.
          training: the training set, and the params that made its synthetic share.

        Returns:
          The new params, and metrics that are known only while fitting, f32 each.
        """


class SampleFunction(Protocol):
    """Draws synthetic data from a model."""

    def __call__(self, key: jax.Array, params: Params, request: Request, /) -> Pool:
        """Draws data of one chain.

        Args:
          key: of this chain, generation and purpose.
          params: of the model.
          request: how much; its count may be traced, and 0 where a regime's sizes are random; its
            capacity is a Python int.

        Returns:
          A pool of `request.count` members with room for `request.capacity`.
        """


class MeasureFunction(Protocol):
    """Measures a model after its fit."""

    def __call__(
        self, key: jax.Array, params: Params, training: Training, origin: Origin, /
    ) -> Metrics:
        """Measures one chain's model.

        Args:
          key: of this chain, generation and purpose.
          params: of the model.
          training: what it was fitted to.
          origin: what the chain keeps of its beginning.

        Returns:
          {name: f32 array}: with the fit's, exactly the names in `Family.metrics`.
        """


class AnchorFunction(Protocol):
    """Makes what later generations are measured by."""

    def __call__(self, key: jax.Array, params: Params, training: Training, /) -> Any:
        """Makes a pytree of arrays, once, after generation 0's fit; see `Origin.anchor`.

        Args:
          key: of this chain and purpose.
          params: of generation 0's model.
          training: what it was fitted to.
        """


class SizesCheck(Protocol):
    """Rejects sizes that the family cannot be fitted to."""

    def __call__(self, sizes: "Sizes", /) -> None:
        """Checks the sizes of one generation, before anything runs.

        Raises:
          ValueError: "samples: expected ..., got ...".
        """


class RegimeCheck(Protocol):
    """Rejects regimes that the family cannot be run under."""

    def __call__(self, regime: "Regime", /) -> None:
        """Checks a regime, before anything runs.

        Raises:
          ValueError: "regime: <its name> ..., which <the family> cannot ...; use ...".
        """


class ClosedFormsFunction(Protocol):
    """Names the theory that describes the family's chains."""

    def __call__(self, regime: "Regime", generations: int, /) -> Curves:
        """The closed forms that hold under a regime.

        Args:
          regime: of the run; told by its name, its config and its sizes.
          generations: length of the run; generation g has had g + 1 fits.

        Returns:
          f64[generation, ...] for each (metric, statistic) that theory knows, NaN where it says
          nothing; {} if it knows none. Generations at which a mean over chains does not settle on
          the closed form, since its distribution is heavy-tailed, are masked (`numpy.ma`): figures
          show these values, tests leave them out. A 1-D "variance" of a vector metric is that of
          the average over its entries.
        """


class FiguresFunction(Protocol):
    """Draws the figures that only this family has."""

    def __call__(self, run: RunData, curves: Curves, generations: Sequence[int], /) -> OwnFigures:
        """Draws figures; a family's module imports matplotlib here, not at its top.

        Args:
          run: its history and summary.
          curves: closed forms of the run, heavy-tailed ones included.
          generations: to be shown where a figure shows single ones.
        """


class Family(NamedTuple):
    """Pure functions of one chain, and what the engine must know of them.

    Attributes:
      name: of the family, as on the command line.
      config: everything that changes results; JSON-serialisable; goes into the fingerprint.
      pools: the algebra of its data.
      metrics: {name: Metric} for all that `measure` and `fit`'s info return.
      thresholds: {"early": ..., "late": ...}.
      original: draws from the original, see `OriginalFunction`.
      init: makes params before the first fit, see `InitFunction`.
      fit: fits a model, see `FitFunction`; or the same as Steps.
      sample: draws from a model, see `SampleFunction`; or the same as Steps.
      measure: measures a model, see `MeasureFunction`; or the same as Steps.
      anchor: makes what later generations are measured by, see `AnchorFunction`; or None.
      coords: {dim: values} of vector metrics' dims.
      check: rejects sizes, see `SizesCheck`.
      serves: rejects regimes, see `RegimeCheck`.
      description: what figures and reports say of its settings, in a few words.
      closed_forms: names the theory that describes it, see `ClosedFormsFunction`.
      figures: draws those of its own, see `FiguresFunction`.
    """

    name: str
    config: Mapping[str, Any]
    pools: Pools
    metrics: Mapping[str, Metric]
    thresholds: Mapping[str, Threshold]
    original: OriginalFunction
    init: InitFunction
    fit: FitFunction | Steps
    sample: SampleFunction | Steps
    measure: MeasureFunction | Steps
    anchor: AnchorFunction | None = None
    coords: Mapping[str, np.ndarray] = {}
    check: SizesCheck = lambda sizes: None
    serves: RegimeCheck = lambda regime: None
    description: str = ""
    closed_forms: ClosedFormsFunction = lambda regime, generations: {}
    figures: FiguresFunction = lambda run, curves, generations: OwnFigures()


def is_stepped(family: Family) -> bool:
    """Whether any of a family's stages is cut into `Steps`."""
    return any(isinstance(work, Steps) for work in (family.fit, family.sample, family.measure))
