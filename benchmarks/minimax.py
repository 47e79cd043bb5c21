"""`python -m benchmarks.minimax`: does a robust method find a hidden group of users that ERM learns last?

A world in which the answer is known: one item follows every item for most users, another one for the hidden tenth of
them, and only a user's own earlier steps tell which. A tiny model with a small budget learns the majority first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from benchmarks.workloads import TRAIN
from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.training.fit import TrainingData
from fairrec_pipeline.training.loss_groups import population
from fairrec_pipeline.training.scoring import ModelScorer

PAGE = Path("docs/minimax_world.md")
NAMES = ("majority", "hidden")
NOISE = (0.0, 0.1)
DIGITS = {**dict.fromkeys((*NAMES, "overall"), 5), "seconds": 2}
"""That the file of every training keeps; the page is made from these."""


@dataclass(frozen=True)
class World:
    """The size of the world and of what is learned in it.

    Attributes:
        n_users, n_items: users and items.
        hidden_share: share of the users that are hidden.
        noise: share of the training steps that lead to any item.
        length: training items of a user.
        validation_users: how many, drawn at random.
        dim: width of the model, one block with one head.
        epochs, steps_per_epoch, batch_size, learning_rate: the budget.
        warm_start_steps: of ERM, for the methods that learn who is hard.
    """

    n_users: int = 3000
    n_items: int = 100
    hidden_share: float = 0.1
    noise: float = 0.0
    length: int = 10
    validation_users: int = 1000
    dim: int = 8
    epochs: int = 10
    steps_per_epoch: int = 64
    batch_size: int = 64
    learning_rate: float = 5e-3
    warm_start_steps: int = 128


TOY = World(
    n_users=60, n_items=25, length=4, validation_users=20, dim=4, epochs=2, steps_per_epoch=3, batch_size=16,
    warm_start_steps=2,
)  # fmt: skip

_GDRO = {"eta": 0.05, "absent_groups": "keep", "adjustment": 0.0, "balanced_batches": False}
_RSR = {"clusters": 8, "temperature": 1.0, "weight_learning_rate": 0.05}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "erm": ("erm", {}),
    "erm_positions": ("erm_positions", {}),
    "cb": ("cb", {}),
    "cb_log": ("cb_log", {}),
    "cvar": ("cvar", {"alpha": 0.3}),
    "cvar_doro": ("cvar_doro", {"alpha": 0.3, "eps": 0.05}),
    "cvar_smooth": ("cvar_smooth", {"alpha": 0.3, "h": 0.15}),
    "chi2": ("chi2", {"alpha": 0.3}),
    "kl": ("kl", {"tau": 1.0}),
    "arl": ("arl", {"adversary_learning_rate": 0.05}),
    "rsr_hard": ("rsr_hard", _RSR | {"refresh_steps": 64}),
    "rsr_soft": ("rsr_soft", _RSR | {"prototype_learning_rate": 0.1, "clustering_weight": 0.05}),
    "causald": (
        "causald",
        {
            "weight": 0.5, "temperature": 1.0, "teachers": "random", "n_teachers": 2, "samples": 4, "positions": 4,
            "predictor_epochs": 2,
        },
    ),
    "ipw": ("ipw", {"count": "users"}),
    "ipw_log": ("ipw_log", {"count": "users"}),
    "gdro": ("gdro", _GDRO),
    "gdro, adjusted": ("gdro", _GDRO | {"adjustment": 1.0}),
    "gdro, balanced": ("gdro", _GDRO | {"balanced_batches": True}),
    "sdro": ("sdro", _GDRO | {"beta": 0.1}),
}  # fmt: skip
"""By the name in the table: the method and its options. The last six are told the groups."""
_WARM_STARTED = ("arl", "rsr_hard", "rsr_soft")


def generate(world: World, seed: int) -> tuple[Histories, Histories, Histories, np.ndarray]:
    """Training, validation and test sequences, and the group (an index into `NAMES`) of every user.

    Every group has its own random permutation: what follows an item. The held-out steps, two a user, follow it always.
    """
    rng = np.random.default_rng(seed)
    following = np.stack([rng.permutation(world.n_items) for _ in NAMES])
    groups = (rng.permutation(world.n_users) < round(world.hidden_share * world.n_users)).astype(np.int64)
    items = np.empty((world.n_users, world.length + 2), dtype=np.int64)
    items[:, 0] = rng.integers(world.n_items, size=world.n_users)
    for step in range(1, world.length + 2):
        strays = (rng.random(world.n_users) < world.noise) & (step < world.length)
        anywhere = rng.integers(world.n_items, size=world.n_users)
        items[:, step] = np.where(strays, anywhere, following[groups, items[:, step - 1]])
    everyone = np.arange(world.n_users)
    some = np.sort(rng.choice(world.n_users, world.validation_users, replace=False))
    training = _sequences(everyone, items[:, : world.length], world.n_items)
    validation = _sequences(some, items[some, : world.length], world.n_items, items[some, world.length])
    test = _sequences(everyone, items[:, : world.length + 1], world.n_items, items[:, world.length + 1])
    return training, validation, test, groups


def _sequences(users: np.ndarray, items: np.ndarray, n_items: int, targets: np.ndarray | None = None) -> Histories:
    offsets = np.arange(len(users) + 1, dtype=np.int64) * items.shape[1]
    repeats = None if targets is None else (items == targets[:, None]).any(axis=1)
    return Histories(users, np.arange(n_items), items.reshape(-1), offsets, targets, repeats)


def train_arm(job: tuple[World, str, int]) -> dict[str, Any]:
    """Train an arm of the table: (world, name, seed).

    Returns:
        arm, noise, seed, test NDCG@20 of both groups and overall, seconds of training.
    """
    world, name, seed = job
    torch.set_num_threads(1)
    loss, options = ARMS[name]
    training, validation, test, groups = generate(world, seed)
    codes = groups if METHODS[loss].needs_groups else None
    objective = build_objective(loss, population(training, codes, list(NAMES), world.dim), options)
    backbone = {
        "dim": world.dim, "feed_forward": world.dim, "blocks": 1, "heads": 1, "dropout": 0.0,
        "max_length": world.length + 2, "init_std": 0.1, "tied_embeddings": False, "copy_window": 0,
    }  # fmt: skip
    budget = {name: getattr(world, name) for name in ("epochs", "steps_per_epoch", "batch_size", "learning_rate")}
    warm_start_steps = world.warm_start_steps if loss in _WARM_STARTED else 0
    spec = ArmSpec.model_validate(
        {
            "objective": {"loss": loss, "groups": "group" if METHODS[loss].needs_groups else None, "options": options},
            "model": backbone,
            "train": TRAIN | budget | {"warm_start_steps": warm_start_steps, "precision": "fp32"},
            "filter_seen": False,
            "seed": seed,
            "device": "cpu",
        }
    )
    with contextlib.redirect_stderr(io.StringIO()):  # the bar of all trainings is enough
        trainer = resolve_name(f"fairrec_pipeline.{METHODS[loss].trainer}")
        fitted = trainer(spec, TrainingData(training, validation, codes), objective)
    model = SASRec(world.n_items, **vars(spec.model))
    model.load_state_dict(fitted.weights)
    scores = ndcg(rank_targets(ModelScorer(model, test), test, filter_seen=False), 20)
    by_group = [float(scores[groups == group].mean()) for group in range(len(NAMES))]
    return {
        "arm": name,
        "noise": world.noise,
        "seed": seed,
        **dict(zip(NAMES, by_group, strict=True)),
        "overall": float(scores.mean()),
        "seconds": fitted.seconds,
    }


def table(rows: pd.DataFrame) -> str:
    """Markdown: a row an arm, means over the seeds; differences to erm are of the same seed, +- their sd."""
    columns = [*NAMES[::-1], "overall"]
    erm = rows[rows["arm"] == "erm"].set_index("seed")[columns]
    lines = [
        "| method | setting | hidden | majority | overall | hidden - erm | overall - erm | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of_arm in rows.groupby("arm", sort=False):
        of_seeds = of_arm.set_index("seed")
        values, differences = of_seeds[columns].mean(), of_seeds[columns] - erm
        mean, sd = differences.mean(), differences.std()
        setting = ", ".join(f"{option} {value:g}" for option, value in ARMS[str(name)][1].items() if _is_set(value))
        cells = [str(name), setting, *(f"{values[column]:.3f}" for column in columns)]
        compared = (f"{mean[column]:+.3f} ± {sd[column]:.3f}" for column in ("hidden", "overall"))
        cells += ["", ""] if name == "erm" else compared
        cells.append(f"{of_seeds['seconds'].mean():.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_set(value: Any) -> bool:
    """Whether an option is a number other than 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


