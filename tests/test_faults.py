"""Killed, stopped, damaged, out of space: a run resumes to the same bits or says why it cannot."""

import contextlib
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.checkpoint import CheckpointError, DiskStore
from collapse_jax.stopping import Stopped
from tests.toys import walker

# After a failed read or write, callbacks inside Orbax find their event loop closed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine.*was never awaited:RuntimeWarning"),
]
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_leftovers():
    """What a failed read leaves behind complains here, and not in someone else's test."""
    yield
    gc.collect()


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
COMMAND = [
    *("-m", "experiments.gaussian", "--chains=200", "--samples=20", "--generations=300"),
    *("--checkpoint_every=3", "--keep=chains"),
]


def environment(cache):
    """The environment of a subprocess; its compiled programs are kept in `cache` if given."""
    values = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    if cache:
        values["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        values["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return values


def start(arguments, cache=None):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(arguments, cache=None):
    """Runs to the end; (exit code, standard error without the progress bar)."""
    process = start(arguments, cache)
    _, errors = process.communicate(timeout=200)
    return process.returncode, messages(errors)


def messages(errors):
    return [line for line in errors.splitlines() if line.strip() and "━" not in line]


def states(workdir):
    """Names of the checkpoints there, also of those being written."""
    directory = Path(workdir, "checkpoints", "cohort-0", "states")
    try:
        return {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return set()


def committed(workdir):
    return sorted(int(name) for name in states(workdir) if name.isdigit())


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.002)


def assert_same_arrays(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def assert_same_bits(one, other):
    assert_same_arrays(
        {name: one[name].values for name in one}, {name: other[name].values for name in other}
    )


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path, capsys):
    cache = tmp_path / "cache"
    began = time.monotonic()
    assert finish(["-c", SCRIPT, tmp_path / "whole", tmp_path / "whole.npz"])[0] == 0
    duration = time.monotonic() - began
    finish(["-c", SCRIPT, tmp_path / "again", tmp_path / "again.npz"], cache)  # fills the cache
    expected = dict(np.load(tmp_path / "whole.npz"))
    generator = random.Random(20)
    moments = [("time", generator.uniform(0, duration)) for _ in range(12)]
    moments += [("checkpoint", generator.randrange(1, 24)) for _ in range(8)]
    landed = {"before": 0, "between": 0, "during a save": 0, "after": 0}
    for trial, (kind, when) in enumerate(moments):
        workdir, output = tmp_path / f"run-{trial}", tmp_path / f"{trial}.npz"
        process = start(["-c", SCRIPT, workdir, output])
        if kind == "time":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=when)
        else:  # as soon as anything of this checkpoint, also its temporary directory, is there
            names = (str(when), f"{when}.")
            wait_for(
                lambda names=names, w=workdir: any(
                    n == names[0] or n.startswith(names[1]) for n in states(w)
                ),
                process,
            )
        process.kill()
        process.communicate()
        unfinished = any(not name.isdigit() for name in states(workdir))
        if process.returncode == 0:
            landed["after"] += 1
        elif unfinished:
            landed["during a save"] += 1
        else:
            landed["between" if committed(workdir) else "before"] += 1
        code, errors = finish(["-c", SCRIPT, workdir, output], cache)
        assert code == 0, errors
        assert_same_arrays(dict(np.load(output)), expected)
    with capsys.disabled():
        print(f"\n{len(moments)} kills, all resumed to the same bits; they landed {landed}")
    assert landed["before"]
    assert landed["between"] + landed["during a save"] >= 8


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The uninterrupted run of COMMAND, and a cache of its programs."""
    directory = tmp_path_factory.mktemp("reference")
    cache = directory / "cache"
    code, errors = finish([*COMMAND, f"--workdir={directory / 'run'}"], cache)
    assert code == 0, errors
    assert errors == []
    return xr.load_dataset(directory / "run" / "history.nc"), cache


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(tmp_path, reference):
    expected, cache = reference
    command = [*COMMAND, f"--workdir={tmp_path / 'run'}"]
    process = start(command, cache)
    wait_for(lambda: len(committed(tmp_path / "run")) > 1, process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    (message,) = messages(errors)
    assert message.startswith("stopped by SIGTERM after generation")
    assert "the same command continues" in message
    code, errors = finish(command, cache)
    assert (code, errors) == (0, [])
    assert_same_bits(xr.load_dataset(tmp_path / "run" / "history.nc"), expected)


class Crash(Exception):
    pass


WALK = {"chains": 7, "chains_per_batch": 4, "generations": 2, "seed": 5, "checkpoint_seconds": 0}


@pytest.mark.parametrize(
    ("regime", "keep", "crashes"),
    [
        pytest.param(regimes.replace(6), "summary", 2, id="replace"),
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
        # It went on with the very next piece of work.
        assert before + saved == whole
        saved[:] = []


def test_sigterm_inside_a_generation(tmp_path, monkeypatch):
    family, regime = walker(), regimes.replace(6)
    settings = {**WALK, "keep": "chains"}
    expected = collapse_jax.run(family, regime, **settings).history
    commit, commits = DiskStore.commit, []

    def watched(store, position, tree):
        commit(store, position, tree)
        commits.append(dict(position))
        if len(commits) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DiskStore, "commit", watched)
    with pytest.raises(Stopped, match="the same command continues"):
        collapse_jax.run(family, regime, **settings, workdir=str(tmp_path))
    assert len(commits) == 20  # it left at once
    assert "stage" in commits[-1]
    resumed = collapse_jax.run(family, regime, **settings, workdir=str(tmp_path)).history
    assert_same_bits(resumed, expected)


def test_a_stop_whose_save_fails_is_an_error(tmp_path, monkeypatch):
    commit, close = DiskStore.commit, DiskStore.close

    def stopping(store, position, tree):
        commit(store, position, tree)
        os.kill(os.getpid(), signal.SIGTERM)

    def failing(store):
        close(store)
        raise CheckpointError("cannot write")

    monkeypatch.setattr(DiskStore, "commit", stopping)
    monkeypatch.setattr(DiskStore, "close", failing)
    with pytest.raises(CheckpointError, match="cannot write"):  # not "all progress is saved"
        collapse_jax.run(walker(), regimes.replace(6), **WALK, workdir=str(tmp_path))


FAMILY, REGIME = families.gaussian(sampler="rows"), regimes.preserve(8, 0.25)
SETTINGS = {
    **{"chains": 6, "chains_per_batch": 4, "checkpoint_every": 2, "keep_checkpoints": 3},
    "keep": "chains",
}


def run(workdir=None, generations=12):
    workdir = str(workdir) if workdir else None
    return collapse_jax.run(
        FAMILY, REGIME, generations=generations, workdir=workdir, **SETTINGS
    ).history


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The workdir of 10 generations, and the history of 12."""
    directory = tmp_path_factory.mktemp("original") / "run"
    run(directory, generations=10)
    return directory, run()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path, at=0.5):
    content = bytearray(path.read_bytes())
    if content:
        content[int(at * len(content))] ^= 0x11
    path.write_bytes(content)


