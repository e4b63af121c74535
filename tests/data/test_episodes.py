"""Episodes and their file format."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilt.data.episodes import Episodes
from ilt.tracking.reading import UnreadableFileError

NAMES = ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds")


def labelled(episodes: Episodes) -> Episodes:
    """Return the same two episodes with one extra of each kind."""
    extras = {"step/label": np.arange(10).reshape(5, 2), "episode/gravity": np.array([-10.0, -8.0])}
    return replace(episodes, extras=extras)


def arrays_of(episodes: Episodes) -> dict[str, np.ndarray]:
    return {**{name: getattr(episodes, name) for name in NAMES}, **episodes.extras}


def assert_equal(a: Episodes, b: Episodes) -> None:
    ours, theirs = arrays_of(a), arrays_of(b)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.array_equal(array, theirs[name]), name
        assert array.dtype == theirs[name].dtype, name


@pytest.mark.parametrize("name", NAMES)
def test_each_array_has_its_dtype_and_length(two_episodes: Episodes, name: str) -> None:
    array = getattr(two_episodes, name)
    for wrong in (array.astype(np.float16), *([] if name == "lengths" else [array[1:]])):
        expected = f"Episodes.{name} must be {array.dtype} of length {len(array)}, got {wrong.dtype} of length"
        with pytest.raises(ValueError, match=rf"^{expected} {len(wrong)}$"):
            replace(two_episodes, **{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("observations", np.zeros(7, np.float32), r"observations must be \(sum\(T\+1\), obs_dim\), got \(7,\)"),
        ("actions", np.zeros((5, 2)), "actions must be float32 of length 5, got float64 of length 5"),
        ("lengths", np.array([3, 3]), "observations must be float32 of length 8, got float32 of length 7"),
        ("lengths", np.array([5, 0]), "lengths must be at least 1"),
        ("lengths", np.array([6, -1]), "lengths must be at least 1"),
        ("terminated", np.array([True, True]), "either terminated or truncated"),
        ("terminated", np.array([False, False]), "either terminated or truncated"),
        ("extras", {"step/label": np.zeros(4)}, r"extras\['step/label'\] must have length 5, got 4"),
        ("extras", {"episode/wind": np.zeros(5)}, r"extras\['episode/wind'\] must have length 2, got 5"),
    ],
)
def test_inconsistent_arrays_are_refused(two_episodes: Episodes, name: str, wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(two_episodes, **{name: wrong})


def test_continuous_actions_are_float32_and_other_extras_may_have_any_length(two_episodes: Episodes) -> None:
    episodes = replace(two_episodes, actions=np.zeros((5, 2), np.float32), extras={"note": np.zeros(99)})
    assert (episodes.actions.shape, len(episodes.extras["note"])) == ((5, 2), 99)


def test_offsets_returns_and_last_rewards(two_episodes: Episodes) -> None:
    assert len(two_episodes) == 2
    assert two_episodes.step_offsets.tolist() == [0, 3]
    assert two_episodes.observation_offsets.tolist() == [0, 4]
    assert two_episodes.returns.tolist() == [6.0, -90.0]
    assert two_episodes.last_rewards.tolist() == [3.0, -100.0]
    assert replace(two_episodes, lengths=np.array([1, 4])).returns.tolist() == [1.0, -85.0]


def test_an_empty_set_of_episodes_can_be_saved(two_episodes: Episodes, tmp_path: Path) -> None:
    none = two_episodes.first(0)
    assert len(none) == len(none.returns) == len(none.last_rewards) == 0
    none.save(tmp_path / "episodes.npz")
    assert_equal(Episodes.load(tmp_path / "episodes.npz"), none)


@pytest.mark.parametrize("keep", [np.array([False, True]), np.array([1])])
def test_one_episode_can_be_selected(two_episodes: Episodes, keep: np.ndarray) -> None:
    second = labelled(two_episodes).select(keep)
    assert second.observations.tolist() == [[10, 0], [11, -1], [12, -2]]
    assert second.actions.tolist() == [1, 2]
    assert second.rewards.tolist() == [10.0, -100.0]
    assert (second.lengths.tolist(), second.seeds.tolist()) == ([2], [8])
    assert (second.terminated.tolist(), second.truncated.tolist()) == ([True], [False])
    assert second.extras["step/label"].tolist() == [[6, 7], [8, 9]]
    assert second.extras["episode/gravity"].tolist() == [-8.0]


def test_indices_select_in_the_given_order_and_may_repeat(two_episodes: Episodes) -> None:
    chosen = labelled(two_episodes).select(np.array([1, 0, 1]))
    assert chosen.seeds.tolist() == [8, 7, 8]
    assert chosen.actions.tolist() == [1, 2, 0, 1, 2, 1, 2]
    assert chosen.returns.tolist() == [-90.0, 6.0, -90.0]
    assert chosen.extras["step/label"][:, 0].tolist() == [6, 8, 0, 2, 4, 6, 8]


def test_selecting_all_or_none_and_concatenating_the_parts(two_episodes: Episodes) -> None:
    episodes = labelled(two_episodes)
    assert_equal(episodes.select(np.array([True, True])), episodes)
    assert_equal(Episodes.concatenate([episodes.select(np.array([e])) for e in range(2)]), episodes)
    for none in (np.array([False, False]), np.zeros(0, np.int64)):
        assert_equal(two_episodes.select(none), two_episodes.first(0))


def test_an_extra_of_unknown_kind_cannot_be_selected(two_episodes: Episodes) -> None:
    noted = replace(two_episodes, extras={"note": np.zeros(2)})
    for selection in (lambda: noted.select(np.array([0])), lambda: noted.first(1)):
        with pytest.raises(ValueError, match=r"'note' is neither step/… nor episode/…"):
            selection()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_first_episodes_are_views_and_equal_a_selection(two_episodes: Episodes, count: int) -> None:
    episodes = labelled(two_episodes)
    first = episodes.first(count)
    assert_equal(first, episodes.select(np.arange(count)))
    if count:
        assert_equal(first, episodes.first_steps(int(first.lengths.sum())))
    for name, array in arrays_of(first).items():
        assert count == 0 or np.shares_memory(array, arrays_of(episodes)[name]), name


@pytest.mark.parametrize(("count", "lengths"), [(1, [1]), (2, [2]), (4, [3, 1])])
def test_an_episode_that_is_cut_short_counts_as_truncated(
    two_episodes: Episodes, count: int, lengths: list[int]
) -> None:
    whole = labelled(two_episodes)
    episodes = whole.first_steps(count)
    assert episodes.lengths.tolist() == lengths
    assert episodes.actions.tolist() == whole.actions[:count].tolist()
    assert episodes.extras["step/label"].tolist() == whole.extras["step/label"][:count].tolist()
    assert episodes.truncated.all()
    for first, length in zip(episodes.observation_offsets, lengths, strict=True):  # each last observation is kept
        assert episodes.observations[first : first + length + 1, 1].tolist() == [-t for t in range(length + 1)]


def test_saved_episodes_load_with_unknown_extras(two_episodes: Episodes, tmp_path: Path) -> None:
    episodes = replace(labelled(two_episodes), extras={**labelled(two_episodes).extras, "of/2031": np.array(["a"])})
    episodes.save(tmp_path / "first.npz")
    Episodes.load(tmp_path / "first.npz").save(tmp_path / "second.npz")
    assert_equal(Episodes.load(tmp_path / "second.npz"), episodes)


def test_the_file_follows_the_contract_and_contains_no_pickle(two_episodes: Episodes, tmp_path: Path) -> None:
    labelled(two_episodes).save(tmp_path / "episodes.npz")
    with np.load(tmp_path / "episodes.npz", allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    assert stored.keys() == {*NAMES, "step/label", "episode/gravity"}
    for name, array in arrays_of(labelled(two_episodes)).items():
        assert (stored[name].tolist(), stored[name].dtype) == (array.tolist(), array.dtype), name
    with pytest.raises(ValueError, match="Object arrays cannot be saved when allow_pickle=False"):
        replace(two_episodes, extras={"note": np.array([{}])}).save(tmp_path / "objects.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"note": np.array([{}])}, "a readable episode file: Object arrays"),
        ({"seeds": None}, r"an episode file: it lacks \['seeds'\]"),
        ({"seeds": np.zeros(2, np.float32)}, "an episode file: .*seeds must be int64"),
    ],
)
def test_a_file_with_other_arrays_is_refused(
    two_episodes: Episodes, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arrays = {**arrays_of(two_episodes), **changes}
    np.savez(tmp_path / "episodes.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"episodes\.npz is not {message}"):
        Episodes.load(tmp_path / "episodes.npz")


@pytest.mark.parametrize("what", ["nothing", "one array", "another reward", 0, 1, 100, 1000, -1])
def test_a_damaged_file_is_an_error_that_names_it(two_episodes: Episodes, tmp_path: Path, what: str | int) -> None:
    path = tmp_path / "episodes.npz"
    two_episodes.save(path)
    content = path.read_bytes()
    if what == "nothing":
        path.unlink()
    elif what == "one array":
        with path.open("wb") as file:
            np.save(file, two_episodes.seeds)
    elif what == "another reward":
        path.write_bytes(content.replace(np.array(-100.0).tobytes(), np.array(-101.0).tobytes()))
    else:
        path.write_bytes(content[:what])
    with pytest.raises(UnreadableFileError, match=r"episodes\.npz is not a readable episode file"):
        Episodes.load(path)


def test_a_file_that_declares_more_data_than_it_contains_is_refused(two_episodes: Episodes, tmp_path: Path) -> None:
    path = tmp_path / "episodes.npz"
    arrays = arrays_of(two_episodes)
    np.savez_compressed(path, **arrays)
    assert_equal(Episodes.load(path), two_episodes)  # compressed, as other programs may write it
    np.savez_compressed(path, **{**arrays, "note": np.zeros(10**7)})
    with pytest.raises(
        UnreadableFileError, match=r"episodes\.npz is not a readable episode file: it would unpack to 76 MB"
    ):
        Episodes.load(path)
    two_episodes.save(path)
    content = path.read_bytes()
    shape = str(two_episodes.rewards.shape).encode()
    with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(io.BytesIO(content)) as whole:
        for name in whole.namelist():
            data = whole.read(name)
            changed = data.replace(shape + b", }        ", b"(999999999,), }") if name == "rewards.npy" else data
            assert name != "rewards.npy" or changed != data
            archive.writestr(name, changed)
    with pytest.raises(ValueError, match=r"rewards\.npy has data that do not match its header"):
        Episodes.load(path)


def test_any_changed_byte_is_harmless_or_an_error_that_names_the_file(two_episodes: Episodes, tmp_path: Path) -> None:
    path, rng = tmp_path / "episodes.npz", np.random.default_rng(0)
    two_episodes.save(path)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for _ in range(500):
        changed = content.copy()
        changed[rng.integers(len(content), size=rng.integers(1, 4))] = rng.integers(256)
        path.write_bytes(changed.tobytes())
        try:
            Episodes.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_a_flipped_bit_of_the_index_is_harmless_or_an_error(two_episodes: Episodes, tmp_path: Path) -> None:
    path = tmp_path / "episodes.npz"
    two_episodes.save(path)
    content = path.read_bytes()
    errors = []
    for place in range(content.index(b"PK\x01\x02"), len(content)):  # from the start of the zip's index
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert_equal(Episodes.load(path), two_episodes)
        except ValueError as error:
            errors.append(str(error))
    assert errors
    assert all(str(path) in error for error in errors)
