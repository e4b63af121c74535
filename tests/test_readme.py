"""What the README tells people to type."""

import fnmatch
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module

from ilt.cli import app  # noqa: F401  (which hands the schemas to Hydra)
from ilt.settings import check_config

ROOT = Path(__file__).parent.parent
README, MAKEFILE = ((ROOT / name).read_text() for name in ("README.md", "Makefile"))
COMMANDS = re.findall(r"^ilt ([a-z]+)([^#\n]*)", README, flags=re.MULTILINE)


def make_commands(target: str) -> list[tuple[str, str]]:
    """What a target of the Makefile runs, with its variables put in."""
    variables = dict(re.findall(r"^([A-Z]+) \??:?= ?(.*)", MAKEFILE, flags=re.MULTILINE)) | {"ILT": "ilt", "ARGS": ""}
    (body,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    lines = body.replace("\\\n", " ")
    while "$(" in re.sub(r"\$\$\(", "", lines):
        lines = re.sub(r"(?<!\$)\$\(([A-Z]+)\)", lambda name: variables[name[1]], lines)
    lines = re.sub(r"\$\$\(ls -d ([^)]*)\)", r"\1", lines)
    return re.findall(r"^\tilt ([a-z]+)(.*)", lines, flags=re.MULTILINE)


MADE = [command for target in ("run", "seeds", "adapt", "search") for command in make_commands(target)]


def test_there_are_commands() -> None:
    shown = {"train", "expert", "collect", "evaluate", "probe", "report", "compare"}
    assert {module for module, _ in COMMANDS} == shown


@pytest.fixture(scope="module")
def my_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The options that the README shows as those of a package of one's own."""
    folder = tmp_path_factory.mktemp("my_configs")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    for name, content in re.findall(r"^# (\S+\.yaml)\n((?:[^#\n].*\n)+)", shown, flags=re.MULTILINE):
        (folder / name).parent.mkdir()
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(("module", "arguments"), [*COMMANDS, *MADE])
def test_each_command_is_one_that_its_entry_point_takes(module: str, arguments: str, my_configs: Path) -> None:
    arguments = arguments.replace("--config-dir my_configs", f"hydra.searchpath=[file://{my_configs}]")
    overrides = [argument for argument in shlex.split(arguments) if argument != "-m"]
    first = [re.split(r",(?![^\[]*\])", override)[0] for override in overrides]  # of what is swept over
    first += {"train": ["run_name=any"], "compare": ["name=any"] * ("name=" not in arguments)}.get(module, [])
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose(module, first)
    check_config(cfg, module)


def test_the_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL))
    monkeypatch.chdir(tmp_path)
    small = re.sub(r"max_steps=\d+", "max_steps=4, evaluation={'n_episodes': 2}", lines).replace("tiny", "nano")
    names: dict[str, Any] = {}
    exec(re.sub(r"n_episodes=\d+", "n_episodes=2", small), names)  # our own README
    assert names["run"].path.is_dir()


def test_make_adapt_compares_what_it_trains() -> None:
    """Each pattern of `conf/policies` is of a run that `make adapt` makes."""
    trained = [arguments for module, arguments in make_commands("adapt") if module == "train"]
    names = set()
    for arguments in trained:
        given = dict(each.partition("=")[::2] for each in shlex.split(arguments) if "=" in each)
        folder = given["hydra.sweep.dir"].replace("outputs/", "${outputs}/")
        env, expert = {"adapt": ("hidden", "ppo_privileged"), "blind": ("blind", "a2c")}[given["experiment"]]
        algorithms = [f"-{each}".removesuffix("-bc") for each in given.get("imitation", "dagger").split(",")]
        for k, algorithm in product(given["dataset.context_length"].split(","), algorithms):
            names.add(f"{folder}/lunar_lander_{env}-mini-K{k}-{expert}{algorithm}-s0-0123456789")
    for option in ("adapt", "blind", "unseen"):
        patterns = yaml.safe_load((ROOT / "conf" / "policies" / f"{option}.yaml").read_text()).values()
        assert all(len(fnmatch.filter(names, each)) == 1 for each in patterns if each.startswith("$")), option


def test_each_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"run", "test", "seeds", "bench", "help"} <= named <= targets


def test_each_picture_that_is_shown_exists() -> None:
    shown = re.findall(r"\]\((outputs/[^)]*)\)", README)
    assert len(shown) >= 4
    assert all((ROOT / path).is_file() for path in shown)
