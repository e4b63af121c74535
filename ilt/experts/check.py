"""Check that an expert meets its contract; call this in the expert's own tests."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ilt.envs.spec import EnvSpec
from ilt.experts.base import Expert, FunctionExpert
from ilt.rollout.policies import Policy, RandomPolicy
from ilt.rollout.run import rollout


def check_expert(
    expert: Expert | Policy | Callable[[np.ndarray], np.ndarray],
    env: EnvSpec,
    *,
    folder: Path | None = None,
    privileged: bool = False,
    deterministic: bool = True,
) -> None:
    """Check an expert's actions on the observations of four random episodes of at most 50 steps.

    Actions must be in the environment's space. They must not depend on the other observations in a batch, their order
    or the slot. Samples must depend only on the episode's seed.

    Args:
        folder: the folder that training wrote; None for an expert that is not trained.
        privileged: whether the expert sees what the environment hides from students; ignored for a `Policy`, which has
            its own attribute.
        deterministic: whether the expert can act deterministically; False if it can only sample.

    Raises:
        ValueError: an action is not in the environment's space.
        AssertionError: an action depends on something that it must not depend on.
    """
    if not isinstance(expert, Expert | Policy):
        expert = FunctionExpert(expert)
    seeds, slots, space = env.seeds("selection", 4), np.arange(4), env.action_space
    played = rollout(replace(env, kwargs={**env.kwargs, "max_episode_steps": 50}), RandomPolicy(space), seeds)
    shown = [(one.observations[:-1], one.extras.get("step/privileged")) for one in map(played.select, slots[:, None])]

    def actions(sure: bool, slots: Any = slots, seeds: Any = seeds, split: Any = lambda active: [active]) -> np.ndarray:
        if isinstance(expert, Expert):
            policy = expert.policy(env, folder or Path(), privileged=privileged, deterministic=sure)
        else:
            policy = copy.deepcopy(expert)
            policy.set_deterministic(sure)
        policy.reset(slots, seeds)
        taken = [space.zeros(len(seen)) for seen, _ in shown]
        for t in range(max(map(len, taken))):
            active = np.array([e for e in range(4) if t < len(taken[e])])
            for part in split(active):
                rows = [np.concatenate([shown[e][i][t] for i in range(1 + policy.privileged)]) for e in part]
                chosen = np.asarray(policy.act(slots[part], np.stack(rows)))
                checked = space.check(chosen, len(part), source="the expert")
                if not np.array_equal(checked, chosen.reshape(checked.shape)):
                    raise ValueError(f"the expert must return actions within their bounds, got {chosen}")
                for e, action in zip(part, checked, strict=True):
                    taken[e][t] = action
        return space.encode(np.concatenate(taken))

    changes: dict[str, dict[str, Any]] = {
        "the same observations": {},
        "single observations": {"split": lambda active: active[:, None]},
        "another order of observations": {"split": lambda active: [active[::-1]]},
        "other slots": {"slots": slots[::-1] + 3},
        "other seeds": {"seeds": seeds + 4},
    }
    for sure in (True, False) if deterministic else (False,):
        first = actions(sure)
        for what, change in changes.items():
            if (sure or "seeds" not in change) and not np.allclose(actions(sure, **change), first, rtol=0, atol=1e-5):
                raise AssertionError(f"with deterministic={sure}, {what} gave different actions")
