"""`Recommender`: histories in, items and scores out, from the folder of a trained arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from fairrec_pipeline.serving.model_folder import Config, ModelFolder, open_folder
from fairrec_pipeline.serving.requests import Query, Recommendation, RequestError
from fairrec_pipeline.serving.settings import Backend
from fairrec_pipeline.serving.top_k import Best, best_items

SCORES_AT_ONCE = 2**22
"""16 MiB of scores: little memory, and no slower than more."""

ScoresOfUsers = Callable[[int, int], np.ndarray]
"""Maps (start, stop) to (stop - start, n_items) float32 scores of these users, which may be overwritten."""


Forbid = Callable[[np.ndarray, int], None]
"""Sets the scores (b, n_items) of what must not be recommended to `-inf`; the first row is that of user `start`."""


class Scores(Protocol):
    """A loaded model: flat histories (codes (m,) int64, offsets (n_users + 1,) int64) to the scores of their users."""

    name: str

    def __call__(self, items: np.ndarray, offsets: np.ndarray) -> ScoresOfUsers: ...


class Recommender:
    """Answers queries; it has no state that a query changes.

    Scores are those of the `recommend` pipeline up to rounding. One torch thread is fastest for small batches beside
    other work, but that is a setting of the process and left to it: `torch.set_num_threads(1)`.

    Args:
        config: of the model.
        scores: the loaded model.
    """

    def __init__(self, config: Config, scores: Scores) -> None:
        self.config, self._scores = config, scores
        self._codes = {item: code for code, item in enumerate(config.catalogue)}

    @classmethod
    def load(cls, folder: str | Path, backend: Backend = "torch") -> Recommender:
        """Load `model.safetensors` and `config.json`, or `model.onnx` in the place of the weights.

        Args:
            folder: local.
            backend: what computes the scores; `onnx` needs an exported model and no torch.

        Raises:
            ModelFolderError: the folder cannot be served; the message names the file and the next step.
        """
        opened = open_folder(folder)
        return cls(opened.config, _load_scores(opened, backend))

    @property
    def n_items(self) -> int:
        return len(self.config.catalogue)

    @property
    def backend(self) -> str:
        return self._scores.name

    def recommend(
        self,
        history: Sequence[int] | Sequence[str],
        k: int = 20,
        *,
        exclude: Sequence[int] | Sequence[str] = (),
        allow: Sequence[int] | Sequence[str] | None = None,
        filter_seen: bool | None = None,
    ) -> Recommendation[Any]:
        """The answer to one history; arguments and errors are those of `Query` and `answer`."""
        lists = {"history": list(history), "exclude": list(exclude), "allow": None if allow is None else list(allow)}
        query = Query[self.config.item_type]  # type: ignore[name-defined]
        return self.answer([query.model_validate({**lists, "k": k, "filter_seen": filter_seen})])[0]

    def answer(self, queries: Sequence[Query[Any]]) -> list[Recommendation[Any]]:
        """The k best items for every history.

        Raises:
            RequestError: an item id is text where the catalogue has integers, or the other way round.
        """
        if not queries:
            return []
        histories = [self.codes(query.history, f"inputs[{i}].history") for i, query in enumerate(queries)]
        forbidden = [self._forbidden(query, histories[i], i) for i, query in enumerate(queries)]

        def forbid(scores: np.ndarray, start: int) -> None:
            for row, items_of_user in zip(scores, forbidden[start:], strict=False):
                row[items_of_user] = -np.inf

        items, offsets = flat(histories)
        best = self.best(items, offsets, max(query.k for query in queries), forbid)
        bounds = np.searchsorted(best.rows, np.arange(len(queries) + 1)).tolist()
        ids, scores = [self.config.catalogue[code] for code in best.items.tolist()], best.scores.tolist()
        answers = []
        for query, codes, start, stop in zip(queries, histories, bounds[:-1], bounds[1:], strict=True):
            end = min(stop, start + query.k)
            answers.append(
                Recommendation.model_construct(
                    items=ids[start:end],
                    scores=scores[start:end],
                    known_items=len(codes),
                    unknown_items=len(query.history) - len(codes),
                    cold_start=not codes,
                )
            )
        return answers

    def codes(self, items: Iterable[int | str], where: str) -> list[int]:
        """Codes of the items that the model knows, in their order.

        Args:
            items: item ids.
            where: for the message.

        Raises:
            RequestError: an id is not of the catalogue's type.
        """
        items = list(items)
        found = [self._codes.get(item) for item in items]
        if None not in found:
            return cast("list[int]", found)
        allowed = (int, np.integer) if self.config.item_type is int else str
        for item, code in zip(items, found, strict=True):
            if code is None and not isinstance(item, allowed):
                wanted, got = ("an integer", "text") if self.config.item_type is int else ("text", "an integer")
                raise RequestError(f"{where}: an item id of this model is {wanted}, got {got}")
        return [code for code in found if code is not None]

    def best(self, items: np.ndarray, offsets: np.ndarray, k: int, forbid: Forbid) -> Best:
        """The k best items of every history.

        Args:
            items: (m,) int64 codes of all histories, back to back, oldest first.
            offsets: (n_users + 1,) int64; the history of user u is `items[offsets[u]:offsets[u + 1]]`.
            k: items a user gets; fewer if fewer can be recommended.
            forbid: sets the scores of what must not be recommended to `-inf`.
        """
        n_users, parts = len(offsets) - 1, []
        scores_of = self._scores(items, offsets)
        rows = max(1, SCORES_AT_ONCE // self.n_items)
        for start in range(0, n_users, rows):
            scores = scores_of(start, min(start + rows, n_users))
            forbid(scores, start)
            part = best_items(scores, k)
            parts.append(part._replace(rows=part.rows + start))
        return Best(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def mask(self, exclude: Iterable[int | str], allow: Iterable[int | str] | None, where: str = "") -> np.ndarray:
        """(n_items,) bool, true for what must not be recommended; items that the model does not know are ignored.

        Raises:
            RequestError: an item id is not of the catalogue's type.
        """
        forbidden = np.full(self.n_items, allow is not None)
        if allow is not None:
            forbidden[self.codes(allow, f"{where}allow")] = False
        forbidden[self.codes(exclude, f"{where}exclude")] = True
        return forbidden

    def _forbidden(self, query: Query[Any], history: list[int], number: int) -> np.ndarray | list[int]:
        """A mask or codes of what the query must not get."""
        filter_seen = self.config.filter_seen if query.filter_seen is None else query.filter_seen
        seen = history if filter_seen else []
        where = f"inputs[{number}]."
        if query.allow is None:
            return seen + self.codes(query.exclude, f"{where}exclude")
        forbidden = self.mask(query.exclude, query.allow, where)
        forbidden[seen] = True
        return forbidden


def flat(histories: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Codes (m,) of all histories back to back and offsets (n_users + 1,), both int64."""
    offsets = np.zeros(len(histories) + 1, dtype=np.int64)
    np.cumsum([len(history) for history in histories], out=offsets[1:])
    items = np.fromiter((code for history in histories for code in history), dtype=np.int64, count=offsets[-1])
    return items, offsets


def _load_scores(folder: ModelFolder, backend: Backend) -> Scores:
    if backend == "onnx":  # needs no torch
        from fairrec_pipeline.serving.onnx_scores import OnnxScores

        return OnnxScores(folder)
    from fairrec_pipeline.serving.torch_scores import TorchScores

    return TorchScores(folder)
