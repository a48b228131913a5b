"""A small classifier of real images, which tells the classes of generated ones."""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.data.images import ImageSet, load_images

_HIDDEN, _BATCH, _EPOCHS, _IMAGES = 64, 128, 10, 20_000
_LEAST_SEEN = 40_000  # images in training, with repetition, where there are few


class Classifier(NamedTuple):
    """One hidden layer of rectified units."""

    hidden: tuple[np.ndarray, np.ndarray]  # f32[pixel, unit], f32[unit]
    output: tuple[np.ndarray, np.ndarray]  # f32[unit, class], f32[class]


@functools.lru_cache(maxsize=4)
def train(name: str, data_dir: str | None) -> tuple[Classifier, float]:
    """Scikit-learn's multilayer perceptron on at most 20,000 random training images, by Adam.

    Ten epochs; more where there are few images.

    Args:
      name, data_dir: of the images, as for `load_images`.

    Returns:
      The classifier, and the share of test images that it gets right.

    Raises:
      ValueError: if the images are all of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    images = load_images(name, data_dir)
    if len(classes(images)) < 2:
        raise SettingError(
            f"dataset: expected images of two classes or more, got one in {images.title}"
        )
    chosen = np.random.default_rng(0).permutation(len(images.train))[:_IMAGES]
    epochs = max(_EPOCHS, -(-_LEAST_SEEN // len(chosen)))
    batch = min(_BATCH, len(chosen))
    learner = MLPClassifier((_HIDDEN,), max_iter=epochs, random_state=0, batch_size=batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after its epochs
        learner.fit(images.train[chosen] / np.float32(255), images.train_labels[chosen])
    right = learner.score(images.test / np.float32(255), images.test_labels)
    layers = [
        (np.asarray(weights, np.float32), np.asarray(bias, np.float32))
        for weights, bias in zip(learner.coefs_, learner.intercepts_, strict=True)
    ]
    hidden, (to_output, output_bias) = layers
    if len(output_bias) == 1:  # two classes: the log-odds of the second
        to_output, output_bias = np.pad(to_output, [(0, 0), (1, 0)]), np.pad(output_bias, (1, 0))
    return Classifier(hidden, (to_output, output_bias)), float(right)


def classes(images: ImageSet) -> np.ndarray:
    """The labels that occur, in the order of the classifier's outputs."""
    return np.unique(images.train_labels)


def shares(classifier: Classifier, images: jax.Array) -> jax.Array:
    """The share of images in each class, f32[class]; images f32[B, pixel] in [0, 1]."""
    (to_hidden, hidden_bias), (to_output, output_bias) = classifier
    hidden = jax.nn.relu(images @ to_hidden + hidden_bias)
    chosen = jnp.argmax(hidden @ to_output + output_bias, axis=1)
    return jnp.mean(jax.nn.one_hot(chosen, output_bias.shape[0]), axis=0)
