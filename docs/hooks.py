"""MkDocs hooks that add the generated files: reference pages, figures, and a page for each notebook."""

import json
import re
from pathlib import Path
from typing import Any

import figures
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


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


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: text, code, and the text that the code printed when it was last run."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        text = re.sub(r"\.ipynb(?=\))", ".md", source)  # links to other notebooks point to their pages
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join(map(_text, cell.get("outputs", ()))).rstrip()
        if printed:
            parts.append(f"```text\n{printed}\n```")
    title, *rest = parts
    return "\n\n".join([title, f"[Download this notebook]({path.name})", *rest]) + "\n"


def _text(output: dict[str, Any]) -> str:
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
