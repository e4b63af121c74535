"""The decorator that turns each command into a Hydra app with one-line user errors. Imports nothing heavy."""

import argparse
import contextlib
import difflib
import functools
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from hydra_plugins.ilt_ray.launcher import RayLauncher
from hydra_plugins.ilt_search.sweeper import SearchSweeper
from hydra_plugins.ilt_study.sweeper import StudySweeper
from ilt.registry import GROUPS, PARTS, options_of, store_schemas
from ilt.schema import COMPONENTS, ConfigError, PlainError, common_keys, printable

store_schemas(ConfigStore.instance().store)
# Hydra copies the store once per listed group but only reads the copy; this took three quarters of --help's time
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
for _plugin in (RayLauncher, SearchSweeper, StudySweeper):
    Plugins.instance().register(_plugin)  # Hydra does not find the plugins of an editable installation

_CONFIGS, _VERSION_BASE = "ilt.conf", "1.3"
_SCHEMA = r"\w+_keys\b"
_ADVICE = ("To append to", "See https://", "Config search path", "provider=", "full_key:", "object_type=")
_MOST_LISTED = 8  # keys in an error
_command_line = sys.argv
argparse.ArgumentParser.print_usage = lambda *_: None  # type: ignore[method-assign]  # keep errors to one line


def app(name: str) -> Callable[[Callable[[DictConfig], Any]], Any]:
    """Turn a function of a config into the Hydra app `ilt NAME`, whose config is `conf/NAME.yaml`.

    Without a config, the decorated function reads the command line. With a config, it runs the job. Launchers pickle
    it by name.

    User errors in the config or on the command line are one line on stderr, with exit code 1. Unexpected errors show a
    traceback, as do user errors if `HYDRA_FULL_ERROR=1`. In a multirun, a failed job does not stop the others.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Any:
        @functools.wraps(task)
        def main(cfg: DictConfig | None = None) -> Any:
            if cfg is None:
                return _run(name, main)
            if not HydraConfig.initialized():
                return task(cfg)
            if HydraConfig.get().mode != RunMode.RUN:
                check_overrides(cfg, as_typed(HydraConfig.get().overrides.task))
                return task(cfg)
            sys.argv = _command_line  # Lightning starts the other ranks with it
            with exit_on_mistakes():  # if the error were raised, Hydra would also print the overrides
                return task(cfg)

        return main

    return decorate


def as_typed(overrides: Iterable[str]) -> list[str]:
    """Return overrides that a config contains as they were typed. By themselves, their interpolations would resolve."""
    typed: Any = OmegaConf.to_container(overrides) if isinstance(overrides, ListConfig) else overrides
    return list(typed)


def check_overrides(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Raise ConfigError for an override that looks like a replacement but that Hydra merges.

    `search.space={}` changes nothing, and `model=[tiny,small]` mixes both options.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("[") and key.lstrip("+") in (*GROUPS, *PARTS):
            raise ConfigError(f"{override} is not an option of a group; a group takes one name, such as model=tiny")
        if value == "{}" and (kept := OmegaConf.select(cfg, key.lstrip("+"))):
            raise ConfigError(f"{override} removes nothing, as mappings are merged; ~{key}.KEY removes {list(kept)}")


_full_error = False


def _run(name: str, main: Callable[[DictConfig], Any]) -> None:
    global _command_line, _full_error
    _command_line, (_, _, *arguments) = sys.argv, sys.argv
    completes = "-sc" in arguments or "--shell-completion" in arguments
    sys.argv = ["ilt" if completes else f"ilt {name}", *arguments]
    sys.path.append(os.getcwd())  # so that your own package in the working directory can be imported
    _full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    lists_options = completes or "--help" in arguments
    with exit_on_mistakes(), _without_schemas() if lists_options else contextlib.nullcontext():
        hydra.main(version_base=_VERSION_BASE, config_path=f"pkg://{_CONFIGS}", config_name=name)(main)()


@contextlib.contextmanager
def exit_on_mistakes() -> Iterator[None]:
    """Exit with one line on stderr for a user error, unless `HYDRA_FULL_ERROR=1` asks for a traceback."""
    try:
        yield
    except Exception as error:
        line = mistake(error)
        if line is None or _full_error:
            raise
        sys.exit(printable(line))


@contextlib.contextmanager
def _without_schemas() -> Iterator[None]:
    """Remove schemas such as `ppo_keys`, which files in `conf/` inherit, from the options that Hydra prints."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        sys.stdout.write(re.sub(rf"(\S*{_SCHEMA}[, ]+|[, ]+\S*{_SCHEMA})(?![\w=.])", "", printed.getvalue()))


