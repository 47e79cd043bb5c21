"""One arm: train it, evaluate it on the test targets."""

from fairrec_pipeline.pipelines.train.pipeline import create_arm_pipeline, create_pipeline

__all__ = ["create_arm_pipeline", "create_pipeline"]
