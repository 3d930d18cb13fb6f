"""What a teacher's list looks like, without a label: signs of whether it knows."""

from __future__ import annotations

import numpy as np

from retrodistill.scores.combine import Groups, sureness, zscore

TRAITS = ("sureness", "lead", "spread", "height", "agreement", "judged")


def traits(scores: np.ndarray, groups: Groups) -> np.ndarray:
    """What each teacher's scores say of each query.

    - `sureness`: one less the relative entropy of the softmax of its z-scores;
    - `lead`: how far its first is ahead of its second, in standard deviations;
    - `spread`: the standard deviation of its raw scores, the predictor of Shtok et al. 2012 ("Predicting Query
      Performance by Query-Drift Estimation");
    - `height`: its highest raw score;
    - `agreement`: the correlation with another teacher over what both judged, the mean over the others;
    - `judged`: the share of the query's documents that it judged.

    Args:
        scores: raw, (teachers T, rows N), NaN where a teacher has none.
        groups: the rows of each query.

    Returns:
        float64, (queries, T, traits); NaN in a row of a teacher that judged nothing of a query, but for the share.
    """
    values = scores.astype(np.float64)
    judged = ~np.isnan(values)
    scaled = [zscore(row, known, groups) for row, known in zip(values, judged, strict=True)]
    columns = [
        np.stack(_of_one(row, known, unit, groups), axis=-1)
        for row, known, unit in zip(values, judged, scaled, strict=True)
    ]
    found = np.stack(columns, axis=1)
    found[:, :, TRAITS.index("agreement")] = _agreement(values, judged, groups)
    return found


def _of_one(values: np.ndarray, judged: np.ndarray, unit: np.ndarray, groups: Groups) -> list[np.ndarray]:
    count = groups.each(np.add, judged.astype(np.float64))
    sure = sureness(unit, judged, groups)[groups.starts]
    first = judged & (unit == groups.over(np.maximum, np.where(judged, unit, -np.inf)))
    ahead = (groups.each(np.add, first.astype(np.int64)) == 1) & (count > 1)  # alone, and not the only one
    highest, below = (groups.each(np.maximum, np.where(some, unit, -np.inf)) for some in (judged, judged & ~first))
    lead = np.where(ahead, highest, 0) - np.where(ahead, below, 0)
    height = groups.each(np.maximum, np.where(judged, values, -np.inf))
    lowest = groups.each(np.minimum, np.where(judged, values, np.inf))
    moved = np.where(judged, values - groups.spread(np.where(count > 0, lowest, 0)), 0)
    centred = np.where(judged, moved - groups.over(np.add, moved) / np.maximum(groups.spread(count), 1), 0)
    spread = np.sqrt(groups.each(np.add, centred**2) / np.maximum(count, 1))
    none = count == 0
    shared = [np.where(none, np.nan, column) for column in (sure, lead, spread, height, np.zeros_like(sure))]
    return [*shared, count / groups.lengths]


def _agreement(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """Pearson's correlation with the others, the mean over them: (queries, T); 0 where two have nothing in common."""
    teachers = len(values)
    total = np.zeros((len(groups.starts), teachers))
    for one in range(teachers):
        for other in range(one):
            both = judged[one] & judged[other]
            first, second = zscore(values[one], both, groups), zscore(values[other], both, groups)
            count = np.maximum(groups.each(np.add, both.astype(np.float64)), 1)
            correlation = groups.each(np.add, np.where(both, first * second, 0)) / count
            total[:, one] += correlation
            total[:, other] += correlation
    missing = groups.each(np.add, judged.astype(np.int64).T) == 0 if len(groups.starts) else np.zeros_like(total, bool)
    return np.where(missing, np.nan, total / max(teachers - 1, 1))
