from ct_llm.config import PromoteConfig
from ct_llm.hub.adapter_repo import AdapterHead
from ct_llm.promote.promote import summarise_cycle
from ct_llm.promote.review import MAX_SAMPLES_CHARS, describe, review_title
from ct_llm.records import ChampionRef, GateDecision, LedgerHead, PromotionRecord
from tests.unit.promote.cycle_records import (
    damaged_item,
    decide,
    lineage,
    prepared,
    request,
    slice_verdict,
    snapshot,
)

CHAMPION = ChampionRef(repo="acme/adapter", revision="9" * 40, version=2, lineage=lineage(2))
REQUEST = request(AdapterHead("acme/adapter", "9" * 40, CHAMPION, LedgerHead()))


def described(decision: GateDecision, *, include_samples: bool = True) -> str:
    config = PromoteConfig(include_samples=include_samples)
    return describe(config, REQUEST, prepared(), decision, lineage(3))


def test_the_description_has_what_a_person_decides_on() -> None:
    text = described(decide("a" * 64, "reject", damaged_items=(damaged_item(),)))
    assert text.startswith("**newest rose by 2.5 points")
    assert "was compared with v2, item by item" in text
    assert "| coding | 400 | 0.5000 | 0.5250 | +0.0250 |" in text and "| fail |" in text
    assert "1,100 rows (100 replayed), 10 held out, 3 quarantined, of 1,213 read" in text
    assert "**Approve**: merge this pull request" in text and "tags it `v3`" in text
    assert "**Decline**: close it" in text
    assert "### coding, sums/3/0123456789abcdef: -1.0000" in text
    assert "```text\nSECRET-PROMPT: add 2 and 2\n```" in text


def test_without_samples_items_are_named_and_not_shown() -> None:
    decision = decide("a" * 64, "reject", damaged_items=(damaged_item(),))
    text = described(decision, include_samples=False)
    assert "- coding, sums/3/0123456789abcdef: -1.0000" in text and "SECRET" not in text


def test_hostile_samples_cannot_leave_their_fence() -> None:
    hostile = damaged_item(
        item_id="a|b/`1`/<x>",
        prompt="```\n## What to do\n- merge this pull request",
        challenger_output="`````\n</details>",
    )
    text = described(decide("a" * 64, "reject", damaged_items=(hostile,)))
    assert r"### coding, a\|b/\`1\`/&lt;x&gt;: -1.0000" in text
    assert "````text\n```\n## What to do" in text
    assert "``````text\n`````\n</details>\n``````" in text


def test_the_description_stays_short_enough_for_the_hub() -> None:
    long = damaged_item(prompt="x" * 10**6, champion_output="`" * 10**5)
    text = described(decide("a" * 64, "reject", damaged_items=(long,) * 50))
    assert len(text) < MAX_SAMPLES_CHARS + 10_000
    assert text.count("### coding") == 50 and "left out: the samples above are long" in text


def test_the_title_names_verdict_and_cycle() -> None:
    assert review_title(REQUEST, decide("a" * 64, "reject")) == "Rejected: challenger of cycle c1"
    title = review_title(REQUEST, decide("a" * 64, "inconclusive"))
    assert title == "Inconclusive: challenger of cycle c1"


def test_the_summary_keeps_what_the_attempt_used_whatever_came_of_it() -> None:
    review = PromotionRecord(
        outcome="review",
        repo="acme/adapter",
        revision=None,
        version=None,
        tag=None,
        parent_revision="9" * 40,
        review_number=4,
        url="http://hub/acme/adapter/discussions/4",
    )
    decision = decide("a" * 64, "reject")
    summary = summarise_cycle(
        REQUEST, snapshot(70), prepared(), decision, review, {"train": 2.0}, "2026-11-24T17:00:00Z"
    )
    assert (summary.outcome, summary.version, summary.review_number) == ("rejected", None, 4)
    assert [(d.repo, d.num_rows) for d in summary.datasets] == [("acme/rows", 70)]
    assert (summary.num_train, summary.slices) == (1100, decision.slices)


def test_the_description_says_what_was_not_scored_and_where_the_evidence_is() -> None:
    part = slice_verdict(num_items=1319, num_used=128, state="UNDECIDED")
    decision = decide("a" * 64, "inconclusive", slices=(part,), budget_reached=True)
    text = described(decision)
    assert "| coding | 128 of 1,319 |" in text and "| undecided |" in text
    assert "The evaluation's budget ran out" in text
    assert "`evidence/c1.parquet`" in text and "`ct-llm recheck c1`" in text
