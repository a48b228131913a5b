"""Spreading batches of chains over devices: one whole batch a device, no collectives.

Chains never talk to each other, so each device runs a program of its own on batches of its own: the
same program, hence the same bits, on one device or many. (One program partitioned over a mesh would
be compiled once instead of once a device, but in jaxlib 0.10 the partitioner cannot lower `mulhi`,
on which philox, by far the fastest generator here, is built.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

# TPU and GPU by default multiply matrices in fewer bits than covariances and EM bear.
MATMUL_PRECISION = "highest"


def compiled(function: Callable[..., Any], donate: Sequence[int] = ()) -> Any:
    """Jits a function of one batch, for whichever device its arguments are on.

    Args:
      function: of arrays or pytrees of arrays.
      donate: numbers of arguments whose memory the results may take.

    On CPU, optimisation barriers are kept, which XLA drops by default before it fuses: without them
    a stage's random numbers are hashed anew in every fusion that uses them (measured: a quarter of
    the speed and five times the compile time).
    """

    @functools.wraps(function)
    def precise(*args: Any) -> Any:
        with jax.default_matmul_precision(MATMUL_PRECISION):
            return function(*args)

    if jax.default_backend() == "cpu":
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
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
