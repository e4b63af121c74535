"""Students: what a sequence model is shown while it acts, and that it is what it was shown in training."""

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.models.base import SequenceModel
from ilt.models.decoder import Decoder
from ilt.models.heads import default_head
from ilt.rollout.parallel import dumps
from ilt.rollout.policies import Policy, SequencePolicy
from ilt.rollout.run import rollout
from tests.rollout.test_loop import assert_identical
from tests.toys import countdown, recall

FULL = {"attention": "full"}
MEMORIES = [{}, {"recompute": True}]


def sizes(n_actions: int, context_length: int, observation_dim: int) -> dict[str, Any]:
    """What a model of one choice is built with."""
    return {
        "observation_dim": observation_dim,
        "action_space": ActionSpace(n_choices=(n_actions,), start=(0,)),
        "n_outputs": n_actions,
        "context_length": context_length,
    }


def acting(model: SequenceModel, **manner: Any) -> SequencePolicy:
    """A model with the usual head as a policy."""
    return SequencePolicy(model, default_head(action_space=model.action_space), **manner)


class Probe(SequenceModel):
    """Keeps what it is shown; its action at a step is that step's first coordinate modulo 4."""

    def __init__(self, context_length: int, observation_dim: int = 1) -> None:
        super().__init__(**sizes(4, context_length, observation_dim))
        self.weight = nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout(0.5)
        self.windows: list[list[list[float]]] = []
        self.actions: list[list[list[int]]] = []
        self.modes: list[bool] = []

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        self.windows.append(observations[..., 0].tolist())
        self.actions.append(actions.tolist())
        self.modes.append(self.training or self.drop.training)
        return self.drop(one_hot(observations[..., 0].long() % 4, 4).float())


class Causal(SequenceModel):
    """Its action at a step depends on every observation and every past action of the window, and on their order."""

    def __init__(self, context_length: int) -> None:
        super().__init__(**sizes(2, context_length, 1))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        order = torch.arange(1, observations.shape[1] + 1)
        seen = (observations[..., 0].long() * order).cumsum(dim=1)
        past = (actions * (order + 1)).cumsum(dim=1) - actions * (order + 1)
        return one_hot((seen + past + order) % 3 % 2, 2).float()

    @staticmethod
    def action(observations: list[int], past: list[int]) -> int:
        """The same for the last step of one window, in plain numbers."""
        seen = sum(o * i for i, o in enumerate(observations, start=1))
        return (seen + sum(a * i for i, a in enumerate(past, start=2)) + len(observations)) % 3 % 2


def large_random_model(spec: EnvSpec, **changes: Any) -> Decoder:
    """Weights so large that every token shows in the logits."""
    torch.manual_seed(0)
    observation_dim, space = spec.observations.dim, spec.action_space
    given = {"context_length": 5, "n_layer": 2, "n_head": 2, "d_model": 16, **changes}
    n_outputs = default_head(action_space=space).n_outputs
    model = Decoder(observation_dim=observation_dim, action_space=space, n_outputs=n_outputs, **given)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.set_normalization(torch.full((observation_dim,), 0.1), torch.full((observation_dim,), 0.5))
    return model


def act(policy: SequencePolicy, observations: dict[int, float]) -> list[int]:
    """Act in some slots, whose observations are given by slot."""
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
    assert [rows[0][:-1] for rows in model.actions] == [[], [1], [1, 2], [2, 3], [3, 0]]


def test_nothing_of_an_ended_episode_is_left_in_its_slot() -> None:
    model = Probe(context_length=3)
    policy = acting(model)
    begin(policy, 0)
    for t in range(5):
        act(policy, {0: t})
    begin(policy, 0)
    assert [act(policy, {0: t}) for t in (11, 12)] == [[3], [0]]
    assert model.windows[5:] == [[[11]], [[11, 12]]]
    assert model.actions[6][0][0] == 3


