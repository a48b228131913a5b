"""A toy family whose fit is split into steps: it finds a mean by repeated halving.

Its model is a number; samples are that number plus noise; a fit moves halfway to the samples' mean
a few times. Results do not depend on how the work is split.
"""

import jax
import jax.numpy as jnp

from collapse_jax import pools
from collapse_jax.family import Family, Metric, Steps, Threshold


def walker(turns: int = 3, cut: bool = True) -> Family:
    def draw(key, centre, request):
        noise = jax.random.normal(key, (request.capacity, 1))
        return pools.Rows(centre + noise, request.count)

    def mean(pool):
        live = jnp.arange(pool.values.shape[0]) < pool.count
        return jnp.sum(jnp.where(live, pool.values[:, 0], 0.0)) / pool.count

    def fit_begin(key, params, training):
        return {"turn": jnp.int32(0), "at": params, "goal": mean(training.pool), "key": key}

    def fit_advance(carry):
        at = carry["at"] + 0.5 * (carry["goal"] - carry["at"])
        return {**carry, "turn": carry["turn"] + 1, "at": at}

    def fit_done(carry):
        # Chains take different numbers of turns, so some wait for others.
        return carry["turn"] >= turns + (carry["goal"] > 0)

    def fit_finish(carry):
        return carry["at"], {"turns": carry["turn"].astype(jnp.float32)}

    def measure(key, params, training, origin):
        return {"position": params, "spread": jnp.exp(-jnp.abs(params))}

    steps = Steps(fit_begin, fit_advance, fit_done, fit_finish)

    def whole(key, params, training):
        carry = jax.lax.while_loop(
            lambda c: ~fit_done(c), fit_advance, fit_begin(key, params, training)
        )
        return fit_finish(carry)

    return Family(
        name="walker",
        config={"turns": turns},
        pools=pools.rows(4),
        metrics={
            "turns": Metric("turns of the walk", "turns"),
            "position": Metric("where the walk ended"),
            "spread": Metric("a decreasing function of the position"),
        },
        thresholds={
            "early": Threshold("spread", 0.5, "spread below one half"),
            "late": Threshold("spread", 0.01, "spread below 1 %"),
        },
        original=lambda key, request: draw(key, 0.0, request),
        init=lambda key: jnp.float32(0.0),
        fit=steps if cut else whole,
        sample=draw,
        measure=measure,
    )
