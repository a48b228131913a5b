"""One generation of one chain: keys, stages, and first passages below thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import families, regimes
from collapse_jax.engine import chain
from collapse_jax.engine.chain import Purpose
from collapse_jax.family import NEVER, Origin, run_to_end
from tests.toys import walker

ROOT = jax.random.key(0, impl="philox4x32")


def test_every_chain_generation_and_purpose_has_a_key_of_its_own():
    keys = [
        chain.generation_keys(chain.chain_key(ROOT, number), generation)(purpose)
        for number in range(6)
        for generation in range(5)
        for purpose in Purpose
    ]
    data = np.stack([jax.random.key_data(key) for key in keys])
    assert len(np.unique(data, axis=0)) == len(keys) == 6 * 5 * len(Purpose)


@pytest.mark.parametrize(
    ("regime", "first", "later"),
    [
        (regimes.replace(5), ["original", "fit", "measure"], ["sample", "assemble"]),
        (regimes.fresh(5, 1.0), ["original", "fit", "measure"], ["assemble"]),  # nothing drawn
    ],
)
def test_stages_in_their_order(regime, first, later):
    family = families.gaussian()
    names = [
        [stage.name for stage in chain.stages(family, regime, regime.sizes(number), number == 0)]
        for number in range(2)
    ]
    assert names == [first, [*later, "fit", "measure"]]
    anchored = family._replace(anchor=lambda key, params, training: params)
    listed = chain.stages(anchored, regime, regime.sizes(0), first=True)
    assert [stage.name for stage in listed] == ["original", "fit", "anchor", "measure"]


def test_stages_one_by_one_are_a_generation():
    """Each stage gets only those entries of the workspace that it declares to read."""
    family, regime = walker(), regimes.mixture(5, 0.4, 0.4, 0.2)
    number, state, _ = 0, None, None
    for number in range(2):
        keys = chain.generation_keys(chain.chain_key(ROOT, 3), number)
        work = {} if state is None else chain.begin_work(state)
        for stage in chain.stages(family, regime, regime.sizes(number), state is None):
            result = run_to_end(stage.task, stage.inputs(keys, stage.reads(work)))
            work = {**work, **stage.outputs(work, result)}
        found, metrics, _ = chain.conclude(family, work, number, state and state.passages)
        sizes = regime.sizes(number)
        key = chain.chain_key(ROOT, 3)
        whole, expected, finite = chain.generation(
            family, regime, sizes, key=key, number=number, state=state
        )
        assert finite
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
        assert jax.tree.structure(found) == jax.tree.structure(whole)
        state = whole


def concluded(spread, number, passages):
    metrics = {"turns": 1.0, "position": 0.0, "spread": spread}
    work = {
        "params": jnp.float32(0.0), "metrics": jax.tree.map(jnp.float32, metrics), "kept": None,
        "origin": Origin(None),
    }  # fmt: skip
    state, _, finite = chain.conclude(walker(), work, number, passages)
    return {name: int(value) for name, value in state.passages.items()}, bool(finite)


def test_first_passages_are_kept():
    start, finite = concluded(0.9, 0, None)
    assert finite
    assert start == {"early": NEVER, "late": NEVER, "nonfinite": NEVER}
    early, _ = concluded(0.4, 3, start)
    assert early == {"early": 3, "late": NEVER, "nonfinite": NEVER}
    late, _ = concluded(0.001, 5, early)
    assert late == {"early": 3, "late": 5, "nonfinite": NEVER}
    lost, finite = concluded(np.nan, 6, early)
    assert not finite
    assert lost == {"early": 3, "late": NEVER, "nonfinite": 6}
    # A chain that is not finite crosses no threshold, whatever its metrics say.
    assert concluded(-np.inf, 7, start)[0] == {"early": NEVER, "late": NEVER, "nonfinite": 7}
