"""One self-contained HTML page, without scripts: sections of text, figures and tables."""

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

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
    """A table; cells may be text, integers, or floats (NaN is shown as a dash)."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Section(NamedTuple):
    """A part of the page: paragraphs (separated by blank lines), figures {caption: PNG}, tables."""

    heading: str
    text: str = ""
    figures: Mapping[str, _PathLike] = {}
    tables: Sequence[Table] = ()


def write(path: _PathLike, title: str, sections: Sequence[Section]) -> None:
    """Writes one HTML file that needs no others: figures and style are inlined.

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
