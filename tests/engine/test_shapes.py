"""The sizes for which programs are compiled, and the counts passed at run time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import families, regimes
from collapse_jax.engine import shapes

ROWS = families.gaussian(sampler="rows")
EXACT = families.gaussian()


@pytest.mark.parametrize("family", [ROWS, EXACT], ids=["rows", "moments"])
@pytest.mark.parametrize(
    "regime",
    [
        regimes.replace(7), regimes.replace([7, 9, 11]), regimes.accumulate(7),
        regimes.fresh(7, 0.3), regimes.replace(lambda generation: 7 + generation % 3),
    ],
)  # fmt: skip
def test_a_filled_shape_is_the_sizes(family, regime):
    for number in range(1, 12):
        shape, sizes = shapes.shape_of(family, regime, number), regime.sizes(number)
        filled = shapes.fill(shape, jnp.array(shapes.counts(sizes), jnp.int32))
        for name in shapes.REQUESTS:
            asked, given = getattr(sizes, name), getattr(filled, name)
            assert int(given.count) == asked.count
            assert bool(given) == bool(asked)
            if family is ROWS:
                assert given.capacity == asked.capacity


def test_constant_sizes_are_constants_of_the_program():
    shape = shapes.shape_of(EXACT, regimes.replace(7), 5)
    assert shape.synthetic.count == 7
    assert shapes.shape_of(EXACT, regimes.replace([7, 8]), 5).synthetic.count == -1


@pytest.mark.parametrize(("family", "programs"), [(ROWS, 4), (EXACT, 1)])
def test_one_shape_a_capacity(family, programs):
    """Rows double their capacity at generations 1, 2, 4 and 8; moments need none."""
    found = {shapes.shape_of(family, regimes.accumulate(5), number) for number in range(1, 16)}
    assert len(found) == programs


def test_capacity_grows_with_the_shape():
    root, regime = jax.random.key(0, impl="philox4x32"), regimes.accumulate(5)
    state, _ = shapes.abstract_chain(ROWS, regime, 0, root)
    for number in range(1, 6):
        shape = shapes.shape_of(ROWS, regime, number)
        state = jax.eval_shape(lambda s, shape=shape: shapes.with_capacity(ROWS, s, shape), state)
        assert state.kept.values.shape == (regime.sizes(number).capacity, 1)
        expected, metrics = shapes.abstract_chain(ROWS, regime, number, root)
        assert state.kept.values.shape == expected.kept.values.shape
        assert {name: x.dtype for name, x in metrics.items()} == dict.fromkeys(
            ROWS.metrics, np.float32
        )
