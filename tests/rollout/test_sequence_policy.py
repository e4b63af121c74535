"""Students: a sequence model sees the same windows when it acts as in training."""

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ilt.data.episodes import Episodes
from ilt.data.returns import seen_by_model
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.models.base import SequenceModel
from ilt.models.decoder import Decoder
from ilt.models.heads import default_head
from ilt.rollout.parallel import dumps
from ilt.rollout.policies import Policy, SequencePolicy
from ilt.rollout.run import rollout
from tests.models.test_decoder import close
from tests.rollout.test_loop import assert_identical
from tests.toys import countdown, recall

MEMORIES = [{}, {"recompute": True}]


def acting(model: SequenceModel, **manner: Any) -> SequencePolicy:
    """Return a policy that acts with this model and its default head."""
    return SequencePolicy(model, default_head(action_space=model.action_space), **manner)


class Probe(SequenceModel):
    """Records its inputs; its action is the first coordinate of the observation modulo 4."""

    def __init__(self, context_length: int) -> None:
        space = ActionSpace(n_choices=(4,), start=(0,))
        super().__init__(observation_dim=1, action_space=space, n_outputs=4, context_length=context_length)
        self.weight = nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout(0.5)
        self.windows: list[list[list[float]]] = []
        self.actions: list[list[list[int]]] = []
        self.modes: list[bool] = []

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        self.windows.append(observations[..., 0].tolist())
        self.actions.append(actions[:, :-1].tolist())
        self.modes.append(self.training or self.drop.training)
        return self.drop(one_hot(observations[..., 0].long() % 4, 4).float())


def large_random_model(spec: EnvSpec, *, kind: type[Decoder] = Decoder, **changes: Any) -> Decoder:
    """Return a model with weights so large that every token affects the logits."""
    torch.manual_seed(0)
    observation_dim = spec.observations.dim + changes.get("return_conditioned", False)
    space = spec.action_space
    n_outputs = default_head(action_space=space).n_outputs
    given = {"n_outputs": n_outputs, "context_length": 5, "n_layer": 2, "n_head": 2, "d_model": 16, **changes}
    model = kind(observation_dim=observation_dim, action_space=space, **given)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.set_normalization(torch.full((observation_dim,), 0.1), torch.full((observation_dim,), 0.5))
    if model.target_return is not None:
        model.target_return.fill_(7.0)
    return model


def act(policy: SequencePolicy, observations: dict[int, float]) -> list[int]:
    """Act in the slots that have an observation."""
    return policy.act(
        np.array([*observations]), np.array([[value] for value in observations.values()], np.float32)
    ).tolist()


def begin(policy: Policy, *slots: int) -> None:
    policy.reset(np.array(slots), np.array(slots) + 100)


def test_a_window_grows_from_the_true_start_and_then_slides() -> None:
    model = Probe(context_length=3)
    policy = acting(model)
    begin(policy, 0)
    assert [act(policy, {0: t}) for t in (5, 6, 7, 8, 9)] == [[1], [2], [3], [0], [1]]
    assert model.windows == [[[5]], [[5, 6]], [[5, 6, 7]], [[6, 7, 8]], [[7, 8, 9]]]
    assert model.actions == [[[]], [[1]], [[1, 2]], [[2, 3]], [[3, 0]]]


def test_slots_may_start_late_and_pause() -> None:
    model = Probe(context_length=2)
    policy = acting(model)
    begin(policy, 1)
    act(policy, {1: 5})
    begin(policy, 4)
    act(policy, {4: 8})
    assert act(policy, {4: 9, 1: 6}) == [1, 2]
    assert (model.windows[2], model.actions[2]) == ([[8, 9], [5, 6]], [[0], [1]])


@pytest.mark.parametrize("context_length", [0, -1, 4])
def test_a_context_length_out_of_range_is_refused(context_length: int) -> None:
    with pytest.raises(ValueError, match=f"context_length must be from 1 to the model's 3, got {context_length}"):
        acting(Probe(3), context_length=context_length)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_acts_in_evaluation_mode_and_its_mode_is_restored(training: bool) -> None:
    model = Probe(context_length=3).train(training)
    policy = acting(model)
    begin(policy, 0)
    act(policy, {0: 1})
    assert model.modes == [False]
    assert (model.training, model.drop.training) == (training, training)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_even_if_the_model_fails(training: bool) -> None:
    model = large_random_model(recall()).train(training)
    policy = acting(model, recompute=True)
    model.norm.weight = nn.Parameter(torch.ones(3))  # should have 16 elements
    begin(policy, 0)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        act(policy, {0: 1})
    assert all(module.training == training for module in model.modules())


class Opposite(Decoder):
    """A decoder with a different forward pass."""

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        return -super().forward(observations, actions, mask)


