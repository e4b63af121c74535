"""Imitation learning with sequence models.

    import ilt

    env = ilt.make_env("CartPole-v1")
    expert = ilt.load_expert("ppo", env)  # trained if none is found; or pass any function from observations to actions
    demos = ilt.collect(expert, env, n_episodes=100)
    run = ilt.train(demos, env=env, model="tiny", context_length=8)
    print(ilt.evaluate(run.policy, env, n_episodes=200))

Names are imported lazily, on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "ilt.api": (
        "collect", "compare", "evaluate", "load_expert", "load_policy", "make_env", "train", "Demonstrations", "Run"
    ),
    "ilt.data.episodes": ("Episodes",),
    "ilt.data.sources": ("DataSource",),
    "ilt.envs.actions": ("ActionSpace",),
    "ilt.envs.check": ("check_env",),
    "ilt.envs.spec": ("EnvSpec",),
    "ilt.experts.base": ("Expert",),
    "ilt.experts.check": ("check_expert",),
    "ilt.imitation.base": ("Imitation", "Round"),
    "ilt.models.base": ("SequenceModel", "Stepper", "embed_actions"),
    "ilt.models.check": ("check_model",),
    "ilt.models.heads": ("ActionHead",),
    "ilt.rollout.policies": ("Policy",),
    "ilt.schema": ("ConfigError",),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from ilt.api import Demonstrations, Run, collect, compare, evaluate, load_expert, load_policy, make_env, train
    from ilt.data.episodes import Episodes
    from ilt.data.sources import DataSource
    from ilt.envs.actions import ActionSpace
    from ilt.envs.check import check_env
    from ilt.envs.spec import EnvSpec
    from ilt.experts.base import Expert
    from ilt.experts.check import check_expert
    from ilt.imitation.base import Imitation, Round
    from ilt.models.base import SequenceModel, Stepper, embed_actions
    from ilt.models.check import check_model
    from ilt.models.heads import ActionHead
    from ilt.rollout.policies import Policy
    from ilt.schema import ConfigError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ilt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
