"""Comparison of conditions: tables, text and figures, and the experiment that makes them."""

import csv

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from collapse_jax import families, regimes
from collapse_jax.config import RunConfig, SnapshotConfig
from collapse_jax.families.language import figures, measures
from collapse_jax.families.language.writing import Decoding
from collapse_jax.lm.finetune import Perplexity
from collapse_jax.reports import language_tables
from collapse_jax.runner import Result
from experiments import language
from experiments.flags import from_flagfile, grouped
from experiments.language import Comparison
from experiments.pretraining import SmallModel
from tests.families.language import small

CHAINS, GENERATIONS = 4, 3


def made_up_run(seed, shift, lost=()):
    """A run with random perplexities; `lost` lists non-finite (chain, generation)."""
    rng = np.random.default_rng(seed)
    values = 30.0 + shift * np.arange(GENERATIONS) + rng.standard_normal((CHAINS, GENERATIONS))
    finite = np.ones((CHAINS, GENERATIONS), bool)
    for place in lost:
        finite[place] = False
    names = (language_tables.PERPLEXITY, language_tables.OF_CORPUS, "tail_mass")
    dims = ("chain", "generation")
    history = xr.Dataset({name: (dims, values) for name in names} | {"finite": (dims, finite)})
    masked = np.where(finite, values, np.nan)
    found = {}
    for name in names:
        found[f"{name}_mean"] = ("generation", np.nanmean(masked, axis=0))
        found[f"{name}_sd"] = ("generation", np.nanstd(masked, axis=0, ddof=1))
        found[f"{name}_count"] = ("generation", finite.sum(axis=0))
    ends = np.where(finite.all(axis=1), -1, np.argmin(finite, axis=1))
    found["nonfinite"] = ("chain", ends)
    config = RunConfig(chains=CHAINS, generations=GENERATIONS)
    return Result(
        history=history,
        summary=xr.Dataset(found),
        params=[],
        family=None,
        regime=regimes.replace(9),
        config=config,
        seconds=0.0,
    )


RUNS = {
    "replace, 5 epochs": made_up_run(0, 5.0),
    "preserve, 5 epochs": made_up_run(1, 1.0, lost=[(2, 1)]),
}


def test_differences_are_paired_and_leave_out_what_is_lost_in_either():
    one, other = RUNS.values()
    found = language_tables.difference(one.history, other.history, language_tables.PERPLEXITY)
    assert found.pairs.tolist() == [4, 3, 4]
    kept = [0, 1, 3]
    name = language_tables.PERPLEXITY
    apart = (one.history[name].values - other.history[name].values)[kept, 1]
    low, high = stats.t.interval(0.95, 2, apart.mean(), stats.sem(apart))
    np.testing.assert_allclose(found.mean[1], apart.mean())
    np.testing.assert_allclose(found.half[1], (high - low) / 2)


def test_one_chain_has_no_interval():
    one, other = (each.history.isel(chain=[2]) for each in RUNS.values())
    found = language_tables.difference(one, other, language_tables.PERPLEXITY)
    assert np.isnan(found.half).all()
    assert np.isnan(found.mean).tolist() == [False, True, False]


def test_table_holds_means_deviations_and_differences():
    table = language_tables.perplexities(RUNS)
    assert list(table.columns) == [
        "generation", "replace, 5 epochs", "sd", "chains", "preserve, 5 epochs", "sd", "chains",
        "replace, 5 epochs − preserve, 5 epochs", "± 95 %",
    ]  # fmt: skip
    assert [row[0] for row in table.rows] == [0, 1, 2]
    assert table.rows[1][6] == 3
    summary = RUNS["replace, 5 epochs"].summary
    np.testing.assert_allclose(table.rows[2][1], summary["test_perplexity_mean"][2])


def test_words_name_sources_zero_shot_and_ends():
    text = language_tables.summary_text(
        RUNS, Perplexity(115.0, 90.0), {"train": "wiki.valid.raw.xz"}
    )
    assert "train: wiki.valid.raw.xz" in text
    assert "115 (mean of blocks), 90 (exp of the mean loss)" in text
    first = float(RUNS["replace, 5 epochs"].summary["test_perplexity_mean"][0])
    assert f"replace, 5 epochs: {first:.4g} at generation 0" in text
    assert "preserve, 5 epochs: 1 of 4 chains diverged." in text
    assert text.count("diverged") == 1


def test_csv_has_every_chain():
    rows = list(csv.DictReader(language_tables.as_csv(RUNS).splitlines()))
    assert len(rows) == 2 * CHAINS * GENERATIONS
    assert {row["arm"] for row in rows} == set(RUNS)
    order = [(row["arm"], row["generation"], row["chain"]) for row in rows]
    assert order[:2] == [("replace, 5 epochs", "0", "0"), ("replace, 5 epochs", "0", "1")]
    for row in rows:
        history = RUNS[row["arm"]].history
        place = {"generation": int(row["generation"]), "chain": int(row["chain"])}
        for name in (language_tables.PERPLEXITY, language_tables.OF_CORPUS):
            assert float(row[name]) == float(history[name].isel(place))


