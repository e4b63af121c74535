"""The reference pages, generated from the schemas, the options of `conf/`, the shipped experts and the docstrings."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from ilt.cli.main import COMMANDS, HELP
from ilt.registry import choices_of, load_option, options_of
from ilt.schema import COMPONENTS, Component, leaves
from ilt.tracking.reading import read_json
from ilt.tracking.store import SHIPPED, read_manifest

CONF = files("ilt.conf")
SCORES = Path(__file__).parent.parent / "outputs" / "reference" / "zoo.json"
"""The shipped experts' test scores, written by `docs/zoo.py`."""
VIDEOS = Path(__file__).parent / "pages" / "figures" / "zoo"

GROUPS = {
    "env": "The environment, its rules for success and crash, and its seeds for each purpose.",
    "expert": "Who demonstrates.",
    "demos": "Where demonstrations come from.",
    "dataset": "How demonstrations are cut into windows.",
    "imitation": "Which expert labels the student learns from, and when.",
    "model": "The student's network.",
    "head": "How a model's outputs become a distribution over actions.",
    "optimizer": "The optimizer and its schedule.",
    "trainer": "Length of the training, devices and precision.",
    "callbacks": "Callbacks during training: rollout evaluation, weight averaging, checkpoints.",
    "evaluation": "How the trained student is scored.",
    "logger": "Where metrics, figures and videos are sent.",
    "experiment": "Settings of several groups at once.",
    "policies": "Named sets of policies for `ilt compare`.",
    "sweep": "Hyperparameter searches, with `-m`.",
    "search": "Keys of a hyperparameter search.",
    "study": "Named sets of sweeps for `ilt study`.",
    "hydra/launcher": "Where the jobs of a sweep run, with `-m`. Hydra's `basic` and `joblib` are there too.",
}
"""The config groups in the order of the pipeline, each with a description."""

API = {
    "Functions": (
        "The commands as functions. Results go to the same store, under the same names. "
        "See [Get started](../get-started.md#the-same-from-python).",
        ["make_env", "load_expert", "collect", "train", "evaluate", "compare", "load_policy", "Demonstrations", "Run"],
    ),
    "Checks": (
        "Each check raises `ValueError` and says what is wrong; call them in your own tests, "
        "as in [Your own model](../tutorials/own-model.md#check-it).",
        ["check_env", "check_expert", "check_model"],
    ),
    "Environments": (
        "An environment is anything that `gymnasium.make` returns, with rules for success and blocks of seeds. "
        "See [Your own environment](../tutorials/own-environment.md).",
        ["EnvSpec", "ActionSpace", "envs.observations.ObservationLayout", "envs.wrappers.MaskObservation",
         "envs.physics.RandomizedPhysics", "envs.physics.Factor", "envs.physics.scaled"],
    ),
    "Demonstrations": (
        "Episodes, their sources, and windows over them. "
        "See [Your own demonstrations](../tutorials/own-demonstrations.md).",
        ["Episodes", "DataSource", "data.sources.ExpertEpisodes", "data.sources.EpisodesFile",
         "data.minari.MinariEpisodes", "data.windows.WindowDataset"],
    ),
    "Experts": (
        "Policies that demonstrate and label: trained here, read from a file, or a function. "
        "See [Your own expert](../tutorials/own-expert.md).",
        ["Expert", "experts.find.LoadedExpert", "experts.base.FunctionExpert", "experts.ppo.PPO", "experts.a2c.A2C",
         "experts.sb3_file.SB3File"],
    ),
    "Models": (
        "Networks from windows of observations and actions to outputs. "
        "See [Your own model](../tutorials/own-model.md).",
        ["SequenceModel", "Stepper", "embed_actions", "models.decoder.Decoder", "models.mlp.MLP", "models.mlp.MLPStack",
         "models.recurrent.Recurrent"],
    ),
    "Action heads": (
        "Distributions over actions, parametrized by a model's outputs. "
        "See [Action heads](../tutorials/own-model.md#action-heads).",
        ["ActionHead", "models.heads.Categorical", "models.heads.Gaussian", "models.heads.GaussianMixture",
         "models.heads.Discretized", "models.heads.Regression", "models.chunks.ActionChunks"],
    ),
    "Imitation algorithms": (
        "How many expert labels are used, in which rounds, from whose episodes. "
        "See [Your own algorithm](../tutorials/own-algorithm.md).",
        ["Imitation", "Round", "imitation.base.BC", "imitation.dagger.DAgger", "imitation.dart.DART"],
    ),
    "Policies": (
        "Policies act in many environments at once. See [Exporting policies](../guides/exporting.md).",
        ["Policy", "rollout.policies.Labeling", "rollout.policies.SequencePolicy", "rollout.policies.FunctionPolicy"],
    ),
    "Statistics": (
        "The numbers behind every table. See [Evaluation and its statistics](../concepts/evaluation.md).",
        ["evaluation.statistics.mean_interval", "evaluation.statistics.mean_interval_of_runs",
         "evaluation.statistics.mean_interval_of_runs_and_episodes", "evaluation.statistics.difference_interval",
         "evaluation.statistics.is_noninferior", "evaluation.statistics.probability_of_improvement",
         "evaluation.statistics.interquartile_mean", "evaluation.statistics.interquartile_mean_interval",
         "evaluation.statistics.rate_bound", "evaluation.statistics.cvar",
         "evaluation.statistics.performance_profile", "evaluation.statistics.performance",
         "evaluation.sequential.confidence_sequence", "evaluation.sequential.log_wealth",
         "evaluation.sequential.plausible_bound", "evaluation.sequential.decide"],
    ),
    "Errors": (
        "What is wrong with a config or an argument. See [Troubleshooting](../troubleshooting.md).",
        ["ConfigError"],
    ),
}  # fmt: skip
"""The sections of the API page: an introduction, and names in `ilt`."""


