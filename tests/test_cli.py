"""Invalid command lines: one line says what is wrong, without a traceback."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import collapse_jax
from collapse_jax import families, regimes
from experiments.flags import settings
from tests.experiments.apps import APPS

ROOT = Path(__file__).parents[1]

# Runs each command line of a JSON file in a forked child, so that all of them import JAX once.
MANY = """
import importlib, json, os, runpy, sys, warnings
import collapse_jax.runner, collapse_jax.families, sklearn.datasets
warnings.filterwarnings("ignore", message=".*(fork|found in sys.modules)")
lines = json.load(open(sys.argv[1]))
for module in {module for module, _ in lines}:
    importlib.import_module("experiments." + module)
for i, (module, arguments) in enumerate(lines):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{sys.argv[1]}.{i}", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["experiments." + module, *arguments]
        runpy.run_module("experiments." + module, run_name="__main__", alter_sys=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def assert_one_error(code, errors, *fragments):
    assert code not in (0, None)
    assert "Traceback" not in errors
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.mark.parametrize("experiment", APPS)
def test_help_is_quick_and_lists_all_settings(experiment):
    seconds, result = [], None
    for _ in range(3):  # the minimum, as the machine may be shared
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        result = command("-m", f"experiments.{experiment}", "--helpshort")
        seconds.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before)
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2  # of the processor; JAX is imported for the factory's signature
    assert result.stderr == ""
    app = APPS[experiment]
    for setting in (each for function in app.SETTINGS for each in settings(function)):
        flag = f"--[no]{setting.name}:" if setting.kinds == (bool,) else f"--{setting.name}:"
        assert (flag in result.stdout) == (setting.name not in getattr(app, "GIVEN", ()))
    assert "Claim" in result.stdout  # the docstring opens it


def test_unknown_flag():
    result = command("-m", "experiments.gaussian", "--smaples=10")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Unknown command line flag 'smaples'. Did you mean: samples" in result.stderr
    assert len(result.stderr.splitlines()) == 2  # absl's own, with a hint


def test_one_line_from_a_process():
    result = command("-m", "experiments.gaussian", "--regime=subsample", "--chains=3")
    expected = ("subsample", "gaussian with moments", "use sampler=rows")
    assert_one_error(result.returncode, result.stderr, *expected)
    assert result.stdout == ""


