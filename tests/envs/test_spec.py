"""What an environment's config says about it."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from ilt.config import BLOCKS
from ilt.envs.spec import EnvSpec
from tests.toys import BLOCKS as TOY_BLOCKS
from tests.toys import countdown, recall


def test_no_seed_is_in_two_blocks(lander: EnvSpec) -> None:
    ranges = [range(first, first + count) for first, count in lander.seed_blocks.values()]
    assert all(a[-1] < b[0] or b[-1] < a[0] for a, b in combinations(ranges, 2))


def test_blocks_that_share_one_seed_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="demonstrations and validation overlap"):
        replace(countdown(), seed_blocks={**TOY_BLOCKS, "demonstrations": (0, 1001)})


def test_a_block_inside_another_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.seed_blocks must be disjoint"):
        replace(countdown(), seed_blocks={**TOY_BLOCKS, "test": (2010, 5)})


@pytest.mark.parametrize("names", [BLOCKS[:3], (*BLOCKS, "more")])
def test_exactly_the_four_blocks_must_be_named(names: tuple[str, ...]) -> None:
    blocks = {name: (1000 * i, 10) for i, name in enumerate(names)}
    with pytest.raises(ValueError, match=r"env\.seed_blocks must name .*demonstrations"):
        replace(countdown(), seed_blocks=blocks)


def test_seeds_come_from_the_block_in_order() -> None:
    seeds = countdown().seeds("selection", 3, offset=4)
    assert seeds.tolist() == [2004, 2005, 2006]
    assert seeds.dtype == np.int64


def test_a_whole_block_can_be_used() -> None:
    assert countdown().seeds("test", 100)[-1] == 3099


@pytest.mark.parametrize(("count", "offset"), [(101, 0), (1, 100), (51, 50), (0, 0), (5, -1)])
def test_seeds_outside_their_block_are_refused(count: int, offset: int) -> None:
    with pytest.raises(ValueError, match=r"seeds .* of the test block .* env\.seed_blocks\.test holds 100"):
        countdown().seeds("test", count, offset)


@pytest.mark.parametrize("block", BLOCKS)
def test_which_block_do_seeds_lie_in(block: str) -> None:
    assert countdown().block_of(countdown().seeds(block, 100)) == block


@pytest.mark.parametrize("seeds", [[999, 1000], [2099, 2100], [3100], [-1]])
def test_seeds_of_no_single_block_are_refused(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not lie in one block of env\.seed_blocks"):
        countdown().block_of(np.array(seeds))


def test_the_time_limit_is_the_one_that_gymnasium_registers(lander: EnvSpec) -> None:
    assert [spec.max_episode_steps for spec in (lander, countdown(), recall())] == [1000, 3, None]


def test_the_config_can_set_another_time_limit(lander: EnvSpec) -> None:
    assert replace(lander, kwargs={"max_episode_steps": 7}).max_episode_steps == 7


def test_a_time_limit_of_minus_one_is_none_as_in_gymnasium() -> None:
    assert replace(countdown(), kwargs={"max_episode_steps": -1}).max_episode_steps is None


def test_a_time_limit_of_null_is_the_registered_one_as_in_gymnasium() -> None:
    assert replace(countdown(), kwargs={"max_episode_steps": None}).max_episode_steps == 3


def test_sizes_of_observation_and_action_set(lander: EnvSpec) -> None:
    assert lander.sizes() == (8, 4)


def test_continuous_actions_are_refused(lander: EnvSpec) -> None:
    with pytest.raises(ValueError, match=r"env\.id=LunarLander-v3: actions must be discrete, from 0, got Box"):
        replace(lander, kwargs={"continuous": True}).sizes()


def test_observations_that_are_no_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.id=FrozenLake-v1: observations must be flat vectors, got Discrete"):
        replace(countdown(), id="FrozenLake-v1").sizes()


def test_kwargs_reach_the_environment_and_may_be_overridden(lander: EnvSpec) -> None:
    light = replace(lander, kwargs={"gravity": -5.0})
    assert light.make().gravity == -5.0
    assert light.make(gravity=-6.0).gravity == -6.0


def test_identity_is_what_decides_an_episode_beside_its_seed(lander: EnvSpec) -> None:
    assert replace(lander, kwargs={"gravity": -5.0}, success_return=0.0).identity() == {
        "id": "LunarLander-v3",
        "kwargs": {"gravity": -5.0},
    }


def test_what_a_student_is_shown_has_names_and_what_is_hidden_stands_behind_it(lander: EnvSpec) -> None:
    hidden = replace(lander, wrappers={"hidden_physics": {}, "blind": {"hide": [2, 3, 5]}})
    seen = [f"observation[{place}]" for place in (0, 1, 4, 6, 7)]
    assert hidden.shows() == seen
    assert hidden.shows(privileged=True) == [*seen, *hidden.hidden_names()]
    assert lander.shows() == lander.shows(privileged=True) == [f"observation[{place}]" for place in range(8)]
    for spec in (lander, hidden):
        assert [len(spec.shows(privileged=privileged)) for privileged in (False, True)] == [
            spec.sizes(privileged=privileged)[0] for privileged in (False, True)
        ]


def test_what_is_drawn_for_an_episode_has_names(lander: EnvSpec) -> None:
    assert replace(lander, wrappers={"hidden_physics": {}}).drawn()[:2] == ["gravity", "wind_power"]
    assert lander.drawn() == []
