"""The execution of action chunks: queues and averages by hand, interventions, seeds, and the full pass."""

import math
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.imitation.dagger import MixturePolicy
from ilt.models.base import SequenceModel
from ilt.models.chunks import ActionChunks
from ilt.models.decoder import Decoder
from ilt.models.heads import ActionHead, Categorical, Gaussian, Regression, default_head
from ilt.rollout.parallel import dumps
from ilt.rollout.policies import FunctionPolicy, Policy, SequencePolicy
from ilt.rollout.run import rollout
from ilt.rollout.sampling import ActionSampler, ChunkSampler, EnsembleSampler, make_sampler
from tests.models.test_decoder import close
from tests.models.test_heads import HEADS
from tests.rollout.test_loop import assert_identical
from tests.rollout.test_sequence_policy import large_random_model, offline_logits
from tests.toys import BLOCKS, recall

UNIT = ActionSpace(low=(-1.0,), high=(1.0,), shape=(1,))
M = 0.5
WAYS: list[dict[str, Any]] = [{}, {"execute": 2}, {"execute": 3}, {"ensemble": M}, {"ensemble": -M}]


class Counter(gym.Env[np.ndarray, np.ndarray]):
    """Observes the number of the step, t; the right action is `right(t)`, and the cost is the error. Ends at step 9."""

    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = -abs(float(action[0]) - right(self._t))
        self._t += 1
        return np.array([self._t], np.float32), reward, self._t == 9, False, {}


gym.register("ilt-toys/Counter-v0", Counter)
COUNTER = EnvSpec(id="tests.rollout.test_chunks:ilt-toys/Counter-v0", seed_blocks=BLOCKS)


def right(t: int) -> float:
    return t / 10


class Planner(SequenceModel):
    """Predicts (10 t + i) / 1000 as action i of a chunk, where the observation is t."""

    def __init__(self, chunk: int) -> None:
        super().__init__(observation_dim=1, action_space=UNIT, n_outputs=chunk, context_length=2)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        return (10 * observations + torch.arange(self.n_outputs)) / 1000


def planner(*, chunk: int = 3, **keys: Any) -> SequencePolicy:
    return SequencePolicy(Planner(chunk), ActionChunks(Regression(action_space=UNIT), chunk=chunk, **keys))


def act(policy: Policy, observations: dict[int, int]) -> list[float]:
    """Act in the slots that have an observation; return the actions in thousandths."""
    seen = np.array([[value] for value in observations.values()], np.float32)
    actions = policy.act(np.array([*observations]), seen)
    return (1000 * actions[:, 0]).round(3).tolist()


def begin(policy: Policy, *slots: int) -> None:
    policy.reset(np.array(slots), np.array(slots) + 100)


def averaged(*predictions: float, m: float = M) -> float:
    """Return the average of predictions, the oldest first, with weights exp(−m · i)."""
    weights = [math.exp(-m * i) for i in range(len(predictions))]
    return sum(w * p for w, p in zip(weights, predictions, strict=True)) / sum(weights)


# --- by hand ---


@pytest.mark.parametrize(
    ("execute", "expected"),
    [(1, [0, 10, 20, 30, 40, 50]), (2, [0, 1, 20, 21, 40, 41]), (3, [0, 1, 2, 30, 31, 32])],
)
def test_the_first_actions_of_a_chunk_are_executed_and_then_those_of_the_newest(
    execute: int, expected: list[float]
) -> None:
    policy = planner(execute=execute)
    for _ in range(2):  # a new episode begins with a new chunk
        begin(policy, 0)
        assert [act(policy, {0: t})[0] for t in range(6)] == expected
        act(policy, {0: 6})


@pytest.mark.parametrize("m", [M, 0.0, -M, 1000.0, -1000.0])
def test_an_ensemble_averages_all_predictions_of_an_action_oldest_first(m: float) -> None:
    policy = planner(ensemble=m)
    if abs(m) < 1:
        expected = [0, averaged(1, 10, m=m), averaged(2, 11, 20, m=m), averaged(12, 21, 30, m=m)]
    else:  # nothing but the oldest, or the newest
        expected = [0, 1, 2, 12] if m > 0 else [0, 10, 20, 30]
    for _ in range(2):
        begin(policy, 0)
        assert [act(policy, {0: t})[0] for t in range(4)] == pytest.approx(expected, abs=2e-3)


def test_the_weights_of_an_ensemble_by_hand() -> None:
    policy = planner(ensemble=math.log(2))  # weights 1, ½, ¼
    begin(policy, 0)
    taken = [act(policy, {0: t})[0] for t in range(3)]
    assert taken == pytest.approx([0, (1 + 10 / 2) / 1.5, (2 + 11 / 2 + 20 / 4) / 1.75], abs=1e-3)


