r"""Fine-tuning on blocks of tokens, in bounded pieces; keeps the epoch best on real text.

The loss is the mean of -ln p(next token) over a block's T - 1 predictions. Optimizer and schedules
are built with optax. A piece can be vmapped over chains.
Axis legend: M blocks of the training set, N blocks of the validation set, B blocks of a minibatch,
T tokens of a block, E width of the word embedding, V vocabulary.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import compiled
from collapse_jax.family import Metrics, Steps, Training, run_to_end
from collapse_jax.lm import cross_entropy, opt
from collapse_jax.lm.config import Config
from collapse_jax.lm.opt import Model, Params
from collapse_jax.lm.prompts import check_ids

Schedule = Literal["constant", "linear", "cosine"]
# Approximate operations of a piece of training, forward and backward: about 10 s on two cores.
PIECE = 1e12


class FineTuning(NamedTuple):
    """Settings of fine-tuning.

    Attributes:
      epochs: passes over the training set, at least 1.
      batch: blocks per optimizer step, B.
      accumulate: parts of a step whose gradients are summed, one in memory at a time; a divisor
        of batch.
      learning_rate: AdamW's peak learning rate.
      schedule: learning rate schedule: "constant", or decay to 0 by "linear" or "cosine".
      warmup: share of all steps in which the learning rate rises linearly from 0.
      weight_decay: AdamW's weight decay of matrices and embeddings; biases and LayerNorm have none.
      beta_1: AdamW's decay rate of the mean gradient.
      beta_2: AdamW's decay rate of the mean squared gradient.
      epsilon: AdamW's epsilon, added to the root of the mean squared gradient.
      clip: maximum global norm of the gradient; 0 for no clipping.
      chunk: predictions whose logits are in memory at a time; 0 for all of a part.
      recompute: whether the backward pass recomputes each layer's activations to save memory.
    """

    epochs: int = 5
    batch: int = 128
    accumulate: int = 1
    learning_rate: float = 2e-5
    schedule: Schedule = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 1.0
    chunk: int = 0
    recompute: bool = False

    def check(self) -> "FineTuning":
        """The settings as plain Python values; raises SettingError for one outside its range."""
        checked: dict[str, Any] = {
            "schedule": arguments.choice("schedule", self.schedule, get_args(Schedule))
        }
        for name in ("epochs", "batch", "accumulate"):
            checked[name] = arguments.integer(name, getattr(self, name), at_least=1)
        if self.batch % self.accumulate:
            raise SettingError(
                f"accumulate: expected a divisor of batch = {self.batch}, got {self.accumulate}"
            )
        checked["chunk"] = arguments.integer("chunk", self.chunk, at_least=0)
        for name in ("learning_rate", "epsilon"):
            checked[name] = arguments.number(name, getattr(self, name), above=0)
        for name in ("warmup", "beta_1", "beta_2"):
            checked[name] = arguments.share(name, getattr(self, name), below=1)
        for name in ("weight_decay", "clip"):
            checked[name] = arguments.number(name, getattr(self, name), at_least=0)
        return self._replace(**checked)


class Perplexity(NamedTuple):
    """The two quantities called perplexity on blocks of text in the literature."""

    mean_of_blocks: float  # mean over blocks of exp(mean loss of the block)
    of_corpus: float  # exp(mean loss over all predictions)


def perplexity(losses: np.ndarray) -> Perplexity:
    """Both perplexities from the mean losses of blocks of equal length, f[N], nats."""
    losses = np.asarray(losses, np.float64)
    return Perplexity(float(np.exp(losses).mean()), float(np.exp(losses.mean())))


def check_blocks(name: str, config: Config, blocks: np.ndarray) -> None:
    """Rejects blocks that a model cannot read.

    Args:
      name: name of the blocks in error messages.
      config: of the model.
      blocks: ids i32[M, T].

    Raises:
      ValueError: unless there is a block, of 2 to positions + 1 ids of the vocabulary.
    """
    if blocks.ndim != 2 or not len(blocks) or not np.issubdtype(blocks.dtype, np.integer):
        raise SettingError(
            f"{name}: expected at least one block, integers with one row per block, got"
            f" {blocks.dtype} of shape {blocks.shape}"
        )
    if not 2 <= blocks.shape[1] <= config.positions + 1:  # the last token is only predicted
        raise SettingError(
            f"{name}: expected blocks of 2 to {config.positions + 1} tokens, got {blocks.shape[1]}"
        )
    check_ids(name, config, blocks)


def check_batch(blocks: int, batch: int) -> None:
    """Rejects training sets of fewer blocks than one optimizer step; raises SettingError."""
    if blocks < batch:
        raise SettingError(
            f"batch: expected at most the {blocks:,} blocks of a training set, got {batch:,}"
        )


def losses(model: Model, params: Params, blocks: jax.Array, chunk: int = 0) -> jax.Array:
    """-ln p of every token except each block's first, nats.

    Args:
      model, params: the network.
      blocks: ids i32[B, T], without padding.
      chunk: see `FineTuning`.

    Returns:
      f32[B, T - 1].
    """
    return cross_entropy.losses(*_read(model, params, blocks), chunk).reshape(len(blocks), -1)


def mean_loss(
    model: Model,
    params: Params,
    blocks: jax.Array,
    k_dropout: jax.Array | None = None,
    chunk: int = 0,
    recompute: bool = False,
) -> jax.Array:
    """The mean of `losses`, with a memory-saving gradient.

    Args:
      model, params, blocks: see `losses`.
      k_dropout: key of dropout, in training; None for no dropout.
      chunk, recompute: see `FineTuning`.

    Returns:
      f32[].
    """
    read = _read(model, params, blocks, k_dropout, recompute=recompute)
    loss: jax.Array = cross_entropy.mean_loss(*read, chunk)
    return loss


def _read(
    model: Model,
    params: Params,
    blocks: jax.Array,
    k_dropout: jax.Array | None = None,
    recompute: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Last hidden states [B(T - 1), E], word embedding [V, E], next tokens i32[B(T - 1)]."""
    network = model.bind(params)
    inputs, targets = blocks[:, :-1], blocks[:, 1:]
    places = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
    hidden = network.hidden(
        inputs, places, lambda layer: opt.causal(None), k_dropout=k_dropout, recompute=recompute
    )
    embedding = network.embed_tokens.embedding[...]
    return hidden.reshape(-1, hidden.shape[2]), embedding, targets.reshape(-1)


