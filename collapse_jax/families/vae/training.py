"""Training an autoencoder on a pool of images, cut into pieces of a few minibatches.

Images of a pool are bytes; those drawn anew are decoded for each minibatch by the teacher.
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
# Multiply-adds of a piece of training, forward and backward, of one chain: about two seconds of two
# cores. A signal is answered after one piece of all chains of a batch, and calls cost nothing.
_PIECE = 5e10


class VaeTraining(NamedTuple):
    """How an autoencoder is trained.

    Attributes:
      epochs: passes over the training set, at least 1.
      batch: images of a minibatch, B.
      learning_rate: learning rate of the optimizer.
      weight_decay: L2 weight decay, added to the gradient of the summed loss.
      optimizer: "adam" or "sgd" (momentum 0.9).
      reconstruction: loss of an image: "bernoulli", cross-entropy as in the paper, or "gaussian",
        half the squared error; nats.
      kl_weight: weight of the divergence in the loss (beta); 1 is the evidence lower bound.
      start: "fresh" parameters each generation, or "warm" ones of the model before.
      decoder: generated pixels are the decoder's "mean", or "bernoulli" draws.
      chains_together: chains in one batched product where chains run in turn (CPU).
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
        """Whether generated pixels are draws."""
        return self.decoder == "bernoulli"

    @property
    def config(self) -> dict[str, Any]:
        """What goes into the fingerprint."""
        fields = self._asdict()
        del fields["decoder"]
        return {**fields, "draws": self.draws}


class TrainState(NamedTuple):
    """Where the training of one chain is."""

    k_orders: jax.Array  # of the order of each epoch
    k_steps: jax.Array  # of each minibatch
    params: Params
    opt_state: Any  # the optimizer's state
    step: jax.Array  # i32[], minibatches so far
    loss: jax.Array  # f32[], summed over the images of the present epoch, nats
    pool: pools.LiveRows
    teacher: Params | None  # None where no image is drawn anew


def steps(model: Autoencoder, settings: VaeTraining) -> Steps:
    """A family's fit: parameters and the metric train_loss, from a pool of `LiveRows`."""
    rule = optimizer(settings)
    work = 3 * networks.multiply_adds(model)  # of an image: forward, and twice that backward
    piece = max(1, round(_PIECE / work / settings.batch))

    def begin(key: jax.Array, params: Params, training: Training) -> TrainState:
        k_init, k_orders, k_steps = jax.random.split(key, 3)
        if settings.start == "fresh" or training.teacher is None:
            params = model.init(k_init)
        if training.teacher is not None:
            # Bytes know no NaN: without this a chain that diverged would go on from black images.
            alive = all_finite(training.teacher)
            params = jax.tree.map(lambda leaf: jnp.where(alive, leaf, jnp.nan), params)
        fixed, live = training.pool
        return TrainState(
            k_orders,
            k_steps,
            params,
            rule.init(params),
            jnp.int32(0),
            jnp.float32(0.0),
            pools.LiveRows(fixed._replace(count=jnp.int32(fixed.count)), live),
            training.teacher if live.shape[0] else None,
        )

    @functools.partial(sequential, together=settings.chains_together)
    def advance(carry: TrainState) -> tuple[Any, ...]:
        length, size = _epoch(carry.pool, settings.batch)
        epoch, within = carry.step // length, carry.step % length
        order = _order(jax.random.fold_in(carry.k_orders, epoch), carry.pool, size, settings.batch)
        first = jnp.where(within == 0, 0.0, carry.loss)
        end = jnp.minimum(carry.step + piece, (epoch + 1) * length)

        def turn(step: jax.Array, changing: Any) -> Any:
            params, opt_state, loss = changing
            k_normals, k_pixels = jax.random.split(jax.random.fold_in(carry.k_steps, step))
            noise, codes = jax.random.normal(k_normals, (2, settings.batch, model.latent))
            start = (step - epoch * length) * settings.batch
            chosen = jax.lax.dynamic_slice_in_dim(order, start, settings.batch)
            there = start + jnp.arange(settings.batch) < size
            images = _images(model, carry, chosen, codes, k_pixels if settings.draws else None)

            def objective(params: Params) -> tuple[jax.Array, jax.Array]:
                parts = networks.terms(model, params, noise, images, settings.reconstruction)
                summed = parts.reconstruction + settings.kl_weight * parts.kl
                total = jnp.sum(jnp.where(there, summed, 0.0))
                return total, total

            gradient, total = jax.grad(objective, has_aux=True)(params)
            updates, opt_state = rule.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss + total

        changing = (carry.params, carry.opt_state, first)
        return end, *jax.lax.fori_loop(carry.step, end, turn, changing)

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
    """The rule of a step, whose gradients are those of the loss summed over a minibatch."""
    step = OPTIMIZERS[settings.optimizer](settings.learning_rate)
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), step)


def _epoch(pool: pools.LiveRows, batch: int) -> tuple[jax.Array, jax.Array]:
    """Minibatches of an epoch, the last one maybe not full, and M; i32[] each."""
    size = jnp.int32(pool.fixed.count) + jnp.sum(pool.live, dtype=jnp.int32)
    return (size + batch - 1) // batch, size


def _order(key: jax.Array, pool: pools.LiveRows, size: jax.Array, batch: int) -> jax.Array:
    """The numbers below M in random order, then others: i32[room rounded up to minibatches]."""
    room = pool.fixed.values.shape[0] + pool.live.shape[0]
    return jnp.pad(pools.random_order(key, room, size), (0, -room % batch))


def _images(
    model: Autoencoder,
    carry: TrainState,
    chosen: jax.Array,
    codes: jax.Array,
    k_pixels: jax.Array | None,
) -> jax.Array:
    """The chosen members of the pool, f32[B, D] in [0, 1]; those beyond the fixed are drawn."""
    values = carry.pool.fixed.values
    if carry.teacher is None:
        return from_bytes(values[chosen])
    drawn = networks.pixels(networks.means(model, carry.teacher, codes), k_pixels)
    if values.shape[0] == 0:
        return drawn
    fixed = from_bytes(values[jnp.minimum(chosen, values.shape[0] - 1)])
    return jnp.where((chosen < carry.pool.fixed.count)[:, None], fixed, drawn)


def from_bytes(values: jax.Array) -> jax.Array:
    """Grey values as shares of white, f32."""
    return values.astype(jnp.float32) / 255.0


def to_bytes(images: jax.Array) -> jax.Array:
    """Shares of white as grey values, u8: what an image file keeps of them."""
    return jnp.round(255.0 * images).astype(jnp.uint8)
