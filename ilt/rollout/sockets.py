"""Removes the folder of the workers' sockets when the process from which they are forked ends.

The fork server imports this module first. It outlives its parent for a moment, also one that is killed, which cannot
remove the folder itself.
"""

import atexit
import os
import shutil

FOLDER = "ILT_SOCKETS"
"""Environment variable with the folder's path."""

if folder := os.environ.get(FOLDER):
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
