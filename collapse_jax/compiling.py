"""How functions of one chain are compiled and batched.

Chains never talk to each other, so each device runs a program of its own on batches of its own: the
same program, hence the same bits, on one device or many. (One program partitioned over a mesh would
be compiled once instead of once a device, but in jaxlib 0.10 the partitioner cannot lower `mulhi`,
on which philox, by far the fastest generator here, is built.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# TPU and GPU by default multiply matrices in fewer bits than covariances and EM bear.
MATMUL_PRECISION = "highest"


def compiled(function: Callable[..., Any], donate: Sequence[int] = ()) -> Any:
    """Jits a function of one batch, for whichever device its arguments are on.

    Args:
      function: of arrays or pytrees of arrays.
      donate: numbers of arguments whose memory the results may take.

    On CPU, optimisation barriers are kept, which XLA drops by default before it fuses: without them
    a stage's random numbers are hashed anew in every fusion that uses them (measured: a quarter of
    the speed and five times the compile time). Then loops may not become a kernel of their own,
    whose emitter aborts on a barrier: jaxlib 0.10 makes one of loops over less than 1 kB, 0.12
    (whose cost analysis finds that a loop reads nothing) of all.
    """

    @functools.wraps(function)
    def precise(*args: Any) -> Any:
        with jax.default_matmul_precision(MATMUL_PRECISION):
            return function(*args)

    if jax.default_backend() == "cpu":
        options = {"xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting"}
        return jax.jit(precise, compiler_options=options, donate_argnums=donate)
    return jax.jit(precise, donate_argnums=donate)


def _strong(x: Any) -> Any:
    """With a type that the next piece has been compiled for: a weak one would be another kind."""
    weak = getattr(jax.typeof(x), "weak_type", False)
    return jax.lax.convert_element_type(x, x.dtype) if weak else x


def hoisted(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, but arrays that the function closes over are handed to the program.

    A program would hold them as text: a model's weights or a data set are then compiled, for
    minutes and in several copies. Traced once for each kind of arguments.
    """
    programs: dict[Any, tuple[Any, Sequence[Any], Any]] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        kind = structure, tuple(map(jax.typeof, leaves))
        if kind not in programs:
            with jax.default_matmul_precision(MATMUL_PRECISION):
                traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)

            def run(constants: Sequence[Any], *leaves: Any) -> Any:
                return [_strong(x) for x in jax.core.eval_jaxpr(traced.jaxpr, constants, *leaves)]

            run.__name__ = function.__name__  # as profiles show it
            programs[kind] = compiled(run), traced.consts, jax.tree.structure(shapes)
        program, constants, outputs = programs[kind]
        return jax.tree.unflatten(outputs, program(constants, *leaves))

    return call


def in_turn(
    function: Callable[..., Any], together: int = 1, always: bool = False
) -> Callable[..., Any]:
    """The function, which under `jax.vmap` on a CPU runs for one chain after the other.

    For functions with a loop whose length depends on the data: under a plain `vmap` all chains turn
    until the last is done, and their data leave the cache between turns. On GPU and TPU nothing
    changes, if not asked for.

    Args:
      function: of arrays or pytrees of arrays; closes over no traced value.
      together: chains that run at a time, under a plain `vmap`.
      always: whether also on GPU and TPU: for a chain that fills a device, and a loop that updates
        large arrays in place, which a batched condition would make it copy.
    """
    if jax.default_backend() != "cpu" and not always:
        return function
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(axis_size: int, in_batched: list[Any], *inputs: Any) -> tuple[Any, Any]:
        def spread(batch: bool, leaf: Any) -> Any:
            return leaf if batch else jnp.broadcast_to(leaf, (axis_size, *jnp.shape(leaf)))

        leaves, structure = jax.tree.flatten(inputs)
        spread_out = [
            spread(batch, leaf)
            for batch, leaf in zip(jax.tree.leaves(in_batched), leaves, strict=True)
        ]
        outputs = jax.lax.map(
            lambda leaves: function(*jax.tree.unflatten(structure, leaves)),
            spread_out,
            batch_size=together if together > 1 else None,
        )
        return outputs, jax.tree.map(lambda _: True, outputs)

    return functools.wraps(function)(batched)
