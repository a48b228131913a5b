"""How functions of one chain are compiled and batched.

Chains are independent, so each device runs its own program on its own batches: the same program,
hence the same bits, on any number of devices. (One program partitioned over a mesh would compile
once instead of once per device, but jaxlib 0.10's partitioner cannot lower `mulhi`, the core of
philox, which is by far the fastest generator here.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# The default precision of matrix products on TPU and GPU is too low for covariances and EM.
MATMUL_PRECISION = "highest"


def compiled(function: Callable[..., Any], donate: Sequence[int] = ()) -> Any:
    """Jits a function of one batch, for whichever device its arguments are on.

    On CPU, XLA by default drops optimisation barriers before fusion, and then hashes a stage's
    random numbers again in every fusion that uses them (measured: a quarter of the speed, five
    times the compile time). Here they are kept.

    With barriers, loops may not become kernels of their own, whose emitter aborts on a barrier:
    jaxlib 0.10 makes them of loops over less than 1 kB, jaxlib 0.12 of all loops.

    Args:
      function: a function of arrays or pytrees of arrays.
      donate: indices of arguments whose memory the results may reuse.
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
    """Without a weak type, for which the next program would be compiled again."""
    weak = getattr(jax.typeof(x), "weak_type", False)
    return jax.lax.convert_element_type(x, x.dtype) if weak else x


def hoisted(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, but arrays that the function closes over become arguments of the program.

    As constants, a model's weights or a data set would be compiled into the program, which takes
    minutes and several copies in memory. Traced once for each structure and types of arguments.
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


def sequential(
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
