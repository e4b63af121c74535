"""Removes the folder of the workers' sockets when the process from which they are forked ends.

The fork server imports this module first. It outlives its parent for a moment, also one that is killed, which cannot
remove the folder itself.
"""

import atexit
import os
import shutil
import time

FOLDER = "ILT_SOCKETS"
"""Environment variable with the folder's path."""


def _remove(folder: str) -> None:
    time.sleep(2.0)  # a parent that ends by itself removes it, and would complain if it were gone
    shutil.rmtree(folder, ignore_errors=True)


if folder := os.environ.pop(FOLDER, None):  # the processes started from here must not remove it
    atexit.register(_remove, folder)
