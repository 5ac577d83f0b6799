"""Summaries over seeds."""

from __future__ import annotations

import numpy as np


def quartiles(values) -> dict[str, float]:
    """``{"median", "q25", "q75"}`` of one number per seed."""
    q25, median, q75 = np.percentile(np.asarray(values, np.float64), [25, 50, 75])
    return {"median": float(median), "q25": float(q25), "q75": float(q75)}