@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_slots_may_start_late_and_pause_and_take_turns(keys: dict[str, Any]) -> None:
    def alone(*observations: int) -> list[float]:
        policy = planner(**keys)
        begin(policy, 0)
        return [act(policy, {0: seen})[0] for seen in observations]

    policy = planner(**keys)
    begin(policy, 1)
    taken: dict[int, list[float]] = {1: act(policy, {1: 0})}
    begin(policy, 4)
    taken[4] = act(policy, {4: 50})
    for each in ({4: 51, 1: 1}, {1: 2}, {1: 3, 4: 52}, {4: 53}):
        for slot, action in zip(each, act(policy, each), strict=True):
            taken[slot].append(action)
    assert taken == {1: alone(0, 1, 2, 3), 4: alone(50, 51, 52, 53)}


# --- interventions ---


def intervene(policy: SequencePolicy, slot: int, by: float) -> None:
    policy.observe_action(np.array([slot]), policy.action_space.decode(np.array([[by]], np.float32)))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"execute": 3}, [0, 1, 20, 21, 22, 50]),
        ({"ensemble": M}, [0, averaged(1, 10), 20, averaged(21, 30), averaged(22, 31, 40)]),
    ],
    ids=str,
)
def test_after_another_action_the_next_one_is_a_new_prediction(keys: dict[str, Any], expected: list[float]) -> None:
    policy, taken = planner(**keys), {0: [], 1: []}  # type: ignore[var-annotated]
    begin(policy, 0, 1)
    for t in range(len(expected)):
        for slot, action in enumerate(act(policy, {0: t, 1: t})):
            taken[slot].append(action)
        if t == 1:
            intervene(policy, 1, 0.5)  # not in the other slot
    undisturbed = planner(**keys)
    begin(undisturbed, 0)
    assert taken[1] == pytest.approx(expected, abs=2e-3)
    assert taken[0] == [act(undisturbed, {0: t})[0] for t in range(len(expected))]


@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_an_executed_action_that_is_the_chosen_one_changes_nothing(keys: dict[str, Any]) -> None:
    policy, other = planner(**keys), planner(**keys)
    begin(policy, 0)
    begin(other, 0)
    for t in range(7):
        actions = policy.act(np.array([0]), np.array([[t]], np.float32))
        policy.observe_action(np.array([0]), actions.astype(np.float64))
        assert np.array_equal(actions, other.act(np.array([0]), np.array([[t]], np.float32)))


def test_in_dagger_a_student_predicts_again_after_the_expert_acted() -> None:
    expert = FunctionPolicy(lambda seen: np.full((len(seen), 1), -1.0), UNIT)
    policy = MixturePolicy(planner(execute=3), expert, visible=1, beta=0.4)
    episodes = rollout(COUNTER, policy, np.arange(30), n_envs=7)
    assert_identical(rollout(COUNTER, policy, np.arange(30), n_envs=30), episodes)
    for actions in (1000 * episodes.actions.reshape(30, 9)).round(3).tolist():
        at = None  # the step of the chunk
        for t, action in enumerate(actions):
            if action == -1000:
                at = None
                continue
            at = t if at is None or t == at + 3 else at
            assert action == 10 * at + t - at


# --- episodes depend on their seeds alone ---


def student(*, deterministic: bool, kind: type[ActionHead] = Gaussian, **keys: Any) -> SequencePolicy:
    step_head = kind(action_space=UNIT)  # type: ignore[call-arg]
    head = ActionChunks(step_head, chunk=4, **keys)
    torch.manual_seed(0)
    sizes = {"observation_dim": 1, "context_length": 5, "n_layer": 2, "n_head": 2, "d_model": 16}
    model = Decoder(action_space=UNIT, n_outputs=head.n_outputs, **sizes)  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return SequencePolicy(model, head, deterministic=deterministic)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_a_student_depends_only_on_the_seed(keys: dict[str, Any], deterministic: bool) -> None:
    policy, seeds, order = student(deterministic=deterministic, **keys), np.arange(12), np.arange(12)[::-1]
    reference = rollout(COUNTER, policy, seeds)
    np.testing.assert_allclose(
        rollout(COUNTER, policy, seeds[order], n_envs=5).select(order).actions, reference.actions, atol=1e-5
    )
    by_episode = reference.actions.reshape(12, 9)
    if deterministic:  # rows of a matrix product may be rounded differently
        np.testing.assert_allclose(by_episode, np.broadcast_to(by_episode[0], by_episode.shape), atol=1e-5)
    else:
        assert len(np.unique(by_episode, axis=0)) == 12
    spec, arrived = ForkingPickler.loads(dumps((COUNTER, policy)))
    assert_identical(rollout(spec, arrived, seeds), reference)


