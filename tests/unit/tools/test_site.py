"""Documentation site: every page is in the navigation, links and lists are those that the generator reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import build_site
from tools.build_site import DOCS, MATH_BLOCK, ROOT, site_text, sources

PAGES = [path for path in sources() if path.suffix == ".md"]
LIST_ITEM = re.compile(r"( *)([-*]|\d+\.) ")


def configuration() -> dict[str, Any]:
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return yaml.safe_load(text)


def nav_pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for each in (entry.values() if isinstance(entry, dict) else entry) for page in nav_pages(each)]


def test_the_navigation_has_every_page_once_and_no_other() -> None:
    listed = nav_pages(configuration()["nav"])
    expected = {
        page
        for path, page in sources().items()
        if path.suffix == ".md" and (path.parent.name != "troubleshooting" or path.name in ("index.md", "codes.md"))
    }
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == expected


def test_the_pages_are_written_where_the_generator_reads_them() -> None:
    assert ROOT / configuration()["docs_dir"] == build_site.PAGES


def test_links_to_other_files_of_the_repository_become_links_to_pages() -> None:
    pages = sources()
    recipes = site_text(DOCS / "reference" / "recipes.md", pages)
    assert "](../recipes/llama/llama3-8b-qlora.md)" in recipes
    assert "](changelog.md)" in site_text(DOCS / "index.md", pages)


def test_a_link_to_a_file_that_is_no_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("[`code` is kept](../LICENSE)\n\n```text\n[code](../LICENSE)\n```\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"docs/page.md: \.\./LICENSE is no page of the site"):
        site_text(page, {page: "page.md"})
    page.write_text("`[code](../LICENSE)`\n\n```text\n[code](../LICENSE)\n```\n", encoding="utf-8")
    assert site_text(page, {page: "page.md"}) == page.read_text(encoding="utf-8")


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml")
    text = site_text(DOCS / "concepts.md", sources())
    assert text.count("<math") > 10
    assert text.count('<div style="overflow-x: auto"><math') == len(
        MATH_BLOCK.findall((DOCS / "concepts.md").read_text())
    )
    assert "```math" not in text
    assert not re.search(r"\$[A-Za-z]", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lists_have_an_empty_line_before_them(path: Path) -> None:
    """GitHub reads a list directly after a paragraph, and the generator of the site does not."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        item = LIST_ITEM.match(line)
        if item and number and lines[number - 1].strip() and not item[1]:
            before = [each for each in lines[:number] if each.strip() == "" or not each.startswith(" ")]
            assert LIST_ITEM.match(before[-1]), f"{path.name}: an empty line is missing before: {line}"


def test_the_page_of_supported_models_has_every_architecture_that_is_tested() -> None:
    from support.architectures import PACKED, REFUSED

    from tools.docs.supported_models_page import ROWS

    packed = [name for row in ROWS if not row.why_not for name in row.tests]
    refused = [name for row in ROWS if row.why_not for name in row.tests]
    assert sorted(packed) == sorted(PACKED)
    assert sorted(refused) == sorted(REFUSED)
    assert all(("step" in row.tried) == (not row.why_not) for row in ROWS)
