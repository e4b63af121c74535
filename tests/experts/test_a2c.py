"""Our advantage actor-critic (A2C)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilt.envs.spec import EnvSpec
from ilt.experts.a2c import Distribution, Learner, RunningMoments, advantages_and_returns
from tests.experts.toys import SPACES, learned_from, target
from tests.toys import countdown

SMALL = {"hidden": [16], "n_envs": 8, "n_steps": 4, "batch_size": 16, "critic_epochs": 2, "gamma": 0.9}
SMALL |= {"gae_lambda": 0.9, "learning_rate": 0.01, "final_learning_rate_fraction": 0.1, "ent_coef": 0.01}
SMALL |= {"max_grad_norm": 0.5, "normalize_observations": True, "normalize_rewards": True}


def fresh(spec: EnvSpec | None = None, **changes: Any) -> Learner:
    return Learner(spec or countdown(), seed=0, total_steps=320, **{**SMALL, **changes})


def started(spec: EnvSpec | None = None, **changes: Any) -> Learner:
    learner = fresh(spec, **changes)
    learner.start_episodes()
    return learner


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_advantages_equal_the_defining_sum(gae_lambda: float) -> None:
    rng = np.random.default_rng(0)
    n_steps, n_envs, gamma = 9, 5, 0.97
    rewards, values, next_values = rng.normal(size=(3, n_steps, n_envs))
    terminated = rng.random((n_steps, n_envs)) < 0.2
    truncated = ~terminated & (rng.random((n_steps, n_envs)) < 0.2)
    expected = np.zeros((n_steps, n_envs))
    for t, n in np.ndindex(n_steps, n_envs):
        for k in range(t, n_steps):
            follows = 0.0 if terminated[k, n] else next_values[k, n]
            delta = rewards[k, n] + gamma * follows - values[k, n]
            expected[t, n] += (gamma * gae_lambda) ** (k - t) * delta
            if terminated[k, n] or truncated[k, n]:
                break
    advantages, returns = advantages_and_returns(rewards, values, next_values, terminated, truncated, gamma, gae_lambda)
    np.testing.assert_allclose(advantages, expected, atol=1e-12)
    np.testing.assert_allclose(returns, expected + values, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_running_moments_equal_the_moments_of_all_data(shape: tuple[int, ...]) -> None:
    rng, moments = np.random.default_rng(0), RunningMoments(*shape)
    batches = [rng.normal(np.full(shape, -100.0), 20.0, (n, *shape)) for n in (1, 50, 7, 400)]
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(axis=0), rtol=1e-2)


@pytest.mark.parametrize(
    ("seed", "left", "following"),
    [
        # truncated after 3 steps: the value of the last observation, with 1 step left, counts
        (3, [4, 3, 2, 4, 3], [0.5**3 * 11, 0.5**2 * 11, 0.5 * 11, 0.5**2 * 12, 0.5 * 12]),
        # terminated after 3 steps: no value follows
        (2, [3, 2, 1, 3, 2], [0, 0, 0, 0.5**2 * 11, 0.5 * 11]),
    ],
)
def test_the_next_value_counts_only_after_truncation(seed: int, left: list[int], following: list[float]) -> None:
    plain = {"normalize_observations": False, "normalize_rewards": False, "hidden": []}
    learner = started(learned_from(seed), n_steps=5, n_envs=2, gamma=0.5, gae_lambda=1.0, **plain)
    learner.net.critic[0].weight.data = torch.tensor([[1.0, 0.0]])  # an observation is worth 10 + steps left
    learner.net.critic[0].bias.data.fill_(10.0)
    data = learner.collect()
    earned = data["actions"].astype(float)  # Countdown rewards the action
    for t in (1, 0, 3):
        earned[t] += 0.5 * earned[t + 1]
    assert data["observations"][:, 0].tolist() == [[steps, seed] for steps in left]
    assert {name: array.shape[:2] for name, array in data.items()} == dict.fromkeys(data, (5, 2))
    assert learner.steps == 10
    np.testing.assert_allclose(data["returns"], earned + np.array(following)[:, None])
    np.testing.assert_allclose(data["advantages"], data["returns"] - 10.0 - np.array(left)[:, None])


def test_the_actor_contains_the_observation_moments() -> None:
    learner = started()
    seen = [learner.batch.observations.copy(), *(learner.collect()["observations"].reshape(-1, 2) for _ in range(3))]
    everything, actor = np.concatenate(seen), learner.net.actor
    np.testing.assert_allclose(actor.observation_mean, everything.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(actor.observation_std, everything.std(axis=0), rtol=1e-4)


def test_a_restored_learner_continues_like_the_original(tmp_path: Path) -> None:
    original, restored = started(), fresh()
    for _ in range(3):
        original.update(original.collect())
    torch.save(original.state(), tmp_path / "state.pt")
    restored.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert restored.steps == 96
    for learner in (original, restored):
        learner.update(learner.collect())
    assert_equal_weights(original.net, restored.net)


def test_the_learning_rate_falls_to_its_final_fraction() -> None:
    learner, rates = started(), []
    while learner.steps < 320:
        learner.update(learner.collect())
        rates.append(learner.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.01 * (1 - 0.9 * i / 10) for i in range(1, 11)])


def test_each_step_enters_exactly_one_policy_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, taught = started(batch_size=5, critic_epochs=3), list[int]()
    data = {**learner.collect(), "actions": np.arange(32).reshape(4, 8)}  # so each action identifies its step

    def policy_loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        taught.extend(batch["actions"].tolist())
        return torch.tensor(0.0)

    monkeypatch.setattr(learner, "_policy_loss", policy_loss)
    learner.update(data)
    assert sorted(taught) == list(range(32)) != taught


def test_extra_epochs_update_only_the_critic() -> None:
    once, thrice = started(critic_epochs=1), started(critic_epochs=3)
    for learner in (once, thrice):
        learner.update(learner.collect())
    assert_equal_weights(once.net.actor, thrice.net.actor)
    assert not torch.equal(once.net.critic[0].weight, thrice.net.critic[0].weight)


@pytest.mark.parametrize("kind", [*SPACES])
def test_samples_match_their_log_probability(kind: str) -> None:
    """The mean log-probability is minus the entropy, and Gaussian samples have the network's mean."""
    space, n = target(kind).action_space, 20_000
    distribution, net = Distribution(space), fresh(target(kind), log_std_init=-0.7).net.actor
    outputs = np.tile(np.linspace(-1, 1, 2 if space.continuous else sum(space.n_choices)).astype(np.float32), (n, 1))
    actions = distribution.choose(net, outputs, distribution.draw(np.random.default_rng(0), n))
    assert (actions.shape, actions.dtype) == (space.zeros(n).shape, space.dtype)
    log_prob, entropy = distribution.log_prob_and_entropy(net, torch.from_numpy(outputs), torch.from_numpy(actions))
    assert -log_prob.mean().item() == pytest.approx(entropy.item(), abs=0.02)
    if space.continuous:
        np.testing.assert_allclose(actions.mean(axis=0), [-1, 1], atol=0.02)
        np.testing.assert_allclose(actions.std(axis=0), np.exp(-0.7), atol=0.02)
        assert (np.abs(actions) > 1).any()  # only the environment clips
