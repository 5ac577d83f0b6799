"""Rate and distortion of metacontrollers (C.6, Fig. 7): KL of the codes against action NLL, over a sweep of alpha."""

from __future__ import annotations

import numpy as np

ALIGNED = 0.8
"""F1 of hard switches against subgoal changes from which on a point counts as aligned."""


def aligned(f1: np.ndarray, threshold: float = ALIGNED) -> np.ndarray:
    """bool, whether a point's hard switches match the subgoal changes."""
    return np.asarray(f1, float) >= threshold


def horizontal_gap(rate: np.ndarray, distortion: np.ndarray, marked: np.ndarray) -> tuple[float, float]:
    """How far the marked points lie from the others along the rate, at the distortion they reach (E.1, Fig. 7).

    A curve without a gap has points at every rate. For the marked points it is the distance in rate between the
    largest marked rate and the next larger unmarked one; for reference the median distance between neighbours.

    Args:
      rate: [N], nats per step.
      distortion: [N], nats per step; only points that are at least as good as the worst marked one are neighbours.
      marked: bool [N].

    Returns:
      The gap and the median spacing, both in nats per step; NaN where there is nothing to compare.
    """
    rate, distortion, marked = np.asarray(rate, float), np.asarray(distortion, float), np.asarray(marked, bool)
    if not marked.any():
        return float("nan"), float("nan")
    edge = rate[marked].max()
    beyond = rate[~marked & (rate > edge) & (distortion <= distortion[marked].max())]
    spacing = np.diff(np.sort(rate))
    typical = float(np.median(spacing)) if spacing.size else float("nan")
    return (float(beyond.min() - edge) if beyond.size else float("nan")), typical
