"""What the site has beside docs/: README as its first page, the changelog, and the figures in results/."""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}


def on_files(files, config):
    """Adds them; their links to docs/ become links between pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    for figure in sorted((ROOT / "results").rglob("*.png")):
        files.append(File.generated(config, str(figure.relative_to(ROOT)), abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown, **_):
    """Figures stand where a comment names their folder; links to what is outside of docs/ stay on the site."""
    markdown = re.sub(r"<!-- figures: (\S+) -->", lambda found: gallery(ROOT / found[1]), markdown)
    markdown = markdown.replace("](../results/", "](results/")
    return re.sub(r"\]\((?:\.\./)?(README\.md|CHANGELOG\.md)", lambda link: f"]({PAGES[link[1]]}", markdown)


def gallery(folder):
    """Every figure of a folder with its caption and claims, in the order of the paper."""
    parts = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (path.stem.replace("fig0", "fig"), path.stem)):
        made = json.loads(path.read_text(encoding="utf-8"))
        picture = path.with_suffix(".png").relative_to(ROOT).as_posix()
        parts.append(f"### {path.stem}: {made['title']}\n\n{made['caption']}\n\n![{made['title']}]({picture})")
        rows = [f"| {c['claim']} | {c['paper']} | {c['ours']} | {c['verdict']} |" for c in made["claims"]]
        if rows:
            parts.append("\n".join(["| claim | paper | ours | verdict |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)
