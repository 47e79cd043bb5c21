"""Backbones and heads, on packed sequences: no position is padding."""
