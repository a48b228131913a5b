"""Damaged and missing files: a run falls back with a warning or explains the error."""

import json
import random
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.engine.fused import FusedEngine
from collapse_jax.saving.checkpoint import CheckpointError, DiskStore
from tests.runs import assert_same_bits, committed

# After a failed read or write, callbacks inside Orbax find their event loop closed.
pytestmark = [
    pytest.mark.usefixtures("no_leftovers"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine.*was never awaited:RuntimeWarning"),
]

FAMILY, REGIME = families.gaussian(sampler="rows"), regimes.preserve(8, 0.25)
SETTINGS = {
    **{"chains": 6, "chains_per_batch": 4, "checkpoint_every": 2, "keep_checkpoints": 3},
    "keep": "chains",
}


def run(workdir=None, generations=12, **settings):
    settings = {**SETTINGS, **settings, "workdir": str(workdir) if workdir else None}
    return collapse_jax.run(FAMILY, REGIME, generations=generations, **settings).history


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
    """Outcome of resuming a damaged run: "error", "warned" or "unnoticed"."""
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
    # The log only supplements the directories.
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
    # Valid JSON and intact arrays, but with the number of another generation.
    workdir, expected = copied(original, tmp_path)
    path = newest(workdir) / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["position"]["done"] -= 1
    path.write_text(json.dumps(metadata))
    assert outcome(workdir, expected) == "warned"


@pytest.mark.parametrize("place", [-1, 0], ids=["newest", "oldest"])
def test_metadata_that_orbax_cannot_open(original, tmp_path, place):
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


def test_a_fault_of_the_family_is_no_damage(original, tmp_path, monkeypatch):
    workdir, expected = copied(original, tmp_path)

    def broken(*args):
        raise TypeError("a bug in the family")

    with monkeypatch.context() as patch:
        patch.setattr(FusedEngine, "abstract_state", broken)
        with pytest.raises(TypeError, match="a bug in the family"):
            run(workdir)
    assert_same_bits(run(workdir), expected)


def test_arrays_without_entries_are_made_again(tmp_path):
    tree = {"none": jnp.zeros((0, 3), jnp.uint8), "some": jnp.arange(4.0)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    store = DiskStore(epath.Path(tmp_path))
    store.commit({"done": 1}, lambda: tree)
    store.close()
    again = DiskStore(epath.Path(tmp_path))
    restored = again.restore(lambda position: shapes)
    again.close()
    assert restored.tree["none"].shape == (0, 3)
    assert restored.tree["none"].dtype == np.uint8
    np.testing.assert_array_equal(restored.tree["some"], tree["some"])


@pytest.mark.parametrize("keep_checkpoints", [1, 3])
def test_few_checkpoints_stay(tmp_path, keep_checkpoints):
    history = run(tmp_path, generations=20, checkpoint_every=3, keep_checkpoints=keep_checkpoints)
    assert_same_bits(history, run(generations=20))
    cohort = tmp_path / "checkpoints" / "cohort-0"
    names = sorted(int(path.name) for path in (cohort / "states").iterdir())
    assert names == list(range(7 - keep_checkpoints, 7))
    assert (cohort / "committed").read_text().split() == [str(i) for i in range(7)]
    parts = sorted(path.name for path in (cohort / "history").iterdir())
    assert parts[0] == "00000000-00000003.npz"
    assert parts[-1] == "00000018-00000020.npz"
    assert len(parts) == 7
