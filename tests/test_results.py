"""Every number and mark in the results tables of the README and of docs/results is that of a result file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
LEVEL = 0.05
COLUMNS = {
    **{name: ("pop33", name) for name in ("niche", "diverse", "popular")},
    **{name: ("seq33", name) for name in ("short", "medium", "long")},
    **{name: ("target", name) for name in ("repeat", "new")},
    **{name: ("gender", name) for name in ("female", "male")},
    **{name: ("age", name) for name in ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")},
    "overall": ("overall", "overall"),
    "overall (sd over seeds)": ("overall", "overall"),
    "short histories (worst group)": ("seq33", "short"),
    "repeat targets": ("target", "repeat"),
    "new targets": ("target", "new"),
    "long of seq1080 (21 users)": ("seq1080", "long"),
}
OF_OTHER_FILES = {"validation"}
"""Means over the seeds of what the -trainings files have, seed by seed; tested below."""
FILES = {
    "RetailRocket": "2026-11-22-retailrocket",
    "RetailRocket, fitted": "2026-11-27-retailrocket-arms",
    "RetailRocket, wider": "2026-11-27-retailrocket-wider",
    "MovieLens-100K": "2026-11-22-movielens-100k",
    "MovieLens-100K, leave-one-out": "2026-11-27-movielens-100k-leave-one-out",
    "MovieLens-100K, temporal": "2026-11-27-movielens-100k-temporal",
    "MovieLens-1M": "2026-11-27-movielens-1m",
    "MovieLens-1M, longer": "2026-11-27-movielens-1m-longer",
    "MovieLens-1M, tuned": "2026-11-27-movielens-1m-tuned",
}
PAGES = {
    "README RetailRocket": (ROOT / "README.md", 0, "RetailRocket, wider"),
    "docs RetailRocket, wider": (RESULTS / "2026-11-27-retailrocket-wider.md", 0, "RetailRocket, wider"),
    "docs RetailRocket, fitted": (RESULTS / "2026-11-27-retailrocket-copying.md", 0, "RetailRocket, fitted"),
    "docs RetailRocket": (RESULTS / "2026-11-22-retailrocket.md", 0, "RetailRocket"),
    "docs MovieLens-100K": (RESULTS / "2026-11-22-movielens-100k.md", 0, "MovieLens-100K"),
    "docs MovieLens-100K, leave-one-out": (
        RESULTS / "2026-11-27-movielens-100k-splits.md",
        0,
        "MovieLens-100K, leave-one-out",
    ),
    "docs MovieLens-100K, temporal": (RESULTS / "2026-11-27-movielens-100k-splits.md", 1, "MovieLens-100K, temporal"),
    "docs MovieLens-1M": (RESULTS / "2026-11-27-movielens-1m.md", 0, "MovieLens-1M"),
    "docs MovieLens-1M, attributes": (RESULTS / "2026-11-27-movielens-1m.md", 2, "MovieLens-1M"),
    "docs MovieLens-1M, longer": (RESULTS / "2026-11-27-movielens-1m-longer.md", 0, "MovieLens-1M, longer"),
    "docs MovieLens-1M, tuned": (RESULTS / "2026-11-27-movielens-1m-tuned.md", 0, "MovieLens-1M, tuned"),
    "docs MovieLens-1M, tuned, attributes": (RESULTS / "2026-11-27-movielens-1m-tuned.md", 2, "MovieLens-1M, tuned"),
    "docs MovieLens-1M, longer, attributes": (RESULTS / "2026-11-27-movielens-1m-longer.md", 2, "MovieLens-1M, longer"),
}


class Cell(NamedTuple):
    arm: str
    column: str
    text: str


def tables(page: Path) -> list[list[Cell]]:
    """The Markdown tables whose first column is `arm` and that have a column for everybody."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines())
        if header[0] == "arm" and any(name.startswith("overall") for name in header):
            arms = [re.match(r"\**([\w-]+)", row[0])[1] for row in rows]
            cells = [
                Cell(arm, *pair)
                for arm, row in zip(arms, rows, strict=True)
                for pair in zip(header[1:], row[1:], strict=True)
            ]
            found.append(cells)
    return found


