"""Kedro pipelines: `pipeline.py` wires, `nodes.py` adapts, the other packages compute."""
