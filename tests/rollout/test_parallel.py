"""Rollouts in several processes give the same episodes, even if a process dies."""

import logging
import os
import signal
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.envs.lunar_lander import heuristic
from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor, actor_policy
from ilt.rollout.parallel import WorkerDied, dumps
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.rollout.run import rollout
from ilt.schema import PlainError
from tests.rollout.test_loop import assert_identical
from tests.rollout.test_sequence_policy import acting, large_random_model
from tests.toys import HIDING, MULTI, TENSOR, VECTOR, countdown, echo, recall

TWO = ActionSpace(n_choices=(2,), start=(0,))
SHORT_LANDER = EnvSpec(id="LunarLander-v3", kwargs={"max_episode_steps": 60, "enable_wind": True})
SEEDS = np.array([2004, 2000, 2013, 2001, 2002, 2011, 2007, 2003, 2020, 2006, 2010])


class Drawing(RandomPolicy):
    """Takes random actions; unpickling it makes a worker import the toy environments."""

    def __init__(self) -> None:
        super().__init__(TWO)


class Deadly(Drawing):
    """Kills its process when an episode with one of these seeds starts; with `once`, a marker file, only once."""

    def __init__(self, seeds: list[int], once: Path | None = None) -> None:
        super().__init__()
        self._seeds, self._once = seeds, once

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        if set(seeds.tolist()) & set(self._seeds) and (self._once is None or not self._once.exists()):
            if self._once is not None:
                self._once.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Unwell(Drawing):
    """Raises an error for one seed."""

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        if 2003 in seeds:
            raise ArithmeticError("seed 2003 makes me unwell")


class Toy:
    """Wraps a policy; unpickling it makes a worker import the toy environments."""

    privileged = False

    def __init__(self, policy: Policy) -> None:
        self.reset, self.act, self.observe_reward = policy.reset, policy.act, policy.observe_reward


def actor() -> Policy:
    """Return a stochastic actor policy."""
    torch.manual_seed(0)
    made = Actor(observation_dim=1, n_outputs=2, hidden=[4])
    nn.init.normal_(made.layers[-1].weight)  # type: ignore[arg-type]
    return actor_policy(made, TWO, privileged=False, deterministic=False)


@pytest.fixture(scope="module")
def alone() -> Episodes:
    """Return the episodes of `Drawing`, collected in this process."""
    return rollout(recall(), Drawing(), SEEDS)


@pytest.mark.parametrize("spec", [countdown(), recall()])
@pytest.mark.parametrize(("n_processes", "n_envs"), [(2, 1), (2, 64), (3, 2), (5, 64)])
def test_episodes_do_not_depend_on_the_number_of_processes(spec: EnvSpec, n_processes: int, n_envs: int) -> None:
    together = rollout(spec, Drawing(), SEEDS, n_processes=n_processes, n_envs=n_envs)
    assert_identical(together, rollout(spec, Drawing(), SEEDS))
    assert together.seeds.tolist() == SEEDS.tolist()


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        (recall(), actor()),
        (recall(), acting(large_random_model(recall()), deterministic=False)),
        (recall(), acting(large_random_model(recall(), return_conditioned=True), target_return=9.0)),
        (echo(HIDING, TENSOR), None),
        (echo(VECTOR, MULTI), None),
        (SHORT_LANDER, FunctionPolicy(heuristic, SHORT_LANDER.action_space)),
    ],
    ids=["actor", "student", "return-conditioned", "numbers", "several choices", "lander"],
)
def test_other_policies_and_environments_do_not_depend_on_it_either(spec: EnvSpec, policy: Policy | None) -> None:
    policy = policy or RandomPolicy(spec.action_space)
    together = rollout(spec, Toy(policy), SEEDS, n_processes=2, n_envs=2)  # type: ignore[arg-type]
    assert_identical(together, rollout(spec, policy, SEEDS))


