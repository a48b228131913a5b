"""Training in pieces against a plain loop, inputs of fits, and chains of autoencoders."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import collapse_jax
from collapse_jax import families, pools, regimes
from collapse_jax.data.images import load_images
from collapse_jax.engine import chain, planning
from collapse_jax.families.vae import classifier, measures, networks, training
from collapse_jax.families.vae.training import VaeTraining
from collapse_jax.family import Request, Training, run_to_end
from collapse_jax.saving.checkpoint import DiskStore
from tests.runs import assert_same_bits

NETWORK = networks.perceptron(side=4, hidden=6, latent=2)
SMALL = {
    "hidden": 8, "latent": 2, "training": VaeTraining(epochs=2, batch=50), "test_images": 40,
    "pictures": 4,
}  # fmt: skip


def pool_of(count, capacity, live=0, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (capacity, 16), np.uint8)
    fixed = pools.Rows(jnp.asarray(values), count)
    return pools.LiveRows(fixed, jnp.arange(live) < live)


def fit(settings, pool, teacher=None, params=None):
    steps = training.steps(NETWORK, settings)
    params = networks.zeros(NETWORK) if params is None else params
    key = jax.random.key(3)
    task = lambda key: run_to_end(steps, (key, params, Training(pool, teacher)))  # noqa: E731
    return jax.jit(task)(key)


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
def test_training_is_that_of_a_plain_loop(optimizer):
    """Three epochs of 23 images in minibatches of 8, the last of which has 7."""
    settings = VaeTraining(3, 8, 1e-3, 0.01, optimizer, kl_weight=0.7)
    pool = pool_of(23, 30)
    params, info = fit(settings, pool)

    k_init, k_orders, k_steps = jax.random.split(jax.random.key(3), 3)
    expected = NETWORK.init(k_init)
    rule = training.OPTIMIZERS[optimizer](1e-3)
    moments = rule.init(expected)
    images = pool.fixed.values.astype(jnp.float32) / 255

    @jax.jit
    def step_by_hand(params, moments, noise, images):
        def loss(params):
            parts = networks.terms(NETWORK, params, noise[: len(images)], images, "bernoulli")
            penalty = 0.5 * 0.01 * optax.tree.norm(params, squared=True)
            value = jnp.sum(parts.reconstruction + 0.7 * parts.kl)
            return value + penalty, value

        gradient, value = jax.grad(loss, has_aux=True)(params)
        updates, moments = rule.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    step = 0
    for epoch in range(3):
        order = training._order(jax.random.fold_in(k_orders, epoch), pool, jnp.int32(23), 8)
        assert sorted(order[:23].tolist()) == list(range(23))
        total = 0.0
        for start in range(0, 23, 8):
            chosen = order[start : min(start + 8, 23)]
            k_normals, _ = jax.random.split(jax.random.fold_in(k_steps, step))
            noise = jax.random.normal(k_normals, (2, 8, 2))[0]
            expected, moments, value = step_by_hand(expected, moments, noise, images[chosen])
            total, step = total + float(value), step + 1
    for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(info["train_loss"], total / 23, rtol=1e-5)


def test_orders_are_new_each_epoch_and_even():
    pool = pool_of(7, 10)
    draw = jax.jit(jax.vmap(lambda key: training._order(key, pool, jnp.int32(7), 4)))
    orders = np.asarray(draw(jax.random.split(jax.random.key(0), 7000)))[:, :7]
    counts = np.stack([np.bincount(orders[:, place], minlength=7) for place in range(7)])
    chi_squared = ((counts - 1000) ** 2 / 1000).sum(axis=1)
    assert np.all(chi_squared < 22.5)  # 6 degrees of freedom: exceeded with probability 0.001


def test_a_minibatch_is_of_fixed_images_and_of_the_teachers():
    teacher = jax.tree.map(lambda x: 5 * x, NETWORK.init(jax.random.key(0)))
    pool = pool_of(3, 5, live=4)
    begin = training.steps(NETWORK, VaeTraining(batch=4)).begin
    carry = begin(jax.random.key(1), networks.zeros(NETWORK), Training(pool, teacher))
    chosen, codes = jnp.array([0, 2, 3, 6]), jax.random.normal(jax.random.key(2), (4, 2))
    images = training._images(NETWORK, carry, chosen, codes, None)
    np.testing.assert_allclose(images[:2], pool.fixed.values[jnp.array([0, 2])] / 255, rtol=1e-6)
    decoded = networks.means(NETWORK, teacher, codes)
    np.testing.assert_allclose(images[2:], decoded[2:], rtol=1e-6)


def test_live_images_come_from_the_teacher_alone():
    """A teacher that generates one image, which its student learns."""
    teacher = networks.zeros(NETWORK)
    bright = jnp.where(jnp.arange(16) % 3 == 0, 4.0, -4.0)
    teacher["logits"]["bias"] = bright
    settings = VaeTraining(60, 20, 0.02, 0.0)
    pool = pools.LiveRows(pools.Rows(jnp.zeros((0, 16), jnp.uint8), 0), jnp.ones(100, bool))
    params, _ = fit(settings, pool, teacher)
    images = networks.means(NETWORK, params, jnp.zeros((1, 2)))
    np.testing.assert_allclose(images[0], jax.nn.sigmoid(bright), atol=0.05)


def test_warm_starts_go_on_from_the_model_before():
    settings = VaeTraining(1, 10, 1e-12, 0.0, start="warm")
    before = NETWORK.init(jax.random.key(9))
    warm, _ = fit(settings, pool_of(20, 20), teacher=before, params=before)
    fresh, _ = fit(settings._replace(start="fresh"), pool_of(20, 20), teacher=before, params=before)
    np.testing.assert_allclose(warm["logits"]["kernel"], before["logits"]["kernel"], atol=1e-6)
    assert not np.allclose(fresh["logits"]["kernel"], before["logits"]["kernel"], atol=1e-2)


def test_bytes_are_kept_exactly():
    values = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(training.to_bytes(training.from_bytes(values)), values)


def test_pieces_are_bounded_and_stop_at_an_epochs_end(monkeypatch):
    monkeypatch.setattr(training, "_PIECE", 3 * networks.multiply_adds(NETWORK) * 8 * 2.2)
    steps = training.steps(NETWORK, VaeTraining(epochs=2, batch=8))
    begin = jax.jit(
        lambda key: steps.begin(key, networks.zeros(NETWORK), Training(pool_of(37, 40)))
    )
    carry, advance, ends = begin(jax.random.key(0)), jax.jit(steps.advance), []
    while not steps.done(carry):
        carry = advance(carry)
        ends.append(int(carry.step))
    assert ends == [2, 4, 5, 7, 9, 10]  # an epoch is 5 minibatches, a piece at most 2


def test_the_classifier_tells_digits():
    judge, right = classifier.train("digits", None)
    assert right > 0.93
    images = load_images("digits")
    test = jnp.asarray(images.test / np.float32(255))
    shares = classifier.shares(judge, test)
    counts = np.bincount(images.test_labels) / len(images.test)
    np.testing.assert_allclose(shares, counts, atol=0.02)


def test_the_latent_density_integrates_to_the_share_within_reach():
    points = jnp.asarray(np.random.default_rng(0).normal(0, 2, (4000, 5)), jnp.float32)
    density = measures._density(points)
    inside = np.mean(np.abs(points) <= 3)
    np.testing.assert_allclose(np.sum(density) * 0.05, inside, rtol=1e-3)


@pytest.fixture(scope="module")
def measured():
    """A small autoencoder of digits, its anchor, and all its metrics."""
    network = networks.perceptron(8, 8, 2)
    params = jax.tree.map(lambda x: 2.0 * x, network.init(jax.random.key(0)))
    how = measures.ImageMeasures(network, load_images("digits").test, 4, False, "bernoulli", 0.1)
    judge = classifier.train("digits", None)[0]
    anchor = jax.jit(lambda key, params: how.anchor(key, params, judge))
    measure = jax.jit(how.measure)
    anchored = anchor(jax.random.key(1), params)
    return how, params, anchored, measure(jax.random.key(2), params, anchored), measure


def test_generation_0s_tails_hold_their_share(measured):
    how, params, anchor, found, _ = measured
    images = how.generate(jax.random.key(1), params, 360)
    points = network_mean(how, params, images)
    outside = (points < anchor.lower) | (points > anchor.upper)
    np.testing.assert_allclose(np.mean(outside), 0.1, atol=0.01)
    error = (0.1 * 0.9 / 360) ** 0.5  # of each of two independent sets, by dimension
    assert abs(found["tail_mass"] - 0.1) < 4 * error
    assert families.vae(tail=0.1, **SMALL).thresholds["early"].level == pytest.approx(0.05)


def network_mean(how, params, images):
    return np.asarray(how.model.encode(params, images)[0])


def test_measures_by_their_definitions(measured):
    how, params, anchor, found, _ = measured
    k_test, k_generate = jax.random.split(jax.random.key(2))
    images = np.asarray(how.generate(k_generate, params, 360), float)
    points = network_mean(how, params, jnp.asarray(images, jnp.float32)).astype(float)
    np.testing.assert_allclose(found["latent_sd"], points.std(), rtol=1e-4)
    np.testing.assert_allclose(found["pixel_variance"], images.var(axis=0).mean(), rtol=1e-4)
    np.testing.assert_allclose(np.exp(found["log_variance"]), found["pixel_variance"], rtol=1e-4)
    np.testing.assert_allclose(found["picture"], images[:4], rtol=1e-5)
    outside = (points < anchor.lower) | (points > anchor.upper)
    np.testing.assert_allclose(found["tail_mass"], outside.mean(), atol=2e-3)
    edges = measures.BIN_EDGES
    expected = np.histogram(points, edges)[0] / (points.size * (edges[1] - edges[0]))
    np.testing.assert_allclose(np.cumsum(found["latent_density"] - expected), 0, atol=0.1)

    (to_hidden, hidden_bias), (to_output, output_bias) = anchor.classifier
    hidden = np.maximum(images @ np.asarray(to_hidden, float) + hidden_bias, 0)
    chosen = np.argmax(hidden @ np.asarray(to_output) + output_bias, axis=1)
    shares = np.bincount(chosen, minlength=10) / 360
    np.testing.assert_allclose(found["class_share"], shares, atol=2 / 360)
    kept = shares[shares > 0]
    np.testing.assert_allclose(found["class_entropy"], -(kept * np.log(kept)).sum(), atol=0.02)

    test = how.test / np.float32(255)
    noise = jax.random.normal(k_test, (360, 2))
    mean, log_variance = (np.asarray(x, float) for x in how.model.encode(params, test))
    codes = mean + np.exp(0.5 * log_variance) * noise
    logits = np.asarray(how.model.decode(params, jnp.asarray(codes, jnp.float32)), float)
    loss = (np.logaddexp(0, logits) - test * logits).sum(axis=1).mean()
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1).mean()
    np.testing.assert_allclose(found["test_reconstruction"], loss, rtol=1e-4)
    np.testing.assert_allclose(found["test_kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(found["test_elbo"], -(loss + kl), rtol=1e-4)


def test_a_model_that_diverged_has_no_classes_and_no_tails(measured):
    _, params, anchor, _, measure = measured
    broken = measure(jax.random.key(2), jax.tree.map(lambda x: jnp.nan * x, params), anchor)
    for name in ("tail_mass", "class_share", "class_entropy", "pixel_variance"):
        assert np.all(np.isnan(broken[name])), name


def test_variance_is_of_what_a_decoder_knows_not_of_its_draws(measured):
    how, params, *_ = measured
    drawn = how._replace(draws=True)
    means, images = jax.jit(lambda key: drawn._generate(key, params, 360))(jax.random.key(0))
    assert set(np.unique(images)) == {0.0, 1.0}
    alone = how.generate(jax.random.key(0), params, 360)  # by another program
    np.testing.assert_allclose(means, alone, rtol=0, atol=1e-6)


def test_originals_are_distinct_training_images():
    family = families.vae(**SMALL)
    train = {row.tobytes() for row in load_images("digits").train}
    pool = jax.jit(lambda key: family.original(key, Request(200, 200)))(jax.random.key(0))
    rows = [row.tobytes() for row in np.asarray(pool.fixed.values)]
    assert set(rows) <= train
    assert len(set(rows)) == 200
    whole = family.original(jax.random.key(0), Request(1437, 1437))
    np.testing.assert_array_equal(whole.fixed.values, load_images("digits").train)


def test_a_fixed_part_of_a_finite_original_is_part_of_it():
    """The paper's 10 % come from the images that generation 0 was trained on."""
    family, regime = families.vae(**SMALL), regimes.preserve(1437, 0.1, fixed=True)
    (draw, *_) = chain.stages(family, regime, regime.sizes(0), first=True)
    _, data, fixed = jax.jit(draw.task)(jax.random.key(0), jax.random.key(1))
    train = sorted(row.tobytes() for row in load_images("digits").train)
    assert sorted(row.tobytes() for row in np.asarray(data.fixed.values)) == train
    kept = [row.tobytes() for row in np.asarray(fixed.fixed.values)]
    assert len(kept) == len(set(kept)) == 144
    assert set(kept) <= set(train)


