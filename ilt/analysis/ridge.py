"""Ridge regression with a penalty chosen by cross-validation, and R² with its standard error."""

from typing import NamedTuple

import numpy as np

PENALTIES = 10.0 ** np.arange(-6, 7)
N_FOLDS = 5


class Linear(NamedTuple):
    """A linear map of standardized features, clipped to the range of the targets that it was fitted to.

    Clipping keeps an outlier, such as an episode that has just touched the ground, from dominating the squared error.

    Attributes:
        mean, scale: (D,), to standardize the features.
        weights: (…, D, Q).
        intercept: (Q,).
        low, high: (Q,), the range of the targets.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Map features (E, D) to predictions (…, E, Q)."""
        predictions = (features - self.mean) / self.scale @ self.weights + self.intercept
        return np.clip(predictions, self.low, self.high)


def fit_ridge(features: np.ndarray, targets: np.ndarray) -> Linear:
    """Regress targets (E, Q) on features (E, D). Each row is an episode.

    Each target's L2 penalty is the one of `PENALTIES` with the lowest squared error in `N_FOLDS`-fold cross-validation
    over the rows. Raise ValueError if there are fewer rows than folds.
    """
    if len(features) < N_FOLDS:
        raise ValueError(f"a regression with {N_FOLDS} folds needs as many episodes, got {len(features)}")
    folds = np.arange(len(features)) % N_FOLDS
    errors = np.zeros((len(PENALTIES), targets.shape[1]))
    for fold in range(N_FOLDS):
        held_out = folds == fold
        fitted = _solve(features[~held_out], targets[~held_out], PENALTIES[:, None, None])
        errors += ((fitted(features[held_out]) - targets[held_out]) ** 2).sum(axis=1)
    return _solve(features, targets, PENALTIES[errors.argmin(axis=0)])


def _solve(features: np.ndarray, targets: np.ndarray, penalties: np.ndarray) -> Linear:
    """Solve in closed form. Penalties broadcast against (…, D, Q); constant features get scale 1."""
    features = features.astype(np.float64)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-6] = 1.0
    x, intercept = (features - mean) / scale, targets.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x)
    along = vectors.T @ (x.T @ (targets - intercept))
    weights = vectors @ (along / (np.maximum(values, 0.0)[:, None] + penalties))
    return Linear(mean, scale, weights, intercept, targets.min(axis=0), targets.max(axis=0))


def explained_variance(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R² of predictions (E, Q), and its standard error over episodes, each (Q,).

    R² is 1 for perfect predictions, 0 if they are as good as the targets' mean, negative if they are worse, and NaN
    for constant targets. The standard error is for a ratio of means (delta method).
    """
    varies = np.ptp(targets, axis=0) > 0
    distances, errors = (targets - targets.mean(axis=0)) ** 2, (predictions - targets) ** 2
    variance = np.where(varies, distances.mean(axis=0), np.nan)
    unexplained = errors.mean(axis=0) / variance
    influence = (errors - unexplained * distances) / variance
    return 1.0 - unexplained, influence.std(axis=0) / len(targets) ** 0.5
