"""Config schemas: dataclasses that define which values each key accepts, and the identities derived from them.

A component that a config names by `_target_` has a dataclass in the `config.py` of its package, with a type, a default,
a range and a sentence for every key. Keys are defined nowhere else: the ConfigStore passes them to Hydra, `complete`
fills in missing keys, `check` validates configs, and `canonical` omits default values, so that a new key changes no
identity. Values stay as Hydra parsed them; OmegaConf's conversion would read `"8"` as 8 and 1 as true.

A component without a dataclass, such as one from your own package, is checked against its constructor's signature.
This module imports nothing heavy.
"""

import contextlib
import copy
import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ilt.rules import MAPPING, TEXT, Rule, rule_of


class PlainError(RuntimeError):
    """An error that its message explains. Commands print it on one line, without a traceback."""


class ConfigError(ValueError):
    """A config key has a value that is not allowed. Commands print it on one line, without a traceback."""


def printable(text: str) -> str:
    """Replace characters that could control a terminal with `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def key(
    default: Any,
    doc: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[Any] | None = None,
    length: int | None = None,
    rule: Rule | None = None,
    identity: bool = True,
    file: Sequence[str] = (),
) -> Any:
    """Declare a field of a schema. Its rule follows from its annotation and the arguments, unless `rule` is given.

    Args:
        default: the default value; "???" for a key that must be given.
        doc: the meaning of the key, in one sentence.
        ge, gt, le, lt: bounds of a number, or of each number in a list.
        choices: all allowed values.
        length: required length of a list.
        identity: whether the value is part of the component's identity.
        file: for the path of a zip file, the members that it must contain.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "length": length}
    metadata = {"doc": doc, "rule": rule, "identity": identity, "file": file, **bounds}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Component:
    """The schema of a component that a config names by a `_target_`, or of a part of a config without one.

    Attributes:
        group: its place in a config, such as `model`.
        name: its name in identities and in the ConfigStore, which stays the same when code moves. Empty for the keys
            that all components of the group share.
        schema: the dataclass of its keys.
        target: dotted path of the class or function to call; empty for a part of a config that is not a component.
        version: increased when the component's results change.
        open: whether other keys are passed on to the target.
        code: the key that names the code to call with the other keys, for a component that is as good as `_target_`.
        watches: whether it only observes training, so that it is not part of an identity.
        refused: parameters of the target that cannot be keys, with the reason and what to use instead.
    """

    group: str
    name: str
    schema: type
    target: str = ""
    version: int = 1
    open: bool = False
    code: str = ""
    watches: bool = False
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fields(self) -> "dict[str, dataclasses.Field[Any]]":
        """The fields that are keys of a config."""
        return {f.name: f for f in dataclasses.fields(self.schema) if "doc" in f.metadata}

    @functools.cached_property
    def rules(self) -> dict[str, Rule]:
        """The rule of each key."""
        hints = typing.get_type_hints(self.schema)
        return {name: f.metadata["rule"] or rule_of(hints[name], f.metadata) for name, f in self.fields.items()}

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """Every key with its default, and the target."""
        values: dict[str, Any] = {"_target_": self.target} if self.target else {}
        for name, f in self.fields.items():
            inner = common_keys(f"{self.group}.{name}")
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            values[name] = default if inner is None else inner.defaults
        return values


COMPONENTS: list[Component] = []
"""All registered components; `ilt.registry` imports every schema."""


def component(group: str, name: str = "", target: str = "", **options: Any) -> Callable[[type], type]:
    """Register a dataclass of keys as the schema of a component. See `Component`."""

    def register(schema: type) -> type:
        made = schema if "__dataclass_fields__" in vars(schema) else dataclass(kw_only=True)(schema)
        COMPONENTS.append(Component(group, name, made, target, **options))
        return made

    return register


def components(group: str) -> list[Component]:
    """Return the components of a group."""
    importlib.import_module("ilt.registry")
    return [c for c in COMPONENTS if c.group == group and c.name]


def named(group: str, name: str) -> Component:
    """Return the component of a group that has this name."""
    return next(c for c in components(group) if c.name == name)


def common_keys(group: str) -> Component | None:
    """Return the schema of the keys that all components of a group share, or of a part of a config."""
    return next((c for c in COMPONENTS if c.group == group and not c.name), None)


