"""Our own advantage actor-critic."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.experts.a2c import Distribution, Learner, RunningMoments, advantages_and_returns
from tests.experts.toys import box
from tests.toys import BLOCKS, countdown

BLIND = {"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [1]}}

SMALL: dict[str, Any] = {
    "hidden": [16],
    "n_envs": 8,
    "n_steps": 4,
    "batch_size": 16,
    "critic_epochs": 2,
    "gamma": 0.9,
    "gae_lambda": 0.9,
    "learning_rate": 0.01,
    "final_learning_rate_fraction": 0.1,
    "ent_coef": 0.01,
    "max_grad_norm": 0.5,
    "normalize_observations": True,
    "normalize_rewards": True,
}


def learner_of(spec: EnvSpec | None = None, seed: int = 0, **changes: Any) -> Learner:
    return Learner(spec or countdown(), seed=seed, total_steps=320, **{**SMALL, **changes})


def only_seed(seed: int) -> EnvSpec:
    """A Countdown that is always learned from this seed."""
    return replace(countdown(), seed_blocks={**BLOCKS, "demonstrations": (seed, 1)})


def test_only_a_privileged_expert_is_shown_what_is_hidden_from_a_student() -> None:
    spec = replace(countdown(), wrappers=BLIND)
    for privileged, size in ((False, 1), (True, 2)):
        learner = learner_of(spec, privileged=privileged)
        learner.start_episodes()
        assert learner.collect()["observations"].shape[-1] == size


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # δ = [1 + 0.5·1 − 1, 2 + 0.5·1 − 1, 3 + 0.5·4 − 1] = [0.5, 1.5, 4] and γλ = 0.25
        ([0, 0, 0], [0, 0, 0], [1.125, 2.5, 4.0]),
        ([0, 1, 0], [0, 0, 0], [0.75, 1.0, 4.0]),  # nothing follows row 1: δ₁ = 2 − 1
        ([0, 0, 0], [0, 1, 0], [0.875, 1.5, 4.0]),  # what would have followed row 1 counts, row 2 does not
        ([0, 0, 1], [0, 0, 0], [1.0, 2.0, 2.0]),  # δ₂ = 3 − 1
        ([0, 0, 0], [0, 0, 1], [1.125, 2.5, 4.0]),
    ],
)
def test_advantages_by_hand(terminated: list[int], truncated: list[int], expected: list[float]) -> None:
    rewards, values, next_values = (np.array([row]).T for row in ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 1.0, 4.0]))
    ends = (np.array([flags], dtype=bool).T for flags in (terminated, truncated))
    advantages, returns = advantages_and_returns(rewards, values, next_values, *ends, gamma=0.5, gae_lambda=0.5)
    assert advantages[:, 0].tolist() == expected
    assert returns[:, 0].tolist() == [advantage + 1 for advantage in expected]


@pytest.mark.parametrize("case", range(5))
def test_advantages_are_the_sum_that_defines_them(case: int) -> None:
    rng = np.random.default_rng(case)
    n_steps, n_envs, gamma, gae_lambda = 9, 5, 0.97, [0.0, 0.5, 0.9, 0.95, 1.0][case]
    rewards, values, next_values = rng.normal(size=(3, n_steps, n_envs))
    terminated = rng.random((n_steps, n_envs)) < 0.2
    truncated = ~terminated & (rng.random((n_steps, n_envs)) < 0.2)
    expected = np.zeros((n_steps, n_envs))
    for n in range(n_envs):
        for t in range(n_steps):
            for k in range(t, n_steps):
                follows = 0.0 if terminated[k, n] else next_values[k, n]
                delta = rewards[k, n] + gamma * follows - values[k, n]
                expected[t, n] += (gamma * gae_lambda) ** (k - t) * delta
                if terminated[k, n] or truncated[k, n]:
                    break
    advantages, returns = advantages_and_returns(rewards, values, next_values, terminated, truncated, gamma, gae_lambda)
    np.testing.assert_allclose(advantages, expected, atol=1e-12)
    np.testing.assert_allclose(returns, expected + values, atol=1e-12)


def test_running_moments_are_those_of_everything_seen() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal([3.0, -100.0], [0.1, 20.0], (n, 2)) for n in (1, 50, 7, 400)]
    moments = RunningMoments(2)
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(axis=0), rtol=1e-2)


def test_running_moments_of_numbers() -> None:
    moments = RunningMoments()
    for batch in (np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])):
        moments.update(batch)
    assert (float(moments.mean), float(moments.variance)) == pytest.approx((3.0, 2.0), rel=1e-3)


def test_running_moments_go_on_where_they_were() -> None:
    moments, restored = RunningMoments(2), RunningMoments(2)
    moments.update(np.array([[1.0, 2.0], [3.0, 5.0]]))
    restored.restore(moments.state())
    for each in (moments, restored):
        each.update(np.array([[7.0, 7.0]]))
    assert restored.state() == moments.state()


@pytest.mark.parametrize(
    ("seed", "left", "following"),
    [
        # cut after 3 steps: what was seen last, with 1 step left, still counts
        (3, [4, 3, 2, 4, 3], [0.5**3 * 11, 0.5**2 * 11, 0.5 * 11, 0.5**2 * 12, 0.5 * 12]),
        # ends by itself after 3 steps: nothing follows
        (2, [3, 2, 1, 3, 2], [0, 0, 0, 0.5**2 * 11, 0.5 * 11]),
    ],
)
def test_what_follows_counts_after_a_cut_but_not_after_an_end(
    seed: int, left: list[int], following: list[float]
) -> None:
    plain = {"normalize_observations": False, "normalize_rewards": False, "hidden": []}
    learner = learner_of(only_seed(seed), n_steps=5, n_envs=2, gamma=0.5, gae_lambda=1.0, **plain)
    learner.net.critic[0].weight.data = torch.tensor([[1.0, 0.0]])  # an observation is worth 10 + steps left
    learner.net.critic[0].bias.data.fill_(10.0)
    learner.start_episodes()
    data = learner.collect()
    earned = data["actions"].astype(float)  # Countdown rewards the action
    for start, stop in ((0, 3), (3, 5)):
        for t in reversed(range(start, stop - 1)):
            earned[t] += 0.5 * earned[t + 1]
    assert data["observations"][:, 0, 0].tolist() == left
    np.testing.assert_allclose(data["returns"], earned + np.array(following)[:, None])
    np.testing.assert_allclose(data["advantages"], data["returns"] - 10.0 - np.array(left)[:, None])


def test_actions_are_collected_beside_the_observations_they_were_chosen_for() -> None:
    learner = learner_of(only_seed(4), n_steps=7, n_envs=3, normalize_observations=False)
    learner.start_episodes()
    data = learner.collect()
    assert data["observations"][:, 0].tolist() == [[5, 4], [4, 4], [3, 4], [5, 4], [4, 4], [3, 4], [5, 4]]
    assert {name: array.shape[:2] for name, array in data.items()} == dict.fromkeys(data, (7, 3))
    assert learner.steps == 21


def test_observation_moments_end_up_in_the_actor() -> None:
    learner = learner_of()
    learner.start_episodes()
    seen = [learner.batch.observations.copy()]
    for _ in range(3):
        seen.append(learner.collect()["observations"].reshape(-1, 2))
    everything = np.concatenate(seen)
    actor = learner.net.actor
    np.testing.assert_allclose(actor.observation_mean, everything.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(actor.observation_std, everything.std(axis=0), rtol=1e-4)


def test_a_restored_learner_goes_on_as_the_original_does(tmp_path: Path) -> None:
    original = learner_of()
    original.start_episodes()
    for _ in range(3):
        original.update(original.collect())
    torch.save(original.state(), tmp_path / "state.pt")
    restored = learner_of()
    restored.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert restored.steps == 96
    original._discounted[:] = 0  # a resumed training starts fresh episodes
    for learner in (original, restored):
        learner.start_episodes()
        learner.update(learner.collect())
    for name, tensor in original.net.state_dict().items():
        assert torch.equal(tensor, restored.net.state_dict()[name]), name


def test_the_learning_rate_falls_to_its_final_fraction() -> None:
    learner = learner_of()
    learner.start_episodes()
    rates = []
    while learner.steps < 320:
        learner.update(learner.collect())
        rates.append(learner.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.01 * (1 - 0.9 * i / 10) for i in range(1, 11)])


def test_each_step_is_part_of_one_policy_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(batch_size=5, critic_epochs=3)
    learner.start_episodes()
    data = learner.collect()
    data["actions"] = np.arange(32).reshape(4, 8)  # names the steps
    taught: list[int] = []
    monkeypatch.setattr(
        learner, "_policy_loss", lambda batch: taught.extend(batch["actions"].tolist()) or torch.tensor(0.0)
    )
    learner.update(data)
    assert sorted(taught) == list(range(32))
    assert taught != sorted(taught)


def test_further_epochs_move_the_critic_alone() -> None:
    once, thrice = learner_of(critic_epochs=1), learner_of(critic_epochs=3)
    for learner in (once, thrice):
        learner.start_episodes()
        learner.update(learner.collect())
    for name, tensor in once.net.actor.state_dict().items():
        assert torch.equal(tensor, thrice.net.actor.state_dict()[name]), name
    assert not torch.equal(once.net.critic[0].weight, thrice.net.critic[0].weight)


@pytest.mark.parametrize(
    "space",
    [
        ActionSpace(n_choices=(3,), start=(0,)),
        ActionSpace(n_choices=(2, 3), start=(0, 0), shape=(2,)),
        ActionSpace(low=(-2.0, 0.0), high=(2.0, 5.0), shape=(2,)),
    ],
    ids=["discrete", "multi-discrete", "box"],
)
def test_samples_are_as_likely_as_their_log_probability_says(space: ActionSpace) -> None:
    """Their mean log-probability is minus the entropy, and the mean of a Gaussian's is the network's."""
    distribution, n = Distribution(space), 20_000
    net = learner_of().net.actor if not space.continuous else learner_of(box(), log_std_init=-0.7).net.actor
    width = 2 if space.continuous else sum(space.n_choices)
    outputs = np.tile(np.linspace(-1, 1, width).astype(np.float32), (n, 1))
    actions = distribution.choose(net, outputs, distribution.draw(np.random.default_rng(0), n))
    assert (actions.shape, actions.dtype) == (space.zeros(n).shape, space.dtype)
    log_prob, entropy = distribution.log_prob_and_entropy(net, torch.from_numpy(outputs), torch.from_numpy(actions))
    assert -log_prob.mean().item() == pytest.approx(entropy.item(), abs=0.02)
    if space.continuous:
        np.testing.assert_allclose(actions.mean(axis=0), [-1, 1], atol=0.02)
        np.testing.assert_allclose(actions.std(axis=0), np.exp(-0.7), atol=0.02)
        assert (np.abs(actions) > 1).any()  # clipped by the environment alone
