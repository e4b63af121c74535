"""Environments are told apart by as little as that takes."""

from typing import Any

from ilt.envs.naming import env_names


def env(name: str, *, wrappers: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    return {"id": name, "kwargs": kwargs, "wrappers": wrappers or {}, "success_return": 1.0}


def test_different_ids_are_enough() -> None:
    assert env_names([env("CartPole-v1"), env("mine:Own-v0", size=3), env("CartPole-v1")]) == [
        "CartPole-v1", "Own-v0", "CartPole-v1",
    ]  # fmt: skip


def test_what_is_no_part_of_the_environment_tells_nothing_apart() -> None:
    assert env_names([env("CartPole-v1"), {**env("CartPole-v1"), "success_return": None}]) == ["CartPole-v1"] * 2


def test_environments_of_one_id_are_told_apart_by_arguments_and_wrappers() -> None:
    wrapped = env("CartPole-v1", wrappers={"mask": {"hide": [1]}})
    assert env_names([env("CartPole-v1"), env("CartPole-v1", sutton_barto_reward=True), wrapped]) == [
        "CartPole-v1", "CartPole-v1 sutton_barto_reward=True", "CartPole-v1 +mask",
    ]  # fmt: skip


def test_and_in_full_where_even_that_is_the_same() -> None:
    wrapped = [env("CartPole-v1", wrappers={"mask": {"hide": [place]}}) for place in (1, 3)]
    assert len(set(env_names(wrapped))) == 2
    assert env_names([env("a:Own-v0"), env("b:Own-v0")])[0].startswith('["a:Own-v0"')
