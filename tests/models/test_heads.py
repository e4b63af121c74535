"""Action heads: losses by hand, most likely actions, and samples that follow their distribution."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm
from torch.nn.functional import cross_entropy

from ilt.envs.actions import ActionSpace
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
from tests.models.test_check import BOX, FOUR, MULTI, SPACES

ONE = ActionSpace(low=(-2.0,), high=(2.0,), shape=(1,))
HEADS = {
    "categorical": (FOUR, Categorical(action_space=FOUR)),
    "several": (MULTI, Categorical(action_space=MULTI)),
    "gaussian": (BOX, Gaussian(action_space=BOX)),
    "mixture": (BOX, GaussianMixture(action_space=BOX, n_components=3)),
    "discretized": (BOX, Discretized(action_space=BOX, n_bins=5)),
    "mse": (BOX, Regression(action_space=BOX)),
}


def log_std(wanted: float) -> float:
    """The output that means this log deviation."""
    return MIN_LOG_STD + math.log(math.expm1(wanted - MIN_LOG_STD))


def uniforms(head: ActionHead, n: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, head.n_uniforms))


def repeated(outputs: list[float], n: int) -> np.ndarray:
    return np.tile(np.array(outputs, dtype=np.float32), (n, 1))


# --- losses by hand ---


def test_the_loss_of_a_single_choice_is_cross_entropy_to_the_last_bit() -> None:
    outputs, targets = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
    assert torch.equal(Categorical(action_space=FOUR).loss(outputs, targets), cross_entropy(outputs, targets))


def test_losses_of_several_choices_add_up() -> None:
    outputs = torch.log(torch.tensor([[0.5, 0.25, 0.25, 0.1, 0.9]]))
    loss = Categorical(action_space=MULTI).loss(outputs, torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(-math.log(0.25) - math.log(0.1), rel=1e-5)


def test_the_gaussian_loss_is_the_negative_log_likelihood_times_the_variance() -> None:
    outputs = torch.tensor([[0.5, -0.5, log_std(math.log(0.1)), log_std(math.log(2.0))]])
    loss = Gaussian(action_space=BOX).loss(outputs, torch.tensor([[0.7, 0.5]]))
    assert loss.item() == pytest.approx(
        -norm.logpdf(0.7, 0.5, 0.1) * 0.1**2 - norm.logpdf(0.5, -0.5, 2.0) * 2.0**2, rel=1e-5
    )


def test_the_loss_of_a_mixture_is_that_of_its_weighted_densities() -> None:
    deviations = [log_std(math.log(0.1)), log_std(math.log(0.2))]
    outputs = torch.tensor([[math.log(0.25), math.log(0.75), -0.5, 0.5, *deviations]])
    loss = GaussianMixture(action_space=ONE, n_components=2).loss(outputs, torch.tensor([[0.4]]))
    density = 0.25 * norm.pdf(0.4, -0.5, 0.1) + 0.75 * norm.pdf(0.4, 0.5, 0.2)
    assert loss.item() == pytest.approx(-math.log(density), rel=1e-5)


@pytest.mark.parametrize(
    ("action", "chosen"), [(-1.0, 0), (-0.51, 0), (-0.5, 1), (0.0, 2), (0.49, 2), (0.5, 3), (1.0, 3)]
)
def test_numbers_are_put_into_bins_with_both_ends_inside(action: float, chosen: int) -> None:
    head, probabilities = Discretized(action_space=ONE, n_bins=4), [0.1, 0.2, 0.3, 0.4]
    loss = head.loss(torch.log(torch.tensor([probabilities])), torch.tensor([[action]]))
    assert loss.item() == pytest.approx(-math.log(probabilities[chosen]), rel=1e-5)


def test_losses_of_binned_numbers_add_up() -> None:
    outputs = torch.log(torch.tensor([[0.9, 0.1, 0.3, 0.7]]))
    loss = Discretized(action_space=BOX, n_bins=2).loss(outputs, torch.tensor([[-1.0, 1.0]]))
    assert loss.item() == pytest.approx(-math.log(0.9) - math.log(0.7), rel=1e-5)


def test_regression_is_least_squares() -> None:
    loss = Regression(action_space=BOX).loss(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx((0.25 + 1.0) / 2)


# --- most likely actions, samples ---


@pytest.mark.parametrize("name", HEADS)
def test_actions_have_the_shape_and_type_of_the_space(name: str) -> None:
    space, head = HEADS[name]
    outputs = np.random.default_rng(1).normal(size=(7, head.n_outputs)).astype(np.float32)
    for actions in (head.mode(outputs), head.sample(outputs, uniforms(head, 7))):
        assert actions.shape == space.zeros(7).shape
        assert actions.dtype == space.dtype
    targets = torch.from_numpy(head.mode(outputs)).clamp(-1, 3)
    assert head.loss(torch.from_numpy(outputs), targets).shape == ()


def test_most_likely_actions_by_hand() -> None:
    assert Categorical(action_space=FOUR).mode(repeated([0, 2, 1, -1], 1)).tolist() == [1]
    assert Categorical(action_space=MULTI).mode(repeated([0, 1, 2, 3, 0], 1)).tolist() == [[2, 0]]
    assert Gaussian(action_space=BOX).mode(repeated([0.25, -0.5, 9, 9], 1)).tolist() == [[0.25, -0.5]]
    assert Discretized(action_space=ONE, n_bins=4).mode(repeated([0, 0, 0, 1], 1)).tolist() == [[0.75]]
    mixture = GaussianMixture(action_space=ONE, n_components=2)
    assert mixture.mode(repeated([0, 1, -0.5, 0.5, 0, 0], 1)).tolist() == [[0.5]]
    assert mixture.mode(repeated([0, 1, -0.5, 0.5, -3, 0], 1)).tolist() == [[-0.5]]  # less weight, but far narrower


def test_samples_of_choices_follow_their_probabilities() -> None:
    head, n = Categorical(action_space=MULTI), 20_000
    actions = head.sample(repeated(np.log([0.5, 0.3, 0.2, 0.1, 0.9]).tolist(), n), uniforms(head, n))
    assert chisquare(np.bincount(actions[:, 0]), [0.5 * n, 0.3 * n, 0.2 * n]).pvalue > 0.01
    assert chisquare(np.bincount(actions[:, 1]), [0.1 * n, 0.9 * n]).pvalue > 0.01
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.02


def test_samples_of_a_gaussian_follow_it() -> None:
    head, n = Gaussian(action_space=BOX), 20_000
    outputs = repeated([0.5, -0.5, log_std(math.log(0.1)), log_std(math.log(2.0))], n)
    actions = head.sample(outputs, uniforms(head, n))
    assert kstest(actions[:, 0], norm(0.5, 0.1).cdf).pvalue > 0.01
    assert kstest(actions[:, 1], norm(-0.5, 2.0).cdf).pvalue > 0.01


def test_samples_of_a_mixture_follow_it() -> None:
    head, n = GaussianMixture(action_space=ONE, n_components=2), 20_000
    deviations = [log_std(math.log(0.1)), log_std(math.log(0.2))]
    actions = head.sample(repeated([math.log(0.25), math.log(0.75), -0.5, 0.5, *deviations], n), uniforms(head, n))
    first, second = norm(-0.5, 0.1), norm(0.5, 0.2)
    assert kstest(actions[:, 0], lambda x: 0.25 * first.cdf(x) + 0.75 * second.cdf(x)).pvalue > 0.01


def test_samples_of_bins_are_uniform_within_them() -> None:
    head, n = Discretized(action_space=ONE, n_bins=2), 20_000
    actions = head.sample(repeated(np.log([0.25, 0.75]).tolist(), n), uniforms(head, n))[:, 0]
    assert kstest(actions, lambda x: np.where(x < 0, 0.25 * (x + 1), 0.25 + 0.75 * x)).pvalue > 0.01


@pytest.mark.parametrize("name", HEADS)
def test_the_same_uniform_numbers_give_the_same_sample_whatever_is_beside_it(name: str) -> None:
    _, head = HEADS[name]
    outputs = np.random.default_rng(1).normal(size=(9, head.n_outputs)).astype(np.float32)
    drawn = uniforms(head, 9)
    np.testing.assert_array_equal(head.sample(outputs, drawn)[4:5], head.sample(outputs[4:5], drawn[4:5]))


# --- extremes ---


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
def test_a_deterministic_expert_does_not_drive_the_loss_down_without_end(name: str, lowest: float) -> None:
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


# --- which head suits which actions ---


def test_the_default_suits_the_space() -> None:
    kinds = {name: type(default_head(action_space=space)) for name, space in SPACES.items()}
    assert kinds == {"choices": Categorical, "several choices": Categorical, "numbers": Regression}


@pytest.mark.parametrize(
    ("head", "space", "keys"),
    [
        (Categorical, BOX, {}),
        (Gaussian, FOUR, {}),
        (GaussianMixture, MULTI, {"n_components": 2}),
        (Discretized, FOUR, {"n_bins": 2}),
        (Regression, FOUR, {}),
    ],
)
def test_a_head_for_other_actions_is_refused(head: type[ActionHead], space: ActionSpace, keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"head=\w+ is for .*; head=\w+ is for"):
        head(action_space=space, **keys)
