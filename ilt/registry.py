"""All schemas, and the options of `conf/` read without Hydra, for Python callers."""

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.resources import files
from typing import Any

import yaml

from ilt.schema import COMPONENTS, Component, ConfigError

ROOMS = ("envs", "data", "models", "experts", "imitation", "training", "evaluation", "studies", "tracking", "cli")

for _schemas in ("envs.spec", *(f"{room}.config" for room in ROOMS)):
    import_module(f"ilt.{_schemas}")


def stored_as(found: Component) -> str:
    """The option under which the ConfigStore knows a component: its name, unless a file of `conf/` has it."""
    return f"{found.name}_keys" if _file(found.group, found.name).is_file() else found.name or "default"


def store_schemas(store: Callable[..., None]) -> None:
    """Hand every schema's keys and defaults to Hydra.

    Args:
        store: `ConfigStore.store`.
    """
    for found in COMPONENTS:
        if found.group == "command":
            store(name=f"{found.name}_keys", node=found.defaults)
        elif found in _options(found.group):
            store(group=found.group, name=stored_as(found), node=found.defaults)


def load_option(group: str, name: str) -> dict[str, Any]:
    """An option of a group, such as `model` and `tiny`, with all its keys, as plain containers.

    What its defaults list names within the group is read first, as Hydra does. ConfigError if there is no such option.
    """
    path = _file(group, name)
    if not path.is_file():
        for found in _options(group):
            if stored_as(found) == name:
                return copy.deepcopy(found.defaults)
        raise ConfigError(f"{group} must be one of {options_of(group)}, got {name}")
    values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    merged: dict[str, Any] = {}
    for entry in values.pop("defaults", []):
        option, _, package = entry.partition("@")
        inherited = load_option(group, option)
        merged = merge(merged, {package: inherited} if package else inherited)
    return merge(merged, values)


def options_of(group: str) -> list[str]:
    """The options of a group that come with the package."""
    folder = files("ilt.conf").joinpath(group)
    found = [path.name.removesuffix(".yaml") for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({*found, *map(stored_as, _options(group))})


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second one's values over the first one's."""
    merged = dict(first)
    for name, value in second.items():
        inner = merged.get(name)
        merged[name] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _options(group: str) -> list[Component]:
    """The components of a group, or the one schema of a part of a config."""
    found = [c for c in COMPONENTS if c.group == group and "." not in group]
    return [c for c in found if c.target] or found


def _file(group: str, name: str) -> Any:
    return files("ilt.conf").joinpath(group, f"{name}.yaml")
