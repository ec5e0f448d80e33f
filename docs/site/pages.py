"""MkDocs hook: pages outside of docs/ become pages of the site, and links between all pages stay those of the repository.

Every page is written so that its links work where it lies, on GitHub and in an editor. The site has other paths, so relative
links are rewritten while it is built. A link to a file that is not a page of the site is a warning, which `--strict` refuses.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Path in the repository -> path in the site. Every file of docs/ keeps its name.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "lab/README.md": "laboratory.md",
    "lab/ablations/record/README.md": "ablations_record.md",
    "benchmarks/README.md": "benchmarks.md",
    "src/hicom_hf/training/recipes/README.md": "recipes.md",
}
LINK = re.compile(r"\]\(\s*(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\s*\)")
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside of docs/."""
    for path, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the relative links of a page from paths of the repository to paths of the site; code blocks stay as they are."""
    uri = page.file.src_uri
    source = {site: path for path, site in OUTSIDE.items()}.get(uri, f"docs/{uri}")
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _rewritten(link, source, uri), part) for part in parts[::2]]
    return "".join(parts)


def _rewritten(link: re.Match, source: str, uri: str) -> str:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    site_path = OUTSIDE.get(path, path.removeprefix("docs/"))
    target = posixpath.relpath(site_path, posixpath.dirname(uri) or ".")
    return f"]({target}{link['anchor'] or ''})"