def test_slots_of_different_age_each_act_on_their_own_newest_observation() -> None:
    model = Probe(context_length=3)
    policy = acting(model)
    begin(policy, 0, 1)
    act(policy, {0: 1, 1: 20})
    act(policy, {0: 2, 1: 21})
    begin(policy, 1)
    assert act(policy, {0: 3, 1: 30}) == [3, 2]
    assert model.windows[2][0] == [1, 2, 3]
    assert model.windows[2][1][0] == 30
    assert act(policy, {1: 31, 0: 4}) == [3, 0]
    assert [row[:2] for row in model.windows[3]] == [[30, 31], [2, 3]]
    assert [row[:1] for row in model.actions[3]] == [[2], [2]]


def test_slots_may_begin_late_and_rest() -> None:
    model = Probe(context_length=2)
    policy = acting(model)
    begin(policy, 1)
    act(policy, {1: 5})
    begin(policy, 4)
    act(policy, {4: 8})
    assert act(policy, {4: 9, 1: 6}) == [1, 2]
    assert model.windows[2] == [[8, 9], [5, 6]]
    assert [row[0] for row in model.actions[2]] == [0, 1]


def test_it_may_look_at_less_than_the_model_was_built_for() -> None:
    model = Probe(context_length=8)
    policy = acting(model, context_length=2)
    begin(policy, 0)
    for t in range(4):
        act(policy, {0: t})
    assert model.windows == [[[0]], [[0, 1]], [[1, 2]], [[2, 3]]]


@pytest.mark.parametrize("context_length", [1, 4, 20])
@pytest.mark.parametrize("n_envs", [1, 5])
def test_flying_is_one_pass_over_the_windows_of_the_recorded_episode(context_length: int, n_envs: int) -> None:
    episodes = rollout(recall(), acting(Causal(context_length)), np.arange(12), n_envs=n_envs)
    for e in range(12):
        one = episodes.select(np.array([e]))
        bits, actions = one.observations[:, 0].astype(int).tolist(), one.actions.tolist()
        for t, action in enumerate(actions):
            start = max(0, t + 1 - context_length)
            assert action == Causal.action(bits[start : t + 1], actions[start:t])


def test_one_policy_can_fly_twice() -> None:
    policy = acting(Causal(4))
    first, second = (rollout(recall(), policy, np.arange(12), n_envs=n) for n in (3, 12))
    assert np.array_equal(first.actions, second.actions)


def test_a_sampled_student_is_decided_by_the_seed_alone() -> None:
    policy = acting(Causal(4), deterministic=False)
    reference = rollout(recall(), policy, np.arange(12))
    shuffled = rollout(recall(), policy, np.arange(12)[::-1], n_envs=5)
    assert np.array_equal(shuffled.select(np.arange(12)[::-1]).actions, reference.actions)
    assert not np.array_equal(reference.actions, rollout(recall(), acting(Causal(4)), np.arange(12)).actions)


@pytest.mark.parametrize("context_length", [0, -1, 4])
def test_a_context_length_out_of_range_is_refused(context_length: int) -> None:
    with pytest.raises(ValueError, match=f"context_length must be from 1 to the model's 3, got {context_length}"):
        acting(Probe(3), context_length=context_length)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_acts_in_evaluation_mode_and_is_put_back_into_its_own(training: bool) -> None:
    model = Probe(context_length=3).train(training)
    policy = acting(model)
    begin(policy, 0)
    act(policy, {0: 1})
    assert model.modes == [False]
    assert (model.training, model.drop.training) == (training, training)


def test_a_context_policy_flies_the_lander(lander: EnvSpec) -> None:
    short = replace(lander, kwargs={"max_episode_steps": 20})
    assert rollout(short, acting(Probe(5, observation_dim=8)), np.arange(3)).lengths.tolist() == [20, 20, 20]


# --- which memory flies ---


def recomputes(model: SequenceModel, **manner: Any) -> bool:
    """Whether windows go through the model as in training, and not one step after the other."""
    windows: list[Any] = []
    model.register_forward_pre_hook(lambda module, inputs: windows.append(inputs))
    policy = acting(model, **manner)
    begin(policy, 0)
    policy.act(np.array([0]), np.zeros((1, model.observation_dim), np.float32))
    return bool(windows)


