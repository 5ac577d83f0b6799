"""The links of README and docs/: whether what they name is there.

Run as a command (`make links`) it asks for every page elsewhere; the tests look at the rest, which needs no network.
"""

from __future__ import annotations

import concurrent.futures
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "launch" / "tpu.md"]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(\s*<?([^)>\s]+)|\b(?:href|src)=\"([^\"]+)\"|<(https?://[^>]+)>")
_ELSEWHERE = re.compile(r"[a-z]+:")
# Some sites refuse what does not look like a browser.
_HEADERS = {"User-Agent": "Mozilla/5.0 (link check)"}
_THERE = {403, 405, 429}
"""Answers of a server that has the page and does not show it to a program."""


def targets(text: str) -> list[str]:
    """What a page links to, code left out."""
    return [next(filter(None, found)) for found in _LINK.findall(CODE.sub("", text))]


def anchors(text: str) -> set[str]:
    """The anchors of a page: GitHub's of its headings, and what mkdocstrings documents there."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^::: (\S+)", text, re.M))


def broken(page: Path, text: str) -> list[str]:
    """The links of a page's text to files and anchors of the repository that are not there."""
    missing = []
    for target in targets(text):
        if _ELSEWHERE.match(target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        there = path.exists() and path.is_relative_to(ROOT)
        if there and anchor:
            there = anchor in anchors(text if path == page else path.read_text(encoding="utf-8"))
        if not there:
            missing.append(target)
    return missing


def problem(url: str) -> str:
    """Why a page elsewhere cannot be had; empty if it can."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=_HEADERS), timeout=20):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in _THERE else f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def main() -> None:
    """Asks for every page elsewhere.

    Raises:
      SystemExit: with 1 if one cannot be had.
    """
    pages: dict[str, list[str]] = {}
    for page in PAGES:
        for target in targets(page.read_text(encoding="utf-8")):
            if target.startswith("http"):
                pages.setdefault(target.partition("#")[0], []).append(str(page.relative_to(ROOT)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(zip(pages, pool.map(problem, pages), strict=True))
    for url, why in found.items():
        if why:
            print(f"{url} in {', '.join(sorted(set(pages[url])))}: {why}", file=sys.stderr)
    bad = sum(map(bool, found.values()))
    print(f"links: {len(found)} pages elsewhere, {bad} cannot be had")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
