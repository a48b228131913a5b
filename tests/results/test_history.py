"""Records to datasets, and Kaplan-Meier curves against the product-limit definition and scipy."""

import numpy as np
import pytest
from scipy import stats

from collapse_jax import pools
from collapse_jax.family import Family, Metric, Threshold
from collapse_jax.results import history, survival
from collapse_jax.results.totals import BINS, Totals

FAMILY = Family(
    name="toy",
    config={},
    pools=pools.rows(4),
    metrics={
        "loss": Metric("loss of the model", "nat"),
        "shares": Metric("shares of the symbols", dims=("symbol",)),
    },
    thresholds={
        "early": Threshold("loss", 0.5, "loss below one half"),
        "late": Threshold("loss", 0.1, "loss below a tenth"),
    },
    original=lambda key, request: None,
    init=lambda key: None,
    fit=lambda key, params, training: (params, {}),
    sample=lambda key, params, request: None,
    measure=lambda key, params, training, origin: {},
    coords={"symbol": np.array(["a", "b", "c"])},
)


def product_limit(event, generations, lost):
    """Kaplan-Meier from its definition: which chains are seen at t, and which of them cross."""
    survival, curve = 1.0, []
    for t in range(generations):
        at_risk = crossing = 0
        for first, gone in zip(event, lost, strict=True):
            seen = gone < 0 or t < gone
            still_to_come = first < 0 or first >= t
            if seen and still_to_come:
                at_risk += 1
                crossing += first == t
        if at_risk:
            survival *= 1 - crossing / at_risk
        curve.append(survival)
    return np.array(curve)