@pytest.mark.parametrize("n_envs", [1, 2, 64])
def test_the_episodes_of_a_killed_worker_are_run_again(
    n_envs: int, alone: Episodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    returns: list[float] = []
    policy = Deadly([2007], once=tmp_path / "killed")
    with caplog.at_level(logging.ERROR):
        episodes = rollout(recall(), policy, SEEDS, n_processes=2, n_envs=n_envs, on_episode=returns.append)
    assert_identical(episodes, alone)
    assert sorted(returns) == sorted(episodes.returns.tolist())  # each episode is reported once
    (record,) = caplog.records
    assert "was killed by SIGKILL" in record.message
    # this worker has every second seed and starts them in this order; every episode lasts 12 steps
    held = {1: "2007", 2: "2002, 2007", 64: "2004, 2013, 2002, 2007, 2020, 2010"}[n_envs]
    assert record.message.endswith(f"it held these seeds, which are run again: {held}") or n_envs == 2


@pytest.mark.parametrize("n_envs", [1, 64])
@pytest.mark.parametrize("deadly", [[2007], [2004, 2011, 2010]])
def test_seeds_that_kill_every_process_are_named_and_other_episodes_are_kept(
    n_envs: int, deadly: list[int], alone: Episodes
) -> None:
    with pytest.raises(WorkerDied, match=", ".join(map(str, deadly))) as caught:
        rollout(recall(), Deadly(deadly), SEEDS, n_processes=2, n_envs=n_envs)
    assert caught.value.seeds.tolist() == deadly
    assert caught.value.episodes is not None
    assert_identical(caught.value.episodes, alone.select(~np.isin(SEEDS, deadly)))


def test_the_rollout_gives_up_if_every_worker_dies() -> None:
    seeds = np.arange(2000, 2060)
    with pytest.raises(WorkerDied, match="0 other episodes") as caught:
        rollout(recall(), Deadly(seeds.tolist()), seeds, n_processes=2, n_envs=4)
    assert caught.value.episodes is None
    assert caught.value.seeds.tolist() == seeds.tolist()


def test_an_error_in_the_policy_is_raised_with_the_workers_traceback() -> None:
    with pytest.raises(ArithmeticError, match="seed 2003 makes me unwell") as caught:
        rollout(recall(), Unwell(), SEEDS, n_processes=2)
    (note,) = caught.value.__notes__
    assert "in worker process" in note
    assert "test_parallel.py" in note


def test_an_interrupt_stops_a_rollout_and_the_next_one_works(alone: Episodes) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(recall(), Drawing(), SEEDS, n_processes=2, on_episode=interrupt)
    assert_identical(rollout(recall(), Drawing(), SEEDS, n_processes=2), alone)


def test_the_error_about_an_unpicklable_policy_says_what_to_do() -> None:
    policy = FunctionPolicy(lambda observations: np.zeros(len(observations), np.int64), TWO)
    with pytest.raises(Exception, match="lambda") as caught:
        rollout(recall(), policy, SEEDS, n_processes=2)
    assert "processes=1" in caught.value.__notes__[0]


def test_weights_are_sent_by_value_and_arrive_unchanged() -> None:
    model = large_random_model(recall())
    model.tied = model.get_parameter(next(name for name, _ in model.named_parameters()))
    sent = dumps((recall(), acting(model, recompute=True)))
    assert b"storage" not in sent
    _, policy = ForkingPickler.loads(sent)
    arrived = policy._stepper._model
    assert arrived.tied is arrived.get_parameter(next(name for name, _ in arrived.named_parameters()))
    torch.testing.assert_close(arrived.state_dict(), model.state_dict(), atol=0, rtol=0)
    assert [p.requires_grad for p in arrived.parameters()] == [p.requires_grad for p in model.parameters()]


class Hungry(Drawing):
    """Runs out of memory with more than two active episodes."""

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        if len(slots) > 2:
            raise MemoryError
        return super().act(slots, observations)


def test_with_too_little_memory_fewer_episodes_run_at_once(caplog: pytest.LogCaptureFixture) -> None:
    episodes = rollout(recall(), Hungry(), SEEDS, n_envs=4, n_processes=2)
    assert_identical(episodes, rollout(recall(), Drawing(), SEEDS))
    assert "ran out of memory" in caplog.text


def test_in_one_process_the_memory_error_says_what_to_lower() -> None:
    with pytest.raises(PlainError, match="not enough memory for 11 episodes, 4 active at once; lower n_envs"):
        rollout(recall(), Hungry(), SEEDS, n_envs=4)
