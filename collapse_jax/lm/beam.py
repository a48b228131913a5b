r"""Batched beam search with the semantics of transformers' `generate(num_beams=K)`.

A hypothesis' score is the sum of its tokens' log-probabilities divided by length^length_penalty.
Each step finds the 2K best one-token continuations of a prompt's beams. Those among the first K
that end become finished hypotheses; the best K that do not end are the next beams.
Axis legend: B prompts, K beams, C = 2K candidates, S maximum number of new tokens, T tokens of a
prompt, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import compiled
from collapse_jax.lm import decoding, sampling
from collapse_jax.lm.cache import Cache, prefill, step, with_slots
from collapse_jax.lm.opt import Model, Params
from collapse_jax.lm.prompts import Prompts, check

_LOST = -1e9  # score of candidates that must not be chosen; same value as in transformers
# Rules for the end of a search, see `early_stopping` of `search`.
WHEN_BEATEN, WHEN_FULL, WHEN_HOPELESS = range(3)
_ENDS: dict[bool | str, int] = {False: WHEN_BEATEN, True: WHEN_FULL, "never": WHEN_HOPELESS}


class Hypotheses(NamedTuple):
    """The R best continuations of each prompt, best first.

    Attributes:
      tokens: new tokens, i32[B, R, S], padded at the end.
      lengths: number of new tokens, i32[B, R], including the end-of-sequence token.
      scores: f32[B, R]; about -1e9 where fewer than R distinct texts exist.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


class Penalties(NamedTuple):
    """Traced settings of the scores and of the end of a search.

    Attributes:
      length: f32[], exponent of the length that a finished hypothesis' score is divided by.
      repetition: f32[], factor of the log-probability of tokens that occurred before; 1 for none.
      min_new_tokens: i32[], minimum number of new tokens of a hypothesis.
      early: i32[], rule for the end of a search: WHEN_BEATEN, WHEN_FULL or WHEN_HOPELESS.
    """

    length: jax.Array
    repetition: jax.Array
    min_new_tokens: jax.Array
    early: jax.Array


class _Finished(NamedTuple):
    tokens: jax.Array  # i32[B, K, S]
    lengths: jax.Array  # i32[B, K]
    scores: jax.Array  # f32[B, K]
    valid: jax.Array  # bool[B, K], False for slots not filled yet


class _BeamState(NamedTuple):
    chosen: jax.Array  # i32[], new tokens of each running beam so far
    tokens: jax.Array  # i32[B, K, S], of the running beams
    scores: jax.Array  # f32[B, K], sums of log-probabilities
    ancestors: jax.Array  # i32[B, K, S], the beam's ancestor (0 ... K - 1) at each step
    finished: _Finished
    improvable: jax.Array  # bool[B], whether running beams can still beat finished ones
    cache: Cache


def search(
    model: Model,
    params: Params,
    prompts: Prompts,
    *,
    beams: int = 5,
    new_tokens: int = 64,
    min_new_tokens: int = 0,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    early_stopping: bool | str = False,
    returned: int = 1,
) -> Hypotheses:
    """Finds the best continuations of prompts by beam search.

    Args:
      model, params: the network.
      prompts: the prompts to continue.
      beams: K; 1 is greedy search by `sampling.sample`: the repetition penalty then acts on
        logits, scores are the model's own, and early_stopping has no effect.
      new_tokens: S, the maximum number of new tokens.
      min_new_tokens: minimum number of new tokens before a hypothesis may end.
      length_penalty: exponent of the length in scores; values above 0 favour long hypotheses.
      repetition_penalty: factor of the log-probabilities of tokens that occurred before, in the
        prompt or after it.
      early_stopping: True stops as soon as K hypotheses are finished; False when the best running
        beam, at its current length, cannot beat the worst of them; "never" when it cannot at any
        length.
      returned: R, at most K.

    Returns:
      The R best hypotheses of each prompt.

    Raises:
      ValueError: for an argument outside its range, or prompts and new tokens that exceed the
        model's positions.
    """
    beams = arguments.integer("beams", beams, at_least=1)
    new_tokens = arguments.integer("new_tokens", new_tokens, at_least=1)
    min_new_tokens = arguments.integer("min_new_tokens", min_new_tokens, at_least=0)
    returned = arguments.integer("returned", returned, at_least=1)
    if returned > beams:
        raise SettingError(f"returned: expected at most beams = {beams}, got {returned}")
    if min_new_tokens > new_tokens:
        raise SettingError(
            f"min_new_tokens: expected at most new_tokens = {new_tokens}, got {min_new_tokens}"
        )
    repetition_penalty = arguments.number("repetition_penalty", repetition_penalty, above=0)
    length_penalty = arguments.number("length_penalty", length_penalty)
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise SettingError(
            f"early_stopping: expected True, False or 'never', got {early_stopping!r}"
        )
    check(model.config, prompts, new_tokens)
    if beams == 1:
        key = jax.random.key(0)  # unused: greedy search draws nothing
        text = sampling.sample(
            key, model, params, prompts, new_tokens=new_tokens, min_new_tokens=min_new_tokens,
            temperature=0.0, repetition_penalty=repetition_penalty,
        )  # fmt: skip
        scores = text.scores / text.lengths.astype(jnp.float32) ** length_penalty
        return Hypotheses(text.tokens[:, None], text.lengths[:, None], scores[:, None])
    penalties = Penalties(
        length=jnp.float32(length_penalty),
        repetition=jnp.float32(repetition_penalty),
        min_new_tokens=jnp.int32(min_new_tokens),
        early=jnp.int32(_ENDS[early_stopping]),
    )  # fmt: skip
    program = _program(model, beams, new_tokens)
    found = program(params, prompts.tokens, prompts.mask, penalties)
    return Hypotheses(*(array[:, :returned] for array in found))


