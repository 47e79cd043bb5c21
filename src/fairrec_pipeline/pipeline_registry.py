"""Every pipeline that can be run, by name."""

from kedro.pipeline import Pipeline

from fairrec_pipeline.pipelines import compare, data, experiment, recommend, train

PAPER_LOSSES = ("erm", "cb", "cb_log", "ipw", "ipw_log", "gdro", "sdro", "cvar")
"""The methods of the paper, which `__default__` compares; every other one is trained by its name."""


def register_pipelines() -> dict[str, Pipeline]:
    """An explicit dict: `find_pipelines` would import one folder only and lose the composed pipelines."""
    arms = [train.create_arm_pipeline(loss) for loss in PAPER_LOSSES]
    trained = [name for arm in arms for name in sorted(arm.outputs()) if name.endswith("user_metrics")]
    return {
        "__default__": data.create_pipeline() + sum(arms, Pipeline([])) + compare.create_pipeline(after=trained),
        "data": data.create_pipeline(),
        "train": train.create_pipeline(),
        "tune": train.create_tune_pipeline(),
        "experiment": experiment.create_pipeline(),
        "compare": compare.create_pipeline(),
        "recommend": recommend.create_pipeline(),
    }
