"""Minari data sets: what is written is read back equal, and reading runs no code of theirs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from ilt.data.episodes import NO_SEED, Episodes
from ilt.data.minari import MinariEpisodes, local_datasets
from ilt.data.minari_export import write_dataset
from ilt.data.sources import check_fits, env_of
from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from ilt.tracking.reading import UnreadableFileError
from tests.toys import HIDING, MULTI, TENSOR, VECTOR, countdown, echo

NESTED = spaces.Dict(
    {
        "z": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
        "a": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.Box(0, 255, (2,), np.uint8)]),
        "m": spaces.MultiBinary(2),
    }
)
ENVS = {
    "discrete": countdown,
    "dict": lambda: echo(NESTED, TENSOR),
    "discrete observation": lambda: echo(spaces.Discrete(4, start=2), MULTI),
    "hidden": lambda: echo(HIDING, spaces.Discrete(2, start=5)),
}
ID = "toys/echo-v0"


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of local data sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def nobody(seeds: np.ndarray, title: str) -> Episodes:
    raise AssertionError("the expert is not needed")


def recorded(env: EnvSpec, count: int = 10) -> Episodes:
    return rollout(env, RandomPolicy(env.action_space), env.seeds("demonstrations", count))


def read(env: EnvSpec, **options: Any) -> dict[str, Episodes]:
    source = MinariEpisodes(id=ID, **options)
    return {block: source.episodes(env, block, nobody) for block in ("demonstrations", "validation")}


def assert_equal(one: Episodes, other: Episodes) -> None:
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert one.extras.keys() == other.extras.keys()
    for name, array in one.extras.items():
        np.testing.assert_array_equal(array, other.extras[name], strict=True)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_what_is_written_is_read_back_bit_for_bit(make: Callable[[], EnvSpec]) -> None:
    env = make()
    episodes = recorded(env)
    episodes = replace(episodes, extras={**episodes.extras, "step/label": episodes.actions})
    write_dataset(episodes, env, ID, about={})
    found = read(env)
    assert (len(found["demonstrations"]), len(found["validation"])) == (9, 1)
    both = Episodes.concatenate(list(found.values()))
    assert_equal(both.select(np.argsort(both.seeds)), episodes)


def test_minari_reads_the_same_episodes() -> None:
    env = EnvSpec(id="Pendulum-v1", kwargs={"g": 9.0, "max_episode_steps": 20})
    episodes = recorded(env, 3)
    about = {"author": {"A"}, "description": "random", "ref_min_score": -1000.0, "ref_max_score": -150.0, "x": None}
    write_dataset(episodes, env, ID, about=about)
    dataset = minari.load_dataset(ID)
    assert dataset.spec.env_spec.kwargs == {"g": 9.0}
    assert dataset.spec.env_spec.max_episode_steps == 20
    assert dataset.observation_space == env.observations.space
    metadata = dataset.storage.metadata
    assert (metadata["author"], metadata["ref_max_score"], "x" in metadata) == ({"A"}, -150.0, False)
    assert minari.get_normalized_score(dataset, np.array([-150.0])) == 1.0
    for e, episode in enumerate(dataset):
        steps = slice(20 * e, 20 * (e + 1))
        np.testing.assert_array_equal(episode.observations, episodes.observations[21 * e : 21 * (e + 1)], strict=True)
        np.testing.assert_array_equal(episode.actions, episodes.actions[steps], strict=True)
        np.testing.assert_array_equal(episode.rewards, episodes.rewards[steps], strict=True)
        assert episode.truncations.tolist() == [False] * 19 + [True]
        assert not episode.terminations.any()
    seeds = [each["seed"] for each in dataset.storage.get_episode_metadata(range(3))]
    assert seeds == episodes.seeds.tolist()


def test_an_environment_with_wrappers_of_its_own_is_not_named() -> None:
    hide = {"hide": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [1]}}
    assert EnvSpec(id="CartPole-v1", wrappers=hide).registration is None
    assert EnvSpec(id="CartPole-v1").registration is not None
    assert echo().registration is None  # its arguments are not JSON


def test_validation_episodes_are_the_same_ones_every_time() -> None:
    env = countdown()
    write_dataset(recorded(env), env, ID, about={})
    for fraction, count in ((0.3, 3), (0.01, 1), (0.99, 9)):
        found, again = read(env, validation_fraction=fraction), read(env, validation_fraction=fraction)
        assert len(found["validation"]) == count
        assert not set(found["validation"].seeds) & set(found["demonstrations"].seeds)
        assert_equal(found["validation"], again["validation"])
        assert_equal(found["demonstrations"], again["demonstrations"])


def test_an_episode_needs_neither_a_seed_nor_an_end(two_episodes: Episodes) -> None:
    env = countdown()
    episodes = replace(two_episodes, actions=two_episodes.actions % 3, seeds=np.full(2, NO_SEED))
    folder = write_dataset(episodes, env, ID, about={})
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        assert "seed" not in file["episode_0"].attrs
        file["episode_0/truncations"][:] = False  # as in a recording that was cut
        file["episode_1/truncations"][-1] = True
    both = Episodes.concatenate(list(read(env).values()))
    assert both.seeds.tolist() == [NO_SEED, NO_SEED]
    both = both.select(np.argsort(-both.lengths))
    assert (both.terminated.tolist(), both.truncated.tolist()) == ([False, True], [True, False])


def test_a_data_set_is_identified_by_its_content() -> None:
    env, identities = countdown(), []
    for count, scores in ((4, {}), (4, {"author": {"A"}}), (5, {}), (4, {"ref_min_score": 0.0, "ref_max_score": 1.0})):
        write_dataset(recorded(env, count), env, ID, about=scores, overwrite=True)
        source = MinariEpisodes(id=ID)
        identities.append(source.identity())
        assert source.reference_scores() == ({"min": 0.0, "max": 1.0} if "ref_min_score" in scores else None)
    assert identities[0] == identities[1]
    assert identities[2] != identities[0] != identities[3]


@pytest.mark.parametrize("scores", [(None, 1.0), (1.0, 1.0), (0.0, float("nan")), ("0", 1.0)])
def test_reference_scores_that_mean_nothing_are_not_used(scores: tuple[Any, Any]) -> None:
    env = countdown()
    write_dataset(recorded(env, 2), env, ID, about=dict(zip(("ref_min_score", "ref_max_score"), scores, strict=True)))
    assert MinariEpisodes(id=ID).reference_scores() is None


def test_an_existing_data_set_is_only_replaced_if_asked(datasets: Path) -> None:
    env = countdown()
    write_dataset(recorded(env, 2), env, ID, about={})
    with pytest.raises(ConfigError, match=r"id must be a new data set, unless overwrite=true, but .*echo-v0 exists"):
        write_dataset(recorded(env, 3), env, ID, about={})
    write_dataset(recorded(env, 3), env, ID, about={}, overwrite=True)
    assert minari.load_dataset(ID).total_episodes == 3
    (datasets / "other-v0").mkdir()
    with pytest.raises(ConfigError, match="id must not be a folder of other things"):
        write_dataset(recorded(env, 3), env, "other-v0", about={}, overwrite=True)
    assert local_datasets() == [ID]


def test_other_spaces_are_refused_before_anything_is_read() -> None:
    env = EnvSpec(id="Pendulum-v1")
    write_dataset(recorded(env, 2), env, ID, about={})
    with pytest.raises(ConfigError, match=r"demos.id=toys/echo-v0 has observations in Box.* recorded in Pendulum-v1"):
        MinariEpisodes(id=ID).check(countdown())
    with pytest.raises(ConfigError, match=r"demos.id=toys/echo-v0 has actions in Box.*, but env.id=.* has Discrete"):
        MinariEpisodes(id=ID).check(echo(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)))
    MinariEpisodes(id=ID).check(env)
    write_dataset(recorded(env, 1), env, ID, about={}, overwrite=True)
    with pytest.raises(ConfigError, match=r"demos.id must have at least 2 episodes, .*, got toys/echo-v0 with 1"):
        MinariEpisodes(id=ID).check(env)


def test_the_keys_of_a_dict_are_flattened_in_the_order_of_the_environment() -> None:
    env = echo(NESTED, TENSOR)
    folder = write_dataset(recorded(env, 2), env, ID, about={})
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    inner = json.loads(metadata["observation_space"])
    inner["subspaces"] = dict(reversed(inner["subspaces"].items()))
    metadata["observation_space"] = json.dumps(inner)
    before = read(env)["demonstrations"]
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    assert_equal(read(env)["demonstrations"], before)
    check_fits(before, env, source="it")


def test_a_remote_data_set_is_downloaded_once(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, asked = countdown(), []

    def download(dataset_id: str) -> None:
        asked.append(dataset_id)
        write_dataset(recorded(env), env, dataset_id, about={})

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(ConfigError, match=r"demos.id must be a local data set where demos.download=false, got .*none"):
        MinariEpisodes(id=ID, download=False).identity()
    MinariEpisodes(id=ID).identity()
    assert len(read(env)["demonstrations"]) == 9
    assert asked == [ID]


def test_a_failed_download_names_the_key_and_the_local_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    env = countdown()
    write_dataset(recorded(env, 2), env, ID, about={})

    def download(dataset_id: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(minari, "download_dataset", download)
    said = r"demos.id=toys/ecko-v0 is not a local data set, and could not be downloaded: no network; .*toys/echo-v0"
    with pytest.raises(ConfigError, match=said):
        MinariEpisodes(id="toys/ecko-v0").check(env)
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: None)
    with pytest.raises(ConfigError, match=r"demos.id=toys/ecko-v0 was not downloaded"):
        MinariEpisodes(id="toys/ecko-v0").check(env)


@pytest.mark.parametrize(("id", "fraction"), [("../echo-v0", 0.1), ("/echo-v0", 0.1), ("echo", 0.1), (ID, 1.0)])
def test_wrong_arguments_are_refused_before_a_download(id: str, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"demos\.(id|validation_fraction) must be "):
        MinariEpisodes(id=id, validation_fraction=fraction)


ran: list[str] = []
HOSTILE = {
    "id": "Hostile-v0",
    "entry_point": "tests.data.test_minari:ran.append",
    "reward_threshold": None,
    "nondeterministic": False,
    "max_episode_steps": None,
    "disable_env_checker": True,
    "kwargs": {"object": "an environment was made"},
    "additional_wrappers": [{"name": "W", "entry_point": "tests.data.test_minari:ran.append", "kwargs": {}}],
    "vector_entry_point": None,
}


@pytest.mark.parametrize("missing", ["", "observation_space", "action_space"])
def test_reading_never_makes_the_environment_that_a_data_set_names(missing: str) -> None:
    env = countdown()
    folder = write_dataset(recorded(env), env, ID, about={})
    path = folder / "data" / "metadata.json"
    metadata = {**json.loads(path.read_text()), "env_spec": json.dumps(HOSTILE), "eval_env_spec": json.dumps(HOSTILE)}
    path.write_text(json.dumps({name: value for name, value in metadata.items() if name != missing}))
    if missing:  # Minari itself makes the environment to learn its spaces
        with pytest.raises(UnreadableFileError, match=f"metadata.json cannot be used: .* describe its {missing}"):
            read(env)
    else:
        assert len(read(env)["demonstrations"]) == 9
    assert ran == []


DAMAGE: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "pickle": (
        lambda file: _replace(file, "episode_3/observations", b"cos\nsystem\n(S'true'\ntR."),
        "could not convert",
    ),
    "short": (lambda file: _replace(file, "episode_3/actions", np.zeros(0, np.int64)), "must have . actions, but e"),
    "missing": (lambda file: file.pop("episode_3"), "episode_3"),
}


def _replace(file: h5py.File, name: str, data: Any) -> None:
    del file[name]
    file[name] = data


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_and_foreign_arrays_are_refused(kind: str) -> None:
    env = countdown()
    folder = write_dataset(recorded(env), env, ID, about={})
    change, message = DAMAGE[kind]
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        change(file)
    with pytest.raises(UnreadableFileError, match=f"main_data.hdf5 cannot be used: .*{message}"):
        read(env)


def test_other_formats_are_refused() -> None:
    env = countdown()
    path = write_dataset(recorded(env, 2), env, ID, about={}) / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_format": "arrow"}))
    with pytest.raises(UnreadableFileError, match="its data_format must be hdf5, got arrow"):
        MinariEpisodes(id=ID).identity()


def test_actions_of_a_box_keep_their_units() -> None:
    env = echo(VECTOR, TENSOR)
    episodes = recorded(env)
    write_dataset(episodes, env, ID, about={})
    assert minari.load_dataset(ID)[0].actions.shape[1:] == (2, 3)
    assert read(env)["demonstrations"].actions.max() > 5


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_a_data_set_without_an_environment_has_its_own_spaces(make: Callable[[], EnvSpec]) -> None:
    env = make()
    write_dataset(recorded(env), env, ID, about={})
    alone = env_of({"id": "none"}, {"_target_": "ilt.data.minari.MinariEpisodes", "id": ID, "filters": {}})
    assert alone.observations.dim == env.observations.dim
    assert alone.action_space == env.action_space
    for block, episodes in read(alone).items():
        assert_equal(episodes, read(env)[block])
