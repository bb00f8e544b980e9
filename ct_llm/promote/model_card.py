"""The champion's model card: figures of the records and words about them, never a row's text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ct_llm.config import OVERALL_TARGETS
from ct_llm.hub.ledger import BRANCH, evidence_path
from ct_llm.promote.markdown import inline, table
from ct_llm.records import (
    ChampionRef,
    GateDecision,
    Lineage,
    PreparedData,
    SliceVerdict,
    Verdict,
)

VLLM_DEFAULT_RANK = 16
"""`vllm serve` refuses adapters of a higher rank unless it is told."""

_GATE_SAID: dict[Verdict, str] = {
    "promote": "The gate promoted it.",
    "reject": "The gate rejected it; it stands here because a person approved it.",
    "inconclusive": "The gate could not decide; it stands here because a person approved it.",
}


_ROLE = {"guard": "", "target": " (target)", "anchor": " (against the anchor)"}


@dataclass(frozen=True)
class CardFacts:
    """What a card speaks of."""

    repo: str
    lineage: Lineage
    champion: ChampionRef | None
    """The version before; none: it was compared with the base model itself."""
    decision: GateDecision
    data: PreparedData
    license: str | None
    rank: int | None
    """Of the LoRA matrices."""


def model_card(facts: CardFacts) -> str:
    """README.md of a version: metadata that the Hub reads, then what a reader asks."""
    lineage, decision, data = facts.lineage, facts.decision, facts.data
    name, tag = facts.repo.split("/")[1], f"v{lineage.version}"
    metadata = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True).rstrip()
    return f"""---
{metadata}
---

# {name}, {tag}

