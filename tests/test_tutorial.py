"""The code of docs/tutorial.md runs, and its results agree with the text."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
ROOT_CHAINS = np.sqrt(2_000)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Names defined by the page's code blocks, run in order in their own directory."""
    blocks = re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    names: dict = {"directory": tmp_path_factory.mktemp("tutorial")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(names["directory"])
        # One batch per run: each of the tests' four devices would compile its own program.
        patch.setattr("jax.local_device_count", lambda: 1)
        mpl.use("Agg")
        for block in blocks:
            exec(compile(block, str(TUTORIAL), "exec"), names)
        names["plt"].close("all")
    return names


def test_log_variance_follows_the_closed_form(page):
    assert page["z"].shape == (100,)
    assert abs(page["z"]).max() < 4.0


@pytest.mark.parametrize(
    ("regime", "generations"),
    # Later, means over chains under replace are too heavy-tailed; fresh is not steady before.
    [("replace", range(25)), ("accumulate", range(100)), ("fresh", range(90, 100))],
)
def test_drift_follows_the_closed_form(page, regime, generations):
    square, expected = page["squares"][regime].values, page["closed_forms"][regime]
    error = square.std(axis=0, ddof=1) / ROOT_CHAINS
    z = (square.mean(axis=0) - expected) / error
    assert abs(z[list(generations)]).max() < 4.0


def test_files_are_where_the_page_says(page):
    written = page["directory"] / "runs" / "tutorial"
    for name in ("history.nc", "summary.csv", "report.html", "config.json", "env.json"):
        assert (written / name).is_file()
    assert list((written / "plots").glob("*.png"))


def test_a_summary_keeps_no_chain(page):
    assert "log_variance" not in page["many"].history
    assert page["many"].summary.sizes["chain"] == 10_000  # collapse times
