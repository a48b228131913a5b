"""The three error sources of model collapse, each alone and all together.

A lane is one chain of one class with one source, or with all ("full"). All lanes advance together,
in one compiled scan over generations with one draw program. `truth` is the density that a lane is
compared with: the true density, or the right class's best fit to it. The right class can represent
the true density, the small class cannot. Axis legend: G grid points, L lanes.
"""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from collapse_jax import compiling
from collapse_jax.error_sources import model_classes, neural_density
from collapse_jax.error_sources.model_classes import Learner
from collapse_jax.error_sources.truth import Modes, log_masses
from collapse_jax.numerics.multinomial import multinomial

CLASSES = ("gaussian", "gmm", "neural")
SOURCES = ("statistical", "expressivity", "approximation", "full")
METRICS = {
    "kl": ("KL(truth || model)", "nats"),
    "edge_mass": ("the model's mass at the two ends of the grid", "1"),
}
# Steps of Fisher scoring or EM in a fit to infinite data.
_POPULATION_STEPS = 300


class Lanes(NamedTuple):
    """A group of lanes: random streams, sample sizes, truths and initial parameters."""

    streams: jax.Array  # u32[L, 3]: group, M, chain; folded into the key
    samples: jax.Array  # i32[L], M; 0 for infinite data
    truth: jax.Array  # f32[L, G], log-masses
    params: Any  # [L, ...], the fit to the truth if fits are exact, the fixed start if early


class ClassPlan(NamedTuple):
    """The lanes of one class: those with exact and those with early-stopped fits."""

    learner: Learner
    exact: Lanes
    early: Lanes


def make_learners(
    truth: Modes, early_steps: Mapping[str, int], exact_steps: Mapping[str, int]
) -> dict[str, Learner]:
    """The three classes, located and scaled to the true density.

    Args:
      truth: modes of the true density.
      early_steps: {class: steps of an early fit}.
      exact_steps: {class: steps of an exact fit between generations}, except for the Gaussian.
    """
    place = truth.centre, truth.scale
    return {
        "gaussian": model_classes.gaussian(*place, early_steps["gaussian"]),
        "gmm": model_classes.mixture(*truth, early_steps["gmm"], exact_steps["gmm"]),
        "neural": neural_density.neural(*place, early_steps["neural"], exact_steps["neural"]),
    }


def population_fits(learner: Learner, modes: np.ndarray) -> tuple[Any, Any]:
    """Fits the right and the small class to infinite data from the true density.

    Fits start from several candidates; the one with the lowest cross-entropy is kept.

    Args:
      learner: the class.
      modes: log-masses of the true density, f32[G].

    Returns:
      (params of the right class, params of the small class).
    """
    sizes = learner.right, learner.small
    groups = [learner.candidates(size) for size in sizes]
    counts = [jax.tree.leaves(group)[0].shape[0] for group in groups]
    begin = jax.tree.map(lambda *parts: jnp.concatenate(parts), *groups)
    masses = jnp.exp(modes)

    def fit(params: Any) -> tuple[Any, jax.Array]:
        fitted = learner.exact(params, masses, _POPULATION_STEPS)
        return fitted, -jnp.sum(masses * learner.log_masses(fitted))

    fitted, losses = compiling.compiled(jax.vmap(fit))(begin)
    first = int(np.argmin(losses[: counts[0]]))
    second = counts[0] + int(np.argmin(losses[counts[0] :]))
    right, small = (jax.tree.map(lambda leaf, i=i: leaf[i], fitted) for i in (first, second))
    return right, small


def plan(
    learner: Learner, modes: np.ndarray, sizes: Sequence[int], size: int, chains: int
) -> ClassPlan:
    """The lanes of one class.

    Exact: chains of the right class for every M (statistical), then the small class on infinite
    data (expressivity). Early: chains of the small class at one M (the whole process), then the
    right class on infinite data (approximation). The right class's truth is its own fit to the
    true density, which it can represent exactly.

    Args:
      learner: the class.
      modes: log-masses of the true density, f32[G].
      sizes: every M of the statistical source.
      size: M of the whole process.
      chains: number of chains for each M.
    """
    right, small = population_fits(learner, modes)
    known = learner.log_masses(right)

    def lanes(what: str, samples: int, number: int, truth: Any, params: Any) -> Lanes:
        stream = zlib.crc32(f"{learner.name} {what}".encode())
        streams = np.array([[stream, samples, chain] for chain in range(number)], np.uint32)
        repeat = lambda leaf: jnp.broadcast_to(leaf, (number, *jnp.shape(leaf)))  # noqa: E731
        return Lanes(
            jnp.asarray(streams),
            jnp.full(number, samples, jnp.int32),
            repeat(jnp.asarray(truth)),
            jax.tree.map(repeat, params),
        )

    exact = [
        lanes("statistical", samples=count, number=chains, truth=known, params=right)
        for count in sizes
    ]
    exact.append(lanes("expressivity", samples=0, number=1, truth=modes, params=small))
    early = [
        lanes(
            "full", samples=size, number=chains, truth=modes, params=learner.start(learner.small)
        ),
        lanes(
            "approximation", samples=0, number=1, truth=known, params=learner.start(learner.right)
        ),
    ]
    join = lambda groups: jax.tree.map(lambda *parts: jnp.concatenate(parts), *groups)  # noqa: E731
    return ClassPlan(learner, join(exact), join(early))


