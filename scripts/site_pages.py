"""MkDocs' input besides `docs/`: the README as first page, tutorials, the API, and files linked from pages.

    make docs

A link from a page to a file of the repository becomes a link to a copy of that file in the site. A broken link fails
the build, as does a public name without a docstring on a page of the API.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"index.md": "README.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
API = {
    "explainer": ("From Python", ("eigencam.explainer",)),
    "methods": ("Methods", ("eigencam.methods.base", "eigencam.passes.forward")),
    "evaluation": (
        "Evaluation",
        ("evaluation.base", "evaluation.statistics", "evaluation.tables", "evaluation.table_cells"),
    ),
    "datasets": ("Datasets", ("datasets.base", "datasets.boxes")),
    "reporting": ("Reporting", ("eigencam.reporting.collect", "eigencam.reporting.comparison")),
    "store": ("Results on disk", ("eigencam.store.reader", "eigencam.store.schema", "eigencam.store.bundle")),
}
"""Pages of the API: title and modules, by their place in the repository."""

_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#:]+)(?P<after>#[^)\s]*)?(?P<end>\))")
_FENCE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files that pages link to."""
    texts = {name: (ROOT / path).read_text(encoding="utf-8") for name, path in ROOT_PAGES.items()}
    texts |= {
        f"tutorials/{path.stem}.md": from_notebook(path) for path in sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
    }
    for name, (title, modules) in API.items():
        for module in modules:
            _check_docstrings(module)
        texts[f"api/{name}.md"] = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
    linked = {path for page in files.documentation_pages() for path in _linked(page.content_string, ROOT / "docs")}
    linked |= {path for text in texts.values() for path in _linked(text, ROOT)}
    for name, text in texts.items():
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=text))
    for path in sorted(linked):
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Redirect links of the repository to the site's, and show a code block's file name as its title."""
    if page.file.src_uri.startswith(("results/", "api/")):
        return markdown
    text = markdown
    if "/" not in page.file.src_uri:
        text = _LINK.sub(lambda found: _moved(found, from_root=page.file.src_uri in ROOT_PAGES), markdown)
    return _FENCE.sub(r'```\1 title="\2"', text)


def from_notebook(path: Path) -> str:
    """Return a notebook as a page: its text and its code, and a link to the notebook."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.insert(1, f"[This page as a notebook]({path.name})")
    return "\n\n".join(parts) + "\n"


def _moved(found: re.Match[str], *, from_root: bool) -> str:
    """A link in the site's form: there, `docs/` is the root, and the repository's other files are beside its pages."""
    target = found["target"]
    if not target.startswith("http"):
        target = target.removeprefix("docs/") if from_root else target.removeprefix("../")
    return f"{found['before']}{target}{found['after'] or ''}{found['end']}"


def _linked(text: str, folder: Path) -> set[str]:
    """The files of the repository outside `docs/` that a text links to."""
    places = [
        (folder / found["target"]).resolve() for found in _LINK.finditer(text) if not found["target"].startswith("http")
    ]
    inside = [
        place
        for place in places
        if place.is_file() and place.is_relative_to(ROOT) and not place.is_relative_to(ROOT / "docs")
    ]
    return {str(place.relative_to(ROOT)) for place in inside} - set(ROOT_PAGES.values())


def _check_docstrings(module: str) -> None:
    """PluginError for a public class or function of a module without a docstring."""
    path = ROOT / (module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [tree, *(node for node in tree.body if isinstance(node, documented) and not node.name.startswith("_"))]
    for node in nodes:
        if not ast.get_docstring(node):
            raise PluginError(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'the module')} has no docstring")
