"""`python -m benchmarks.when`: when does a robust objective help?

Reads what the experiments `when` and `when_seeds` have left in the store of each dataset: arms with a variant of the
backbone. `--measure <dataset>` writes two files below docs/results/: `when-<dataset>-cells.csv`, the comparison with
the erm of the same backbone, and `when-<dataset>-trainings.csv`, a row a training. Without it, the tables of
docs/results/when.md are printed from the files that there are, and `--figure FILE` draws them (.html; .svg and .png
with the package kaleido).

How much a training overfits is the `gap`: the mean cross-entropy of a user's next item (the validation target) minus
that of the last item it was trained on, both given all that came before, by the same users and with the weights that
were kept, without dropout. `gap_ndcg` is the same in NDCG@20, the other way round.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from scipy import stats

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.comparison import compare_arms
from fairrec_pipeline.comparison.selection import select_arms
from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.metrics.ranking import SCORES_AT_ONCE, Scorer, SeenItems, ndcg, rank_and_loss
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.training.scoring import ModelScorer, restored

RESULTS = Path("docs/results")
SPLITS = ("overall", "pop33", "seq33", "target")
SHARP = "cvar@worst30"
ARMS = (SHARP, "cvar@worst60", "cvar@worst90", "ipw-seq33", "gdro-seq33", "erm_positions")
_BEFORE = ("erm_gap", "erm_gap_ndcg", "erm", "erm_best_step")
BINS = 10
_CELLS = (
    *("dataset", "backbone", "arm", "n_seeds", "split", "group", "n_users", "value", "sd_seeds", "delta_vs_erm"),
    *(
        "delta_ci_low",
        "delta_ci_high",
        "p_value",
        "p_wilcoxon",
        "p_adjusted",
        "p_users_seeds",
        "p_users_seeds_adjusted",
    ),
)


# --- measuring


def last_trained(validation: Histories) -> Histories:
    """The histories without their last item, which becomes the target: what the model was trained on.

    Users whose next item training never saw, or with a single item, are left out.
    """
    assert validation.targets is not None  # of an evaluation
    kept = np.flatnonzero((validation.targets != UNKNOWN) & (validation.lengths > 1))
    ends = validation.offsets[1:][kept] - 1
    parts = [validation.items[start:end] for start, end in zip(validation.offsets[kept], ends, strict=True)]
    targets = validation.items[ends]
    repeats = np.array([target in part for part, target in zip(parts, targets, strict=True)])
    offsets = np.append(0, np.cumsum([len(part) for part in parts])).astype(np.int64)
    return Histories(validation.users[kept], validation.catalogue, np.concatenate(parts), offsets, targets, repeats)


def calibration(scorer: Scorer, histories: Histories, *, filter_seen: bool) -> dict[str, float]:
    """How sure the model is of its first item, and how often it is right, over all users.

    Returns:
        confidence: mean probability of the first item; hit_rate: share of the users for whom it is the target;
        calibration_error: mean distance of the two over ten bins of equally many users (ECE).
    """
    assert histories.targets is not None  # of an evaluation
    seen = SeenItems(histories, "cpu") if filter_seen else None
    rows = max(1, SCORES_AT_ONCE // histories.n_items)
    sure, first = [], []
    for start in range(0, histories.n_users, rows):
        stop = min(start + rows, histories.n_users)
        scores = scorer(torch.arange(start, stop))
        if seen is not None:
            scores[seen.rows_and_items(start, stop)] = -torch.inf
        best = scores.max(dim=1)
        sure.append(torch.exp(best.values - torch.logsumexp(scores, dim=1)))
        first.append(best.indices)
    confidence, hits = torch.cat(sure).double().numpy(), torch.cat(first).numpy() == histories.targets
    order = np.argsort(confidence, kind="stable")
    gaps = [len(part) * abs(confidence[part].mean() - hits[part].mean()) for part in np.array_split(order, BINS)]
    return {
        "confidence": float(confidence.mean()),
        "hit_rate": float(hits.mean()),
        "calibration_error": float(sum(gaps) / len(order)),
    }


def measured(record: ArmRecord, data: PreparedHistories, *, filter_seen: bool) -> dict[str, Any]:
    """A row of the file of trainings: what became of a record's training (see the head of this module)."""
    assert record.model is not None  # it was trained
    assert record.training_history is not None
    model = restored(record.model.weights, torch.device("cpu"), **record.model.config["backbone"])
    trained_on = last_trained(data.validation)
    known = np.isin(data.validation.users, trained_on.users)
    scorer = ModelScorer(model, data.validation)
    sure = calibration(scorer, data.validation, filter_seen=filter_seen)
    ranks, losses = rank_and_loss(scorer, data.validation, filter_seen=filter_seen)
    ranks_then, losses_then = rank_and_loss(ModelScorer(model, trained_on), trained_on, filter_seen=filter_seen)
    assert losses is not None  # asked for
    assert losses_then is not None
    epochs, best = len(record.training_history), int(record.card["best_epoch"])
    budget = record.parameters
    row = {
        "arm": record.arm,
        "seed": record.seed,
        "epochs": epochs,
        "best_epoch": best,
        "best_step": best * budget["train.steps_per_epoch"],
        "stopped": budget["train.patience"] is not None and epochs - best >= budget["train.patience"],
        "seconds": record.card["seconds"],
        "device": record.card["device"],
        "validation_ndcg": record.card["validation_ndcg_at_20"],
        "test_ndcg": record.user_metrics["ndcg_at_20"].mean(),
        "loss_in_training": record.training_history["loss"].iloc[best - 1],
        "loss_last_trained": losses_then.mean(dtype=np.float64),
        "loss_next": losses[known].mean(dtype=np.float64),
        "ndcg_last_trained": ndcg(ranks_then, 20).mean(),
        "ndcg_next": ndcg(ranks[known], 20).mean(),
        **sure,
        "commit": record.card["commit"],
    }
    row["gap"] = row["loss_next"] - row["loss_last_trained"]
    row["gap_ndcg"] = row["ndcg_last_trained"] - row["ndcg_next"]
    return row


