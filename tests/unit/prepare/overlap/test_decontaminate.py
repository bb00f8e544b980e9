from collections import Counter

import pytest

from ct_llm.prepare.overlap.decontaminate import Decontaminator, EvalItem, Hit
from scripts.bench.planted import Row, planted_world

CLIPS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
SOLUTION = (
    "In May Natalia sold half of 48, which makes 24 clips to her friends. Together with those of April "
    "that is 48 + 24 = 72 clips, so over both months she sold 72 clips altogether."
)
TEXTBOOK = "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)"
OTHER = "I am not sure, but I would say that it depends on what you had in mind."


def item(question: str, *texts: str, **more: object) -> EvalItem:
    return EvalItem("reasoning", question[:10], question, (question, *texts), **more)  # type: ignore[arg-type]


def hit(items: list[EvalItem], *messages: str) -> Hit | None:
    (found,) = Decontaminator(items, 0.6).find([messages])
    return found


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([CLIPS, OTHER], "exact"),
        ([CLIPS.upper().replace(",", ""), OTHER], "exact"),
        (["Hello", "Hi!", f" {CLIPS}\n", OTHER], "exact"),
        ([CLIPS[:80], CLIPS[80:]], "exact"),
        (["Explain it.", SOLUTION], "exact"),
        ([f"Please solve: {CLIPS} Thanks", OTHER], "question"),
        (["Make up an example.", f"Gladly. {CLIPS} That is one."], "question"),
        ([CLIPS.replace("clips in May", "in May"), OTHER], "ngrams"),
        ([CLIPS[24:], OTHER], "ngrams"),
        ([CLIPS.replace("clips in May", "in May"), "In 2 months she sold 48 + 24 = 72."], "ngrams"),
        # The number is gone, but no other one stands there.
        ([CLIPS.replace("48 of her", "her"), OTHER], "ngrams"),
        ([CLIPS[:90], "Go on.", CLIPS[90:], OTHER], "ngrams"),
        (["Explain it.", f"{SOLUTION[:100]}, you see, {SOLUTION[100:]}"], "ngrams"),
    ],
)
def test_what_people_paste(messages: list[str], kind: str) -> None:
    found = hit([item("What is it?"), item(CLIPS, SOLUTION, "72")], *messages)
    assert found is not None
    assert (found.item, found.kind) == (1, kind)
    assert found.containment == 1.0 if kind != "ngrams" else 0.6 <= found.containment <= 1.0


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [""],
        ["72", "True"],
        ["Hello", OTHER],
        ["Natalia sold clips to her friends.", "How many did she sell?"],
        ["How many clips did she have?", "Half as many clips in May as in April, that is 24."],
        ["Fibonacci?", f"So:\n{TEXTBOOK}\nThat is all."],
        ["What is it like?", OTHER],
        # Another item of the template.
        [CLIPS.replace("48", "52"), "In May she sold 26, so 52 + 26 = 78 clips."],
    ],
)
def test_what_is_no_copy(messages: list[str]) -> None:
    items = [item(CLIPS, SOLUTION, "72", "True"), item("What is it?"), item("Do it.", TEXTBOOK)]
    assert hit(items, *messages) is None


def test_short_items_are_found_as_whole_messages_alone() -> None:
    items = [item("not True and False is", "False"), item("5 - 3 =")]
    assert hit(items, "not True and False is", "False") == Hit(0, "exact", 1.0)
    assert hit(items, " NOT true and false is ", "...") == Hit(0, "exact", 1.0)
    assert hit(items, "5 - 3 =", "2") == Hit(1, "exact", 1.0)
    assert hit(items, "True or not True and False is", "True") is None
    assert hit(items, "5 + 3 =", "8") is None
    assert hit(items, "-5 - 3 =", "-8") is None
    assert hit(items, "False", "False") is None


def test_items_that_differ_in_marks_alone() -> None:
    # As in BIG-Bench Hard's dyck_languages: all of the item is in its brackets.
    asked = (
        "Complete the rest of the sequence, making sure that the parentheses are closed. Input: "
    )
    items = [item(asked + "[ ( <"), item(asked + "( [ ]"), item(asked + "{ }")]
    assert hit(items, asked + "( [ ]", OTHER) == Hit(1, "exact", 1.0)
    assert hit(items, asked.lower() + "([]", OTHER) == Hit(1, "exact", 1.0)
    assert hit(items, asked + "( ( )", OTHER) is None