def remove(path):
    path.unlink()


DAMAGE = {"truncated": truncate, "empty": empty, "flipped": flip, "missing": remove}


def outcome(workdir, expected):
    """How the resume of a damaged run ends: "error", "warned" or "unnoticed"."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            history = run(workdir)
        except CheckpointError as error:
            message, history = str(error), None
    if history is None:
        assert str(workdir) in message
        assert "\n" not in message
        return "error"
    assert_same_bits(history, expected)
    texts = [str(warning.message) for warning in caught]
    for text in texts:
        assert "\n" not in text
        assert str(workdir) in text or text.startswith("this run began in another environment")
    return "warned" if texts else "unnoticed"


def newest(workdir):
    return workdir / "checkpoints" / "cohort-0" / "states" / str(committed(workdir)[-1])


def copied(original, tmp_path):
    directory, expected = original
    shutil.copytree(directory, tmp_path / "run")
    return tmp_path / "run", expected


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["metadata", "state", "history", "log"])
def test_damaged_newest_checkpoint(original, tmp_path, kind, damage):
    workdir, expected = copied(original, tmp_path)
    step, cohort = newest(workdir), workdir / "checkpoints" / "cohort-0"
    paths = {
        "metadata": [step / "_CHECKPOINT_METADATA"],
        "state": [path for path in (step / "state").rglob("d/*") if path.is_file()],
        "history": sorted((cohort / "history").iterdir())[-1:],
        "log": [cohort / "committed"],
    }[kind]
    for path in paths:
        DAMAGE[damage](path)
    # The log only adds to what the directories say.
    wanted = {"unnoticed", "warned"} if kind == "log" else {"warned"}
    assert outcome(workdir, expected) in wanted
    assert committed(workdir)[-1] >= int(step.name)
    assert outcome(workdir, expected) == "unnoticed"


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file(original, tmp_path, damage, capsys):
    directory, expected = original
    step = newest(directory)
    cohort = directory / "checkpoints" / "cohort-0"
    paths = [path for path in step.rglob("*") if path.is_file()]
    paths += [*(cohort / "history").iterdir(), cohort / "committed"]
    paths += [directory / "config.json", directory / "env.json"]
    found = {}
    for i, path in enumerate(paths):
        workdir = tmp_path / f"{i}"
        shutil.copytree(directory, workdir)
        DAMAGE[damage](workdir / path.relative_to(directory))
        found.setdefault(outcome(workdir, expected), []).append(str(path.relative_to(directory)))
    with capsys.disabled():
        print(f"\n{damage}:", {key: len(names) for key, names in found.items()})
    essential = str((step / "_CHECKPOINT_METADATA").relative_to(directory))
    assert essential in found["warned"]


@pytest.mark.slow
def test_flipped_bytes_anywhere(original, tmp_path, capsys):
    directory, expected = original
    generator, ends = random.Random(7), []
    paths = [path for path in newest(directory).rglob("*") if path.is_file()]
    paths += [newest(directory) / "_CHECKPOINT_METADATA"] * len(paths)  # half of all flips
    paths += [directory / "checkpoints" / "cohort-0" / "committed"] * 4
    for trial in range(100):
        workdir = tmp_path / f"{trial}"
        shutil.copytree(directory, workdir)
        path = workdir / generator.choice(paths).relative_to(directory)
        flip(path, generator.random())
        ends.append(outcome(workdir, expected))
        shutil.rmtree(workdir)
    with capsys.disabled():
        print("\nflips:", {end: ends.count(end) for end in sorted(set(ends))})


def test_a_changed_position_is_noticed(original, tmp_path):
    # Valid JSON and intact arrays, but of another generation than it says.
    workdir, expected = copied(original, tmp_path)
    path = newest(workdir) / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["position"]["done"] -= 1
    path.write_text(json.dumps(metadata))
    assert outcome(workdir, expected) == "warned"


@pytest.mark.parametrize("place", [-1, 0], ids=["newest", "oldest"])
def test_metadata_that_orbax_refuses_to_open(original, tmp_path, place):
    workdir, expected = copied(original, tmp_path)
    step = newest(workdir).parent / str(committed(workdir)[place])
    path = step / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("performance_metrics", "performance_metrocs"))
    assert outcome(workdir, expected) == ("warned" if place else "unnoticed")
    assert not list(step.parent.glob("*.damaged"))


def test_missing_newest_checkpoint(original, tmp_path):
    workdir, expected = copied(original, tmp_path)
    shutil.rmtree(newest(workdir))
    assert outcome(workdir, expected) == "warned"


def test_all_checkpoints_destroyed(original, tmp_path):
    workdir, _ = copied(original, tmp_path)
    for path in (workdir / "checkpoints" / "cohort-0" / "states").rglob("d/*"):
        empty(path)
    with pytest.raises(CheckpointError, match=f"(?s)starting over would lose.*{workdir}"):
        run(workdir)


@pytest.mark.parametrize("log", [True, False], ids=["with log", "without log"])
def test_all_checkpoints_missing(original, tmp_path, log):
    workdir, _ = copied(original, tmp_path)
    cohort = workdir / "checkpoints" / "cohort-0"
    shutil.rmtree(cohort / "states")
    if not log:
        (cohort / "committed").unlink()
    kept = sorted((cohort / "history").iterdir())
    with pytest.raises(CheckpointError, match=str(cohort)):
        run(workdir)
    assert sorted((cohort / "history").iterdir()) == kept


@pytest.mark.parametrize("directory", ["checkpoints", "checkpoints/cohort-0"])
def test_starting_over_is_said(original, tmp_path, directory):
    workdir, expected = copied(original, tmp_path)
    shutil.rmtree(workdir / directory)
    with pytest.warns(UserWarning, match="starting from generation 0"):
        history = run(workdir)
    assert_same_bits(history, expected)


def test_an_old_history_part_lost_is_an_error(original, tmp_path):
    workdir, expected = copied(original, tmp_path)
    part = min((workdir / "checkpoints" / "cohort-0" / "history").iterdir())
    remove(part)
    with pytest.raises(CheckpointError, match=f"{part} is missing"):
        run(workdir)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_config(original, tmp_path, damage):
    workdir, expected = copied(original, tmp_path)
    DAMAGE[damage](workdir / "config.json")
    with pytest.raises(CheckpointError, match=str(workdir / "config.json")):
        run(workdir)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many bytes, or enlarges it."""
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


@pytest.mark.parametrize(
    "kilobytes",
    [200, *(pytest.param(size, marks=pytest.mark.slow) for size in range(0, 600, 60))],
)
def test_full_disk(small_disk, kilobytes):
    # Different sizes run out in different places.
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


def test_disk_full_from_the_start(small_disk):
    workdir = small_disk("1m") / "run"
    with contextlib.suppress(OSError):
        (workdir.parent / "ballast").write_bytes(b"x" * 2_000_000)
    with pytest.raises(CheckpointError, match=rf"cannot write {workdir}.*no space left"):
        run(workdir)
    (workdir.parent / "ballast").unlink()
    assert_same_bits(run(workdir), run())


@pytest.mark.slow
def test_full_disk_on_the_command_line(small_disk, reference):
    expected, cache = reference
    workdir = small_disk("1m") / "run"
    command = [*COMMAND, f"--workdir={workdir}"]
    code, errors = finish(command, cache)
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"error: cannot write {workdir}")
    assert "no space left" in errors[0]
    assert committed(workdir)
    small_disk("50m")
    code, errors = finish(command, cache)
    assert (code, errors) == (0, [])
    assert_same_bits(xr.load_dataset(workdir / "history.nc"), expected)
