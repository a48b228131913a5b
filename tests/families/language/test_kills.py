"""A chain of language models killed in any stage resumes to the same bits."""

import random
import time
from pathlib import Path

import numpy as np
import pytest

from tests.families.language import small
from tests.runs import Nursery, assert_same_arrays

pytest.importorskip("tokenizers")
M = small.SETTINGS["blocks"]

# Saves after every piece of every stage, and prints the stage.
SCRIPT = f"""
import sys
import collapse_jax
import numpy as np
from collapse_jax import regimes
from collapse_jax.saving.checkpoint import DiskStore
from tests.families.language import small
base, text, workdir, output = sys.argv[1:]
commit = DiskStore.commit

def telling(store, position, tree):
    with open(output + ".where", "a") as file:
        print(position["done"], position.get("stage", "-"), "save", file=file, flush=True)
        commit(store, position, tree)
        print(position["done"], position.get("stage", "-"), "work", file=file, flush=True)

DiskStore.commit = telling
family = small.language(base, text)
result = collapse_jax.run(
    family, regimes.preserve({M}, 0.25), chains=2, chains_per_batch=2, generations=2,
    keep="chains", checkpoint_every=1, checkpoint_seconds=0.0, workdir=workdir,
)
np.savez(output, **{{name: result.history[name].values for name in result.history}})
"""
LATER = ("sample", "assemble", "fit", "measure")


def heard(output):
    """Stages that a run has printed so far."""
    file = Path(f"{output}.where")
    return file.read_text().splitlines() if file.exists() else []


def where(lines):
    """The last stage that a run has printed."""
    if not lines:
        return "before any save"
    done, stage, what = lines[-1].split()
    if what == "save":
        return "save"
    if stage == "-":
        return "between generations"
    return LATER[int(stage)] if done != "0" else "generation 0"


@pytest.mark.slow
def test_killed_at_10_random_moments(tmp_path, capsys):
    places = small.make(tmp_path)
    nursery = Nursery(SCRIPT)
    nursery.finish(*places, tmp_path / "whole", tmp_path / "whole.npz")
    said = heard(tmp_path / "whole.npz")
    expected = dict(np.load(tmp_path / "whole.npz"))
    generator = random.Random(10)
    moments = generator.sample(range(len(said) - 2), 2)
    for kind in ("sample", "fit", "measure", "save"):
        those = [i + 1 for i in range(len(said) - 2) if where(said[: i + 1]) == kind]
        moments += generator.sample(those, 2)
    landed, seconds = [], []
    for trial, wanted in enumerate(moments):
        # Once it has printed this many stages, and a moment later: the machine may be shared.
        moment = generator.uniform(0.0, 0.05)
        run = (*places, tmp_path / f"run-{trial}", tmp_path / f"{trial}.npz")
        nursery.start(*run)
        while nursery.running(0.002) and len(heard(run[3])) < wanted:
            pass
        time.sleep(moment)
        assert nursery.kill() != 0
        landed.append(where(heard(run[3])))
        began = time.monotonic()
        nursery.finish(*run)
        seconds.append(time.monotonic() - began)
        assert_same_arrays(dict(np.load(run[3])), expected)
    nursery.close()
    with capsys.disabled():
        print(f"\n10 kills, all resumed to the same bits in {max(seconds):.1f} s at most: {landed}")
    assert {"sample", "fit", "measure", "save"} <= set(landed)