@functools.lru_cache(maxsize=16)
def _program(model: Model, beams: int, new_tokens: int) -> Any:
    return compiled(functools.partial(search_purely, model, beams, new_tokens))


def search_purely(
    model: Model,
    beams: int,
    new_tokens: int,
    params: Params,
    prompts: jax.Array,
    mask: jax.Array,
    penalties: Penalties,
) -> Hypotheses:
    """`search` as a pure, jittable function, without checks of its arguments; K is at least 2.

    Args:
      model, beams, new_tokens: static; each combination is a separate compiled program.
      params: parameters of the network.
      prompts: ids i32[B, T], padded on the left.
      mask: False for padding, bool[B, T].
      penalties: see `Penalties`.

    Returns:
      All K hypotheses of each prompt.
    """
    read = mask.sum(axis=1, dtype=jnp.int32)
    # Padding must not count as having occurred: the last token, which did, replaces it.
    occurred = jnp.where(mask, prompts, prompts[:, -1:])
    choose = functools.partial(_choose, model, occurred, penalties)
    params = model.in_dtype(params)
    logits, cache = prefill(model, params, prompts, mask)
    state = _begin(model, len(prompts), beams=beams, new_tokens=new_tokens, cache=cache)
    state = choose(jnp.broadcast_to(logits[:, None], (len(prompts), beams, logits.shape[1])), state)

    def advance(state: _BeamState) -> _BeamState:
        fed = state.chosen - 1
        places = jnp.arange(new_tokens)
        own = jnp.arange(beams)[:, None]
        ancestors = jnp.where(places == fed, own, state.ancestors)
        slots = state.cache.keys[0].shape[3]
        steps = (slots - prompts.shape[1]) // beams
        new = (ancestors[:, :, :steps, None] == jnp.arange(beams)) & (places[:steps, None] <= fed)
        old = jnp.broadcast_to(mask[:, None], (*ancestors.shape[:2], prompts.shape[1]))
        seen = jnp.concatenate([old, new.reshape(*new.shape[:2], -1)], axis=2)
        token = jax.lax.dynamic_index_in_dim(state.tokens, fed, axis=2, keepdims=False)
        slot = prompts.shape[1] + fed * beams
        logits, cache = step(
            model, params, state.cache, tokens=token, positions=read + fed, slot=slot, seen=seen
        )
        return choose(logits, state._replace(ancestors=ancestors, cache=cache))

    for stop in decoding.stages(new_tokens):
        cache = with_slots(state.cache, prompts.shape[1] + (stop - 1) * beams)
        state = jax.lax.while_loop(
            functools.partial(_continues, penalties, stop), advance, state._replace(cache=cache)
        )
    return Hypotheses(*state.finished[:3])


def _begin(model: Model, count: int, beams: int, new_tokens: int, cache: Cache) -> _BeamState:
    tokens = jnp.full((count, beams, new_tokens), model.config.pad, jnp.int32)
    numbers = jnp.zeros((count, beams), jnp.int32)
    lost = jnp.full((count, beams), _LOST, jnp.float32)
    return _BeamState(
        chosen=jnp.int32(0),
        tokens=tokens,
        scores=lost.at[:, 0].set(0.0),  # all beams equal the prompt: only one of them is continued
        ancestors=jnp.zeros_like(tokens),
        finished=_Finished(tokens, numbers, lost, jnp.zeros_like(numbers, bool)),
        improvable=jnp.ones(count, bool),
        cache=cache,
    )


def _continues(penalties: Penalties, stop: int, state: _BeamState) -> jax.Array:
    full = jnp.all(state.finished.valid) & (penalties.early == WHEN_FULL)
    return (state.chosen < stop) & jnp.any(state.improvable) & ~full


