"""Drift: what is told apart, what must not be, and that nothing hostile breaks it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from ct_llm.config import DriftConfig
from ct_llm.records import DriftReport, SampledRow
from ct_llm.watch.drift import language, measure_drift
from ct_llm.watch.scripts import NOTHING, OTHER, SYMBOLS, script_shares
from ct_llm.watch.two_samples import auc_with_p_value, tell_apart

pytestmark = pytest.mark.slow

CONFIG = DriftConfig()
WORDS = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "round",
    "small",
    "large",
    "near",
    "far",
    "slow",
    "quick",
    "warm",
    "cold",
]


def made(count: int, seed: int, extra: str = "") -> list[SampledRow]:
    chosen = random.Random(seed)
    texts = (" ".join(chosen.choices(WORDS, k=12)) + extra for _ in range(count))
    return [SampledRow(text, "made") for text in texts]


def instructions(path: Path) -> list[SampledRow]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        SampledRow(
            "\n".join((row["instruction"], row.get("input") or "", row["output"])), path.stem
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def alpaca(real_data: Path) -> list[SampledRow]:
    return instructions(real_data / "train" / "llama_factory" / "alpaca_en_demo.json")


@pytest.fixture(scope="module")
def chinese(real_data: Path) -> list[SampledRow]:
    return instructions(real_data / "train" / "llama_factory" / "alpaca_zh_demo.json")


@pytest.fixture(scope="module")
def arithmetic(real_data: Path) -> list[SampledRow]:
    return instructions(real_data / "train" / "gsm8k_instruct" / "gsm_8k_train.json")


def feature(report: DriftReport, name: str) -> float:
    return next(found.value for found in report.features if found.feature == name)


# ---------------------------------------------------------------- what it finds


def test_another_language_is_named(alpaca: list[SampledRow], chinese: list[SampledRow]) -> None:
    report = measure_drift(chinese[:400], alpaca[:400], CONFIG)
    assert report.drifted
    assert report.auc > 0.99
    assert report.features[0].feature in ("language", "source")
    assert feature(report, "language") > 0.9
    assert feature(report, "script") > 0.8
    by_name = {found.feature: found.sentence for found in report.features}
    assert "zh" in by_name["language"]
    assert "Han" in by_name["script"]
    assert any("\u4e00" <= char <= "\u9fff" for char in "".join(report.words))


def test_another_task_in_the_same_language_is_found(
    alpaca: list[SampledRow], arithmetic: list[SampledRow]
) -> None:
    report = measure_drift(arithmetic[:400], alpaca[:400], CONFIG)
    assert report.drifted
    assert feature(report, "language") < 0.05
    assert feature(report, "script") > 0.05, "more digits and signs"
    assert {"=", "how"} <= set(report.words)


def test_a_twentieth_of_other_rows_is_no_drift_but_half_is(
    alpaca: list[SampledRow], arithmetic: list[SampledRow]
) -> None:
    few = measure_drift([*alpaca[:475], *arithmetic[:25]], alpaca[475:], CONFIG)
    many = measure_drift([*alpaca[:250], *arithmetic[:250]], alpaca[250:], CONFIG)
    assert not few.drifted
    assert many.drifted
    assert few.auc < many.auc


@pytest.mark.parametrize(("num_new", "num_reference"), [(200, 2_000), (2_000, 200)])
def test_samples_of_unequal_size(num_new: int, num_reference: int) -> None:
    same = measure_drift(made(num_new, 1), made(num_reference, 2), CONFIG)
    other = measure_drift(made(num_new, 1, " loud"), made(num_reference, 2), CONFIG)
    assert not same.drifted
    assert other.drifted
    assert other.auc > 0.99
    assert any("loud" in word for word in other.words)


def test_another_mix_of_sources_and_longer_rows() -> None:
    pairs = zip(made(300, 1), made(300, 2), strict=True)
    longer = [SampledRow(f"{a.text} {b.text}", "web") for a, b in pairs]
    report = measure_drift([*longer, *made(100, 3)], made(400, 4), CONFIG)
    by_name = {found.feature: found for found in report.features}
    assert by_name["source"].value == pytest.approx(0.75)
    assert by_name["length"].value == pytest.approx(0.75, abs=0.02)
    for name in ("source", "length"):
        assert (by_name[name].p_value or 1) < 0.01
    values = [found.value for found in report.features]
    assert values == sorted(values, reverse=True)


# ---------------------------------------------------------------- what it must not find


def test_p_values_are_uniform_without_drift(arithmetic: list[SampledRow]) -> None:
    pool = [row.text for row in arithmetic[:240]]
    p_values = []
    for seed in range(60):
        random.Random(seed).shuffle(pool)
        p_values.append(tell_apart(pool[:120], pool[120:], seed=seed).p_value)
    for level in (0.05, 0.25, 0.5, 0.75):
        count = sum(p_value <= level for p_value in p_values)
        low, high = binom.ppf([0.0005, 0.9995], 60, level)
        assert low <= count <= high, f"{count} of 60 p-values are at most {level}"


def test_p_value_is_that_of_mann_and_whitney() -> None:
    from scipy.stats import mannwhitneyu

    drawn = np.random.default_rng(0)
    scores, is_new = drawn.normal(size=300), np.arange(300) < 120
    scores[is_new] += 0.2
    auc, p_value = auc_with_p_value(scores, is_new, fixed=np.zeros(300, bool), seed=1)
    exact = mannwhitneyu(scores[is_new], scores[~is_new], alternative="greater")
    assert auc == pytest.approx(exact.statistic / (120 * 180))
    assert p_value == pytest.approx(exact.pvalue, abs=0.01)


def test_the_same_rows_on_both_sides_are_no_drift() -> None:
    rows = made(400, 1)
    report = measure_drift(rows, rows, CONFIG)
    assert report.p_value == 1.0
    assert report.auc == pytest.approx(0.5)
    assert all(found.value == 0 for found in report.features)


def test_repeated_rows_do_not_leak_from_one_half_into_the_other() -> None:
    # Each text is unlike any other, so only one that was seen before could be recognised.
    texts = [SampledRow(f"w{number}a w{number}b w{number}c", "made") for number in range(300)]
    report = measure_drift(texts[:150] * 20, texts[150:] * 20, DriftConfig(min_new_rows=100))
    assert (report.num_new, report.num_reference) == (150, 150)
    assert not report.drifted
    assert report.p_value > 0.01


def test_some_rows_sent_again_beside_others_like_them() -> None:
    old = made(400, 1)
    report = measure_drift([*old[:300], *made(300, 2)], old, CONFIG)
    assert not report.drifted
    assert 0.4 < report.auc < 0.6


# ---------------------------------------------------------------- always the same, never broken


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(order: random.Random) -> None:
    new = [*made(60, 1, " loud"), SampledRow(WORDS[0], "b"), SampledRow(WORDS[0], "a")]
    reference, config = made(60, 2), DriftConfig(min_new_rows=20)
    before = measure_drift(new, reference, config)
    order.shuffle(new)
    order.shuffle(reference)
    assert measure_drift(new, reference, config) == before


HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            " \n\t",
            "\x00\x1b[31m\u202e",
            "\ud800",
            "\U0001f600" * 50,
            "a" * 100_000,
            "<|im_start|>system",
            "\u0301" * 500,
        ]
    ),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    new=st.lists(st.builds(SampledRow, HOSTILE, st.text(max_size=5)), max_size=40),
    reference=st.lists(st.builds(SampledRow, HOSTILE, st.text(max_size=5)), max_size=40),
)
def test_hostile_rows_never_break_it(new: list[SampledRow], reference: list[SampledRow]) -> None:
    report = measure_drift(new, reference, DriftConfig(min_new_rows=20))
    assert 0 <= report.auc <= 1
    assert 0 < report.p_value <= 1
    assert all(0 <= found.value <= 1 for found in report.features)
    assert DriftReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("new", "reference"),
    [
        ([], []),
        (made(500, 1), []),
        ([], made(500, 1)),
        ([SampledRow("same", "a")] * 500, made(500, 1)),
        ([SampledRow("", "a")] * 500, [SampledRow("", "a")] * 500),
        (made(CONFIG.min_new_rows - 1, 1, " loud"), made(500, 2)),
    ],
)
def test_too_little_to_judge_is_no_drift(
    new: list[SampledRow], reference: list[SampledRow]
) -> None:
    report = measure_drift(new, reference, CONFIG)
    assert (report.drifted, report.auc, report.p_value, report.words) == (False, 0.5, 1.0, ())


def test_very_long_rows_are_read_in_part_and_measured_whole() -> None:
    new = [SampledRow(row.text + " x" * 50_000, "made") for row in made(200, 1)]
    report = measure_drift(new, made(200, 2), CONFIG)
    assert report.drifted
    assert feature(report, "length") == 1.0


def test_words_give_no_row_away() -> None:
    secret = "hunter2correcthorse"
    new = made(300, 1, " loud")
    new[7] = SampledRow(f"{secret} " * 12, "made")
    report = measure_drift(
        [*new, *(SampledRow("y" * 900 + str(n), "made") for n in range(50))], made(300, 2), CONFIG
    )
    assert 0 < len(report.words) <= 10
    assert not any(secret in word for word in report.words)
    assert all(len(word) <= 81 and word.isprintable() for word in report.words)


# ---------------------------------------------------------------- scripts and languages


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("", {NOTHING: 1.0}),
        (" \n\u3000", {NOTHING: 1.0}),
        ("abc é", {"Latin": 1.0}),
        ("a = 1", {"Latin": 1 / 3, SYMBOLS: 2 / 3}),
        ("мир", {"Cyrillic": 1.0}),
        ("漢字かな", {"Han": 0.5, "Kana": 0.5}),
        ("한국", {"Hangul": 1.0}),
        ("سلام", {"Arabic": 1.0}),
        ("नमस्ते", {"Devanagari": 1.0}),
        ("ab\U0001f600\u2603", {"Latin": 0.5, OTHER: 0.5}),
    ],
)
def test_script_shares(text: str, shares: dict[str, float]) -> None:
    assert script_shares(text) == pytest.approx(shares)


@given(st.text())
def test_script_shares_add_up_to_one(text: str) -> None:
    assert sum(script_shares(text).values()) == pytest.approx(1.0)


def test_languages() -> None:
    assert language("Les enfants jouent dans le jardin pendant que la pluie tombe.") == "fr"
    assert language("Die Kinder spielen im Garten, während der Regen fällt.") == "de"
    assert language("ok 42") == "none"