_TEXT = """# A world in which the answer is known

Do the robust methods find a group of users that ERM learns last? Written by `{command}`.

**The world.** {n_users} users, {n_items} items. One item follows every item for most users; for a hidden {share:.0%} of
them it is another one (two random permutations). Only a user's own earlier steps tell to which group it belongs. A
history is {length} training items, then one for validation and one for the test, which follow the group's rule. With
noise, a training step leads to any item with that probability.

**The training.** SASRec of width {dim}, one block, no dropout; {steps} steps of {batch_size} users, learning rate
{learning_rate:g}. A model that knows both rules and not the groups ranks the targets of the hidden users second: an
NDCG of 1 / log2(3) = .63. Every method has the same budget, one setting fixed beforehand and not tuned, and the weights
of the epoch that is best on {validation_users} validation users overall. arl and rsr begin with {warm} steps of ERM.
causald trains {teachers} teachers and a predictor besides. ipw, gdro and sdro are told the groups, the others are not.

**The numbers.** Test NDCG@20, means over {seeds} seeds (of world and training); differences to erm seed by seed, ±
their standard deviation; seconds of one training on one thread. Every training is in [{file}]({file}).
"""


def page(rows: pd.DataFrame, world: World, command: str, file: str) -> str:
    """The whole Markdown page; `file` beside it holds the rows."""
    text = _TEXT.format(
        command=command,
        file=file,
        share=world.hidden_share,
        steps=world.epochs * world.steps_per_epoch,
        warm=world.warm_start_steps,
        teachers=1 + ARMS["causald"][1]["n_teachers"],
        seeds=rows["seed"].nunique(),
        **{
            name: getattr(world, name)
            for name in ("n_users", "n_items", "length", "dim", "batch_size", "learning_rate", "validation_users")
        },
    )
    for noise in sorted(rows["noise"].unique()):
        title = f"{noise:.0%} of the steps lead anywhere" if noise else "Without noise"
        text += f"\n## {title}\n\n{table(rows[rows['noise'] == noise])}\n"
    return text


