"""Documentation site: collect the pages of the repository in build/site-pages, and build build/site from them with Zensical.

python -m tools.build_site             build the site; every warning, such as a broken link, is an error
python -m tools.build_site --pages     write the pages only

The pages in docs/ keep links that work on GitHub. Here they are changed to links of the site: the changelog and shipped recipes become
pages, and formulas become MathML, which needs no script.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ROOT / "build" / "site-pages"  # docs_dir of mkdocs.yml
RENAMED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}

CODE = re.compile(r"^ *(`{3,}).*?^ *\1 *$|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s:]+)(\))")
MATH_BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MATH_INLINE = re.compile(r"(?<![\\$\w])\$(?! )([^$\n]+?)(?<! )\$(?![\w$])")


def sources() -> dict[Path, str]:
    """Page of the site, relative to its root, by the file of the repository that it comes from."""
    pages = {path: path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*")) if path.is_file()}
    pages |= {ROOT / name: page for name, page in RENAMED.items() if name != "README.md"}
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    return pages | {path: path.relative_to(ROOT).with_suffix(".md").as_posix() for path in recipes}


def write_pages(folder: Path) -> None:
    """Write all pages of the site to ``folder``, which is deleted first."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = sources()
    for path, page in pages.items():
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(site_text(path, pages), encoding="utf-8")
        elif path.suffix == ".yaml":
            target.write_text(f"# {path.stem}\n\n```yaml\n{path.read_text(encoding='utf-8')}```\n", encoding="utf-8")
        else:
            shutil.copyfile(path, target)


def site_text(path: Path, pages: dict[Path, str]) -> str:
    """Text of a page with links and formulas of the site; code is not changed."""
    text = MATH_BLOCK.sub(
        lambda found: f'\n<div style="overflow-x: auto">{_mathml(found[1], "block")}</div>\n',
        path.read_text(encoding="utf-8"),
    )
    replaced = partial(_site_link, path, pages)
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [_prose(text[end : code.start()], replaced), code[0]]
        end = code.end()
    return "".join([*parts, _prose(text[end:], replaced)])


def _prose(text: str, replaced: Callable[[re.Match[str]], str]) -> str:
    text = MATH_INLINE.sub(lambda found: f"<span>{_mathml(found[1], 'inline')}</span>", text)
    return LINK.sub(replaced, text)


def _site_link(path: Path, pages: dict[Path, str], found: re.Match[str]) -> str:
    """Link of the site for a link of the repository. A link to a file that is no page is an error of the page."""
    name, _, anchor = found[2].partition("#")
    if not name:
        return found[0]
    target = Path(os.path.normpath(path.parent / name))
    page = "index.md" if target == ROOT / "README.md" else pages.get(target)
    if page is None:
        raise SystemExit(f"{path.relative_to(ROOT)}: {found[2]} is no page of the site; link a page in docs/")
    relative = Path(os.path.relpath(page, Path(pages[path]).parent)).as_posix()
    return f"{found[1]}{relative}{'#' + anchor if anchor else ''}{found[3]}"


def _mathml(formula: str, display: str) -> str:
    from latex2mathml.converter import convert

    return convert(formula.strip(), display=display)


def main() -> int:
    """Write the pages and build the site, strictly."""
    write_pages(PAGES)
    if "--pages" in sys.argv[1:]:
        return 0
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
