"""A small classifier, trained on real images, that labels generated ones."""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.data.images import ImageSet, load_images

_HIDDEN, _BATCH, _EPOCHS, _IMAGES = 64, 128, 10, 20_000
_MIN_SEEN = 40_000  # lower bound on epochs times images


class Classifier(NamedTuple):
    """A perceptron with one hidden layer of rectified linear units."""

    hidden: tuple[np.ndarray, np.ndarray]  # f32[pixel, unit], f32[unit]
    output: tuple[np.ndarray, np.ndarray]  # f32[unit, class], f32[class]


@functools.lru_cache(maxsize=4)
def train(name: str, data_dir: str | None) -> tuple[Classifier, float]:
    """Trains scikit-learn's MLPClassifier with Adam on at most 20,000 random training images.

    It trains for ten epochs, or more if there are fewer than 4,000 images.

    Args:
      name, data_dir: the images, as for `load_images`.

    Returns:
      The classifier and its accuracy on the test images.

    Raises:
      ValueError: if all images are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    images = load_images(name, data_dir)
    if len(classes(images)) < 2:
        raise SettingError(
            f"dataset: expected images of at least two classes, got one in {images.title}"
        )
    chosen = np.random.default_rng(0).permutation(len(images.train))[:_IMAGES]
    epochs = max(_EPOCHS, -(-_MIN_SEEN // len(chosen)))
    batch = min(_BATCH, len(chosen))
    learner = MLPClassifier((_HIDDEN,), max_iter=epochs, random_state=0, batch_size=batch)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # it stops after a fixed number of epochs
        learner.fit(images.train[chosen] / np.float32(255), images.train_labels[chosen])
    accuracy = learner.score(images.test / np.float32(255), images.test_labels)
    layers = [
        (np.asarray(weights, np.float32), np.asarray(bias, np.float32))
        for weights, bias in zip(learner.coefs_, learner.intercepts_, strict=True)
    ]
    hidden, (to_output, output_bias) = layers
    if len(output_bias) == 1:  # for two classes: log-odds of the second
        to_output, output_bias = np.pad(to_output, [(0, 0), (1, 0)]), np.pad(output_bias, (1, 0))
    return Classifier(hidden, (to_output, output_bias)), float(accuracy)


def classes(images: ImageSet) -> np.ndarray:
    """Labels of the training images, in the order of the classifier's outputs."""
    return np.unique(images.train_labels)


def shares(classifier: Classifier, images: jax.Array) -> jax.Array:
    """The share of images in each class, f32[class]; images f32[B, pixel] in [0, 1]."""
    (to_hidden, hidden_bias), (to_output, output_bias) = classifier
    hidden = jax.nn.relu(images @ to_hidden + hidden_bias)
    chosen = jnp.argmax(hidden @ to_output + output_bias, axis=1)
    return jnp.mean(jax.nn.one_hot(chosen, output_bias.shape[0]), axis=0)
