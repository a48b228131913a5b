"""`collapse-jax`: runs an experiment by name, or lists all experiments."""

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

collapse-jax EXPERIMENT --helpshort explains an experiment and lists its flags. Its commands are
those of a clone: here `python -m experiments.NAME` is `collapse-jax NAME`, and
`experiments/presets` is the folder printed by `collapse-jax presets`, as in
--flagfile=$(collapse-jax presets)/NAME.flags
"""


def experiments() -> dict[str, str]:
    """First docstring lines of all modules that are programs, by name.

    The modules are parsed, not imported, since importing JAX takes seconds.
    """
    lines = {}
    for path in sorted(_HERE.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text:
            lines[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return lines


def usage() -> str:
    """The usage text, with one line per experiment."""
    rows = {
        **experiments(),
        _PRESETS: "Prints the folder of the flag files with the papers' settings and miniatures.",
    }
    width = max(map(len, rows))
    return _USAGE.format(rows="\n".join(f"  {name:{width}}  {rows[name]}" for name in rows))


def main() -> None:
    """Runs the experiment named first, as `python -m` would, with the remaining flags."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name.startswith(("-h", "--help")):
        print(usage(), end="")
    elif name == _PRESETS:
        print(_HERE / _PRESETS)
    elif name in (known := experiments()):
        # Absl tells the program's own flags by its path, argv[0], which run_module sets.
        del sys.argv[1]
        runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
    else:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "collapse-jax alone lists all"
        sys.exit(f"error: no experiment {name!r}; {hint}")


if __name__ == "__main__":
    main()
