"""The Prometheus text, read back by a strict reader of the format."""

import math
import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.records import (
    DatasetState,
    DriftedFeature,
    DriftReport,
    TriggerDecision,
    TriggerReason,
)
from ct_llm.watch.metrics import prometheus_text

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})\{{(.*)\}} (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def parse(text: str) -> list[Sample]:
    """Read version 0.0.4 of the text format; an AssertionError says what is wrong with it.

    Stricter than Prometheus: HELP and TYPE are wanted before each metric's samples, in that order, and
    no metric may come twice.
    """
    assert text.endswith("\n")
    samples: list[Sample] = []
    helped: list[str] = []
    typed: list[str] = []
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, said = line.removeprefix("# HELP ").partition(" ")
            assert re.fullmatch(NAME, name) and said
            assert name not in helped
            helped.append(name)
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == helped[-1] and name not in typed
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped")
            typed.append(name)
        else:
            found = SAMPLE.fullmatch(line)
            assert found, f"not a sample: {line!r}"
            assert found[1] == typed[-1]
            samples.append(Sample(found[1], labels(found[2]), float(found[3])))
    identities = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
    assert len(set(identities)) == len(identities), "the same series twice"
    return samples


def labels(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    while text:
        label = LABEL.match(text)
        assert label, f"not a label: {text!r}"
        assert label[1] not in found
        found[label[1]] = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])
        text = text[label.end() :]
    return found


def decision(name: str = "acme/rows", *, drift: DriftReport | None = None) -> TriggerDecision:
    state = DatasetState(
        name=name,
        repo="acme/rows",
        revision="a" * 40,
        as_of="2026-07-01T00:00:00Z",
        num_rows=20_000,
        num_unseen_rows=3_120,
        num_new_rows=120,
        counted_by="files",
    )
    reasons = (
        TriggerReason(
            rule="volume", value=120, threshold=10_000, unit="rows", met=False, sentence="few"
        ),
        TriggerReason(
            rule="cooldown",
            kind="brake",
            value=None,
            threshold=3600,
            unit="seconds",
            met=True,
            sentence="wait",
        ),
    )
    return TriggerDecision(
        should_train=False,
        sentence="not training",
        reasons=reasons,
        checked_at="2026-07-03T12:00:00Z",
        datasets=(state,),
        data_age_seconds=216_000.5,
        drift=drift,
    )


def values(samples: list[Sample], name: str, **wanted: str) -> list[float]:
    return [
        sample.value
        for sample in samples
        if sample.name == name and wanted.items() <= sample.labels.items()
    ]


def test_every_figure_of_the_decision_is_there() -> None:
    report = DriftReport(
        num_new=10,
        num_reference=10,
        auc=0.52,
        p_value=0.4,
        drifted=False,
        features=(
            DriftedFeature(
                feature="length",
                statistic="Kolmogorov-Smirnov",
                value=0.1,
                p_value=0.5,
                sentence="much the same",
            ),
        ),
    )
    found = parse(prometheus_text(decision(drift=report), "acme/adapter"))
    assert {sample.labels["adapter"] for sample in found} == {"acme/adapter"}
    assert values(found, "ct_llm_should_train") == [0]
    assert values(found, "ct_llm_last_check_timestamp_seconds") == [1783080000]
    assert values(found, "ct_llm_dataset_timestamp_seconds") == [1782864000]
    assert values(found, "ct_llm_champion_data_age_seconds") == [216_000.5]
    assert values(found, "ct_llm_champion_data_timestamp_seconds") == [1783080000 - 216_000.5]
    assert values(found, "ct_llm_dataset_rows", dataset="acme/rows") == [20_000]
    assert values(found, "ct_llm_unseen_rows", dataset="acme/rows") == [3_120]
    assert values(found, "ct_llm_new_rows", dataset="acme/rows") == [120]
    assert values(found, "ct_llm_rule_value", rule="volume", kind="reason") == [120]
    assert values(found, "ct_llm_rule_threshold", rule="cooldown", kind="brake") == [3600]
    assert values(found, "ct_llm_rule_met") == [0, 1]
    assert values(found, "ct_llm_drift_auc") == [0.52]
    assert values(found, "ct_llm_drift_p_value") == [0.4]
    assert values(found, "ct_llm_drift_detected") == [0]
    assert values(found, "ct_llm_drift_distance", feature="length") == [0.1]


def test_what_is_not_known_is_left_out() -> None:
    unknown = decision().model_copy(update={"data_age_seconds": None, "datasets": ()})
    found = parse(prometheus_text(unknown, "acme/adapter"))
    names = {sample.name for sample in found}
    assert "ct_llm_champion_data_age_seconds" not in names
    assert "ct_llm_champion_data_timestamp_seconds" not in names
    assert "ct_llm_unseen_rows" not in names
    assert not any(name.startswith("ct_llm_drift") for name in names)
    assert values(found, "ct_llm_rule_value", rule="cooldown") == []


@given(name=st.text(st.characters(codec="utf-8")), adapter=st.text(st.characters(codec="utf-8")))
def test_any_name_is_read_back_as_it_was(name: str, adapter: str) -> None:
    found = parse(prometheus_text(decision(name), adapter))
    assert values(found, "ct_llm_unseen_rows", dataset=name, adapter=adapter) == [3_120]


@given(value=st.floats())
def test_any_number_is_read_back_as_it_was(value: float) -> None:
    aged = decision().model_copy(update={"data_age_seconds": value})
    (found,) = values(parse(prometheus_text(aged, "a")), "ct_llm_champion_data_age_seconds")
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_the_same_series_never_comes_twice() -> None:
    doubled = decision()
    doubled = doubled.model_copy(update={"datasets": doubled.datasets * 2})
    assert len(values(parse(prometheus_text(doubled, "a")), "ct_llm_new_rows")) == 1


@pytest.mark.parametrize(
    "text",
    [
        'a{b="1"} 1',
        '# HELP a x\n# TYPE a gauge\na{b="1"} 1\na{b="1"} 2\n',
        '# HELP a x\n# TYPE a gauge\na{b="\\x"} 1\n',
        '# HELP a x\n# TYPE a gauge\na{b="1""} 1\n',
        '# HELP a x\n# TYPE a gauge\na-b{c="1"} 1\n',
        '# HELP a x\n# TYPE a level\na{b="1"} 1\n',
    ],
)
def test_the_reader_refuses_what_prometheus_refuses(text: str) -> None:
    with pytest.raises(AssertionError):
        parse(text)
