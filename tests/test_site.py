"""The generated pages of the documentation site, and its notebooks."""

import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import matplotlib as mpl
import pytest
import torch
from hydra import compose, initialize_config_module
from matplotlib.text import Text

import ilt
from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.cli.main import COMMANDS
from ilt.envs.spec import EnvSpec
from ilt.experts.find import canonical_config_of
from ilt.models.decoder import Decoder
from ilt.registry import load_option, options_of
from ilt.rollout.recorded import Context
from ilt.schema import COMPONENTS, config_hash
from ilt.settings import check_config
from ilt.tracking.reading import read_json
from ilt.tracking.store import SHIPPED, Store
from tests.test_readme import PAGES, blocks_of

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs/pages/notebooks").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / "docs"))

import figures  # noqa: E402
import reference  # noqa: E402


def test_the_site_builds_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken links, missing anchors and pages outside the navigation are warnings."""
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "docs/mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    assert (tmp_path / "reference/api/index.html").is_file()


def test_every_key_and_option_is_in_the_config_reference() -> None:
    page = reference.config_page()
    for found in COMPONENTS:
        if found.group != "command" and (found.name or reference._is_part(found)):
            assert all(f"| `{found.group}.{name}`" in page for name in found.fields), found.name
    groups = {found.group for found in COMPONENTS} - {"command"}
    assert all(any(group.split(".")[0] == shown for shown in reference.GROUPS) for group in groups)
    for group in reference.GROUPS:
        own = [option for option in options_of(group) if not option.endswith("_keys")]
        assert own == ["default"] or all(f"| `{option}` |" in page for option in own), group


def test_every_command_is_in_the_command_reference() -> None:
    page = reference.commands_page()
    assert all(f"## `ilt {command}`" in page for command in COMMANDS)


def test_every_public_name_is_in_the_api_reference_once() -> None:
    shown = re.findall(r"^::: ilt\.(\w+)$", reference.api_page(), flags=re.MULTILINE)
    assert sorted(shown) == ilt.__all__


def test_the_commands_of_the_expert_zoo_find_the_shipped_experts(tmp_path: Path) -> None:
    found = set()
    for command, arguments in re.findall(r"^ilt (\w+) (.*)$", reference.zoo_page(), flags=re.MULTILINE):
        with initialize_config_module("ilt.conf", version_base="1.3"):
            cfg = compose(command, [*arguments.split(), *["run_name=any"] * (command == "train")])
        check_config(cfg, command)
        identity = canonical_config_of(Context(EnvSpec.from_config(cfg.env), Store(tmp_path)), cfg.expert)
        found.add(f"{cfg.expert.name}-{config_hash(identity)}")
    assert found == {path.parent.name for path in SHIPPED["experts"].glob("*/manifest.json")}


def test_every_shipped_expert_has_a_test_score_and_passes_its_gate_there() -> None:
    scores = read_json(reference.SCORES)["experts"]
    assert sorted(scores) == sorted(path.parent.name for path in SHIPPED["experts"].glob("*/manifest.json"))
    for name, score in scores.items():
        gate = load_option("env", score["env"])["gate"]
        assert score["return_mean"] >= gate, name


def test_the_attention_figure_matches_the_decoder() -> None:
    space = ilt.make_env("CartPole-v1").action_space
    sizes = {"observation_dim": 4, "action_space": space, "n_outputs": 2, "context_length": 4}
    model = Decoder(n_layer=2, n_head=1, d_model=8, **sizes)
    assert model.window_sizes == [2, 1]
    for mask, size in zip(model.attn_mask, model.window_sizes, strict=True):
        assert torch.equal(mask, torch.from_numpy(figures.attention_mask(4, size)))


def test_every_figure_on_a_page_is_generated() -> None:
    shown = {name for text in PAGES.values() for name in re.findall(r"figures/([\w-]+)\.svg", text)}
    assert shown <= set(figures.FIGURES)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_contain_their_text_at_readable_sizes(name: str) -> None:
    with mpl.rc_context(figures.STYLE):
        figure = figures.FIGURES[name]()
        figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    assert width / figure.dpi == pytest.approx(6.8)
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert 7 <= text.get_fontsize() <= 9, text
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, text


def is_documented(thing: Any) -> bool:
    """Return whether a class has a hand-written docstring, or a function its own or an inherited one."""
    if isinstance(thing, type):
        return thing.__doc__ is not None and not thing.__doc__.startswith(f"{thing.__name__}(")
    return inspect.getdoc(thing) is not None


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the public functions and classes that a module defines, and their public methods and properties."""
    for name, thing in vars(module).items():
        if not name.startswith("_") and callable(thing) and getattr(thing, "__module__", "") == module.__name__:
            yield f"{module.__name__}.{name}", thing
            for inner, member in vars(thing).items() if isinstance(thing, type) else ():
                methods = FunctionType | property | cached_property | classmethod
                if not inner.startswith("_") and isinstance(member, methods):
                    yield f"{module.__name__}.{name}.{inner}", getattr(thing, inner)  # finds inherited docstrings


def test_public_names_have_docstrings() -> None:
    modules = [name for _, name, _ in pkgutil.walk_packages(ilt.__path__, "ilt.") if name != "ilt.__main__"]
    public = [found for module in modules for found in public_names(import_module(module))]
    assert len(public) > 500
    assert [name for name, thing in public if not is_documented(thing)] == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run them in this process to save the imports; `-m slow` runs them in Jupyter."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.chdir(tmp_path)
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(notebook), "exec"), main.__dict__)  # our notebook


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_in_jupyter(notebook: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(nbformat.read(notebook, as_version=4), timeout=300, kernel_name="python3", resources=place).execute()


def is_runnable(block: tuple[str, str, str]) -> bool:
    """Return whether a block is Python that runs by itself: not a file, and without a run of the reader's own."""
    language, title, content = block
    return language == "python" and not title and "outputs/runs/NAME" not in content


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(map(is_runnable, blocks_of(page)))],
)
def test_the_python_of_each_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the page's files, run those that it runs with `python FILE`, then run its other blocks in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = blocks_of(page)
    for _, title, content in blocks:
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(content, encoding="utf-8")
    for _, _, content in blocks:
        for file in re.findall(r"^python (\w+\.py)$", content, flags=re.MULTILINE):
            subprocess.run([sys.executable, file], check=True)
    names: dict[str, Any] = {"__name__": "page"}
    for block in filter(is_runnable, blocks):
        exec(compile(block[2], page, "exec"), names)  # our page
