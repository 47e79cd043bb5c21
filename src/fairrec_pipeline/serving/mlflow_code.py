"""The code of the MLflow model: MLflow runs this file when it logs the model and again when it loads it."""

from __future__ import annotations

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelConfig
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import MAX_QUERIES, Query, Recommendation, RequestError

_Item = int if ModelConfig().get("item_type") == "int" else str  # type: ignore[no-untyped-call]


class ServedModel(PythonModel):
    """`Recommender` as an MLflow model: a list of `Query` to a list of `Recommendation`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that was logged, and have torch compute on one thread."""
        import torch

        torch.set_num_threads(1)
        self.recommender = Recommender.load(context.artifacts["model"])

    def predict(  # type: ignore[override]  # MLflow reads the schema from these annotations
        self,
        model_input: list[Query[_Item]],  # type: ignore[valid-type]
    ) -> list[Recommendation[_Item]]:  # type: ignore[valid-type]
        """Answer a list of queries.

        Raises:
            MlflowException: with code INVALID_PARAMETER_VALUE, for a request that cannot be answered.
        """
        if len(model_input) > MAX_QUERIES:
            message = f"inputs: at most {MAX_QUERIES} histories at a time, got {len(model_input)}"
            raise MlflowException.invalid_parameter_value(message)
        try:
            return self.recommender.answer(model_input)
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


mlflow.models.set_model(ServedModel())
