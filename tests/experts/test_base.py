"""Components that can be experts, errors, and `check_expert`."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ilt.registry  # noqa: F401 (registers the keys common to all experts)
from ilt.envs.spec import EnvSpec
from ilt.experts.base import Expert, FunctionExpert, HeuristicExpert, RandomExpert, make_expert
from ilt.experts.check import check_expert
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.schema import ConfigError, canonical
from tests.experts.toys import SPACES, target
from tests.toys import countdown, recall

HERE, NUMBER = "tests.experts.test_base", 3


def above(observations: np.ndarray, threshold: float = 0.5, *, sign: int = 1) -> np.ndarray:
    """Return 1 where the first number is above a threshold, else 0."""
    return (sign * observations[:, 0] > threshold).astype(np.int64)


class Above:
    """The same policy as a callable object."""

    def __init__(self, *, threshold: float) -> None:
        self._threshold = threshold

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return above(observations, self._threshold)


class Alternating(Policy):
    """Takes the actions 0, 1, 0, … in each episode, starting with `first`."""

    def __init__(self, *, first: int = 0) -> None:
        self._first, self._next = first, np.zeros(0, np.int64)

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._next = np.resize(self._next, max(len(self._next), slots.max() + 1))
        self._next[slots] = self._first

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        taken = self._next[slots]
        self._next[slots] = 1 - taken
        return taken


class Broken:
    """A class that cannot be made."""

    def __init__(self) -> None:
        raise KeyError("weights")


class Always(Expert):
    """Always takes the same action."""

    def __init__(self, *, action: int = 1) -> None:
        self._action = action

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        return FunctionPolicy(lambda observations: np.full(len(observations), self._action), env.action_space)


class NoPolicy(Expert):
    """An expert that defines no policy."""


def no_arguments() -> None:
    """Accept no observations."""


def acts(made: Expert, observations: list[list[float]]) -> list[int]:
    policy = made.policy(recall(), Path(), privileged=False, deterministic=True)
    if not isinstance(made, Always):
        policy = pickle.loads(pickle.dumps(policy))  # noqa: S301 (as it is sent to other processes)
    return policy.act(np.arange(len(observations)), np.array(observations, dtype=np.float32)).tolist()


def named(where: str, code: str, **keys: Any) -> dict[str, Any]:
    """Return a config's `expert` that names code by `_target_` or, for `function`, by `expert=function`."""
    if where == "_target_":
        return {"_target_": code, **keys}
    return {"_target_": "ilt.experts.base.FunctionExpert", "function": code, **keys}


@pytest.mark.parametrize("where", ["_target_", "function"])
@pytest.mark.parametrize(
    ("target", "keys", "expected"),
    [
        ("above", {}, [0, 1, 1]),
        ("above", {"threshold": 0.8}, [0, 0, 1]),
        ("above", {"threshold": -0.3, "sign": -1, "name": "mine", "gate": None}, [1, 0, 0]),
        ("Above", {"threshold": 0.8}, [0, 0, 1]),
        ("Always", {"action": 0}, [0, 0, 0]),
    ],
)
def test_functions_objects_and_experts_receive_the_keys_of_the_config(
    where: str, target: str, keys: Any, expected: list[int]
) -> None:
    for name in (f"{HERE}.{target}", f"{HERE}:{target}"):
        assert acts(make_expert(named(where, name, **keys)), [[0.2], [0.7], [0.9]]) == expected


@pytest.mark.parametrize("privileged", [False, True])
def test_a_policy_with_a_memory_is_copied_for_each_use(privileged: bool) -> None:
    made = make_expert(named("function", f"{HERE}:Alternating", first=1))
    policies = [made.policy(recall(), Path(), privileged=privileged, deterministic=True) for _ in range(2)]
    for policy in policies:
        policy.reset(np.arange(2), np.arange(2))
        shown = [policy.act(np.array(slots), np.zeros((len(slots), 1))).tolist() for slots in ([0, 1], [0], [0, 1])]
        assert (shown, policy.privileged) == ([[1, 1], [0], [1, 0]], privileged)
    check_expert(made, recall())


@pytest.mark.parametrize("where", ["_target_", "function"])
@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            f"{HERE}.above",
            {"treshold": 1},
            r"expert\.treshold is not a key of .*above; .* expert\.threshold\?",
        ),
        (f"{HERE}.Above", {"limit": 1}, r"expert\.limit is not a key of .*\.Above$"),
        (f"{HERE}.Above", {}, r"expert\.threshold must be given"),
        (f"{HERE}.Always", {"act": 1}, r"expert\.act is not a key .* did you mean expert\.action\?"),
        (f"{HERE}.NoPolicy", {}, r"expert\.WHERE=.*NoPolicy cannot be made .*policy"),
        (f"{HERE}.Broken", {}, r"expert\.WHERE=.*Broken cannot be made .*KeyError: 'weights'"),
        (f"{HERE}.no_arguments", {}, r"expert\.WHERE=.*no_arguments must take observations"),
        (f"{HERE}.NUMBER", {}, r"expert\.WHERE=.*NUMBER must be a function from observations .*, got int$"),
        (f"{HERE}.nobody", {}, r"expert\.WHERE=.*nobody does not exist"),
        ("nowhere:nobody", {}, r"expert\.WHERE must be the dotted path .*, got nowhere\.nobody"),
    ],
)
def test_expert_errors_name_the_key(where: str, name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("WHERE", where)):
        make_expert(named(where, name, **keys))