def measure(
    records: Iterable[ArmRecord],
    data: PreparedHistories,
    user_groups: pd.DataFrame,
    statistics: dict[str, Any],
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every backbone by itself: the comparison with its erm, and its trainings.

    Args:
        records: of a store; those without a variant of the backbone are left out.
        data, user_groups, statistics: the prepared dataset.
        evaluate: as arms were ranked.

    Returns:
        Cells and trainings, the columns of the two files.
    """
    records, cells, trainings = list(records), [], []
    for backbone in sorted({record.backbone for record in records if record.backbone}):
        of_backbone = evaluate.model_copy(update={"backbone": backbone})
        chosen = [record.without_backbone() for record in select_arms(records, statistics, of_backbone)]
        table = compare_arms(chosen, user_groups, dataset=statistics["dataset"], evaluate=evaluate)
        cells.append(table[(table["metric"] == "ndcg_at_20") & table["split"].isin(SPLITS)].assign(backbone=backbone))
        trained = [record for record in chosen if record.seed is not None]
        trainings += [
            {"backbone": backbone, **measured(record, data, filter_seen=evaluate.filter_seen)} for record in trained
        ]
    about = {"dataset": statistics["dataset"]}
    return pd.concat(cells).assign(**about)[list(_CELLS)], pd.DataFrame(trainings).assign(**about)


def _measure_dataset(dataset: str) -> None:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(Path.cwd())
    with KedroSession.create(project_path=Path.cwd(), runtime_params={"dataset": dataset}) as session:
        catalog = session.load_context().catalog
        evaluate = Evaluate.model_validate(catalog.load("params:evaluate"))
        data, statistics = catalog.load("histories"), catalog.load("dataset_statistics")
        groups = catalog.load("user_groups").to_pandas()
        tables = measure(catalog.load("arms").records(), data, groups, statistics, evaluate)
    for name, table in zip(("cells", "trainings"), tables, strict=True):
        table.to_csv(RESULTS / f"when-{dataset}-{name}.csv", index=False, float_format="%.5g")


# --- showing


def read(folder: Path = RESULTS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and trainings of all datasets that were measured."""
    cells, trainings = (
        pd.concat([pd.read_csv(file) for file in sorted(folder.glob(f"when-*-{name}.csv"))], ignore_index=True)
        for name in ("cells", "trainings")
    )
    return cells, trainings


def points(cells: pd.DataFrame, trainings: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, backbone and arm other than erm: its overall difference from erm, and how erm was (means over
    its seeds: erm_gap, erm_gap_ndcg, erm_best_step, erm_confidence, erm_hit_rate, erm_calibration_error)."""
    where = ["dataset", "backbone"]
    erm = trainings[trainings["arm"] == "erm"].groupby(where)
    columns = ["gap", "gap_ndcg", "best_step", "confidence", "hit_rate", "calibration_error"]
    overall = cells[(cells["split"] == "overall") & (cells["arm"] != "erm")]
    levels = cells[(cells["split"] == "overall") & (cells["arm"] == "erm")].set_index(where)["value"].rename("erm")
    return overall.join(erm[columns].mean().add_prefix("erm_"), on=where).join(levels, on=where)


def rank_correlation(rows: pd.DataFrame, x: str, y: str = "delta_vs_erm") -> str:
    """Spearman's correlation over the backbones, with its exact p-value by permutations where there are few."""
    if len(rows) < 4:
        return "-"
    ranks = [stats.rankdata(rows[column]) - (len(rows) + 1) / 2 for column in (x, y)]
    shuffled = np.random.default_rng(0).permuted(np.tile(ranks[0], (9_999, 1)), axis=1) @ ranks[1]
    scale = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
    found = ranks[0] @ ranks[1] / scale
    p_value = (1 + np.sum(np.abs(shuffled) >= abs(found) * scale - 1e-9)) / 10_000
    return f"{found:+.2f} (p {p_value:.3f}, n {len(rows)})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def number(value: float, digits: int = 4) -> str:
    """`.2857`, `+` and `-` as they are; empty for what was not measured."""
    return "" if pd.isna(value) else f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def marked(row: Any) -> str:
    """A difference with its mark: `*` over users, after no correction; `‡` over users and seeds as well."""
    mark = "‡" if row.p_users_seeds < 0.05 else "*" if row.p_value < 0.05 else ""
    return ("+" if row.delta_vs_erm >= 0 else "") + number(row.delta_vs_erm) + mark


def tables(cells: pd.DataFrame, trainings: pd.DataFrame) -> dict[str, str]:
    """The tables of the page by name, in Markdown."""
    found = points(cells, trainings)
    shown = {}
    for dataset, rows in found.groupby("dataset", sort=False):
        arms = [arm for arm in ARMS if arm in set(rows["arm"])]
        first = rows[rows["arm"] == SHARP].sort_values("erm_gap", ascending=False)
        by_arm = {(row.backbone, row.arm): row for row in rows.itertuples()}
        shown[f"{dataset}: gains"] = markdown(
            ["backbone", "seeds", "erm", "steps", "gap", "gap NDCG", "sure", "right", *arms],
            [
                [
                    *(row.backbone, str(row.n_seeds), number(row.erm), f"{row.erm_best_step:.0f}"),
                    *(number(row.erm_gap, 2), number(row.erm_gap_ndcg, 3)),
                    *(number(row.erm_confidence, 3), number(row.erm_hit_rate, 3)),
                    *(marked(by_arm[row.backbone, arm]) if (row.backbone, arm) in by_arm else "" for arm in arms),
                ]
                for row in first.itertuples()
            ],
        )
        groups = cells[(cells["dataset"] == dataset) & (cells["split"] != "overall")]
        names = list(dict.fromkeys(groups["group"]))
        for arm in arms:
            of_arm = groups[groups["arm"] == arm]
            at = {(row.backbone, row.group): row for row in of_arm.itertuples()}
            shown[f"{dataset}: {arm} by group"] = markdown(
                ["backbone", *names],
                [
                    [row.backbone, *(marked(at[row.backbone, name]) for name in names)]
                    for row in first.itertuples()
                    if (row.backbone, names[0]) in at
                ],
            )
        shown[f"{dataset}: rank correlations of the gain"] = markdown(
            ["arm", "with erm's gap", "with erm's gap in NDCG", "with erm's NDCG", "with erm's steps"],
            [[arm, *(rank_correlation(rows[rows["arm"] == arm], before) for before in _BEFORE)] for arm in arms],
        )
    return shown


def figure(cells: pd.DataFrame, trainings: pd.DataFrame) -> go.Figure:
    """Gain of cvar (alpha .3) over erm against erm's gap, a panel a dataset; intervals over users."""
    found = points(cells, trainings)
    found = found[found["arm"] == SHARP]
    datasets = list(dict.fromkeys(found["dataset"]))
    drawn = make_subplots(cols=len(datasets), subplot_titles=datasets)
    for column, dataset in enumerate(datasets, 1):
        rows = found[found["dataset"] == dataset]
        drawn.add_scatter(
            x=rows["erm_gap"],
            y=rows["delta_vs_erm"],
            error_y={
                "array": rows["delta_ci_high"] - rows["delta_vs_erm"],
                "arrayminus": rows["delta_vs_erm"] - rows["delta_ci_low"],
            },
            mode="markers+text",
            text=rows["backbone"].str.replace("small@", ""),
            textposition="top right",
            cliponaxis=False,
            marker={"size": 9, "color": "#d5301f"},
            row=1,
            col=column,
        )
    drawn.add_hline(y=0, line={"color": "#222222", "dash": "dot"})
    drawn.update_xaxes(title="gap of erm: next item minus last trained item (nats)")
    drawn.update_yaxes(title="test NDCG@20 of cvar (alpha .3) minus erm", col=1)
    return drawn.update_layout(template="plotly_white", width=100 + 480 * len(datasets), height=520, showlegend=False)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.measure:
        _measure_dataset(options.measure)
        return
    if options.figure:
        drawn = figure(*read())
        if options.figure.suffix == ".html":
            drawn.write_html(options.figure, include_plotlyjs="cdn")
        else:
            drawn.write_image(options.figure)
        return
    for name, table in tables(*read()).items():
        print(f"**{name}**\n\n{table}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.when", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", metavar="DATASET", help="write the two files of a dataset")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the files")
    return parser


if __name__ == "__main__":
    main()
