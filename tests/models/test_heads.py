"""Action heads: losses by hand, most likely actions, and the distribution of samples."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm
from torch.nn.functional import cross_entropy

from ilt.envs.actions import ActionSpace
from ilt.models.config import check_head
from ilt.models.heads import (
    MIN_LOG_STD,
    ActionHead,
    Categorical,
    Discretized,
    Gaussian,
    GaussianMixture,
    Regression,
    default_head,
)
from ilt.registry import load_option
from ilt.schema import ConfigError
from tests.models.test_check import BOX, FOUR, MULTI, SPACES

ONE = ActionSpace(low=(-2.0,), high=(2.0,), shape=(1,))
HEADS = {
    "categorical": (FOUR, Categorical(action_space=FOUR)),
    "several": (MULTI, Categorical(action_space=MULTI)),
    "gaussian": (BOX, Gaussian(action_space=BOX)),
    "mixture": (BOX, GaussianMixture(action_space=BOX, n_components=3)),
    "mixture of two": (ONE, GaussianMixture(action_space=ONE, n_components=2)),
    "two bins": (BOX, Discretized(action_space=BOX, n_bins=2)),
    "discretized": (BOX, Discretized(action_space=BOX, n_bins=5)),
    "mse": (BOX, Regression(action_space=BOX)),
}


def log_std(wanted: float) -> float:
    """Return the output that gives this log standard deviation."""
    return MIN_LOG_STD + math.log(math.expm1(wanted - MIN_LOG_STD))


def uniforms(head: ActionHead, n: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, head.n_uniforms))


def repeated(outputs: Sequence[float] | np.ndarray, n: int) -> np.ndarray:
    return np.tile(np.array(outputs, dtype=np.float32), (n, 1))


GAUSSIANS = [0.5, -0.5, log_std(math.log(0.1)), log_std(math.log(2.0))]  # means and deviations of two numbers
MIXED = [math.log(0.25), math.log(0.75), -0.5, 0.5, log_std(math.log(0.1)), log_std(math.log(0.2))]
BINS = [0.1, 0.2, 0.3, 0.4]


def test_the_loss_of_a_single_choice_is_exactly_cross_entropy() -> None:
    outputs, targets = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
    assert torch.equal(Categorical(action_space=FOUR).loss(outputs, targets), cross_entropy(outputs, targets))


@pytest.mark.parametrize(
    ("name", "outputs", "target", "expected"),
    [
        ("several", np.log([0.5, 0.25, 0.25, 0.1, 0.9]), [1, 0], -math.log(0.25 * 0.1)),
        ("mse", [0.5, 0.0], [0.0, 1.0], (0.25 + 1.0) / 2),
        # the negative log-likelihood times the variance
        ("gaussian", GAUSSIANS, [0.7, 0.5], -norm.logpdf([0.7, 0.5], [0.5, -0.5], [0.1, 2.0]) @ [0.1**2, 2.0**2]),
        ("mixture of two", MIXED, [0.4], -math.log(norm.pdf(0.4, [-0.5, 0.5], [0.1, 0.2]) @ [0.25, 0.75])),
        ("two bins", np.log([0.9, 0.1, 0.3, 0.7]), [-1.0, 1.0], -math.log(0.9 * 0.7)),
    ],
)
def test_losses_by_hand(name: str, outputs: list[float], target: list[float], expected: float) -> None:
    loss = HEADS[name][1].loss(torch.from_numpy(repeated(outputs, 1)), torch.tensor([target]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("action", "chosen"), [(-1.0, 0), (-0.51, 0), (-0.5, 1), (0.0, 2), (0.49, 2), (0.5, 3), (1.0, 3)]
)
def test_bins_include_both_ends(action: float, chosen: int) -> None:
    loss = Discretized(action_space=ONE, n_bins=4).loss(torch.log(torch.tensor([BINS])), torch.tensor([[action]]))
    assert loss.item() == pytest.approx(-math.log(BINS[chosen]), rel=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_actions_have_the_shape_and_dtype_of_the_space(name: str) -> None:
    space, head = HEADS[name]
    outputs = np.random.default_rng(1).normal(size=(7, head.n_outputs)).astype(np.float32)
    for actions in (head.mode(outputs), head.sample(outputs, uniforms(head, 7))):
        assert actions.shape == space.zeros(7).shape
        assert actions.dtype == space.dtype
    targets = torch.from_numpy(head.mode(outputs)).clamp(-1, 3)
    assert head.loss(torch.from_numpy(outputs), targets).shape == ()


@pytest.mark.parametrize(
    ("name", "outputs", "expected"),
    [
        ("categorical", [0, 2, 1, -1], [1]),
        ("several", [0, 1, 2, 3, 0], [[2, 0]]),
        ("gaussian", [0.25, -0.5, 9, 9], [[0.25, -0.5]]),
        ("two bins", [0, 1, 1, 0], [[0.5, -0.5]]),
        ("mixture of two", [0, 1, -0.5, 0.5, 0, 0], [[0.5]]),
        ("mixture of two", [0, 1, -0.5, 0.5, -3, 0], [[-0.5]]),  # less weight, but much narrower
    ],
)
def test_most_likely_actions_by_hand(name: str, outputs: list[float], expected: list[Any]) -> None:
    assert HEADS[name][1].mode(repeated(outputs, 1)).tolist() == expected


def test_samples_of_choices_follow_their_probabilities() -> None:
    head, n = HEADS["several"][1], 20_000
    actions = head.sample(repeated(np.log([0.5, 0.3, 0.2, 0.1, 0.9]), n), uniforms(head, n))
    assert chisquare(np.bincount(actions[:, 0]), [0.5 * n, 0.3 * n, 0.2 * n]).pvalue > 0.01
    assert chisquare(np.bincount(actions[:, 1]), [0.1 * n, 0.9 * n]).pvalue > 0.01
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("name", "outputs", "cdf"),
    [
        ("gaussian", GAUSSIANS, norm([0.5, -0.5], [0.1, 2.0]).cdf),
        ("mixture of two", MIXED, lambda x: norm([-0.5, 0.5], [0.1, 0.2]).cdf(x) @ [[0.25], [0.75]]),
        ("two bins", np.log([0.25, 0.75] * 2), lambda x: np.where(x < 0, 0.25 * (x + 1), 0.25 + 0.75 * x)),
    ],
)
def test_samples_of_continuous_actions_follow_their_distribution(name: str, outputs: list[float], cdf: Any) -> None:
    head = HEADS[name][1]
    for column in cdf(head.sample(repeated(outputs, 20_000), uniforms(head, 20_000))).T:
        assert kstest(column, "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", HEADS)
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    _, head = HEADS[name]
    outputs = np.random.default_rng(1).normal(size=(9, head.n_outputs)).astype(np.float32)
    drawn = uniforms(head, 9)
    np.testing.assert_array_equal(head.sample(outputs, drawn)[4:5], head.sample(outputs[4:5], drawn[4:5]))


@pytest.mark.parametrize("value", [-1e4, 1e4])
@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_extreme_outputs_stay_finite(name: str, value: float) -> None:
    space, head = HEADS[name]
    outputs = torch.full((2, head.n_outputs), value, requires_grad=True)
    loss = head.loss(outputs, torch.zeros(2, space.dim))
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    for drawn in (np.zeros((2, head.n_uniforms)), np.full((2, head.n_uniforms), np.nextafter(1, 0))):
        assert np.isfinite(space.decode(head.sample(outputs.detach().numpy(), drawn))).all()


@pytest.mark.parametrize(("name", "lowest"), [("gaussian", -0.5), ("mixture", 2 * MIN_LOG_STD + math.log(2 * math.pi))])
def test_the_loss_is_bounded_below_for_a_deterministic_expert(name: str, lowest: float) -> None:
    space, head = HEADS[name]
    outputs, targets = torch.zeros(1, head.n_outputs, requires_grad=True), torch.full((1, space.dim), 0.3)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss = head.loss(outputs, targets)
        loss.backward()
        optimizer.step()
    assert lowest <= loss.item() < 0.0
    np.testing.assert_allclose(head.mode(outputs.detach().numpy()), [[0.3, 0.3]], atol=0.02)


def test_the_default_head_suits_the_space() -> None:
    kinds = {name: type(default_head(action_space=space)) for name, space in SPACES.items()}
    assert kinds == {"choices": Categorical, "several choices": Categorical, "numbers": Regression}


@pytest.mark.parametrize(
    ("head", "space"),
    [("categorical", BOX), ("gaussian", FOUR), ("gaussian_mixture", MULTI), ("discretized", FOUR), ("mse", FOUR)],
)
def test_a_head_for_other_actions_is_refused(head: str, space: ActionSpace) -> None:
    with pytest.raises(ConfigError, match=rf"head={head} is for .*; head=\w+ is for"):
        check_head(load_option("head", head), space)
