"""Code shared by the experiments' command lines: flags, one-line errors, and a run's files."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging

from collapse_jax.arguments import SettingError
from collapse_jax.config import RegimeConfig, RunConfig

from .flags import define_flags

if TYPE_CHECKING:
    from collapse_jax.family import Family
    from collapse_jax.regimes import Regime
    from collapse_jax.runner import Result


# Size of the cache of compiled programs; the least recently used are removed first.
_COMPILED_BYTES = 1 << 30


def define(*functions: Callable[..., Any], given: Collection[str] = (), **defaults: Any) -> None:
    """Defines the settings of functions as the calling program's own flags.

    Args:
      *functions: see `experiments.flags.settings`.
      given: settings that the program itself provides, which get no flags.
      **defaults: defaults of flags that replace those of the functions.
    """
    for function in functions:
        for name in define_flags(function, given=given):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    for name, value in defaults.items():
        flags.FLAGS.set_default(name, value)


def use_all_cores() -> None:
    """Makes every core a separate device, for families whose chains run one after the other.

    JAX_NUM_CPU_DEVICES overrides it. For a given --chains_per_batch, results do not depend on the
    number of devices.
    """
    import os

    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        # The cores that this process may use, if the system tells.
        allowed = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count() or 1))
        jax.config.update("jax_num_cpu_devices", len(allowed(0)))


def start(main: Callable[[], None], keep_compiled: bool = True) -> None:
    """Runs `main` after parsing flags; user errors become one line and exit code 1.

    Args:
      main: the program.
      keep_compiled: whether to keep compiled programs for later runs.
    """

    def guarded(arguments: Sequence[str]) -> None:
        if len(arguments) > 1:
            _fail(f"unexpected argument {arguments[1]!r}; flags look like --name=value")
        warnings.showwarning = _one_line_warning
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # JAX reports every absent backend
            for name in ("absl", "asyncio"):  # Orbax logs, with a traceback, what it then raises
                getLogger(name).setLevel("CRITICAL")
            getLogger("huggingface_hub").propagate = False  # it writes its own lines
            sys.unraisablehook = _without_late_callbacks
        if keep_compiled:
            _keep_compiled()
        try:
            main()
        except KeyboardInterrupt:
            print("interrupted; progress saved before is kept", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            _explain(error)

    app.run(guarded, flags_parser=parse)


def parse(arguments: list[str]) -> list[str]:
    """Parses flags; a value of the wrong type gives one line starting with the setting's name."""
    try:
        return flags.FLAGS(arguments)
    except flags.IllegalFlagValueError as error:
        # "flag --name=value: reason"; the reason is the original error.
        name, _, rest = str(error).removeprefix("flag --").partition("=")
        value = rest.removesuffix(f": {error.__context__}")
        kind = flags.FLAGS[name].parser.syntactic_help or "true or false"
        return _fail(f"{name}: expected {kind}, got {value!r}")
    except flags.Error:
        return app.parse_flags_with_usage(arguments)  # with absl's own message


def _without_late_callbacks(ignored: "sys.UnraisableHookArgs") -> None:
    """Suppresses the output of TensorStore's threads after a failed save has been reported.

    The save's remaining writes end later and find its event loop closed.
    """
    if not (ignored.exc_type is RuntimeError and str(ignored.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(ignored)


def _keep_compiled() -> None:
    """Keeps compiled programs in the user's cache directory.

    JAX_COMPILATION_CACHE_DIR moves the cache, JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    import os

    import jax

    from collapse_jax.data import files

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", _COMPILED_BYTES)


def _explain(error: Exception) -> None:
    """Prints errors that a user can fix without a traceback; raises all others, which are bugs."""
    from collapse_jax.saving.checkpoint import CheckpointError
    from collapse_jax.saving.signals import Stopped

    if isinstance(error, Stopped):
        print(error, file=sys.stderr)
        # The exit code of a process killed by it: a retry loop sees that the run is not complete.
        sys.exit(128 + error.number)
    if isinstance(error, SettingError | CheckpointError):
        _fail(str(error))
    raise error


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _one_line_warning(message: Any, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def regime(config: RegimeConfig) -> "Regime":
    """The regime described by flags."""
    from collapse_jax import regimes

    if config.regime == "preserve":
        return regimes.preserve(config.sizes, config.fraction, config.fixed_subset)
    if config.regime == "fresh":
        return regimes.fresh(config.sizes, config.fraction, config.independent)
    if config.regime == "mixture":
        return regimes.mixture(config.sizes, *config.shares)
    simple = {
        "replace": regimes.replace,
        "accumulate": regimes.accumulate,
        "subsample": regimes.subsample,
    }
    return simple[config.regime](config.sizes)


def run(
    family: "Family",
    regime: "Regime",
    config: RunConfig,
    generations: Sequence[int] = (0,),
) -> "Result":
    """Runs, writes figures and report if there is a workdir, and prints a summary.

    Args:
      family, regime, config: of the run.
      generations: generations that the family's own figures select, if they show single ones.
    """
    from collapse_jax import runner
    from collapse_jax.reports.files import digest, write_all

    values = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    text = "".join(f"{flag.serialize()}\n" for flag in values if flag.value is not None)
    settings = dataclasses.asdict(config)
    result = runner.run(family, regime, progress=True, flagfile=text, **settings)
    if config.workdir:
        write_all(config.workdir, result, generations)
    print(digest(result))
    return result
