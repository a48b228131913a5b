"""Neural density on the grid: early-stopped fits by Adam, exact fits by Fisher scoring.

Axis legend: G grid points, H hidden units.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax.error_sources.model_classes import GRID, Learner
from collapse_jax.numerics import linalg

# Bound on every parameter's magnitude, in units of the scale: without it, the optimum of a network
# of few units is at infinity.
LARGEST = 8.0
UNITS = 6  # hidden units of the right class
_ADAM_RATE = 0.05


class Neural(NamedTuple):
    """log q(z) = -z^2/2 + sum_h output tanh(slope z + bias) - log Z, z standardised."""

    values: jax.Array  # f32[3, H]: outputs, slopes, biases
    present: jax.Array  # f32[H], 1 for units in use, else 0


def neural(centre: float, scale: float, steps: int, exact_steps: int, small: int = 2) -> Learner:
    """Normal density times the exponential of a small network, normalised on the grid.

    Early fits are a few Adam steps with cosine decay. Exact fits use damped Fisher scoring: the
    likelihood is so ill-conditioned that 300 Adam steps, in four times the time, end 3 units of
    log-likelihood below the maximum, as much as the statistical error itself.

    Args:
      centre, scale: mean and standard deviation of the normal factor, data units.
      steps: number of steps of an early fit, which starts from evenly spread units.
      exact_steps: number of steps of an exact fit between generations.
      small: number of hidden units of the small class.
    """
    standard = ((GRID - centre) / scale).astype(np.float32)
    network = functools.partial(_network, standard)
    optimizer = optax.adam(optax.cosine_decay_schedule(_ADAM_RATE, steps))

    def start(size: int) -> Neural:
        used = np.arange(UNITS) < size
        places = 1.5 * (2 * (np.arange(UNITS) + 0.5) / size - 1)
        values = np.stack([0.1 * (-1.0) ** np.arange(UNITS), np.full(UNITS, 2.0), -2.0 * places])
        return Neural(jnp.asarray(values * used, jnp.float32), jnp.asarray(used, jnp.float32))

    def candidates(size: int) -> Neural:
        number = 32
        draw = np.random.default_rng(0).normal(size=(number, 3, UNITS)) * [[1.0], [3.0], [3.0]]
        present = jnp.broadcast_to(start(size).present, (number, UNITS))
        values = np.clip(draw, -LARGEST, LARGEST) * np.asarray(present)[:, None]
        return Neural(jnp.asarray(values, jnp.float32), present)

    def log_masses(params: Neural) -> jax.Array:
        return jax.nn.log_softmax(network(params.values)[0])

    def early(begin: Neural, masses: jax.Array) -> Neural:
        def step(_: Any, state: Any) -> Any:
            values, memory = state
            logits, jacobian = network(values)
            gradient = (jacobian @ (jax.nn.softmax(logits) - masses)).reshape(values.shape)
            update, memory = optimizer.update(gradient * begin.present, memory)
            return jnp.clip(values + update, -LARGEST, LARGEST), memory

        state = begin.values, optimizer.init(begin.values)
        return begin._replace(values=jax.lax.fori_loop(0, steps, step, state)[0])

    def exact(params: Neural, masses: jax.Array, number: Any) -> Neural:
        return _score(network, params, masses, number)

    return Learner(
        name="neural",
        right=UNITS,
        small=small,
        start=start,
        candidates=candidates,
        log_masses=log_masses,
        exact=exact,
        early=early,
        steps=exact_steps,
    )


def _network(standard: np.ndarray, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-density up to a constant, f32[G], and its Jacobian in the values, f32[3 H, G]."""
    outputs, slopes, biases = (row[:, None] for row in values)
    bent = jnp.tanh(slopes * standard + biases)
    inner = outputs * (1.0 - bent**2)
    logits = jnp.sum(outputs * bent, axis=0) - 0.5 * standard**2
    return logits, jnp.concatenate([bent, inner * standard, inner])


def _score(network: Any, params: Neural, masses: jax.Array, number: Any) -> Neural:
    """Damped Fisher scoring (Levenberg-Marquardt) within bounds; never raises the cross-entropy.

    The cross-entropy has gradient J (q - p), and as Fisher information the covariance of the
    Jacobian J under the model q. Values that would leave their bounds are held fixed in a step.
    """
    present = jnp.tile(params.present, 3)

    def evaluated(values: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, jacobian = network(values)
        log_masses = jax.nn.log_softmax(logits)
        model = jnp.exp(log_masses)
        centred = jacobian - (jacobian @ model)[:, None]
        loss = -jnp.sum(masses * log_masses)
        return loss, centred @ (model - masses), (centred * model) @ centred.T

    def step(_: Any, state: Any) -> Any:
        tried, values, damping, now = state
        then = evaluated(tried)
        better = then[0] <= now[0]
        keep: Any = functools.partial(jnp.where, better)
        values, now = keep(tried, values), tuple(map(keep, then, now))
        damping = jnp.clip(jnp.where(better, damping / 5.0, damping * 5.0), 1e-7, 10.0)
        _, gradient, curvature = now
        flat = values.ravel()
        pressed = ((flat >= LARGEST) & (gradient < 0)) | ((flat <= -LARGEST) & (gradient > 0))
        free = present * (1.0 - pressed)
        system = curvature * free[:, None] * free + jnp.diag(damping + 1.0 - free)
        move = linalg.solve_positive(system, -gradient * free).reshape(values.shape)
        return jnp.clip(values + move, -LARGEST, LARGEST), values, damping, now

    # An initial loss of infinity accepts the first evaluation, so the program has only one.
    size = present.shape[0]
    unknown = jnp.float32(jnp.inf), jnp.zeros(size), jnp.zeros((size, size))
    state: Any = (params.values, params.values, jnp.float32(5e-3), unknown)
    return params._replace(values=jax.lax.fori_loop(0, number + 1, step, state)[1])
