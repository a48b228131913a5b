"""Progress shown during a run."""

import pytest

import collapse_jax
from collapse_jax import regimes
from collapse_jax.engine import progress
from collapse_jax.engine.progress import Progress
from tests.toys import walker


@pytest.fixture
def no_wait(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)


def test_lines_without_a_terminal(no_wait, capsys):
    with Progress("walk / replace", 8, shown=True) as bar:
        bar.advance(2, "generation 1")
        bar.advance(0, "generation 1, fit")
    assert capsys.readouterr().err.splitlines() == [
        "walk / replace: 25 %, generation 1, after 0 min",
        "walk / replace: 25 %, generation 1, fit, after 0 min",
    ]


def test_a_line_a_minute(capsys):
    with Progress("walk / replace", 8, shown=True) as bar:
        bar.advance(2, "generation 1")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(no_wait, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress("walk / replace", 8, shown=True) as bar:
        bar.advance(2, "generation 1")
    said = capsys.readouterr().err
    assert "25%" in said
    assert "generation 1" in said
    assert "after" not in said


def test_stages_are_named(no_wait, capsys):
    collapse_jax.run(walker(), regimes.replace(5), chains=2, generations=2, progress=True)
    said = capsys.readouterr().err
    for place in ("generation 0, fit", "generation 1, assemble", "100 %, 2 generations done"):
        assert place in said
