"""What looks like a key or a token that somebody would not want a model to learn.

Prefixes that their issuers chose to be found by, and enough random characters behind them that
placeholders (`sk-xxxxxxxx`, `hf_your_token`) are not taken for real ones.
"""

import re

_START = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))"
"""Not inside a longer word; a line end may be there as JSON escapes it."""

_CREDENTIAL = re.compile(
    _START
    + "(?:"
    + "|".join(
        (
            r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS access key id
            r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
            r"github_pat_[A-Za-z0-9_]{60,255}",
            r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
            r"hf_[A-Za-z0-9]{34,40}",  # Hugging Face
            r"sk-[A-Za-z0-9_-]{32,}",  # OpenAI, Anthropic
            r"[sr]k_live_[A-Za-z0-9]{24,}",  # Stripe
            r"xox[abeoprs]-[A-Za-z0-9-]{20,}",  # Slack
            r"AIza[A-Za-z0-9_-]{35}",  # Google
            r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",  # JSON Web Token
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----(?:.{40,20000}?-----END|.{40,20000})",
        )
    )
    + ")",
    re.DOTALL,
)
_HINTS = (
    "AKIA",
    "ASIA",
    "gh",
    "github_pat_",
    "glpat-",
    "hf_",
    "sk-",
    "k_live_",
    "xox",
    "AIza",
    "eyJ",
    "PRIVATE KEY",
)
"""One of these is in every credential: a cheap look before the expensive one."""

_MIN_DISTINCT = 12
"""Characters; random ones of such length have more, `xxxx` and `1234` fewer."""

_SHOWN = 4


def has_credential(text: str) -> bool:
    return any(hint in text for hint in _HINTS) and any(
        _is_real(match[0]) for match in _CREDENTIAL.finditer(text)
    )


def redact(text: str) -> str:
    """The text with what looks like a credential cut down to its first four characters."""
    return _CREDENTIAL.sub(
        lambda match: f"{match[0][:_SHOWN]}[redacted]" if _is_real(match[0]) else match[0], text
    )


def _is_real(found: str) -> bool:
    if found.endswith("EXAMPLE"):  # AWS's documentation
        return False
    mixed = any(c.isdigit() for c in found) or not (found.isupper() or found.islower())
    return mixed and len(set(found)) >= _MIN_DISTINCT
