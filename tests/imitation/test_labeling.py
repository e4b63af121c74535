"""Policies that ask an expert: who acts, who says what, and what is recorded of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ilt.data.episodes import Episodes
from ilt.imitation.dagger import MixturePolicy
from ilt.imitation.dart import GaussianNoisePolicy, NoiseInjectionPolicy
from ilt.models.spec import ModelSpec
from ilt.registry import load_option
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy, SequencePolicy
from ilt.rollout.run import rollout
from tests.experts.toys import SPACES, target
from tests.toys import countdown, recall

SEEDS = np.arange(40)


def assert_identical(a: Episodes, b: Episodes) -> None:
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


class Watching(Policy):
    """Always does 2; keeps what it was shown."""

    def __init__(self, *, privileged: bool) -> None:
        self.privileged, self.shown = privileged, list[list[float]]()

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.shown += observations.tolist()
        return np.full(len(slots), 2)

    def observe_action(self, slots: np.ndarray, actions: np.ndarray) -> None:
        pass


def student(kind: str | None = None) -> SequencePolicy:
    """One that acts upon what it saw and did before, in `recall` or in a `target`."""
    torch.manual_seed(3)
    spec = recall() if kind is None else target(kind)
    model, head = ModelSpec(
        model={**load_option("model", "nano"), "n_layer": 1, "n_head": 1, "d_model": 8},
        head=load_option("head", "auto"),
        observation_dim=spec.observations.dim,
        action_space=spec.action_space,
        context_length=4,
    ).build()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return SequencePolicy(model.eval(), head)


def opposite(observations: np.ndarray) -> np.ndarray:
    """To the bit that is seen."""
    return 1 - observations[:, 0].astype(np.int64)


class Sevens(Policy):
    """Does what no student does."""

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return np.full(len(slots), 7)


def mixed(beta: float) -> MixturePolicy:
    return MixturePolicy(student(), FunctionPolicy(opposite, recall().action_space), visible=1, beta=beta)


def noisy(noise: float) -> NoiseInjectionPolicy:
    return NoiseInjectionPolicy(
        FunctionPolicy(opposite, recall().action_space),
        recall().action_space,
        [np.array([[1 - noise, noise], [0.0, 1.0]])],
    )


def seen(episodes: Episodes) -> np.ndarray:
    """(sum T, obs_dim): the observations at which an action was chosen."""
    last = episodes.observation_offsets + episodes.lengths
    return np.delete(episodes.observations, last, axis=0)


# --- the student acts ---


def test_a_student_that_is_x_as_one_that_is_not() -> None:
    labeled = rollout(recall(), mixed(0.0), SEEDS)
    assert_identical(replace(labeled, extras={}), rollout(recall(), student(), SEEDS))


def test_the_labels_are_what_the_expert_would_do_where_the_student_is() -> None:
    for policy in (mixed(0.0), mixed(0.5), noisy(0.5)):
        episodes = rollout(recall(), policy, SEEDS)
        assert episodes.extras["step/label"].tolist() == opposite(seen(episodes)).tolist()
        assert (episodes.actions != episodes.extras["step/label"]).any()


def test_with_beta_one_the_expert_acts() -> None:
    episodes = rollout(recall(), mixed(1.0), SEEDS)
    assert_identical(
        replace(episodes, extras={}), rollout(recall(), FunctionPolicy(opposite, recall().action_space), SEEDS)
    )


def test_the_expert_acts_at_its_share_of_the_steps() -> None:
    policy = MixturePolicy(student(), Sevens(), visible=1, beta=0.3)  # no student does that
    policy.reset(np.arange(2000), np.arange(2000))
    actions = policy.act(np.arange(2000), np.zeros((2000, 1), dtype=np.float32))
    assert (actions == 7).mean() == pytest.approx(0.3, abs=0.04)


def test_the_student_goes_on_from_what_was_done_and_not_from_what_it_chose() -> None:
    """Its logits at each step of an episode with an expert are those for the recorded actions."""
    policy, alone = mixed(0.5), student()
    episodes = rollout(recall(), policy, SEEDS[:1])
    chosen = []
    alone.reset(np.array([0]), SEEDS[:1])
    for observation, action in zip(seen(episodes), episodes.actions, strict=True):
        chosen.append(alone.act(np.array([0]), observation[None])[0])
        alone.observe_action(np.array([0]), np.array([action]))
    by_student = np.array(chosen) == episodes.actions
    by_expert = episodes.extras["step/label"] == episodes.actions
    assert (by_student | by_expert).all()
    assert not by_student.all()
    assert not by_expert.all()


def test_each_is_shown_what_it_is_meant_to_see() -> None:
    spec = replace(countdown(), wrappers={"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [0]}})
    for privileged, expected in ((False, [[1], [1]]), (True, [[1, 2], [1, 1]])):
        actor, expert = Watching(privileged=False), Watching(privileged=privileged)
        rollout(spec, MixturePolicy(actor, expert, visible=1, beta=0.0), [1])  # type: ignore[arg-type]
        assert (actor.shown, expert.shown) == ([[1], [1]], expected)
        expert = Watching(privileged=privileged)
        rollout(spec, NoiseInjectionPolicy(expert, spec.action_space, [np.eye(3)]), [1])
        assert expert.shown == expected


# --- the expert acts, disturbed ---


def test_without_noise_the_expert_acts() -> None:
    episodes = rollout(recall(), noisy(0.0), SEEDS)
    assert_identical(
        replace(episodes, extras={}), rollout(recall(), FunctionPolicy(opposite, recall().action_space), SEEDS)
    )


def test_what_the_expert_means_to_do_is_replaced_as_often_as_the_noise_says() -> None:
    episodes = rollout(recall(), noisy(0.2), np.arange(200))
    labels, actions = episodes.extras["step/label"], episodes.actions
    assert (actions[labels == 0] == 1).mean() == pytest.approx(0.2, abs=0.04)
    assert (actions[labels == 1] == 1).all()


# --- both ---


@pytest.mark.parametrize("make", [lambda: mixed(0.5), lambda: noisy(0.5)])
def test_an_episode_is_decided_by_its_seed_alone(make: type[Policy]) -> None:
    whole = rollout(recall(), make(), SEEDS[:11])
    assert_identical(rollout(recall(), make(), SEEDS[:11], n_envs=2), whole)
    assert_identical(rollout(recall(), make(), SEEDS[4:7]), whole.select(np.arange(4, 7)))


# --- actions of every kind ---


def expert_of(kind: str) -> FunctionPolicy:
    """One that knows the target; its numbers lie beyond the bounds."""
    space = target(kind).action_space

    def aim(observations: np.ndarray) -> np.ndarray:
        if kind == "box":
            return 3.0 * observations.astype(np.float32)
        low = np.array(space.start)
        best = np.where(observations[:, :1] > 0, low + np.array(space.n_choices) - 1, low)
        return best[:, 0] if space.flat else best

    return FunctionPolicy(aim, space)


def disturbed(kind: str) -> Policy:
    space = target(kind).action_space
    if kind == "box":
        return GaussianNoisePolicy(expert_of(kind), space, np.array([[0.04, 0.03], [0.03, 0.09]]))
    return NoiseInjectionPolicy(expert_of(kind), space, [np.full((n, n), 1 / n) for n in space.n_choices])


@pytest.mark.parametrize("kind", [*SPACES])
@pytest.mark.parametrize("how", ["dagger", "dart"])
def test_labels_are_the_experts_and_both_are_of_the_space(how: str, kind: str) -> None:
    def make() -> Policy:
        if how == "dart":
            return disturbed(kind)
        return MixturePolicy(student(kind), expert_of(kind), visible=2, beta=0.5)

    spec, seeds = target(kind), SEEDS[:12]
    episodes = rollout(spec, make(), seeds)
    expected = expert_of(kind).act(np.arange(72), seen(episodes))
    assert np.array_equal(episodes.extras["step/label"], expected)
    assert np.array_equal(spec.action_space.clip(episodes.actions), episodes.actions)
    as_labeled = (episodes.actions == expected).reshape(72, -1).all(axis=1)
    assert 0 < as_labeled.mean() < 1
    assert_identical(rollout(spec, make(), seeds, n_envs=5), episodes)


def test_gaussian_noise_has_the_covariance_that_was_asked_for() -> None:
    space, covariance = target("box").action_space, np.array([[0.04, 0.03], [0.03, 0.09]])
    policy = GaussianNoisePolicy(
        FunctionPolicy(lambda o: np.tile(space.decode(np.zeros((1, 2))), (len(o), 1)), space), space, covariance
    )
    policy.reset(np.arange(5000), np.arange(5000))
    actions = space.encode(policy.act(np.arange(5000), np.zeros((5000, 2), np.float32)))
    np.testing.assert_allclose(np.cov(actions.T), covariance, atol=0.006)


def test_a_rollout_in_which_nobody_is_asked_has_no_labels() -> None:
    assert rollout(recall(), RandomPolicy(recall().action_space), SEEDS[:2]).extras == {}
