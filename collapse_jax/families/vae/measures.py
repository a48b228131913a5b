"""Measures of an autoencoder, on real test images and on images that it generates.

Measures of generated images use generation 0's encoder (its mean, as in Shumailov et al. 2024) or a
classifier trained on real images. Axis legend: B images, L latent.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.families.vae import classifier, networks
from collapse_jax.families.vae.classifier import Classifier
from collapse_jax.families.vae.networks import Autoencoder, Params, Reconstruction
from collapse_jax.families.vae.training import from_bytes
from collapse_jax.family import Metric, Metrics
from collapse_jax.metrics import features

BIN_EDGES = np.linspace(-3.0, 3.0, 121)  # of the latent density, the range of the paper's figure
_CHUNK = 256  # images processed at a time


class ImageAnchor(NamedTuple):
    """Generation 0's encoder and statistics, with which later generations are compared."""

    encoder: Params  # generation 0's
    manifold: features.Manifold  # of the encoder mean on real test images
    summary: features.Summary  # of the same
    lower: jax.Array  # f32[L], tail quantiles of the encoder mean on generation 0's images
    upper: jax.Array  # f32[L]
    classifier: Classifier


class ImageMeasures(NamedTuple):
    """How autoencoders are measured.

    Attributes:
      model: the autoencoder.
      test: real images, u8[B, pixel]; the same number is generated.
      pictures: number of generated images to keep.
      draws: whether generated pixels are Bernoulli draws.
      reconstruction: "bernoulli" or "gaussian".
      tail: share of generation 0's images in the two tails together, per dimension.
    """

    model: Autoencoder
    test: np.ndarray
    pictures: int
    draws: bool
    reconstruction: Reconstruction
    tail: float

    def anchor(self, key: jax.Array, params: Params, trained: Classifier) -> ImageAnchor:
        """The anchor from generation 0's parameters and a trained classifier.

        Tails are those of generation 0's images, not of real ones, since decoder means vary less
        than real images, and collapse is the loss in later generations.
        """
        real = self._encode(params, from_bytes(jnp.asarray(self.test)))
        generated = self._encode(params, self.generate(key, params, len(self.test)))
        levels = jnp.array([self.tail / 2, 1 - self.tail / 2])
        lower, upper = jnp.quantile(generated, levels, axis=0)
        return ImageAnchor(
            encoder=params,
            manifold=features.manifold(real),
            summary=features.summary(real),
            lower=lower,
            upper=upper,
            classifier=jax.tree.map(jnp.asarray, trained),
        )

    def measure(self, key: jax.Array, params: Params, anchor: ImageAnchor) -> Metrics:
        """All metrics except those of the fit."""
        k_test, k_generate = jax.random.split(key)
        reconstruction, kl = self._bound(k_test, params)
        means, images = self._generate(k_generate, params, len(self.test))
        points = self._encode(anchor.encoder, images)
        near = features.neighbourhoods(anchor.manifold, features.manifold(points))
        # Comparisons hide NaN, so shares and tail mass of a diverged model are set to NaN here.
        known = jnp.where(jnp.all(jnp.isfinite(means)), 1.0, jnp.nan)
        shares = known * classifier.shares(anchor.classifier, images)
        outside = (points < anchor.lower) | (points > anchor.upper)
        variance = jnp.mean(jnp.var(means, axis=0))
        found = {
            "test_elbo": -jnp.mean(reconstruction + kl),
            "test_reconstruction": jnp.mean(reconstruction),
            "test_kl": jnp.mean(kl),
            "latent_density": _density(points),
            "latent_sd": jnp.std(points),
            "frechet_distance": features.frechet_distance(anchor.summary, features.summary(points)),
            **near._asdict(),
            "class_share": shares,
            "class_entropy": -jnp.sum(jax.scipy.special.xlogy(shares, shares)),
            "pixel_variance": variance,
            "log_variance": jnp.log(variance + 1e-30),
            "tail_mass": known * jnp.mean(outside.astype(jnp.float32)),
        }
        if self.pictures:
            found["picture"] = images[: self.pictures]
        return found

    def generate(self, key: jax.Array, params: Params, count: int) -> jax.Array:
        """Images decoded from draws of the prior, f32[count, pixel]."""
        return self._generate(key, params, count)[1]

    def _generate(self, key: jax.Array, params: Params, count: int) -> tuple[jax.Array, jax.Array]:
        """The decoder's means, and images equal to or drawn from them; f32[count, pixel] each."""
        k_codes, k_pixels = jax.random.split(key)
        codes = jax.random.normal(k_codes, (count, self.model.latent))

        def chunk(number: jax.Array) -> jax.Array:
            return networks.means(self.model, params, _part(codes, number))

        means = _chunked(chunk, count)
        return means, networks.pixels(means, k_pixels if self.draws else None)

    def _encode(self, encoder: Params, images: jax.Array) -> jax.Array:
        """Encoder mean, f32[B, L]."""

        def chunk(number: jax.Array) -> jax.Array:
            return self.model.encode(encoder, _part(images, number))[0]

        return _chunked(chunk, images.shape[0])

    def _bound(self, key: jax.Array, params: Params) -> networks.Terms:
        """Both terms of the evidence lower bound on the test images."""
        images = jnp.asarray(self.test)
        noise = jax.random.normal(key, (len(self.test), self.model.latent))

        def chunk(number: jax.Array) -> networks.Terms:
            part = from_bytes(_part(images, number))
            return networks.terms(
                self.model, params, _part(noise, number), part, reconstruction=self.reconstruction
            )

        return _chunked(chunk, len(self.test))


