"""The contract of an expert: how it is trained or read, and how it acts.

The simplest expert is a function from observations (n, obs_dim) float32 to n actions in the simulator's units, such as
`expert=function expert.function=my_package.module:controller`. Its other arguments become keys of the config. So do the
arguments of a class whose instances are called like a function, or of a `Policy`, which may remember each episode. An
expert that is trained, or read from a file, is a subclass of `Expert`, which is called with the config's own keys:

    class MyExpert(Expert):
        def __init__(self, *, path: str):
            self.path = path

        def policy(self, env, folder, *, privileged, deterministic):
            return MyPolicy(...)          # a Policy; see ilt.rollout.policies

The files that `train` writes to its folder become an artifact, which later runs find by the config; `policy` reads
them. `ilt.check_expert(expert, env)` checks that an expert meets this contract.
"""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.schema import ConfigError, accepted, code_of, locate, own_keys, schema_of
from ilt.tracking.store import file_digests

Score = Callable[[Policy], float]
"""Returns a policy's mean return on the selection seeds that are used to pick checkpoints."""

Report = Callable[[int, float | None], None]
"""Called with the number of environment steps done and, after a scoring, the mean return (otherwise None)."""


class Expert(ABC):
    """An expert, which demonstrates and labels.

    Attributes:
        version: increase it when the results change, so that older artifacts are not reused.
        total_steps: environment steps of training; 0 if the expert is not trained.
        rollout_steps: environment steps between updates; training ends after a multiple of them.
        gradient_steps: optimizer steps of training, for estimating the duration.
    """

    version = 1
    total_steps: int = 0
    rollout_steps: int = 1
    gradient_steps: int = 0

    def identity(self) -> dict[str, Any]:
        """Return what determines the expert besides the config, such as a file's content. It is hashed as well."""
        return {}

    def check(self, env: EnvSpec, *, privileged: bool) -> None:  # noqa: B027 (most experts fit any environment)
        """Raise ConfigError, naming the key, if the expert cannot act in the environment; before any long work."""

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any] | None:
        """Write what `policy` needs to `folder`, and return the manifest's entry about training.

        Every attempt gets the same folder, so an interrupted run can resume from `folder / "training"`, which is
        removed at the end. Training episodes take their seeds from the demonstrations block; see
        `ilt.experts.training_envs`.

        Args:
            seed: determines the weights, samples and training episodes.
            privileged: whether the expert sees what the environment hides from students.
            score, report: functions to call; see `Score` and `Report`.
        """
        return None

    @abstractmethod
    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        """Return the policy. Loading it must run no code from the folder.

        Args:
            privileged: whether it sees what the environment hides from students.
            deterministic: whether it takes its most likely action instead of sampling.
        """


class FunctionExpert(Expert):
    """A plain function from observations to actions.

    Args:
        function: maps observations (n, obs_dim) float32 to n actions in the simulator's units.
        source: the function's name in error messages.
        options: its other arguments; those that are paths of files are identified by the files' contents.
    """

    def __init__(self, function: Callable[..., np.ndarray], *, source: str = "the expert", **options: Any) -> None:
        self._function, self._source, self._options = partial(function, **options), source, options

    def identity(self) -> dict[str, Any]:
        return file_digests(self._options)

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        return FunctionPolicy(self._function, env.action_space, privileged=privileged, source=self._source)


class PolicyExpert(Expert):
    """A policy that needs neither training nor files.

    Args:
        policy: copied for each use, since it may remember the episodes in progress.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        policy = copy.deepcopy(self._policy)
        policy.privileged = privileged
        policy.set_deterministic(deterministic)
        return policy


class HeuristicExpert(Expert):
    """The hand-written controller that the environment's config names.

    It is a function from observations to actions, or a class of policies that is made without arguments.

    Args:
        controller: its dotted path; None for `env.heuristic`.
    """

    def __init__(self, *, controller: str | None = None) -> None:
        self._controller = controller

    def check(self, env: EnvSpec, *, privileged: bool) -> None:
        self.policy(env, Path(), privileged=privileged, deterministic=True)

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        if (path := self._controller or env.heuristic) is None:
            raise ConfigError(f"env.heuristic must name a controller for expert=heuristic, got null for {env.id}")
        controller, source = locate(path, key="env.heuristic", trust=env.trust), f"env.heuristic={path}"
        if isinstance(controller, type) and issubclass(controller, Policy):
            try:
                policy = controller()
            except TypeError as error:
                raise ConfigError(f"{source} must be made without arguments: {error}") from error
            policy.privileged, policy.action_space = privileged, env.action_space
            return policy
        return FunctionPolicy(controller, env.action_space, privileged=privileged, source=source)


class RandomExpert(Expert):
    """Uniformly random actions: a baseline, and the worst possible demonstrator."""

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        return RandomPolicy(env.action_space)


class NoExpert(Expert):
    """Stands for the absence of an expert, where demonstrations are recordings."""

    def check(self, env: EnvSpec, *, privileged: bool) -> None:
        if privileged:
            raise ConfigError("expert.privileged must be false for expert=none, got true")

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        raise ConfigError("expert must be one that can act, got none")


def check_expert_config(values: Any, env: EnvSpec) -> None:
    """Raise ConfigError, naming the key, if an expert cannot be made, or cannot act in the environment."""
    make_expert(values).check(env, privileged=values["privileged"])


def make_expert(values: Any, *, trust: Sequence[str] | None = None) -> Expert:
    """Build the expert of a config's `expert`: a function, or a class of functions, policies or experts.

    Raise ConfigError, naming the key, if it is none of these or does not accept the config's own keys.
    """
    name, path = code_of(schema_of("expert", values), values)
    target = locate(path, key=f"expert.{name}", trust=trust)
    options, source = own_keys("expert", values), f"expert.{name}={path}"
    options.pop(name, None)
    if isinstance(target, type):
        given = accepted(target, options, {}, prefix="expert")
        try:
            target, options = target(**given), {}
        except ConfigError:
            raise
        except Exception as error:  # somebody's class can raise anything
            raise ConfigError(f"{source} cannot be made with {given}: {type(error).__name__}: {error}") from error
        if isinstance(target, Expert):
            return target
        if isinstance(target, Policy):
            return PolicyExpert(target)
    if not callable(target):
        raise ConfigError(
            f"{source} must be a function from observations to actions, or a class of such functions, of ilt.Policy or "
            f"of ilt.Expert, got {type(target).__name__}"
        )
    first = next(iter(inspect.signature(target).parameters), None)
    if first is None:
        raise ConfigError(f"{source} must take observations, but takes no argument")
    given = accepted(target, options, {first: None}, prefix="expert")
    return FunctionExpert(target, **{name: value for name, value in given.items() if name != first}, source=source)