def test_one_function_is_one_expert_however_it_is_named() -> None:
    plain = canonical("expert", named("_target_", f"{HERE}.above"))
    assert plain["component"] == f"{HERE}.above"
    assert canonical("expert", named("_target_", f"{HERE}:above")) == plain
    assert canonical("expert", named("function", f"{HERE}:above")) == plain
    assert canonical("expert", named("function", f"{HERE}.above", threshold=0.5)) == plain
    assert canonical("expert", named("function", f"{HERE}:above", threshold=0.8)) != plain
    assert canonical("expert", named("function", f"{HERE}:acts")) != plain


def test_code_of_another_package_runs_only_if_trusted() -> None:
    for where in ("_target_", "function"):
        assert isinstance(make_expert(named(where, f"{HERE}:above"), trust=["tests"]), FunctionExpert)
        with pytest.raises(ConfigError, match=rf"^expert\.{where}=.*above is not .* trust=\[tests\]"):
            make_expert(named(where, f"{HERE}:above"), trust=[])


@pytest.mark.parametrize(
    ("kind", "function", "message"),
    [
        ("discrete", lambda o: np.zeros(1, np.int64), r"must return actions of shape \(4,\) \(integers\), got int64"),
        ("multi_discrete", lambda o: np.zeros((len(o), 2), np.int64), "must return actions of integers 0 … 1, 4 … 6"),
        ("box", lambda o: np.full((len(o), 2), np.nan), "must return finite actions"),
    ],
)
def test_a_function_that_returns_invalid_actions_is_named(kind: str, function: Any, message: str) -> None:
    made = FunctionExpert(function, source="expert._target_=my.function")
    policy = made.policy(target(kind), Path(), privileged=False, deterministic=True)
    with pytest.raises(ConfigError, match=rf"^expert\._target_=my\.function {message}"):
        policy.act(np.arange(4), np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="the expert must return"):
        check_expert(function, target(kind))


def test_the_heuristic_expert_uses_the_environments_controller() -> None:
    spec = replace(recall(), heuristic=f"{HERE}.above")
    policy = HeuristicExpert().policy(spec, Path(), privileged=False, deterministic=True)
    assert policy.act(np.arange(2), np.array([[0.2], [0.9]])).tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"env\.heuristic must name a controller .* got null for ilt-toys/Recall-v0"):
        HeuristicExpert().policy(recall(), Path(), privileged=False, deterministic=True)


def test_a_heuristic_may_be_a_class_of_policies() -> None:
    spec = replace(recall(), heuristic=f"{HERE}.Alternates")
    policies = [HeuristicExpert().policy(spec, Path(), privileged=flag, deterministic=True) for flag in (False, True)]
    assert [policy.privileged for policy in policies] == [False, True]
    assert policies[0].action_space == spec.action_space
    policies[0].reset(np.arange(2), np.arange(2))
    taken = [policies[0].act(np.arange(2), np.zeros((2, 1))).tolist() for _ in range(3)]
    assert taken == [[0, 0], [1, 1], [0, 0]]
    with pytest.raises(ConfigError, match=r"env\.heuristic=.*Needs must be made without arguments"):
        HeuristicExpert().check(replace(recall(), heuristic=f"{HERE}.Needs"), privileged=False)


# --- the check ---


class Alternates(Policy):
    """Takes the actions 0 and 1 in turn."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._next |= dict.fromkeys(slots.tolist(), 0)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        taken = [self._next[slot] for slot in slots.tolist()]
        self._next |= {slot: 1 - self._next[slot] for slot in slots.tolist()}
        return np.array(taken)


class Needs(Alternates):
    """A policy that cannot be made without arguments."""

    def __init__(self, gain: float) -> None:
        super().__init__()


class ByCompany(Policy):
    """Acts depending on the slots of the call."""

    def __init__(self, choose: Callable[[np.ndarray], np.ndarray]) -> None:
        self._choose = choose

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._choose(slots)


CHANCE = np.random.default_rng()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ByCompany(lambda slots: (slots > 2).astype(int)), "other slots"),
        (ByCompany(lambda slots: np.full(len(slots), len(slots) > 2, int)), "single observations"),
        (ByCompany(lambda slots: np.arange(len(slots)) % 2 * (len(slots) == 4)), "single observations|another order"),
        (RandomPolicy(recall().action_space), "with deterministic=True, other seeds"),
        (ByCompany(lambda slots: CHANCE.integers(2, size=len(slots))), "the same observations"),
    ],
)
def test_the_check_finds_actions_that_depend_on_anything_but_observations(policy: Policy, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_expert(policy, recall())


def test_the_check_finds_actions_outside_their_bounds() -> None:
    with pytest.raises(ValueError, match="within their bounds"):
        check_expert(ByCompany(lambda slots: np.full((len(slots), 2), 9.0, np.float32)), target("box"))


@pytest.mark.parametrize("kind", [*SPACES])
def test_the_random_expert_passes(kind: str) -> None:
    check_expert(RandomExpert(), target(kind), deterministic=False)
    check_expert(RandomPolicy(target(kind).action_space), target(kind), deterministic=False)


def test_functions_objects_and_the_landers_heuristic_pass(lander: EnvSpec) -> None:
    check_expert(above, recall())
    check_expert(Always(), countdown())
    check_expert(HeuristicExpert(), lander)
