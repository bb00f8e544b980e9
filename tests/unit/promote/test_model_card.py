import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData

from ct_llm.promote.model_card import (
    CardFacts,
    model_card,
    rolled_back_card,
    score,
    signed,
    slice_table,
    table_legend,
)
from ct_llm.records import ChampionRef, SeenDataset
from tests.unit.promote.cycle_records import (
    damaged_item,
    decide,
    lineage,
    prepared,
    slice_verdict,
)


def facts(**changes: Any) -> CardFacts:
    before = lineage(
        2, datasets=(SeenDataset(name="rows", repo="acme/rows", revision="c" * 40, num_rows=100),)
    )
    known = {
        "repo": "acme/adapter",
        "lineage": lineage(3),
        "champion": ChampionRef(repo="acme/adapter", revision="9" * 40, version=2, lineage=before),
        "decision": decide("a" * 64, damaged_items=(damaged_item(),)),
        "data": prepared(),
        "license": "apache-2.0",
        "rank": 8,
    }
    return CardFacts(**{**known, **changes})


def metadata(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_metadata_is_what_the_hub_reads() -> None:
    data = ModelCardData(**metadata(model_card(facts())), ignore_metadata_errors=False)
    known = data.to_dict()
    assert (known["base_model"], known["library_name"]) == ("acme/base", "peft")
    assert (known["license"], known["datasets"]) == ("apache-2.0", ["acme/rows"])
    assert (known["pipeline_tag"], known["tags"]) == ("text-generation", ["ct_llm", "lora"])
    # Read back by the client's own parser of the model-index.
    assert data.eval_results is not None
    results = {result.dataset_name: result.metric_value for result in data.eval_results}
    assert results == {"coding": 0.525, "newest": 0.525}


def test_no_text_of_any_row_enters_the_card() -> None:
    assert "SECRET" not in model_card(facts())


def test_the_card_says_what_changed_and_how_to_load_this_very_version() -> None:
    card = model_card(facts())
    assert "# adapter, v3" in card
    assert "Compared with v2, on the same items. The datasets changed by +20 rows since." in card
    assert 'PeftModel.from_pretrained(base, "acme/adapter", revision="v3")' in card
    assert f'from_pretrained("acme/base", revision="{"b" * 40}")' in card
    assert "--lora-modules adapter=./adapter-v3" in card
    assert "1,100 rows were trained on, 100 of them replayed" in card
    assert "The gate promoted it." in card


@pytest.mark.parametrize(("rank", "shown"), [(16, False), (64, True), (None, False)])
def test_vllm_is_told_of_a_high_rank(rank: int | None, shown: bool) -> None:
    assert ("--max-lora-rank 64" in model_card(facts(rank=rank))) is shown


def test_first_version_without_license_on_a_local_base_model() -> None:
    local = lineage(1, base_model="tiny", base_revision="e" * 64)
    card = model_card(facts(lineage=local, champion=None, license=None))
    assert not {"base_model", "license"} & metadata(card).keys()
    assert "The first version, compared with the base model itself" in card
    assert "local base model" in card and 'from_pretrained("tiny")' in card


def test_a_version_approved_against_the_verdict_says_so() -> None:
    card = model_card(facts(decision=decide("a" * 64, "reject")))
    assert "The gate rejected it; it stands here because a person approved it." in card


def test_a_slice_without_scores_has_no_result() -> None:
    blank = slice_verdict(
        state="NOT_EVALUATED", champion_mean=None, challenger_mean=None, delta=None, lower=None,
        upper=None,
    )  # fmt: skip
    card = model_card(facts(decision=decide("a" * 64, "inconclusive", slices=(blank,))))
    assert "model-index" not in metadata(card)
    assert "| – | – | – | – | – | ≥ -0.0200 | not evaluated |" in card


def test_a_part_of_the_items_is_said_to_be_one() -> None:
    part = slice_verdict(num_items=1319, num_used=128)
    card = model_card(facts(decision=decide("a" * 64, slices=(part,))))
    assert "| coding | 128 of 1,319 | 0.5000 |" in card
    assert "Scoring stopped as soon as the verdict was certain" in card
    assert "The risk of another verdict than the full evaluation's is at most 0.05." in card
    (result,) = metadata(card)["model-index"][0]["results"]
    assert result["metrics"][0]["name"] == "mean score of 128 of 1,319 items"
    assert "Scoring stopped" not in model_card(facts())


def test_the_anchor_has_a_line_of_its_own_and_no_result() -> None:
    anchor = slice_verdict(role="anchor", champion_mean=0.61, threshold=-0.04)
    pooled = slice_verdict("pooled", role="target", strict=True, threshold=0.0)
    decision = decide("a" * 64, slices=(slice_verdict(), pooled, anchor), anchor_revision="7" * 40)
    card = model_card(facts(decision=decision))
    assert "| coding (against the anchor) | 400 | 0.6100 |" in card and "≥ -0.0400" in card
    assert f"the earlier champion at `{'7' * 12}`" in card
    (result,) = metadata(card)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "coding"
    assert result["metrics"][0]["value"] == 0.525


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"mode": "full"},
            "Every item was scored, as far as it could matter, so no risk was taken.",
        ),
        ({"mode": "population"}, "for items like these"),
        ({"budget_reached": True}, "The evaluation's budget ran out"),
    ],
)
def test_the_legend_says_what_is_special(changes: dict[str, Any], said: str) -> None:
    assert said in table_legend(decide("a" * 64, **changes))
    assert said not in table_legend(decide("a" * 64))


