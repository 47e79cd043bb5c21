"""One arm: train it, or tune and train it, and evaluate it on the test targets."""

from fairrec_pipeline.pipelines.train.pipeline import create_arm_pipeline, create_pipeline, create_tune_pipeline

__all__ = ["create_arm_pipeline", "create_pipeline", "create_tune_pipeline"]
