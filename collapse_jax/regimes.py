"""Regimes: rules by which each generation's training data are chosen.

Each is a factory that returns a `Regime`; its docstring gives the name in the literature. `samples`
is M, the size of a training set: an int, a sequence by generation (its last entry repeats) or a
function of the generation.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.family import Request
from collapse_jax.pools import Pool, Pools

Samples = int | Sequence[int] | Callable[[int], int]

NOTHING = Request(0, 0)


class Sizes(NamedTuple):
    """Amounts of data that one generation draws, by source; i32 scalars if traced."""

    synthetic: Request = NOTHING  # from the previous generation's model
    fresh: Request = NOTHING  # from the original
    reused: Request = NOTHING  # from D_0; at generation 0: the fixed part of D_0 to be reused
    previous: Request = NOTHING  # from the data kept from earlier generations
    training: Request = NOTHING  # the whole training set
    capacity: int = 0  # of the kept data, or of the training set if none are kept


class Parts(NamedTuple):
    """Data from which a training set is assembled; None for those that the regime does not use."""

    synthetic: Pool | None
    fresh: Pool | None
    kept: Pool | None  # kept from earlier generations
    original: Pool | None  # D_0, or its fixed part


class SizesFunction(Protocol):
    """Gives the amounts of data that each generation draws, by source."""

    def __call__(self, generation: int, /) -> Sizes:
        """Returns the sizes of one generation as Python ints; deterministic.

        Args:
          generation: number of the generation; generation 0 is fitted to original data only
            (`fresh`, with `reused` for a fixed part of D_0 to be reused).

        Raises:
          ValueError: if a source has fewer samples than needed.
        """


class AssembleFunction(Protocol):
    """Assembles the training set of a later generation."""

    def __call__(
        self, key: jax.Array, pools: Pools, parts: Parts, sizes: Sizes, /
    ) -> tuple[Pool, Pool | None]:
        """Merges and subsamples one chain's data; pure and traced.

        Args:
          key: key of this chain, generation and purpose.
          pools: operations on the family's data; `subsample` may be None unless the regime's
            `subsamples` is true.
          parts: the data to assemble.
          sizes: sizes of the generation, after `realise`; counts may be traced.

        Returns:
          The training set of `sizes.training` members, and the data to keep for later generations
          (of capacity `sizes.capacity`), or None.
        """


class RealiseFunction(Protocol):
    """Draws random sizes of one chain."""

    def __call__(self, key: jax.Array, sizes: Sizes, /) -> Sizes:
        """Draws the counts of one generation; capacities do not change.

        Args:
          key: key of this chain, generation and purpose.
          sizes: sizes of the generation, with the largest possible counts.
        """


class Regime(NamedTuple):
    """A regime: pure functions of one chain, with descriptions for the engine.

    Attributes:
      name: name as on the command line. Families select closed forms by it, so a new regime needs a
        new name.
      config: everything that changes results; JSON-serialisable; part of the fingerprint. Its entry
        "samples", if any, is shown as M in figures and reports.
      sizes: amounts of data that each generation draws, see `SizesFunction`.
      assemble: assembles a later training set, see `AssembleFunction`.
      remembers: whether D_0 is among the kept data after generation 0.
      keeps_original: whether D_0 (or its fixed part) is kept for all generations.
      subsamples: whether it needs pools that can be subsampled.
      realise: draws random sizes, see `RealiseFunction`; None if sizes are not random.
      constant_samples: whether M is the same at every generation.
    """

    name: str
    config: Mapping[str, Any]
    sizes: SizesFunction
    assemble: AssembleFunction
    remembers: bool = False
    keeps_original: bool = False
    subsamples: bool = False
    realise: RealiseFunction | None = None
    constant_samples: bool = True


def replace(samples: Samples) -> Regime:
    """All training data are synthetic, from the latest model (Shumailov et al. 2024)."""
    schedule = _schedule(samples)

    def sizes(generation: int) -> Sizes:
        whole = schedule.request(generation)
        if generation == 0:
            return Sizes(fresh=whole, training=whole, capacity=whole.capacity)
        return Sizes(synthetic=whole, training=whole, capacity=whole.capacity)

    config = {"samples": schedule.config}
    return Regime("replace", config, sizes, _blend, constant_samples=schedule.constant)


def preserve(samples: Samples, fraction: float, fixed: bool = False) -> Regime:
    """A share of each training set of size M is from D_0, the rest from the latest model.

    The share is redrawn from D_0 each generation, or, if `fixed`, is the same part of D_0 every
    time (Shumailov et al. 2024 keep 10 %; Bertrand et al., arXiv 2310.00429).
    """
    schedule, share = _schedule(samples), arguments.share("fraction", fraction)

    def sizes(generation: int) -> Sizes:
        whole, (real, synthetic) = schedule.request(generation), schedule.divide(generation, share)
        if generation == 0:
            first = Sizes(fresh=whole, training=whole, capacity=whole.capacity)
            return first._replace(fresh=synthetic, reused=real) if fixed else first
        if fixed:  # the same members at every size
            real = schedule.divide(0, share)[0]
            synthetic = schedule.request_for(max(int(whole.count) - int(real.count), 0))
            whole = schedule.request_for(int(real.count) + int(synthetic.count))
        if real.count > schedule.size(0):
            raise SettingError(
                f"samples: expected preserve to reuse at most the {schedule.size(0)} samples of"
                f" D_0, got {real.count} at generation {generation}"
            )
        return Sizes(synthetic, reused=real, training=whole, capacity=whole.capacity)

    def assemble(key, pools, parts, sizes):
        if fixed:
            return _blend(key, pools, parts, sizes)
        if not sizes.reused:
            return _blend(key, pools, parts._replace(original=None), sizes)
        reused = pools.subsample(key, parts.original, *sizes.reused)
        return _blend(key, pools, parts._replace(original=reused), sizes)

    config = {"samples": schedule.config, "fraction": share, "fixed": fixed}
    keeps = bool(schedule.divide(0, share)[0]) or (share > 0 and not fixed)
    return Regime(
        "preserve",
        config,
        sizes,
        assemble,
        keeps_original=keeps,
        subsamples=keeps and not fixed,
        constant_samples=schedule.constant,
    )


def fresh(samples: Samples, fraction: float, independent: bool = False) -> Regime:
    """A share of each training set is new original data, the rest from the latest model.

    Exactly round(fraction * M) members are original, or, if `independent`, each member with that
    probability (the "fresh data loop" of Alemohammad et al., arXiv 2307.01850).
    """
    schedule, share = _schedule(samples), arguments.share("fraction", fraction)

    def sizes(generation: int) -> Sizes:
        whole, (real, synthetic) = schedule.request(generation), schedule.divide(generation, share)
        if generation == 0:
            return Sizes(fresh=whole, training=whole, capacity=whole.capacity)
        if independent:
            real, synthetic = whole, whole
        return Sizes(synthetic, fresh=real, training=whole, capacity=whole.capacity)

    def realise(key: jax.Array, sizes: Sizes) -> Sizes:
        draws = jax.random.bernoulli(key, share, (sizes.training.capacity,))
        real = jnp.sum(draws & (jnp.arange(draws.shape[0]) < sizes.training.count), dtype=jnp.int32)
        return sizes._replace(
            synthetic=sizes.synthetic._replace(count=sizes.training.count - real),
            fresh=sizes.fresh._replace(count=real),
        )

    config = {"samples": schedule.config, "fraction": share, "independent": independent}
    return Regime(
        "fresh",
        config,
        sizes,
        _blend,
        realise=realise if independent else None,
        constant_samples=schedule.constant,
    )


def accumulate(samples: Samples) -> Regime:
    """All data so far: D_0 and M samples per generation (Gerstgrasser et al., arXiv 2404.01413)."""
    schedule = _schedule(samples)

    def sizes(generation: int) -> Sizes:
        new = schedule.request(generation)
        total = schedule.total(generation)
        everything = Request(total, doubled(schedule.size(0), total))
        if generation == 0:
            return Sizes(fresh=new, training=everything, capacity=everything.capacity)
        return Sizes(
            synthetic=new,
            previous=Request(total - new.count, everything.capacity),
            training=everything,
            capacity=everything.capacity,
        )

    def assemble(key, pools, parts, sizes):
        del key
        everything = pools.merge(parts.kept, parts.synthetic, sizes.capacity)
        return everything, everything

    return Regime(
        "accumulate",
        {"samples": schedule.config},
        sizes,
        assemble,
        remembers=True,
        constant_samples=schedule.constant,
    )


def subsample(samples: Samples) -> Regime:
    """M members of all data so far, drawn without replacement each generation.

    The accumulate-subsample of Kazdan et al., arXiv 2410.16713.
    """
    schedule, accumulated = _schedule(samples), accumulate(samples)

    def sizes(generation: int) -> Sizes:
        return accumulated.sizes(generation)._replace(training=schedule.request(generation))

    def assemble(key, pools, parts, sizes):
        everything = pools.merge(parts.kept, parts.synthetic, sizes.capacity)
        return pools.subsample(key, everything, *sizes.training), everything

    return Regime(
        "subsample",
        {"samples": schedule.config},
        sizes,
        assemble,
        remembers=True,
        subsamples=True,
        constant_samples=schedule.constant,
    )


def mixture(samples: Samples, alpha: float, beta: float, gamma: float) -> Regime:
    """The paper's process p' = alpha p_theta + beta p + gamma p_0 (Shumailov et al. 2024).

    The shares of M are drawn from the latest model, from the previous training set and from D_0,
    the last two without replacement; they must sum to 1.
    """
    schedule = _schedule(samples)
    shares = [
        arguments.share(name, value)
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma))
    ]
    if abs(sum(shares) - 1.0) > 1e-6:
        raise SettingError(f"mixture: expected alpha + beta + gamma = 1, got {sum(shares):g}")

    def sizes(generation: int) -> Sizes:
        whole = schedule.request(generation)
        if generation == 0:
            return Sizes(fresh=whole, training=whole, capacity=whole.capacity)
        # Cumulative shares are rounded, so that the parts sum to M.
        rest = round(alpha * int(whole.count))
        previous = schedule.request_for(round((alpha + beta) * int(whole.count)) - rest)
        reused = schedule.request_for(int(whole.count) - rest - int(previous.count))
        for source, requested, available in (
            ("the previous training set", previous.count, schedule.size(generation - 1)),
            ("D_0", reused.count, schedule.size(0)),
        ):
            if requested > available:
                raise SettingError(
                    f"samples: expected mixture to draw at most the {available} samples of"
                    f" {source}, got {requested} at generation {generation}"
                )
        return Sizes(
            synthetic=schedule.request_for(rest),
            reused=reused,
            previous=previous,
            training=whole,
            capacity=whole.capacity,
        )

    def assemble(key, pools, parts, sizes):
        previous, reused = None, None
        if sizes.previous:
            k_previous = jax.random.fold_in(key, 0)
            previous = pools.subsample(k_previous, parts.kept, *sizes.previous)
        if sizes.reused:
            k_reused = jax.random.fold_in(key, 1)
            reused = pools.subsample(k_reused, parts.original, *sizes.reused)
        training, _ = _blend(key, pools, Parts(parts.synthetic, None, previous, reused), sizes)
        return training, training if shares[1] > 0 else None

    config = {"samples": schedule.config, "shares": shares}
    return Regime(
        "mixture",
        config,
        sizes,
        assemble,
        remembers=shares[1] > 0,
        keeps_original=shares[2] > 0,
        subsamples=shares[1] > 0 or shares[2] > 0,
        constant_samples=schedule.constant,
    )


def _blend(key: jax.Array, pools: Pools, parts: Parts, sizes: Sizes) -> tuple[Pool, Pool | None]:
    """Merges all parts into one pool, in the frame of the first; keeps nothing."""
    del key
    ordered = (parts.synthetic, parts.kept, parts.original, parts.fresh)
    present = [part for part in ordered if part is not None]
    training = present[0]
    for part in present[1:]:
        training = pools.merge(training, part, sizes.capacity)
    return training, None


class _Schedule(NamedTuple):
    """The size of the training set at each generation."""

    size: Callable[[int], int]
    total: Callable[[int], int]  # all samples drawn up to and including a generation
    constant: bool
    config: Any  # JSON that tells different schedules apart

    def request(self, generation: int, share: float = 1.0) -> Request:
        """A request for a share of a generation's training set."""
        return self.divide(generation, share)[0]

    def divide(self, generation: int, share: float) -> tuple[Request, Request]:
        """Requests for a share of a generation's training set, rounded, and for the rest."""
        whole = self.size(generation)
        part = round(share * whole)
        return self.request_for(part), self.request_for(whole - part)

    def request_for(self, count: int) -> Request:
        """A request for `count` members, of the smallest capacity of the schedule."""
        if count == 0:
            return NOTHING
        return Request(count, count if self.constant else doubled(self.size(0), count))