def test_rows_of_the_items_template_are_honest() -> None:
    template = (
        "If you follow these instructions, do you return to the starting point? Always face forward. "
        "Take {} steps left. Take {} steps forward. Take {} steps right. Options: Yes, No"
    )
    items = [item(template.format(a, a + 1, a + 2)) for a in range(20)]
    assert hit(items, template.format(4, 5, 6), "No") == Hit(4, "exact", 1.0)
    assert hit(items, "Q: " + template.format(4, 5, 6), "No") == Hit(4, "question", 1.0)
    assert hit(items, template.format(4, 4, 4), "No") is None
    assert hit(items, template.format(6, 5, 4), "No") is None


def test_wording_is_counted_by_slice() -> None:
    # What many items of one slice share is wording; what other slices share with it does not matter.
    same = "What is the best way to get from the old town of {} to the airport by night?"
    near = same.format("Basel or so") + " Quickly."
    one_slice = [item(same.format(name * 3)) for name in "abcdefghijkl"]
    assert hit(one_slice, near, OTHER) is None
    own_slices = [found._replace(slice=found.question) for found in one_slice]
    found = hit(own_slices, near, OTHER)
    assert found is not None and (found.item, found.kind) == (0, "ngrams")


def test_an_item_may_ask_for_more() -> None:
    near = CLIPS.replace("clips in May", "in May")
    assert hit([item(CLIPS, min_containment=0.95)], near, OTHER) is None
    assert hit([item(CLIPS, min_containment=0.95)], CLIPS + " Thanks", OTHER) is not None


def test_no_question() -> None:
    said = EvalItem("holdout", "1", "", (f"{CLIPS}\n{SOLUTION}",), 0.9)
    assert hit([said], CLIPS, SOLUTION) == Hit(0, "exact", 1.0)
    assert hit([said], CLIPS, OTHER) is None
    assert hit([said], "", "") is None


def test_the_strongest_hit_and_the_first_of_equals() -> None:
    items = [item(CLIPS + " And in June?"), item(CLIPS), item(CLIPS), item("Why is it so quiet?")]
    assert hit(items, CLIPS, OTHER) == Hit(1, "exact", 1.0)
    assert hit(items, "Please: " + CLIPS, "Why is it so quiet?") == Hit(3, "exact", 1.0)
    assert hit(items, "Please: " + CLIPS, OTHER) == Hit(1, "question", 1.0)


def test_no_items_and_no_rows() -> None:
    assert Decontaminator([], 0.6).find([["a", CLIPS], []]) == [None, None]
    assert Decontaminator([item(CLIPS), item(""), item("...")], 0.6).find([]) == []


def texts(row: Row) -> list[str]:
    return [message["content"] for message in row]


def test_planted_copies_are_found_and_little_else() -> None:
    world = planted_world(6_000, 2_000, 300, 300, seed=3)
    hits = Decontaminator(world.items, 0.6).find([texts(row) for row in world.rows])
    found: Counter[str] = Counter()
    for index, planted in world.truth.items():
        found[planted.kind] += hits[index] is not None
        if planted.kind == "exact":
            same = hits[index]
            assert same is not None
            assert world.items[same.item].question == world.items[planted.item].question
    clean = sum(hits[index] is not None for index in range(len(hits)) if index not in world.truth)
    assert found["exact"] == 300
    assert found["near"] >= 0.95 * 300
    assert clean <= 0.001 * len(world.rows)


def test_a_rows_hit_depends_on_the_row_alone() -> None:
    world = planted_world(1_500, 400, 100, 100, seed=4)
    rows = [texts(row) for row in world.rows]
    decontaminator = Decontaminator(world.items, 0.6)
    together = decontaminator.find(rows)
    assert decontaminator.find(rows[::-1]) == together[::-1]
    assert [decontaminator.find([row])[0] for row in rows[:200]] == together[:200]