def test_batches_of_the_papers_size_hold_all_chains():
    family, regime = families.vae(**SMALL), regimes.replace(60_000)
    shapes = (jax.ShapeDtypeStruct((1_000_000,), np.float32), {})
    assert planning.batch_size(shapes, family, regime, 5, 1) == 5


@pytest.mark.slow
@pytest.mark.parametrize("synthetic", ["live", "fixed"])
def test_killed_inside_a_fit_it_goes_on_to_the_same_bits(synthetic, tmp_path, monkeypatch):
    family, regime = families.vae(synthetic=synthetic, **SMALL), regimes.preserve(150, 0.1)
    settings = {"chains": 3, "chains_per_batch": 2, "generations": 3, "seed": 1}
    expected = collapse_jax.run(family, regime, **settings).history
    commit, positions = DiskStore.commit, []

    class Crash(Exception):
        pass

    def crashing(store, position, tree):
        commit(store, position, tree)
        positions.append(dict(position))
        fits = [p for p in positions if p.get("begun") and p["done"] == 1]
        if len(fits) == 2:
            raise Crash

    workdir = str(tmp_path)
    monkeypatch.setattr(DiskStore, "commit", crashing)
    with pytest.raises(Crash):
        collapse_jax.run(family, regime, **settings, workdir=workdir, checkpoint_seconds=0)
    monkeypatch.setattr(DiskStore, "commit", commit)
    resumed = collapse_jax.run(family, regime, **settings, workdir=workdir).history
    assert_same_bits(resumed, expected)


@pytest.mark.slow
def test_a_loss_that_diverges_is_flagged():
    family = families.vae(
        **{**SMALL, "training": VaeTraining(2, 50, optimizer="sgd", learning_rate=1e6)}
    )
    history = collapse_jax.run(family, regimes.replace(150), chains=2, generations=2).history
    assert not bool(history["finite"].any())
    assert history["nonfinite"].values.tolist() == [0, 0]
    assert history["early_collapse"].values.tolist() == [-1, -1]
    assert history["late_collapse"].values.tolist() == [-1, -1]


@pytest.mark.slow
def test_with_original_images_the_latent_space_is_kept():
    family = families.vae(
        hidden=64, latent=8, training=VaeTraining(40, 50), test_images=200, pictures=0
    )
    runs = {
        regime.name: collapse_jax.run(family, regime, chains=3, generations=4).history
        for regime in (regimes.replace(1000), regimes.preserve(1000, 0.5))
    }
    last = {name: run["latent_sd"].isel(generation=-1).values for name, run in runs.items()}
    assert np.all(last["preserve"] > 1.5 * last["replace"])
    replaced = runs["replace"]["latent_sd"]
    assert np.all(replaced.isel(generation=-1) < 0.7 * replaced.isel(generation=0))
