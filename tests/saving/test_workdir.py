"""Only one process at a time uses a workdir, and its lock ends with it, even if it is killed."""

import json
import signal
import subprocess
import sys

import jax
import pytest

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.arguments import SettingError
from collapse_jax.saving.checkpoint import CheckpointError
from collapse_jax.saving.workdir import Workdir

# The same objects and batches in all tests, so that few programs are compiled.
FAMILY, REGIME = families.gaussian(), regimes.replace(10)
PLANE = families.gaussian(dim=2, sampler="rows")
SETTINGS = {"chains": 8, "chains_per_batch": 4, "generations": 9, "checkpoint_every": 4}


def run(workdir=None, family=FAMILY, regime=REGIME, **settings):
    workdir = str(workdir) if workdir else None
    return collapse_jax.run(family, regime, workdir=workdir, **{**SETTINGS, **settings}).history


HOLDER = """
import sys
from collapse_jax.saving.workdir import Workdir
with Workdir(sys.argv[1]).lock():
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the workdir."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def assert_held(path):
    message = f"^workdir: another process is running in {path}; wait for it to end, or use another"
    with pytest.raises(SettingError, match=message) as caught, Workdir(str(path)).lock():
        pass
    assert "\n" not in str(caught.value)


def test_a_workdir_in_use_is_rejected_until_its_process_ends(tmp_path, holder):
    assert_held(tmp_path)
    assert_held(tmp_path)  # a failed attempt does not free it
    holder.communicate("\n")
    for _ in range(2):
        with Workdir(str(tmp_path)).lock():
            assert_held(tmp_path)  # nor can one process lock it twice


def test_the_lock_of_a_killed_process_is_released(tmp_path, holder):
    assert_held(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Workdir(str(tmp_path)).lock():
        pass


def test_the_lock_is_the_kernels(tmp_path, holder):
    """Other programs, and earlier versions of this one, respect it."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "lock").open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_error_frees_the_workdir(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), Workdir(str(tmp_path)).lock():
        raise RuntimeError("of the run")
    with Workdir(str(tmp_path)).lock():
        pass


def test_a_lock_that_cannot_be_made_names_its_path(tmp_path):
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(CheckpointError, match=f"cannot write {tmp_path / 'lock'}: "),
        Workdir(str(tmp_path)).lock(),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 3}, ["seed: was 0, now 3"]),
        ({"prng": "threefry2x32"}, ['prng: was "philox4x32", now "threefry2x32"']),
        ({"chains_per_batch": 2}, ["chains_per_batch: was 4, now 2"]),
        ({"keep": "summary"}, ['keep: was "chains", now "summary"']),
        ({"regime": regimes.replace(11)}, ["regime.samples: was 10, now 11"]),
        (
            {"regime": regimes.fresh(10, 0.5), "seed": 1},
            ['regime.name: was "replace", now "fresh"', "regime.fraction: was null, now 0.5",
             "seed: was 0, now 1"],
        ),
        ({"family": families.gaussian(estimator="ml")}, ['estimator: was "unbiased", now "ml"']),
        ({"family": families.discrete([1, 1])}, ['family.name: was "gaussian", now "discrete"']),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_changed_config_is_refused_by_name(tmp_path, change, named):
    run(tmp_path, keep="chains")
    with pytest.raises(ValueError, match=f"{tmp_path} holds a run with another config") as caught:
        run(tmp_path, **change)
    for text in named:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_environment_warns(tmp_path):
    run(tmp_path)
    path = tmp_path / "env.json"
    began = json.loads(path.read_text())
    began["places"][0]["packages"]["jax"] = "0.0.1"
    path.write_text(json.dumps(began))
    for _ in range(2):
        expected = r'another environment.*packages\.jax: was "0\.0\.1", now'
        with pytest.warns(UserWarning, match=expected):
            run(tmp_path)
        # Where it began stays, and where it went on is added once.
        places = json.loads(path.read_text())["places"]
        assert [place["packages"]["jax"] for place in places] == ["0.0.1", jax.__version__]


def test_a_damaged_environment_warns(tmp_path):
    run(tmp_path)
    (tmp_path / "env.json").write_text("{")
    with pytest.warns(UserWarning, match=f"{tmp_path / 'env.json'} cannot be read"):
        run(tmp_path)
    (place,) = json.loads((tmp_path / "env.json").read_text())["places"]
    assert place["python"]
    assert place["prng"] == "philox4x32"
