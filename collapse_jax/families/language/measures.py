"""Measures of a language model and of its training text.

Perplexity of the model on real test blocks; perplexity of its training text under generation 0's
model (the paper's histograms); and the training text's richness, repetition and rare tokens.
Axis legend: M blocks of the training text, N of the test, B of a batch, T tokens, V vocabulary.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import pools
from collapse_jax.family import Metric, Metrics, Origin, Steps, Training
from collapse_jax.lm import finetune, opt
from collapse_jax.lm.opt import Model, Params
from collapse_jax.metrics import text_statistics

# Edges in log10 of a block's perplexity: from 1 to 10^6, ten bins per decade.
BIN_EDGES = np.linspace(0.0, 6.0, 61)
LEVELS = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
_SAMPLE = 64  # blocks compared by self-BLEU


class TextAnchor(NamedTuple):
    """Generation 0's model and token counts, with which later generations are compared."""

    params: Params
    counts: jax.Array  # i32[V], tokens in its training text


class Reading(NamedTuple):
    """Progress of the measures of one chain."""

    key: jax.Array
    params: Params
    anchor: TextAnchor
    pool: pools.Rows
    losses: jax.Array  # f32[batches of test and training text, B, T - 1]
    batches: jax.Array  # i32[], processed so far
    found: Metrics  # zeros until complete
    complete: jax.Array  # bool[]


