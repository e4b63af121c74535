"""MkDocs hooks: generated pages and figures, pages of the notebooks, and links into the repository."""

import json
import os
import re
from pathlib import Path
from typing import Any

import figures
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?=[)#\s])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and figures, and a page for each notebook."""
    for name, page in reference.PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    for name in figures.FIGURES:
        files.append(File.generated(config, f"figures/{name}.svg", content=figures.draw(name)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook_page(Path(notebook.abs_src_path))
        files.append(File.generated(config, notebook.src_uri.replace(".ipynb", ".md"), content=page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mend links that leave the folder of pages: images come along, other files are shown by the repository's host."""
    pages = Path(config.docs_dir)
    folder = (pages / page.file.src_uri).parent

    def mended(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / link["path"]))
        if path.is_relative_to(pages) or not path.is_relative_to(ROOT):
            return link["path"]
        if not path.exists():
            raise PluginError(f"{page.file.src_uri} links to {link['path']}, which is not there")
        inside = path.relative_to(ROOT).as_posix()
        if path.suffix not in (".png", ".gif", ".svg"):
            return f"{config.repo_url}/blob/main/{inside}"
        if files.get_file_from_path(inside) is None:
            files.append(File.generated(config, inside, abs_src_path=str(path)))
        return os.path.relpath(inside, Path(page.file.src_uri).parent)

    return LINK.sub(mended, markdown)


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: text, code, and the text that the code printed when it was last run."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        text = re.sub(r"\.ipynb(?=\))", ".md", source)  # other notebooks are pages, too
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join(map(_text, cell.get("outputs", ()))).rstrip()
        if printed:
            parts.append(f"```text\n{printed}\n```")
    title, *rest = parts
    return "\n\n".join([title, f"[Download this notebook]({path.name})", *rest]) + "\n"


def _text(output: dict[str, Any]) -> str:
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