def mistake(error: Exception) -> str | None:
    """Return a one-line message for a user error, or None for any other error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError | PlainError):
            return " ".join(str(cause).split())
        cause = cause.__cause__ or cause.__context__
    said = " ".join(line for line in map(str.strip, str(error).splitlines()) if line and not line.startswith(_ADVICE))
    if isinstance(error, OverrideParseException):
        said = said.removeprefix(f"Error parsing override '{error.override}' ")
        return f"{error.override} is not an override such as key=value: {said}"
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = [name for name in error.options if not re.fullmatch(_SCHEMA, name)]
        own = "; yours needs a file with its _target_ in --config-dir" if "." in option else ""
        return f"{group} must be one of {known}, got {option!r}{_did_you_mean(option, known) or own}"
    if said.startswith("Config group override must be"):
        given = next((argument for argument in sys.argv[1:] if _is_no_option(argument)), "null")  # or of a study
        return f"{given} is not an option of a group; a group takes a name, such as model=tiny"
    if isinstance(error, CompactHydraException) and not isinstance(error, InstantiationException):
        key, cause = re.match("Could not override '(.+?)'", said), error.__cause__
        if not isinstance(cause, OmegaConfBaseException):
            return f"{key[1]} is not a group of {sys.argv[0]}" if key else said
        if key is None or not isinstance(cause.parent_node, DictConfig):
            return f"{said}: {str(cause).splitlines()[0]}"
        name = str(cause.full_key) if str(cause.full_key).startswith(f"{key[1]}.") else key[1]
        return _unknown(name, cause)
    by_hydra = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(str(hydra.__path__[0]) + "/_internal")
    if isinstance(error, InterpolationResolutionError):
        missing = re.search(r"Missing mandatory value: ([\w.]+)", said)
        if missing and (group := missing[1].removeprefix("hydra.runtime.choices.")) != missing[1]:
            known = [name for name in options_of(group) if not re.fullmatch(_SCHEMA, name)]
            return f"{group} must be given; it must be one of {known}"
        if missing:
            return f"{missing[1]} must be given"
        return f"{error.full_key}: {said}" if error.full_key else said
    return said if by_hydra and isinstance(error, ValueError) else None


def _unknown(name: str, error: OmegaConfBaseException) -> str:
    """Return the message for a key or group that does not exist."""
    if "/" in name:
        return f"{name} is not a group{_did_you_mean(name, _groups(name.rpartition('/')[0]))}"
    values: Any = error.parent_node
    parent, known = str(error.full_key).removesuffix(str(error.key)), list(_keys(OmegaConf.to_container(values)))
    found = next((c for c in COMPONENTS if c.target and c.target == values.get("_target_")), None)
    if found is not None and error.key in found.refused:
        return f"{name} cannot be set: {found.refused[str(error.key)]}"
    yours = found.open if found else "_target_" in values or not common_keys(parent.rstrip("."))
    takes_more = bool(parent) and yours
    hint = _did_you_mean(name, known if "." in name else [*known, *_groups("")], parent)
    own = [key for key in known if key != "_target_"]
    if not hint and parent and not takes_more and len(own) <= _MOST_LISTED:
        hint = f"; the keys of {parent.rstrip('.')} are {', '.join(own)}"
    adds = f"{' ' if hint else '; '}+{name}=… adds it" if takes_more and ("_target_" in values or not hint) else ""
    return f"{name} is not a key{hint}{adds}"


def _is_no_option(argument: str) -> bool:
    """Return whether an argument overrides a group with a value that cannot name an option, such as null or 3."""
    key, equals, value = argument.lstrip("+").partition("=")
    return bool(equals) and key in ("", *_groups("")) and not isinstance(yaml.safe_load(value), str | list)


def _did_you_mean(word: str, known: Iterable[str], parent: str = "") -> str:
    """Suggest the known names with the same last part (`model.n_layer` for `n_layer`), or else the closest name."""
    word, known = word.removeprefix(parent), list(known)
    same = [other for other in known if other.rpartition(".")[2] == word.rpartition(".")[2]]
    close = same or difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {' or '.join(f'{parent}{name}' for name in close)}?" if close else ""


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping) and key != "hydra":
            yield from _keys(value, f"{prefix}{key}.")


def _groups(parent: str) -> list[str]:
    with hydra.initialize_config_module(_CONFIGS, version_base=_VERSION_BASE):
        groups = GlobalHydra.instance().config_loader().list_groups(parent)
    return [f"{parent}/{group}" if parent else group for group in groups]
