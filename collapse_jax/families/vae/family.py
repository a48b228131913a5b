"""Variational autoencoders trained on their own images (Shumailov et al. 2024).

Axis legend: M images of a training set, D pixels.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import sequential
from collapse_jax.data.images import ImageSet, load_images
from collapse_jax.families.vae import classifier, measures, networks
from collapse_jax.families.vae.measures import ImageMeasures
from collapse_jax.families.vae.training import (
    Optimizer,
    Pixels,
    Start,
    VaeTraining,
    steps,
    to_bytes,
)
from collapse_jax.family import (
    Curves,
    Family,
    OwnFigures,
    Request,
    RunData,
    Threshold,
    Training,
)
from collapse_jax.regimes import Regime, Sizes

Network = Literal["conv", "mlp"]
Synthetic = Literal["live", "fixed"]


def vae(
    dataset: str = "digits",
    model: Network = "mlp",
    hidden: int = 400,
    latent: int = 20,
    synthetic: Synthetic = "live",
    training: VaeTraining = VaeTraining(),
    test_images: int = 360,
    pictures: int = 16,
    tail: float = 0.02,
    data_dir: str | None = None,
) -> Family:
    r"""Chains of variational autoencoders.

    The training defaults are the paper's: summed Bernoulli loss plus KL divergence, Adam with L2
    weight decay, new parameters each generation, and new synthetic images for every minibatch.

    Args:
      dataset: images: "digits" (8x8, offline), "mnist", or a directory of idx files named like
        MNIST's.
      model: network: "conv" (the paper's convolutional autoencoder, 647,081 parameters at 28x28)
        or "mlp" (one hidden layer).
      hidden: units per hidden layer of mlp.
      latent: dimension of z.
      synthetic: synthetic images: "live" (new ones for each minibatch) or "fixed" (one set of 8-bit
        images per generation); "live" cannot be used with regimes that keep synthetic images.
      training: how the autoencoder is trained, and how its decoder generates pixels.
      test_images: number of random real test images, and of generated images, for the metrics.
      pictures: number of generated images per generation to keep in the history.
      tail: share of generation 0's images in the two tails together, per dimension of the encoder
        mean, in (0, 1).
      data_dir: directory of data sets; default $COLLAPSE_JAX_DATA, else a user cache directory.

    Returns:
      A family with the metrics of `collapse_jax.families.vae.measures.metrics`. Each draw of
      original images is without replacement from the data set's training images.

    Raises:
      ValueError: if an argument is outside its range or an image file is invalid.
      FileNotFoundError: if the images do not exist.
    """
    model = arguments.choice("model", model, get_args(Network))
    synthetic = arguments.choice("synthetic", synthetic, get_args(Synthetic))
    training = _checked(training)
    tail = arguments.share("tail", tail, above=0, below=1)
    images = load_images(dataset, data_dir)
    _check_measures(images, test_images, pictures)
    if model == "conv":
        network = networks.convolutional(images.side, latent)
    else:
        network = networks.perceptron(images.side, hidden, latent)
    # The file's order is not random: the first half of MNIST's test images is easier.
    shuffled = images.test[np.random.default_rng(0).permutation(len(images.test))]
    test = shuffled[:test_images]
    measured = ImageMeasures(
        model=network, test=test, pictures=pictures, draws=training.draws,
        reconstruction=training.reconstruction, tail=tail,
    )  # fmt: skip
    classes = classifier.classes(images)
    variance = float((test / 255.0).var(axis=0).mean())
    live = synthetic == "live"
    one_by_one = lambda function: sequential(function, training.chains_together)  # noqa: E731

    def anchor(key: jax.Array, params: networks.Params, given: Training) -> measures.ImageAnchor:
        del given
        trained, _ = classifier.train(dataset, data_dir)
        return one_by_one(lambda key, params: measured.anchor(key, params, trained))(key, params)

    def measure(key: jax.Array, params: networks.Params, given: Training, origin: Any) -> Any:
        del given
        return one_by_one(measured.measure)(key, params, origin.anchor)

    return Family(
        name="vae",
        config={
            "dataset": {"name": images.name, "sha256": images.sha256},
            "model": model,
            "hidden": hidden if model == "mlp" else None,
            "latent": latent,
            "synthetic": synthetic,
            **training.config,
            "test_images": test_images,
            "pictures": pictures,
            "tail": tail,
        },
        pools=pools.live_rows(network.pixels),
        metrics=measures.metrics(pictures, math.log(len(classes))),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half generation 0's"),
            "late": Threshold(
                "log_variance",
                math.log(0.01 * variance),
                "pixel variance below 1 % of the original's",
            ),
        },
        original=_drawn_from(images.train),
        init=lambda key: networks.zeros(network),
        fit=steps(network, training),
        sample=_live(network.pixels) if live else _generated(measured, one_by_one),
        measure=measure,
        anchor=anchor,
        coords={
            "latent": (measures.BIN_EDGES[:-1] + measures.BIN_EDGES[1:]) / 2,
            "class": classes,
        },
        check=_sizes_check(images, training.batch),
        serves=_check_no_memory if live else lambda regime: None,
        description=f"{model}, {images.name}, {synthetic} images",
        figures=_figures,
    )


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    """Latent density and class shares; also images, if single chains were kept."""
    from collapse_jax.families.vae import figures

    del curves
    drawn = {
        "latent_density": figures.latent_density(run.summary, generations),
        "class_share": figures.class_shares(run.summary),
    }
    if "picture" in run.history:
        drawn["picture"] = figures.grids(run.history, generations)
    elif "picture_mean" in run.summary:
        warnings.warn(
            "pictures: omitted, as the history of single chains was not kept (--keep=chains)",
            stacklevel=2,
        )
    return OwnFigures(drawn, replaces=tuple(drawn))


def _drawn_from(train: np.ndarray) -> Callable[[jax.Array, Request], pools.LiveRows]:
    """Draws original images: all training images, or a subset without replacement."""
    subsample = pools.live_rows(train.shape[1]).subsample
    assert subsample is not None

    def original(key: jax.Array, request: Request) -> pools.LiveRows:
        size = len(train)
        pool = pools.LiveRows(pools.Rows(jnp.asarray(train), size), jnp.zeros(0, bool))
        if isinstance(request.count, int) and request.count == size:
            return pool
        return subsample(key, pool, *request)

    return original


def _live(pixels: int) -> Callable[[jax.Array, networks.Params, Request], pools.LiveRows]:
    """Placeholders for synthetic images, which training draws for each minibatch."""

    def sample(key: jax.Array, params: networks.Params, request: Request) -> pools.LiveRows:
        del key, params
        none = pools.Rows(jnp.zeros((0, pixels), jnp.uint8), 0)
        return pools.LiveRows(none, jnp.arange(request.capacity) < request.count)

    return sample


def _generated(
    measured: ImageMeasures, one_by_one: Callable[..., Any]
) -> Callable[[jax.Array, networks.Params, Request], pools.LiveRows]:
    """Draws a fixed set of synthetic 8-bit images."""

    def sample(key: jax.Array, params: networks.Params, request: Request) -> pools.LiveRows:
        draw = one_by_one(lambda key, params: measured.generate(key, params, request.capacity))
        values = to_bytes(draw(key, params))
        return pools.LiveRows(pools.Rows(values, request.count), jnp.zeros(0, bool))

    return sample


def _sizes_check(images: ImageSet, batch: int) -> Callable[[Sizes], None]:
    """Rejects training sets below a minibatch, and more original images than there are."""

    def check(sizes: Sizes) -> None:
        if sizes.training.count < batch:
            raise SettingError(
                f"batch: expected at most samples = {sizes.training.count}, got {batch}"
            )
        original = sum(request.count for request in (sizes.fresh, sizes.reused) if request)
        if original > len(images.train):
            raise SettingError(
                f"samples: expected at most the {len(images.train):,} training images of"
                f" {images.title}, got {original:,}"
            )

    return check


def _check_no_memory(regime: Regime) -> None:
    """Rejects regimes that keep earlier images, which live images cannot provide."""
    if regime.remembers:
        raise SettingError(
            f"regime: {regime.name} keeps the images of earlier generations, which vae with"
            " synthetic=live cannot do; use synthetic=fixed"
        )


def _checked(training: VaeTraining) -> VaeTraining:
    """Returns the settings as plain Python values; rejects those outside their range."""
    reconstructions = get_args(networks.Reconstruction)
    return VaeTraining(
        epochs=arguments.integer("epochs", training.epochs, at_least=1),
        batch=arguments.integer("batch", training.batch, at_least=1),
        learning_rate=arguments.number("learning_rate", training.learning_rate, above=0),
        weight_decay=arguments.number("weight_decay", training.weight_decay, at_least=0),
        optimizer=arguments.choice("optimizer", training.optimizer, get_args(Optimizer)),
        reconstruction=arguments.choice("reconstruction", training.reconstruction, reconstructions),
        kl_weight=arguments.number("kl_weight", training.kl_weight, at_least=0),
        start=arguments.choice("start", training.start, get_args(Start)),
        decoder=arguments.choice("decoder", training.decoder, get_args(Pixels)),
        chains_together=arguments.integer("chains_together", training.chains_together, at_least=1),
    )


def _check_measures(images: ImageSet, test_images: int, pictures: int) -> None:
    smallest, largest = measures.features.NEIGHBOURS + 1, len(images.test)
    if not smallest <= test_images <= largest:
        raise SettingError(
            f"test_images: expected {smallest} to the {largest:,} test images of {images.title},"
            f" got {test_images}"
        )
    if not 0 <= pictures <= test_images:
        raise SettingError(f"pictures: expected 0 to test_images = {test_images}, got {pictures}")
