"""Sources of demonstrations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import ilt.registry  # noqa: F401  (registers all schemas)
from ilt.data.episodes import NO_SEED, Episodes
from ilt.data.sources import (
    DataSource,
    check_fits,
    check_source,
    env_of,
    filter_episodes,
    make_source,
    recorded_spaces,
    warn_of_seeds,
    warn_of_units,
)
from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from tests.toys import MULTI, TENSOR, VECTOR, countdown, echo


def nobody(seeds: np.ndarray, title: str, expert: Any = None, /) -> Episodes:
    raise AssertionError("the expert is not needed")


def recordings(env: EnvSpec, block: str, *, count: int = 2) -> Episodes:
    """Return episodes; a data source may be a function."""
    return rollout(env, RandomPolicy(env.action_space), env.seeds(block, count))


class Asking(DataSource):
    """A source that asks the expert for its episodes."""

    uses_expert = True

    def episodes(self, env: EnvSpec, block: str, demonstrate: Any) -> Episodes:
        return demonstrate(env.seeds(block, 1), block)


def logged(env: EnvSpec, block: str, *, path: str, other: str) -> Episodes:
    raise AssertionError("only its identity is asked for")


def test_the_expert_demonstrates_on_the_first_seeds_of_each_block() -> None:
    target = "ilt.data.sources.ExpertEpisodes"
    source = make_source({"_target_": target, "filters": {}, "n_episodes": 7, "n_validation_episodes": 3})
    asked: dict[str, list[int]] = {}

    def demonstrate(seeds: np.ndarray, title: str, expert: Any = None, /) -> Episodes:
        asked[title] = seeds.tolist()
        return recordings(countdown(), "test")

    for block in ("demonstrations", "validation"):
        source.episodes(countdown(), block, demonstrate)
    assert asked == {"demonstrations": list(range(7)), "validation": [1000, 1001, 1002]}
    assert (source.uses_expert, source.n_episodes, source.identity()) == (True, 7, {})


def test_recorded_episodes_are_read_from_their_files(two_episodes: Episodes, tmp_path: Path) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    values = {"_target_": "ilt.data.sources.EpisodesFile", "path": str(one), "validation_path": str(two)}
    source = make_source(values)
    two_episodes.save(one)
    with pytest.raises(ConfigError, match=r"demos\.path and demos\.validation_path must be files, but .*two\.npz"):
        source.identity()
    two_episodes.first(1).save(two)
    found = [source.episodes(countdown(), block, nobody) for block in ("demonstrations", "validation")]
    assert [episodes.seeds.tolist() for episodes in found] == [[7, 8], [7]]
    identity = source.identity()
    two_episodes.save(two)
    assert source.identity()["demonstrations"] == identity["demonstrations"] == source.identity()["validation"]
    assert source.identity()["validation"] != identity["validation"]
    assert not source.uses_expert


def parts(**changes: Any) -> dict[str, Any]:
    """Return `demos` of a good and a bad part."""
    counts = {"n_episodes": 3, "n_validation_episodes": 1}
    good = {"expert": "ppo", "settings": {"total_steps": 100}, **counts}
    bad = {"expert": "random", "n_episodes": 5, "n_validation_episodes": 2, **changes}
    return {"_target_": "ilt.data.sources.MixedEpisodes", "parts": {"good": good, "bad": bad}}


def test_the_parts_of_mixed_data_have_their_own_experts_and_seeds() -> None:
    source, asked = make_source(parts()), dict[str, tuple[list[int], Any]]()

    def demonstrate(seeds: np.ndarray, title: str, expert: Any = None, /) -> Episodes:
        asked[title] = seeds.tolist(), expert
        return rollout(countdown(), RandomPolicy(countdown().action_space), seeds)

    together = source.episodes(countdown(), "demonstrations", demonstrate)
    assert sorted(together.seeds) == list(range(8))
    assert together.seeds.tolist() != list(range(8))  # shuffled, so that the first ones are a sample of all parts
    again = source.episodes(countdown(), "demonstrations", demonstrate)
    assert np.array_equal(again.seeds, together.seeds)
    assert source.episodes(countdown(), "validation", demonstrate).seeds.tolist() != []
    assert [seeds for seeds, _ in asked.values()] == [[0, 1, 2], [3, 4, 5, 6, 7], [1000], [1001, 1002]]
    (_, good), (_, bad) = asked["good, demonstrations"], asked["bad, demonstrations"]
    assert (good["name"], good["total_steps"], good["gate"]) == ("ppo", 100, None)
    assert (bad["name"], bad["_target_"]) == ("random", "ilt.experts.base.RandomExpert")
    assert (source.n_episodes, source.uses_expert, len(source.experts)) == (8, False, 2)


def test_mixed_data_are_identified_by_experts_and_counts_not_by_names() -> None:
    before = make_source(parts()).identity()
    renamed = parts()
    renamed["parts"] = dict(zip("ab", renamed["parts"].values(), strict=True))
    assert make_source(renamed).identity() == before
    for change in ({"n_episodes": 6}, {"expert": "ppo", "settings": {"total_steps": 200}}):
        assert make_source(parts(**change)).identity() != before


def test_mixed_data_must_fit_into_the_seed_blocks() -> None:
    with pytest.raises(ConfigError, match=r"demos\.parts must have at most 100 validation episodes, got 101"):
        check_source(parts(n_validation_episodes=100), {"_target_": "ilt.experts.base.RandomExpert"}, countdown())


def test_a_function_can_be_a_source() -> None:
    source = make_source({"_target_": "tests.data.test_sources.recordings", "filters": {}, "count": 5})
    assert isinstance(source, DataSource)
    assert source.episodes(countdown(), "validation", nobody).seeds.tolist() == list(range(1000, 1005))


@pytest.mark.parametrize(
    ("values", "trust", "message"),
    [
        ({"_target_": "tests.data.test_sources.recordings", "amount": 1}, None, "cannot be called with env, block and"),
        ({"_target_": "tests.data.test_sources.recordings"}, (), r"trust=\[tests\]"),
        ({"_target_": "tests.data.test_sources.nothing"}, None, r"demos\._target_=.* does not exist"),
        ({"_target_": "ilt.data.sources.EpisodesFile", "path": "a"}, None, r"demos\.validation_path must be given"),
    ],
)
def test_source_errors_name_the_key(values: Any, trust: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_source(values, trust=trust)


def test_episodes_of_another_environment_are_refused(two_episodes: Episodes) -> None:
    check_fits(replace(two_episodes, actions=two_episodes.actions % 3), countdown(), source="it")
    wide = replace(two_episodes, observations=np.zeros((7, 3), np.float32))
    with pytest.raises(ValueError, match="it has observations of 3 numbers, but env shows students 2"):
        check_fits(wide, countdown(), source="it")
    with pytest.raises(ValueError, match="it must return actions of integers 0 … 2"):
        check_fits(replace(two_episodes, actions=two_episodes.actions + 1), countdown(), source="it")
    for space in (MULTI, TENSOR):
        env = echo(VECTOR, space)
        check_fits(recordings(env, "test"), env, source="it")
        with pytest.raises(ValueError, match=r"it must return actions of shape"):
            check_fits(two_episodes, env, source="it")
    outside = np.full((5, 6), 50, np.float32)
    with pytest.raises(ConfigError, match=r"it has actions outside their bounds, such as \[50"):
        check_fits(replace(two_episodes, actions=outside), echo(VECTOR, TENSOR), source="it")


@pytest.mark.parametrize(
    ("name", "row", "where"), [("observations", 5, "step 1 of episode 1"), ("rewards", 2, "step 2")]
)
def test_numbers_that_are_not_finite_are_refused_with_their_place(
    name: str, row: int, where: str, two_episodes: Episodes
) -> None:
    damaged = getattr(two_episodes, name).copy()
    damaged[row] = np.nan
    fitting = replace(two_episodes, actions=two_episodes.actions % 3)
    with pytest.raises(ConfigError, match=f"it has {name} that are not finite: .*nan.* at {where}"):
        check_fits(replace(fitting, **{name: damaged}), countdown(), source="it")


def test_recorded_observations_in_other_units_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    env = EnvSpec(id="Pendulum-v1")
    episodes = recordings(env, "test")
    warn_of_units(episodes, env, source="demos")
    assert not caplog.records
    warn_of_units(replace(episodes, observations=episodes.observations * 57.3), env, source="demos")
    assert "demos has observations beyond the bounds of env: observation[0] is from -57" in caplog.text


def test_recorded_episodes_on_seeds_of_the_test_give_a_warning(
    two_episodes: Episodes, caplog: pytest.LogCaptureFixture
) -> None:
    for seeds in ([7, 8], [NO_SEED, NO_SEED]):
        warn_of_seeds(replace(two_episodes, seeds=np.array(seeds)), countdown(), source="demos")
    assert not caplog.records
    warn_of_seeds(replace(two_episodes, seeds=np.array([7, 3005])), countdown(), source="demos")
    assert "demos has 1 episodes with seeds of env.seed_blocks.test" in caplog.text


def test_a_source_that_asks_the_expert_needs_one() -> None:
    values = {"_target_": "tests.data.test_sources.Asking", "filters": {}}
    check_source(values, {"_target_": "ilt.experts.base.RandomExpert"}, countdown())
    with pytest.raises(ConfigError, match=r"expert must be one that demonstrates where .*Asking, got none"):
        check_source(values, {"_target_": "ilt.experts.base.NoExpert"}, countdown())


def test_a_file_that_a_function_reads_is_identified_by_its_content(tmp_path: Path) -> None:
    values = {"_target_": "tests.data.test_sources.logged", "path": str(tmp_path / "log.csv"), "other": "no file"}
    (tmp_path / "log.csv").write_text("1")
    before = make_source(values).identity()
    (tmp_path / "log.csv").write_text("2")
    after = make_source(values).identity()
    assert before.keys() == after.keys() == {"path"}
    assert before != after


@pytest.mark.parametrize(
    ("filters", "kept", "dropped"),
    [
        ({}, [7, 8], (0, 0, 0)),
        ({"min_return": None, "drop_truncated": False, "top_fraction": None}, [7, 8], (0, 0, 0)),
        ({"min_return": 6.0}, [7], (1, 0, 0)),
        ({"drop_truncated": True}, [8], (0, 1, 0)),
        ({"min_return": 7.0, "drop_truncated": True}, [], (2, 1, 0)),
        ({"top_fraction": 0.5}, [7], (0, 0, 1)),
        ({"top_fraction": 1.0}, [7, 8], (0, 0, 0)),
        ({"drop_truncated": True, "top_fraction": 0.01}, [8], (0, 1, 0)),
    ],
)
def test_filters_drop_episodes_and_count_them(
    two_episodes: Episodes, filters: dict[str, Any], kept: list[int], dropped: tuple[int, int, int]
) -> None:
    episodes, counts = filter_episodes(two_episodes, filters)
    assert episodes.seeds.tolist() == kept
    assert counts == dict(zip(("min_return", "drop_truncated", "top_fraction"), dropped, strict=True))


@pytest.mark.parametrize(
    ("actions", "space"),
    [
        ([0, 3, 1, 1, 0], spaces.Discrete(4)),
        ([2, -1, 1, 1, 0], spaces.Discrete(4, start=-1)),
        ([[0, 5], [2, 1], [0, 1], [0, 1], [0, 1]], spaces.MultiDiscrete([3, 6])),
        ([[-0.5], [2.0], [0.0], [0.0], [0.0]], spaces.Box(-0.5, 2.0, (1,))),
    ],
    ids=str,
)
def test_recorded_spaces_are_the_smallest_that_hold_the_actions(
    two_episodes: Episodes, actions: list[Any], space: spaces.Space[Any]
) -> None:
    array = np.array(actions)
    array = array.astype(np.float32) if array.dtype.kind == "f" else array
    episodes = replace(two_episodes, actions=array)
    assert recorded_spaces([episodes, episodes.first(1)]) == (spaces.Box(-np.inf, np.inf, (2,)), space)
    check_fits(episodes, EnvSpec(id=NO_ENV, spaces=recorded_spaces([episodes])), source="it")


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_recorded_number_that_never_varies_keeps_its_value(two_episodes: Episodes, value: float) -> None:
    episodes = replace(two_episodes, actions=np.full((5, 1), value, np.float32))
    space = EnvSpec(id=NO_ENV, spaces=recorded_spaces([episodes])).action_space
    assert space.decode(space.encode(episodes.actions)).tolist() == episodes.actions.tolist()
    assert space.decode(np.array([[-1.0], [0.2], [1.0]])) == pytest.approx(value)
    assert space.low[0] < space.high[0]


def test_recordings_whose_blocks_differ_have_no_spaces(two_episodes: Episodes) -> None:
    other = replace(two_episodes, actions=np.zeros((5, 2), np.float32))
    with pytest.raises(ConfigError, match=r"2 numbers with int64 actions of \(\) and 2 numbers with float32"):
        recorded_spaces([two_episodes, other])
    with pytest.raises(ConfigError, match="demos has actions that are not finite"):
        recorded_spaces([replace(other, actions=np.full((5, 2), np.nan, np.float32))])


def fourth(env: EnvSpec, block: str) -> Episodes:
    """Return episodes of another env, as a function that reads files does."""
    CALLS.append(block)
    return recordings(countdown(), block)


CALLS: list[str] = []


def test_without_an_environment_the_spaces_are_those_of_the_source(two_episodes: Episodes, tmp_path: Path) -> None:
    two_episodes.save(tmp_path / "a.npz")
    path = str(tmp_path / "a.npz")
    file = {"_target_": "ilt.data.sources.EpisodesFile", "path": path, "validation_path": path, "filters": {}}
    function = {"_target_": f"{__name__}.fourth", "filters": {}}
    env = env_of({"id": "none"}, file)
    assert (env.observations.dim, env.action_space.n_choices, env.simulated) == (2, (3,), False)
    check_source(file, {"_target_": "ilt.experts.base.NoExpert"}, env)
    for _ in range(3):  # read once
        assert env_of({"id": "none"}, function).observations.dim == countdown().observations.dim
    assert CALLS == ["demonstrations", "validation"]
    assert env_of({"id": "ilt-toys/Countdown-v0"}, file).simulated
    for source in (f"{__name__}.Asking", f"{__name__}.recordings"):
        with pytest.raises(ConfigError, match=r"^(demos must be recordings|env must be an env)"):
            env_of({"id": "none"}, {"_target_": source, "filters": {}})
