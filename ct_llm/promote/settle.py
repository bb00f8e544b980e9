"""Complete what a lost machine, or a person on the Hub's own page, left half-done.

The champion's commit says everything: its lineage names version and cycle, `ct/scores.json` holds
the decision. So its tag and its entry in the ledger can be made from the Hub alone.
"""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from ct_llm.cycle_dir import now
from ct_llm.errors import InputError
from ct_llm.hub.adapter_repo import SCORES, AdapterHead, read_versions, tag_version
from ct_llm.hub.client import read_file
from ct_llm.hub.ledger import append_to_ledger, read_entry
from ct_llm.records import ChampionRef, CycleSummary, GateDecision, Lineage

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def settle(api: "HfApi", head: AdapterHead) -> bool:
    """Set the champion's tag and enter its cycle in the ledger, where they are missing.

    So it is after a machine was lost between commit and ledger, and after a person merged a review.
    True: the ledger has changed, so what `head` says of it is no longer so. The table of used files
    is the cycle's own, if it got so far; else the dataset's tree will stand in for it.

    Raises InputError, HubAccessError, HubUnavailableError.
    """
    champion = head.champion
    lineage = champion.lineage if champion else None
    if champion is None or lineage is None:
        return False
    if lineage.version not in read_versions(api, head.repo):
        tag_version(api, head.repo, lineage, champion.revision)
    # A rollback enters itself under an id of its own; asked for again, it completes that.
    if lineage.rolled_back_from is not None:
        return False
    entry = _find_entry(api, head, lineage)
    if entry is not None and entry.outcome == "promoted":
        return False
    append_to_ledger(api, head.repo, _promoted(api, champion, lineage, entry))
    return True


def _find_entry(api: "HfApi", head: AdapterHead, lineage: Lineage) -> CycleSummary | None:
    last = head.last_attempt
    if last is not None and last.cycle_id == lineage.cycle_id:
        return last
    return read_entry(api, head.repo, lineage.cycle_id)


def _promoted(
    api: "HfApi", champion: ChampionRef, lineage: Lineage, entry: CycleSummary | None
) -> CycleSummary:
    """The cycle's entry as it is now. What the cycle itself has entered stays, its time too: a merge
    days later is no cycle of that day, and spends nothing of its budget."""
    decision = _decision(api, champion)
    sentence = decision.sentence if decision else "Promoted; its decision is not on the Hub."
    if decision is not None and not decision:
        sentence = f"A person merged the review of this cycle. The gate had said: {sentence}"
    found = entry or CycleSummary(
        cycle_id=lineage.cycle_id,
        outcome="promoted",
        sentence=sentence,
        version=None,
        revision=None,
        parent_revision=None,
        challenger_digest=None,
        finished_at=now(),
    )
    return found.model_copy(
        update={
            "outcome": "promoted",
            "sentence": sentence,
            "version": lineage.version,
            "revision": champion.revision,
            "parent_revision": lineage.parent_revision,
            "challenger_digest": lineage.adapter_digest,
            "datasets": lineage.datasets,
            "slices": decision.slices if decision else found.slices,
        }
    )


def _decision(api: "HfApi", champion: ChampionRef) -> GateDecision | None:
    content = read_file(api, champion.repo, SCORES, champion.revision, "model")
    if content is None:
        return None
    try:
        return GateDecision.model_validate_json(content)
    except ValidationError:
        raise InputError(
            f"{champion.repo} at {champion.revision[:12]}: {SCORES} is not a gate's decision. It was "
            "changed by hand or by another version; restore or delete the file."
        ) from None
