"""Environments: what a config says about one, and many of them stepped in one process."""

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import BLOCKS, EnvSpec

__all__ = ["BLOCKS", "EnvBatch", "EnvSpec"]
