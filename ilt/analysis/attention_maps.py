"""What a student looks at: its attention at chosen moments of one of its episodes."""

from collections.abc import Mapping

import numpy as np

from ilt.data.episodes import Episodes
from ilt.data.windows import windows_at
from ilt.models.decoder import Decoder
from ilt.models.inspection import attention_of


def middle_episode(episodes: Episodes) -> int:
    """The episode of the median return: neither the best nor the worst one."""
    return int(np.argsort(episodes.returns, kind="stable")[len(episodes) // 2])


def attention_maps(model: Decoder, episodes: Episodes, episode: int, *, context_length: int) -> dict[str, np.ndarray]:
    """Attention weights of the present state's token when the window is first full, half-way, and at the last action.

    Args:
        episode: whose moments these are.
        context_length: how many steps the student looked back on.

    Returns:
        (n_layer, n_head, T) float32 over the tokens of the window, by the moment's title.
    """
    one, length = episodes.select(np.array([episode])), int(episodes.lengths[episode])
    moments = {"first full window": context_length - 1, "half-way": length // 2, "last action": length - 1}
    maps: dict[str, np.ndarray] = {}
    for title, step in moments.items():
        if step < length:  # an episode may be shorter than a window
            _, observations, actions = windows_at(
                one, step, action_space=model.action_space, context_length=context_length
            )
            maps[f"{title} (step {step})"] = attention_of(model, observations, actions)[:, 0].numpy()
    return maps


def maps_in_words(maps: Mapping[str, np.ndarray], *, tokens_per_step: int) -> str:
    """For each moment and layer, how far back it looks on average, and how much of it on the present state."""
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