@pytest.mark.parametrize("options", [{}, {"tokens": "states"}, {"positions": "none"}, FULL | {"n_layer": 1}], ids=str)
@pytest.mark.parametrize("context_length", [None, 5])
def test_what_the_layers_share_is_cached(lander: EnvSpec, options: dict[str, Any], context_length: int | None) -> None:
    assert not recomputes(large_random_model(lander, **options), context_length=context_length)


@pytest.mark.parametrize(
    ("options", "manner"),
    [({}, {"recompute": True}), ({}, {"context_length": 4}), ({"positions": "learned"}, {}), (FULL, {})],
    ids=str,
)
def test_what_cannot_be_cached_or_shall_not_is_recomputed(
    lander: EnvSpec, options: dict[str, Any], manner: dict[str, Any]
) -> None:
    assert recomputes(large_random_model(lander, **options), **manner)


@pytest.mark.parametrize("kind", [Probe, Causal])
def test_other_models_are_recomputed(kind: type[Any]) -> None:
    assert recomputes(kind(3))


class Opposite(Decoder):
    """Computes something else than a decoder does."""

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        return -super().forward(observations, actions, mask)


def test_what_was_made_of_a_decoder_is_recomputed() -> None:
    assert recomputes(Opposite(**sizes(4, 3, 8), n_layer=1, n_head=1, d_model=8))


# --- online logits are offline logits ---


class Recording(SequencePolicy):
    """Keeps the logits of every step, by the seed of the episode."""

    def __init__(self, model: SequenceModel, **manner: Any) -> None:
        super().__init__(model, default_head(action_space=model.action_space), **manner)
        self.online: dict[int, list[Tensor]] = {}
        self.flown: dict[int, int] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        self.flown.update(zip(slots.tolist(), seeds.tolist(), strict=True))
        self.online.update({seed: [] for seed in seeds.tolist()})

    def outputs(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        logits = super().outputs(slots, observations)
        for slot, row in zip(slots.tolist(), torch.from_numpy(logits), strict=True):
            self.online[self.flown[slot]].append(row)
        return logits


def offline_logits(model: Decoder, episodes: Episodes, e: int, length: int) -> Tensor:
    """(T, A): every step's logits from a window of the last `length` steps, cut by hand and padded on the right."""
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": "states"},
        {"positions": "learned"},
        {"positions": "none", "context_length": 1},
        {"positions": "learned", "tokens": "states"},
        FULL,
        FULL | {"n_layer": 1},
    ],
    ids=str,
)
def test_online_logits_are_offline_logits(lander: EnvSpec, options: dict[str, Any]) -> None:
    model = large_random_model(lander, **options)
    policy = Recording(model, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 5), n_envs=3)
    assert episodes.lengths.min() > 3 * model.context_length
    for e, seed in enumerate(episodes.seeds.tolist()):
        online = torch.stack(policy.online[seed])
        torch.testing.assert_close(
            online, offline_logits(model, episodes, e, model.context_length), atol=1e-5, rtol=1e-5
        )


def test_online_logits_are_those_of_one_pass_over_the_windows_of_training(lander: EnvSpec) -> None:
    model = large_random_model(lander)
    policy = Recording(model, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 4), n_envs=3)
    for e, seed in enumerate(episodes.seeds.tolist()):
        windows = WindowDataset(
            episodes.select(np.array([e])), action_space=model.action_space, context_length=model.context_length
        )
        batch = windows.__getitems__(range(len(windows)))
        with torch.inference_mode():
            logits = model.eval()(batch["observations"], batch["actions"], batch["mask"])
        offline = torch.cat([logits[0], logits[1:, -1]])  # the start of the episode, then one step more per window
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


