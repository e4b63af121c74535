import numpy as np
import pytest

from ilt.analysis.ridge import PENALTIES, explained_variance, fit_ridge

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(3.0, 5.0, (600, 12)).astype(np.float32)
SIGNAL = (FEATURES @ RNG.normal(size=(12, 2)) + 7.0).astype(np.float64)
NOISE = RNG.normal(size=(600, 2))
FIT, HELD_OUT = slice(0, 400), slice(400, 600)


def held_out_r2(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    fitted = fit_ridge(features[FIT], targets[FIT])
    return explained_variance(fitted(features[HELD_OUT]), targets[HELD_OUT])[0]


def test_signal_and_not_noise_is_explained_on_held_out_rows() -> None:
    assert held_out_r2(FEATURES, SIGNAL).min() > 0.99
    assert np.abs(held_out_r2(FEATURES, NOISE)).max() < 0.05
    half = SIGNAL / SIGNAL.std(axis=0) + NOISE
    np.testing.assert_allclose(held_out_r2(FEATURES, half), 0.5, atol=0.1)


def test_the_solution_satisfies_the_normal_equations() -> None:
    noisy = NOISE[:, :1]  # the largest penalty fits noise best
    x = (FEATURES - FEATURES.mean(axis=0, dtype=np.float64)) / FEATURES.std(axis=0, dtype=np.float64)
    fitted = fit_ridge(FEATURES, noisy)
    target = x.T @ (noisy - noisy.mean(axis=0))
    by_penalty = [np.linalg.solve(x.T @ x + penalty * np.eye(12), target) for penalty in PENALTIES]
    assert min(np.abs(fitted.weights - weights).max() for weights in by_penalty) < 1e-9
    np.testing.assert_allclose(fitted.intercept, noisy.mean(axis=0))


def test_a_feature_that_was_constant_when_fitted_is_ignored() -> None:
    features = np.concatenate([FEATURES, np.full((600, 1), 0.1, dtype=np.float32)], axis=1)
    features[HELD_OUT, -1] = 9.0
    np.testing.assert_allclose(held_out_r2(features, SIGNAL), held_out_r2(FEATURES, SIGNAL), atol=1e-6)


def test_an_outlier_does_not_outweigh_the_other_episodes() -> None:
    features = FEATURES.copy()
    features[-1] *= 1e4
    assert held_out_r2(features, SIGNAL).min() > 0.9


def test_explained_variance_by_hand() -> None:
    targets = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    r2, error = explained_variance(np.minimum(targets, [2.0, 5.0]), targets)
    assert r2[0] == pytest.approx(1 - 1 / 5)
    assert error[0] > 0
    assert np.isnan(r2[1])
    assert explained_variance(np.full_like(targets, 1.5), targets)[0][0] == pytest.approx(0.0)


def test_the_standard_error_matches_the_spread_of_r2() -> None:
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(300):
        targets = rng.normal(size=(200, 1))
        drawn.append(explained_variance(targets + rng.normal(size=(200, 1)) / 2, targets))
    r2, error = np.array(drawn)[:, :, 0].T
    assert error.mean() == pytest.approx(r2.std(), rel=0.15)


def test_fewer_episodes_than_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="needs as many episodes, got 4"):
        fit_ridge(FEATURES[:4], SIGNAL[:4])
