"""Regimes: which data the next generation is fitted to.

Each is a factory that returns a `Regime`; its docstring gives the literature's name for it.
`samples` is M, the size of a training set: an int, a sequence (its last entry repeats) or a
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
    """How much one generation draws, and from where; i32 scalars where a schedule is traced."""

    synthetic: Request = NOTHING  # from the previous generation's model
    fresh: Request = NOTHING  # from the population
    reused: Request = NOTHING  # from D_0; at generation 0: the part of D_0 that is fixed for reuse
    previous: Request = NOTHING  # from what is remembered
    training: Request = NOTHING  # what is fitted
    capacity: int = 0  # room for what is remembered, or for the training set where nothing is


class Parts(NamedTuple):
    """The data at hand when a training set is put together; None where the regime asks for none."""

    synthetic: Pool | None
    fresh: Pool | None
    kept: Pool | None  # what is remembered of earlier generations
    original: Pool | None  # D_0, or its fixed part


class SizesFunction(Protocol):
    """Says how much each generation draws, and from where."""

    def __call__(self, generation: int, /) -> Sizes:
        """The sizes of one generation, as Python ints; the same however often it is asked.

        Args:
          generation: 0 for the first fit, to original data alone (`fresh`, or `reused` for the part
            of D_0 that is fixed for reuse); any later one otherwise.

        Raises:
          ValueError: if that much can't be had.
        """


class AssembleFunction(Protocol):
    """Puts the training set of a later generation together."""

    def __call__(
        self, key: jax.Array, pools: Pools, parts: Parts, sizes: Sizes, /
    ) -> tuple[Pool, Pool | None]:
        """Merges and subsamples one chain's data; pure and traced.

        Args:
          key: of this chain, generation and purpose.
          pools: the algebra of the family's data; `subsample` may be None unless the regime says
            that it `subsamples`.
          parts: the data at hand.
          sizes: of the generation, after `realise`; counts may be traced.

        Returns:
          The training set of `sizes.training` members, and what to remember of it and of earlier
          ones (with room for `sizes.capacity`; None where nothing is remembered).
        """


class RealiseFunction(Protocol):
    """Draws a chain's own sizes."""

    def __call__(self, key: jax.Array, sizes: Sizes, /) -> Sizes:
        """Draws the counts of one generation; capacities stay.

        Args:
          key: of this chain, generation and purpose.
          sizes: of the generation, with the largest counts that may come out.
        """


class Regime(NamedTuple):
    """Pure functions of one chain, and what the engine must know of them.

    Attributes:
      name: as on the command line. Families tell closed forms by it, so a regime of your own has a
        name of its own.
      config: everything that changes results; JSON-serialisable; goes into the fingerprint. Its
        entry "samples", if there is one, is what figures and reports call M.
      sizes: how much each generation draws, see `SizesFunction`.
      assemble: puts a later training set together, see `AssembleFunction`.
      remembers: whether D_0 is remembered after generation 0.
      keeps_original: whether D_0 (or its fixed part) stays at hand for ever.
      subsamples: whether it needs pools that can be subsampled.
      realise: draws sizes where a chain's are themselves random, see `RealiseFunction`; or None.
      constant_samples: whether M is the same at every generation, now and however far it goes on.
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
    """All data synthetic, from the latest model (Shumailov et al. 2024)."""
    schedule = _schedule(samples)

    def sizes(generation: int) -> Sizes:
        whole = schedule.request(generation)
        if generation == 0:
            return Sizes(fresh=whole, training=whole, capacity=whole.capacity)
        return Sizes(synthetic=whole, training=whole, capacity=whole.capacity)

    config = {"samples": schedule.config}
    return Regime("replace", config, sizes, _blend, constant_samples=schedule.constant)


def preserve(samples: Samples, fraction: float, fixed: bool = False) -> Regime:
    """A share of each training set is from D_0, the rest from the latest model; size unchanged.

    The share is redrawn from D_0 each generation, or with `fixed` the same part of it every time
    (Shumailov et al. 2024 keep 10 %; Bertrand et al., arXiv 2310.00429).
    """
    schedule, share = _schedule(samples), arguments.share("fraction", fraction)

    def sizes(generation: int) -> Sizes:
        whole, (real, synthetic) = schedule.request(generation), schedule.divide(generation, share)
        if generation == 0:
            first = Sizes(fresh=whole, training=whole, capacity=whole.capacity)
            return first._replace(fresh=synthetic, reused=real) if fixed else first
        if fixed:  # the same members at every size
            real = schedule.divide(0, share)[0]
            synthetic = schedule.asking(max(int(whole.count) - int(real.count), 0))
            whole = schedule.asking(int(real.count) + int(synthetic.count))
        if real.count > schedule.size(0):
            raise SettingError(
                f"preserve: generation {generation} wants {real.count} original samples,"
                f" but D_0 has {schedule.size(0)}"
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

    Exactly round(fraction * M) members, or with `independent` each member with that probability
    (the "fresh data loop" of Alemohammad et al., arXiv 2307.01850).
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
    """Everything so far: D_0 and every generation's M samples (Gerstgrasser et al. 2404.01413)."""
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
    """M members of everything so far, without replacement, drawn anew each generation.

    The accumulate-subsample of Kazdan et al., arXiv 2410.16713.
    """
    schedule, everything_so_far = _schedule(samples), accumulate(samples)

    def sizes(generation: int) -> Sizes:
        return everything_so_far.sizes(generation)._replace(training=schedule.request(generation))

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

    Shares of M from the latest model, from the previous training set (without replacement) and
    from D_0 (without replacement); they must sum to 1.
    """
    schedule = _schedule(samples)
    shares = [
        arguments.share(name, value)
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma))
    ]
    if abs(sum(shares) - 1.0) > 1e-6:
        raise SettingError(f"mixture: alpha + beta + gamma must be 1, got {sum(shares):g}")

    def sizes(generation: int) -> Sizes:
        whole = schedule.request(generation)
        if generation == 0:
            return Sizes(fresh=whole, training=whole, capacity=whole.capacity)
        # Cumulative shares are rounded, so that the parts add up to the whole.
        rest = round(alpha * int(whole.count))
        previous = schedule.asking(round((alpha + beta) * int(whole.count)) - rest)
        reused = schedule.asking(int(whole.count) - rest - int(previous.count))
        for source, asked, there in (
            ("the previous training set", previous.count, schedule.size(generation - 1)),
            ("D_0", reused.count, schedule.size(0)),
        ):
            if asked > there:
                raise SettingError(
                    f"mixture: generation {generation} wants {asked} samples of {source},"
                    f" which has {there}"
                )
        return Sizes(schedule.asking(rest), NOTHING, reused, previous, whole, whole.capacity)

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
    """All parts there are, in one pool and in the frame of the first; nothing remembered."""
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
        """A share of a generation's training set, with no more room than a schedule needs."""
        return self.divide(generation, share)[0]

    def divide(self, generation: int, share: float) -> tuple[Request, Request]:
        """A share of a generation's training set, rounded to whole members, and the rest."""
        whole = self.size(generation)
        part = round(share * whole)
        return self.asking(part), self.asking(whole - part)

    def asking(self, count: int) -> Request:
        """A request for so many members."""
        if count == 0:
            return NOTHING
        return Request(count, count if self.constant else doubled(self.size(0), count))


def doubled(base: int, count: int) -> int:
    """The smallest base * 2^k that holds `count`: few shapes, so few programs."""
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

    totals = [0]  # before each generation asked for so far

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