def config_page() -> str:
    """Return the page of all config keys."""
    parts = [
        "# Configuration keys",
        "Every key of every group, with its type, default and range, as the schemas in the code define them. Options "
        "of a group are chosen by name (`model=mini`) and their keys are overridden one by one (`model.n_layer=3`). "
        "[Configuration](../guides/configuration.md) explains how they are combined.",
        "Keys marked † are not part of their component's [identity](../concepts/artifacts.md).",
    ]
    for group, meaning in GROUPS.items():
        parts += [f"## `{group}`", meaning, *_options(group)]
        for found in [c for c in COMPONENTS if c.group == group and (c.name or _is_part(c))]:
            parts += _component(found)
        for found in [c for c in COMPONENTS if c.group.startswith(f"{group}.")]:
            parts += _component(found)
    return _join(parts)


def commands_page() -> str:
    """Return the page of all commands, from their help and their schemas."""
    parts = ["# Commands", f"```text\n{HELP}```"]
    shared = [c for c in COMPONENTS if c.group == "command"]
    everywhere = set.intersection(*(set(c.fields) for c in shared))
    parts += [
        "## Keys of every command",
        _keys(shared[0], [name for name in shared[0].fields if name in everywhere]),
    ]
    for name, summary in COMMANDS.items():
        found = next(c for c in shared if c.name == name)
        own = [key for key in found.fields if key not in everywhere]
        groups = getattr(found.schema, "groups", ())
        parts += [f"## `ilt {name}`", f"{summary[0].upper()}{summary[1:]}.", _help(name), _usage(name)]
        parts += [_keys(found, own)] if own else []
        if groups:
            links = ", ".join(f"[`{group}`](config.md#{group})" for group in groups)
            parts.append(f"Groups and parts of its config: {links}.")
    return _join(parts)


