"""Scores of histories by torch: the one module of this room that knows how a model is run."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.serving.model_folder import ModelFolder, ModelFolderError
from fairrec_pipeline.serving.recommender import ScoresOfUsers
from fairrec_pipeline.training.scoring import ModelScorer


class TorchScores:
    """The model of a folder, on the CPU, in single precision.

    Args:
        folder: of the model.

    Raises:
        ModelFolderError: the weights do not fit the configuration, or are not finite.
    """

    name = "torch"

    def __init__(self, folder: ModelFolder) -> None:
        self.model = load_model(folder)

    def __call__(self, items: np.ndarray, offsets: np.ndarray) -> ScoresOfUsers:
        """Encode the histories; what comes back scores a run of them, into a buffer that its next call overwrites."""
        if not len(
            items
        ):  # a batch is cut from at least one event: one more user has it, and nobody asks for that user
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
        with torch.device("meta"):  # no random weights that would be overwritten
            model = SASRec(**folder.config.backbone.model_dump())
        model.load_state_dict(weights, assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        message = f"{folder.weights}: does not fit config.json ({reason}); train the arm again"
        raise ModelFolderError(message) from error
    if bad := [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]:
        message = (
            f"{folder.weights}: {bad[0]} has values that are not finite, so training diverged; train the arm again"
        )
        raise ModelFolderError(message)
    return model.requires_grad_(requires_grad=False).eval()