# Invalid arguments, and texts that the error must contain: first the likeliest mistakes, then all
# others.
COMMON = {
    "gaussian": [
        (["--regime=replcae"], ["regime: expected one of replace,", "got 'replcae'"]),
        (["--samples=1"], ["samples: expected an integer in [2, 2^31), got 1"]),
        (["--dim=10", "--samples=10"], ["expected at least 11 per generation", "got 10"]),
        (["--regime=preserve"], ["regime: preserve", "use sampler=rows"]),
        (["--real_fraction=0.5"], ["real_fraction: expected regime preserve or fresh", "replace"]),
        (["--prng=rbg"], ["prng: expected one of philox4x32", "got 'rbg', whose"]),
        (["--workdir={run}", "--seed=4"], ["workdir: {run}", "seed: was 0, now 4"]),
    ],
    "discrete": [
        (["--dataset={empty}"], ["{empty}", "expected a text with words in it"]),
        (["--dataset={binary}"], ["{binary}", "expected UTF-8 text"]),
        (["--dataset={missing}"], ["{missing}", "no such file"]),
        (["--dataset=wikitext-2", "--data_dir={missing}"], ["{missing}/wikitext-2", "--data_dir"]),
    ],
    "gmm": [
        (["--components=9", "--samples=8"], ["components: expected at most samples = 8, got 9"]),
        (["--truth={mixture}"], ["truth.means: expected shape (2, d), got (1, 2)"]),
    ],
    "kde": [
        (["--samples=0"], ["samples: expected an integer in [2, 2^31), got 0"]),
    ],
    "vae": [
        (["--samples=100"], ["batch: expected at most samples = 100, got 256"]),
        (["--regime=accumulate"], ["regime: accumulate", "use synthetic=fixed"]),
    ],
    "language": [
        (["--arms=replcae:5"], ["arms: expected regime:epochs", "replace,", "got 'replcae:5'"]),
        (["--dataset={empty}"], ["{empty}", "expected words in the train split"]),
    ],
}
OTHER = {
    "gaussian": [
        (["--real_fraction=1.5", "--regime=fresh"], ["real_fraction:", "[0, 1], got 1.5"]),
        (["--prng=philox2x32"], ["prng: expected one of", "got 'philox2x32'", "collide"]),
        (["--seed=-1"], ["seed: expected an integer in [0, 2^32), got -1"]),
        (["--workdir={file}/run"], ["workdir: cannot create", "{file}/run", "Not a directory"]),
        (["--samples=99999999999"], ["samples:", "got 99999999999"]),
        (["--samples=10,1"], ["samples:", "got 1"]),
        (["--samples=ten"], ["samples: expected comma-separated integers, got 'ten'"]),
        (["--samples="], ["samples: expected comma-separated integers, got ''"]),
        (["--dim=0"], ["dim: expected an integer >= 1, got 0"]),
        (["--regime=preserve", "--real_fraction=-0.1"], ["real_fraction:", "[0, 1], got -0.1"]),
        (["--regime=preserve", "--real_fraction=nan"], ["real_fraction:", "[0, 1], got nan"]),
        (["--regime=mixture", "--mixture=0.5,0.5"], ["three shares, got '0.5,0.5'"]),
        (["--regime=mixture", "--mixture=0.5,0.5,0.5"], ["alpha + beta + gamma = 1, got 1.5"]),
        (["--independent"], ["independent: expected regime fresh, got regime replace"]),
        (["--workdir="], ["workdir: expected a path, got ''"]),
        (["--regime=mixture"], ["regime: mixture", "use sampler=rows"]),
        (["--regime=fresh", "--independent"], ["regime: fresh", "use sampler=rows"]),
        (["--prng=unsafe_rbg"], ["prng: expected one of", "got 'unsafe_rbg'"]),
        (["--prng=fry"], ["prng: expected one of philox4x32", "got 'fry'"]),
        (["--seed=4294967296"], ["seed:", "got 4294967296"]),
        (["--chains=0"], ["chains: expected an integer >= 1, got 0"]),
        (["--generations=-5"], ["generations: expected an integer >= 1, got -5"]),
        (["--checkpoint_every=0"], ["checkpoint_every: expected an integer >= 1, got 0"]),
        (["--checkpoint_seconds=nan"], ["checkpoint_seconds:", "got nan"]),
        (["--keep_checkpoints=0"], ["keep_checkpoints: expected an integer >= 1, got 0"]),
        (["--chains_per_batch=-1"], ["chains_per_batch: expected an integer >= 0, got -1"]),
        (["--keep=all"], ["keep: expected one of auto, chains, summary, got 'all'"]),
        (["--estimator=map"], ["estimator: expected one of unbiased, ml, got 'map'"]),
        (["--sampler=fast"], ["sampler: expected one of exact, rows, got 'fast'"]),
        (["--sampling_bias=0"], ["sampling_bias: expected a finite number > 0, got 0"]),
        (["--tail=1"], ["tail: expected a share in (0, 1), got 1"]),
        (["--chains=1000000000000"], ["memory: 1000000000000 chains", "GB"]),
        (["100"], ["unexpected argument '100'"]),
        (["--workdir={file}"], ["workdir: cannot create {file}", "File exists"]),
        (["--workdir=/proc/run"], ["workdir: cannot create /proc/run"]),
        (["--workdir={run}", "--samples=50"], ["regime.samples: was 100, now 50"]),
        (["--workdir={run}", "--dim=2"], ["family.dim: was 1, now 2"]),
        (["--workdir={run}", "--generations=2"], ["generations: {run}", "shrink to 2"]),
        (["--workdir={broken}"], ["{broken}/config.json cannot be read"]),
    ],
    "discrete": [
        (["--dataset={latin}"], ["{latin}", "not UTF-8"]),
        (["--dataset={gz}"], ["{gz}", "Not a gzipped file"]),
        (["--dataset={directory}"], ["{directory}"]),
        (["--vocabulary=0"], ["vocabulary from 1", "got 0"]),
        (["--probabilities=1,x"], ["probabilities: expected comma-separated numbers, got '1,x'"]),
        (["--probabilities=0,0"], ["probabilities:", "positive sum"]),
        (["--probabilities=-1,2"], ["probabilities:", ">= 0"]),
        (["--vocabulary=5", "--probabilities=1,2"], ["vocabulary: only for a corpus, got"]),
        (["--tail=0"], ["tail: expected a share in (0, 1), got 0"]),
        (["--samples=1"], ["samples:", "got 1"]),
        (["--regime=fresh", "--real_fraction=2"], ["real_fraction:", "got 2"]),
    ],
    "gmm": [
        (["--truth={missing}"], ["truth: expected two-gaussians, blob", "{missing}"]),
        (["--snapshots=-1"], ["snapshots: expected generations >= 0, got '-1'"]),
        (["--components=0"], ["components: expected an integer >= 1, got 0"]),
    ],
    "kde": [
        (["--bandwidth=wide"], ["bandwidth: expected a positive number or one of", "got 'wide'"]),
        (["--bandwidth=-1"], ["bandwidth: expected a positive number or one of", "got -1.0"]),
        (["--centres=50"], ["centres: expected at least 100", "got 50"]),
    ],
    "regression": [
        (["--samples=11"], ["samples: expected more than 11 per generation", "got 11"]),
        (["--regime=subsample"], ["regime: subsample", "cannot"]),
        (["--design=same", "--regime=fresh"], ["regime: fresh", "use design=new"]),
    ],
    "vae": [
        (["--samples=5000"], ["samples: expected at most the 1,437 training images", "5,000"]),
        (["--dataset={missing}"], ["dataset: expected digits, mnist or", "{missing}"]),
        (["--dataset={directory}"], ["{directory}/train-images-idx3-ubyte", "found no file"]),
        (["--epochs=0"], ["epochs: expected an integer >= 1, got 0"]),
        (["--batch=0"], ["batch: expected an integer >= 1, got 0"]),
        (["--learning_rate=0"], ["learning_rate: expected a finite number > 0, got 0"]),
        (["--kl_weight=-1"], ["kl_weight: expected a finite number >= 0, got -1"]),
        (["--model=big"], ["model: expected one of conv, mlp, got 'big'"]),
        (["--decoder=median"], ["decoder: expected one of mean, bernoulli, got 'median'"]),
        (["--synthetic=both"], ["synthetic: expected one of live, fixed, got 'both'"]),
        (["--start=hot"], ["start: expected one of fresh, warm, got 'hot'"]),
        (["--latent=0"], ["latent: expected an integer >= 1, got 0"]),
        (["--hidden=0"], ["hidden: expected an integer >= 1, got 0"]),
        (["--test_images=2"], ["test_images: expected 6 to the 360 test images", "got 2"]),
        (["--pictures=9999"], ["pictures: expected 0 to test_images", "got 9999"]),
        (["--tail=1"], ["tail: expected a share in (0, 1), got 1"]),
        (["--snapshots=x"], ["snapshots: expected comma-separated integers, got 'x'"]),
    ],
    "language": [
        (["--arms=replace"], ["arms: expected regime:epochs", "got 'replace'"]),
        (["--arms=replace:5,replace:5"], ["arms: expected each once"]),
        (["--dataset={missing}"], ["dataset: expected wikitext-2-raw", "{missing}"]),
        (["--dataset={directory}"], ["dataset: expected the train split at {directory}"]),
        (["--base={missing}"], ["model: expected a directory or an id on the hub", "{missing}"]),
        (["--base={directory}"], ["{directory}", "config.json"]),
        (["--base="], ["model: expected a directory or an id on the hub, got ''"]),
        (["--dataset="], ["dataset: expected wikitext-2-raw", "got ''"]),
        (["--beams=1"], ["beams: expected an integer >= 2, got 1"]),
        (["--temperature=0.5"], ["temperature: expected decoder sample, got beam search"]),
        (["--length=1"], ["length: expected an integer >= 4, got 1"]),
        # Before the small model is trained.
        (["--blocks=0", "--workdir={missing}"], ["blocks: expected 1 to the", "got 0"]),
        (["--blocks=9", "--workdir={missing}"], ["batch: expected at most the 9 blocks"]),
        (["--real_fraction=2"], ["real_fraction: expected a share in [0, 1], got 2"]),
        (["--pretraining_rate=0"], ["pretraining_rate: expected a finite number > 0, got 0"]),
        (["--hidden=7", "--workdir={missing}"], ["heads: expected a divisor of hidden = 7, got 4"]),
        (["--pretraining_share=0"], ["pretraining_share: expected a share in (0, 1), got 0"]),
        (["--workdir="], ["workdir: expected a path"]),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Files and directories that the command lines above name."""
    base = tmp_path_factory.mktemp("places")
    paths = {
        name: base / name
        for name in (
            "file",
            "run",
            "broken",
            "empty",
            "binary",
            "latin",
            "missing",
            "directory",
            "mixture",
        )
    }
    paths["gz"] = base / "text.gz"
    for name, content in {
        "file": b"words",
        "empty": b" \n",
        "binary": b"PK\x03\x04\x00\x00",
        "latin": "caf\xe9 noir".encode("latin-1"),
        "gz": b"not compressed",
        "mixture": b'{"weights": [1, 1], "means": [[0, 0]], "covariances": [[[1, 0], [0, 1]]]}',
    }.items():
        paths[name].write_bytes(content)
    paths["directory"].mkdir()
    paths["broken"].mkdir()
    (paths["broken"] / "config.json").write_text("{")
    collapse_jax.run(
        families.gaussian(),
        regimes.replace(100),
        chains=3,
        generations=3,
        workdir=str(paths["run"]),
    )
    return {name: str(path) for name, path in paths.items()}


def answer(cases, places, directory, small=("--chains=3", "--generations=3")):
    """{(experiment, *arguments): (exit code, standard error)}."""
    path = directory / "lines.json"
    lines = [
        (experiment, list(small) + [text.format(**places) for text in arguments])
        for experiment, arguments, _ in listed(cases)
    ]
    path.write_text(json.dumps(lines))
    result = command("-c", MANY, str(path))
    assert result.returncode == 0, result.stderr
    codes = map(int, result.stdout.split())
    texts = (Path(f"{path}.{i}").read_text() for i in range(len(lines)))
    keys = ((experiment, *arguments) for experiment, arguments, _ in listed(cases))
    return dict(zip(keys, zip(codes, texts, strict=True), strict=True))


def listed(cases):
    return [(experiment, *case) for experiment in cases for case in cases[experiment]]


def named(cases):
    return [pytest.param(*case, id=" ".join([case[0], *case[1]])) for case in listed(cases)]


@pytest.fixture(scope="module")
def common(places, tmp_path_factory):
    return answer(COMMON, places, tmp_path_factory.mktemp("common"))


@pytest.fixture(scope="module")
def other(places, tmp_path_factory):
    return answer(OTHER, places, tmp_path_factory.mktemp("other"))


def test_a_wrong_choice_is_one_line_that_begins_with_the_settings_name(tmp_path):
    where = {function: app for app in APPS for function in APPS[app].SETTINGS}  # each once
    cases = {}
    for function, app in where.items():
        for setting in settings(function):
            if setting.choices:
                cases.setdefault(app, []).append(([f"--{setting.name}=none"], setting))
    answers = answer(cases, {}, tmp_path, small=[])
    assert len(answers) > 15
    for experiment, arguments, setting in listed(cases):
        code, errors = answers[(experiment, *arguments)]
        assert_one_error(code, errors, *setting.choices, "got 'none'")
        assert errors.startswith(f"error: {setting.name}: expected ")


@pytest.mark.parametrize(("experiment", "arguments", "fragments"), named(COMMON))
def test_bad_input_is_one_line(common, places, experiment, arguments, fragments):
    code, errors = common[(experiment, *arguments)]
    assert_one_error(code, errors, *(text.format(**places) for text in fragments))


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "arguments", "fragments"), named(OTHER))
def test_other_bad_input_is_one_line(other, places, experiment, arguments, fragments):
    code, errors = other[(experiment, *arguments)]
    assert_one_error(code, errors, *(text.format(**places) for text in fragments))


@pytest.mark.slow
def test_a_changed_config_from_a_process(places):
    arguments = ("--chains=3", "--generations=3", f"--workdir={places['run']}", "--estimator=ml")
    result = command("-m", "experiments.gaussian", *arguments)
    expected = (places["run"], 'family.estimator: was "unbiased", now "ml"')
    assert_one_error(result.returncode, result.stderr, *expected)


@pytest.mark.slow
def test_a_short_run_says_nothing_on_standard_error(tmp_path):
    arguments = ("--chains=3", "--generations=3", f"--workdir={tmp_path / 'run'}")
    result = command("-m", "experiments.gaussian", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert "gaussian under replace: 3 chains, 3 generations" in result.stdout
    again = tmp_path / "run" / "flags.txt"
    other = ("-m", "experiments.gaussian", f"--flagfile={again}", f"--workdir={tmp_path / 'other'}")
    assert command(*other).returncode == 0  # flags.txt repeats the run
    for name in ("config.json", "summary.csv"):
        one, two = ((tmp_path / run / name).read_text() for run in ("run", "other"))
        assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_of_autoencoders_draw_their_figures(preset, tmp_path):
    """The flag files, with settings that make runs short."""
    result = command(
        "-m", "experiments.vae", f"--flagfile=experiments/presets/vae_{preset}.flags",
        "--dataset=digits", "--samples=130", "--batch=64", "--epochs=1", "--generations=2",
        "--test_images=60", f"--workdir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "correct on 9" in result.stdout  # the classifier's share of test images, in percent
    for name in ("picture", "latent_density", "class_share"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 5_000
