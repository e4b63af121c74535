"""Policies that query an expert: who acts, who labels, and what is recorded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.imitation.dagger import MixturePolicy
from ilt.imitation.dart import GaussianNoisePolicy, NoiseInjectionPolicy
from ilt.models.spec import ModelSpec
from ilt.registry import load_option
from ilt.rollout.policies import FunctionPolicy, Policy, SequencePolicy
from ilt.rollout.run import rollout
from tests.experts.toys import SPACES, target
from tests.rollout.test_loop import assert_identical
from tests.toys import countdown, recall

SEEDS = np.arange(40)
COVARIANCE = np.array([[0.04, 0.03], [0.03, 0.09]])


class Watching(Policy):
    """Always takes action 2 and records its observations."""

    def __init__(self, *, privileged: bool) -> None:
        self.privileged, self.shown = privileged, list[list[float]]()

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.shown += observations.tolist()
        return np.full(len(slots), 2)


def student(spec: EnvSpec) -> SequencePolicy:
    """Return a student whose actions depend on past observations and actions."""
    torch.manual_seed(3)
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
    """Return the opposite of the observed bit."""
    return 1 - observations[:, 0].astype(np.int64)


EXPERT = FunctionPolicy(opposite, recall().action_space)


def mixed(beta: float, expert: Policy = EXPERT) -> MixturePolicy:
    return MixturePolicy(student(recall()), expert, visible=1, beta=beta)


def noisy(noise: float) -> NoiseInjectionPolicy:
    return NoiseInjectionPolicy(EXPERT, recall().action_space, [np.array([[1 - noise, noise], [0.0, 1.0]])])


def seen(episodes: Episodes) -> np.ndarray:
    """Return the observations at which an action was chosen, (sum T, obs_dim)."""
    return np.delete(episodes.observations, episodes.observation_offsets + episodes.lengths, axis=0)


@pytest.mark.parametrize(
    ("policy", "actor"),
    [(mixed(0.0), student(recall())), (mixed(1.0), EXPERT), (noisy(0.0), EXPERT)],
    ids=["beta 0", "beta 1", "no noise"],
)
def test_a_mixture_with_a_single_actor_acts_like_that_actor_with_expert_labels(policy: Policy, actor: Policy) -> None:
    labeled = rollout(recall(), policy, SEEDS)
    alone = rollout(recall(), actor, SEEDS)
    assert_identical(replace(labeled, extras=alone.extras), alone)
    assert labeled.extras["step/label"].tolist() == opposite(seen(labeled)).tolist()


def test_the_expert_acts_in_a_fraction_beta_of_the_steps() -> None:
    policy = mixed(0.3, Watching(privileged=False))  # no student does 2
    policy.reset(np.arange(2000), np.arange(2000))
    actions = policy.act(np.arange(2000), np.zeros((2000, 1), dtype=np.float32))
    assert (actions == 2).mean() == pytest.approx(0.3, abs=0.04)


def test_the_student_remembers_executed_actions_and_not_its_own_choices() -> None:
    alone, slot = student(recall()), np.array([0])
    episodes = rollout(recall(), mixed(0.5), SEEDS[:1])
    chosen = []
    alone.reset(slot, SEEDS[:1])
    for observation, action in zip(seen(episodes), episodes.actions, strict=True):
        chosen.append(alone.act(slot, observation[None])[0])
        alone.observe_action(slot, np.array([action]))
    by_student = np.array(chosen) == episodes.actions
    by_expert = episodes.extras["step/label"] == episodes.actions
    assert (by_student | by_expert).all()
    assert not by_student.all()
    assert not by_expert.all()


@pytest.mark.parametrize(("privileged", "expected"), [(False, [[1], [1]]), (True, [[1, 2], [1, 1]])])
def test_student_and_expert_each_see_their_own_observations(privileged: bool, expected: list[list[int]]) -> None:
    spec = replace(countdown(), wrappers={"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [0]}})
    actor, expert, noisy_expert = Watching(privileged=False), *(Watching(privileged=privileged) for _ in range(2))
    rollout(spec, MixturePolicy(actor, expert, visible=1, beta=0.0), [1])  # type: ignore[arg-type]
    rollout(spec, NoiseInjectionPolicy(noisy_expert, spec.action_space, [np.eye(3)]), [1])
    assert actor.shown == [[1], [1]]
    assert expert.shown == noisy_expert.shown == expected


def test_expert_actions_are_replaced_with_the_noise_probability() -> None:
    episodes = rollout(recall(), noisy(0.2), np.arange(200))
    labels, actions = episodes.extras["step/label"], episodes.actions
    assert (actions[labels == 0] == 1).mean() == pytest.approx(0.2, abs=0.04)
    assert (actions[labels == 1] == 1).all()


def test_gaussian_noise_has_the_given_covariance() -> None:
    space, slots = target("box").action_space, np.arange(5000)
    still = FunctionPolicy(lambda o: np.tile(space.decode(np.zeros((1, 2))), (len(o), 1)), space)
    policy = GaussianNoisePolicy(still, space, COVARIANCE)
    policy.reset(slots, slots)
    actions = space.encode(policy.act(slots, np.zeros((5000, 2), np.float32)))
    np.testing.assert_allclose(np.cov(actions.T), COVARIANCE, atol=0.006)


# --- actions of every kind ---


def expert_of(kind: str) -> FunctionPolicy:
    """Return an expert that knows the target; its continuous actions exceed the bounds."""
    space = target(kind).action_space

    def aim(observations: np.ndarray) -> np.ndarray:
        if kind == "box":
            return 3.0 * observations.astype(np.float32)
        best = np.array(space.start) + (observations[:, :1] > 0) * (np.array(space.n_choices) - 1)
        return best[:, 0] if space.flat else best

    return FunctionPolicy(aim, space)


def asking(how: str, kind: str) -> Policy:
    space, expert = target(kind).action_space, expert_of(kind)
    if how == "dagger":
        return MixturePolicy(student(target(kind)), expert, visible=2, beta=0.5)
    if kind == "box":
        return GaussianNoisePolicy(expert, space, COVARIANCE)
    return NoiseInjectionPolicy(expert, space, [np.full((n, n), 1 / n) for n in space.n_choices])


@pytest.mark.parametrize("kind", [*SPACES])
@pytest.mark.parametrize("how", ["dagger", "dart"])
def test_labels_are_valid_expert_actions_and_episodes_depend_only_on_the_seed(how: str, kind: str) -> None:
    spec, seeds = target(kind), SEEDS[:12]
    episodes = rollout(spec, asking(how, kind), seeds)
    expected = expert_of(kind).act(np.arange(72), seen(episodes))
    assert np.array_equal(episodes.extras["step/label"], expected)
    assert np.array_equal(spec.action_space.clip(episodes.actions), episodes.actions)
    assert 0 < (episodes.actions == expected).reshape(72, -1).all(axis=1).mean() < 1
    assert_identical(rollout(spec, asking(how, kind), seeds, n_envs=5), episodes, atol=1e-5)
    assert_identical(rollout(spec, asking(how, kind), seeds[4:7]), episodes.select(np.arange(4, 7)), atol=1e-5)