def test_csv_has_means_where_no_chain_is_kept():
    label, run = "preserve, 5 epochs", RUNS["preserve, 5 epochs"]
    summary = run.summary.copy(deep=True)
    summary[f"{language_tables.OF_CORPUS}_mean"][1] = np.nan
    run = run._replace(history=run.history[["finite"]], summary=summary)
    text = language_tables.as_csv({**RUNS, label: run})
    rows = [row for row in csv.DictReader(text.splitlines()) if row["arm"] == label]
    assert [(row["generation"], row["chain"]) for row in rows] == [
        (str(g), "mean") for g in range(GENERATIONS)
    ]
    means = run.summary[f"{language_tables.PERPLEXITY}_mean"].values
    assert [float(row[language_tables.PERPLEXITY]) for row in rows] == means.tolist()
    assert rows[1][language_tables.OF_CORPUS] == "nan"


def test_white_space_is_seen_in_the_table_of_continuations():
    class Decoder:
        def decode(self, ids):
            return " \n" if ids[0] else "tower"

    written = xr.DataArray(np.array([[[0], [1]]]), dims=("chain", "generation", "token"))
    run = RUNS["replace, 5 epochs"]
    runs = {"one": run._replace(history=xr.Dataset({"continuation": written}))}
    table = language_tables.continuations(runs, Decoder(), [0, 1], "a")
    assert [row[2] for row in table.rows] == ["tower", "(white space)"]


def test_histogram_shows_shares_per_decade():
    density = np.zeros((GENERATIONS, len(measures.BIN_EDGES) - 1))
    density[:, 12] = 10.0  # all blocks in the bin from 10^1.2 to 10^1.3
    middle = (measures.BIN_EDGES[:-1] + measures.BIN_EDGES[1:]) / 2
    summary = xr.Dataset(
        {"perplexity_density_mean": (("generation", "log10_perplexity"), density)},
        {"log10_perplexity": middle},
    )
    (ax,) = figures.histograms(summary, [0, 1, 9]).axes
    assert [patch.get_label() for patch in ax.patches] == [
        "generation 0 (real text)", "generation 1", "generation 2",
    ]  # fmt: skip
    np.testing.assert_allclose(ax.get_xlim(), (10**1.1, 10**1.4))  # and a bin beside
    assert ax.get_xscale() == "log"
    figures.histograms(summary * np.nan, [0, 1])  # every chain has diverged


def test_presets_are_the_papers():
    for name, arms in (("paper_b", [("replace", 5)]), ("paper_c", [("preserve", 10)])):
        path = f"experiments/presets/language_{name}.flags"
        compared, settings, _, snapshots, how = from_flagfile(
            path, *language.SETTINGS, given=language.GIVEN
        )
        assert Comparison(**compared).listed == arms
        assert (compared["base"], settings["dataset"]) == ("facebook/opt-125m", "wikitext-2-raw")
        assert (settings["length"], compared["real_fraction"]) == (64, 0.1)
        assert settings["decoding"] == Decoding("beam", beams=5, decode_batch=64)
        assert (settings["training"].learning_rate, settings["training"].batch) == (2e-5, 128)
        assert (how["chains"], how["generations"]) == (5, 10)
        assert SnapshotConfig(**snapshots).generations == [0, 1, 2, 3, 5, 9]
        assert settings["prompt"].startswith("some started before 1360 — was")


@pytest.mark.slow
def test_the_experiment_from_end_to_end(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    _, text = small.make(tmp_path)
    compared = Comparison(arms="replace:2,preserve:2", real_fraction=0.25)
    values = {
        "dataset": text, "length": 8, "blocks": 12, "batch": 4, "learning_rate": 3e-3, "beams": 2,
        "decode_batch": 5, "test_blocks": 6,
    }  # fmt: skip
    settings = grouped(families.language, values)
    model = SmallModel(
        vocabulary=270, hidden=16, layers=1, heads=2, pretraining_epochs=2, pretraining_batch=4
    )
    how = RunConfig(
        chains=2, generations=2, keep="chains", chains_per_batch=2, checkpoint_every=1,
        workdir=str(tmp_path / "run"),
    )  # fmt: skip
    snapshots = SnapshotConfig("0,1")
    section = language.run(
        compared=compared, settings=settings, small=model, snapshots=snapshots, how=how
    )
    perplexities, corpus, continued = section.tables
    assert len(perplexities.rows) == len(corpus.rows) == 2
    assert len(continued.rows) == 4
    assert all(isinstance(row[2], str) and row[2] for row in continued.rows)
    # Both conditions are the same before any synthetic text.
    assert perplexities.rows[0][1] == perplexities.rows[0][4]
    assert perplexities.rows[0][7] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<img") == len(section.figures) == 8
    (tmp_path / "run" / "zero_shot.json").write_text("{")  # cut short: found anew
    again = language.run(
        compared=compared, settings=settings, small=model, snapshots=snapshots, how=how
    )
    assert again.tables == section.tables
    changed = grouped(families.language, {**values, "learning_rate": 1e-3})
    with pytest.raises(ValueError, match="family.training.learning_rate: was 0.003, now 0.001"):
        language.run(compared=compared, settings=changed, small=model, snapshots=snapshots, how=how)
    capsys.readouterr()
