"""What the README tells people to type."""

import fnmatch
import re
import shlex
from pathlib import Path

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
    body = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert body is not None
    lines = body[1].replace("\\\n", " ")
    while "$(" in re.sub(r"\$\$\(", "", lines):
        lines = re.sub(r"(?<!\$)\$\(([A-Z]+)\)", lambda name: variables[name[1]], lines)
    lines = re.sub(r"\$\$\(ls -d ([^)]*)\)", r"\1", lines)
    return re.findall(r"^\tilt ([a-z]+)(.*)", lines, flags=re.MULTILINE)


MADE = [command for target in ("run", "seeds", "adapt", "search") for command in make_commands(target)]


def test_there_are_commands() -> None:
    assert {module for module, _ in COMMANDS} == {
        "train",
        "expert",
        "collect",
        "evaluate",
        "probe",
        "report",
        "compare",
    }


@pytest.mark.parametrize(("module", "arguments"), [*COMMANDS, *MADE])
def test_each_command_is_one_that_its_entry_point_takes(module: str, arguments: str) -> None:
    overrides = [argument for argument in shlex.split(arguments) if argument != "-m"]
    first = [re.split(r",(?![^\[]*\])", override)[0] for override in overrides]  # of what is swept over
    first += ["run_name=any"] if module == "train" else []
    first += ["name=any"] if module == "compare" and "name=" not in " ".join(first) else []
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose(module, first)
    check_config(cfg, module)


def test_make_adapt_compares_what_it_trains() -> None:
    """Each pattern of `conf/policies` is of a run that `make adapt` makes."""
    trained = [arguments for module, arguments in make_commands("adapt") if module == "train"]
    names = set()
    for arguments in trained:
        given = dict(each.partition("=")[::2] for each in shlex.split(arguments) if "=" in each)
        env, expert = {"adapt": ("hidden", "ppo_privileged"), "blind": ("blind", "a2c")}[given["experiment"]]
        for k in given["dataset.context_length"].split(","):
            for algorithm in given.get("imitation", "dagger").split(","):
                dashed = "" if algorithm == "bc" else f"-{algorithm}"
                run = f"lunar_lander_{env}-mini-K{k}-{expert}{dashed}-s0-0123456789"
                names.add(f"{given['hydra.sweep.dir'].replace('outputs/', '${outputs}/')}/{run}")
    for option in ("adapt", "blind", "unseen"):
        patterns = yaml.safe_load((ROOT / "conf" / "policies" / f"{option}.yaml").read_text()).values()
        for pattern in (each for each in patterns if each.startswith("$")):
            assert len(fnmatch.filter(names, pattern)) == 1, pattern


def test_each_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"run", "test", "seeds", "bench", "help"} <= named <= targets


def test_each_picture_that_is_shown_exists() -> None:
    shown = re.findall(r"\]\((outputs/[^)]*)\)", README)
    assert len(shown) >= 4
    assert all((ROOT / path).is_file() for path in shown)
