"""The report is well-formed HTML that shows its input; the table's numbers are checked by hand."""

import base64
import csv
import html.parser
import json
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from collapse_jax import families
from collapse_jax.families.gmm.em import Fitting
from collapse_jax.reports import page, run_section
from collapse_jax.results import table

HOSTILE = '<script>alert("1")</script> & \''
VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def read(path: Path) -> Page:
    found = Page()
    found.feed(path.read_text(encoding="utf-8"))
    found.close()
    assert found.open == []
    return found


def summary(dims: tuple[str, ...] = ()) -> xr.Dataset:
    """Two generations of 101 chains: mean 1.5 then 1.5, sd 2; the original's mean is 0.5."""
    shape = (2, *[2] * len(dims))
    layout = ("generation", *dims)
    data: dict[str, Any] = {}
    for name in ("mean", "tail_mass"):
        axes = layout if name == "mean" else ("generation",)
        size = shape if name == "mean" else (2,)
        data |= {
            f"{name}_count": (axes, np.full(size, 101.0)),
            f"{name}_mean": (axes, np.full(size, 1.5), {}),
            f"{name}_sd": (axes, np.full(size, 2.0)),
            f"{name}_quantile": ((*axes, "quantile"), np.full((*size, 3), [-1.0, 1.0, 3.0])),
        }
    times = {"early_collapse": [0] * 60 + [-1] * 41, "late_collapse": [-1] * 101}
    times["nonfinite"] = [-1] * 101
    data |= {name: ("chain", np.array(value, np.int32)) for name, value in times.items()}
    data["mean_mean"][-1]["original"] = (0.5, 0.5) if dims else 0.5
    attributes = {
        "family": json.dumps({"name": "gaussian", "dim": 1}),
        "description": HOSTILE,
        "regime": json.dumps({"name": "replace", "samples": 100}),
        "chains": 101,
        "fingerprint": "0123456789abcdef",
    }
    return xr.Dataset(data, {"generation": [0, 1], "quantile": [0.05, 0.5, 0.95]}, attributes)


def result(data: xr.Dataset) -> Any:
    return types.SimpleNamespace(
        history=data,
        summary=data,
        family=types.SimpleNamespace(name="gaussian"),
        regime=types.SimpleNamespace(name="replace"),
        config=types.SimpleNamespace(generations=2, seed=7),
        seconds=1.5,
    )


EXPECTED = {
    ("mean", "mean"): np.array([1.0, math.nan]),
    ("mean", "variance"): np.array([4.0, 5.0]),
}


def test_z_scores_by_hand() -> None:
    found = {(r.metric, r.statistic, r.generation): r for r in table.rows(summary(), EXPECTED)}
    mean = found["mean", "mean", 0]
    assert mean.n == 101
    assert mean.se == pytest.approx(2 / math.sqrt(101))
    assert mean.z == pytest.approx(0.5 / (2 / math.sqrt(101)))
    assert (mean.q05, mean.q50, mean.q95) == (-1.0, 1.0, 3.0)
    drift = found["mean", "variance", 0]
    value = 4 * 100 / 101 + 1.0  # sd^2 (n - 1) / n + (1.5 - 0.5)^2
    assert drift.value == pytest.approx(value)
    assert drift.se == pytest.approx(value * math.sqrt(2 / 100))
    assert drift.z == pytest.approx((value - 4) / (value * math.sqrt(2 / 100)))
    assert found["tail_mass", "variance", 1].value == 4.0
    assert math.isnan(found["mean", "mean", 1].z)
    assert math.isnan(found["tail_mass", "mean", 0].theory)


def test_which_mixture_ran_is_said() -> None:
    data = summary()
    for truth, label in (
        ("two-gaussians", "two-gaussians"),
        (
            {"weights": [1.0], "means": [[1.0]], "covariances": [[[4.0]]]},
            "1 Gaussian in 1 d, sd 2",
        ),
    ):
        family = families.gmm(3, truth, fitting=Fitting("diagonal", regularisation=0.0))
        data.attrs["family"] = json.dumps({"name": "gmm", **family.config})
        data.attrs["description"] = family.description
        described = f"gmm (k = 3, diagonal covariances, original: {label}), replace"
        assert table.describe(data).startswith(described)
        section = run_section.run_section(result(data), {}, {})
        assert f"original: {label})" in section.text
        assert "regularisation 0," in section.text
        assert "components 3," in section.text


