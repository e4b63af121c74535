"""Commands. Each is a Hydra app in its own module, run by `ilt.cli.main`."""

import os
import time

FIRST_JOB_STARTED = {os.getpid(): time.monotonic()}
"""Start of the first job of this process by process id, before heavy imports."""
