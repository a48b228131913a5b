"""Sequential chains equal a plain vmap, in loops of their own; loops keep their barriers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.compiling import compiled, sequential


def collatz(key, start, step):
    """Iterations until 1 is reached, and a draw; the number depends on the data."""

    def turn(carry):
        number, turns = carry
        even = number % 2 == 0
        return jnp.where(even, number // 2, 3 * number + 1), turns + step["size"]

    _, turns = jax.lax.while_loop(lambda carry: carry[0] != 1, turn, (start, jnp.int32(0)))
    return {"turns": turns, "draw": jax.random.normal(key)}


KEYS = jax.random.split(jax.random.key(0), 4)
STARTS = jnp.array([1, 6, 7, 27])
STEP = {"size": jnp.int32(1)}


@pytest.mark.parametrize("axes", [(0, 0, None), (None, 0, None), (0, None, None)])
def test_equals_a_plain_vmap(axes):
    given = [x if axis == 0 else jax.tree.map(lambda leaf: leaf[1], x)
             for x, axis in zip((KEYS, STARTS), axes, strict=False)]  # fmt: skip
    ours, plain = (
        jax.jit(jax.vmap(function, in_axes=axes))(*given, STEP)
        for function in (sequential(collatz), collatz)
    )
    np.testing.assert_array_equal(ours["turns"], plain["turns"])
    np.testing.assert_array_equal(ours["draw"], plain["draw"])
    assert ours["turns"].shape == (4,)


def test_without_vmap_it_is_the_function():
    assert sequential(collatz)(KEYS[0], STARTS[3], STEP)["turns"] == 111


def test_every_chain_stops_by_itself():
    """A plain vmap makes one loop of all chains; `sequential` nests it in one over chains."""
    plain, ours = (
        str(jax.make_jaxpr(jax.vmap(function, (0, 0, None)))(KEYS, STARTS, STEP))
        for function in (collatz, sequential(collatz))
    )
    assert "scan[" not in plain
    assert ours.index("scan[") < ours.index("while[")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_loop_with_a_barrier_compiles(size):
    """XLA's CPU compiler may compile a loop to one kernel, where a barrier would abort it."""

    def double(turns, x):
        def turn(_, x):
            a, b = jax.lax.optimization_barrier((x + 1, x - 1))
            return a + b

        return jax.lax.fori_loop(0, turns, turn, x)

    np.testing.assert_array_equal(compiled(double)(3, jnp.ones(size)), np.full(size, 8))
