"""Compilation and batching of functions of one chain.

Chains are independent, so each device runs its own batches with the same program, which gives the
same bits on any number of devices. (A program partitioned over a mesh would compile once instead of
once per device, but the partitioner of jaxlib 0.10 cannot lower `mulhi`, the core of philox, which
is by far the fastest generator here.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# The default precision of matrix products on TPU and GPU is too low for covariances and EM.
MATMUL_PRECISION = "highest"


def compiled(function: Callable[..., Any], donate: Sequence[int] = ()) -> Any:
    """Jits a function of one batch, for the device of its arguments.

    By default XLA on CPU drops optimisation barriers before fusion, and then recomputes a stage's
    random numbers in every fusion that uses them (measured: a quarter of the speed, five times the
    compile time). Here barriers are kept.

    The emitter of XLA's loop kernels aborts on a barrier, so loops are not turned into
    such kernels (jaxlib 0.10 would for loops over less than 1 kB, jaxlib 0.12 for all).

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
    """Removes a weak type, which would make the next program compile again."""
    weak = getattr(jax.typeof(x), "weak_type", False)
    return jax.lax.convert_element_type(x, x.dtype) if weak else x


def hoisted(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, but arrays that the function closes over become arguments of the program.

    Compiling a model's weights or a data set into the program as constants would take minutes and
    several copies in memory. The function is traced once per structure and types of arguments.
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

            run.__name__ = function.__name__  # shown in profiles
            programs[kind] = compiled(run), traced.consts, jax.tree.structure(shapes)
        program, constants, outputs = programs[kind]
        return jax.tree.unflatten(outputs, program(constants, *leaves))

    return call


def sequential(
    function: Callable[..., Any], together: int = 1, always: bool = False
) -> Callable[..., Any]:
    """Makes a function run for one chain after the other under `jax.vmap` on a CPU.

    This is for loops whose length depends on the data: under a plain `vmap` all chains iterate
    until the last one is done, and their data leave the cache between iterations. On GPU and TPU
    the function is unchanged unless `always` is set.

    Args:
      function: function of arrays or pytrees of arrays; closes over no traced value.
      together: number of chains that run at a time, under a plain `vmap`.
      always: whether to do so on GPU and TPU too: for a chain that fills a device, or a loop that
        updates large arrays in place, which a batched condition would copy.
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
