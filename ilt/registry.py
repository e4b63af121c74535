"""All groups, parts and schemas of a config, and a reader of `conf/` without Hydra for the Python API."""

import copy
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.resources import files
from typing import Any

import yaml
from omegaconf import DictConfig

from ilt.schema import COMPONENTS, Component, ConfigError, schema_of

ROOMS = ("envs", "data", "models", "experts", "imitation", "training", "evaluation", "studies", "tracking", "cli")

GROUPS = ("env", "expert", "demos", "dataset", "head", "imitation", "model", "optimizer", "trainer")
"""Groups of a config that name one component each."""

PARTS = ("logger", "evaluation", "search", "study", "callbacks")
"""Other groups and parts of a config, which are not a single component."""

for _schemas in ("envs.spec", *(f"{room}.config" for room in ROOMS)):
    import_module(f"ilt.{_schemas}")


def stored_as(found: Component) -> str:
    """Return a component's option in the ConfigStore: its name, or NAME_keys if `conf/` has a file of that name.

    A part of a config has one option: `default`, or GROUP_keys if `conf/` has options that need them.
    """
    if not found.name:
        return f"{found.group}_keys" if files("ilt.conf").joinpath(found.group).is_dir() else "default"
    return f"{found.name}_keys" if _file(found.group, found.name).is_file() else found.name


def store_schemas(store: Callable[..., None]) -> None:
    """Pass every schema's keys and defaults to Hydra.

    Args:
        store: `ConfigStore.store`.
    """
    for found in COMPONENTS:
        if found.group == "command":
            store(name=f"{found.name}_keys", node=found.defaults)
        elif found in _options(found.group):
            store(group=found.group, name=stored_as(found), node=found.defaults)


def load_option(group: str, name: str) -> dict[str, Any]:
    """Load an option of a group, such as `tiny` of `model`, with all its keys, as plain containers.

    Options of the same group in its defaults list are read first, as in Hydra. Options of other groups, which an
    experiment chooses, are skipped. Raise ConfigError if there is no such option.
    """
    path = _file(group, name)
    if not path.is_file():
        for found in _options(group):
            if stored_as(found) == name:
                return copy.deepcopy(found.defaults)
        raise ConfigError(f"{group} must be one of {options_of(group)}, got {name}")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for entry in values.pop("defaults", []):
        if isinstance(entry, Mapping):
            continue
        option, _, package = entry.partition("@")
        inherited = load_option(group, option)
        merged = merge(merged, {package: inherited} if package else inherited)
    return merge(merged, values)


def choices_of(experiment: str) -> dict[str, str]:
    """Return the options of other groups that an experiment chooses, by group."""
    defaults = yaml.safe_load(_file("experiment", experiment).read_text(encoding="utf-8")).get("defaults", [])
    chosen = {key: option for entry in defaults if isinstance(entry, Mapping) for key, option in entry.items()}
    return {key.removeprefix("override /"): option for key, option in chosen.items()}


def options_of(group: str) -> list[str]:
    """Return the names of a group's options that come with the package."""
    folder = files("ilt.conf").joinpath(group)
    found = [path.name.removesuffix(".yaml") for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({*found, *map(stored_as, _options(group))})


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of the second override values of the first."""
    merged = dict(first)
    for name, value in second.items():
        inner = merged.get(name)
        merged[name] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def parts_of(cfg: DictConfig) -> Iterator[tuple[str, Component | None, Any]]:
    """Yield the key, schema and values of every part of a config that has its own schema."""
    for group in (*GROUPS, *PARTS):
        several = {"callbacks": "callbacks", "env": "env.wrappers"}.get(group)
        if group in cfg and group != "callbacks" and (group in GROUPS or cfg[group]):
            yield group, schema_of(group, cfg[group]), cfg[group]
        if group in cfg and several:
            for name, values in (cfg[group] if group == "callbacks" else cfg.env.get("wrappers") or {}).items():
                if values is not None:
                    yield f"{several}.{name}", schema_of(several, values, prefix=f"{several}.{name}"), values


def _options(group: str) -> list[Component]:
    """Return the components of a group, or the one schema of a part of a config."""
    found = [c for c in COMPONENTS if c.group == group and "." not in group]
    return [c for c in found if c.target] or found


def _file(group: str, name: str) -> Any:
    return files("ilt.conf").joinpath(group, f"{name}.yaml")