class TextMeasures(NamedTuple):
    """How language models are measured.

    Attributes:
      model: the network.
      test: real blocks, i32[N, T].
      batch: blocks processed at a time, B.
      tail: share of the first training text's tokens that belong to its rarest types.
      kept: number of the newest training blocks to keep in the history.
      newest: number of blocks that a generation adds under a regime that accumulates.
      prompt: tokens that every generation continues, i32[prompt], or None.
      write: (key, params, prompts i32[1, prompt]) -> continuation i32[1, T]; see `writing`.
    """

    model: Model
    test: np.ndarray
    batch: int
    tail: float
    kept: int
    newest: int
    prompt: np.ndarray | None
    write: Callable[[jax.Array, Params, jax.Array], jax.Array]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.model.config.vocabulary

    def anchor(self, key: jax.Array, params: Params, training: Training) -> TextAnchor:
        """The anchor from generation 0's parameters and training text.

        The token that begins a row of real text is not counted: decoders never generate it, so it
        would appear as a lost type.
        """
        del key
        counts = text_statistics.counts(*_tokens(training.pool), self.vocabulary)
        return TextAnchor(params, counts.at[self.model.config.begin].set(0))

    def steps(self) -> Steps:
        """A family's measure as `Steps`: losses of test and training blocks, then all metrics."""
        return Steps(
            self._begin, self._advance, lambda carry: carry.complete, lambda carry: carry.found
        )

    @property
    def _of_test(self) -> int:
        """Number of test batches."""
        return math.ceil(len(self.test) / self.batch)

    def _begin(self, key: jax.Array, params: Params, training: Training, origin: Origin) -> Reading:
        pool = training.pool
        batches = self._of_test + math.ceil(pool.values.shape[0] / self.batch)
        losses = jnp.zeros((batches, self.batch, self.test.shape[1] - 1))
        pool = pool._replace(count=jnp.int32(pool.count))
        carry = Reading(
            key=key,
            params=params,
            anchor=origin.anchor,
            pool=pool,
            losses=losses,
            batches=jnp.int32(0),
            found={},
            complete=jnp.bool_(False),
        )
        shapes = jax.eval_shape(self._conclude, carry)
        return carry._replace(found=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

    def _advance(self, carry: Reading) -> Reading:
        work = 2 * opt.multiply_adds(self.model.config) * self.batch * self.test.shape[1]
        piece = max(1, round(finetune.PIECE / work))
        last = carry.losses.shape[0]
        testing = carry.batches < self._of_test
        stop = jnp.minimum(carry.batches + piece, jnp.where(testing, self._of_test, last))
        params = jax.tree.map(
            functools.partial(jnp.where, testing), carry.params, carry.anchor.params
        )
        test, rows = jnp.asarray(self.test), carry.pool.values

        def read(number: jax.Array, losses: jax.Array) -> jax.Array:
            real = _batch(test, number, self.batch)
            other = _batch(rows, number - self._of_test, self.batch)
            blocks = jnp.where(testing, real, other)
            return losses.at[number].set(finetune.losses(self.model, params, blocks))

        losses = jax.lax.fori_loop(carry.batches, stop, read, carry.losses)
        # A loop of at most one iteration: under vmap, `cond` would always compute both branches.
        return jax.lax.while_loop(
            lambda carry: (carry.batches == last) & ~carry.complete,
            lambda carry: carry._replace(found=self._conclude(carry), complete=jnp.bool_(True)),
            carry._replace(losses=losses, batches=stop),
        )

    def _conclude(self, carry: Reading) -> Metrics:
        """All metrics, from the losses of all blocks."""
        k_write, k_sample = jax.random.split(carry.key)
        of_test, of_text = jnp.split(carry.losses, [self._of_test])
        test = _rows(of_test, len(self.test)).mean(axis=1)
        tokens, live = _tokens(carry.pool)
        found = {
            "test_perplexity": jnp.mean(jnp.exp(test)),
            "test_perplexity_of_corpus": jnp.exp(jnp.mean(test)),
            **_seen_by_first(_rows(of_text, len(tokens)), live),
            **self._as_text(k_sample, tokens, live, carry.anchor.counts),
        }
        if self.prompt is not None:
            written = self.write(k_write, carry.params, jnp.asarray(self.prompt)[None])
            found["continuation"] = written[0].astype(jnp.float32)
        if self.kept:
            # Under regimes that accumulate, new blocks come last.
            start = jnp.maximum(jnp.sum(live) - self.newest, 0)
            padded = jnp.pad(tokens, ((0, self.kept), (0, 0)))
            newest = jax.lax.dynamic_slice_in_dim(padded, start, self.kept)
            found["text"] = newest.astype(jnp.float32)
        return found

    def _as_text(
        self, key: jax.Array, tokens: jax.Array, live: jax.Array, first: jax.Array
    ) -> Metrics:
        """Statistics of the training text, and of its overlap with the first one's counts."""
        now = text_statistics.counts(tokens, live, self.vocabulary)
        pairs, triples = (
            text_statistics.ngram_counts(tokens, live, self.vocabulary, n) for n in (2, 3)
        )
        count = jnp.sum(live, dtype=jnp.int32)
        size = min(_SAMPLE, tokens.shape[0])
        sample = pools.random_order(key, tokens.shape[0], count)[:size]
        rare = text_statistics.tail(first, self.tail)
        return {
            "types": jnp.sum(now > 0).astype(jnp.float32),
            "distinct_1": text_statistics.distinct(now),
            "distinct_2": text_statistics.distinct(pairs),
            "distinct_3": text_statistics.distinct(triples),
            "unigram_entropy": text_statistics.entropy(now),
            "bigram_entropy": text_statistics.entropy(pairs),
            "heterozygosity": text_statistics.heterozygosity(now),
            "zipf_slope": text_statistics.zipf_slope(now),
            "repetition": text_statistics.repetition(tokens, live),
            "self_bleu": text_statistics.self_bleu(tokens[sample], live[sample]),
            "tail_mass": jnp.sum(jnp.where(rare, now, 0)) / jnp.maximum(jnp.sum(now), 1),
            "survival": text_statistics.survival(first, now),
        }


def _seen_by_first(losses: jax.Array, live: jax.Array) -> Metrics:
    """Perplexity of the training text under generation 0's model, from losses f32[M, T - 1]."""
    of_block = losses.mean(axis=1)
    share = live / jnp.maximum(jnp.sum(live), 1)
    decades = of_block / math.log(10.0)
    edges = jnp.asarray(BIN_EDGES, jnp.float32)
    # Values beyond the edges count in the outermost bins.
    counts, _ = jnp.histogram(jnp.clip(decades, edges[0], edges[-1]), edges, weights=share)
    every = jnp.where(live[:, None], -losses, jnp.nan)
    return {
        "text_perplexity": jnp.sum(jnp.where(live, jnp.exp(of_block), 0.0) * share),
        "text_log_perplexity": jnp.sum(jnp.where(live, of_block, 0.0) * share),
        "perplexity_density": counts / float(BIN_EDGES[1] - BIN_EDGES[0]),
        "token_log_probability": jnp.nanmean(every),
        "token_log_probability_quantile": jnp.nanquantile(every, LEVELS.astype(np.float32)),
    }


def _tokens(pool: pools.Rows) -> tuple[jax.Array, jax.Array]:
    """Blocks i32[M, T] of a pool, and its mask of live ones, bool[M]."""
    return pool.values, jnp.arange(pool.values.shape[0]) < pool.count


def _batch(rows: jax.Array, number: jax.Array, size: int) -> jax.Array:
    """Batch `number` of the rows, padded with copies of the last row."""
    places = number * size + jnp.arange(size)
    return rows[jnp.clip(places, 0, rows.shape[0] - 1)]


def _rows(batches: jax.Array, count: int) -> jax.Array:
    return batches.reshape(-1, batches.shape[2])[:count]


def metrics(kept: int, prompt: bool, vocabulary: int) -> dict[str, Metric]:
    """The metrics of `TextMeasures` and of the fit.

    Args:
      kept: number of text blocks to keep.
      prompt: whether a prompt is continued.
      vocabulary: V.
    """
    entropy = 2.0 * math.log(vocabulary)

    def share(long_name: str, dims: tuple[str, ...] = ()) -> Metric:
        return Metric(long_name, "1", dims=dims, scale=0.01, limit=1.0, nonnegative=True)

    def positive(long_name: str, scale: float, limit: float, units: str = "1") -> Metric:
        return Metric(long_name, units, scale=scale, limit=limit, nonnegative=True)

    first = "under generation 0's model"
    found = {
        "train_loss": positive("mean training loss of the last epoch", 1.0, 100.0, "nats/token"),
        "validation_loss": positive(
            "loss of the kept epoch on real validation text", 1.0, 100.0, "nats/token"
        ),
        "best_epoch": positive("epoch of the kept parameters, from 0", 1.0, 1e3),
        "test_perplexity": positive(
            "perplexity on real test text, mean of blocks", 10.0, 1e6
        ),
        "test_perplexity_of_corpus": positive(
            "perplexity on real test text, exp of the mean loss", 10.0, 1e6
        ),
        "text_perplexity": positive(
            f"perplexity of the training text {first}, mean of blocks", 10.0, 1e6
        ),
        "text_log_perplexity": positive(
            f"mean loss of the training text {first}", 1.0, 100.0, "nats/token"
        ),
        "perplexity_density": Metric(
            f"density of log10 of a training block's perplexity {first}",
            "1", dims=("log10_perplexity",), scale=0.1, limit=1e2, nonnegative=True,
        ),
        "token_log_probability": Metric(
            f"mean log-probability of the training text's tokens {first}", "nats", scale=1.0,
            limit=100.0,
        ),
        "token_log_probability_quantile": Metric(
            f"quantiles of log-probabilities of the training text's tokens {first}",
            "nats", dims=("level",), scale=1.0, limit=100.0,
        ),
        "types": positive("different tokens in the training text", 10.0, 1e6),
        "distinct_1": share("different tokens among all of the training text"),
        "distinct_2": share("different bigrams among all of the training text"),
        "distinct_3": share("different trigrams among all of the training text"),
        "unigram_entropy": positive("entropy of the training text's tokens", 0.1, entropy, "nats"),
        "bigram_entropy": positive("entropy of the training text's bigrams", 0.1, entropy, "nats"),
        "heterozygosity": share("probability that two tokens of the training text differ"),
        "zipf_slope": Metric(
            "slope of ln count against ln rank of tokens", "1", scale=0.1, limit=10.0,
        ),
        "repetition": share("share of a block's 4-grams that it had before"),
        "self_bleu": share("BLEU-4 of training blocks against each other"),
        "tail_mass": share("share of training tokens that were rare in the first training text"),
        "survival": share(
            "share of the first training text's types that still occur", ("decile",)
        ),
    }  # fmt: skip
    if prompt:
        found["continuation"] = Metric(
            "tokens with which the model continues the prompt", "id", dims=("token",),
            scale=1.0, limit=1e5,
            nonnegative=True,
        )  # fmt: skip
    if kept:
        found["text"] = Metric(
            "tokens of the blocks that were new in training",
            "id",
            dims=("block", "token"),
            scale=1.0,
            limit=1e5,
            nonnegative=True,
        )
    return found


def coords(length: int) -> dict[str, Any]:
    """Coordinates of the vector metrics' dims."""
    return {
        "log10_perplexity": (BIN_EDGES[:-1] + BIN_EDGES[1:]) / 2,
        "level": LEVELS,
        "decile": np.arange(1, text_statistics.DECILES + 1),
        "token": np.arange(length),
    }
