"""Killed, stopped, out of space: a run resumes to the same bits or explains why it cannot."""

import contextlib
import random
import subprocess
import time

import numpy as np
import pytest
import xarray as xr

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.saving.checkpoint import CheckpointError, DiskStore
from tests.runs import Nursery, assert_same_arrays, assert_same_bits, committed, states
from tests.saving.processes import COMMAND, WALK, finish
from tests.saving.test_checkpoint import run
from tests.toys import walker

# After a failed read or write, callbacks inside Orbax find their event loop closed.
pytestmark = [
    pytest.mark.usefixtures("no_leftovers"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine.*was never awaited:RuntimeWarning"),
]


# Four batches, the last one not full, in 24 checkpoints.
SCRIPT = """
import sys
import numpy as np
import collapse_jax
from collapse_jax import families, regimes
result = collapse_jax.run(
    families.gaussian(), regimes.replace(20), chains=200, chains_per_batch=64, generations=120,
    checkpoint_every=5, keep="chains", workdir=sys.argv[1],
)
np.savez(sys.argv[2], **{name: result.history[name].values for name in result.history})
"""


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path, capsys):
    nursery = Nursery(SCRIPT)
    nursery.finish(tmp_path / "whole", tmp_path / "whole.npz")
    began = time.monotonic()  # with all programs in the cache, as in the killed runs
    nursery.finish(tmp_path / "again", tmp_path / "again.npz")
    duration = time.monotonic() - began
    expected = dict(np.load(tmp_path / "whole.npz"))
    generator = random.Random(20)
    moments = [("time", generator.uniform(0, duration)) for _ in range(12)]
    moments += [("checkpoint", generator.randrange(1, 24)) for _ in range(8)]
    landed = {"before": 0, "between": 0, "during a save": 0, "after": 0}
    for trial, (kind, when) in enumerate(moments):
        workdir, output = tmp_path / f"run-{trial}", tmp_path / f"{trial}.npz"
        nursery.start(workdir, output)
        if kind == "time":
            nursery.running(when)
        else:  # once this checkpoint, or its temporary directory, exists
            names = (str(when), f"{when}.")
            while nursery.running(0.002) and not any(
                n == names[0] or n.startswith(names[1]) for n in states(workdir)
            ):
                pass
        code = nursery.kill()
        unfinished = any(not name.isdigit() for name in states(workdir))
        if code == 0:
            landed["after"] += 1
        elif unfinished:
            landed["during a save"] += 1
        else:
            landed["between" if committed(workdir) else "before"] += 1
        nursery.finish(workdir, output)
        assert_same_arrays(dict(np.load(output)), expected)
    nursery.close()
    with capsys.disabled():
        print(f"\n{len(moments)} kills, all resumed to the same bits; they landed {landed}")
    assert landed["before"]
    assert landed["between"] + landed["during a save"] >= 8


class Crash(Exception):
    pass


@pytest.mark.parametrize(
    ("regime", "keep", "crashes"),
    [
        pytest.param(regimes.replace(6), "summary", 2, id="replace", marks=pytest.mark.slow),
        pytest.param(regimes.accumulate(6), "chains", 8, id="accumulate", marks=pytest.mark.slow),
    ],
)
def test_crashed_inside_a_generation(tmp_path, monkeypatch, regime, keep, crashes):
    family = walker()
    saved, crash_at = [], None
    commit = DiskStore.commit

    def watched(store, position, tree):
        commit(store, position, tree)
        saved.append(dict(position))
        if len(saved) == crash_at:
            raise Crash

    monkeypatch.setattr(DiskStore, "commit", watched)
    settings = {**WALK, "keep": keep}
    expected = collapse_jax.run(family, regime, **settings, workdir=str(tmp_path / "whole")).history
    assert_same_bits(collapse_jax.run(family, regime, **settings).history, expected)
    whole, saved[:] = list(saved), []
    inside = {(p["done"], p.get("batches"), p.get("stage"), p.get("begun")) for p in whole}
    assert {stage for _, _, stage, _ in inside} >= {1, 2, 3}
    distinct = [i + 1 for i, p in enumerate(whole) if p not in whole[:i]]
    for crash_at in random.Random(3).sample(distinct, crashes):
        workdir = str(tmp_path / f"{crash_at}")
        with pytest.raises(Crash):
            collapse_jax.run(family, regime, **settings, workdir=workdir)
        before, saved[:] = list(saved), []
        crash_at = None
        resumed = collapse_jax.run(family, regime, **settings, workdir=workdir).history
        assert_same_bits(resumed, expected)
        # It continued with the very next piece of work.
        assert before + saved == whole
        saved[:] = []


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of a given size, or enlarges it."""
    path, mounted = tmp_path / "disk", []
    path.mkdir()

    def mount(size):
        option = f"remount,size={size}" if mounted else f"size={size}"
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(
                f"needs a small file system, and mounting one failed: {done.stderr.strip()}"
            )
        mounted.append(True)
        return path

    try:
        yield mount
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [200, *range(0, 600, 60)])
def test_full_disk(small_disk, kilobytes):
    # Different sizes run out of space in different places.
    workdir = small_disk("4m") / "run"
    family, regime = families.gaussian(), regimes.replace(20)

    def attempt():
        return collapse_jax.run(
            family, regime, chains=3000, generations=60, checkpoint_every=3, workdir=str(workdir)
        ).history

    (workdir.parent / "ballast").write_bytes(b"x" * (3_000_000 + 1024 * kilobytes))
    with pytest.raises(CheckpointError, match=rf"cannot write {workdir}.*no space left") as caught:
        attempt()
    assert "\n" not in str(caught.value)
    before = committed(workdir)
    with pytest.raises(CheckpointError, match="no space left"):  # still full
        attempt()
    assert set(before[-1:]) <= set(committed(workdir))
    small_disk("20m")
    expected = collapse_jax.run(family, regime, chains=3000, generations=60).history
    assert_same_bits(attempt(), expected)


@pytest.mark.slow
def test_disk_full_from_the_start(small_disk):
    workdir = small_disk("1m") / "run"
    with contextlib.suppress(OSError):
        (workdir.parent / "ballast").write_bytes(b"x" * 2_000_000)
    with pytest.raises(CheckpointError, match=rf"cannot write {workdir}.*no space left"):
        run(workdir)
    (workdir.parent / "ballast").unlink()
    assert_same_bits(run(workdir), run())


@pytest.mark.slow
def test_full_disk_on_the_command_line(small_disk, uninterrupted):
    expected = uninterrupted
    workdir = small_disk("1m") / "run"
    command = [*COMMAND, f"--workdir={workdir}"]
    code, errors = finish(command)
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"error: cannot write {workdir}")
    assert "no space left" in errors[0]
    assert committed(workdir)
    small_disk("50m")
    code, errors = finish(command)
    assert (code, errors) == (0, [])
    assert_same_bits(xr.load_dataset(workdir / "history.nc"), expected)
