"""The base model's chat template and tokenizer, without its weights.

Both are other people's files. The template is parsed and never rendered here; the tokenizer is data
for the `tokenizers` library, whose failures become errors of ours.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ct_llm.config import BaseModelConfig
from ct_llm.digests import file_sha256, fingerprint
from ct_llm.errors import ConfigError, InputError
from ct_llm.hub.client import explained, resolve_revision

if TYPE_CHECKING:
    import jinja2
    from huggingface_hub import HfApi

TEXT_FILES = ["tokenizer_config.json", "chat_template.jinja", "tokenizer.json"]

MAX_TEMPLATE_CHARS = 1_000_000
_TEXTS_AT_ONCE = 64
"""What the tokenizer makes of a text takes far more memory than the text."""


class BaseText(NamedTuple):
    chat_template: str | None
    """The one that conversations are rendered with; none where there is none."""
    tokenizer_json: Path | None
    """None for a tokenizer that is kept in another form."""
    revision: str
    """Commit sha; for a local folder the digest of these files alone."""


def read_base_text(api: "HfApi", config: BaseModelConfig) -> BaseText:
    """Template and tokenizer as `transformers` would find them, `base_model.chat_template` first.

    Of several named templates it is the default one. Raises ConfigError when
    `base_model.chat_template` cannot be read, InputError when tokenizer_config.json is damaged, and
    what a download raises.
    """
    folder, revision = _fetch(api, config)
    tokenizer = folder / "tokenizer.json"
    return BaseText(
        _chat_template(folder, config),
        tokenizer if tokenizer.is_file() else None,
        revision,
    )


def _fetch(api: "HfApi", config: BaseModelConfig) -> tuple[Path, str]:
    local = Path(config.repo)
    if local.is_dir():
        files = [local / name for name in TEXT_FILES if (local / name).is_file()]
        return local, fingerprint({path.name: file_sha256(path) for path in files})
    from huggingface_hub import snapshot_download

    sha = resolve_revision(api, config.repo, config.revision, "model")
    with explained("download the base model's tokenizer", config.repo):
        folder = snapshot_download(
            config.repo,
            revision=sha,
            allow_patterns=TEXT_FILES,
            endpoint=api.endpoint,
            token=api.token,
            library_name="ct_llm",
        )
    return Path(folder), sha


# ---------------------------------------------------------------- chat template


def _chat_template(folder: Path, config: BaseModelConfig) -> str | None:
    if config.chat_template is not None:
        try:
            return config.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"base_model.chat_template: {config.chat_template} cannot be read: {error}"
            ) from None
    files = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    path = next((path for path in files if path.is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        return text if path.suffix == ".jinja" else _default_template(json.loads(text))
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:
        raise InputError(
            f"base_model.repo: {config.repo}: its {path.name} cannot be read "
            f"({type(error).__name__}: {error}). Mend it, or set base_model.chat_template."
        ) from None


def _default_template(settings: Any) -> str | None:
    """`chat_template` is text, or a list of {"name": ..., "template": ...}.

    Raises TypeError, KeyError.
    """
    if not isinstance(settings, dict):
        raise TypeError(f"expected an object, found {type(settings).__name__}")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise TypeError(f"chat_template is {type(template).__name__}, not text")
    return template


def renders_tools(template: str | None) -> bool:
    """Whether the template reads the `tool_calls` of messages, so that calls become text.

    By its syntax tree: not by words in its text or comments, and without rendering anything. A
    template that reads only `tools` would show the tools and leave the calls out. False for one that
    cannot be parsed; the training says why.
    """
    if template is None or len(template) > MAX_TEMPLATE_CHARS or "tool_calls" not in template:
        return False
    import jinja2

    try:
        tree = _environment().parse(template)
        return any(name == "tool_calls" for name in _keys_read(tree))
    # RecursionError: brackets within brackets; ValueError: numbers beyond limits.
    except (jinja2.TemplateError, RecursionError, ValueError):
        return False


def _environment() -> "jinja2.Environment":
    """As chat templates are parsed by `transformers`: with {% generation %}, {% break %}."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])


def _keys_read(tree: Any) -> Iterator[Any]:
    """x of every `value.x`, `value["x"]` and `value.get("x")`."""
    from jinja2 import nodes

    for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Call)):
        match node:
            case nodes.Getattr(attr=name):
                yield name
            case nodes.Getitem(arg=nodes.Const(value=name)):
                yield name
            case nodes.Call(node=nodes.Getattr(attr="get"), args=[nodes.Const(value=name), *_]):
                yield name


# ---------------------------------------------------------------- tokenizer


def special_tokens(tokenizer_json: Path | None) -> tuple[str, ...]:
    """What the tokenizer takes for structure wherever it stands in a text; sorted.

    Words, blanks and one or two characters are left out: a row cannot do without them. Empty without
    a file. Raises InputError when it is none of a tokenizer's.
    """
    if tokenizer_json is None:
        return ()
    try:
        added = json.loads(tokenizer_json.read_text(encoding="utf-8")).get("added_tokens") or ()
        found = {token["content"] for token in added if token.get("special")}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{tokenizer_json} is not a tokenizer's file: {error}. Check base_model."
        ) from None
    return tuple(
        sorted(token for token in found if isinstance(token, str) and _is_structure(token))
    )


def _is_structure(token: str) -> bool:
    return len(token) > 2 and not token.isspace() and not token.replace("_", "").isalnum()


def token_lengths(texts: Sequence[str], tokenizer_json: Path) -> list[int]:
    """Tokens of each text, without those that mark its beginning and end.

    Raises InputError when the file is no tokenizer, or one that fails on these texts.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
        # A file may ask for either, and all lengths would be the same.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        counts: list[int] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = list(texts[start : start + _TEXTS_AT_ONCE])
            encoded = tokenizer.encode_batch_fast(some, add_special_tokens=False)
            counts += [len(one.ids) for one in encoded]
    # The library raises bare Exceptions, and for what its own code did not expect a BaseException.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"{tokenizer_json} cannot be used as a tokenizer: {error}. Check base_model."
        ) from None
    return counts