def doubled(base: int, count: int) -> int:
    """The smallest base * 2^k >= `count`, so that few shapes are compiled."""
    capacity = base
    while capacity < count:
        capacity *= 2
    return capacity


def _schedule(samples: Samples) -> _Schedule:
    config: Any = samples
    if callable(samples):
        schedule, config = samples, {"function": [samples(g) for g in range(64)]}
    elif not isinstance(samples, Sequence):
        constant = config = _integer(samples)

        def schedule(generation: int) -> int:
            return constant
    else:
        config = sizes = [_integer(size) for size in samples]
        if not sizes:
            raise SettingError("samples: expected at least one size, got an empty sequence")

        def schedule(generation: int) -> int:
            return sizes[min(generation, len(sizes) - 1)]

    @functools.cache
    def checked(generation: int) -> int:
        return _integer(schedule(generation))

    totals = [0]  # before each generation computed so far

    def total(generation: int) -> int:
        while len(totals) < generation + 2:
            totals.append(totals[-1] + checked(len(totals) - 1))
        return totals[generation + 1]

    for generation in range(len(config) if isinstance(config, list) else 1):
        checked(generation)
    constant_size = not (callable(samples) or isinstance(samples, Sequence))
    return _Schedule(checked, total, constant_size, config)


def _integer(size: Any) -> int:
    return arguments.integer("samples", size, at_least=2, below=2**31)
