"""Progress where there is no terminal."""

import logging

import pytest

from ilt.progress import Progress


def test_without_a_terminal_notes_are_logged_as_plain_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("expert", total=10, unit="steps") as progress:
        progress.update(3)
        progress.update(5, note="return 1.5")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("expert: 5 of 10 steps")
    assert caplog.messages[0].endswith("return 1.5")


def test_without_notes_a_line_comes_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("demonstrations", total=3, unit="episodes", every=0.0) as progress:
        for done in range(1, 4):
            progress.update(done)
    assert len(caplog.messages) == 3