@pytest.mark.parametrize(
    ("options", "manner", "recomputes"),
    [
        ({}, {}, False),
        ({}, {"context_length": 5}, False),
        ({"tokens": "states"}, {}, False),
        ({"positions": "none"}, {}, False),
        ({"attention": "full", "n_layer": 1}, {}, False),
        ({}, {"recompute": True}, True),
        ({}, {"context_length": 4}, True),
        ({"positions": "learned"}, {}, True),
        ({"attention": "full"}, {}, True),
        ({"kind": Opposite}, {}, True),
    ],
    ids=str,
)
def test_models_that_cannot_or_should_not_be_cached_recompute_their_window(
    options: dict[str, Any], manner: dict[str, Any], recomputes: bool
) -> None:
    """Recomputing means that whole windows go through the model's forward pass, as in training."""
    model, windows = large_random_model(recall(), **options), []
    model.register_forward_pre_hook(lambda module, inputs: windows.append(inputs))
    policy = acting(model, **manner)
    begin(policy, 0)
    act(policy, {0: 1})
    assert bool(windows) == recomputes


class Recording(SequencePolicy):
    """Records the logits of every step by the seed of the episode."""

    def __init__(self, model: SequenceModel, **manner: Any) -> None:
        super().__init__(model, default_head(action_space=model.action_space), **manner)
        self.online: dict[int, list[Tensor]] = {}
        self.seed_in: dict[int, int] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        self.seed_in.update(zip(slots.tolist(), seeds.tolist(), strict=True))
        self.online.update({seed: [] for seed in seeds.tolist()})

    def outputs(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        logits = super().outputs(slots, observations)
        for slot, row in zip(slots.tolist(), torch.from_numpy(logits), strict=True):
            self.online[self.seed_in[slot]].append(row)
        return logits


def offline_logits(model: Decoder, episodes: Episodes, e: int, length: int) -> Tensor:
    """Return each step's logits, (T, A), from a hand-cut, right-padded window of the last `length` steps."""
    steps = slice(episodes.step_offsets[e], episodes.step_offsets[e] + episodes.lengths[e])
    rows = slice(episodes.observation_offsets[e], episodes.observation_offsets[e] + episodes.lengths[e])
    seen, done = torch.from_numpy(episodes.observations[rows]), torch.from_numpy(episodes.actions[steps])
    logits = []
    for t in range(len(done)):
        start = max(t + 1 - length, 0)
        n_real, n_padded = t + 1 - start, length - (t + 1 - start)
        observations = torch.cat([seen[start : t + 1], torch.full((n_padded, seen.shape[1]), 77.0)])
        actions = torch.cat([done[start : t + 1], torch.zeros(n_padded, dtype=torch.int64)])
        mask = torch.arange(length) < n_real
        with torch.inference_mode():
            logits.append(model.eval()(observations[None], actions[None], mask[None])[0, n_real - 1])
    return torch.stack(logits)


def assert_online_is_offline(
    policy: Recording, model: Decoder, episodes: Episodes, context_length: int | None = None
) -> None:
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, context_length or model.context_length)
        close(torch.stack(policy.online[seed]), offline)


@pytest.mark.parametrize(
    ("options", "manner"),
    [
        ({}, {}),
        ({"tokens": "states"}, {}),
        ({"positions": "learned"}, {}),
        ({"positions": "none", "context_length": 1}, {}),
        ({"positions": "learned", "tokens": "states"}, {}),
        ({"attention": "full"}, {}),
        ({"attention": "full", "n_layer": 1}, {}),
        ({}, {"context_length": 1}),  # sees only the last step
        ({}, {"context_length": 3}),
    ],
    ids=str,
)
def test_online_logits_equal_offline_logits(lander: EnvSpec, options: dict[str, Any], manner: dict[str, int]) -> None:
    model = large_random_model(lander, **options)
    policy = Recording(model, deterministic=False, **manner)
    episodes = rollout(lander, policy, lander.seeds("validation", 4), n_envs=3)
    assert episodes.lengths.min() > 3 * model.context_length
    assert_online_is_offline(policy, model, episodes, **manner)


def test_online_logits_equal_one_pass_over_the_training_windows(lander: EnvSpec) -> None:
    model = large_random_model(lander)
    policy = Recording(model, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 4), n_envs=3)
    for e, seed in enumerate(episodes.seeds.tolist()):
        one, shape = episodes.select(np.array([e])), {"context_length": model.context_length}
        windows = WindowDataset(one, action_space=model.action_space, **shape)
        batch = windows.__getitems__(range(len(windows)))
        with torch.inference_mode():
            logits = model.eval()(batch["observations"], batch["actions"], batch["mask"])
        offline = torch.cat([logits[0], logits[1:, -1]])  # the episode's start, then one more step per window
        close(torch.stack(policy.online[seed]), offline)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_online_equals_offline_in_short_episodes_and_reused_slots(manner: dict[str, Any]) -> None:
    spec, model = countdown(), large_random_model(countdown())
    policy = Recording(model, deterministic=False, **manner)
    episodes = rollout(spec, policy, spec.seeds("validation", 10), n_envs=3)
    assert sorted(set(episodes.lengths.tolist())) == [1, 2, 3]
    assert_online_is_offline(policy, model, episodes)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_a_rollout_disables_dropout_and_training_resumes_it(lander: EnvSpec, manner: dict[str, Any]) -> None:
    model = large_random_model(lander, dropout=0.5, action_dropout=0.5).train()
    policy = Recording(model, **manner)
    episodes = rollout(lander, policy, lander.seeds("validation", 2), n_envs=2)
    assert all(module.training for module in model.modules())
    assert_online_is_offline(policy, model, episodes)


