"""Where rows lie, and what becomes of them."""

import re
from typing import Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from ct_llm.config.section import HubId, Section
from ct_llm.config_errors import nearest

RowFormat = Literal[
    "messages",
    "prompt_completion",
    "alpaca",
    "sharegpt",
    "preference",
    "oasst",
    "dialogue",
    "text",
]
Format = Literal["auto"] | RowFormat

COLUMNS = (
    "messages",
    "role",
    "content",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "system",
    "conversations",
    "from",
    "value",
    "chosen",
    "tools",
    "text",
    "source",
)


class DatasetConfig(Section):
    """A dataset whose rows pile up: a repo on the Hub, or files under a folder or a bucket."""

    repo: HubId | None = None
    """Hub id (owner/name). Either this or `path`."""
    path: str | None = None
    """A folder (relative to this file) or an fsspec URL of one: s3://bucket/rows (extra `s3`),
    hf://datasets/owner/name/folder, file:///data/rows."""
    name: str | None = None
    """How records and reports call it, and the source of its rows where they name none. Default:
    `repo`, with `:config` where one is set, or `path`. Keep it when the place changes: the rows are
    then known again."""
    revision: str = "main"
    """Of a repo: branch, tag or commit to follow."""
    config: str | None = None
    """Of a repo with several configs in its README: which."""
    split: str = "train"
    """Which split holds the rows to train on: by the README's configs, else by a word such as train,
    test or validation in the name of the file or of a folder; files that name no split count as
    train. "all" takes every file."""
    files: str = "**"
    """Glob of the files that hold rows: .parquet, .jsonl, .ndjson, .json, .csv, .tsv, .txt; all but
    parquet also as .gz or .zst. Other endings are not read, and .txt only where the glob, or the
    README's configs, name it ("**/*.txt"), since licences and notes are .txt as well."""
    format: Format = "auto"
    """auto: found by the columns."""
    columns: dict[str, str] = {}
    """Where a file calls a column differently, its name by ours, e.g. {messages: utterances, role:
    speaker, content: text}. Ours: messages, role, content, prompt, completion, instruction, input,
    output, system, conversations, from, value, chosen, tools, text, source."""
    weight: float = Field(default=1.0, gt=0, le=100)
    """How much a row of it counts, towards the trigger and in the training set: 0.5 takes a seeded
    half of its rows, 2 takes each twice."""

    @field_validator("path")
    @classmethod
    def _without_secrets(cls, value: str | None) -> str | None:
        # It is written into records, and from there into cards and reports.
        if value is not None and re.search(r"://[^/\s]*:[^/\s]*@", value):
            raise ValueError("must not hold a password: put credentials into the environment")
        if value is not None and "::" in value:
            raise ValueError("must be one folder or URL, not a chain of them (::)")
        return value

    @field_validator("columns")
    @classmethod
    def _our_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in COLUMNS:
                hint = nearest(name, COLUMNS)
                raise ValueError(f"{name!r} is no column of ours{hint}. Ours: {', '.join(COLUMNS)}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> "DatasetConfig":
        if (self.repo is None) == (self.path is None):
            raise ValueError("give exactly one of repo (on the Hub) and path (a folder or URL)")
        if self.path is not None and (self.config is not None or self.revision != "main"):
            raise ValueError("revision and config are for a repo; a path has neither")
        return self

    @property
    def place(self) -> str:
        """The repo or the path."""
        return self.repo or self.path or ""

    @property
    def key(self) -> str:
        """`name`, or what stands in for it."""
        return self.name or (f"{self.place}:{self.config}" if self.config else self.place)


class ReplayConfig(Section):
    rows_per_new_row: float | Literal["all"] = 1.0
    """Earlier rows mixed in per new row, against forgetting; "all" takes every earlier row, 0 none."""
    seed: int = 0

    @field_validator("rows_per_new_row")
    @classmethod
    def _not_negative(cls, value: float | Literal["all"]) -> float | Literal["all"]:
        if value != "all" and value < 0:
            raise ValueError("must be 0 or more, or all")
        return value


class NearDuplicateConfig(Section):
    """Rows that say the same in nearly the same words: one of them stays."""

    enabled: bool = True
    min_similarity: float = Field(default=0.75, ge=0.6, le=1.0)
    """Two rows count as one when prompt and response each have at least this Jaccard similarity, over
    pairs of neighbouring words, and the same numbers. Below 0.7 more and more pairs are overlooked."""


class DecontaminationConfig(Section):
    """Rows that repeat an item of the suites, or of the holdout, are taken out."""

    enabled: bool = True
    min_containment: float = Field(default=0.6, ge=0.3, le=1.0)
    """Share of an item's distinctive n-grams (three words) that makes a row a copy of it. Rows with
    the whole question, or a whole message of the item, are taken out in any case."""


class PrepareConfig(Section):
    holdout_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the new rows kept out of training; a row's side follows from a hash of its prompt and
    never changes. Leave it and the salt as they are while a champion lives: with others, rows that it
    was trained on count as held out."""
    holdout_salt: str = "ct_llm"
    max_historic_holdout: int = Field(default=1_000, ge=0)
    """How many rows held out in earlier cycles are kept beside the newest ones."""
    max_quarantine_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """More bad rows than this share of the rows read stop the cycle (exit 30)."""
    max_chars: int = Field(default=200_000, ge=1)
    """A row with more characters than this is quarantined."""
    template_tokens: Literal["quarantine", "neutralise"] = "quarantine"
    """Text that a tokenizer would read as the edge of a turn (<|im_start|>, [INST], ...): take the
    row out, or break the token with a zero-width space so that it stays text."""
    secrets: Literal["ignore", "quarantine"] = "ignore"
    """Rows that hold what looks like a key or a token (AWS, GitHub, Hugging Face, private keys, ...)."""
    tool_calls: Literal["auto", "keep", "quarantine"] = "auto"
    """auto: rows with tool calls are kept where the chat template can render them."""
    near_duplicates: NearDuplicateConfig = NearDuplicateConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    replay: ReplayConfig = ReplayConfig()
