"""What the README tells people to type."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from ilt.config import check_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^ilt (\w+)([^#\n]*)", README, flags=re.MULTILINE)


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


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_each_command_is_one_that_its_entry_point_takes(module: str, arguments: str) -> None:
    overrides = [argument for argument in shlex.split(arguments) if argument != "-m"]
    first = [re.split(r",(?![^\[]*\])", override)[0] for override in overrides]  # of what is swept over
    first += ["run_name=any"] if module == "train" else ["name=any"] if module == "compare" else []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(module, first)
    check_config(cfg)


def test_each_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"run", "test", "seeds", "bench", "help"} <= named <= targets


def test_each_picture_that_is_shown_exists() -> None:
    shown = re.findall(r"\]\((outputs/[^)]*)\)", README)
    assert len(shown) >= 4
    assert all((ROOT / path).is_file() for path in shown)
