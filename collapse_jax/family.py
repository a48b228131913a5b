"""The contract of a model family: functions that fit, sample and measure one chain's model.

A family is a factory that returns a `Family` of pure functions of one chain; the engine vmaps,
compiles, saves and resumes them. docs/add_a_family.md builds one step by step.
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
    """Number of samples to draw, `count`, and the `capacity` of their pool."""

    count: Count  # type: ignore[assignment]
    capacity: int  # 0 if a regime never draws any

    def __bool__(self) -> bool:
        """Whether there may be anything to draw; known even if the count is traced."""
        return self.capacity > 0


class Training(NamedTuple):
    """Inputs of one fit."""

    pool: Pool  # training set assembled by the regime
    teacher: Params | None = None  # params that drew its synthetic share; for fits only


class Origin(NamedTuple):
    """Data of generation 0 that a chain keeps, written once."""

    data: Pool | None  # D_0, for regimes that reuse it
    anchor: Any = None  # e.g. generation 0's encoder; see `AnchorFunction`


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
    """Runs a stage's task without interruption."""
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
    r"""Description of a metric, and the expected range of its values.

    Attributes:
      long_name: short description.
      units: units; "1" if dimensionless. Metrics with units "id" are identifiers (tokens): kept if
        every chain's history is, but not summarised.
      dims: names of the dimensions of a vector metric.
      scale, limit, centre: histogram edges of summaries are near-linear within centre +- scale and
        geometric out to centre +- limit (from 0 if `nonnegative`). A vector metric may have one
        centre per entry of its last dimension.
      nonnegative: whether it is never negative.
      original: value of the original itself (one per entry of a vector metric), for figures. The
        "variance" of a metric called `mean` is its mean square about this value.
      symbol: LaTeX without dollars, as in r"\ln\sigma_n^2", for axes and E[.] labels; if empty,
        its name is shown.
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
        """Whether means and quantiles over chains are meaningful."""
        return self.units != "id"


NEVER = -1  # first passage of a chain that has not crossed a threshold


class Threshold(NamedTuple):
    """A definition of collapse: the first generation at which `metric` is below `level`."""

    metric: str
    level: float
    long_name: str


class RunData(Protocol):
    """Data of a run for figures; a `collapse_jax.Result` is one."""

    @property
    def history(self) -> "xr.Dataset":
        """Values of every chain, or the summary if single chains were not kept."""

    @property
    def summary(self) -> "xr.Dataset":
        """Statistics over chains by generation."""


class OwnFigures(NamedTuple):
    """A family's own figures of a run, in addition to one standard figure per metric."""

    drawn: "Mapping[str, Figure]" = {}  # by name, also that of the file
    replaces: Collection[str] = ()  # metrics without a standard figure


class OriginalFunction(Protocol):
    """Draws from the original distribution."""

    def __call__(self, key: jax.Array, request: Request, /) -> Pool:
        """Draws data of one chain.

        Args:
          key: key of this chain, generation and purpose.
          request: how much to draw; the count may be traced, and 0 if a regime's sizes are random;
            the capacity is a Python int.

        Returns:
          A pool of `request.count` members and capacity `request.capacity`.
        """


class InitFunction(Protocol):
    """Creates the parameters passed to the first fit."""

    def __call__(self, key: jax.Array, /) -> Params:
        """Creates a pytree of arrays with the shapes and dtypes that a fit returns."""


class FitFunction(Protocol):
    """Fits a model to a training set."""

    def __call__(
        self, key: jax.Array, params: Params, training: Training, /
    ) -> tuple[Params, Metrics]:
        """Fits one chain's model.

        Args:
          key: key of this chain, generation and purpose.
          params: params of the previous generation; at generation 0 those of `init`.
          training: the training set, and the params that drew its synthetic share.

        Returns:
          The new params, and metrics available only while fitting, f32 each.
        """


class SampleFunction(Protocol):
    """Draws synthetic data from a model."""

    def __call__(self, key: jax.Array, params: Params, request: Request, /) -> Pool:
        """Draws data of one chain.

        Args:
          key: key of this chain, generation and purpose.
          params: the model's params.
          request: how much to draw; the count may be traced, and 0 if a regime's sizes are random;
            the capacity is a Python int.

        Returns:
          A pool of `request.count` members and capacity `request.capacity`.
        """


