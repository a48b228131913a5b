"""Variational autoencoders trained on their own images (Shumailov et al. 2024).

Axis legend: M images of a training set, D pixels.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax import pools
from collapse_jax.batching import in_turn
from collapse_jax.config import check_choice
from collapse_jax.data.images import ImageSet, load_images
from collapse_jax.family import Family, Request, Threshold, Training
from collapse_jax.vae import classifier, measures, training
from collapse_jax.vae import model as models
from collapse_jax.vae.measures import Measures

MODELS = ("conv", "mlp")
SYNTHETIC = ("live", "fixed")
DECODERS = ("mean", "bernoulli")
STARTS = ("fresh", "warm")


def vae(
    dataset: str = "digits",
    model: str = "mlp",
    hidden: int = 400,
    latent: int = 20,
    synthetic: str = "live",
    decoder: str = "mean",
    epochs: int = 30,
    batch: int = 256,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-5,
    reconstruction: str = "bernoulli",
    kl_weight: float = 1.0,
    start: str = "fresh",
    evaluated: int = 1000,
    pictures: int = 16,
    tail: float = 0.02,
    chains_together: int = 1,
    data_dir: str | None = None,
) -> Family:
    r"""Chains of variational autoencoders.

    The defaults of training are the paper's: summed Bernoulli loss plus the divergence, Adam with
    L2 weight decay, new parameters each generation, and synthetic images drawn anew for every
    minibatch.

    Args:
      dataset: "digits", "mnist" or a directory, see `collapse_jax.data.images`.
      model: "conv" (the paper's, 647,081 parameters at 28x28) or "mlp".
      hidden: units of mlp's hidden layers.
      latent: dimension of z.
      synthetic: "live" (drawn anew for each minibatch) or "fixed" (a set of 8-bit images a
        generation); "live" serves no regime that remembers synthetic images.
      decoder: generated pixels are decoder "mean"s or "bernoulli" draws.
      epochs, batch, optimizer, learning_rate, weight_decay, reconstruction, kl_weight, start,
        chains_together: see `collapse_jax.vae.training.Settings`.
      evaluated: real test images, and generated ones, that a generation is measured on.
      pictures: generated images kept in the history, by generation.
      tail: share of the real test images' encoder means beyond both tail quantiles together, by
        dimension, in (0, 1).
      data_dir: where data sets are.

    Returns:
      A family with the metrics of `collapse_jax.vae.measures.metrics`. Original images are drawn
      without replacement from the data set's training images, for each chain and draw anew.

    Raises:
      ValueError: for an argument outside its range, or images that are not what they should be.
      FileNotFoundError: if there are no images.
    """
    settings = training.Settings(
        epochs, batch, learning_rate, weight_decay, optimizer, reconstruction, kl_weight, start,
        decoder == "bernoulli", chains_together,
    )  # fmt: skip
    check_choice("model", model, MODELS)
    check_choice("synthetic", synthetic, SYNTHETIC)
    check_choice("decoder", decoder, DECODERS)
    _check_settings(settings)
    images = load_images(dataset, data_dir)
    _check_measures(images, evaluated, pictures, tail)
    if model == "conv":
        network = models.convolutional(images.side, latent)
    else:
        network = models.perceptron(images.side, hidden, latent)
    measured = Measures(
        network, images.test[:evaluated], pictures, settings.draws, reconstruction, tail
    )
    classes = classifier.classes(images)
    variance = float((images.test[:evaluated] / 255.0).var(axis=0).mean())
    rows = pools.live_rows(network.pixels)
    live = synthetic == "live"
    one_by_one = lambda function: in_turn(function, chains_together)  # noqa: E731

    def original(key: jax.Array, request: Request) -> pools.LiveRows:
        size = len(images.train)
        pool = pools.LiveRows(pools.Rows(jnp.asarray(images.train), size), jnp.zeros(0, bool))
        if isinstance(request.count, int) and request.count == size:
            return pool
        assert rows.subsample is not None
        return rows.subsample(key, pool, *request)

    def sample(key: jax.Array, params: models.Params, request: Request) -> pools.LiveRows:
        if live:
            nothing = pools.Rows(jnp.zeros((0, network.pixels), jnp.uint8), 0)
            return pools.LiveRows(nothing, jnp.arange(request.capacity) < request.count)
        draw = one_by_one(
            lambda key, params: measured.generate(key, params, request.capacity),
        )
        values = training.to_bytes(draw(key, params))
        return pools.LiveRows(pools.Rows(values, request.count), jnp.zeros(0, bool))

    def anchor(key: jax.Array, params: models.Params, given: Training) -> measures.Anchor:
        del key, given
        judge, _ = classifier.train(dataset, data_dir)
        return one_by_one(lambda params: measured.anchor(params, judge))(params)

    def measure(key: jax.Array, params: models.Params, given: Training, origin: Any) -> Any:
        del given
        return one_by_one(measured.measure)(key, params, origin.anchor)

    def check(sizes: Any) -> None:
        if sizes.training.count < batch:
            raise ValueError(
                f"batch: expected at most samples = {sizes.training.count}, got {batch}"
            )
        most = max(sizes.fresh.count, sizes.reused.count)
        if most > len(images.train):
            raise ValueError(
                f"samples: expected at most the {len(images.train):,} training images of"
                f" {images.title}, got {most:,}"
            )

    def serves(regime: Any) -> None:
        if live and regime.remembers:
            raise ValueError(
                f"regime: {regime.name} keeps the images of earlier generations, which vae with"
                " images drawn anew for each minibatch cannot; use synthetic=fixed"
            )

    return Family(
        name="vae",
        config={
            "dataset": {"name": images.name, "sha256": images.sha256},
            "model": model,
            "hidden": hidden if model == "mlp" else None,
            "latent": latent,
            "synthetic": synthetic,
            **settings._asdict(),
            "evaluated": evaluated,
            "pictures": pictures,
            "tail": tail,
        },
        pools=rows,
        metrics=measures.metrics(pictures, math.log(len(classes))),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half the original's"),
            "late": Threshold(
                "log_variance",
                math.log(0.01 * variance),
                "pixel variance below 1 % of the original's",
            ),
        },
        original=original,
        init=lambda key: models.nothing(network),
        fit=training.steps(network, settings),
        sample=sample,
        measure=measure,
        anchor=anchor,
        coords={
            "latent": (measures.BIN_EDGES[:-1] + measures.BIN_EDGES[1:]) / 2,
            "class": classes,
        },
        check=check,
        serves=serves,
    )


def _check_settings(settings: training.Settings) -> None:
    check_choice("optimizer", settings.optimizer, tuple(training.OPTIMIZERS))
    check_choice("reconstruction", settings.reconstruction, models.RECONSTRUCTIONS)
    check_choice("start", settings.start, STARTS)
    for name in ("epochs", "batch", "chains_together"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(settings, name)}")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"learning_rate: expected more than 0, got {settings.learning_rate}")
    for name in ("weight_decay", "kl_weight"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name}: expected 0 or more, got {getattr(settings, name)}")


def _check_measures(images: ImageSet, evaluated: int, pictures: int, tail: float) -> None:
    least = measures.features.NEIGHBOURS + 1
    if evaluated < least:
        raise ValueError(f"evaluated: expected at least {least}, got {evaluated}")
    if not 0 <= pictures <= evaluated:
        raise ValueError(f"pictures: expected 0 to evaluated = {evaluated}, got {pictures}")
    if not 0 < tail < 1:
        raise ValueError(f"tail: expected a probability in (0, 1), got {tail}")
