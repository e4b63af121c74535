"""Commands. Each is a Hydra app in its own module, run by `ilt.cli.main`."""

import os
import sys
import time

FIRST_JOB_STARTED = {os.getpid(): time.monotonic()}
"""Start of the first job of this process by process id, before heavy imports."""

for _stream in (sys.stdout, sys.stderr):
    if hasattr(_stream, "reconfigure"):  # a terminal that cannot show a character shows another one
        _stream.reconfigure(errors="replace")