def _choose(
    model: Model,
    prompts: jax.Array,
    penalties: Penalties,
    logits: jax.Array,
    state: _BeamState,
) -> _BeamState:
    """Adds one token to every running beam, from logits f32[B, K, V]."""
    beams, new_tokens = state.tokens.shape[1:]
    logs = jax.nn.log_softmax(logits)
    logs = jax.lax.cond(
        penalties.repetition == 1.0,
        lambda logs: logs,
        lambda logs: decoding.penalise_repetition(
            logs, _occurred(prompts, state), penalties.repetition
        ),
        logs,
    )
    ends = jnp.arange(logs.shape[2]) == model.config.end
    logs = jnp.where(ends & (state.chosen < penalties.min_new_tokens), -jnp.inf, logs)
    best, ids = top(logs, min(2 * beams, logs.shape[2]))
    scores = (state.scores[:, :, None] + best).reshape(len(best), -1)
    scores, places = jax.lax.top_k(scores, 2 * beams)  # f32[B, C], best first
    parents = places // best.shape[2]
    token = jnp.take_along_axis(ids.reshape(len(ids), -1), places, axis=1)
    length = state.chosen + 1
    ended = (token == model.config.end) | (length == new_tokens)
    tokens = _of_beams(state.tokens, parents)
    tokens = jnp.where(jnp.arange(new_tokens) == state.chosen, token[:, :, None], tokens)

    finished = _finish(penalties, state, tokens=tokens, scores=scores, ended=ended, length=length)
    running, order = jax.lax.top_k(jnp.where(ended, scores + _LOST, scores), beams)
    best_length = jnp.where(
        (penalties.early == WHEN_HOPELESS) & (penalties.length > 0), new_tokens, length
    )
    reachable = running[:, :1] / best_length.astype(jnp.float32) ** penalties.length
    worst = jnp.min(finished.scores, axis=1, keepdims=True)
    beaten = jnp.any(reachable > jnp.where(finished.valid, worst, _LOST), axis=1)
    return state._replace(
        chosen=length,
        tokens=_of_beams(tokens, order),
        scores=running,
        ancestors=_of_beams(state.ancestors, jnp.take_along_axis(parents, order, axis=1)),
        finished=finished,
        improvable=state.improvable & beaten,
    )


def _finish(
    penalties: Penalties,
    state: _BeamState,
    tokens: jax.Array,
    scores: jax.Array,
    ended: jax.Array,
    length: jax.Array,
) -> _Finished:
    """The K best among the finished hypotheses and the candidates that have just ended."""
    old, beams = state.finished, state.scores.shape[1]
    counts = ended & (jnp.arange(2 * beams) < beams)
    full = jnp.all(old.valid, axis=1) & (penalties.early == WHEN_FULL)
    closed = (full | ~state.improvable)[:, None]
    new = scores / length.astype(jnp.float32) ** penalties.length
    new = new + _LOST * closed + _LOST * ~counts
    merged, order = jax.lax.top_k(jnp.concatenate([old.scores, new], axis=1), beams)

    def of(old: jax.Array, new: jax.Array) -> jax.Array:
        return _of_beams(jnp.concatenate([old, new], axis=1), order)

    lengths = jnp.broadcast_to(length, counts.shape)
    return _Finished(
        of(old.tokens, tokens), of(old.lengths, lengths), merged, of(old.valid, counts)
    )


def _occurred(prompts: jax.Array, state: _BeamState) -> jax.Array:
    """Ids that occur in each beam's text so far, i32[B, K, T + S], with repeats."""
    valid = jnp.arange(state.tokens.shape[2]) < state.chosen
    own = jnp.where(valid, state.tokens, prompts[:, -1:, None])
    before = jnp.broadcast_to(prompts[:, None], (*own.shape[:2], prompts.shape[1]))
    return jnp.concatenate([before, own], axis=2)


def top(values: jax.Array, count: int, group: int = 32) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` for long axes, faster: the largest entries of the last axis and their indices.

    The `count` largest entries lie in the `count` groups of neighbours with the largest maxima.

    Args:
      values: f32[..., V].
      count: number of entries.
      group: size of a group of neighbours.

    Returns:
      Values f32[..., count], largest first, and indices i32[..., count].
    """
    length = values.shape[-1]
    if length < 4 * count * group:
        return jax.lax.top_k(values, count)
    padding = [(0, 0)] * (values.ndim - 1) + [(0, -length % group)]
    grouped = jnp.pad(values, padding, constant_values=-jnp.inf)
    grouped = grouped.reshape(*values.shape[:-1], -1, group)
    _, groups = jax.lax.top_k(grouped.max(axis=-1), count)
    groups = jnp.sort(groups, axis=-1)  # so that equal values keep their order
    members = jnp.take_along_axis(grouped, groups[..., None], axis=-2)
    best, places = jax.lax.top_k(members.reshape(*values.shape[:-1], -1), count)
    chosen = jnp.take_along_axis(groups, places // group, axis=-1)
    return best, chosen * group + places % group


def _of_beams(values: jax.Array, which: jax.Array) -> jax.Array:
    """Selects beams: entries [B, J, ...] of [B, K, ...] at indices i32[B, J]."""
    return jnp.take_along_axis(
        values, which.reshape(*which.shape, *[1] * (values.ndim - 2)), axis=1
    )
