import logging
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from ilt.tracking.progress import Progress


def test_without_a_terminal_notes_and_occasional_updates_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("expert", total=10, unit="steps") as progress:
        progress.update(3)
        progress.update(5, note="return 1.5")
    (line,) = caplog.messages
    assert line.startswith("expert: 5 of 10 steps")
    assert line.endswith("return 1.5")
    with caplog.at_level(logging.INFO), Progress("demonstrations", total=3, unit="episodes", every=0.0) as progress:
        for done in range(1, 4):
            progress.update(done)
    assert len(caplog.messages) == 1 + 3


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Progress("demonstrations", total=3, unit="episodes").shown
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert Progress("demonstrations", total=3, unit="episodes").shown


LINES_BESIDE_BARS = """
import logging, sys
from ilt.tracking.progress import Progress
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
with Progress("training", total=2, unit="steps") as outer:
    for step in (1, 2):
        with Progress("round", total=3, unit="episodes") as inner:
            inner.update(3)
            logging.info("round %d was collected", step)
        outer.update(step, note=f"return {step}")
        logging.info("step %d was taken", step)
print("done")
"""
LOGGED = ["round 1 was collected", "step 1 was taken", "round 2 was collected", "step 2 was taken"]


def test_on_a_terminal_bars_and_log_lines_do_not_share_a_line() -> None:
    reads, writes = pty.openpty()
    command = [sys.executable, "-c", LINES_BESIDE_BARS]
    process = subprocess.Popen(command, stdout=writes, stderr=writes, env={**os.environ, "TERM": "xterm"})
    os.close(writes)
    shown = b""
    with suppress(OSError):  # raised once nobody writes to the terminal
        while True:
            shown += os.read(reads, 4096)
    os.close(reads)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line.split("\r")[-1].rstrip() for line in text.split("\r\n")]
    assert [line for line in lines if "was" in line] == LOGGED
    assert any(line.startswith("round") and "3/3 episodes" in line for line in lines)
    (last,) = {line for line in lines if "2/2 steps" in line}
    assert last.startswith("training")
    assert last.endswith("return 2")
    assert not any("training" in line and "round" in line for line in lines)


@pytest.mark.parametrize(("stream", "written"), [("stdout", [*LOGGED, "done"]), ("stderr", [])])
def test_output_to_a_file_has_no_bar(stream: str, written: list[str], tmp_path: Path) -> None:
    reads, writes = pty.openpty()
    with (tmp_path / "file").open("w") as file:
        streams = {"stdout": writes, "stderr": writes, stream: file}
        subprocess.run([sys.executable, "-c", LINES_BESIDE_BARS], check=True, **streams)
    os.close(writes)
    os.close(reads)
    assert (tmp_path / "file").read_text().splitlines() == written
