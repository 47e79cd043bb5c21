"""Batches, the one training loop, and checkpoints."""
