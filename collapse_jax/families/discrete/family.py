"""The discrete family: symbol frequencies, refitted to counts of their own draws.

This is the haploid Wright-Fisher model of population genetics: frequencies drift until all symbols
but one are lost. Axis legend: symbol K, frequency_bin.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools, theory
from collapse_jax.arguments import SettingError
from collapse_jax.family import (
    Curves,
    Family,
    Metric,
    Metrics,
    Origin,
    OwnFigures,
    Request,
    RunData,
    Threshold,
    Training,
)
from collapse_jax.numerics.multinomial import multinomial
from collapse_jax.pools import Counts
from collapse_jax.regimes import Regime
from collapse_jax.results.closed_forms import settled

_LISTED = 64  # largest number of symbols whose probabilities the config lists


class _Original(NamedTuple):
    """The original distribution, on the host."""

    weights: np.ndarray  # i32[K] if given as counts, else f32[K]
    probabilities: np.ndarray  # f64[K]
    tail: np.ndarray  # bool[K], the rarest symbols
    bins: np.ndarray  # i64[K], bin of each symbol's original frequency; frequency_bin if it is 0
    edges: np.ndarray  # f64[frequency_bin], lower edges


def discrete(
    probabilities: Sequence[float] | np.ndarray,
    tail: float = 0.02,
    title: str = "given probabilities",
    sha256: str | None = None,
    frequencies: bool = False,
) -> Family:
    """Chains of categorical distributions fitted by maximum likelihood to their own draws.

    Args:
      probabilities: probabilities of the original, [K]; counts are normalised.
      tail: largest total probability of the tail, the rarest symbols (at least one), in (0, 1).
      title: title of the corpus, for plots.
      sha256: checksum of the corpus from which the probabilities were counted.
      frequencies: whether to record every symbol's frequency (for small K).

    Returns:
      A family with metrics support, entropy, heterozygosity, tail_mass, total_variation (which is
      also the squared 2-Wasserstein distance under the 0-1 metric), kl and surviving_share.

    Raises:
      ValueError: if an argument is outside its range.
    """
    tail = arguments.share("tail", tail, above=0, below=1)
    given = _original(np.asarray(probabilities), tail)
    heterozygosity = 1.0 - float(np.sum(given.probabilities**2))
    tail_probability = float(given.probabilities[given.tail].sum())

    def original(key: jax.Array, request: Request) -> Counts:
        drawn = multinomial(key, jnp.asarray(given.weights), request.count)
        return Counts(drawn, request.count)

    def sample(key: jax.Array, params: Counts, request: Request) -> Counts:
        return Counts(multinomial(key, params.counts, request.count), request.count)

    def init(key: jax.Array) -> Counts:
        del key
        return Counts(jnp.zeros(given.probabilities.shape, jnp.int32), jnp.int32(0))

    def fit(key: jax.Array, params: Counts, training: Training) -> tuple[Counts, Metrics]:
        del key, params
        pool = training.pool
        return Counts(pool.counts, jnp.int32(pool.total)), {}

    def measure(key: jax.Array, params: Counts, training: Training, origin: Origin) -> Metrics:
        del key, training, origin
        metrics = _measure(params, given)
        if frequencies:
            metrics["frequency"] = _frequency(params)
        return metrics

    def check(sizes: Any) -> None:
        total = max(sizes.training.count, sizes.previous.count + sizes.synthetic.count)
        if total >= 2**31:
            raise SettingError(
                f"samples: expected fewer than 2^31 draws in all, up to which counts are exact, got"
                f" {total}; use fewer samples or generations"
            )

    return Family(
        name="discrete",
        config=_config(given, tail, title=title, sha256=sha256, frequencies=frequencies),
        pools=pools.counts(),
        metrics=_metrics(len(probabilities), frequencies),
        thresholds={
            "early": Threshold(
                "tail_mass", 0.5 * tail_probability, "tail mass below half the original's"
            ),
            "late": Threshold(
                "heterozygosity",
                0.01 * heterozygosity,
                "heterozygosity below 1 % of the original's",
            ),
        },
        original=original,
        init=init,
        fit=fit,
        sample=sample,
        measure=measure,
        coords={
            "frequency_bin": given.edges,
            **({"symbol": np.arange(len(probabilities))} if frequencies else {}),
        },
        check=check,
        description=title,
        closed_forms=functools.partial(_closed_forms, given.probabilities, tail_probability),
        figures=_figures,
    )


def _closed_forms(
    probabilities: np.ndarray, tail: float, regime: Regime, generations: int
) -> Curves:
    """Closed forms for an original f64[K], whose rarest symbols have total probability `tail`."""
    if not (regime.name in ("replace", "fresh") and regime.constant_samples):
        return {}
    samples = regime.config["samples"]
    if regime.name == "replace":
        fits = np.arange(1, generations + 1)
        support = np.full(generations, np.nan)
        support[0] = theory.expected_support(samples, probabilities)
        return {
            ("heterozygosity", "mean"): theory.expected_heterozygosity(
                samples, fits, probabilities
            ),
            ("support", "mean"): support,
            ("tail_mass", "mean"): np.full(generations, tail),
            ("tail_mass", "variance"): theory.variance_of_frequency(samples, fits, tail),
        }
    share = regime.config["fraction"]
    if share == 0:
        return {}
    if regime.config["independent"]:
        steady = theory.random_count_steady_homozygosity(samples, share, probabilities)
    else:
        real = int(regime.sizes(1).fresh.count)
        share = real / samples
        steady = theory.fixed_count_steady_homozygosity(samples, real, probabilities)
    evenness = np.where(settled(share, generations), 1.0 - steady, np.nan)
    return {("heterozygosity", "mean"): evenness}


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    from collapse_jax.families.discrete import figures

    del generations
    drawn = {"symbol_survival": figures.symbol_survival(run.summary, curves)}
    return OwnFigures(drawn, replaces=("surviving_share",))


def _frequency(params: Counts) -> jax.Array:
    return params.counts.astype(jnp.float32) / jnp.float32(params.total)


def _measure(params: Counts, original: _Original) -> Metrics:
    probabilities = original.probabilities
    frequency = _frequency(params)
    alive = params.counts > 0
    # 0 ln 0 = 0; the logarithm of an extinct symbol is taken at 1 instead.
    entropy = -jnp.sum(jnp.where(alive, frequency * jnp.log(jnp.where(alive, frequency, 1.0)), 0.0))
    possible = probabilities > 0
    log_probabilities = np.log(np.where(possible, probabilities, 1.0)).astype(np.float32)
    cross = -jnp.sum(frequency * log_probabilities)
    edges = original.edges
    sizes = np.bincount(original.bins, minlength=len(edges) + 1)[: len(edges)]
    survivors = jnp.stack(
        [
            jnp.sum(alive & (original.bins == i), dtype=jnp.int32) / max(int(size), 1)
            for i, size in enumerate(sizes)
        ]
    )
    return {
        "support": jnp.sum(alive, dtype=jnp.int32).astype(jnp.float32),
        "entropy": entropy,
        "heterozygosity": 1.0 - jnp.sum(frequency**2),
        "tail_mass": jnp.sum(jnp.where(original.tail, frequency, 0.0)),
        "total_variation": 0.5 * jnp.sum(jnp.abs(frequency - probabilities.astype(np.float32))),
        "kl": jnp.maximum(cross - entropy, 0.0),
        "surviving_share": survivors,
    }


def _metrics(symbols: int, frequencies: bool) -> dict[str, Metric]:
    def positive(
        text: str, units: str = "1", scale: float = 1e-3, limit: float = 1.0, symbol: str = ""
    ) -> Metric:
        return Metric(text, units, scale=scale, limit=limit, nonnegative=True, symbol=symbol)

    largest = math.log(max(symbols, 2))
    metrics = {
        "support": positive("number of surviving symbols", "symbols", 10.0, float(symbols)),
        "entropy": positive("entropy of the model", "nats", 0.1 * largest, largest),
        "heterozygosity": positive(
            "heterozygosity 1 - sum p^2 of the model", scale=0.05, symbol="H_n"
        ),
        "tail_mass": positive("model's probability of the original's rarest symbols"),
        "total_variation": positive("total variation (W2^2 under the 0-1 metric) to the original"),
        "kl": positive("KL(model || original)", "nats", 1e-3, 40.0, symbol=r"\mathrm{KL}"),
        "surviving_share": Metric(
            "share of surviving symbols, by initial frequency",
            "1",
            dims=("frequency_bin",),
            scale=1e-2,
            limit=1.0,
            nonnegative=True,
        ),
    }
    if frequencies:
        metrics["frequency"] = Metric(
            "frequency of a symbol in the model",
            "1",
            dims=("symbol",),
            scale=1e-2,
            limit=1.0,
            nonnegative=True,
        )
    return metrics


def _original(given: np.ndarray, tail: float) -> _Original:
    if given.ndim != 1 or given.size < 2:
        raise SettingError(
            f"probabilities: expected a vector of at least 2 symbols, got shape {given.shape}"
        )
    values = given.astype(np.float64)
    if not np.all(np.isfinite(values)) or np.any(values < 0) or values.sum() <= 0:
        raise arguments.setting_error(
            "probabilities", "finite numbers >= 0 with a positive sum", values.tolist()
        )
    probabilities = values / values.sum()
    whole = np.all(values == np.round(values)) and 1 < values.sum() < 2**31
    weights = values.astype(np.int32) if whole else values.astype(np.float32)
    order = np.lexsort((np.arange(probabilities.size), probabilities))
    order = order[probabilities[order] > 0]
    rare = order[
        : max(1, int(np.searchsorted(np.cumsum(probabilities[order]), tail, side="right")))
    ]
    in_tail = np.zeros(probabilities.shape, bool)
    in_tail[rare] = True
    lowest, highest = probabilities[probabilities > 0].min(), probabilities.max()
    decades = np.arange(math.floor(math.log10(lowest)), math.floor(math.log10(highest)) + 1)
    edges = 10.0 ** np.array(decades, np.float64)
    bins = np.searchsorted(edges, probabilities, side="right") - 1
    bins = np.where(probabilities > 0, bins, len(edges))
    return _Original(
        weights=weights, probabilities=probabilities, tail=in_tail, bins=bins, edges=edges
    )


def _config(
    original: _Original, tail: float, title: str, sha256: str | None, frequencies: bool
) -> dict[str, Any]:
    probabilities = original.probabilities
    listed = probabilities.tolist() if probabilities.size <= _LISTED else None
    return {
        "title": title,
        "corpus_sha256": sha256,
        "symbols": int(probabilities.size),
        "probabilities": listed,
        "probabilities_sha256": hashlib.sha256(probabilities.tobytes()).hexdigest(),
        "tail": tail,
        "tail_probability": float(probabilities[original.tail].sum()),
        "frequencies": frequencies,
    }
