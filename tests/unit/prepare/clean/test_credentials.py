import json
from pathlib import Path

import pytest

from ct_llm.prepare.clean.credentials import has_credential, redact

RANDOM = "aZ3kQ9vB7xN2mT5cR8wL4pD6sF1hJ0gYuEiKoMtPqWz"


def _real(prefix: str, length: int) -> str:
    return prefix + (RANDOM * 3)[:length]


CREDENTIALS = [
    "AKIA" + "Q7ZK2M4XWB5N3RTY",
    _real("ghp_", 36),
    _real("github_pat_", 82),
    _real("glpat-", 20),
    "hf_" + "abCDeFghIJklMnopQRstUVwxYZabcdEFgh",
    _real("sk-", 48),
    _real("sk-proj-", 80),
    _real("sk-ant-api03-", 90),
    _real("sk_live_", 24),
    "xoxb-123456789012-1234567890123-" + RANDOM[:24],
    _real("AIza", 35),
    f"eyJ{RANDOM[:30]}.eyJ{RANDOM[:40]}.{RANDOM}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{RANDOM}\n{RANDOM}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{RANDOM}\n{RANDOM}",
]


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("around", ["{}", 'key="{}"', "a\n{}\nb", "({}), then"])
def test_what_looks_like_a_credential_is_found_and_cut_short(credential, around):
    text = around.format(credential)
    assert has_credential(text)
    for told in (redact(text), redact(json.dumps({"key": text}))):
        assert credential[:4] + "[redacted]" in told
        assert RANDOM[:16] not in told
        assert credential[4:20] not in told


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "sk-" + "x" * 48,
        "ghp_" + "1" * 36,
        "sk-learn-is-a-common-typo-for-scikit-learn-in-questions",
        "task-management-and-other-words-in-one-long-identifier-2024",
        "export HF_TOKEN=hf_your_token_here",
        "-----BEGIN PUBLIC KEY-----\nMIIB",
        "-----BEGIN PRIVATE KEY----- is how a key begins",
        "eyJhbGciOiJIUzI1NiJ9",
        "xoxo",
        "a" * 10_000,
    ],
)
def test_placeholders_and_words_are_none(text):
    assert not has_credential(text)
    assert redact(text) == text


def test_real_data_holds_none(real_data: Path) -> None:
    files = [*(real_data / "train").rglob("*.json*"), *(real_data / "text").iterdir()]
    found = [file.name for file in files if has_credential(file.read_text(encoding="utf-8"))]
    assert found == []
