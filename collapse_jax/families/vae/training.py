"""Training of an autoencoder on a pool of images, in pieces of a few minibatches.

Fixed images of a pool are bytes; live ones are decoded by the teacher for each minibatch.
Axis legend: M images of the training set, B of a minibatch, D pixels.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from collapse_jax import pools
from collapse_jax.compiling import sequential
from collapse_jax.families.vae import networks
from collapse_jax.families.vae.networks import Autoencoder, Params, Reconstruction
from collapse_jax.family import Metrics, Steps, Training, all_finite

Optimizer = Literal["adam", "sgd"]
Start = Literal["fresh", "warm"]
Pixels = Literal["mean", "bernoulli"]
OPTIMIZERS: dict[Optimizer, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
}
# Multiply-adds of one piece of training of one chain, forward and backward: about 2 s on two cores.
# Signals are handled after one piece of each chain of a batch; the overhead per call is small.
_PIECE = 5e10


class VaeTraining(NamedTuple):
    """How an autoencoder is trained.

    Attributes:
      epochs: passes over the training set, at least 1.
      batch: images per minibatch, B.
      learning_rate: learning rate of the optimizer.
      weight_decay: L2 weight decay, added to the gradient of the summed loss.
      optimizer: optimizer: "adam" or "sgd" (momentum 0.9).
      reconstruction: reconstruction loss per image: "bernoulli", cross-entropy as in the paper, or
        "gaussian", half the squared error; nats.
      kl_weight: weight of the KL divergence in the loss (beta); 1 for the evidence lower bound.
      start: initial parameters of a generation: "fresh" ones or the previous model's ("warm").
      decoder: generated pixels: the decoder's "mean" or "bernoulli" draws.
      chains_together: chains in one batched product where chains run sequentially (CPU).
    """

    epochs: int = 30
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    optimizer: Optimizer = "adam"
    reconstruction: Reconstruction = "bernoulli"
    kl_weight: float = 1.0
    start: Start = "fresh"
    decoder: Pixels = "mean"
    chains_together: int = 1

    @property
    def draws(self) -> bool:
        """Whether generated pixels are Bernoulli draws."""
        return self.decoder == "bernoulli"

    @property
    def config(self) -> dict[str, Any]:
        """The entries for the fingerprint."""
        fields = self._asdict()
        del fields["decoder"]
        return {**fields, "draws": self.draws}


class TrainState(NamedTuple):
    """Progress of the training of one chain."""

    k_orders: jax.Array  # key of the epochs' orders
    k_steps: jax.Array  # key of the minibatches
    params: Params
    opt_state: Any  # the optimizer's state
    step: jax.Array  # i32[], minibatches so far
    loss: jax.Array  # f32[], sum over the current epoch's images, nats
    pool: pools.LiveRows
    teacher: Params | None  # None if there are no live images


def steps(model: Autoencoder, settings: VaeTraining) -> Steps:
    """A family's fit as `Steps`: from a pool of `LiveRows` to parameters and train_loss."""
    rule = optimizer(settings)
    work = 3 * networks.multiply_adds(model)  # per image; the backward pass costs twice the forward
    piece = max(1, round(_PIECE / work / settings.batch))

    def begin(key: jax.Array, params: Params, training: Training) -> TrainState:
        k_init, k_orders, k_steps = jax.random.split(key, 3)
        if settings.start == "fresh" or training.teacher is None:
            params = model.init(k_init)
        if training.teacher is not None:
            # Bytes cannot be NaN: without this, a diverged chain would continue from black images.
            alive = all_finite(training.teacher)
            params = jax.tree.map(lambda leaf: jnp.where(alive, leaf, jnp.nan), params)
        fixed, live = training.pool
        return TrainState(
            k_orders=k_orders,
            k_steps=k_steps,
            params=params,
            opt_state=rule.init(params),
            step=jnp.int32(0),
            loss=jnp.float32(0.0),
            pool=pools.LiveRows(fixed._replace(count=jnp.int32(fixed.count)), live),
            teacher=training.teacher if live.shape[0] else None,
        )

    @functools.partial(sequential, together=settings.chains_together)
    def advance(carry: TrainState) -> tuple[Any, ...]:
        length, size = _epoch(carry.pool, settings.batch)
        epoch, within = carry.step // length, carry.step % length
        order = _order(jax.random.fold_in(carry.k_orders, epoch), carry.pool, size, settings.batch)
        first = jnp.where(within == 0, 0.0, carry.loss)
        end = jnp.minimum(carry.step + piece, (epoch + 1) * length)

        def body(step: jax.Array, changing: Any) -> Any:
            params, opt_state, loss = changing
            k_normals, k_pixels = jax.random.split(jax.random.fold_in(carry.k_steps, step))
            noise, codes = jax.random.normal(k_normals, (2, settings.batch, model.latent))
            start = (step - epoch * length) * settings.batch
            chosen = jax.lax.dynamic_slice_in_dim(order, start, settings.batch)
            valid = start + jnp.arange(settings.batch) < size
            images = _images(
                model, carry, chosen, codes=codes, k_pixels=k_pixels if settings.draws else None
            )

            def objective(params: Params) -> tuple[jax.Array, jax.Array]:
                parts = networks.terms(
                    model, params, noise, images, reconstruction=settings.reconstruction
                )
                summed = parts.reconstruction + settings.kl_weight * parts.kl
                total = jnp.sum(jnp.where(valid, summed, 0.0))
                return total, total

            gradient, total = jax.grad(objective, has_aux=True)(params)
            updates, opt_state = rule.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss + total

        changing = (carry.params, carry.opt_state, first)
        return end, *jax.lax.fori_loop(carry.step, end, body, changing)

    def advance_all(carry: TrainState) -> TrainState:
        step, params, opt_state, loss = advance(carry)
        return carry._replace(step=step, params=params, opt_state=opt_state, loss=loss)

    def done(carry: TrainState) -> jax.Array:
        return carry.step >= settings.epochs * _epoch(carry.pool, settings.batch)[0]

    def finish(carry: TrainState) -> tuple[Params, Metrics]:
        size = _epoch(carry.pool, settings.batch)[1]
        return carry.params, {"train_loss": carry.loss / size.astype(jnp.float32)}

    return Steps(begin, advance_all, done, finish)