def evaluate(model: Model, params: Params, blocks: np.ndarray, batch: int = 16) -> Perplexity:
    """A model's perplexities on blocks of text.

    Args:
      model, params: the network.
      blocks: ids i32[N, T].
      batch: blocks read at a time.

    Raises:
      ValueError: for blocks that the model cannot read, or a batch below 1.
    """
    batch = arguments.integer("batch", batch, at_least=1)
    check_blocks("blocks", model.config, blocks)
    of_blocks = compiled(lambda params, part: losses(model, params, part).mean(axis=1))
    batch = min(batch, len(blocks))
    found = []
    for start in range(0, len(blocks), batch):
        places = np.minimum(np.arange(start, start + batch), len(blocks) - 1)
        found.append(np.asarray(of_blocks(params, blocks[places])))
    return perplexity(np.concatenate(found)[: len(blocks)])


def optimizer(settings: FineTuning, steps: jax.Array | int) -> optax.GradientTransformation:
    """AdamW with clipping, and a learning rate schedule over `steps` steps."""
    warm = jnp.round(settings.warmup * steps)
    rest = jnp.maximum(1.0, steps - warm)

    def rate(step: jax.Array) -> jax.Array:
        done = jnp.clip((step - warm) / rest, 0.0, 1.0)
        falling = {
            "constant": jnp.ones_like(done),
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + jnp.cos(math.pi * done)),
        }[settings.schedule]
        rising = step / jnp.maximum(1.0, warm)
        return settings.learning_rate * jnp.where(step < warm, rising, falling)

    adamw = optax.adamw(
        rate, settings.beta_1, settings.beta_2, settings.epsilon,
        weight_decay=settings.weight_decay, mask=_decays,
    )  # fmt: skip
    return optax.chain(_clipped(settings.clip), adamw) if settings.clip else adamw


