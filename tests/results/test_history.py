"""Labelled datasets from records."""

import numpy as np
import pytest

from collapse_jax import pools
from collapse_jax.family import Family, Metric, Threshold
from collapse_jax.results import history
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


def coded(chains, generations):
    """Values that encode their chain, generation and entry."""
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
        # A part names its generations, so the order of parts must not matter.
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
    """Totals of f64[chain, generation], with values counted in the outer bins by sign."""
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


def test_totals_of_too_few_generations_are_rejected():
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
