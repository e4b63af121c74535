"""Progress of long tasks: a bar with the remaining time in a terminal or notebook, log lines elsewhere."""

import logging
import sys
import time
from functools import cache
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)


class Progress:
    """A context manager that shows the progress reported by `update`.

    Args:
        title: name of the task.
        total: amount of work, in `unit`.
        unit: what is counted, in the plural, such as `episodes`.
        every: seconds between log lines if there is no bar.
    """

    def __init__(self, title: str, *, total: int, unit: str, every: float = 30.0) -> None:
        self._title, self._total, self._unit, self._every = title, total, unit, every
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        self._redirected: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if sys.stderr.isatty() or type(shell).__name__ == "ZMQInteractiveShell":  # rich also draws in a notebook
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=_console(),
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task(title, total=total, note="")

    @property
    def shown(self) -> bool:
        """Whether a bar is shown."""
        return self._bar is not None

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            before = {"stdout": sys.stdout, "stderr": sys.stderr}
            self._bar.start()
            for name, stream in before.items():  # otherwise log lines would break the bar
                if (above := getattr(sys, name)) is not stream:
                    self._redirect(stream, above)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            for handler, stream in self._redirected:
                handler.setStream(stream)

    def _redirect(self, stream: TextIO, above: TextIO) -> None:
        """Redirect log handlers from this stream to the one that prints above the bar."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(above)
                self._redirected.append((handler, stream))

    def update(self, done: int, note: str | None = None) -> None:
        """Set the amount of work done. A note, such as the latest return, is shown next to it or logged at once."""
        if note is not None:
            self._note = note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=self._note)
        elif note is not None or time.monotonic() - self._last_line >= self._every:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._started
            log.info("%s: %d of %d %s, %.0f s %s", self._title, done, self._total, self._unit, elapsed, self._note)


@cache
def _console() -> Console:
    """Return a shared console, so that the bars of nested tasks are drawn below each other."""
    return Console(stderr=True)
