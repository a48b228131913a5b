"""Many generations in one call: ends of segments, which do not affect results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import families, regimes
from collapse_jax.config import RunConfig
from collapse_jax.engine import planning
from collapse_jax.engine.fused import LONGEST, FusedEngine

ROOT = jax.random.key(0, impl="philox4x32")


def engine(family, regime, **settings):
    plan = planning.plan(family, regime, RunConfig(chains=5, generations=20))
    return FusedEngine(family, regime, plan.recorder, **settings)


def test_segments_end_where_capacities_do():
    rows = engine(families.gaussian(sampler="rows"), regimes.accumulate(5))
    ends, start = [], 0
    while start < 40:
        start = rows.boundary(start, 40)
        ends.append(start)
    assert ends == [1, 2, 4, 8, 16, 32, 40]
    exact = engine(families.gaussian(), regimes.accumulate(5))
    assert exact.boundary(0, 500) == 1
    assert exact.boundary(1, 500) == 1 + LONGEST
    assert exact.boundary(490, 500) == 500


@pytest.mark.parametrize("regime", [regimes.replace(9), regimes.replace([9, 12, 7, 30])])
def test_where_a_segment_ends_changes_no_bit(regime):
    one = engine(families.gaussian(), regime, length=8)
    place = jnp.arange(5, dtype=jnp.int32), jnp.ones(5, bool)

    def through(ends):
        state, _ = one.advance(ROOT, 0, 1, *place, None)
        values, start = [], 1
        for stop in ends:
            state, record = one.advance(ROOT, start, stop, *place, state)
            values.append(np.asarray(record["log_variance"])[: stop - start])
            start = stop
        return np.concatenate(values)

    whole = through([9])
    for ends in ([2, 9], [4, 5, 9], list(range(2, 10))):
        np.testing.assert_array_equal(through(ends), whole)
