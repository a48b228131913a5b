"""Conformance of every family under every regime; a new one of either is one row."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.engine import chain, fused, planning, shapes
from collapse_jax.families.gmm.em import Fitting
from collapse_jax.families.vae.training import VaeTraining
from tests.families.language import small
from tests.runs import assert_same_bits
from tests.toys import walker

TWO_ON_A_LINE = {"weights": [1, 1], "means": [[-2], [2]], "covariances": [[[1]], [[1]]]}
MODELS = tempfile.TemporaryDirectory()
SMALL_VAE = {
    "hidden": 8, "latent": 2, "training": VaeTraining(epochs=2, batch=5), "test_images": 12,
    "pictures": 2,
}  # fmt: skip
FAMILIES = {
    "gaussian exact": families.gaussian(),
    "gaussian rows": families.gaussian(sampler="rows"),
    "gaussian exact 3-D": families.gaussian(dim=3),
    "gaussian rows 3-D": families.gaussian(dim=3, sampler="rows", estimator="ml"),
    "discrete": families.discrete([0.4, 0.3, 0.2, 0.06, 0.04]),
    "gmm": families.gmm(truth=TWO_ON_A_LINE, fitting=Fitting(max_iterations=20)),
    "kde": families.kde(24),
    "kde 2-D": families.kde(24, dim=2, bandwidth=0.3),
    "regression": families.regression(4),
    "regression, same design": families.regression(4, design="same"),
    "vae": families.vae(synthetic="fixed", **SMALL_VAE),
    "vae, live images": families.vae(**SMALL_VAE),
    "language": small.family(Path(MODELS.name), blocks=40, prompt="", kept_blocks=20),
    "walker": walker(cut=False),
    "walker in steps": walker(cut=True),
}
M = 12
REGIMES = {
    "replace": regimes.replace(M),
    "replace, schedule": regimes.replace([M, 2 * M, M + 4]),
    "preserve": regimes.preserve(M, 0.25),
    "preserve, fixed": regimes.preserve(M, 0.25, fixed=True),
    "fresh": regimes.fresh(M, 0.25),
    "fresh, independent": regimes.fresh(M, 0.25, independent=True),
    "accumulate": regimes.accumulate(M),
    "subsample": regimes.subsample(M),
    "mixture": regimes.mixture(M, 0.5, 0.25, 0.25),
    "mixture without original": regimes.mixture(M, 0.5, 0.5, 0.0),
}
# Rejected combinations: moments have no subsamples and no random number of members; a regression's
# same design is labelled as a whole; live images cannot be kept.
REFUSED = {
    (family, regime)
    for family in ("gaussian exact", "gaussian exact 3-D")
    for regime in (
        "preserve",
        "fresh, independent",
        "subsample",
        "mixture",
        "mixture without original",
    )
} | {
    (family, regime)
    for family in ("regression", "regression, same design")
    for regime in ("preserve", "subsample", "mixture", "mixture without original")
} | {
    ("regression, same design", regime)
    for regime in ("replace, schedule", "preserve, fixed", "fresh", "fresh, independent")
} | {
    ("vae, live images", regime)
    for regime in ("accumulate", "subsample", "mixture", "mixture without original")
}  # fmt: skip
# Compiling takes long, so these and some regimes are omitted by default.
LONG = (
    "gaussian exact 3-D", "gaussian rows 3-D", "kde 2-D", "regression, same design", "vae",
    "vae, live images", "gmm", "regression", "walker", "language",
)  # fmt: skip
# More dimensions, or another form of the same data, add nothing under the other regimes; language
# models compile for half a minute per pair, and run under these only.
FEW = ("replace", "preserve", "accumulate", "subsample")
UNDER_FEW = ("gaussian exact 3-D", "gaussian rows 3-D", "kde 2-D", "language")
QUICK = [
    *((family, "replace") for family in FAMILIES if family not in LONG),
    ("gaussian rows", "accumulate"),
]
MATRIX = [
    pytest.param(family, regime, id=f"{family} x {regime}",
                 marks=[] if (family, regime) in QUICK else [pytest.mark.slow])
    for family in FAMILIES
    for regime in (FEW if family in UNDER_FEW else REGIMES)
    if (family, regime) != ("language", "accumulate")  # test_language.py has it
]  # fmt: skip

# One of each kind of pool by default: compiling dominates.
OFTEN = [
    pytest.param(name, marks=[] if name == "discrete" else [pytest.mark.slow]) for name in FAMILIES
]
CHAINS, GENERATIONS = 7, 5
SETTINGS = {"chains": CHAINS, "generations": GENERATIONS, "chains_per_batch": 4, "seed": 5}


def run(family, regime, devices=1, **settings):
    settings = {**SETTINGS, **settings, "devices": jax.devices()[:devices]}
    return collapse_jax.run(family, regime, **settings).history


@pytest.mark.multidevice
@pytest.mark.parametrize(("family_name", "regime_name"), MATRIX)
def test_promises(family_name, regime_name):
    family, regime = FAMILIES[family_name], REGIMES[regime_name]
    if (family_name, regime_name) in REFUSED:
        with pytest.raises(ValueError, match=f"^regime: {regime.name} .* cannot"):
            planning.check_pair(family, regime, GENERATIONS)
        return
    history = run(family, regime)
    for name, metric in family.metrics.items():
        dims = ("chain", "generation", *metric.dims)
        assert history[name].dims == dims
        assert history[name].dtype == np.float32
        assert history[name].attrs["long_name"]
    assert history.sizes["chain"] == CHAINS
    assert bool(history["finite"].all())
    # Results are the same bits however the run is split or distributed; slow families are
    # distributed under one regime only.
    devices = 1 if family.name in ("vae", "language") and regime_name != "replace" else 2
    assert_same_bits(history, run(family, regime, devices=devices, checkpoint_every=3))


@pytest.mark.slow
@pytest.mark.multidevice
def test_same_bits_on_four_devices():
    family, regime = FAMILIES["gaussian exact"], REGIMES["replace"]
    one, four = (run(family, regime, chains=30, devices=devices) for devices in (1, 4))
    assert_same_bits(one, four)
    values = four["log_variance"].values[:, 0]
    assert np.unique(values).size == values.size  # no two chains share their random numbers


@pytest.mark.parametrize("family_name", OFTEN)
def test_more_chains_or_generations_change_nothing(family_name):
    family, regime = FAMILIES[family_name], REGIMES["replace"]
    longer = run(family, regime, chains=11, generations=GENERATIONS + 2)
    shorter = run(family, regime)
    part = longer.isel(chain=slice(CHAINS), generation=slice(GENERATIONS))
    for name in family.metrics:
        np.testing.assert_array_equal(part[name].values, shorter[name].values)


def prepared(family, regime, number=1):
    """The pieces of one later generation, and states of 4 chains after generation 0."""
    root = jax.random.key(0, impl="philox4x32")
    keys = jax.vmap(lambda i: chain.chain_key(root, i))(jnp.arange(4))
    first = jax.vmap(lambda key: chain.generation(family, regime, regime.sizes(0), key, 0, None)[0])
    shape = shapes.shape_of(family, regime, number)
    requests = jnp.array(shapes.counts(regime.sizes(number)), jnp.int32)
    state = jax.vmap(lambda state: shapes.with_capacity(family, state, shape))(first(keys))
    return keys, state, shape, requests


@pytest.mark.parametrize(
    "family_name",
    # Those in steps have theirs: see test_language.py.
    [param for param in OFTEN if "steps" not in param.values[0] and param.values[0] != "language"],
)
def test_a_spoilt_chain_leaves_the_others_alone(family_name):
    family, regime = FAMILIES[family_name], REGIMES["replace"]
    keys, state, shape, requests = prepared(family, regime)

    @jax.jit
    def step(state):
        sizes = shapes.fill(shape, requests)
        return jax.vmap(lambda key, state: chain.generation(family, regime, sizes, key, 1, state))(
            keys, state
        )

    def spoil(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.at[2].set(jnp.nan)

    _, clean, clean_finite = step(state)
    _, spoilt, spoilt_finite = step(state._replace(params=jax.tree.map(spoil, state.params)))
    others = np.array([0, 1, 3])
    for name in clean:
        np.testing.assert_array_equal(clean[name][others], spoilt[name][others])
    assert np.all(clean_finite)
    if jax.tree.leaves(jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), state.params))[
        0
    ]:
        assert spoilt_finite.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    "family_name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in FAMILIES],
)
def test_every_step_exports(family_name):
    family, regime = FAMILIES[family_name], REGIMES["replace"]
    keys, state, shape, requests = prepared(family, regime)

    def step(key_data, state, requests):
        key = jax.random.wrap_key_data(key_data, impl="philox4x32")
        sizes = shapes.fill(shape, requests)
        return chain.generation(family, regime, sizes, key, 1, state)

    one = jax.tree.map(lambda x: x[0], state)
    exported = export.export(jax.jit(step), platforms=("tpu", "cuda", "cpu"))(
        jax.random.key_data(keys[0]), one, requests
    )
    assert set(exported.platforms) == {"tpu", "cuda", "cpu"}


@pytest.mark.parametrize(
    "regime_name",
    ["replace", pytest.param("accumulate", marks=pytest.mark.slow), "replace, schedule"],
)
def test_one_compile_per_stage_and_capacity(regime_name, monkeypatch):
    built = []
    for stage in ("first_program", "later_program"):
        original = getattr(fused, stage)

        def counting(*args, original=original, stage=stage, **settings):
            program = original(*args, **settings)
            traces = []

            def call(*call_args):
                before = program._cache_size()
                result = program(*call_args)
                traces.append(program._cache_size() - before)
                return result

            built.append((stage, traces))
            return call

        monkeypatch.setattr(fused, stage, counting)
    regime = REGIMES[regime_name]
    family = families.gaussian(sampler="rows")
    run(family, regime, generations=14, checkpoint_every=5)
    capacities = {shapes.shape_of(family, regime, g) for g in range(1, 14)}
    later = [traces for stage, traces in built if stage == "later_program"]
    assert len(later) == len(capacities)
    assert all(sum(traces) == 1 for _, traces in built)
    assert max(map(len, later)) > 1  # programs are called again without a second trace


def test_wrong_metrics_are_named():
    family = families.gaussian()
    broken = family._replace(measure=lambda *args: {"mean": jnp.float32(0)})
    with pytest.raises(ValueError, match="expected metrics"):
        run(broken, REGIMES["replace"])


def test_importing_families_loads_neither_matplotlib_nor_xarray():
    code = (
        "import sys; from collapse_jax import families\n"
        "for name in families.__all__: getattr(families, name)\n"
        "assert not {'matplotlib', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_is_json():
    for family in FAMILIES.values():
        json.dumps(family.config)
    for regime in REGIMES.values():
        json.dumps(regime.config)