def test_an_open_floor_and_an_open_slice_are_not_passed() -> None:
    open_floor = slice_verdict("a", floor=0.6, floor_met=None)
    undecided = slice_verdict("b", "UNDECIDED", num_used=0, champion_mean=None)
    lines = slice_table([open_floor, undecided]).splitlines()
    assert lines[2].endswith("| floor undecided |")
    assert lines[3].startswith("| b | 0 of 400 | – |") and lines[3].endswith("| undecided |")


def test_a_stranger_is_told_where_the_evidence_is() -> None:
    card = model_card(facts())
    assert "`evidence/c1.parquet` on the branch" in card and "`ct-llm recheck`" in card


def test_the_table_has_a_cell_for_every_column() -> None:
    floor = slice_verdict("a_b", floor=0.6, floor_met=False)
    lines = slice_table([floor, slice_verdict("newest", role="target", strict=True)]).splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert r"a\_b" in lines[2] and "mean ≥ 0.6000 | below its floor" in lines[2]
    assert "newest (target)" in lines[3] and "> -0.0200 | pass" in lines[3]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (-0.00001, "+0.0000"), (0.5, "+0.5000"), (-0.25, "-0.2500")]
)
def test_signed(value: float | None, shown: str) -> None:
    assert signed(value) == shown


def test_score() -> None:
    assert (score(None), score(0.12345)) == ("–", "0.1235")


def test_a_rolled_back_card_is_the_old_one_under_a_note() -> None:
    old = model_card(facts())
    back = lineage(5, rolled_back_to=3, rolled_back_from="8" * 40, reason="bad\n# heading |")
    card = rolled_back_card(old, back)
    assert metadata(card) == metadata(old)
    assert r"> **v5 is v3 again**" in card and r"Reason: bad \# heading \|." in card
    assert old.split("---\n", 2)[2].strip() in card
    again = rolled_back_card(card, back.model_copy(update={"version": 7}))
    assert again.count("again**") == 1 and "v7 is v3 again" in again


def test_a_card_without_front_matter_gets_the_note_too() -> None:
    back = lineage(2, rolled_back_to=1, rolled_back_from="8" * 40)
    assert rolled_back_card("", back).strip().startswith("> **v2 is v1 again**")
    assert rolled_back_card("# Mine\n", back).endswith("# Mine\n")
