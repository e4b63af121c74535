"""Schemas of the config group `dataset`."""

from ilt.schema import COUNT, Rule, component, key

AMOUNT = Rule(
    lambda v: COUNT.allows(v) or (isinstance(v, float) and 0 < v <= 1),
    "a number of episodes (an integer of at least 1) or a fraction of them (above 0.0, at most 1.0)",
)


@component("dataset")
class AnyDataset:
    """What every dataset of windows has."""

    episodes: int | float = key(
        1.0, "How many demonstrations are used: a number or a fraction; the first ones.", rule=AMOUNT
    )
    batch_size: int = key(256, "Windows in a batch.", ge=1)


@component("dataset", "windows", "ilt.data.windows.WindowDataset")
class Windows(AnyDataset):
    """Sequence windows over the demonstrations."""

    context_length: int = key(8, "K, the longest window in steps.", ge=1)
    stride: int = key(1, "Steps between the starts of neighboring windows, from 1 to K.", ge=1)


@component("demos.filters")
class Filters:
    """Which demonstrations are kept; the manifest counts what is dropped."""

    min_return: float | None = key(None, "Keep episodes with at least this return.")
    drop_truncated: bool = key(False, "Drop episodes that the time limit cut.")


@component("demos")
class AnyDemos:
    """What every data source has."""

    filters: dict[str, object] = key({}, "Which episodes are kept.")


@component("demos", "expert", "ilt.data.sources.ExpertEpisodes")
class ExpertEpisodes(AnyDemos):
    """Episodes of the expert, one for each of the first seeds of each block."""

    n_episodes: int = key(1000, "Run by the expert; filters may keep fewer.", ge=1)
    n_validation_episodes: int = key(100, "From the validation block; never trained on.", ge=1)


@component("demos", "file", "ilt.data.sources.EpisodesFile")
class EpisodesFile(AnyDemos):
    """Recorded episodes."""

    path: str = key("???", "The .npz of the demonstrations.", identity=False)
    validation_path: str = key("???", "The .npz of the validation episodes.", identity=False)
