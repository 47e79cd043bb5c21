"""Class-balanced loss: positions weigh by the rarity of their target item (paper, equation 2)."""

from __future__ import annotations

from fairrec_pipeline.objectives.base import Population
from fairrec_pipeline.objectives.erm import Erm


def class_balanced(population: Population, *, log: bool) -> Erm:
    """ERM over `l_u = mean_j w(h_j) l_uj` with w(i) = N / f(i), N training interactions, f the item's share of them.

    Args:
        log: use log w (CBlog), the paper's form of soft clipping.
    """
    counts = population.item_counts.double()
    weights = counts.sum() / counts
    return Erm((weights.log() if log else weights).float())