def schema_of(group: str, values: Any, *, prefix: str = "") -> Component | None:
    """Return the schema of a group's values; None for another package's component in a group without common keys.

    `_target_` may be omitted if the group has one component. Otherwise raise ConfigError if it is missing.
    """
    prefix, known = prefix or group, [c for c in components(group) if c.target]
    if not isinstance(values, DictConfig | Mapping):
        raise ConfigError(f"{prefix} must be a mapping, got {values!r}")
    target = values.get("_target_")
    if target is None and (len(known) == 1 or not known):
        return known[0] if known else common_keys(group)
    if not TEXT.allows(target):
        raise ConfigError(
            f"{prefix}._target_ must be the dotted path of something that can be imported, got {target!r}"
        )
    exact, common = next((c for c in known if c.target == target), None), common_keys(group)
    return exact or (dataclasses.replace(common, open=True) if common else None)


def complete(found: Component | None, values: Any) -> None:
    """Fill in missing keys with their defaults, in place."""
    if found is None:
        return
    with open_dict(values) if isinstance(values, DictConfig) else contextlib.nullcontext():
        for name, default in found.defaults.items():
            if name not in list(values):  # `in` of a DictConfig is False for "???"
                values[name] = copy.deepcopy(default)
            elif (inner := common_keys(f"{found.group}.{name}")) and MAPPING.allows(values[name]):
                complete(inner, values[name])


def check(found: Component | None, values: Any, *, prefix: str) -> None:
    """Raise ConfigError, with the key, its value and what is allowed, unless the values fit their schema."""
    if found is None:
        return
    dot = f"{prefix}." if prefix else ""
    for name in values:
        if name in found.refused:
            raise ConfigError(f"{dot}{name} cannot be set: {found.refused[name]}")
        if not found.open and name not in found.rules and name != "_target_":
            raise ConfigError(f"{dot}{name} is not a key{did_you_mean(str(name), found.rules, dot)}")
    for name, rule in found.rules.items():
        if OmegaConf.is_missing(values, name) if isinstance(values, DictConfig) else values.get(name) == "???":
            raise ConfigError(f"{dot}{name} must be given; it must be {rule.wanted}")
        if name not in values:
            continue
        if not rule.allows(value := values[name]):
            raise ConfigError(f"{dot}{name} must be {rule.wanted}, got {value!r}")
        check(common_keys(f"{found.group}.{name}"), value, prefix=f"{dot}{name}")


def did_you_mean(word: str, known: Iterable[str], dot: str = "") -> str:
    """Return a clause that suggests the closest known name, if one is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {dot}{close[0]}?" if close else ""


def locate(target: str, *, key: str, trust: Sequence[str] | None = None) -> Any:
    """Import the object at a dotted path. Raise ConfigError if it does not exist or is not trusted.

    Args:
        target: the path, which may have a colon after the module, as in `package.module:name`.
        key: the config key that contains the path, for error messages.
        trust: packages besides ilt's components whose code may be run; None for all, if the config is the caller's own.
    """
    target = target.replace(":", ".")
    if trust is not None and (package := target.split(".")[0]) not in trust:
        importlib.import_module("ilt.registry")
        if target not in {c.target for c in COMPONENTS}:  # other functions of ilt and its imports could do anything
            raise ConfigError(
                f"{key}={target} is not a component of ilt; other code is not run for somebody else's files unless you "
                f"trust its package: trust=[{package}]"
            )
    parts = target.split(".")
    for n in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:n])
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
                continue
            raise ConfigError(f"{key}={target} cannot be imported: {error}") from error
        try:
            return functools.reduce(getattr, parts[n:], found)
        except AttributeError as error:
            raise ConfigError(f"{key}={target} does not exist: {error}") from error
    raise ConfigError(f"{key} must be the dotted path of something that can be imported, got {target}")


def code_of(found: Component | None, values: Any) -> tuple[str, str]:
    """Return the key of a component's values that names the code to call, and the code's dotted path."""
    name = found.code if found and found.code else "_target_"
    return name, str(values.get(name) or (found.target if found else "")).replace(":", ".")


def own_keys(group: str, values: Any) -> dict[str, Any]:
    """Return a component's keyword arguments: all keys but `_target_` and those that its group shares."""
    shared = common.fields if (common := common_keys(group)) else {}
    return {str(k): plain(v) for k, v in values.items() if k != "_target_" and k not in shared}