def random_passages(seed, chains, generations, lost_share):
    rng = np.random.default_rng(seed)
    event = rng.integers(0, generations, chains).astype(np.int32)
    event[rng.random(chains) < 0.3] = -1
    lost = rng.integers(0, generations, chains).astype(np.int32)
    lost[rng.random(chains) >= lost_share] = -1
    return event, lost


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("lost_share", [0.0, 0.5])
def test_kaplan_meier_is_the_product_limit(seed, lost_share):
    generations = 9
    event, lost = random_passages(seed, 4 + 3 * seed, generations, lost_share)
    curve = survival.kaplan_meier(event, generations, lost)
    np.testing.assert_allclose(
        curve.survival, product_limit(event, generations, lost), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_array_equal(curve.generation, np.arange(generations))
    observed = (event >= 0) & ((lost < 0) | (event < lost))
    assert curve.chains == len(event)
    assert curve.events == observed.sum()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lost_share", [0.0, 0.4])
def test_kaplan_meier_and_its_interval_agree_with_scipy(seed, lost_share):
    generations = 12
    event, lost = random_passages(100 + seed, 60, generations, lost_share)
    lost[lost == 0] = 1  # a chain that is never seen is not in scipy's data
    happened = (event >= 0) & ((lost < 0) | (event < lost))
    last_seen = np.where(lost < 0, generations, lost) - 1
    data = stats.CensoredData.right_censored(np.where(happened, event, last_seen), ~happened)
    theirs = stats.ecdf(data).sf
    interval = theirs.confidence_interval(confidence_level=0.95, method="log-log")
    curve = survival.kaplan_meier(event, generations, lost)
    inside = (curve.survival > 0) & (curve.survival < 1)
    assert inside.any()
    np.testing.assert_allclose(curve.survival, theirs.evaluate(curve.generation), atol=1e-12)
    for ours, theirs in ((curve.lower, interval.low), (curve.upper, interval.high)):
        expected = theirs.evaluate(curve.generation)
        np.testing.assert_allclose(ours[inside], expected[inside], atol=1e-4)  # 1.96 is rounded


@pytest.mark.parametrize("seed", range(4))
def test_without_censoring_the_curve_is_the_share_still_to_come(seed):
    event = np.random.default_rng(seed).integers(0, 15, 40)
    curve = survival.kaplan_meier(event, 15)
    share = [(event > t).mean() for t in range(15)]
    np.testing.assert_allclose(curve.survival, share, atol=1e-12)
    assert curve.survival[-1] == pytest.approx(0, abs=1e-12)
    assert curve.events == 40


@pytest.mark.parametrize(
    ("event", "lost"),
    [([-1] * 5, None), ([-1] * 5, [0, 1, 2, -1, 5]), ([3, 4, 5], [3, 2, 0])],
    ids=["all to the end", "all, some earlier", "lost before or at the event"],
)
def test_all_censored_is_a_curve_of_ones(event, lost):
    lost = None if lost is None else np.array(lost, np.int32)
    curve = survival.kaplan_meier(np.array(event, np.int32), 6, lost)
    for values in (curve.survival, curve.lower, curve.upper):
        np.testing.assert_array_equal(values, np.ones(6))
    assert curve.events == 0


def test_lost_chains_leave_the_chains_at_risk():
    event, lost = np.array([1, 3, -1, -1]), np.array([-1, -1, 2, -1])
    curve = survival.kaplan_meier(event, 5, lost)
    # 1 of 4 crosses at 1; one is lost at 2; 1 of the other 2 crosses at 3.
    np.testing.assert_allclose(curve.survival, [1, 3 / 4, 3 / 4, 3 / 8, 3 / 8])
    assert curve.events == 2


def test_a_chain_is_not_at_risk_at_the_generation_at_which_it_is_lost():
    # Of two chains, one is seen at generation 0 only; the other crosses at 1: 1 of 1 seen.
    curve = survival.kaplan_meier(np.array([1, -1]), 3, np.array([-1, 1]))
    np.testing.assert_array_equal(curve.survival, [1, 0, 0])


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_brackets_the_curve(seed):
    event, lost = random_passages(200 + seed, 30, 20, 0.3)
    curve = survival.kaplan_meier(event, 20, lost)
    assert (np.diff(curve.survival) <= 0).all()
    inside = (curve.survival > 0) & (curve.survival < 1)
    assert (curve.lower[inside] < curve.survival[inside]).all()
    assert (curve.upper[inside] > curve.survival[inside]).all()
    for values in (curve.lower, curve.survival, curve.upper):
        assert ((values >= 0) & (values <= 1)).all()


def coded(chains, generations):
    """Values that say which chain, generation and entry they are of."""
    chain, generation, entry = np.ix_(np.asarray(chains), np.arange(generations), np.arange(3))
    return {
        "loss": (100.0 * chain + generation)[..., 0].astype(np.float32),
        "shares": (100.0 * chain + generation + 0.25 * entry).astype(np.float32),
        "finite": ((chain + generation) % 3 > 0)[..., 0],
    }


def test_parts_and_cohorts_are_put_together_in_order():
    generations, cohorts, first = 7, [], 0
    for size, cuts in ((4, (0, 1, 4, 7)), (2, (0, 7)), (3, (0, 1, 2, 7))):
        whole = coded(range(first, first + size), generations)
        parts = [
            (start, stop, {k: np.moveaxis(v[:, start:stop], 0, 1) for k, v in whole.items()})
            for start, stop in zip(cuts[:-1], cuts[1:], strict=True)
        ]
        # A part says which generations it is of: their order must not matter.
        cohorts.append(parts[::-1] if size == 3 else parts)
        first += size
    dataset = history.every_chain(cohorts, FAMILY, generations)
    for name, values in coded(range(9), generations).items():
        np.testing.assert_array_equal(dataset[name], values)
        assert dataset[name].dtype == values.dtype
    assert dataset["shares"].dims == ("chain", "generation", "symbol")
    assert dataset["loss"].attrs == {"long_name": "loss of the model", "units": "nat"}
    np.testing.assert_array_equal(dataset["symbol"], ["a", "b", "c"])
    np.testing.assert_array_equal(dataset["chain"], np.arange(9))
    np.testing.assert_array_equal(dataset["generation"], np.arange(generations))


def totals_of(values):
    """Totals of f64[chain, generation], with the sign of each value in the outer bins."""
    histogram = np.zeros((values.shape[1], BINS), np.int32)
    histogram[:, 0], histogram[:, -1] = (values < 0).sum(axis=0), (values >= 0).sum(axis=0)
    mean = values.mean(axis=0)
    count = np.full(values.shape[1], len(values), np.float32)
    return Totals(count, mean, ((values - mean) ** 2).sum(axis=0), histogram)


def cut(totals, edges):
    return [
        (start, stop, {"loss": Totals(*(field[start:stop] for field in totals))})
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
    ]


def test_totals_of_parts_and_cohorts_are_those_of_all_chains():
    values = np.random.default_rng(0).normal(size=(30, 6)) + np.arange(6)
    cohorts = [cut(totals_of(values[:20]), (0, 1, 3, 6)), cut(totals_of(values[20:]), (0, 6))]
    merged = history.totals(cohorts, 6)["loss"]
    np.testing.assert_array_equal(merged.count, np.full(6, 30))
    np.testing.assert_allclose(merged.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.squares, 30 * values.var(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(merged.histogram, totals_of(values).histogram)


def test_totals_of_too_few_generations_are_refused():
    part = cut(totals_of(np.ones((4, 5))), (0, 2, 5))
    with pytest.raises(ValueError, match="loss: expected 6 generations, got 5"):
        history.totals([part], 6)


def test_collapse_times_are_labelled():
    passages = {
        "early": np.array([3, -1], np.int32),
        "late": np.array([5, -1], np.int32),
        "nonfinite": np.array([-1, 2], np.int32),
    }
    described = history.collapse_times(passages, FAMILY)
    assert list(described) == ["early_collapse", "late_collapse", "nonfinite"]
    for name, (dims, values, attributes) in described.items():
        assert dims == ("chain",)
        np.testing.assert_array_equal(values, passages[name.removesuffix("_collapse")])
        assert attributes["units"] == "generation"
        assert attributes["comment"].startswith("-1: ")
    assert described["early_collapse"][2]["long_name"].endswith("loss below one half")