def optimizer(settings: VaeTraining) -> optax.GradientTransformation:
    """The optimizer, for gradients of the loss summed over a minibatch."""
    step = OPTIMIZERS[settings.optimizer](settings.learning_rate)
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), step)


def _epoch(pool: pools.LiveRows, batch: int) -> tuple[jax.Array, jax.Array]:
    """Number of minibatches per epoch (the last may be partial), and M; i32[] each."""
    size = jnp.int32(pool.fixed.count) + jnp.sum(pool.live, dtype=jnp.int32)
    return (size + batch - 1) // batch, size


def _order(key: jax.Array, pool: pools.LiveRows, size: jax.Array, batch: int) -> jax.Array:
    """Indices below M in random order, then padding: i32[capacity rounded up to minibatches]."""
    capacity = pool.fixed.values.shape[0] + pool.live.shape[0]
    return jnp.pad(pools.random_order(key, capacity, size), (0, -capacity % batch))


def _images(
    model: Autoencoder,
    carry: TrainState,
    chosen: jax.Array,
    codes: jax.Array,
    k_pixels: jax.Array | None,
) -> jax.Array:
    """Chosen members of the pool, f32[B, D] in [0, 1]; those beyond the fixed ones are drawn."""
    values = carry.pool.fixed.values
    if carry.teacher is None:
        return from_bytes(values[chosen])
    drawn = networks.pixels(networks.means(model, carry.teacher, codes), k_pixels)
    if values.shape[0] == 0:
        return drawn
    fixed = from_bytes(values[jnp.minimum(chosen, values.shape[0] - 1)])
    return jnp.where((chosen < carry.pool.fixed.count)[:, None], fixed, drawn)


def from_bytes(values: jax.Array) -> jax.Array:
    """Converts 8-bit grey values to f32 in [0, 1]."""
    return values.astype(jnp.float32) / 255.0


def to_bytes(images: jax.Array) -> jax.Array:
    """Rounds images in [0, 1] to 8-bit grey values."""
    return jnp.round(255.0 * images).astype(jnp.uint8)