def simulation(
    plans: Sequence[ClassPlan], generations: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Runs all lanes of all plans; each fit sees draws from the previous fit.

    Args:
      plans: one per class.
      generations: number of fits.

    Returns:
      (typed key) -> {metric: f32[generation, L]}, lanes in the order of plans, exact before early;
      compiled at the first call.
    """
    groups = [lanes for plan in plans for lanes in (plan.exact, plan.early)]

    def run(groups: list[Lanes], key: jax.Array) -> dict[str, jax.Array]:
        streams, samples, truth = (
            jnp.concatenate([getattr(lanes, name) for lanes in groups])
            for name in ("streams", "samples", "truth")
        )
        keys = jax.vmap(_stream_key, (None, 0))(key, streams)
        borders = np.cumsum([len(lanes.samples) for lanes in groups])[:-1].tolist()

        def generation(state: Any, number: jax.Array) -> Any:
            params, log_masses = state
            targets = jnp.split(jax.vmap(draw, (0, None, 0, 0))(keys, number, log_masses, samples),
                                borders)  # fmt: skip
            fitted, models = [], []
            for i, plan in enumerate(plans):
                learner, exact, early = plan.learner, 2 * i, 2 * i + 1
                now = jax.vmap(learner.exact, (0, 0, None))(
                    params[i], targets[exact], learner.steps
                )
                fitted.append(now)
                models.append(jax.vmap(learner.log_masses)(now))
                now = jax.vmap(learner.early)(groups[early].params, targets[early])
                models.append(jax.vmap(learner.log_masses)(now))
            log_masses = jnp.concatenate(models)
            return (fitted, log_masses), jax.vmap(measure)(truth, log_masses)

        begin = [lanes.params for lanes in groups[::2]], truth
        return jax.lax.scan(generation, begin, jnp.arange(generations))[1]

    return functools.partial(compiling.compiled(run), groups)


def _stream_key(key: jax.Array, stream: jax.Array) -> jax.Array:
    for i in range(3):
        key = jax.random.fold_in(key, stream[i])
    return key


def draw(
    key: jax.Array, generation: jax.Array, log_masses: jax.Array, samples: jax.Array
) -> jax.Array:
    """Relative frequencies of a sample, f32[G]; the masses themselves where `samples` is 0."""
    masses = jnp.exp(log_masses)
    counts = multinomial(jax.random.fold_in(key, generation), masses, samples)
    share = counts.astype(jnp.float32) / jnp.maximum(samples, 1).astype(jnp.float32)
    return jnp.where(samples > 0, share, masses)


def measure(truth: jax.Array, model: jax.Array) -> dict[str, jax.Array]:
    """KL(truth || model), nats, and the model's mass at the grid's ends, from log-masses f32[G].

    KL is computed as the sum of p (e^d - 1 - d), d = ln(q / p): terms are nonnegative and of second
    order, so a divergence of 1e-6 nats is not lost in rounding. Where |d| >= 1/2: q - p - p d.
    """
    p, q = jnp.exp(truth), jnp.exp(model)
    gap = model - truth
    near = jnp.abs(gap) < 0.5
    small = jnp.where(near, gap, 0.0)
    terms = jnp.where(near, p * (jnp.expm1(small) - small), q - p - p * gap)
    return {"kl": jnp.sum(terms), "edge_mass": q[0] + q[-1]}


def study(
    truth: Modes,
    sizes: Sequence[int],
    size: int,
    chains: int,
    generations: int,
    seed: int,
    classes: Mapping[str, Learner],
) -> xr.Dataset:
    """Runs all sources of all classes.

    Args:
      truth: modes of the true density.
      sizes: every M of the statistical source.
      size: M of the whole process, one of `sizes`.
      chains: number of chains for each M.
      generations: number of fits.
      seed: seed of the random numbers.
      classes: {name: Learner}.

    Returns:
      Variables SOURCE_METRIC for every source and metric, with dims (model, generation), and
      between them (samples, chain) for the statistical source and (chain,) for the full process;
      and right_class_kl (model,), the KL from the true density, the truth of expressivity and the
      full process, to the right class's fit, the truth of the other two.
    """
    modes = log_masses(truth)
    plans = [
        plan(learner, modes, sizes=sizes, size=size, chains=chains) for learner in classes.values()
    ]
    values = simulation(plans, generations)(jax.random.key(seed, impl="philox4x32"))
    number = len(sizes) * chains
    variables: dict[str, Any] = {}
    for name, (text, units) in METRICS.items():
        # [model, lane, generation]
        lanes = np.asarray(values[name], np.float64).reshape(generations, len(plans), -1)
        lanes = np.moveaxis(lanes, 0, -1)
        parts = {
            "statistical": lanes[:, :number].reshape(-1, len(sizes), chains, generations),
            "expressivity": lanes[:, number],
            "full": lanes[:, number + 1 : -1],
            "approximation": lanes[:, -1],
        }
        dims = {"statistical": ("samples", "chain"), "full": ("chain",)}
        for source in SOURCES:
            where = ("model", *dims.get(source, ()), "generation")
            attributes = {"long_name": f"{text}, {source}", "units": units}
            variables[f"{source}_{name}"] = (where, parts[source], attributes)
    # The truth of the last lane, approximation, is the right class's fit to the modes.
    gaps = [float(measure(jnp.asarray(modes), one.early.truth[-1])["kl"]) for one in plans]
    text = "KL(truth || best of the right class)"
    variables["right_class_kl"] = ("model", gaps, {"long_name": text, "units": "nats"})
    coords = {
        "model": list(classes),
        "samples": list(sizes),
        "chain": np.arange(chains),
        "generation": np.arange(generations),
    }
    return xr.Dataset(variables, coords, {"compared_samples": size})
