"""How sure a combined score is: by what its teachers disagree about, or by the standard errors of what they said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from retrodistill.scores.combine import Groups


def disagreement(values: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """The standard deviation (ddof 0) of each row's scores over the teachers that judged it: (N,); NaN below two."""
    found, several = np.full(values.shape[1], np.nan), judged.sum(axis=0) > 1
    if several.any():
        found[several] = np.nanstd(np.where(judged, values, np.nan)[:, several], axis=0)
    return found


def error(scores: np.ndarray, errors: np.ndarray, values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """The standard error of each row's score on the common scale, the root mean square over the teachers that have one.

    An error grows and shrinks with its teacher's scores, as a query's are brought to the scale. Where all of these are
    equal it stays as it is.

    Args:
        scores: as they were stored, (T, N).
        errors: of these, (T, N); NaN where there is none.
        values: the scores on the common scale, (T, N).
        judged: where there is a score, (T, N).
        groups: the rows of each query.

    Returns:
        float64 (N,); NaN where no teacher has an error.
    """
    known = judged & ~np.isnan(errors)
    scaled = np.zeros(scores.shape)
    for row in range(len(scores)):
        before, after = (_range(side[row], judged[row], groups) for side in (scores, values))
        stretch = np.divide(after, before, out=np.ones_like(before), where=before > 0)
        scaled[row] = np.where(known[row], errors[row] * stretch, 0)
    count = known.sum(axis=0)
    mean = np.divide((scaled**2).sum(axis=0), count, out=np.full(scores.shape[1], np.nan), where=count > 0)
    return np.sqrt(mean)


def _range(values: np.ndarray, judged: np.ndarray, groups: Groups) -> np.ndarray:
    """From the lowest to the highest of a row's query, (N,); 0 where nothing is judged."""
    highest = groups.over(np.maximum, np.where(judged, values, -np.inf).astype(np.float64))
    lowest = groups.over(np.minimum, np.where(judged, values, np.inf).astype(np.float64))
    return np.where(highest >= lowest, highest, 0) - np.where(highest >= lowest, lowest, 0)
