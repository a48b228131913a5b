"""The files for readers of a run: history.nc, summary.csv, plots and report.html."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import xarray as xr
from etils import epath

from collapse_jax.arguments import SettingError
from collapse_jax.reports import figures, page, run_section
from collapse_jax.results import closed_forms, survival, table
from collapse_jax.runner import Result


def write_all(workdir: str, result: Result, generations: Sequence[int] = (0,)) -> page.Section:
    """Writes history, summary, plots and report into a run's workdir, local or gs://.

    Args:
      workdir: of the run.
      result: of the run.
      generations: generations that the family's own figures select, if they show single ones;
        those that the run has not reached are left out.

    Returns:
      The report's section on the run, with the paths of its figures under the workdir.

    Raises:
      ValueError: if something cannot be written.
    """
    try:
        return _write_all(epath.Path(workdir), result, generations)
    except OSError as error:
        raise SettingError(
            f"workdir: cannot write the results to {workdir}: {error.strerror or error}; the run"
            " itself is saved, the same command continues"
        ) from error


def _write_all(directory: epath.Path, result: Result, generations: Sequence[int]) -> page.Section:
    run = (result.family, result.regime, result.config.generations)
    curves, shown = closed_forms.curves(*run), closed_forms.curves(*run, heavy_tailed=True)
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch)
        write_history(local / "history.nc", result.history)
        table.write_csv(local / "summary.csv", result.summary, curves)
        (local / "plots").mkdir()
        drawn = figures.of_run(result.family, result, shown, generations)
        paths = figures.save(drawn, local / "plots")
        title = str(result.summary.attrs["title"])
        section = run_section.run_section(result, paths, curves)
        page.write(local / "report.html", title, [section])
        (directory / "plots").mkdir(parents=True, exist_ok=True)
        for path in sorted(local.rglob("*")):
            if path.is_file():
                target = directory / str(path.relative_to(local))
                with path.open("rb") as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    written = {
        name: directory / "plots" / Path(path).name for name, path in section.figures.items()
    }
    return section._replace(figures=written)


def write_history(path: Path, dataset: xr.Dataset) -> None:
    """Writes a dataset as a netCDF 4 file."""
    dataset.to_netcdf(path, engine="h5netcdf")


def digest(result: Result) -> str:
    """A few lines of text on the last generation and on collapse times."""
    last = result.summary.isel(generation=-1)
    lines = [
        f"{result.family.name} under {result.regime.name}: {result.config.chains} chains,"
        f" {result.config.generations} generations, {result.seconds:.1f} s"
    ]
    for name, metric in result.family.metrics.items():
        if not metric.dims:
            values = (float(last[f"{name}_{statistic}"]) for statistic in ("mean", "sd"))
            mean, sd = values
            lines.append(f"  {name:18s} mean {mean:11.5g}   sd {sd:11.5g}   {metric.long_name}")
    lost = result.summary["nonfinite"].values
    for name in (*result.family.thresholds, "nonfinite"):
        variable = name if name == "nonfinite" else f"{name}_collapse"
        reached = result.summary[variable].values
        curve = survival.kaplan_meier(
            reached, result.config.generations, None if name == "nonfinite" else lost
        )
        half = curve.generation[curve.survival <= 0.5]
        when = f"median generation {half[0]}" if len(half) else "median not reached"
        lines.append(f"  {variable:18s} {curve.events} of {reached.size}, {when}")
    if result.config.workdir:
        lines.append(f"  written to {result.config.workdir}")
    return "\n".join(lines)