def _part(rows: jax.Array, number: jax.Array) -> jax.Array:
    """Chunk `number` of the rows, padded with copies of the last row."""
    numbers = number * _CHUNK + jnp.arange(_CHUNK)
    return rows[jnp.minimum(numbers, rows.shape[0] - 1)]


def _chunked(chunk: Any, count: int) -> Any:
    """Concatenates the results of all chunks; leaves [count, ...]."""
    chunks = jax.lax.map(chunk, jnp.arange(-(-count // _CHUNK)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], chunks)


def _density(points: jax.Array) -> jax.Array:
    """Histogram of all entries, normalised as a density: f32[bin]."""
    counts, _ = jnp.histogram(points, jnp.asarray(BIN_EDGES, jnp.float32))
    width = float(BIN_EDGES[1] - BIN_EDGES[0])
    return counts.astype(jnp.float32) / (points.size * width)


def metrics(pictures: int, entropy: float) -> dict[str, Metric]:
    """The metrics of `ImageMeasures.measure` and of the fit.

    Args:
      pictures: number of generated images to keep.
      entropy: largest possible entropy of the classes, nats.
    """

    def share(long_name: str, units: str = "1", dims: tuple[str, ...] = ()) -> Metric:
        return Metric(long_name, units, dims=dims, scale=0.01, limit=1.0, nonnegative=True)

    found = {
        "train_loss": Metric(
            "mean loss of the training images over the last epoch", "nats", scale=100.0, limit=1e5
        ),
        "test_elbo": Metric(
            "evidence lower bound on real test images", "nats", scale=100.0, limit=1e5,
        ),
        "test_reconstruction": Metric(
            "reconstruction loss on real test images", "nats", scale=100.0, limit=1e5,
            nonnegative=True,
        ),
        "test_kl": Metric(
            "KL(q(z | x) || prior) on real test images", "nats", scale=10.0, limit=1e4,
            nonnegative=True,
        ),
        "latent_density": Metric(
            "density of generation 0's encoder mean, all dimensions, on generated images",
            "1", dims=("latent",), scale=0.1, limit=1e3, nonnegative=True,
        ),
        "latent_sd": Metric(
            "standard deviation of generation 0's encoder mean on generated images",
            "1", scale=0.1, limit=10.0, nonnegative=True,
        ),
        "frechet_distance": Metric(
            "Fréchet distance of generated to real images in generation 0's encoder",
            "1", scale=0.1, limit=1e3, nonnegative=True,
        ),
        "precision": share("share of generated images near real ones"),
        "recall": share("share of real images near generated ones"),
        "density": Metric(
            "number of real neighbourhoods around a generated image, over its expected value",
            "1", scale=0.1, limit=10.0, nonnegative=True,
        ),
        "coverage": share("share of real images with a generated one in their neighbourhood"),
        "class_share": share("share of generated images in a class", "1", ("class",)),
        "class_entropy": Metric(
            "entropy of the classes of generated images", "nats", scale=0.1, limit=2.0 * entropy,
            nonnegative=True,
        ),
        "pixel_variance": Metric(
            "variance of a pixel's mean over generated images, mean over pixels", "white^2",
            scale=0.01, limit=1.0, nonnegative=True,
        ),
        "log_variance": Metric(
            "log of the mean pixel variance", "ln(white^2)", scale=0.5, limit=1e2,
            symbol=r"\ln\sigma_n^2",
        ),
        "tail_mass": share("share of encoder means beyond generation 0's tail quantiles"),
    }  # fmt: skip
    if pictures:
        found["picture"] = share("a generated image", "white", ("image", "pixel"))
    return found