def _clipped(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` without its quotients, a copy of all gradients in memory."""

    def clip(gradients: Params, params: Params) -> Params:
        del params
        scale = jnp.minimum(1.0, largest / optax.tree.norm(gradients))
        clipped: Params = jax.tree.map(lambda gradient: gradient * scale, gradients)
        return clipped

    return optax.stateless(clip)


def _decays(params: Params) -> Params:
    decayed: Params = jax.tree.map_with_path(
        lambda path, leaf: path[-1].key in ("kernel", "embedding"), params
    )
    return decayed


def step(
    model: Model,
    settings: FineTuning,
    transformation: optax.GradientTransformation,
    params: Params,
    moments: Any,
    blocks: jax.Array,
    k_dropout: jax.Array | None,
) -> tuple[Params, Any, jax.Array]:
    """One step of the optimizer.

    Args:
      model, settings: the network and its fine-tuning.
      transformation: see `optimizer`.
      params, moments: parameters and optimizer state before the step.
      blocks: the minibatch, ids i32[B, T].
      k_dropout: key of dropout; None for no dropout.

    Returns:
      (params, optimizer state, mean loss before the step f32[]).
    """
    parts = blocks.reshape(settings.accumulate, -1, blocks.shape[1])

    def objective(params: Params, number: jax.Array, part: jax.Array) -> jax.Array:
        key = None if k_dropout is None else jax.random.fold_in(k_dropout, number)
        loss = mean_loss(
            model, params, part, k_dropout=key, chunk=settings.chunk, recompute=settings.recompute
        )
        return loss / settings.accumulate

    of_part = functools.partial(jax.value_and_grad(objective), params)
    if settings.accumulate == 1:
        loss, gradient = of_part(jnp.int32(0), parts[0])
    else:
        zero = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
        numbers = jnp.arange(settings.accumulate)
        (loss, gradient), _ = jax.lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(*part)), None),
            zero,
            (numbers, parts),
        )
    updates, moments = transformation.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments, loss


class FitCarry(NamedTuple):
    """Progress of one chain's fine-tuning. `judged` refers to evaluation on validation blocks."""

    k_orders: jax.Array  # key of the epochs' orders of blocks
    k_steps: jax.Array  # key of the steps' dropout
    params: Params
    moments: Any  # the optimizer's state
    step: jax.Array  # i32[], steps so far
    lost: jax.Array  # f32[], sum of training losses in the current epoch
    epoch: jax.Array  # i32[], epochs trained and evaluated
    judged: jax.Array  # i32[], validation minibatches evaluated in the current epoch
    judgement: jax.Array  # f32[], sum of their losses
    best: Params
    best_epoch: jax.Array  # i32[]
    best_loss: jax.Array  # f32[], on the validation set, nats per prediction
    pool: pools.Rows  # blocks, i32[M, T]


def steps(
    model: Model,
    settings: FineTuning,
    length: int,
    validation: np.ndarray,
    start: Callable[[Params], Params] | None = None,
) -> Steps:
    """A family's fit: the best epoch's parameters, with training and validation losses.

    Args:
      model, settings: the network and its fine-tuning, on at least `settings.batch` blocks.
      length: T.
      validation: real blocks i32[N, T]; the epoch with the lowest loss on them is kept.
      start: maps the parameters of the previous generation to the initial ones of training; None
        starts from the previous generation's.

    Returns:
      Steps whose result has the metrics train_loss (of the last epoch), validation_loss (of the
      best epoch), both in nats per prediction, and best_epoch (from 0).

    Raises:
      ValueError: for settings outside their range, or no valid validation blocks.
    """
    settings = settings.check()
    check_blocks("validation", model.config, validation)
    if validation.shape[1] != length:
        raise SettingError(f"validation: expected blocks of {length}, got {validation.shape[1]}")
    work = 6 * opt.multiply_adds(model.config) * length
    piece = max(1, round(PIECE / (work * settings.batch)))
    course = _Course(
        model,
        settings,
        judge=_Judge(model, settings, validation, 3 * piece),
        piece=piece,
        start=start,
    )
    return Steps(course.begin, course.advance, course.done, course.finish)


def fit(
    key: jax.Array,
    model: Model,
    params: Params,
    training: np.ndarray,
    validation: np.ndarray,
    settings: FineTuning,
) -> tuple[Params, Metrics]:
    """Fine-tunes a model in one call; see `steps`.

    Args:
      key: key of the order of blocks and of dropout.
      model, params: the network and its initial parameters.
      training, validation: blocks, ids i32[M, T] and i32[N, T].
      settings: settings of fine-tuning.

    Returns:
      The parameters of the epoch with the lowest loss on `validation`, and the metrics of `steps`.

    Raises:
      ValueError: for settings outside their range, or blocks that the model cannot read.
    """
    check_blocks("training", model.config, training)
    check_batch(len(training), settings.batch)
    task = steps(model, settings, training.shape[1], validation)
    pool = pools.Rows(jnp.asarray(training, jnp.int32), len(training))
    whole = compiled(lambda *inputs: run_to_end(task, inputs))
    result: tuple[Params, Metrics] = whole(key, params, Training(pool))
    return result


class _Judge:
    """Evaluates epochs on the validation blocks, at most `piece` minibatches at a time."""

    def __init__(
        self, model: Model, settings: FineTuning, validation: np.ndarray, piece: int
    ) -> None:
        self._model, self._chunk, self._piece = model, settings.chunk, piece
        self._count = len(validation)
        self._size = min(settings.batch, self._count)
        self._parts = math.ceil(self._count / self._size)
        filled = self._parts * self._size
        self._blocks = jnp.asarray(np.resize(validation, (filled, validation.shape[1])))
        self._counted = jnp.arange(filled) < self._count

    def __call__(self, carry: FitCarry, trained: jax.Array) -> FitCarry:
        """Continues the evaluation of an epoch once it is `trained`; keeps it if it is the best."""
        stop = jnp.minimum(carry.judged + self._piece, self._parts)
        stop = jnp.where(trained, stop, carry.judged)
        add = functools.partial(self._add, carry.params)
        judgement = jax.lax.fori_loop(carry.judged, stop, add, carry.judgement)
        loss = judgement / self._count
        over = trained & (stop == self._parts)
        better = over & (loss < carry.best_loss)

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(better, new, old)

        return carry._replace(
            epoch=carry.epoch + over,
            judged=jnp.where(over, 0, stop),
            judgement=jnp.where(over, 0.0, judgement),
            best=jax.tree.map(kept, carry.params, carry.best),
            best_epoch=kept(carry.epoch, carry.best_epoch),
            best_loss=kept(loss, carry.best_loss),
        )

    def _add(self, params: Params, number: jax.Array, total: jax.Array) -> jax.Array:
        of = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=number * self._size, slice_size=self._size
        )
        found = losses(self._model, params, of(self._blocks), self._chunk).mean(axis=1)
        return total + jnp.sum(jnp.where(of(self._counted), found, 0.0))


class _Course(NamedTuple):
    """The functions of `steps`; a piece is at most `piece` optimizer steps of one epoch."""

    model: Model
    settings: FineTuning
    judge: _Judge
    piece: int
    start: Callable[[Params], Params] | None

    def begin(self, key: jax.Array, params: Params, training: Training) -> FitCarry:
        k_orders, k_steps = jax.random.split(key)
        params = self.start(params) if self.start else params
        zero = jnp.float32(0.0)
        return FitCarry(
            # The optimizer's initial state does not depend on the number of steps.
            k_orders=k_orders,
            k_steps=k_steps,
            params=params,
            moments=optimizer(self.settings, 1).init(params),
            step=jnp.int32(0),
            lost=zero,
            epoch=jnp.int32(0),
            judged=jnp.int32(0),
            judgement=zero,
            best=params,
            best_epoch=jnp.int32(-1),
            best_loss=jnp.float32(jnp.inf),
            pool=training.pool._replace(count=jnp.int32(training.pool.count)),
        )

    def advance(self, carry: FitCarry) -> FitCarry:
        settings, per_epoch = self.settings, self._steps_of_epoch(carry)
        k_order = jax.random.fold_in(carry.k_orders, carry.epoch)
        order = pools.random_order(k_order, len(carry.pool.values), carry.pool.count)
        transformation = optimizer(settings, settings.epochs * per_epoch)
        begun, over = carry.epoch * per_epoch, (carry.epoch + 1) * per_epoch

        def one_step(number: jax.Array, state: Any) -> Any:
            params, moments, lost = state
            chosen = jax.lax.dynamic_slice_in_dim(
                order, (number - begun) * settings.batch, settings.batch
            )
            dropout = self.model.config.dropout
            key = jax.random.fold_in(carry.k_steps, number) if dropout else None
            params, moments, loss = step(
                self.model,
                settings,
                transformation,
                params=params,
                moments=moments,
                blocks=carry.pool.values[chosen],
                k_dropout=key,
            )
            return params, moments, lost + loss

        stop = jnp.minimum(carry.step + self.piece, over)
        first = jnp.where(carry.step == begun, 0.0, carry.lost)
        params, moments, lost = jax.lax.fori_loop(
            carry.step, stop, one_step, (carry.params, carry.moments, first)
        )
        carry = carry._replace(params=params, moments=moments, lost=lost, step=stop)
        return self.judge(carry, stop == over)

    def done(self, carry: FitCarry) -> jax.Array:
        return carry.epoch >= self.settings.epochs

    def finish(self, carry: FitCarry) -> tuple[Params, Metrics]:
        # Diverged training gives NaN parameters, even if an earlier epoch was good.
        good = (carry.best_epoch >= 0) & jnp.isfinite(carry.lost)
        params = jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.nan), carry.best)
        return params, {
            "train_loss": carry.lost / self._steps_of_epoch(carry),
            "validation_loss": jnp.where(good, carry.best_loss, jnp.nan),
            "best_epoch": carry.best_epoch.astype(jnp.float32),
        }

    def _steps_of_epoch(self, carry: FitCarry) -> jax.Array:
        # An incomplete last minibatch is dropped.
        return jnp.int32(carry.pool.count) // self.settings.batch
