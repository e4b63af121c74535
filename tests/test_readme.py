"""Commands, files and code in the README and on the documentation pages work."""

import fnmatch
import os
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module

from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.settings import check_config

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
}
README = PAGES["README.md"]
FENCE = re.compile(r"^( *)```(\w+)?(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)


def blocks_of(page: str) -> list[tuple[str, str, str]]:
    """Return the language, title and content of each fenced block."""
    return [
        (language, title, re.sub(rf"^{indent}", "", content, flags=re.MULTILINE))
        for indent, language, title, content in FENCE.findall(PAGES[page])
    ]


def commands_of(page: str) -> list[tuple[str, str]]:
    """Return each `ilt` command in a page's bash blocks, with its arguments."""
    lines = "\n".join(content for language, _, content in blocks_of(page) if language == "bash")
    return re.findall(r"^(?:ILT_\w+=\S+ )?ilt ([a-z][a-z-]*)([^#\n]*)", lines.replace("\\\n", " "), flags=re.MULTILINE)


def files_of(page: str) -> dict[str, str]:
    """Return the files a page shows in full: blocks with a title, and parts of YAML blocks that start with `# path`."""
    found: dict[str, str] = {}
    for language, title, content in blocks_of(page):
        if title:
            found[title] = content
        elif language == "yaml":
            found |= dict(re.findall(r"^# (\S+\.yaml)\n((?:[^#\n].*\n)+)", content, flags=re.MULTILINE))
    return found


def make_commands(target: str) -> list[tuple[str, str]]:
    """Return the `ilt` commands of a Makefile target with the variables expanded."""
    variables = dict(re.findall(r"^([A-Z]+) \??:?= ?(.*)", MAKEFILE, flags=re.MULTILINE)) | {"ILT": "ilt", "ARGS": ""}
    (body,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    lines = body.replace("\\\n", " ")
    while "$(" in re.sub(r"\$\$\(", "", lines):
        lines = re.sub(r"(?<!\$)\$\(([A-Z]+)\)", lambda name: variables[name[1]], lines)
    lines = re.sub(r"\$\$\(ls -d ([^)]*)\)", r"\1", lines)
    return re.findall(r"^\tilt ([a-z]+)(.*)", lines, flags=re.MULTILINE)


SHOWN = [(page, *command) for page in PAGES for command in commands_of(page)]
OWN = [each for each in SHOWN if "--config-dir" in each[2]]  # these use files that the page shows
MADE = [("README.md", *command) for target in ("run", "seeds", "search") for command in make_commands(target)]
COMMON = {command[1:]: command for command in [*MADE, *SHOWN] if command not in OWN}  # without duplicates


def test_the_documentation_shows_commands() -> None:
    assert {command for _, command, _ in SHOWN} >= {
        "train",
        "expert",
        "collect",
        "evaluate",
        "probe",
        "report",
        "compare",
    }
    assert {command for command, _ in commands_of("README.md")} == {"train", "evaluate", "report"}


def write_files(page: str, folder: Path) -> None:
    for name, content in files_of(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.parametrize(("page", "command", "arguments"), [*OWN, *COMMON.values()])
def test_each_command_has_valid_arguments(
    page: str, command: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = re.sub(
        r"--config-dir (\S+)", rf"hydra.searchpath=[file://{tmp_path}/\1]", os.path.expandvars(arguments)
    )
    words = shlex.split(arguments)
    if "--help" in words:
        return
    if command == "study" and "=" not in words[0]:
        words[0] = f"study={words[0]}"
    overrides = [re.sub(r"=range\(.*\)$", "=0", word) for word in words if word != "-m"]
    first = [re.split(r",(?![^\[(]*[\])])", override)[0] for override in overrides]  # the first value of each sweep
    first += {
        "train": ["run_name=any"],
        "study": ["run_name=any"],
        "compare": ["name=any"] * ("name=" not in arguments),
    }.get(command, [])
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose(command, first)
    check_config(cfg, command)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(
        content for language, title, content in blocks_of("README.md") if language == "python" and not title
    )
    monkeypatch.chdir(tmp_path)
    small = re.sub(r"max_steps=\d+", "max_steps=4, evaluation={'n_episodes': 2}", lines).replace("tiny", "nano")
    names: dict[str, Any] = {}
    exec(re.sub(r"n_episodes=\d+", "n_episodes=2", small), names)  # our README
    assert names["run"].path.is_dir()


@pytest.mark.parametrize("page", [page for page in PAGES if any(block[0] == "python" for block in blocks_of(page))])
def test_the_python_of_each_page_compiles(page: str) -> None:
    for language, title, content in blocks_of(page):
        if language == "python":
            compile(content, title or page, "exec")


@pytest.mark.parametrize(
    ("option", "study", "env", "expert"),
    [("adapt", "adapt", "hidden", "ppo_privileged"), ("unseen", "adapt", "hidden", "ppo_privileged"),
     ("blind", "blind", "blind", "a2c")],
)  # fmt: skip
def test_each_pattern_of_policies_matches_a_cell_of_its_study(option: str, study: str, env: str, expert: str) -> None:
    known = yaml.safe_load((ROOT / "conf" / "study" / f"{study}.yaml").read_text())
    names = set()
    for sweep in known["sweeps"].values():
        given = {"imitation": "dagger", **known["shared"], **sweep}
        algorithms = [f"-{each}".removesuffix("-bc") for each in given["imitation"].split(",")]
        for k, algorithm in product(str(given["dataset.context_length"]).split(","), algorithms):
            names.add(f"${{outputs}}/studies/{study}/lunar_lander_{env}-mini-K{k}-{expert}{algorithm}-s0-0123456789")
    patterns = yaml.safe_load((ROOT / "conf" / "policies" / f"{option}.yaml").read_text()).values()
    assert all(len(fnmatch.filter(names, each)) == 1 for each in patterns if each.startswith("$"))


def test_each_make_target_that_is_mentioned_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, flags=re.MULTILINE))
    typed = [content for page in PAGES for language, _, content in blocks_of(page) if language == "bash"]
    named = set(re.findall(r"^make ([a-z-]+)", "\n".join(typed), flags=re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z-]+)", "\n".join(PAGES.values())))
    assert {"run", "test", "seeds", "bench", "help"} <= named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_each_file_that_a_page_links_to_exists(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]*)", FENCE.sub("", PAGES[page]))
    generated = ("reference/", "figures/", "notebooks/")  # created when the site is built
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert [link for link in missing if not any(part in link for part in generated)] == []


def test_each_page_of_the_site_that_the_readme_links_to_exists() -> None:
    (site,) = re.findall(r"^site_url: (\S+)$", (ROOT / "docs/mkdocs.yml").read_text(), flags=re.MULTILINE)
    links = re.findall(rf"\({re.escape(site)}(?:([^)#]*)/)?(?:#([^)]*))?\)", README)
    assert len(links) == README.count(site) > 10
    for page, heading in links:
        (source,) = (ROOT / "docs/pages").glob(f"{page or 'index'}.*")  # Markdown, or a notebook
        assert not heading or f"\n## {heading.capitalize()}\n" in source.read_text()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
