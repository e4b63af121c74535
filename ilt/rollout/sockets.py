"""Remove the folder of the workers' sockets when the fork server ends.

The fork server imports this module first. It briefly outlives its parent, even a parent that was killed and therefore
could not remove the folder.
"""

import atexit
import os
import shutil
import time

FOLDER = "ILT_SOCKETS"
"""Environment variable that contains the folder's path."""


def _remove(folder: str) -> None:
    time.sleep(2.0)  # a parent that exits normally removes the folder, and would complain if it were gone
    shutil.rmtree(folder, ignore_errors=True)


if folder := os.environ.pop(FOLDER, None):  # child processes must not remove it
    atexit.register(_remove, folder)
