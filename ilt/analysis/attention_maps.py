"""Attention weights of a student at selected steps of one of its episodes."""

from collections.abc import Mapping, Sequence

import numpy as np

from ilt.data.episodes import Episodes
from ilt.data.windows import windows_at
from ilt.models.decoder import Decoder
from ilt.models.inspection import attention_of


def middle_episode(episodes: Episodes) -> int:
    """Return the index of the episode with the median return, or the upper median."""
    return int(np.argsort(episodes.returns, kind="stable")[len(episodes) // 2])


def attention_maps(model: Decoder, episodes: Episodes, episode: int, *, context_length: int) -> dict[str, np.ndarray]:
    """Return the current state token's attention at three steps: first full window, half-way, last action.

    Args:
        episode: index of the episode.
        context_length: steps of context that the student had.

    Returns:
        (n_layer, n_head, T) float32, by title; T is the number of tokens in the window.
    """
    one, length = episodes.select(np.array([episode])), int(episodes.lengths[episode])
    moments = {"first full window": context_length - 1, "half-way": length // 2, "last action": length - 1}
    maps: dict[str, np.ndarray] = {}
    for title, step in moments.items():
        if step < length:  # the episode may be shorter than a window
            _, observations, actions = windows_at(
                one,
                step,
                action_space=model.action_space,
                context_length=context_length,
                target_return=None if model.target_return is None else float(model.target_return),
            )
            maps[f"{title} (step {step})"] = attention_of(model, observations, actions)[:, 0].numpy()
    return maps


def attention_rows(maps: Mapping[str, np.ndarray], *, tokens_per_step: int) -> list[dict[str, str | float]]:
    """Return one row per map, layer, head and token of the window."""
    return [
        {
            "moment": moment,
            "layer": layer + 1,
            "head": head + 1,
            "steps_back": (weights.shape[2] - 1 - token) / tokens_per_step,
            "weight": float(weights[layer, head, token]),
        }
        for moment, weights in maps.items()
        for layer, head, token in np.ndindex(*weights.shape)
    ]


def maps_of_rows(rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, np.ndarray], int]:
    """Return the maps and `tokens_per_step` that `attention_rows` wrote. Raise ValueError if rows are missing."""
    moments: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        moments.setdefault(row["moment"], []).append(row)
    maps = {
        moment: np.array([float(row["weight"]) for row in its_rows]).reshape(
            int(its_rows[-1]["layer"]), int(its_rows[-1]["head"]), -1
        )
        for moment, its_rows in moments.items()
    }
    apart = min((back for row in rows if (back := float(row["steps_back"])) > 0), default=1.0)  # neighboring tokens
    return maps, max(round(1 / apart), 1)


def maps_in_words(maps: Mapping[str, np.ndarray], *, tokens_per_step: int) -> str:
    """Describe each step and layer: the mean attention distance, and the weight on the current state."""
    sentences = []
    for title, weights in maps.items():
        n_tokens = weights.shape[2]
        steps_back = np.arange(n_tokens)[::-1] / tokens_per_step
        layers = (
            f"layer {layer + 1} looks back {(heads @ steps_back).mean():.1f} steps on average, "
            f"with {100 * heads[:, -1].mean():.0f} % of its weight on the present state"
            for layer, heads in enumerate(weights)
        )
        sentences.append(f"{title[0].upper()}{title[1:]}: {'; '.join(layers)}.")
    return " ".join(sentences)
