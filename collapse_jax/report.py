"""The report: one self-contained HTML page, without scripts, of what ran and how it ended."""

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath

from collapse_jax import history, truths
from collapse_jax.summary_table import Expected, Row, number_of_chains, rows, sample_size, settings

if TYPE_CHECKING:
    from collapse_jax.runner import Result

_PathLike = str | os.PathLike[str]

_STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p { max-width: 48rem; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
figcaption, caption { color: #555; font-size: 0.85rem; text-align: left; }
caption { padding-bottom: 0.3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }
th, td { padding: 0.15rem 0.8rem 0.15rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #888; } td { border-bottom: 1px solid #e6e6e6; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


class Table(NamedTuple):
    """Cells may be text, whole numbers, or floats (of which NaN is shown as a dash)."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Section(NamedTuple):
    """A part of the page: paragraphs (parted by blank lines), figures {caption: PNG}, tables."""

    heading: str
    text: str = ""
    figures: Mapping[str, _PathLike] = {}
    tables: Sequence[Table] = ()


def write(path: _PathLike, title: str, sections: Sequence[Section]) -> None:
    """Writes one HTML file that needs no other: figures and style are inside it.

    Args:
      path: of the file, local or gs://.
      title: of the page.
      sections: in order; all text is escaped.
    """
    escaped = html.escape(title)
    body = "\n".join(_section(section, number) for number, section in enumerate(sections))
    contents = "".join(
        f'<li><a href="#section-{number}">{html.escape(section.heading)}</a></li>'
        for number, section in enumerate(sections)
    )
    if len(sections) > 1:
        body = f"<ul>{contents}</ul>\n{body}"
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escaped}</h1>\n{body}\n</body>\n</html>\n"
    )
    epath.Path(path).write_text(page, encoding="utf-8")


def _section(section: Section, number: int) -> str:
    paragraphs = [part.strip() for part in section.text.split("\n\n") if part.strip()]
    parts = [f'<h2 id="section-{number}">{html.escape(section.heading)}</h2>']
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs]
    parts += [_table(table) for table in section.tables]
    if section.figures:
        shown = "\n".join(_figure(*item) for item in section.figures.items())
        parts.append(f'<div class="figures">\n{shown}\n</div>')
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _figure(caption: str, path: _PathLike) -> str:
    data = base64.b64encode(epath.Path(path).read_bytes()).decode("ascii")
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    lines = ["".join(_cell(value) for value in row) for row in table.rows]
    header = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table><caption>{html.escape(table.caption)}</caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, (bool, str)) or value is None:
        return f"<td>{html.escape('' if value is None else str(value))}</td>"
    return f'<td class="number">{html.escape(_number(value))}</td>'


def _number(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return "\u2013" if math.isnan(value) else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)


def run_section(
    result: "Result", figure_paths: Mapping[str, _PathLike], expected: Expected
) -> Section:
    """What ran, in plain words, when it collapsed, and how it compares with closed forms.

    Args:
      result: of `collapse_jax.run`.
      figure_paths: {name: PNG}, as `plots.save` returns them.
      expected: the closed forms that hold for this run.
    """
    tables = [_collapse_table(result)]
    compared = _theory_table(result, expected)
    if compared.rows:
        tables.append(compared)
    figures = {name.replace("_", " "): path for name, path in figure_paths.items()}
    heading = f"{result.family.name} under {result.regime.name}"
    return Section(heading, _in_words(result, expected), figures, tables)


def _in_words(result: "Result", expected: Expected) -> str:
    summary, config = result.summary, result.config
    family, regime = (_options(settings(summary, what)) for what in ("family", "regime"))
    chains = number_of_chains(summary)
    text = (
        f"{_count(chains, 'chain')} of the family {result.family.name}{family}"
        f" ran for {_count(config.generations, 'generation')} under the regime"
        f" {result.regime.name}{regime} with M = {sample_size(summary)} samples a generation."
        f" Seed {config.seed}; fingerprint {str(summary.attrs.get('fingerprint', ''))[:12]};"
        f" {result.seconds:.1f} seconds."
    )
    lost = int(np.sum(summary["nonfinite"].values >= 0))
    if lost:
        text += (
            f" {_count(lost, 'chain')} of {chains:,} ({lost / chains:.2%}) turned non-finite and"
            " from then on are left out of means and quantiles."
        )
    worst = largest_z(result, expected)
    if worst is not None:
        text += (
            f"\n\nThe largest |z| against a closed form is {abs(worst.z):.2f}: {worst.metric},"
            f" {worst.statistic}, generation {worst.generation} (n = {worst.n:,}). Neighbouring"
            " generations are correlated, and there are many of them."
        )
    return text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _options(config: Mapping[str, Any]) -> str:
    """Settings in brackets; those that are long, off or said elsewhere are left out."""
    if "truth" in config:
        config = {**config, "truth": truths.label(config["truth"])}
    shown = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in config.items()
        if name not in ("name", "samples")
        and value is not None
        and value is not False  # 0 is a setting, though it equals False
        and (name == "title" or len(str(value)) <= 48)
    ]
    return f" ({', '.join(shown)})" if shown else ""


def _collapse_table(result: "Result") -> Table:
    summary = result.summary
    lost = summary["nonfinite"].values
    kinds = [str(name) for name in summary.data_vars if str(name).endswith("_collapse")]
    lines = []
    for name in [*kinds, *(["nonfinite"] if np.any(lost >= 0) else [])]:
        censoring = None if name == "nonfinite" else lost
        generations = summary.sizes["generation"]
        curve = history.kaplan_meier(summary[name].values, generations, censoring)
        earliest, latest = (_first_below_half(x) for x in (curve.lower, curve.upper))
        lines.append(
            (
                "non-finite" if name == "nonfinite" else name.replace("_", " "),
                str(summary[name].attrs.get("long_name", "")),
                curve.events,
                f"{curve.events / curve.chains:.2%}",
                _first_below_half(curve.survival),
                f"{earliest} to {latest}" if isinstance(earliest, int) else earliest,
                curve.chains,
            )
        )
    return Table(
        "Collapse: Kaplan\u2013Meier median over chains; a chain that does not get there within"
        " the run, or turns non-finite before, is right-censored.",
        ("event", "which is the", "chains", "share", "median generation", "95 % interval", "n"),
        lines,
    )


def _first_below_half(survival: np.ndarray) -> int | str:
    reached = np.flatnonzero(survival <= 0.5)
    return int(reached[0]) if len(reached) else "not reached"


def _theory_table(result: "Result", expected: Expected) -> Table:
    """Measured against theory at about half a dozen generations."""
    length = result.summary.sizes["generation"]
    chosen = set(np.unique(np.geomspace(1, length, 6).round().astype(int) - 1).tolist())
    compared = [row for row in _compared(result, expected)]
    lines = [
        (f"{row.metric} {row.dims}".strip(), row.statistic, row.generation, row.value, row.se)
        + (row.theory, row.z, row.n)
        for row in compared
        if row.generation in chosen
    ]
    return Table(
        "Measured against closed forms, z = (measured \u2212 theory) / SE; n finite chains. SE of"
        " a variance is that of normal theory, value \u00d7 \u221a(2/(n \u2212 1)); the variance of"
        " the metric mean is about the original's mean.",
        ("metric", "statistic", "generation", "measured", "SE", "theory", "z", "n"),
        lines,
    )


def _compared(result: "Result", expected: Expected) -> list[Row]:
    return [row for row in rows(result.summary, expected) if not math.isnan(row.theory)]


def largest_z(result: "Result", expected: Expected) -> Row | None:
    """The comparison with the largest |z| over all metrics and generations; None without any."""
    scored = [row for row in _compared(result, expected) if not math.isnan(row.z)]
    return max(scored, key=lambda row: abs(row.z), default=None)
