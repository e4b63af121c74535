"""Commands. Each is a Hydra app with a module of its own, found by `ilt.cli.main`."""

import os
import time

FIRST_JOB_STARTED = {os.getpid(): time.monotonic()}
"""When the first job of this process started, by process id: before anything heavy is imported."""
