"""Scores of histories by torch: the one module of this room that knows how a model is run."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.serving.model_folder import ModelFolder, ModelFolderError
from fairrec_pipeline.serving.padded_scores import PaddedScores
from fairrec_pipeline.serving.padding import padded_inputs
from fairrec_pipeline.serving.recommender import ScoresOfUsers
from fairrec_pipeline.training.scoring import ModelScorer

FEW = 16
"""Up to so many histories padding is faster than packing."""


class TorchScores:
    """The model of a folder, on the CPU, in single precision.

    Args:
        folder: of the model.

    Raises:
        ModelFolderError: the weights do not fit the configuration, or are not finite.
    """

    name = "torch"

    def __init__(self, folder: ModelFolder) -> None:
        self.model, self._backbone = load_model(folder), folder.config.backbone
        self._padded = PaddedScores(self.model)

    def __call__(self, items: np.ndarray, offsets: np.ndarray) -> ScoresOfUsers:
        """What comes back scores a run of the users; see `recommender.Scores`."""
        return self._of_few(items, offsets) if len(offsets) - 1 <= FEW else self._of_many(items, offsets)

    def _of_few(self, items: np.ndarray, offsets: np.ndarray) -> ScoresOfUsers:
        """Padded: of what a single history costs, most is the number of operations."""

        @torch.inference_mode()
        def scores(start: int, stop: int) -> np.ndarray:
            inputs = padded_inputs(items, offsets[start : stop + 1], self._backbone)
            of_users: np.ndarray = self._padded(*map(torch.from_numpy, inputs.values())).numpy()
            return of_users

        return scores

    def _of_many(self, items: np.ndarray, offsets: np.ndarray) -> ScoresOfUsers:
        """Packed, as in training and evaluation: encodes all histories by length, and none is padded."""
        if len(items) == 0:  # batches are cut from at least one event: let a user have it of whom nobody asks
            items, offsets = np.zeros(1, dtype=np.int64), np.append(offsets, 1)
        n_users = len(offsets) - 1
        users, targets = np.arange(n_users), np.full(n_users, UNKNOWN)
        catalogue = np.arange(self.model.n_items)
        histories = Histories(users, catalogue, items, offsets, targets, np.zeros(n_users, dtype=bool))
        scorer = ModelScorer(self.model, histories)

        def scores(start: int, stop: int) -> np.ndarray:
            of_users: np.ndarray = scorer(torch.arange(start, stop)).numpy()
            return of_users

        return scores


def load_model(folder: ModelFolder) -> SASRec:
    """The model of a folder, in evaluation mode.

    Raises:
        ModelFolderError: the weights do not fit the configuration, or are not finite.
    """
    try:
        # copies: what is loaded is a map of the file, and who overwrote the file would kill the server
        weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(folder.weights).items()}
        # with random weights first: the meta device, which has none, would import 80 MB
        model = SASRec(**folder.config.backbone.model_dump())
        model.load_state_dict(weights, assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFolderError(f"{folder.weights}: does not fit config.json ({reason}); train the arm again") from error
    if bad := [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]:
        message = (
            f"{folder.weights}: {bad[0]} has values that are not finite, so training diverged; train the arm again"
        )
        raise ModelFolderError(message)
    return model.requires_grad_(requires_grad=False).eval()
