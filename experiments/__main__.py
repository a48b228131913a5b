"""`collapse-jax`: runs an experiment by name; alone, lists them all."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_PRESETS = "presets"
_USAGE = """\
usage: collapse-jax EXPERIMENT [--flag=value ...]

{rows}

collapse-jax EXPERIMENT --helpshort explains an experiment and lists its flags. Commands there are
as in a clone: `python -m experiments.NAME` is `collapse-jax NAME`, and `experiments/presets` the
folder that `collapse-jax presets` prints, as in --flagfile=$(collapse-jax presets)/NAME.flags
"""


def experiments() -> dict[str, str]:
    """The first lines of the docstrings of all modules that are programs, by name.

    They are read, not imported: JAX takes seconds to start.
    """
    lines = {}
    for path in sorted(_HERE.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text:
            lines[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return lines


def usage() -> str:
    """How to call it, with one line an experiment."""
    rows = {**experiments(), _PRESETS: "Prints the folder of the flag files that come with it."}
    width = max(map(len, rows))
    return _USAGE.format(rows="\n".join(f"  {name:{width}}  {rows[name]}" for name in rows))


def main() -> None:
    """Runs the experiment that is named first, as `python -m` would, with the flags after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name.startswith(("-h", "--help")):
        print(usage(), end="")
    elif name == _PRESETS:
        print(_HERE / _PRESETS)
    elif name in (known := experiments()):
        # Absl says by the program's path, argv[0], which flags are its own; run_module sets it.
        del sys.argv[1]
        runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
    else:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "collapse-jax alone lists them"
        sys.exit(f"error: no experiment {name!r}; {hint}")


if __name__ == "__main__":
    main()
