"""Scores from comparisons: how strong each document must be for the pairs to have come out as they did."""

from __future__ import annotations

import numpy as np

_STEPS, _ENOUGH = 50, 1e-9


def bradley_terry(wins: np.ndarray, prior: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Strengths s with `P(i beats j) = sigmoid(s_i - s_j)`, the most likely under a normal prior around 0.

    Args:
        wins: float (n, n): entry [i, j] the share of comparisons with j that i won, from 0 to 1, so that [i, j] and
            [j, i] add up to 1; NaN where the two were not compared. A probability counts as a comparison.
        prior: the inverse variance of the prior; it keeps a document that never lost finite, and matters little
            otherwise.

    Returns:
        Strengths, float64 (n,), mean 0 over the compared, and the standard errors of just these, from the curvature at
        the maximum: where the mean would lie no comparison tells, and it is no part of them. NaN for a document that
        was compared with none.

    Source: Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs"; by Newton's method.
    """
    compared = ~np.isnan(wins) & ~np.eye(len(wins), dtype=bool)
    known = compared.any(axis=1)
    strengths, errors = np.full(len(wins), np.nan), np.full(len(wins), np.nan)
    if not known.any():
        return strengths, errors
    compared = compared[np.ix_(known, known)]
    share = np.where(compared, wins[np.ix_(known, known)], 0.0)
    found = np.zeros(len(share))
    for _ in range(_STEPS):
        chance = np.where(compared, 1 / (1 + np.exp(found[None, :] - found[:, None])), 0.0)
        gradient = (share - chance).sum(axis=1) - prior * found
        step = np.linalg.solve(_curvature(chance, prior), gradient)
        found = found + np.clip(step, -2, 2)
        if np.abs(step).max() < _ENOUGH:
            break
    chance = np.where(compared, 1 / (1 + np.exp(found[None, :] - found[:, None])), 0.0)
    strengths[known] = found - found.mean()
    covariance = np.linalg.inv(_curvature(chance, prior))
    centred = covariance - covariance.mean(axis=0)
    errors[known] = np.sqrt(np.diag(centred - centred.mean(axis=1, keepdims=True)))
    return strengths, errors


def win_rate(wins: np.ndarray) -> np.ndarray:
    """The mean share of comparisons that each document won, float64 (n,); NaN where it had none."""
    compared = ~np.isnan(wins) & ~np.eye(len(wins), dtype=bool)
    total = np.where(compared, wins, 0.0).sum(axis=1)
    return np.divide(total, compared.sum(axis=1), out=np.full(len(wins), np.nan), where=compared.any(axis=1))


def _curvature(chance: np.ndarray, prior: float) -> np.ndarray:
    weight = chance * (1 - chance)
    return np.diag(weight.sum(axis=1) + prior) - weight