def test_vector_metrics_compare_the_average_of_their_variances() -> None:
    data = summary(dims=("dimension",))
    expected = {("mean", "variance"): np.array([4.0, 5.0]), ("mean", "mean"): np.ones((2, 2))}
    found = {
        (r.statistic, r.dims, r.generation): r
        for r in table.rows(data, expected)
        if r.metric == "mean"
    }
    value = 4 * 100 / 101 + 1.0
    average = found["variance", "mean over dimension", 1]
    assert average.value == pytest.approx(value)
    assert average.se == pytest.approx(value * math.sqrt(2 / 100) / math.sqrt(2))
    assert math.isnan(found["variance", "dimension=1", 1].theory)
    assert found["mean", "dimension=1", 0].theory == 1.0


def test_no_z_where_chains_agree_or_there_is_one() -> None:
    data = summary()
    data["mean_sd"] = data["mean_sd"] * [0.0, math.nan]
    data["mean_count"] = data["mean_count"] * 0 + [101, 1]
    rows = [r for r in table.rows(data, EXPECTED) if r.metric == "mean"]
    assert all(math.isnan(r.z) for r in rows if r.statistic == "mean")
    assert [r.value for r in rows if r.statistic == "variance"] == [1.0, 1.0]
    assert math.isnan(rows[-1].z)


def test_pictures_have_no_lines() -> None:
    data = summary()
    for entries, lines in ((table.MOST_ENTRIES, 4 * table.MOST_ENTRIES), (1001, 0)):
        wide = {
            f"mean_{part}": data[f"mean_{part}"].expand_dims(pixel=entries, axis=1)
            for part in ("mean", "sd", "count", "quantile")
        }
        rows = table.rows(data.assign(wide), {})
        assert sum(row.metric == "mean" for row in rows) == lines


def test_csv_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    table.write_csv(path, summary(), EXPECTED)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = list(table.rows(summary(), EXPECTED))
    assert list(lines[0]) == list(table.Row._fields)
    assert len(lines) == len(rows) == 8
    for text, row in zip(lines, rows, strict=True):
        assert (text["metric"], int(text["generation"])) == (row.metric, row.generation)
        for name in ("value", "se", "q50", "theory", "z"):
            number = float(text[name]) if text[name] else math.nan
            assert number == pytest.approx(getattr(row, name), rel=1e-8, nan_ok=True)


def test_page_is_well_formed_escaped_and_self_contained(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG pretend")
    hostile = page.Table(HOSTILE, [HOSTILE], [[HOSTILE], [math.nan], [12345], [0.123456], [None]])
    sections = [
        page.Section(HOSTILE, f"{HOSTILE}\n\nsecond", {HOSTILE: image, "b": image}, [hostile]),
        page.Section("empty"),
    ]
    path = tmp_path / "report.html"
    page.write(path, HOSTILE, sections)
    found = read(path)
    tags = [tag for tag, _ in found.seen]
    assert "script" not in tags
    assert tags.count("img") == 2
    assert tags.count("p") == 2
    assert tags.count("section") == 2
    images = [attributes for tag, attributes in found.seen if tag == "img"]
    assert images[0]["alt"] == HOSTILE
    assert base64.b64decode(str(images[0]["src"]).partition(",")[2]) == image.read_bytes()
    assert HOSTILE in found.texts
    assert {"\u2013", "12,345", "0.1235"} < set(found.texts)
    links = [a.get("href", "#") for _, a in found.seen] + [
        a.get("src", "data:") for _, a in found.seen
    ]
    assert all(str(link).startswith(("#", "data:")) for link in links)


def test_run_section_says_what_ran_and_how_it_ended(tmp_path: Path) -> None:
    section = run_section.run_section(result(summary()), {}, EXPECTED)
    for part in (
        "101 chains",
        "2 generations",
        "M = 100",
        "Seed 7",
        "0123456789ab;",
        "1.5 seconds",
    ):
        assert part in section.text
    assert HOSTILE in section.text
    collapse, theory = section.tables
    early, late = collapse.rows
    assert early[2:5] == (60, "59.41%", 0)
    assert late[2:5] == (0, "0.00%", "not reached")
    assert early[-1] == late[-1] == 101
    assert [row[:3] for row in theory.rows] == [
        ("mean", "mean", 0),
        ("mean", "variance", 0),
        ("mean", "variance", 1),
    ]
    page.write(tmp_path / "a.html", "one", [section])
    read(tmp_path / "a.html")


def test_lost_chains_are_named() -> None:
    data = summary()
    data["nonfinite"] = ("chain", np.array([1, *[-1] * 100], np.int32))
    section = run_section.run_section(result(data), {}, {})
    assert "1 chain of 101 (0.99%) turned non-finite" in section.text
    assert section.tables[0].rows[2][0] == "non-finite"
    assert len(section.tables) == 1


def test_largest_z() -> None:
    worst = run_section.largest_z(result(summary()), EXPECTED)
    assert worst is not None
    assert (worst.metric, worst.statistic, worst.generation) == ("mean", "mean", 0)
    assert run_section.largest_z(result(summary()), {}) is None