def zoo_page() -> str:
    """Return the page of environments and shipped experts."""
    parts = [
        "# Environments and experts",
        "Any environment that Gymnasium can make works by its id (`env=gymnasium env.id=…`). Those below come with "
        "rules for success and crash, and with tested settings.",
        "## Environments",
        _table(["option", "environment", "about", "success", "crash"], map(_env, _envs())),
        "## Experiments",
        "Settings of environment, expert and training that were tested together: `ilt train experiment=NAME`.",
        _table(["experiment", "environment", "about"], map(_experiment, options_of("experiment"))),
        "## Shipped experts",
        "These ship with the package, so they need no training. Returns are means over test seeds, with the most "
        "likely actions and 95 % confidence intervals (bootstrap over episodes); `make zoo` scores all of them again. "
        "Times include the training and its evaluations, on two cores. Each video shows the first seconds of the "
        "episode with the median return.",
        _table(
            ["environment", "expert", "sees", "steps", "time", "return", "95 % interval", "random", "episodes"],
            map(_expert, _manifests()),
        ),
        *map(_video, _manifests()),
        "These commands find the shipped experts; with a changed setting they train another one:",
        "```bash\n" + "\n".join(dict.fromkeys(manifest["command"] for manifest in _manifests())) + "\n```",
        "`ilt list kind=experts` lists them together with your own.",
    ]
    return _join(parts)


def api_page() -> str:
    """Return the page that mkdocstrings fills in from the docstrings."""
    parts = ["# Python API", "`import ilt` is fast: each name is imported on first use."]
    for title, (introduction, names) in API.items():
        parts += [f"## {title}", introduction, *(f"::: ilt.{name}" for name in names)]
    return _join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "config": config_page,
    "zoo": zoo_page,
    "commands": commands_page,
    "api": api_page,
}


def _is_part(found: Component) -> bool:
    """Return whether an unnamed schema describes a whole part of a config, not keys that components share."""
    return not any(c.group == found.group and c.name for c in COMPONENTS)


def _options(group: str) -> Iterator[str]:
    names = [name for name in options_of(group) if not name.endswith("_keys")]
    if names and names != ["default"]:
        yield _table(["option", "about", "`_target_`, and what it sets"], (_option(group, name) for name in names))


def _option(group: str, name: str) -> list[str]:
    found, settings = _found(group, name), {k: v for k, v in _file(group, name).items() if k not in _NOT_SETTINGS}
    about = _comment(group, name) or (_first(found) if found else "")
    changed = list(leaves(settings)) if settings else []
    target = found.target if found else _file(group, name).get("_target_")
    shown = [f"`{target}`"] if target else []
    return [f"`{name}`", about, "<br>".join([*shown, *(f"`{k}={_value(v)}`" for k, v in changed)])]


_NOT_SETTINGS = ("_target_", "defaults", "hydra")


