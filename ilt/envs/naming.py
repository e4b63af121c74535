"""Short names of environments for tables and figures. This module imports nothing heavy."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def env_names(envs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name for each `env` config; two names are equal only if the environments are the same.

    The name is the id. If several environments share it, keyword arguments and wrapper names are added, and wrapper
    arguments if necessary.
    """
    described = []
    for env in envs:
        kwargs, wrappers = sorted((env.get("kwargs") or {}).items()), env.get("wrappers") or {}
        name = str(env["id"]).rpartition(":")[2]
        added = [f"{key}={value}" for key, value in kwargs] + [f"+{wrapper}" for wrapper in wrappers]
        described.append((name, " ".join([name, *added]), json.dumps([env["id"], kwargs, list(wrappers.items())])))
    owners: dict[tuple[int, str], set[str]] = {}
    for names in described:
        for named in enumerate(names):
            owners.setdefault(named, set()).add(names[-1])
    return [next(named[1] for named in enumerate(names) if len(owners[named]) == 1) for names in described]