@pytest.mark.parametrize("keys", [{"execute": 3}, {"ensemble": M}], ids=str)
def test_several_processes_act_like_one(keys: dict[str, Any]) -> None:
    policy = student(deterministic=False, **keys)
    one = rollout(COUNTER, policy, np.arange(6), n_envs=3)
    assert_identical(rollout(COUNTER, policy, np.arange(6), n_envs=3, n_processes=2), one, atol=1e-5)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_predict_acts_like_a_rollout(keys: dict[str, Any], deterministic: bool) -> None:
    policy, state, env = student(deterministic=True, **keys), None, COUNTER.make()
    recorded = rollout(COUNTER, policy, [3]).actions
    (observation, _), done, taken = env.reset(seed=3), False, []
    while not done:
        action, state = policy.predict(observation, state, deterministic=deterministic)
        taken.append(action.tolist())
        observation, _, done, _, _ = env.step(action)
    assert np.allclose(taken, recorded, atol=1e-5) == deterministic


@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_samples_keep_the_deviation_of_the_head(keys: dict[str, Any]) -> None:
    """The mean is zero and the deviation is that of outputs 0, whatever the way that chunks are executed."""
    space = ActionSpace(low=(-100.0,), high=(100.0,), shape=(1,))
    head = ActionChunks(Gaussian(action_space=space), chunk=3, **keys)
    sampler, slots = make_sampler(head, space, deterministic=False), np.arange(4000)
    outputs, taken = np.zeros((4000, head.n_outputs), np.float32), []
    outputs[:, 1::2] = -3.0
    deviation = head.step_head.sample(outputs[:1, :2], np.array([[0.841344746]]))[0, 0]  # one deviation above the mean
    sampler.reset(slots, slots)
    for _ in range(4):
        taken.append(sampler.choose(slots, outputs)[:, 0] / 100)
    steps = np.array(taken)
    assert steps.std(axis=1) == pytest.approx(np.full(4, deviation), rel=0.05)
    assert abs(np.corrcoef(steps) - np.eye(4)).max() < 0.06


# --- the plain head ---


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_a_chunk_of_one_action_acts_like_the_plain_head(name: str, deterministic: bool) -> None:
    space, head = HEADS[name]
    samplers = [make_sampler(each, space, deterministic=deterministic) for each in (head, ActionChunks(head, chunk=1))]
    assert [type(sampler) for sampler in samplers] == [ActionSampler, ChunkSampler]
    rng, slots = np.random.default_rng(0), np.arange(5)
    for sampler in samplers:
        sampler.reset(slots, slots)
    for _ in range(4):
        outputs = rng.normal(size=(5, head.n_outputs)).astype(np.float32)
        plain, one = (sampler.choose(slots, outputs) for sampler in samplers)
        np.testing.assert_array_equal(one, plain)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_any_head_can_execute_chunks(name: str, deterministic: bool) -> None:
    space, head = HEADS[name]
    rng, slots = np.random.default_rng(0), np.arange(5)
    for keys in WAYS if space.continuous else WAYS[:3]:
        chunks = ActionChunks(head, chunk=3, **keys)
        sampler = make_sampler(chunks, space, deterministic=deterministic)
        assert isinstance(sampler, EnsembleSampler) == ("ensemble" in keys)
        sampler.reset(slots, slots)
        for _ in range(5):
            actions = sampler.choose(slots, rng.normal(size=(5, chunks.n_outputs)).astype(np.float32))
            space.check(actions, 5, source="the sampler")
            assert actions.dtype == space.dtype


# --- the decoder ---


class Recording(SequencePolicy):
    """Records the outputs of every step of its only slot."""

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        self.online: list[np.ndarray] = []

    def outputs(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.online.append(super().outputs(slots, observations))
        return self.online[-1]


@pytest.mark.parametrize("manner", [{}, {"recompute": True}, {"context_length": 3}], ids=str)
def test_chunks_executed_step_by_step_are_those_of_the_full_pass(manner: dict[str, Any]) -> None:
    """The cache processes every observation, also where its prediction is not used."""
    step_head = default_head(action_space=recall().action_space)
    assert isinstance(step_head, Categorical)
    model = large_random_model(recall(), n_outputs=6)
    head = ActionChunks(step_head, chunk=3, execute=3)
    policy = Recording(model, head, **manner)
    episode = rollout(recall(), policy, [5])
    offline = offline_logits(model, episode, 0, manner.get("context_length", 5))
    close(torch.from_numpy(np.concatenate(policy.online)), offline)
    expected = [step_head.mode(head.split(offline[t - t % 3].numpy())[t % 3][None])[0] for t in range(12)]
    assert episode.actions.tolist() == expected
