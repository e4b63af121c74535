"""Schemas of the config groups `dataset` and `demos`."""

import re
from collections.abc import Mapping
from typing import Any

from ilt.rules import COUNT, MAPPING, TEXT, Rule
from ilt.schema import component, key

AMOUNT = Rule(
    lambda v: COUNT.allows(v) or (isinstance(v, float) and 0 < v <= 1),
    "a number of episodes (an integer of at least 1) or a fraction of them (above 0.0, at most 1.0)",
)

RETURNS_STATES_ACTIONS = "returns_states_actions"


MINARI_ID = Rule(
    lambda v: TEXT.allows(v) and re.fullmatch(r"([\w-]+/)*[\w-]+-v\d+", v, re.ASCII) is not None,
    "the id of a Minari data set, such as mujoco/hopper/expert-v0",
)


@component("dataset")
class AnyDataset:
    """Keys of every dataset of windows."""

    episodes: int | float = key(1.0, "How many demonstrations to use: a number or a fraction of all.", rule=AMOUNT)
    first_episode: int = key(0, "The first demonstration to use, counted from 0; the others follow it.", ge=0)
    mirror: bool = key(False, "Whether to train on the mirror image of each episode as well; see env.mirror.")
    batch_size: int = key(256, "Windows per batch.", ge=1)


@component("dataset", "windows", "ilt.data.windows.WindowDataset")
class Windows(AnyDataset):
    """Sequence windows over the demonstrations."""

    context_length: int = key(8, "K, the longest window in steps.", ge=1)
    stride: int = key(1, "Steps between the starts of neighboring windows, from 1 to K.", ge=1)
    tokens: str = key(
        "states_actions",
        "What students see at a step; `returns_states_actions` adds the return-to-go (Decision Transformer).",
        choices=("states_actions", RETURNS_STATES_ACTIONS),
    )


def is_return_conditioned(dataset: Mapping[str, Any]) -> bool:
    """Return whether the students of a config's `dataset` see returns-to-go."""
    return bool(dataset.get("tokens") == RETURNS_STATES_ACTIONS)


@component("demos.filters")
class Filters:
    """Which demonstrations to keep. The manifest counts the dropped ones."""

    min_return: float | None = key(None, "Keep episodes with at least this return.")
    drop_truncated: bool = key(False, "Drop truncated episodes.")
    top_fraction: float | None = key(
        None, "Keep this share of the other episodes, those with the highest returns (%BC).", gt=0, le=1
    )


@component("demos")
class AnyDemos:
    """Keys of every data source."""

    filters: dict[str, object] = key({}, "Which episodes to keep.")


@component("demos", "expert", "ilt.data.sources.ExpertEpisodes")
class ExpertEpisodes(AnyDemos):
    """The expert's episodes on the first seeds of the demonstrations and validation blocks."""

    n_episodes: int = key(1000, "Demonstrations to collect, before filters drop any.", ge=1)
    n_validation_episodes: int = key(100, "Validation episodes to collect; they are never trained on.", ge=1)


@component("demos", "mixed", "ilt.data.sources.MixedEpisodes")
class MixedEpisodes(AnyDemos):
    """Episodes of several experts, shuffled: data of mixed quality. They pass no gate."""

    parts: dict[str, object] = key(
        "???",
        "By name: `expert` (an option), its `settings`, `n_episodes` and `n_validation_episodes`.",
        rule=Rule(lambda v: MAPPING.allows(v) and len(v) > 0, "a mapping of parts by name"),
        identity=False,
    )


@component("demos.parts.NAME")
class Part:
    """The share of one expert in data of mixed quality."""

    expert: str = key("???", "An option of `expert`.")
    settings: dict[str, object] = key({}, "Other keys of that expert, such as total_steps.")
    n_episodes: int = key("???", "Demonstrations to collect.", ge=1)
    n_validation_episodes: int = key("???", "Validation episodes to collect.", ge=1)


_EPISODES = tuple(
    f"{name}.npy" for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds")
)


@component("demos", "file", "ilt.data.sources.EpisodesFile")
class EpisodesFile(AnyDemos):
    """Recorded episodes."""

    path: str = key("???", "The .npz file of the demonstrations.", identity=False, file=_EPISODES)
    validation_path: str = key("???", "The .npz file of the validation episodes.", identity=False, file=_EPISODES)


@component("demos", "minari", "ilt.data.minari.MinariEpisodes")
class MinariEpisodes(AnyDemos):
    """A Minari data set; needs the extra `minari`."""

    id: str = key("???", "The data set's id, such as mujoco/hopper/expert-v0.", rule=MINARI_ID, identity=False)
    validation_fraction: float = key(
        0.1, "Share of the episodes that are held out for validation and never trained on.", gt=0, lt=1
    )
    download: bool = key(True, "Download the data set if it is not a local one.", identity=False)
