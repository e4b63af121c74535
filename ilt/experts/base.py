"""The contract of an expert: who demonstrates, and how it comes to be.

The simplest expert is a function from observations (n, obs_dim) float32 to n actions in the simulator's units; name it as
`expert._target_`. One that is trained, or read from a file, is a subclass of `Expert`, called with the config's own keys:

    class MyExpert(Expert):
        def __init__(self, *, path: str):
            self.path = path

        def policy(self, env, folder, *, privileged, deterministic):
            return MyPolicy(...)          # a Policy; see ilt.rollout.policies

What `train` leaves in the folder it is given becomes an artifact: it is found again by the config, and `policy` reads it.
`ilt.check_expert(expert, env)` holds it to what is said here.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.schema import ConfigError, accepted, locate, own_keys, path_of

Score = Callable[[Policy], float]
"""The mean return of a policy over the selection seeds that pick checkpoints."""

Report = Callable[[int, float | None], None]
"""Told how many environment steps are done and, after a scoring, the return."""


class Expert(ABC):
    """Who demonstrates.

    Attributes:
        version: raise it when what it computes changes, so that older artifacts are not taken for it.
        total_steps: environment steps of its training; 0 if it is not trained.
    """

    version = 1
    total_steps: int = 0

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any] | None:
        """Leave in `folder` what `policy` needs, and return what its manifest is to say of the training.

        The folder is the same at every try, so a training that was killed finds what it saved in `folder / "training"`, which is
        removed at the end. It draws its episodes from the demonstrations block; see `SeedStream`.

        Args:
            score, report: see the types.
        """
        return None

    @abstractmethod
    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        """What acts. Loading it runs no code from the folder.

        Args:
            privileged: whether it sees what the environment hides from students.
            deterministic: whether it takes its most likely action, or samples.
        """


class FunctionExpert(Expert):
    """A plain function from observations to actions."""

    def __init__(self, function: Callable[..., np.ndarray], **options: Any) -> None:
        self._function, self._options = function, options

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        return FunctionPolicy(_Bound(self._function, self._options), env.action_space, privileged=privileged)


class _Bound:
    """A function with some of its arguments; unlike a lambda, other processes can be sent it."""

    def __init__(self, function: Callable[..., np.ndarray], options: dict[str, Any]) -> None:
        self._function, self._options = function, options

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return self._function(observations, **self._options)


class HeuristicExpert(Expert):
    """The hand-written controller that the environment's config names, a function from observations to actions."""

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        if env.heuristic is None:
            raise ConfigError(f"env.heuristic must name a controller for expert=heuristic, got null for {env.id}")
        function = locate(env.heuristic, key="env.heuristic", trust=env.trust)
        return FunctionPolicy(function, env.action_space, privileged=privileged)


class RandomExpert(Expert):
    """Every action equally likely: to compare with, and the worst demonstrator there is."""

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        return RandomPolicy(env.action_space)


def make_expert(values: Any, *, trust: Sequence[str] | None = None) -> Expert:
    """The expert of a config's `expert`: an `Expert` of a class, or a plain function as one."""
    target = locate(values["_target_"], key="expert._target_", trust=trust)
    options = own_keys("expert", values)
    if isinstance(target, type) and issubclass(target, Expert):
        return target(**accepted(target, options, {}, prefix="expert"))
    try:
        inspect.signature(target).bind(None, **options)
    except TypeError as error:
        raise ConfigError(
            f"expert._target_={path_of(target)} cannot be called with observations and {options}: {error}"
        ) from error
    return FunctionExpert(target, **options)
