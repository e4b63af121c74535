"""Mirror images: of numbers and choices, of whole episodes, and of the environments that say they have them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf

from ilt.data.episodes import NO_SEED
from ilt.data.mirror import Mirror, Reflection
from ilt.data.windows import LABEL
from ilt.envs.spec import EnvSpec
from ilt.registry import load_option, options_of
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from tests.imitation.test_algorithms import fit, toy
from tests.toys import echo, recall

MIRRORED = [name for name in options_of("env") if load_option("env", name).get("mirror")]


def spec_of(name: str) -> EnvSpec:
    return EnvSpec.from_config(OmegaConf.create(load_option("env", name)))


def test_a_reflection_by_hand() -> None:
    reflect = Reflection.parse("-0 +2 1", 3, key="k")
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=np.float32)
    assert reflect(x).tolist() == [[-1, 3, 2], [-4, 6, 5]]
    assert reflect(x).dtype == np.float32


@pytest.mark.parametrize("text", ["", "0", "-0 +2 +3", "0 1 2 3", "1 2 0", "0 0 1", "-2 1 0", "a b c", "0 1 -", 0])
def test_what_is_no_reflection_of_three_numbers_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"env\.mirror\.observations must be a text of 3 indices from 0 to 2"):
        Reflection.parse(text, 3, key="env.mirror.observations")


def test_images_of_episodes_follow_them_and_are_their_own_inverse() -> None:
    env = spec_of("lunar_lander")
    policy = RandomPolicy(env.action_space)
    episodes = rollout(env, policy, env.seeds("demonstrations", 3))
    episodes = replace(episodes, extras={LABEL: episodes.actions[::-1].copy(), "step/other": episodes.rewards})
    both = Mirror(env).with_images(episodes)
    assert len(both) == 6
    images, again = both.select(np.arange(3, 6)), Mirror(env).with_images(both.select(np.arange(3, 6)))
    assert (images.seeds == NO_SEED).all()
    assert images.returns.tolist() == episodes.returns.tolist()
    assert images.actions.tolist() == np.array([0, 3, 2, 1])[episodes.actions].tolist()
    assert images.extras[LABEL].tolist() == np.array([0, 3, 2, 1])[episodes.extras[LABEL]].tolist()
    for part, same in ((both.first(3), episodes), (again.select(np.arange(3, 6)), episodes)):
        np.testing.assert_array_equal(part.observations, same.observations)
        np.testing.assert_array_equal(part.actions, same.actions)


@pytest.mark.parametrize(
    ("env", "mirror", "said"),
    [
        ("CartPole-v1", None, r"dataset\.mirror must be false, since env\.mirror is null"),
        ("CartPole-v1", {"observations": "-0 -1 -2 -3"}, "must have the keys observations and actions, got"),
        ("CartPole-v1", {"observations": "-0 -1 -2", "actions": "1 0"}, "env.mirror.observations must be .* 4 indices"),
        ("CartPole-v1", {"observations": "-0 -1 -2 -3", "actions": "0"}, "env.mirror.actions must be .* 2 indices"),
        ("CartPole-v1", {"observations": "-0 -1 -2 -3", "actions": "-1 -0"}, "env.mirror.actions must have no sign"),
    ],
)
def test_a_mirror_that_does_not_fit_is_refused(env: str, mirror: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mirror(EnvSpec(id=env, mirror=mirror))


def test_several_choices_have_no_mirror_image() -> None:
    with pytest.raises(ConfigError, match=r"env\.mirror must be null, since ilt-toys/Echo-v0 has several choices"):
        Mirror(replace(echo(), mirror={"observations": "0 1", "actions": "0 1"}))


class _Symmetric:
    """Stands in for a generator of random numbers: the terrain and the noise of engines are equal on both sides."""

    def __init__(self, sign: int) -> None:
        self._sign, self._n = sign, 0

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        if size is not None:
            return np.full(size, (low + high) / 2)
        self._n += 1
        across, up = 0.4 * high * self._sign, 0.3 * high  # the force at the start
        return (across, up)[self._n - 1] if self._n <= 2 else 0.0


@pytest.mark.parametrize("name", sorted(set(MIRRORED) - {"lunar_lander_hidden"}))  # which draws its wind by itself
def test_the_mirror_image_of_an_episode_is_what_the_simulator_does_with_mirrored_actions(name: str) -> None:
    env = spec_of(name)
    mirror, space = Mirror(env), env.action_space
    actions = space.sample(np.random.default_rng(1).random((8, space.dim)))
    seen = []
    for sign, executed in ((1, actions), (-1, mirror._reflected(actions))):
        made = _started(env, sign)
        observed = [made.step(action)[0] for action in space.for_simulator(executed)]
        seen.append(np.array([env.observations.flatten(each) for each in observed]))
    tolerance = 2e-3 if "lander" in name else 1e-5  # Box2D solves contacts and joints one after the other
    np.testing.assert_allclose(mirror._observations(seen[0]), seen[1], atol=tolerance)
    assert np.abs(seen[0] - seen[1]).max() > 0.01


def _started(env: EnvSpec, sign: int) -> gym.Env[Any, Any]:
    """Start an episode that does not begin in the middle, or its mirror image."""
    made = env.make()
    made.reset(seed=3)
    inner: Any = made.unwrapped
    if "Lander" in env.id:
        inner._np_random = _Symmetric(sign)
        made.reset()
    else:
        inner.state = sign * np.array([0.02, -0.03, 0.04, 0.01])[: 2 if "Pendulum" in env.id else 4]
    return made


def test_training_uses_the_images_and_counts_labels_once(tmp_path: Path) -> None:
    changes, results = ["imitation=dagger", "imitation.rounds=1"], []
    spec = replace(recall(), mirror={"observations": "-0", "actions": "1 0"})
    for mirror in (True, False):
        (folder := tmp_path / str(mirror)).mkdir()
        results.append(fit(*toy(folder, f"dataset.mirror={mirror}", *changes, spec=spec)))
    fitted, plain = results
    assert fitted.imitation["expert_labels"] == plain.imitation["expert_labels"]
    assert fitted.rows[-1]["val/loss"] != plain.rows[-1]["val/loss"]
