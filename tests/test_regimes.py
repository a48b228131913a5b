"""Regimes: hand-counted sizes, provenance of every row of a training set, and errors."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import pools, regimes
from collapse_jax.family import Request
from collapse_jax.regimes import NOTHING, Parts, Sizes

ROWS = pools.rows(row_bytes=12)
M = 12
SOURCES = ("synthetic", "fresh", "reused", "previous")
MAKERS = {
    "replace": regimes.replace,
    "preserve": lambda samples: regimes.preserve(samples, 0.25),
    "preserve, fixed": lambda samples: regimes.preserve(samples, 0.25, fixed=True),
    "preserve, nothing": lambda samples: regimes.preserve(samples, 0.01),
    "preserve, nothing, fixed": lambda samples: regimes.preserve(samples, 0.01, fixed=True),
    "fresh": lambda samples: regimes.fresh(samples, 0.25),
    "fresh, nothing": lambda samples: regimes.fresh(samples, 0.01),
    "fresh, all": lambda samples: regimes.fresh(samples, 1.0),
    "fresh, independent": lambda samples: regimes.fresh(samples, 0.25, independent=True),
    "accumulate": regimes.accumulate,
    "subsample": regimes.subsample,
    "mixture": lambda samples: regimes.mixture(samples, 0.5, 0.25, 0.25),
    "mixture without synthetic": lambda samples: regimes.mixture(samples, 0.0, 0.5, 0.5),
    "mixture without original": lambda samples: regimes.mixture(samples, 0.5, 0.5, 0.0),
}
SAMPLES = {"constant": M, "list": [M, 24, 12, 20], "function": lambda g: M + 3 * (g % 4)}
SIZE = {
    "constant": lambda g: M,
    "list": lambda g: [M, 24, 12, 20][min(g, 3)],
    "function": lambda g: M + 3 * (g % 4),
}


def counts(sizes):
    return {name: getattr(sizes, name).count for name in (*SOURCES, "training")}


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("replace", (12, 0, 0, 0, 12)),
        ("preserve", (9, 0, 3, 0, 12)),
        ("preserve, fixed", (9, 0, 3, 0, 12)),
        ("preserve, nothing", (12, 0, 0, 0, 12)),
        ("fresh", (9, 3, 0, 0, 12)),
        ("fresh, all", (0, 12, 0, 0, 12)),
        ("fresh, independent", (12, 12, 0, 0, 12)),  # at most; see `realise`
        ("mixture", (6, 0, 3, 3, 12)),
        ("mixture without synthetic", (0, 0, 6, 6, 12)),
    ],
)
def test_constant_sizes(name, later):
    regime = MAKERS[name](M)
    assert regime.constant_samples
    first = counts(regime.sizes(0))
    assert first["fresh"] + first["reused"] == first["training"] == M
    assert first["synthetic"] == first["previous"] == 0
    for generation in (1, 2, 7, 1000):
        sizes = regime.sizes(generation)
        assert tuple(counts(sizes).values()) == later
        assert sizes.capacity == M
        for source in (*SOURCES, "training"):  # no capacity is wasted
            request = getattr(sizes, source)
            assert request.capacity == request.count


@pytest.mark.parametrize("name", ["accumulate", "subsample"])
@pytest.mark.parametrize("samples", SAMPLES)
def test_accumulated_data_is_the_sum_of_all_sizes(name, samples):
    regime, size = MAKERS[name](SAMPLES[samples]), SIZE[samples]
    for generation in (0, 1, 2, 3, 4, 11):
        sizes = regime.sizes(generation)
        total = sum(size(g) for g in range(generation + 1))
        if generation == 0:
            assert sizes.fresh.count == M
            assert (sizes.synthetic, sizes.previous) == (NOTHING, NOTHING)
        else:
            assert sizes.synthetic.count == size(generation)
            assert sizes.previous.count == total - size(generation)
            assert sizes.fresh == NOTHING
        assert sizes.training.count == (total if name == "accumulate" else size(generation))
        assert sizes.reused == NOTHING
        assert total <= sizes.capacity < 2 * max(total, M)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "mixture without synthetic"])
@pytest.mark.parametrize("samples", SAMPLES)
def test_schedules_fill_their_training_sets(name, samples):
    regime, size = MAKERS[name](SAMPLES[samples]), SIZE[samples]
    assert regime.constant_samples == (samples == "constant")
    assert regime.sizes(5) == regime.sizes(5)
    for generation in range(9):
        sizes = regime.sizes(generation)
        have = counts(sizes)
        whole = size(generation)
        if name == "accumulate":
            whole = sum(size(g) for g in range(generation + 1))
        assert have["training"] == whole
        if name == "fresh, independent" and generation:
            assert have["synthetic"] == have["fresh"] == whole
        elif name != "subsample":
            assert sum(have[source] for source in SOURCES) == whole
        if name.startswith("preserve, nothing"):
            assert have["reused"] == 0
        elif name == "preserve" and generation:
            assert abs(have["reused"] - 0.25 * whole) <= 0.5


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "mixture without synthetic"])
@pytest.mark.parametrize("samples", SAMPLES)
def test_capacities_are_few_and_hold_their_counts(name, samples):
    regime = MAKERS[name](SAMPLES[samples])
    for generation in range(9):
        sizes = regime.sizes(generation)
        for source in (*SOURCES, "training"):
            request = getattr(sizes, source)
            assert isinstance(request, Request)
            assert all(type(entry) is int for entry in request)
            assert request.count <= request.capacity
            if request.count == 0:
                assert request == NOTHING
            elif samples != "constant":
                doublings = math.log2(request.capacity / M)
                assert doublings == int(doublings) >= 0
        assert sizes.training.capacity <= sizes.capacity
        doublings = math.log2(sizes.capacity / M)
        assert doublings == int(doublings) >= 0


@pytest.mark.parametrize(
    ("base", "count", "capacity"),
    [(100, 1, 100), (100, 100, 100), (100, 101, 200), (100, 401, 800), (3, 2**31, 3 * 2**30)],
)
def test_room_is_the_base_times_a_power_of_two(base, count, capacity):
    assert regimes.doubled(base, count) == capacity


# A row states its origin: [source, generation, number].
SYNTHETIC, FRESH, FIXED = 1.0, 2.0, 3.0


def rows_of(source, generation, request):
    values = np.full((request.capacity, 3), np.nan, np.float32)
    values[: int(request.count)] = [(source, generation, i) for i in range(int(request.count))]
    return pools.Rows(jnp.asarray(values), request.count)


def live(pool):
    """The live rows of a pool, as a list of tuples."""
    values = np.asarray(pool.values)[: int(pool.count)]
    assert len(values) == int(pool.count)
    assert not np.isnan(values).any()
    return list(map(tuple, values.tolist()))


def training_sets(regime, generations):
    """(sizes, live training rows) of each generation, assembled as by the engine."""
    kept = original = None
    for generation in range(generations):
        key = jax.random.fold_in(jax.random.key(0, impl="philox4x32"), generation)
        sizes = regime.sizes(generation)
        if generation == 0:
            training = original = rows_of(FRESH, 0, sizes.fresh)
            if sizes.reused != NOTHING:
                original = rows_of(FIXED, 0, sizes.reused)
                training = ROWS.merge(training, original, sizes.capacity)
            kept = training if regime.remembers else None
            original = original if regime.keeps_original else None
        else:
            if regime.realise is not None:
                sizes = regime.realise(jax.random.fold_in(key, 1), sizes)
            synthetic = fresh = None
            if sizes.synthetic != NOTHING:
                synthetic = rows_of(SYNTHETIC, generation, sizes.synthetic)
            if sizes.fresh != NOTHING:
                fresh = rows_of(FRESH, generation, sizes.fresh)
            if kept is not None:
                kept = ROWS.grow(kept, sizes.capacity)
            parts = Parts(synthetic, fresh, kept, original)
            training, kept = regime.assemble(key, ROWS, parts, sizes)
            assert (kept is not None) == regime.remembers
        yield sizes, live(training)


PROVENANCES = [
    pytest.param(name, samples, id=f"{name}, {samples}")
    for name in MAKERS
    for samples in ("constant", "list")
    if (name, samples) != ("mixture without synthetic", "list")  # draws more than available
]


@pytest.mark.parametrize(("name", "samples"), PROVENANCES)
def test_training_sets_hold_what_their_sizes_say(name, samples):
    history = []
    for generation, (sizes, rows) in enumerate(training_sets(MAKERS[name](SAMPLES[samples]), 4)):
        have = {key: int(count) for key, count in counts(sizes).items()}
        assert len(rows) == have["training"]
        if not name.startswith("mixture"):  # parts from D_0 may overlap
            assert len(set(rows)) == len(rows)
        history.append(rows)
        if generation == 0:
            continue
        synthetic = [row for row in rows if row[:2] == (SYNTHETIC, generation)]
        fresh = [row for row in rows if row[:2] == (FRESH, generation)]
        older = [row for row in rows if row not in synthetic and row not in fresh]
        if name == "accumulate":
            new = {(SYNTHETIC, generation, i) for i in range(have["synthetic"])}
            assert set(rows) == new.union(history[generation - 1])
        elif name == "subsample":
            assert {row[1] for row in rows} <= set(range(generation + 1))
        else:
            assert len(set(synthetic)) == have["synthetic"]
            assert len(set(fresh)) == have["fresh"]
            assert len(older) == have["reused"] + have["previous"]
        if name == "preserve":
            assert set(older) <= set(history[0])
        if name == "preserve, fixed":
            assert set(older) == {row for row in history[0] if row[0] == FIXED}
        if name.startswith("mixture"):
            assert set(older) <= {*history[0], *history[generation - 1]}
            reused = sum(row in history[0] for row in older)
            assert reused >= have["reused"]


def test_a_mixture_takes_distinct_rows_of_either_source():
    # From generation 2 on, few rows of the previous set are from D_0: count the others.
    *_, (_, before), (sizes, rows) = training_sets(regimes.mixture(100, 0.5, 0.5, 0.0), 4)
    older = [row for row in rows if row[:2] != (SYNTHETIC, 3)]
    assert len(older) == sizes.previous.count == 50
    assert all(older.count(row) <= before.count(row) for row in older)


def test_a_subsample_is_drawn_from_all_generations_anew():
    regime = regimes.subsample(200)
    *_, (_, rows) = training_sets(regime, 4)
    by_generation = np.bincount([int(generation) for _, generation, _ in rows], minlength=4)
    # Hypergeometric: 200 of 800, 200 of each generation.
    bound = 4 * math.sqrt(200 * 0.25 * 0.75 * 600 / 799)
    assert np.abs(by_generation - 50).max() < bound


def test_a_preserved_share_is_redrawn_each_generation():
    later = list(training_sets(regimes.preserve(40, 0.5), 4))[1:]
    reused = [{row for row in rows if row[0] == FRESH} for _, rows in later]
    assert reused[0] != reused[1] != reused[2]


@pytest.mark.parametrize("shares", [(0.0, 0.5, 0.5), (0.2, 0.4, 0.4), (1 / 3, 1 / 3, 1 / 3)])
@pytest.mark.parametrize("samples", range(2, 14))
def test_mixtures_of_every_size_add_up(samples, shares):
    have = counts(regimes.mixture(samples, *shares).sizes(1))
    assert sum(have[source] for source in SOURCES) == have["training"] == samples
    exact = np.array(shares) * samples
    found = np.array([have[source] for source in ("synthetic", "previous", "reused")])
    assert np.abs(found - exact).max() <= 1.0


@pytest.mark.parametrize("samples", [50, [40, 50]], ids=["constant", "list"])
def test_independent_members_are_binomial(samples):
    chains, share, whole = 20_000, 0.3, 50
    regime = regimes.fresh(samples, share, independent=True)
    sizes = regime.sizes(1)
    keys = jax.random.split(jax.random.key(4, impl="philox4x32"), chains)

    @jax.jit
    @jax.vmap
    def realise(key):
        actual = regime.realise(key, sizes)
        return actual.fresh.count, actual.synthetic.count

    real, synthetic = (np.asarray(x) for x in realise(keys))
    np.testing.assert_array_equal(real + synthetic, whole)
    variance = whole * share * (1 - share)
    fourth = variance * (1 + 3 * (whole - 2) * share * (1 - share))  # central, of a binomial
    assert abs(real.mean() - whole * share) < 4 * np.sqrt(variance / chains)
    assert abs(real.var() - variance) < 4 * np.sqrt((fourth - variance**2) / chains)
    actual = regime.realise(keys[0], sizes)
    assert (actual.fresh.capacity, actual.training) == (sizes.fresh.capacity, sizes.training)


@pytest.mark.parametrize(("share", "real"), [(0.0, 0), (1.0, 50)])
def test_independent_members_at_the_ends(share, real):
    regime = regimes.fresh(50, share, independent=True)
    actual = regime.realise(jax.random.key(0), regime.sizes(1))
    assert (int(actual.fresh.count), int(actual.synthetic.count)) == (real, 50 - real)


def one_line(make):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the text
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "samples",
    [1, 0, -5, 2**31, 100.5, 100.0, "100", True, [], [100, 1], [100, 2.5], lambda g: 1,
     lambda g: 2.5],
    ids=lambda samples: repr(samples) if not callable(samples) else None,
)  # fmt: skip
@pytest.mark.parametrize("name", ["replace", "accumulate", "mixture"])
def test_rejected_sample_sizes(name, samples):
    assert one_line(lambda: MAKERS[name](samples)).startswith("samples: ")


def test_a_function_is_checked_at_every_generation():
    regime = regimes.replace(lambda generation: 10 - generation)
    assert regime.sizes(8).training.count == 2
    assert one_line(lambda: regime.sizes(9)).startswith("samples: ")


@pytest.mark.parametrize("value", [-0.1, 1.0001, math.nan, math.inf])
@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("fraction", lambda value: regimes.preserve(M, value)),
        ("fraction", lambda value: regimes.fresh(M, value)),
        ("alpha", lambda value: regimes.mixture(M, value, 0.5, 0.5)),
        ("beta", lambda value: regimes.mixture(M, 0.5, value, 0.5)),
        ("gamma", lambda value: regimes.mixture(M, 0.5, 0.5, value)),
    ],
)
def test_rejected_shares(field, make, value):
    message = one_line(lambda: make(value))
    assert message.startswith(f"{field}: ")
    assert repr(value) in message


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.2), (0.5, 0.5, 0.5), (0, 0, 0)])
def test_rejected_mixtures(shares):
    message = one_line(lambda: regimes.mixture(M, *shares))
    assert "mixture: expected alpha + beta + gamma = 1, got " in message
    assert f"{sum(shares):g}" in message


@pytest.mark.parametrize(
    ("regime", "generation", "text"),
    [
        (
            regimes.preserve([10, 100], 0.5),
            1,
            "at most the 10 samples of D_0, got 50 at generation 1",
        ),
        (
            regimes.mixture([10, 100], 0.5, 0.25, 0.25),
            1,
            "at most the 10 samples of the previous training set, got 25",
        ),
        (
            regimes.mixture([10, 40, 100], 0.8, 0.0, 0.2),
            2,
            "at most the 10 samples of D_0, got 20 at generation 2",
        ),
    ],
)
def test_more_than_there_is_to_draw_from_is_rejected(regime, generation, text):
    with pytest.raises(ValueError, match=text) as caught:
        regime.sizes(generation)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MAKERS)
def test_configs_tell_schedules_apart(name):
    make = MAKERS[name]
    texts = [json.dumps(make(samples).config) for samples in SAMPLES.values()]
    texts += [json.dumps(make(M + 1).config)]
    assert len(set(texts)) == 4
    assert json.dumps(make(M).config) == texts[0]


def test_flags_say_what_a_regime_needs():
    flags = {
        name: (regime.remembers, regime.keeps_original, regime.subsamples)
        for name, regime in ((name, make(M)) for name, make in MAKERS.items())
    }
    assert flags["replace"] == flags["fresh"] == (False, False, False)
    assert flags["preserve"] == (False, True, True)
    assert flags["preserve, fixed"] == (False, True, False)
    assert flags["accumulate"] == (True, False, False)
    assert flags["subsample"] == (True, False, True)
    assert flags["mixture"] == (True, True, True)
    assert flags["mixture without original"] == (True, False, True)
    assert regimes.preserve(M, 0.0).keeps_original is False
    assert Sizes() == (NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, 0)
