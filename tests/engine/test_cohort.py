"""A cohort looks for signals every few seconds."""

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.engine import cohort
from collapse_jax.engine.fused import FusedEngine
from tests.runs import assert_same_bits

# The same objects and batches in all tests, so that few programs are compiled.
FAMILY, REGIME = families.gaussian(), regimes.replace(10)
PLANE = families.gaussian(dim=2, sampler="rows")
SETTINGS = {"chains": 8, "chains_per_batch": 4, "generations": 9, "checkpoint_every": 4}


def run(workdir=None, family=FAMILY, regime=REGIME, **settings):
    workdir = str(workdir) if workdir else None
    return collapse_jax.run(family, regime, workdir=workdir, **{**SETTINGS, **settings}).history


def test_long_segments_are_cut_by_time(tmp_path, monkeypatch):
    lengths = []
    advance = FusedEngine.advance

    def watched(engine, root, start, stop, *rest):
        lengths.append(stop - start)
        return advance(engine, root, start, stop, *rest)

    monkeypatch.setattr(FusedEngine, "advance", watched)
    whole = run(generations=20, checkpoint_every=50, chains=4)
    assert max(lengths) > 1
    lengths.clear()
    monkeypatch.setattr(cohort, "_SEGMENT_SECONDS", 1e-9)
    assert_same_bits(run(generations=20, checkpoint_every=50, chains=4), whole)
    assert lengths == [1] * 20
