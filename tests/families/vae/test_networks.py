"""The autoencoders against PyTorch, from goldens (see goldens/make_vae.py) and directly."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collapse_jax.families.vae import networks, training
from experiments.benchmarks.vae import twin
from tests.families.vae.twins import NETWORKS, PLACES, inputs, load_into, weights

GOLDENS = json.loads(Path(__file__).with_name("goldens").joinpath("vae.json").read_text())


def ours(name):
    """Our results for the content of goldens/make_vae.py."""
    network, params = NETWORKS[name], weights(NETWORKS[name])
    images, noise = map(jnp.asarray, inputs())

    def total(params):
        parts = networks.terms(network, params, noise, images, "bernoulli")
        return jnp.sum(parts.reconstruction + parts.kl)

    @jax.jit
    def everything(params):
        mean, log_variance = network.encode(params, images)
        logits = network.decode(params, noise)
        return mean, log_variance, logits, *jax.value_and_grad(total)(params)

    mean, log_variance, logits, loss, gradient = everything(params)
    kinds = {"weight": "kernel", "bias": "bias"}
    gradients = {
        f"{place}.{theirs}": float(jnp.linalg.norm(gradient[layer][our]))
        for layer, place in PLACES[name].items()
        for theirs, our in kinds.items()
    }
    return {
        "mean": mean,
        "log_variance": log_variance,
        "logits": logits[:, ::16],
        "loss": loss,
        "gradients": gradients,
    }


def assert_equal(got, wanted):
    for name in ("mean", "log_variance", "logits", "loss"):
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(got[name] / scale, np.divide(wanted[name], scale), atol=1e-5)
    assert set(got["gradients"]) == set(wanted["gradients"])
    for name, value in wanted["gradients"].items():
        np.testing.assert_allclose(got["gradients"][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_loss_and_gradients_are_those_that_pytorch_computed(name):
    assert_equal(ours(name), GOLDENS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_goldens_are_what_pytorch_computes(name):
    pytest.importorskip("torch", reason="PyTorch is not installed: goldens were not recomputed")
    from tests.families.vae.goldens.make_vae import outputs

    assert_equal(outputs(name), GOLDENS[name])


@pytest.mark.slow
def test_steps_are_those_of_pytorchs_adam(monkeypatch):
    """Its weight decay is L2: added to the gradient of the summed loss."""
    torch = pytest.importorskip("torch", reason="the extra benchmark is not installed")
    network, images_and_noise = NETWORKS["mlp"], inputs()
    module, loss = twin("mlp")
    load_into(module, "mlp", weights(network))
    images, noise = (torch.tensor(array) for array in images_and_noise)
    monkeypatch.setattr(torch, "randn_like", lambda mean: noise)
    peer = torch.optim.Adam(module.parameters(), lr=1e-3, weight_decay=0.1)
    theirs = []
    for _ in range(6):
        peer.zero_grad()
        total = loss(images)
        total.backward()
        peer.step()
        theirs.append(float(total.detach()))

    optimizer = training.optimizer(training.VaeTraining(learning_rate=1e-3, weight_decay=0.1))

    @jax.jit
    def step(params, state):
        def total(params):
            parts = networks.terms(network, params, noise, images, "bernoulli")
            return jnp.sum(parts.reconstruction + parts.kl)

        value, gradient = jax.value_and_grad(total)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    images, noise = map(jnp.asarray, images_and_noise)
    params = jax.tree.map(jnp.asarray, weights(network))
    state, losses = optimizer.init(params), []
    for _ in range(6):
        params, state, value = step(params, state)
        losses.append(float(value))
    np.testing.assert_allclose(losses, theirs, rtol=2e-5)
    assert theirs[-1] < 0.98 * theirs[0]


def test_parameter_counts():
    assert networks.parameter_count(NETWORKS["conv"]) == 647_081  # the paper's
    assert networks.parameter_count(NETWORKS["mlp"]) == 784 * 400 + 400 + 2 * (400 * 20 + 20) + (
        20 * 400 + 400 + 400 * 784 + 784
    )


def test_parameters_start_within_pytorchs_bounds():
    params = jax.jit(NETWORKS["conv"].init)(jax.random.key(0))
    fan_in = {"down_1": 16, "down_2": 1024, "mean": 6272, "log_variance": 6272, "expand": 20,
              "up_1": 1024, "up_2": 16}  # fmt: skip
    for layer, fan in fan_in.items():
        bound = fan**-0.5
        kernel = np.asarray(params[layer]["kernel"])
        assert 0.9 * bound < np.abs(kernel).max() <= bound
        deviation = kernel.std() / (bound / 3**0.5)  # of a uniform distribution
        assert abs(deviation - 1) < 4 * (0.2 / kernel.size) ** 0.5 + 1e-3


def test_the_divergence_is_the_mean_of_log_ratios():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(0, 1, (3, 4)), rng.normal(0, 0.7, (3, 4))
    draws = mean + np.exp(0.5 * log_variance) * rng.standard_normal((40_000, 3, 4))
    log_q = -0.5 * ((draws - mean) ** 2 / np.exp(log_variance) + log_variance).sum(axis=-1)
    log_p = -0.5 * (draws**2).sum(axis=-1)
    ratios = log_q - log_p
    expected, error = ratios.mean(axis=0), ratios.std(axis=0) / len(draws) ** 0.5
    got = networks.kl(jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32))
    assert np.all(np.abs(got - expected) < 4 * error)


def test_reconstruction_losses_by_their_definitions():
    network = networks.perceptron(side=4, hidden=5, latent=2)
    params = jax.tree.map(lambda x: 3.0 * x, network.init(jax.random.key(1)))
    images = np.random.default_rng(0).random((6, 16)).astype(np.float32)
    noise = jax.random.normal(jax.random.key(2), (6, 2))
    mean, log_variance = network.encode(params, images)
    codes = mean + jnp.exp(0.5 * log_variance) * noise
    means = 1.0 / (1.0 + np.exp(-np.asarray(network.decode(params, codes), float)))
    cross = -(images * np.log(means) + (1 - images) * np.log1p(-means)).sum(axis=1)
    squares = 0.5 * ((images - means) ** 2).sum(axis=1)
    for kind, expected in (("bernoulli", cross), ("gaussian", squares)):
        got = networks.terms(network, params, noise, jnp.asarray(images), kind).reconstruction
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_generated_pixels_are_means_or_draws_of_them():
    network = networks.perceptron(side=4, hidden=5, latent=2)
    params = jax.tree.map(lambda x: 5.0 * x, network.init(jax.random.key(1)))
    codes = jax.random.normal(jax.random.key(3), (4000, 2))
    means = networks.means(network, params, codes)
    drawn = networks.pixels(means, jax.random.key(4))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    error = np.sqrt(np.sum(means * (1 - means), axis=0)) / 4000  # of the draws' mean, given means
    assert np.all(np.abs(drawn.mean(axis=0) - means.mean(axis=0)) < 4 * error)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: networks.convolutional(side=10),
            "^model: expected images of a side .* got 10 pixels$",
        ),
        (lambda: networks.perceptron(hidden=0), "^hidden: expected an integer >= 1, got 0$"),
        (lambda: networks.perceptron(latent=0), "^latent: expected an integer >= 1, got 0$"),
    ],
)
def test_models_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
