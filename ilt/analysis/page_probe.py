"""What a probe of the example left in its folder, for the page."""

import base64
from dataclasses import dataclass
from pathlib import Path

from ilt.tracking.store import read_json

FIGURES = {
    "probe.png": (
        "What can be read off it",
        "How much of what the environment hides (R², 1 for all of it) a ridge regression reads off the model's "
        "activations, by steps since the start, on episodes that it was not fitted on. Shuffled: fitted to the values "
        "of other episodes.",
    ),
    "attention.png": (
        "What it looks at",
        "Attention of the present state's token over the window at three moments of one episode, by layer and head.",
    ),
}


@dataclass(frozen=True)
class ProbeFigure:
    """A figure inside the page: its title, the `data:` address, what it shows in words, and how to read it."""

    title: str
    address: str
    description: str
    reading: str


def probe_figures(run: Path) -> list[ProbeFigure]:
    """The figures that `ilt probe` left in a run's folder; none if there was no probe or its files are damaged.

    Attention is there for models that have it.
    """
    folder = run / "probe"
    try:
        words = dict(read_json(folder / "probe.json")["words"])
        return [
            ProbeFigure(title, _address(folder / name), str(words[name]), reading)
            for name, (title, reading) in FIGURES.items()
            if name in words
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
