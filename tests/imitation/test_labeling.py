"""Policies that ask an expert: who acts, who says what, and what is recorded of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ilt.imitation.labeling import MixturePolicy, NoiseInjectionPolicy
from ilt.rollout.sequence_policy import SequencePolicy
from torch import nn

from ilt.data.episodes import Episodes
from ilt.models.decoder import Decoder
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.rollout.run import rollout
from tests.rollout.test_loop import Constant, Watching, assert_identical
from tests.rollout.test_parallel import Toy
from tests.toys import countdown, recall

SEEDS = np.arange(40)


def student() -> SequencePolicy:
    """One that acts upon what it saw and did before."""
    torch.manual_seed(3)
    model = Decoder(observation_dim=1, n_actions=2, context_length=4, n_layer=1, n_head=1, d_model=8)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return SequencePolicy(model)


def opposite(observations: np.ndarray) -> np.ndarray:
    """To the bit that is seen."""
    return 1 - observations[:, 0].astype(np.int64)


def mixed(beta: float) -> MixturePolicy:
    return MixturePolicy(student(), FunctionPolicy(opposite), visible=1, beta=beta)


def noisy(noise: float) -> NoiseInjectionPolicy:
    return NoiseInjectionPolicy(FunctionPolicy(opposite), np.array([[1 - noise, noise], [0.0, 1.0]]))


def seen(episodes: Episodes) -> np.ndarray:
    """(sum T, obs_dim): the observations at which an action was chosen."""
    last = episodes.observation_offsets + episodes.lengths
    return np.delete(episodes.observations, last, axis=0)


# --- the student flies ---


def test_a_student_that_is_labelled_flies_as_one_that_is_not() -> None:
    labelled = rollout(recall(), mixed(0.0), SEEDS)
    assert_identical(replace(labelled, extras={}), rollout(recall(), student(), SEEDS))


def test_the_labels_are_what_the_expert_would_do_where_the_student_is() -> None:
    for policy in (mixed(0.0), mixed(0.5), noisy(0.5)):
        episodes = rollout(recall(), policy, SEEDS)
        assert episodes.extras["step/label"].tolist() == opposite(seen(episodes)).tolist()
        assert (episodes.actions != episodes.extras["step/label"]).any()


def test_where_the_expert_always_acts_it_flies() -> None:
    episodes = rollout(recall(), mixed(1.0), SEEDS)
    assert_identical(replace(episodes, extras={}), rollout(recall(), FunctionPolicy(opposite), SEEDS))


def test_the_expert_acts_at_its_share_of_the_steps() -> None:
    policy = MixturePolicy(student(), Constant(7), visible=1, beta=0.3)  # no student does that
    policy.begin(np.arange(2000), np.arange(2000))
    actions = policy.act(np.arange(2000), np.zeros((2000, 1), dtype=np.float32))
    assert (actions == 7).mean() == pytest.approx(0.3, abs=0.04)


def test_the_student_goes_on_from_what_was_done_and_not_from_what_it_chose() -> None:
    """Its logits at each step of a flight with an expert are those for the recorded actions."""
    policy, flown = mixed(0.5), student()
    episodes = rollout(recall(), policy, SEEDS[:1])
    chosen = []
    flown.begin(np.array([0]), SEEDS[:1])
    for observation, action in zip(seen(episodes), episodes.actions, strict=True):
        chosen.append(flown.act(np.array([0]), observation[None])[0])
        flown.note(np.array([0]), np.array([action]))
    by_student = np.array(chosen) == episodes.actions
    by_expert = episodes.extras["step/label"] == episodes.actions
    assert (by_student | by_expert).all()
    assert not by_student.all()
    assert not by_expert.all()


def test_each_is_shown_what_it_is_meant_to_see() -> None:
    spec = replace(countdown(), wrappers={"blind": {"hide": [0]}})
    for privileged, expected in ((False, [[1], [1]]), (True, [[1, 2], [1, 1]])):
        flyer, expert = Watching(privileged=False), Watching(privileged=privileged)
        rollout(spec, MixturePolicy(flyer, expert, visible=1, beta=0.0), [1])  # type: ignore[arg-type]
        assert (flyer.shown, expert.shown) == ([[1], [1]], expected)
        expert = Watching(privileged=privileged)
        rollout(spec, NoiseInjectionPolicy(expert, np.eye(3)), [1])
        assert expert.shown == expected


# --- the expert flies, disturbed ---


def test_without_noise_the_expert_flies() -> None:
    episodes = rollout(recall(), noisy(0.0), SEEDS)
    assert_identical(replace(episodes, extras={}), rollout(recall(), FunctionPolicy(opposite), SEEDS))


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


class LabelingToy(Toy):
    """A policy that labels, and the toys."""

    def __init__(self, policy: MixturePolicy) -> None:
        super().__init__(policy)
        self.privileged = policy.privileged
        self._policy = policy

    @property
    def labels(self) -> np.ndarray:
        return self._policy.labels


def test_labels_come_back_from_other_processes() -> None:
    here = rollout(recall(), mixed(0.5), SEEDS[:6])
    there = rollout(recall(), LabelingToy(mixed(0.5)), SEEDS[:6], n_processes=2)
    assert_identical(there, here)
    assert there.extras["step/label"].tolist() == here.extras["step/label"].tolist()


def test_a_flight_in_which_nobody_is_asked_has_no_labels() -> None:
    assert rollout(recall(), RandomPolicy(2), SEEDS[:2]).extras == {}