def _file(group: str, name: str) -> dict[str, Any]:
    file = CONF.joinpath(group, f"{name}.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}


def _found(group: str, name: str) -> Component | None:
    """Return the component that an option of a group selects or extends."""
    for entry in _file(group, name).get("defaults", ()):
        if isinstance(entry, str) and (found := _found(group, entry)):
            return found
    return next((c for c in COMPONENTS if c.group == group and c.name and name in (c.name, f"{c.name}_keys")), None)


def _first(found: Component) -> str:
    return inspect.cleandoc(found.schema.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _comment(group: str, name: str) -> str:
    """Return the comment at the start of an option's file."""
    file = CONF.joinpath(group, f"{name}.yaml")
    if not file.is_file():
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if lines and lines[0].startswith("# @package") else lines
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    return " ".join(head)


def _component(found: Component) -> Iterator[str]:
    about = inspect.cleandoc(found.schema.__doc__ or "").replace("\n", " ")
    fields = found.fields
    if found.name and not fields and not found.open:
        return  # the row of its option has everything
    name = found.name.rpartition(".")[2]
    yield f"### `{found.group}`: `{name}`" if found.name else f"### `{found.group}`"
    yield about + (f" (`{found.target}`)" if found.target else "")
    if fields:
        yield _keys(found, list(fields))


def _keys(found: Component, names: Sequence[str]) -> str:
    hints = get_type_hints(found.schema)
    command = found.group == "command"
    prefix = "" if command else f"{found.group}."
    derived = _file("", found.name) if command else ()

    def row(name: str) -> list[str]:
        metadata = found.fields[name].metadata
        mark = "" if metadata["identity"] or command else " †"
        default = found.defaults[name]
        if default == "???":
            shown = "derived" if name in derived else "required"
        elif isinstance(default, Mapping) and default:
            shown = "<br>".join(f"`{inner}: {_value(value)}`" for inner, value in default.items())
        else:
            shown = f"`{_value(default)}`"
        return [f"`{prefix}{name}`{mark}", _type(hints[name]), shown, found.rules[name].wanted, metadata["doc"]]

    return _table(["key", "type", "default", "allowed", "meaning"], map(row, names))


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return "`" + re.sub(r"(typing|collections\.abc)\.", "", text).replace(" | ", " or ").replace("None", "null") + "`"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:_}" if isinstance(value, int) and abs(value) >= 100_000 else str(value)


def _help(command: str) -> str:
    """Return the description at the start of a command's help; preserve a list in it."""
    text = yaml.safe_load(CONF.joinpath(f"{command}.yaml").read_text(encoding="utf-8"))["hydra"]["help"]["header"]
    return f"```text\n{text.rstrip()}\n```" if "\n  " in text else " ".join(text.split())


def _usage(command: str) -> str:
    """Return the example in the first comment of a command's config, if there is one."""
    _, _, example = _comment("", command).rpartition(": ")
    return f"```bash\n{example}\n```" if example.startswith("ilt ") else ""


def _envs() -> list[str]:
    return [name for name in options_of("env") if not name.endswith("_keys")]


def _env(name: str) -> list[str]:
    values = load_option("env", name)
    env_id = values.get("id", "???")
    success, crash = values.get("success_return"), values.get("crash_reward")
    return [
        f"`{name}`",
        "any, by `env.id`" if env_id == "???" else f"`{env_id}`",
        _comment("env", name) or "Anything that Gymnasium can make.",
        "–" if success is None else f"return ≥ {success:g}",
        "–" if crash is None else f"terminated on reward {crash:g}",
    ]


def _experiment(name: str) -> list[str]:
    return [f"`{name}`", f"`env={choices_of(name).get('env', _DEFAULT_ENV)}`", _comment("experiment", name)]


_DEFAULT_ENV = next(
    entry["env"] for entry in _file("", "train")["defaults"] if isinstance(entry, dict) and "env" in entry
)


def _manifests() -> list[dict[str, Any]]:
    return [read_manifest(path.parent) for path in sorted(SHIPPED["experts"].glob("*/manifest.json"))]


def _scores() -> dict[str, Any]:
    return read_json(SCORES)["experts"]


def _expert(manifest: Mapping[str, Any]) -> list[str]:
    measured = _scores()[manifest["name"]]
    low, high = measured["return_mean_interval"]
    return [
        f"`{measured['env']}`",
        f"`{manifest['name']}`",
        "everything (privileged)" if manifest["expert"]["privileged"] else "what students see",
        f"{manifest['metrics']['training']['steps']:,}",
        _duration(manifest["seconds"]),
        f"{measured['return_mean']:.1f}",
        f"{low:.1f} … {high:.1f}",
        f"{measured['random_return_mean']:.1f}",
        f"{measured['n_episodes']:,}",
    ]


def _video(manifest: Mapping[str, Any]) -> str:
    """Return a player for an expert's video, or nothing if there is none."""
    name = manifest["name"]
    if not (VIDEOS / f"{name}.mp4").is_file():
        return ""
    about = f"{_scores()[name]['env']}, {name}"
    return (
        f'<figure><video src="../../figures/zoo/{name}.mp4" width="320" controls muted loop preload="metadata"></video>'
        f"<figcaption>{about}</figcaption></figure>"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _table(columns: Sequence[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _join(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