def measure(world: World, arms: list[str], seeds: int, noises: list[float], processes: int) -> pd.DataFrame:
    """A row for every arm, noise and seed, in that order, trained side by side."""
    jobs = [(replace(world, noise=noise), arm, seed) for arm in arms for noise in noises for seed in range(seeds)]
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes)) if processes > 1 else None
        rows = pool.imap(train_arm, jobs) if pool else map(train_arm, jobs)
        return pd.DataFrame(list(tqdm(rows, total=len(jobs), unit="training")))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minimax", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE), help="shares of the steps, a world each")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, of one thread each")
    parser.add_argument("--toy", action="store_true", help="toy size, to see that it runs; writes no page")
    parser.add_argument("--output", type=Path, help=f"the page (default {PAGE}); its rows come beside it, as .csv")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    world = TOY if options.toy else World()
    arms = options.arms if "erm" in options.arms else ["erm", *options.arms]
    rows = measure(world, arms, options.seeds, options.noise, options.processes).round(DIGITS)
    path = options.output or (None if options.toy else PAGE)
    command = shlex.join(["python", "-m", "benchmarks.minimax", *arguments])
    text = page(rows, world, command, (path or PAGE).with_suffix(".csv").name)
    print(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        rows.to_csv(path.with_suffix(".csv"), index=False)
        print(f"written: {path} and {path.with_suffix('.csv')}")


if __name__ == "__main__":
    main()