class MeasureFunction(Protocol):
    """Measures a model after its fit."""

    def __call__(
        self, key: jax.Array, params: Params, training: Training, origin: Origin, /
    ) -> Metrics:
        """Measures one chain's model.

        Args:
          key: key of this chain, generation and purpose.
          params: the model's params.
          training: its training set; without the teacher, so that measures have the same inputs at
            every generation and compile once.
          origin: the chain's data of generation 0.

        Returns:
          {name: f32 array}: with the fit's, exactly the names in `Family.metrics`.
        """


class AnchorFunction(Protocol):
    """Creates data of generation 0 with which later generations are compared."""

    def __call__(self, key: jax.Array, params: Params, training: Training, /) -> Any:
        """Creates a pytree of arrays, once, after generation 0's fit; see `Origin.anchor`.

        Args:
          key: key of this chain and purpose.
          params: params of generation 0's model.
          training: its training set.
        """


class SizesCheck(Protocol):
    """Rejects sizes that the family cannot be fitted to."""

    def __call__(self, sizes: "Sizes", /) -> None:
        """Checks the sizes of one generation, before anything runs.

        Raises:
          ValueError: "samples: expected ..., got ...".
        """


class RegimeCheck(Protocol):
    """Rejects regimes that the family does not support."""

    def __call__(self, regime: "Regime", /) -> None:
        """Checks a regime, before anything runs.

        Raises:
          ValueError: "regime: <its name> ..., which <the family> cannot ...; use ...".
        """


class ClosedFormsFunction(Protocol):
    """Returns the theoretical curves of the family's chains."""

    def __call__(self, regime: "Regime", generations: int, /) -> Curves:
        """The closed forms that hold under a regime.

        Args:
          regime: the run's regime, identified by its name, config and sizes.
          generations: length of the run; generation g is after g + 1 fits.

        Returns:
          f64[generation, ...] for each (metric, statistic) with a closed form, NaN at generations
          without one; {} if there are none. Generations at which the mean over chains is too
          heavy-tailed to converge to the closed form are masked (`numpy.ma`): figures show them,
          tests exclude them. A 1-D "variance" of a vector metric is the average over its entries.
        """


class FiguresFunction(Protocol):
    """Draws the family's own figures."""

    def __call__(self, run: RunData, curves: Curves, generations: Sequence[int], /) -> OwnFigures:
        """Draws figures; matplotlib should be imported here, not at the top of the module.

        Args:
          run: the run's history and summary.
          curves: closed forms of the run, including heavy-tailed ones.
          generations: generations to show in figures of single generations.
        """


class Family(NamedTuple):
    """A model family: pure functions of one chain, with descriptions for the engine and figures.

    Attributes:
      name: name of the family, as on the command line.
      config: everything that changes results; JSON-serialisable; part of the fingerprint.
      pools: operations on its data.
      metrics: {name: Metric} of all metrics that `measure` and `fit` return.
      thresholds: {"early": ..., "late": ...}.
      original: draws from the original, see `OriginalFunction`.
      init: makes params before the first fit, see `InitFunction`.
      fit: fits a model, see `FitFunction`; or the same as `Steps`.
      sample: draws from a model, see `SampleFunction`; or the same as `Steps`.
      measure: measures a model, see `MeasureFunction`; or the same as `Steps`.
      anchor: creates data with which later generations are compared, see `AnchorFunction`; or None.
      coords: {dim: values} of the dimensions of vector metrics.
      check: rejects sizes, see `SizesCheck`.
      serves: rejects regimes, see `RegimeCheck`.
      description: short description of its settings, for figures and reports.
      closed_forms: returns theoretical curves, see `ClosedFormsFunction`.
      figures: draws its own figures, see `FiguresFunction`.
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
    """Whether any of a family's functions is given as `Steps`."""
    return any(isinstance(work, Steps) for work in (family.fit, family.sample, family.measure))
