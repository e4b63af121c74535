"""Environments get the shortest names that tell them apart."""

from typing import Any

import pytest

from ilt.envs.naming import env_names


def env(name: str = "CartPole-v1", *, hide: int | None = None, success: int = 1, **kwargs: Any) -> dict[str, Any]:
    wrappers = {} if hide is None else {"mask": {"hide": [hide]}}
    return {"id": name, "kwargs": kwargs, "wrappers": wrappers, "success_return": success}


@pytest.mark.parametrize(
    ("envs", "names"),
    [
        ([env(), env("mine:Own-v0", size=3), env()], ["CartPole-v1", "Own-v0", "CartPole-v1"]),
        ([env(), env(success=2)], ["CartPole-v1", "CartPole-v1"]),  # the same environment
        ([env(), env(s=1), env(hide=1)], ["CartPole-v1", "CartPole-v1 s=1", "CartPole-v1 +mask"]),
    ],
)
def test_names_include_arguments_and_wrappers_when_ids_are_equal(envs: list[Any], names: list[str]) -> None:
    assert env_names(envs) == names


def test_names_include_the_full_config_when_even_those_are_equal() -> None:
    assert len(set(env_names([env(hide=1), env(hide=3)]))) == 2
    assert env_names([env("a:Own-v0"), env("b:Own-v0")])[0].startswith('["a:Own-v0"')