def build(
    group: str,
    values: Any,
    *,
    known: Mapping[str, Any],
    trust: Sequence[str] | None = None,
    prefix: str | None = None,
) -> Any:
    """Call a group's `_target_` with its own keys, and with arguments that only the run knows.

    Raise ConfigError, naming the key, if the target does not accept a key or lacks a required one.

    Args:
        known: arguments that only the run knows; the target gets those that it accepts.
        prefix: key of the values in the config, if not `group`.
    """
    prefix = prefix or group
    target = locate(values["_target_"], key=f"{prefix}._target_", trust=trust)
    arguments = accepted(target, own_keys(group, values), known, prefix=prefix)
    try:
        return target(**arguments)
    except ConfigError:
        raise
    except Exception as error:  # libraries raise different errors for arguments that they reject
        raise ConfigError(f"{prefix}._target_={path_of(target)} cannot be made: {error}") from error


def accepted(target: Any, options: Mapping[str, Any], known: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
    """Return the keyword arguments for a call: all options, and those of `known` that it accepts. See `build`."""
    parameters, anything = _parameters(target)
    for name in options:
        if name not in parameters and not anything:
            common = common_keys(prefix)
            hint = did_you_mean(name, [*parameters, *(common.fields if common else ())], f"{prefix}.")
            raise ConfigError(f"{prefix}.{name} is not a key of {path_of(target)}{hint}")
    given = {**{k: v for k, v in known.items() if k in parameters or anything}, **options}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in _NAMED and parameter.default is parameter.empty and name not in given:
            raise ConfigError(f"{prefix}.{name} must be given: {path_of(target)} requires it")
    return given


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(target: Any) -> tuple[set[str], bool]:
    """Return the parameter names of a call, including those passed on to base classes, and whether it takes others."""
    classes = target.__mro__[:-1] if isinstance(target, type) else ()
    own = {
        "ilt",
        str(target.__module__).partition(".")[0],
    }  # what is passed to other packages' base classes, such as gym.Wrapper, is unknown
    owners = [c for c in classes if "__init__" in vars(c) and c.__module__.partition(".")[0] in own]
    names: set[str] = set()
    for call in [vars(owner)["__init__"] for owner in owners] or [target]:
        found = inspect.signature(call).parameters.values()
        before, names = names, names | {p.name for p in found if p.kind in _NAMED}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            return names - {"self"}, names == before != set()  # the base takes no more, so **kwargs are the class's own
    return names - {"self"}, True


def path_of(target: Any) -> str:
    """Return the dotted path of a class or function."""
    return f"{target.__module__}.{target.__qualname__}" if hasattr(target, "__qualname__") else str(target)


def canonical(group: str, values: Any, *, prefix: str = "") -> dict[str, Any]:
    """Return the canonical form of a config group, which stays the same when code moves or keys are added.

    It contains the component's registered name and version, and the values that differ from its defaults. For a
    component without a schema, it contains the code's path, its `version` (by default 1, or for a function the hash of
    its source), and the values that differ from its defaults.

    Args:
        prefix: key of the values in the config, if not `group`.
    """
    found = schema_of(group, values, prefix=prefix)
    name, target = code_of(found, values)
    if found is not None and found.target == target:
        return {"component": found.name, "version": found.version, **_differing(found, values, {})}
    code = locate(target, key=f"{prefix or group}.{name}")
    if not callable(code):
        raise ConfigError(f"{prefix or group}.{name}={target} must be a function or class, got {type(code).__name__}")
    parameters = inspect.signature(code).parameters.values()
    defaults = {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters}
    version = getattr(code, "version", _source_hash(code) if inspect.isfunction(code) else 1)
    return {"component": target, "version": version, **_differing(found, values, defaults)}


def _source_hash(function: Any) -> str | int:
    """Return a hash of a function's source, or 1 if the source is not available."""
    try:
        return config_hash(inspect.getsource(function))
    except OSError:
        return 1


def _differing(found: Component | None, values: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are part of an identity and differ from their schema's defaults and from `defaults`."""
    kept: dict[str, Any] = {}
    known = {**defaults, **(found.defaults if found else {})}
    names_code = {"_target_", code_of(found, values)[0]}
    for name, value in plain(values).items():
        inner = common_keys(f"{found.group}.{name}") if found else None
        if inner is not None:
            value, known[name] = _differing(inner, value, {}), {}
        ignored = name in names_code or (found and name in found.fields and not found.fields[name].metadata["identity"])
        if not ignored and (name not in known or value != known[name]):
            kept[str(name)] = value
    return kept


def config_hash(config: Any) -> str:
    """Return ten hexadecimal digits of the SHA-256 of a plain container's canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plain(value: Any) -> Any:
    """Convert a config value to plain containers, with interpolations resolved."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values of a nested mapping; an empty mapping counts as a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