def results(dataset: str) -> pd.DataFrame:
    table = pd.read_csv(RESULTS / f"{FILES[dataset]}.csv", keep_default_na=False, na_values=[""])
    return table.set_index(["arm", "split", "group"]).sort_index()


def cells(name: str) -> Iterator[tuple[Cell, pd.DataFrame]]:
    page, place, dataset = PAGES[name]
    table = results(dataset)
    for cell in tables(page)[place]:
        if cell.text and cell.column not in OF_OTHER_FILES:
            yield cell, table


def is_rounded(text: str, value: float) -> bool:
    """Whether a text is the number, rounded; the files have five digits themselves."""
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.501 * 10**-digits


def marks_of(row: pd.Series) -> str:
    """The strongest mark only: another training, after the correction, the paper's test."""
    if row["p_users_seeds_adjusted"] < LEVEL:
        return "‡"
    return "†" if row["p_adjusted"] < LEVEL else "*" if row["p_value"] < LEVEL else ""


@pytest.mark.parametrize("name", PAGES)
def test_numbers(name: str) -> None:
    wrong, n_numbers = [], 0
    for cell, table in cells(name):
        overall = table.loc[(cell.arm, "overall", "overall")]
        numbers = re.findall(r"-?\d*\.\d+", cell.text)
        if cell.column == "published overall":
            expected = [overall["published"]]
        elif cell.column == "p (users and seeds)":
            expected = [overall["p_users_seeds"]]
        elif cell.column == "worst group":
            rows = table.loc[cell.arm].loc[["pop33", "seq33"], "value"]
            expected = [rows.min()]
            if cell.text.split()[-1] != rows.idxmin()[1]:
                wrong.append(f"{cell}: {rows.idxmin()[1]}")
        else:
            row = table.loc[(cell.arm, *COLUMNS[cell.column])]  # a column that is not known here fails
            beside = row["published"] if " / " in cell.text else row["sd_seeds"]
            expected = [row["value"], beside][: len(numbers)]
        n_numbers += len(numbers)
        if len(numbers) != len(expected) or not all(map(is_rounded, numbers, expected)):
            wrong.append(f"{cell}: {expected}")
    assert not wrong, "\n".join(wrong)
    assert n_numbers >= 16


@pytest.mark.parametrize("name", PAGES)
def test_marks(name: str) -> None:
    wrong = []
    for cell, table in cells(name):
        if cell.column not in COLUMNS:
            continue
        expected = marks_of(table.loc[(cell.arm, *COLUMNS[cell.column])])
        found = "".join(re.findall(r"[*†‡]", cell.text))
        if found != expected and not (name.startswith("docs Movie") and (found, expected) == ("†", "‡")):
            wrong.append(f"{cell.arm}, {cell.column}: {cell.text!r} should have {expected!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dataset", ["RetailRocket", "MovieLens-1M"])
def test_validation_in_docs(dataset: str) -> None:
    """The column `validation` is the mean over the seeds of an arm."""
    trainings = pd.read_csv(RESULTS / f"{FILES[dataset]}-trainings.csv")
    means = trainings[trainings["kind"] != "grid"].groupby("arm")["validation_ndcg_at_20"].mean()
    shown = {cell.arm: cell.text for cell in tables(PAGES[f"docs {dataset}"][0])[0] if cell.column == "validation"}
    shown = {arm: text for arm, text in shown.items() if text}
    assert {arm: text for arm, text in shown.items() if not is_rounded(text, means[arm])} == {}
    assert shown


P_VALUES = {
    "p over users": "p_value",
    "corrected over users": "p_adjusted",
    "p over users and seeds": "p_users_seeds",
    "corrected over users and seeds": "p_users_seeds_adjusted",
}


