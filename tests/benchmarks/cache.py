"""Acting with a long context: cached keys and values beside the recomputed window, both in one process."""

from dataclasses import replace

from ilt.envs.spec import EnvSpec
from tests.benchmarks.measuring import Row, at_least, compare
from tests.benchmarks.rollouts import acting, student

N_EPISODES = 64
N_STEPS = 150


def rows(spec: EnvSpec) -> list[Row]:
    """Steps per second of `base` with K = 64."""
    spec = replace(spec, kwargs={**spec.kwargs, "max_episode_steps": N_STEPS})  # recomputing takes minutes as it is
    seeds = spec.seeds("test", N_EPISODES)
    recomputed = acting(spec, student("base", 64, recompute=True), seeds, n_envs=N_EPISODES)
    return [
        compare(
            "act with base, K = 64, 64 envs, one process",
            "steps/s",
            acting(spec, student("base", 64), seeds, n_envs=N_EPISODES),
            [("window recomputed", recomputed, at_least(20))],
        )
    ]
