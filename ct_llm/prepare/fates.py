"""What becomes of each new row: duplicate, known already, a copy of an evaluation's item, kept.

Every decision depends on the set of rows alone, not on their files or order. A row's side never
changes when other rows come; it may only be left out, when one that says the same came with it.
"""

from collections.abc import Sequence

import numpy as np

from ct_llm.config import DatasetConfig, NearDuplicateConfig
from ct_llm.prepare.columns import Rows, first_of_each, known
from ct_llm.prepare.overlap.decontaminate import Decontaminator, EvalItem, Hit
from ct_llm.prepare.overlap.near_duplicates import keep_one_of_each, match_history, similar_prompts
from ct_llm.prepare.texts import message_texts, num_turns, split_text

HELD_OUT_SLICE = "holdout"
HELD_OUT_CONTAINMENT = 0.9
"""Rows of one source share wording with held-out ones by nature; items of a benchmark do not."""
MIN_QUESTION_WORDS = 6
"""A held-out prompt as short as "thanks" would condemn every conversation that holds it."""
_BATCH = 16_384


def distinct(rows: Rows, datasets: Sequence[DatasetConfig]) -> Rows:
    """One of each id, sorted by id: of the dataset that the config names first, whichever file it is in.

    Rows of one id may differ in blanks, and in their source: then hash and name decide.
    """
    first, _ = first_of_each(rows.ids, *preference(rows, datasets))
    return rows if len(first) == len(rows) else rows.take(first)


def preference(rows: Rows, datasets: Sequence[DatasetConfig]) -> tuple[np.ndarray, ...]:
    """Which of several rows of one id is taken: keys, the most important one first."""
    rank = {dataset.key: number for number, dataset in enumerate(datasets)}
    return rows.per_file(lambda file: rank[file.dataset]), rows.text_hashes, rows.sources[1]


def not_seen(rows: Rows, earlier: Rows) -> Rows:
    """Those whose id no earlier row has."""
    return rows.take(~known(rows.ids, earlier.ids))


def not_nearly_seen(rows: Rows, earlier: Rows, config: NearDuplicateConfig) -> Rows:
    """Those that no earlier row says in nearly the same words. earlier: all rows of its files."""
    if not config.enabled or not len(rows) or not len(earlier):
        return rows
    return rows.without(match_history(rows.corpus(), earlier.corpora(), config.min_similarity))


def no_near_duplicates(rows: Rows, config: NearDuplicateConfig) -> Rows:
    """One of those that say the same in nearly the same words."""
    if not config.enabled or len(rows) < 2:
        return rows
    order = np.lexsort((rows.ids[:, 1], rows.ids[:, 0]))
    keeper = keep_one_of_each(rows.corpus(), order, config.min_similarity)
    return rows.take(keeper == np.arange(len(rows)))


def contamination(rows: Rows, items: Decontaminator | None) -> dict[int, Hit]:
    """Row to the item that it repeats."""
    hits: dict[int, Hit] = {}
    for start in range(0, len(rows) if items else 0, _BATCH):
        some = range(start, min(start + _BATCH, len(rows)))
        assert items is not None
        found = items.find([message_texts(text) for text in rows.messages(some)])
        hits.update((index, hit) for index, hit in zip(some, found, strict=True) if hit)
    return hits


def not_like(rows: Rows, others: Rows, config: NearDuplicateConfig) -> Rows:
    """Those that none of the others says in nearly the same words, or asks for."""
    if not config.enabled or not len(rows) or not len(others):
        return rows
    corpus, other = rows.corpus(), [others.corpus()]
    alike = match_history(corpus, other, config.min_similarity)
    return rows.without({*alike, *similar_prompts(corpus, other)})


def held_out_items(rows: Rows) -> list[EvalItem]:
    """Held-out rows as items that no training row may repeat."""
    items = []
    for row_id, messages in zip(rows.row_ids(), rows.messages(range(len(rows))), strict=True):
        prompt, response = split_text(messages)
        # Of a conversation, the last question alone may be as common as "and why?".
        is_question = num_turns(messages) == 1 and len(prompt.split()) >= MIN_QUESTION_WORDS
        items.append(
            EvalItem(
                slice=HELD_OUT_SLICE,
                item_id=row_id.hex()[:16],
                question=prompt if is_question else "",
                texts=(f"{prompt}\n{response}",),
                min_containment=HELD_OUT_CONTAINMENT,
            )
        )
    return items


def not_too_near(held_out: Rows, train: Rows, earlier: Rows) -> Rows:
    """Held-out rows whose prompt neither a training row nor an earlier one has in nearly its words.

    The held-out row goes, not the training rows: a cluster of similar prompts loses one row by it.
    earlier: all rows of its files.
    """
    if not len(held_out):
        return held_out
    return held_out.without(
        similar_prompts(held_out.corpus(), [train.corpus(), *earlier.corpora()])
    )
