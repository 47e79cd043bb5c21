"""The answers of a `Recommender` are those of the batch path, and filters leave out what they name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.metrics.ranking import SeenItems
from fairrec_pipeline.serving.model_folder import open_folder
from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import Query, RequestError
from fairrec_pipeline.serving.torch_scores import FEW, load_model
from fairrec_pipeline.training.scoring import ModelScorer
from tests.worlds import complete_histories

K = 20


def lists_of_the_pipeline(folder: Path, histories: list[list[int]], *, filter_seen: bool) -> list[pd.DataFrame]:
    """(item_id, score) of every user by the scores of training and torch's own top-k, from a table of interactions."""
    opened = open_folder(folder)
    events = [(user, item, position) for user, items in enumerate(histories) for position, item in enumerate(items)]
    # a user without an interaction is not in a table: one with an unknown item stands for it
    events += [(user, -1, 0) for user, items in enumerate(histories) if not items]
    table = pd.DataFrame(events, columns=["user_id", "item_id", "position"])
    sequences = complete_histories(table, np.array(opened.config.catalogue))
    scores = ModelScorer(load_model(opened), sequences)(torch.arange(sequences.n_users)).clone()
    if filter_seen:
        scores[SeenItems(sequences, "cpu").rows_and_items(0, sequences.n_users)] = -torch.inf
    best = torch.topk(scores, K, dim=1)
    return [
        pd.DataFrame({"item_id": sequences.catalogue[items], "score": values})
        for items, values in zip(best.indices.numpy(), best.values.numpy(), strict=True)
    ]


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("backbone", [{}, {"copy_window": 0}, {"tied_embeddings": True, "blocks": 2, "heads": 2}])
def test_the_lists_of_the_pipeline(
    backbone: dict[str, int], filter_seen: bool, model_folder: Callable[..., Path], histories: list[list[int]]
) -> None:
    folder = model_folder(**backbone)
    recommender = Recommender.load(folder)
    answers = recommender.answer([Query[int](history=history, filter_seen=filter_seen) for history in histories])
    for answer, expected in zip(
        answers, lists_of_the_pipeline(folder, histories, filter_seen=filter_seen), strict=True
    ):
        assert answer.items == expected["item_id"].tolist()
        np.testing.assert_allclose(answer.scores, expected["score"], atol=1e-5, rtol=0)


def test_one_at_a_time_is_all_at_once(folder: Path, histories: list[list[int]]) -> None:
    """Also with a k of their own, and more users than are scored at once."""
    recommender = Recommender.load(folder)
    together = recommender.answer([Query[int](history=items, k=1 + len(items)) for items in histories])
    for items, answer in zip(histories, together, strict=True):
        alone = recommender.recommend(items, k=1 + len(items))
        assert (alone.items, alone.known_items) == (answer.items, answer.known_items)
        assert len(alone.items) == 1 + len(items)
        np.testing.assert_allclose(alone.scores, answer.scores, atol=1e-5, rtol=0)


def test_unknown_items_are_counted_and_change_nothing(folder: Path) -> None:
    recommender = Recommender.load(folder)
    known, mixed = recommender.recommend([10, 13]), recommender.recommend([-1, 10, 10**30, 13, 11])
    assert mixed.items == known.items
    assert (mixed.known_items, mixed.unknown_items, mixed.cold_start) == (2, 3, False)


def test_a_cold_start_says_so(folder: Path) -> None:
    recommender = Recommender.load(folder)
    nothing, unknown = recommender.recommend([]), recommender.recommend([-5, -6])
    assert nothing.items == unknown.items
    assert len(nothing.items) == K
    assert (nothing.known_items, nothing.unknown_items, nothing.cold_start) == (0, 0, True)
    assert (unknown.known_items, unknown.unknown_items, unknown.cold_start) == (0, 2, True)


@pytest.mark.parametrize("n_users", [FEW, FEW + 1])
def test_nobody_is_known(n_users: int, folder: Path) -> None:
    """All histories of a request are empty, padded and packed."""
    recommender = Recommender.load(folder)
    answers = recommender.answer([Query[int](history=[])] * n_users)
    assert [answer.items for answer in answers] == [recommender.recommend([]).items] * n_users


