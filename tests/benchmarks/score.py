"""Scoring students on test episodes, beside the environment limit and beside one env stepped by itself."""

from ilt.envs.spec import EnvSpec
from ilt.rollout.workers import cores
from tests.benchmarks.measuring import Bar, Measure, Row, at_least, compare
from tests.benchmarks.rollouts import acting, environment_limit, student

N_EPISODES = 1000
N_REFERENCE = 4


def rows(spec: EnvSpec) -> list[Row]:
    """Steps per second of `small` with K = 16 and of `tiny` with K = 8."""
    limit = environment_limit(spec)  # starts the workers, too
    return [
        _row(spec, limit, "small", 16, at_least(0.4), at_least(20)),
        _row(spec, limit, "tiny", 8, at_least(0.6), None),
    ]


def _row(spec: EnvSpec, limit: Measure, size: str, context_length: int, of_limit: Bar, faster: Bar | None) -> Row:
    seeds = spec.seeds("test", N_EPISODES)
    one_by_one = student(size, context_length, recompute=True)
    return compare(
        f"score {N_EPISODES:,} episodes, {size}, K = {context_length}",
        "steps/s",
        acting(spec, student(size, context_length), seeds, n_processes=cores()),
        [
            ("environment limit", limit, of_limit),
            ("one env, whole window recomputed", acting(spec, one_by_one, seeds[:N_REFERENCE], n_envs=1), faster),
        ],
    )
