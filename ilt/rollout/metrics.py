"""Statistics and rates over a set of episodes."""

import numpy as np

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec


def episode_metrics(episodes: Episodes, spec: EnvSpec) -> dict[str, float | None]:
    """Return statistics and rates over episodes, with the environment's own rules for success and crash.

    `return_std` is the sample standard deviation of the returns, and `return_p05` their fifth percentile. Rates are
    fractions of episodes, None if the environment has no such rule. `length_mean` is in steps.
    """
    returns, success, crash = episodes.returns, spec.success_return, spec.crash_reward
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        "return_median": float(np.median(returns)),
        "return_p05": float(np.percentile(returns, 5)),
        "success_rate": None if success is None else float((returns >= success).mean()),
        "crash_rate": None if crash is None else float((episodes.terminated & (episodes.last_rewards == crash)).mean()),
        "truncation_rate": float(episodes.truncated.mean()),
        "length_mean": float(episodes.lengths.mean()),
    }
