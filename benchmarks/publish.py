"""Puts what `make bench`, `make bench-curves` and `make bench-anatomy` wrote into `docs/performance.md` and `results/`.

python -m benchmarks.publish FOLDER ...

"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks import tables

ROOT = Path(__file__).parent.parent
DOCUMENT, RESULTS = ROOT / "docs" / "performance.md", ROOT / "results"
MARKERS = {
    name: f"<!-- tables: make {command} -->"
    for name, command in {"bench": "bench", "curves": "bench-curves", "anatomy": "bench-anatomy"}.items()
}


def publish(folder: Path, document: Path = DOCUMENT, results: Path = RESULTS) -> list[str]:
    """Copies JSON and figure of one folder and writes its tables into the document; returns what there was.

    Raises:
      SystemExit: if there is nothing to publish.
    """
    found = [name for name in MARKERS if (folder / f"{name}.json").exists()]
    if not found:
        raise SystemExit(f"error: {folder} holds no {', '.join(MARKERS)}.json; expected a folder of make bench.")
    for name in found:
        figure = ""
        for ending in ("json", "png"):
            if (folder / f"{name}.{ending}").exists():
                shutil.copyfile(folder / f"{name}.{ending}", results / f"{name}.{ending}")
                figure = f"\n![{name}](../results/{name}.png)\n" if ending == "png" else figure
        tables.write(document, MARKERS[name], (folder / f"{name}.md").read_text(encoding="utf-8") + figure)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Publishes folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    for folder in parser.parse_args(argv).folders:
        print(f"published {', '.join(publish(folder))} of {folder}")


if __name__ == "__main__":
    main()
