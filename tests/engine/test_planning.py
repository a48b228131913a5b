"""Decisions before a run: size of batches, history mode, rejected runs."""

import jax
import numpy as np
import pytest

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.config import RunConfig
from collapse_jax.engine import planning
from collapse_jax.results.totals import Totals


def test_batches_are_larger_on_a_gpu_but_for_fits_in_steps(monkeypatch):
    shapes = (jax.ShapeDtypeStruct((10_000,), np.float32), {})
    cases = {
        "exact": (families.gaussian(), regimes.replace(100)),
        "rows": (families.gaussian(sampler="rows"), regimes.replace(1000)),
        "steps": (families.vae(hidden=8, latent=2), regimes.replace(1437)),
    }

    def sizes():
        return {
            name: planning.batch_size(shapes, *pair, chains=100_000, generation=1)
            for name, pair in cases.items()
        }

    on_cpu = sizes()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_gpu = sizes()
    assert on_gpu["exact"] * 40_000 <= 2**30 < on_gpu["exact"] * 40_000 * 1.5
    assert on_gpu["rows"] * 4_000 <= 2**26 < on_gpu["rows"] * 4_000 * 1.5
    assert on_gpu["exact"] > 3 * on_cpu["exact"]
    assert on_gpu["rows"] > 10 * on_cpu["rows"]
    assert on_gpu["steps"] == on_cpu["steps"]


@pytest.mark.parametrize(("keep", "kind"), [("chains", np.ndarray), ("summary", Totals)])
def test_a_plan_traces_a_chain_once(monkeypatch, keep, kind):
    traced, abstract_chain = [], planning.abstract_chain

    def counting(*arguments):
        traced.append(arguments)
        return abstract_chain(*arguments)

    monkeypatch.setattr(planning, "abstract_chain", counting)
    pair = families.gaussian(), regimes.accumulate(10)
    result = collapse_jax.run(*pair, chains=4, generations=6, keep=keep)
    assert len(traced) == 1
    plan = planning.plan(*pair, RunConfig(chains=4, generations=6, keep=keep))
    record = jax.device_get(plan.recorder.empty(3, 4))
    assert isinstance(record["mean"], kind)
    assert plan.keep == keep
    assert plan.batch == 4
    assert result.config.chains == 4


def test_choices_of_the_stored_run_are_kept():
    pair = families.gaussian(), regimes.replace(10)
    config = RunConfig(chains=50, generations=6)
    stored = {"chains_per_batch": 7, "keep": "summary"}
    plan = planning.plan(*pair, config, stored)
    assert (plan.batch, plan.keep) == (7, "summary")
    given = RunConfig(chains=50, generations=6, chains_per_batch=5, keep="chains")
    plan = planning.plan(*pair, given, stored)
    assert (plan.batch, plan.keep) == (5, "chains")


def test_several_processes_are_rejected(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"^processes: expected one process of JAX, got 2"):
        collapse_jax.run(
            families.gaussian(), regimes.replace(10), chains=2, workdir=str(tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()
