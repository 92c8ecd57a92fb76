"""A hook of MkDocs: what the pages of docs/ link to outside of it is carried into the site, under repository/.

There is no public address of the repository to link to. Every link that leaves docs/ is turned into one inside the
site; Markdown files become pages, whose own links are followed in turn. A target that is missing stays a broken link,
which `mkdocs build --strict` refuses.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_CARRIED = "repository/"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^\s)#]+)")  # the path of `](path#anchor)`


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are linked to, from page to page."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    carried: set[str] = set()
    while pages:
        page = pages.pop()
        for link in _LINK.findall((ROOT / page).read_text()):
            target = _resolved(link, page)
            if _site_path(target).startswith(_CARRIED) and target not in carried and (ROOT / target).is_file():
                carried.add(target)
                files.append(File.generated(config, _CARRIED + target, abs_src_path=str(ROOT / target)))
                pages += [target] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - as called
    """Turn links between places in the repository into links between places in the site."""
    here = page.file.src_uri
    source = here.removeprefix(_CARRIED) if here.startswith(_CARRIED) else f"docs/{here}"

    def moved(link: re.Match[str]) -> str:
        return posixpath.relpath(_site_path(_resolved(link[0], source)), posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def _resolved(link: str, page: str) -> str:
    """A link of a page, as a path from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _site_path(path: str) -> str:
    """Where the site has what the repository has at `path`."""
    return path.removeprefix("docs/") if path.startswith("docs/") else _CARRIED + path