def test_online_is_offline_in_episodes_shorter_than_a_window_and_slots_used_again() -> None:
    spec, model = countdown(), large_random_model(countdown())
    policy = Recording(model, deterministic=False)
    episodes = rollout(spec, policy, spec.seeds("validation", 10), n_envs=3)
    assert sorted(set(episodes.lengths.tolist())) == [1, 2, 3]
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, model.context_length)
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_flying_with_less_context_sees_the_last_steps_alone(lander: EnvSpec, length: int) -> None:
    model = large_random_model(lander)
    policy = Recording(model, context_length=length, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 3), n_envs=3)
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, length)
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_flying_does_not_use_dropout_and_training_goes_on_with_it(lander: EnvSpec, manner: dict[str, Any]) -> None:
    model = large_random_model(lander, dropout=0.5, action_dropout=0.5).train()
    policy = Recording(model, **manner)
    episodes = rollout(lander, policy, lander.seeds("validation", 2), n_envs=2)
    assert all(module.training for module in model.modules())
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, model.context_length)
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_decoder_is_put_back_into_its_mode_even_if_it_fails(lander: EnvSpec, training: bool) -> None:
    model = large_random_model(lander).train(training)
    policy = acting(model, recompute=True)
    model.norm.weight = nn.Parameter(torch.ones(3))  # where there should be sixteen
    begin(policy, 0)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        policy.act(np.array([0]), np.zeros((1, 8), np.float32))
    assert all(module.training == training for module in model.modules())


# --- whole flights ---


def of_one(episodes: Episodes, e: int) -> list[int]:
    return episodes.select(np.array([e])).actions.tolist()


@pytest.mark.parametrize("options", [{}, {"n_layer": 3, "context_length": 8}, {"tokens": "states"}], ids=str)
def test_cached_and_recomputed_flights_part_at_ties_alone(lander: EnvSpec, options: dict[str, Any]) -> None:
    model = large_random_model(lander, **options).eval()
    cached = Recording(model)
    flights = [
        rollout(lander, p, lander.seeds("validation", 8), n_envs=3) for p in (cached, acting(model, recompute=True))
    ]
    n_ties = 0
    for e, seed in enumerate(flights[0].seeds.tolist()):
        pairs = zip(of_one(flights[0], e), of_one(flights[1], e), strict=False)
        parting = next((t for t, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if parting is None:
            assert_identical(*(flight.select(np.array([e])) for flight in flights))
        else:
            first, second = cached.online[seed][parting].topk(2).values.tolist()
            assert first - second < 1e-5
            n_ties += 1
    assert n_ties <= 1


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_policy_that_was_sent_flies_equally(lander: EnvSpec, deterministic: bool, manner: dict[str, Any]) -> None:
    policy = acting(large_random_model(lander), deterministic=deterministic, **manner)
    fresh = dumps((lander, policy))
    flown = rollout(lander, policy, np.arange(4), n_envs=3)
    for sent in (fresh, dumps((lander, policy))):  # the second one with what it remembers
        spec, arrived = ForkingPickler.loads(sent)
        assert_identical(rollout(spec, arrived, np.arange(4), n_envs=3), flown)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_a_sampled_decoder_is_decided_by_the_seed_alone(manner: dict[str, Any]) -> None:
    policy = acting(large_random_model(recall()), deterministic=False, **manner)
    reference = rollout(recall(), policy, np.arange(20))
    shuffled = rollout(recall(), policy, np.arange(20)[::-1], n_envs=3)
    assert np.array_equal(shuffled.select(np.arange(20)[::-1]).actions, reference.actions)


def test_sampled_students_do_the_same_cached_and_recomputed() -> None:
    model = large_random_model(recall())
    policies = [acting(model, deterministic=False, **manner) for manner in MEMORIES]
    cached, recomputed = (rollout(recall(), policy, np.arange(20), n_envs=3) for policy in policies)
    assert_identical(cached, recomputed)
    assert not np.array_equal(cached.actions, rollout(recall(), acting(model), np.arange(20)).actions)


@pytest.mark.parametrize("manner", MEMORIES, ids=str)
def test_a_policy_made_after_more_training_flies_with_the_new_weights(lander: EnvSpec, manner: dict[str, Any]) -> None:
    model = large_random_model(lander)
    policy = acting(model, **manner)
    before = rollout(lander, policy, np.arange(2))
    with torch.no_grad():
        model.action_head.weight.neg_()
    after = rollout(lander, acting(model, **manner), np.arange(2))
    assert not np.array_equal(before.actions, after.actions)
    follows = "recompute" in manner  # what is cached belongs to the weights that it was computed with
    assert_identical(rollout(lander, policy, np.arange(2)), after if follows else before)
