"""Every pipeline that can be run, by name; each is built, and its nodes imported, when it is asked for."""

from collections import UserDict
from functools import partial
from importlib import import_module
from typing import Any

from kedro.pipeline import Pipeline

from fairrec_pipeline.parameters.methods import METHODS

PAPER_METHODS = tuple(loss for loss, method in METHODS.items() if method.of_paper)
"""What `__default__` compares; every other method is trained by its name."""


class LazyPipelines(UserDict[str, Any]):
    """Pipelines by name from what builds them: `data` does not wait for the import of torch, nor `train` for scipy."""

    def __getitem__(self, name: str) -> Pipeline:
        known = self.data[name]
        pipeline: Pipeline = known if isinstance(known, Pipeline) else known()
        self.data[name] = pipeline
        return pipeline


def register_pipelines() -> LazyPipelines:
    """An explicit mapping: `find_pipelines` would import one folder only and lose the composed pipelines."""
    return LazyPipelines(
        {
            "__default__": _default,
            "data": partial(_built, "data"),
            "train": partial(_built, "train", plan="train"),
            "tune": partial(_built, "train", plan="tune"),
            "experiment": _experiment,
            "compare": partial(_built, "compare"),
            "table1": partial(_built, "compare", "create_table1_pipeline"),
            "recommend": partial(_built, "recommend"),
            "promote": partial(_built, "promote"),
        }
    )


def _default() -> Pipeline:
    from fairrec_pipeline.pipelines.compare import pipeline as compare
    from fairrec_pipeline.pipelines.data import pipeline as data
    from fairrec_pipeline.pipelines.train import pipeline as train

    trained = train.create_checked_pipeline("default", PAPER_METHODS)
    selected = compare.create_selection_pipeline(after=sorted(trained.outputs()))
    return _boxes(data=data.create_pipeline(), arms=trained + selected, comparison=compare.create_comparison_pipeline())


def _boxes(**parts: Pipeline) -> Pipeline:
    """All parts as one pipeline, of which Kedro-Viz draws each as one box until it is opened.

    Names of nodes get the name of their part before them (`arms.train_erm`); those of datasets and parameters stay.
    """
    boxes = (Pipeline(part, namespace=name, prefix_datasets_with_namespace=False) for name, part in parts.items())
    return sum(boxes, Pipeline([]))


def _experiment() -> Pipeline:
    from fairrec_pipeline.pipelines.compare import pipeline as compare
    from fairrec_pipeline.pipelines.train import pipeline as train

    return train.create_checked_pipeline("experiment") + compare.create_pipeline(after=["trained_arms"])


def _built(folder: str, function: str = "create_pipeline", **options: str) -> Pipeline:
    """What a function in the `pipeline.py` of a folder of `pipelines` builds."""
    pipeline: Pipeline = getattr(import_module(f"fairrec_pipeline.pipelines.{folder}.pipeline"), function)(**options)
    return pipeline
