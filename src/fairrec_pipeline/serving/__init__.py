"""Recommendations from a trained arm: in a process of one's own, over HTTP, as an MLflow model, and for all users."""
