"""The commands. Each is a Hydra app in its own module, which `ilt.cli.main` imports and runs."""

import os
import sys
import time

FIRST_JOB_STARTED = {os.getpid(): time.monotonic()}
"""Start time of this process's first job, before heavy imports (`time.monotonic()`, in seconds), by process id."""

for _stream in (sys.stdout, sys.stderr):
    if hasattr(_stream, "reconfigure"):  # print a substitute for characters that the terminal cannot encode
        _stream.reconfigure(errors="replace")