@pytest.mark.parametrize("options", [{}, {"n_layer": 3, "context_length": 8}, {"tokens": "states"}], ids=str)
def test_cached_and_recomputed_rollouts_differ_only_at_ties(lander: EnvSpec, options: dict[str, Any]) -> None:
    model, seeds = large_random_model(lander, **options).eval(), lander.seeds("validation", 8)
    cached, n_ties = Recording(model), 0
    episodes = [rollout(lander, policy, seeds, n_envs=3) for policy in (cached, acting(model, recompute=True))]
    for e, seed in enumerate(seeds.tolist()):
        ours, theirs = (found.select(np.array([e])) for found in episodes)
        pairs = enumerate(zip(ours.actions, theirs.actions, strict=False))
        parting = next((t for t, (one, other) in pairs if one != other), None)
        if parting is None:
            assert_identical(ours, theirs)
        else:
            first, second = cached.online[seed][parting].topk(2).values.tolist()
            assert first - second < 1e-5
            n_ties += 1
    assert n_ties <= 1


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_pickled_policy_acts_identically(lander: EnvSpec, deterministic: bool, manner: dict[str, Any]) -> None:
    policy = acting(large_random_model(lander), deterministic=deterministic, **manner)
    fresh = dumps((lander, policy))
    expected = rollout(lander, policy, np.arange(4), n_envs=3)
    for sent in (fresh, dumps((lander, policy))):  # the second includes its memory
        spec, arrived = ForkingPickler.loads(sent)
        assert_identical(rollout(spec, arrived, np.arange(4), n_envs=3), expected)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_a_stochastic_student_depends_only_on_the_seed(manner: dict[str, Any]) -> None:
    policy = acting(large_random_model(recall()), deterministic=False, **manner)
    reference = rollout(recall(), policy, np.arange(20))
    shuffled = rollout(recall(), policy, np.arange(20)[::-1], n_envs=3)
    assert np.array_equal(shuffled.select(np.arange(20)[::-1]).actions, reference.actions)


def test_stochastic_students_act_the_same_cached_and_recomputed() -> None:
    model = large_random_model(recall())
    policies = [acting(model, deterministic=False, **manner) for manner in MEMORIES]
    cached, recomputed = (rollout(recall(), policy, np.arange(20), n_envs=3) for policy in policies)
    assert_identical(cached, recomputed)
    assert not np.array_equal(cached.actions, rollout(recall(), acting(model), np.arange(20)).actions)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_a_policy_made_after_more_training_acts_with_the_new_weights(lander: EnvSpec, manner: dict[str, Any]) -> None:
    model = large_random_model(lander)
    policy = acting(model, **manner)
    before = rollout(lander, policy, np.arange(2))
    with torch.no_grad():
        model.action_head.weight.neg_()
    after = rollout(lander, acting(model, **manner), np.arange(2))
    assert not np.array_equal(before.actions, after.actions)
    follows = "recompute" in manner  # a cached policy keeps the weights it was made with
    assert_identical(rollout(lander, policy, np.arange(2)), after if follows else before)


# --- return conditioning ---


RETURNS = [
    ({}, {}),
    ({}, {"target_return": -2.5}),
    ({}, {"recompute": True}),
    ({"tokens": "states"}, {}),
    ({"attention": "full", "positions": "learned"}, {}),
    ({"context_length": 1}, {}),
]


@pytest.mark.parametrize(("options", "manner"), RETURNS, ids=str)
def test_a_student_sees_its_target_minus_the_rewards_so_far(options: dict[str, Any], manner: dict[str, Any]) -> None:
    """Step by step, it gets the outputs of a full pass over episodes whose returns equal the target."""
    model = large_random_model(recall(), return_conditioned=True, **options)
    policy = Recording(model, deterministic=False, **manner)
    episodes = rollout(recall(), policy, np.arange(6), n_envs=4)
    target = manner.get("target_return", 7.0)
    assert policy.target_return == target
    assert len(set(episodes.returns)) > 1
    seen = seen_by_model(episodes, return_conditioned=True, target_return=target)
    for e, start in enumerate(episodes.observation_offsets):
        earned = episodes.rewards[episodes.step_offsets[e] :][:11].cumsum()
        np.testing.assert_allclose(seen[start + 1 : start + 12, -1], target - earned)
    assert_online_is_offline(policy, model, replace(episodes, observations=seen))


def test_only_a_return_conditioned_model_takes_a_target() -> None:
    with pytest.raises(ValueError, match="target_return must be None for a model that sees no returns, got 1"):
        acting(large_random_model(recall()), target_return=1)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_slots_keep_returns_of_their_own(manner: dict[str, Any]) -> None:
    model, seeds = large_random_model(recall(), return_conditioned=True), np.arange(20)
    policy = acting(model, deterministic=False, **manner)
    assert_identical(rollout(recall(), policy, seeds, n_envs=3), rollout(recall(), policy, seeds, n_envs=64))
