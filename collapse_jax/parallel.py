"""The mesh over which batches of chains are spread: one whole batch a device, no collectives."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

_AXIS = "batch"


def chain_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over all devices (or those given)."""
    return Mesh(np.array(devices if devices is not None else jax.devices()), (_AXIS,))


def _compiler_options(mesh: Mesh) -> dict[str, str]:
    """Keeps optimisation barriers on CPU, where XLA by default drops them before it fuses.

    Without them a stage's random numbers are hashed anew in every fusion that uses them.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def per_device(function: Callable[..., Any], mesh: Mesh, shared: int) -> Callable[..., Any]:
    """Compiles a function of one batch into one of b batches, one a device.

    Args:
      function: (*shared, *batched) -> pytree.
      mesh: from `chain_mesh`.
      shared: how many leading arguments all batches have in common.

    Returns:
      A jitted function whose other arguments and results have a leading axis b.
    """

    def local(*args):
        batched = jax.tree.map(lambda x: x[0], args[shared:])
        return jax.tree.map(lambda x: x[None], function(*args[:shared], *batched))

    def specs(args):
        return tuple(P() if i < shared else P(_AXIS) for i in range(len(args)))

    @functools.partial(jax.jit, compiler_options=_compiler_options(mesh))
    def program(*args):
        return jax.shard_map(
            local, mesh=mesh, in_specs=specs(args), out_specs=P(_AXIS), check_vma=False
        )(*args)

    return program