def test_seeds_and_p_values_of_movielens_1m() -> None:
    name = FILES["MovieLens-1M"]
    trainings = pd.read_csv(RESULTS / f"{name}-trainings.csv")
    of_seeds = trainings[trainings["kind"] != "grid"].sort_values("seed").groupby("arm")["overall"].agg(list)
    table, wrong, n_cells = results("MovieLens-1M"), [], 0
    for cell in tables(RESULTS / f"{name}.md")[1]:
        overall = table.loc[(cell.arm, "overall", "overall")]
        if cell.column == "overall, seed by seed":
            right = all(is_rounded(*pair) for pair in zip(cell.text.split(), of_seeds[cell.arm], strict=True))
        elif not cell.text:
            right = cell.arm == "erm" or (cell.column == "sd" and pd.isna(overall["sd_seeds"]))
        elif cell.column in P_VALUES:
            right = float(cell.text) == pytest.approx(overall[P_VALUES[cell.column]], rel=0.06, abs=0.0006)
        else:
            right = is_rounded(cell.text, overall["sd_seeds" if cell.column == "sd" else "delta_vs_erm"])
        n_cells += 1
        if not right:
            wrong.append(f"{cell}")
    assert not wrong, "\n".join(wrong)
    assert n_cells == 7 * len(of_seeds)


def test_audit_of_movielens_1m() -> None:
    """Every cell of the results has a row in the audit, with the same value and what stands behind it."""
    key = ["arm", "split", "group"]
    audit = pd.read_csv(RESULTS / f"{FILES['MovieLens-1M']}-audit.csv", keep_default_na=False).set_index(key)
    table = results("MovieLens-1M")
    assert set(audit.index) == set(table.index)
    assert (audit["value"] - table["value"].reindex(audit.index)).abs().max() < 1e-5
    trained = audit[audit["seeds"] != ""]
    assert {arm for arm, *_ in trained.index} == {arm for arm, row in table["n_seeds"].groupby("arm") if row.max() > 0}
    for column in ("data_fingerprint", "data_split", "tuning_points", "command", "commit", "device", "seconds"):
        assert (trained[column] != "").all(), column


def test_the_page_of_the_fitted_copy_mechanism() -> None:
    """The rows of its first table are those of its file, seed by seed and in the mean."""
    name, columns = (
        "2026-11-27-retailrocket-copying",
        ("overall", "overall", "repeat", "new", "short", "niche", "overall"),
    )
    table = pd.read_csv(RESULTS / f"{name}.csv")
    table = table[table["split"].isin(["overall", "pop33", "seq33", "target"])]
    found = table.set_index(["set", "metric", "group", "seed"]).sort_index()["value"]
    sets = ("validation", *["test"] * 6)
    metrics = (*["ndcg_at_20"] * 6, "recall_at_20")
    rows = re.findall(r"^\| (seed \d|\*\*mean\*\*) \|(.*)\|$", (RESULTS / f"{name}.md").read_text(), flags=re.MULTILINE)
    assert len(rows) >= 3
    for row, cells_of_row in rows:
        for text, *place in zip(cells_of_row.split("|"), sets, metrics, columns, strict=True):
            of_seeds = found.loc[tuple(place)]
            value = of_seeds.mean() if row == "**mean**" else of_seeds[int(row.split()[1])]
            assert is_rounded(text.strip(), value), (row, place)


def test_the_made_world_of_the_readme() -> None:
    """docs/synthetic_world.md, and the sentence of the README about it."""
    table = pd.read_csv(RESULTS / "2026-11-27-synthetic.csv", keep_default_na=False, na_values=[""])
    overall, niche = (table[table["group"] == group].set_index("arm") for group in ("overall", "niche"))
    of_columns = {
        "overall": overall["value"],
        "niche (384 users)": niche["value"],
        "sd over seeds": niche["sd_seeds"],
        "niche - erm": niche["delta_vs_erm"],
        "p, corrected": niche["p_users_seeds_adjusted"],
    }
    shown = [cell for cell in tables(ROOT / "docs" / "synthetic_world.md")[0] if cell.text]
    assert [cell for cell in shown if not is_rounded(cell.text, of_columns[cell.column][cell.arm])] == []
    assert len(shown) == 19
    assert set(niche["n_users"]) == {384}
    text = " ".join((ROOT / "README.md").read_text().split())
    found = re.search(
        r"from (\.\d+) to (\.\d+) and gdro, which is told the groups, to (\.\d+); "
        r"overall erm has (\.\d+), cvar (\.\d+), gdro (\.\d+)",
        text,
    )
    assert found
    arms = ["erm", "cvar", "gdro-pop33"]
    values = [*niche["value"][arms], *overall["value"][arms]]
    assert all(is_rounded(*pair) for pair in zip(found.groups(), values, strict=True))