def test_filters(folder: Path) -> None:
    """What is left is the complete order without what the filters name."""
    recommender = Recommender.load(folder)
    history = [10, 13, 10, 16]
    order = recommender.recommend(history, k=300).items
    assert sorted(order) == recommender.config.catalogue
    assert recommender.recommend(history, filter_seen=True).items == [i for i in order if i not in history][:K]
    excluded = [*order[:3], -7]
    assert recommender.recommend(history, exclude=excluded).items == order[3 : 3 + K]
    allowed = [*order[10:300:60], -7]
    assert recommender.recommend(history, allow=allowed).items == order[10:300:60]
    both = recommender.recommend(history, allow=[*order[:5], 10], exclude=order[:2], filter_seen=True).items
    assert both == [item for item in order[2:5] if item not in history]
    assert recommender.recommend(history, allow=[-7]).items == []


def test_filters_of_a_query_stay_with_it(folder: Path) -> None:
    recommender = Recommender.load(folder)
    order = recommender.recommend([10]).items
    plain, without, only = recommender.answer(
        [
            Query[int](history=[10]),
            Query[int](history=[10], exclude=order[:1]),
            Query[int](history=[10], allow=order[:1]),
        ]
    )
    assert plain.items == order
    assert without.items[:5] == order[1:6]
    assert only.items == order[:1]


def test_the_filter_of_the_model_is_the_default(model_folder: Callable[..., Path]) -> None:
    recommender = Recommender.load(model_folder(config={"filter_seen": True}))
    assert not {10, 13} & set(recommender.recommend([10, 13], k=300).items)
    assert {10, 13} <= set(recommender.recommend([10, 13], k=300, filter_seen=False).items)


def test_text_items(model_folder: Callable[..., Path]) -> None:
    recommender = Recommender.load(model_folder(text=True))
    answer = recommender.recommend(["i10", "i11"], exclude=["i13"])
    assert (answer.known_items, answer.unknown_items) == (1, 1)
    assert all(isinstance(item, str) for item in answer.items)


@pytest.mark.parametrize("bad", [["10"], [10.0], [True], [None]])
def test_ids_of_another_type(bad: list[object], folder: Path) -> None:
    recommender = Recommender.load(folder)
    with pytest.raises(ValueError, match=r"history\.0\n  Input should be a valid integer"):
        recommender.recommend(bad)  # type: ignore[arg-type]


def test_codes_of_another_type(folder: Path, model_folder: Callable[..., Path]) -> None:
    """Of histories that no query checked."""
    with pytest.raises(RequestError, match="history: an item id of this model is an integer, got text"):
        Recommender.load(folder).codes([10, "x"], "history")
    with pytest.raises(RequestError, match="exclude: an item id of this model is text, got an integer"):
        Recommender.load(model_folder(text=True)).mask([3], None)
    with pytest.raises(RequestError, match="history: an item id of this model is text, got an integer"):
        Recommender.load(model_folder(text=True)).codes(np.array([3, 4]), "history")
    assert Recommender.load(folder).codes(np.array([10, 11]), "history") == [0]  # 11 is no item


def test_counts_are_of_the_whole_history(folder: Path) -> None:
    """Item 10 is met 40 times before the newest 12 tokens; the copy mechanism counts all of them."""
    recommender = Recommender.load(folder)
    assert recommender.config.backbone.max_length == 12
    tail = [13, 16, 19, 22, 25, 28, 31, 13, 16, 19, 22, 10]
    long, short = (
        dict(zip(answer.items, answer.scores, strict=True))
        for answer in (recommender.recommend([10] * 40 + tail, k=300), recommender.recommend([52, *tail], k=300))
    )
    habit = 1.5 * np.log(9.8 / 1.8)  # 49 encounters with the newest five items, and 9
    assert long[13] - short[13] == pytest.approx(habit, abs=1e-4)
    assert long[10] - short[10] == pytest.approx(habit + 0.25 * np.log(41), abs=1e-4)


def test_threads_are_left_to_the_process(folder: Path) -> None:
    threads = torch.get_num_threads()
    Recommender.load(folder).recommend([10])
    assert torch.get_num_threads() == threads


def test_what_a_server_does_without() -> None:
    """No Kedro, no MLflow, no tables; and what starts the workers needs no torch."""
    code = "import sys, fairrec_pipeline.serving.{}; print(*sys.modules)"

    def modules(name: str) -> set[str]:
        command = [sys.executable, "-c", code.format(name)]
        return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    heavy = {"kedro", "mlflow", "pandas", "scipy"}
    assert not heavy & (modules("app") | modules("torch_scores") | modules("mlflow_model"))
    assert not (heavy | {"torch"}) & (modules("app") | modules("__main__") | modules("onnx_scores"))
