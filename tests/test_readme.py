"""The README's notebook lines run, and its commands are where CI looks for them."""

import re
from pathlib import Path

import matplotlib as mpl

README = Path(__file__).parent.parent / "README.md"


def test_notebook_lines():
    mpl.use("Agg")
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = block.replace("chains=10_000", "chains=500")
    assert code != block
    names = {}
    exec(code, names)
    history = names["result"].history
    assert history.sizes == {"chain": 500, "generation": 1000}
    assert history.log_variance.attrs["units"]
    # The README says by how much the variance decays.
    last = float(history.log_variance.isel(generation=-1).median())
    assert -1000 / 99 - 1.5 < last < -1000 / 99 + 1.5


def test_experiments_exist():
    modules = set(re.findall(r"python -m (experiments\.\w+)", README.read_text()))
    assert len(modules) >= 5
    for module in modules:
        assert (README.parent / f"{module.replace('.', '/')}.py").exists()


def test_commands_are_one_line_each():
    found = re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*)\n```\n", README.read_text())
    assert [name for name, _ in found] == ["quick", "test"]