A LoRA adapter for {_base_in_words(lineage)}, kept up to date by
[ct_llm](https://github.com/ct-llm/ct_llm): every version was trained on new data and compared, slice
by slice, with the version before it.

## What changed

{_what_changed(facts)} {_GATE_SAID[decision.verdict]}

{inline(decision.sentence)}

{slice_table(decision.slices)}

{table_legend(decision)}

## Data

{_datasets(lineage)}

{data.num_train:,} rows were trained on, {data.num_replay:,} of them replayed from earlier versions;
{data.num_holdout:,} were held out and {data.num_quarantined:,} quarantined.

## Use

{_how_to_load(facts)}

## Limits

The figures speak of these slices and their items, not of other uses. What the base model must not be
used for, this adapter must not be used for either. `ct/lineage.json` says where it comes from,
`ct/scores.json` holds the gate's decision, and `{evidence_path(lineage.cycle_id)}` on the branch
`{BRANCH}` every item's score, from which `ct-llm recheck` computes the verdict again.
"""


def rolled_back_card(card: str, lineage: Lineage) -> str:
    """The card of the version that is the head again, with a note on top that says so."""
    note = (
        f"> **v{lineage.version} is v{lineage.rolled_back_to} again**, byte for byte, since "
        f"{lineage.created_at}: the version after it was rolled back. "
        f"Reason: {inline(lineage.reason or 'not given')}. The rest of this card is "
        f"v{lineage.rolled_back_to}'s own."
    )
    front_matter = re.match(r"---\n.*?\n---\n", card, re.DOTALL)
    start = front_matter.end() if front_matter else 0
    # A rollback of a rollback: its note would now be about the wrong version.
    body = re.sub(r"\A> \*\*v\d+ is v\d+ again\*\*[^\n]*\n+", "", card[start:].lstrip("\n"))
    return f"{card[:start]}\n{note}\n\n{body}"


def slice_table(verdicts: Sequence[SliceVerdict]) -> str:
    """Markdown: a line per test, scores as they are (most suites score from 0 to 1)."""
    header = [
        "slice", "items", "champion", "challenger", "delta", "lower", "upper", "needed", "state",
    ]  # fmt: skip
    rows = [
        [
            inline(v.slice) + _ROLE[v.role],
            num_items(v),
            score(v.champion_mean),
            score(v.challenger_mean),
            signed(v.delta),
            signed(v.lower),
            signed(v.upper),
            f"{'>' if v.strict else '≥'} {signed(v.threshold)}"
            + ("" if v.floor is None else f", mean ≥ {score(v.floor)}"),
            _state(v),
        ]
        for v in verdicts
    ]
    return table(header, rows)


def num_items(verdict: SliceVerdict) -> str:
    """e.g. 128 of 1,319 where the gate needed no more of them."""
    if verdict.state == "NOT_EVALUATED" or verdict.num_used == verdict.num_items:
        return f"{verdict.num_items:,}"
    return f"{verdict.num_used:,} of {verdict.num_items:,}"


def table_legend(decision: GateDecision) -> str:
    """How to read the columns, and what is special about this table."""
    population = decision.mode == "population"
    lines = [
        "Mean scores. *lower* and *upper* are one-sided confidence bounds of the delta"
        + (" for items like these" if population else " over all items of the slice")
        + ". *needed*: what the delta must reach.",
    ]
    if decision.mode == "full":
        lines.append("Every item was scored, as far as it could matter, so no risk was taken.")
    else:
        lines.append(
            "The risk of another verdict than "
            + ("that of unlimited items" if population else "the full evaluation's")
            + f" is at most {decision.alpha:g}."
        )
    if any(0 < v.num_used < v.num_items for v in decision.slices):
        lines.append(
            "Scoring stopped as soon as the verdict was certain up to that risk; a mean over a part "
            "of the items is biased by the stopping, its bounds are not."
        )
    if decision.anchor_revision is not None:
        lines.append(
            f"*against the anchor*: the same slice compared with the earlier champion at "
            f"`{decision.anchor_revision[:12]}` instead, whose mean stands under champion."
        )
    if decision.budget_reached:
        lines.append("The evaluation's budget ran out before everything was decided.")
    return "\n".join(lines)


def _state(verdict: SliceVerdict) -> str:
    if verdict.floor_met is False:
        return "below its floor"
    if verdict.state == "PASS" and verdict.floor is not None and verdict.floor_met is None:
        return "floor undecided"
    return verdict.state.replace("_", " ").lower()


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return "–" if value is None else f"{round(value, 4) + 0.0:+.4f}"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    lineage = facts.lineage
    metadata: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["ct_llm", "lora"],
    }
    # Two configs of one repo are one dataset; a folder or a bucket is none of the Hub's.
    on_hub = [seen.repo for seen in lineage.datasets if re.fullmatch(r"[\w.-]+/[\w.-]+", seen.repo)]
    if on_hub:
        metadata["datasets"] = list(dict.fromkeys(on_hub))
    if _is_on_hub(lineage):
        metadata["base_model"] = lineage.base_model
    if facts.license is not None:
        metadata["license"] = facts.license
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": v.slice, "type": f"ct_llm-{v.slice}"},
            "metrics": [
                {"type": "score", "name": _metric(v), "value": round(v.challenger_mean, 6)}
            ],
        }
        for v in facts.decision.slices
        # An anchor's line is about the same items again, an overall target's about all of them.
        if v.challenger_mean is not None and v.role != "anchor" and v.slice not in OVERALL_TARGETS
    ]
    if results:
        name = facts.repo.split("/")[1]
        metadata["model-index"] = [{"name": name, "results": results}]
    return metadata


def _metric(verdict: SliceVerdict) -> str:
    partial = verdict.num_used < verdict.num_items
    return f"mean score of {num_items(verdict)} items" if partial else "mean score"


def _what_changed(facts: CardFacts) -> str:
    champion = facts.champion
    if champion is None:
        return "The first version, compared with the base model itself, on the same items."
    against = f"Compared with v{champion.version}, on the same items."
    if champion.lineage is None:
        return against
    before = {seen.name: seen.num_rows for seen in champion.lineage.datasets}
    rows = sum(seen.num_rows - before.get(seen.name, 0) for seen in facts.lineage.datasets)
    return f"{against} The datasets changed by {rows:+,} rows since."


def _datasets(lineage: Lineage) -> str:
    return "\n".join(
        f"- `{seen.repo}` up to revision `{seen.revision}`: {seen.num_rows:,} rows"
        for seen in lineage.datasets
    )


def _how_to_load(facts: CardFacts) -> str:
    lineage, repo = facts.lineage, facts.repo
    name, tag = repo.split("/")[1], f"v{lineage.version}"
    pinned = f', revision="{lineage.base_revision}"' if _is_on_hub(lineage) else ""
    rank = f" --max-lora-rank {facts.rank}" if (facts.rank or 0) > VLLM_DEFAULT_RANK else ""
    revision = f" --revision {lineage.base_revision}" if _is_on_hub(lineage) else ""
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{lineage.base_model}"{pinned})
model = PeftModel.from_pretrained(base, "{repo}", revision="{tag}")
```

```bash
hf download {repo} --revision {tag} --local-dir {name}-{tag}
vllm serve {lineage.base_model}{revision} --enable-lora{rank} --lora-modules {name}=./{name}-{tag}
```"""


def _base_in_words(lineage: Lineage) -> str:
    where = f"`{lineage.base_model}` at `{lineage.base_revision}`"
    return where if _is_on_hub(lineage) else f"the local base model {where} (digest of its files)"


def _is_on_hub(lineage: Lineage) -> bool:
    """A base model that was read from a local folder has only the folder's name."""
    return "/" in lineage.base_model
