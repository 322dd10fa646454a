"""Events of mkdocs: adds the generated pages to the site and fills in the drawings.

``mkdocs.yml`` names this file under ``hooks``. What the pages say is in ``docs/reference.py`` and ``docs/drawings.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

import drawings
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parent.parent
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "results/benchmarks.md": "benchmarks/README.md",
}
"""Pages of the site that are files elsewhere in the repository."""

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):<code>~?(?P<name>[\w.]+)</code>")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API pages, one for each package, to the navigation."""
    sections = {name: section for entry in config.nav or [] for name, section in entry.items()}
    sections["Reference"].append({"API": [f"reference/api/{name}.md" for name in reference.packages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = reference.pages()
    for name, source in ELSEWHERE.items():
        pages[name] = (PROJECT / source).read_text().replace("](docs/", "](")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put each drawing where a page has ``<!-- drawing: NAME -->``."""
    return re.sub(r"<!-- drawing: (\w+) -->", lambda match: drawings.DRAWINGS[match[1]](), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the Sphinx roles of docstrings into links."""
    return _ROLE.sub(r'<autoref optional identifier="\g<name>"><code>\g<name></code></autoref>', html)
