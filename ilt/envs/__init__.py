"""Environments: what a config says about one, and many of them stepped in one process."""

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec

__all__ = ["EnvBatch", "EnvSpec"]
