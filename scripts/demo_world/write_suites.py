"""Write the demo's evaluation suites into a folder: suite and task YAML, graders and items.

python -m scripts.demo_world.write_suites FOLDER [--seed N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

if not __package__:  # run by path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.demo_world.families import SLICES, make_items
from scripts.demo_world.story import ITEMS_PER_SLICE, SUITE_FAMILIES

SUITES = Path(__file__).parent / "suites"


def write_suites(folder: Path, seed: int) -> None:
    """Fill ``folder`` with ``{slice}.yaml``, ``tasks/`` and ``tasks/items/{slice}.jsonl``.

    The same seed gives the same items; they stay fixed over the whole story.
    """
    tasks = folder / "tasks"
    # Below the task folder, all of which ct_llm hashes: other items are then another suite.
    items = tasks / "items"
    items.mkdir(parents=True, exist_ok=True)
    for name in SLICES:
        rows = make_items(name, SUITE_FAMILIES[name], ITEMS_PER_SLICE, seed)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (items / f"{name}.jsonl").write_text(text, encoding="utf-8")
        shutil.copy(SUITES / f"{name}.yaml", folder / f"{name}.yaml")
        shutil.copy(SUITES / "tasks" / f"demo_{name}.yaml", tasks / f"demo_{name}.yaml")
    shutil.copy(SUITES / "tasks" / "graders.py", tasks / "graders.py")


def main() -> None:
    """Parse the command line and write the suites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_suites(arguments.folder, arguments.seed)


if __name__ == "__main__":
    main()
