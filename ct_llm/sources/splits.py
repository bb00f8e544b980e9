"""Which files hold rows to train on: by ending, by the config's glob, and by split.

The README's `configs` decide where there are any. Else names do, by the conventions of the
`datasets` library: a keyword such as `train` or `test` in the name of the file or of a folder above.
Two differences keep evaluation data out of training: each file is judged by itself, and a name with
keywords of several splits is taken for the one that is not train.
"""

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import escape
from pathlib import PurePosixPath

from ct_llm.config import DatasetConfig
from ct_llm.errors import ConfigError
from ct_llm.sources.file_kinds import COMPRESSIONS, file_kind
from ct_llm.sources.readme import ReadmeConfig

METADATA = {
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
}
"""Written beside rows by `datasets` and others; they hold none."""

ALL = "all"
TRAIN = "train"
KEYWORDS = {
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
    TRAIN: ("train", "training"),
}
"""In the order in which they are looked for."""


def needs_readme(dataset: DatasetConfig) -> bool:
    return dataset.split != ALL or dataset.config is not None


def row_paths(
    paths: Collection[str],
    dataset: DatasetConfig,
    configs: list[ReadmeConfig],
    *,
    folder: str = "",
) -> list[str]:
    """Those of `paths` (relative, with "/") that hold rows of the dataset's split, sorted.

    `folder`: only what is below it counts, and the dataset's `files` and the names' conventions
    begin there; the README's patterns begin at the root. Raises ConfigError when the README has no
    such config or split; it names those it has.
    """
    glob = f"{escape(folder)}/{dataset.files}" if folder else dataset.files
    candidates = [path for path in paths if holds_rows(path, glob, text=True)]
    text = names_text(glob)
    chosen = _chosen(dataset, configs)
    if chosen:
        _check_split(dataset, chosen)

    def by_name(path: str, below: str) -> bool:
        start = "".join(f"{part}/" for part in _parts(below))
        return (
            path.startswith(start)
            and holds_rows(path, glob)
            and in_split(path.removeprefix(start), dataset.split)
        )

    def taken(path: str) -> bool:
        if not chosen:
            return by_name(path, folder)
        return any(
            any(holds_rows(path, glob, text=text) for glob in _patterns(config, dataset.split))
            if config.splits
            else by_name(path, config.folder)
            for config in chosen
        )

    return sorted(path for path in candidates if taken(path))


# ---------------------------------------------------------------- rows or not


def holds_rows(path: str, glob: str, *, text: bool = False) -> bool:
    """By name: the ending, no metadata, nothing hidden, and the glob.

    A .txt file counts only where the glob names that ending, or with `text`: README.txt,
    requirements.txt and licences lie beside rows more often than rows do in .txt.
    """
    parts = path.split("/")
    kind = file_kind(path)
    if kind is None or parts[-1].lower() in METADATA:
        return False
    # "__": what tools leave behind, such as __MACOSX; `datasets` passes over it too.
    if any(part.startswith(".") for part in parts) or any(p.startswith("__") for p in parts[:-1]):
        return False
    if kind.ending == ".txt" and not (text or names_text(glob)):
        return False
    return matches(path, glob)


def names_text(glob: str) -> bool:
    return glob.lower().endswith((".txt", *(f".txt{ending}" for ending in COMPRESSIONS)))


def matches(path: str, glob: str) -> bool:
    """`*` stays within a folder; `**` spans any number of them, none included, as in `datasets`."""
    pattern = _parts(glob)
    return len(pattern) in _places(path.split("/"), pattern)


def reaches(folder: str, glob: str) -> bool:
    """Whether the glob can match anything below the folder."""
    pattern = _parts(glob)
    places = _places(folder.split("/"), pattern)
    return any(place < len(pattern) for place in places)


@lru_cache(maxsize=256)
def _parts(glob: str) -> tuple[str, ...]:
    """As people and READMEs write them: "./data//*" is "data/*"."""
    return PurePosixPath(glob).parts


def _places(parts: list[str], pattern: tuple[str, ...]) -> set[int]:
    """How far into the pattern one can be after `parts`: an automaton, so that no pattern is slow."""
    places = _with_skips({0}, pattern)
    for part in parts:
        inside = [place for place in places if place < len(pattern)]
        places = {
            place if pattern[place] == "**" else place + 1
            for place in inside
            if pattern[place] == "**" or fnmatchcase(part, pattern[place])
        }
        places = _with_skips(places, pattern)
    return places


def _with_skips(places: set[int], pattern: tuple[str, ...]) -> set[int]:
    """A `**` may match nothing."""
    for place, part in enumerate(pattern):
        if place in places and part == "**":
            places.add(place + 1)
    return places


# ---------------------------------------------------------------- split by name


def in_split(path: str, split: str) -> bool:
    """By the nearest name that says something, the file's own first; train where none does.

    A split that is none of the three usual ones, such as `train_sft`, must stand in one of the names.
    """
    names = path.lower().split("/")[::-1]
    if split == ALL:
        return True
    usual = _usual(split)
    if usual is None:
        return any(_has_word(name, (split.lower(),)) for name in names)
    said = (found for name in names for found, words in KEYWORDS.items() if _has_word(name, words))
    return usual == next(said, TRAIN)


def _usual(split: str) -> str | None:
    return next((name for name, words in KEYWORDS.items() if split.lower() in words), None)


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return _any_of(words).search(name) is not None


@lru_cache(maxsize=64)
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{'|'.join(map(re.escape, words))})(?![a-z])")


# ---------------------------------------------------------------- split by the README


def _chosen(dataset: DatasetConfig, configs: list[ReadmeConfig]) -> list[ReadmeConfig]:
    """The config that is asked for, else the default one, else all of them together."""
    if dataset.config is not None:
        named = [config for config in configs if config.name == dataset.config]
        if not named:
            there = ", ".join(config.name for config in configs) or "none"
            raise ConfigError(
                f"datasets: {dataset.place} has no config {dataset.config!r}. Its README has: {there}."
            )
        return named
    if dataset.split == ALL:
        return []
    return [config for config in configs if config.is_default] or configs


def _check_split(dataset: DatasetConfig, chosen: list[ReadmeConfig]) -> None:
    if dataset.split == ALL or any(not config.splits for config in chosen):
        return
    there = {split: None for config in chosen for split in config.splits}
    if not any(_patterns(config, dataset.split) for config in chosen):
        names = ", ".join(config.name for config in chosen)
        raise ConfigError(
            f"datasets: {dataset.place} has no split {dataset.split!r} in its README's config "
            f"{names}. Set this dataset's `split` to one of: {', '.join(there)}, or to all."
        )


def _patterns(config: ReadmeConfig, split: str) -> list[str]:
    """Globs from the root: of the split by that name, else of one that means the same (dev, valid)."""
    if split == ALL:
        found = [pattern for patterns in config.splits.values() for pattern in patterns]
    elif split in config.splits:
        found = config.splits[split]
    else:
        usual = _usual(split)
        same = (name for name in config.splits if usual is not None and _usual(name) == usual)
        found = [pattern for name in same for pattern in config.splits[name]]
    return [str(PurePosixPath(config.folder) / pattern) for pattern in found]
