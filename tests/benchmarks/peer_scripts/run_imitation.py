"""imitation: behavior cloning with its default policy (an MLP, 2 × 32), and rollouts of this policy in 16 envs.

A batch has 256 steps instead of the default 32, which is faster per label. imitation needs Gymnasium 0.29, which has
LunarLander-v2; there, the recorded actions lead to almost the same episodes. The envs have neither a Monitor nor a
`RolloutInfoWrapper`, which would slow them down.
"""

import time
from functools import partial

import numpy as np
from imitation.algorithms.bc import BC
from imitation.data.rollout import make_min_episodes, rollout
from imitation.data.types import Trajectory
from imitation.util.logger import configure
from recorded import RecordedEpisodes
from stable_baselines3.common.vec_env import DummyVecEnv
from timing import BATCH_SIZE, demonstrations, last_observations, report, seconds_per_million_labels

N_ENVS, N_EPISODES = 16, 480

arrays = demonstrations()
observations = np.split(arrays["observations"], last_observations(arrays)[:-1] + 1)
actions = np.split(arrays["actions"], arrays["lengths"].cumsum()[:-1])
n_episodes = len(arrays["lengths"])
envs = DummyVecEnv(
    [partial(RecordedEpisodes, "LunarLander-v2", arrays, range(i, n_episodes, N_ENVS)) for i in range(N_ENVS)]
)
bc = BC(
    observation_space=envs.observation_space,
    action_space=envs.action_space,
    demonstrations=[Trajectory(*each, infos=None, terminal=True) for each in zip(observations, actions, strict=True)],
    batch_size=BATCH_SIZE,
    rng=np.random.default_rng(0),
    device="cpu",
    custom_logger=configure(".", format_strs=[]),
)


def steps_per_second() -> float:
    act = partial(rollout, bc.policy, envs, rng=np.random.default_rng(0), unwrap=False, verbose=False)
    act(sample_until=make_min_episodes(N_ENVS))
    started = time.perf_counter()
    n_steps = sum(len(trajectory) for trajectory in act(sample_until=make_min_episodes(N_EPISODES)))
    return n_steps / (time.perf_counter() - started)


report(
    train={
        "imitation BC": seconds_per_million_labels(lambda n_batches: bc.train(n_batches=n_batches, progress_bar=False))
    },
    evaluate={"imitation rollout, 16 envs": steps_per_second()},
)
