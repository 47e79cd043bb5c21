"""Validation of a model in training: mean NDCG@20 by exact rank."""

from __future__ import annotations

from functools import cached_property

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import SeenItems, ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.calibration import calibrate
from fairrec_pipeline.training.scoring import CutHistories, ModelScorer, cut_histories


class Validation:
    """Validates a model again and again; what its weights do not change is made once, when it is first wanted.

    Args:
        filter_seen: items of the history are not ranked.
        bf16: find the users' states with products in bfloat16. Ranks are those of these states, exactly.
    """

    def __init__(self, model: SASRec, histories: Histories, *, filter_seen: bool, bf16: bool = False) -> None:
        self.model, self.histories, self.filter_seen, self.bf16 = model, histories, filter_seen, bf16
        self.device = model.output_table.device.type

    @cached_property
    def _cut(self) -> CutHistories:
        return cut_histories(self.model, self.histories, again=True)

    @cached_property
    def _seen(self) -> SeenItems | None:
        return SeenItems(self.histories, self.device) if self.filter_seen else None

    def ndcg(self) -> float:
        """Mean NDCG@20, with the copy mechanism fitted where items of the history may be recommended.

        Raises:
            ValueError: a score is not finite.
        """
        scorer = ModelScorer(self.model, self._cut, bf16=self.bf16)
        if self.model.copy is not None and not self.filter_seen:
            calibrate(self.model.copy, scorer, self.histories)
        ranks = rank_targets(scorer, self.histories, filter_seen=self.filter_seen, device=self.device, seen=self._seen)
        return float(ndcg(ranks, 20).mean())
