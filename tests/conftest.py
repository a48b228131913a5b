"""Four virtual devices for the whole test session: started once, they cost nothing afterwards."""

import jax

jax.config.update("jax_num_cpu_devices", 4)
