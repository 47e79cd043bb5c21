"""Every pipeline that can be run, by name."""

from kedro.pipeline import Pipeline

from fairrec_pipeline.parameters import LOSSES
from fairrec_pipeline.pipelines import compare, data, recommend, train


def register_pipelines() -> dict[str, Pipeline]:
    """An explicit dict: `find_pipelines` would import one folder only and lose the composed pipelines."""
    arms = [train.create_arm_pipeline(loss) for loss in LOSSES]
    trained = [name for arm in arms for name in sorted(arm.outputs()) if name.endswith("user_metrics")]
    return {
        "__default__": data.create_pipeline() + sum(arms, Pipeline([])) + compare.create_pipeline(after=trained),
        "data": data.create_pipeline(),
        "train": train.create_pipeline(),
        "tune": train.create_tune_pipeline(),
        "compare": compare.create_pipeline(),
        "recommend": recommend.create_pipeline(),
    }
