"""The chat template decides what is learned: only tokens inside `{% generation %}` count.

Without the tags nothing would be learned; with the end-of-turn token outside of them the model would
never learn to stop, which no training loss shows.
"""

from collections.abc import Collection
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ct_llm.errors import InputError

_PROBE = (
    {"role": "user", "content": "What is one and one?"},
    {"role": "assistant", "content": "Two"},
)
_CALLED = "look_up_the_weather"
_PROBE_WITH_CALL = (
    _PROBE[0],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call00000",
                "type": "function",
                "function": {"name": _CALLED, "arguments": {"city": "Oslo"}},
            }
        ],
    },
    {"role": "tool", "content": "Snow", "name": _CALLED, "tool_call_id": "call00000"},
    _PROBE[1],
)
_FIX = (
    "Write a template that has them and name it under base_model.chat_template, for instance "
    "with {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %} for the "
    "assistant's messages."
)


def training_template(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The template to train with: the tokenizer's own, or TRL's form of it that has the tags.

    Models come without `{% generation %}`; TRL keeps, for the templates of well-known families, one
    that renders the same conversation with them. What it does not know stays as it is, for
    `check_chat_template` to explain.
    """
    template = tokenizer.chat_template
    if not template or has_generation_markers(template):
        return template
    try:
        return get_training_chat_template(tokenizer) or template
    except ValueError:  # TRL does not know this template
        return template


def check_chat_template(
    tokenizer: PreTrainedTokenizerBase, stop_token_ids: Collection[int]
) -> None:
    """Raises InputError unless the assistant's words and the token that ends them are marked.

    `stop_token_ids`: the tokens at which generation stops.
    """
    template = tokenizer.chat_template
    if not template:
        raise InputError(
            "the base model's tokenizer has no chat template, so conversations cannot be turned "
            f"into tokens. {_FIX}"
        )
    if not has_generation_markers(template):
        raise InputError(
            "the chat template does not mark the assistant's words with {% generation %} and "
            f"{{% endgeneration %}}, so there is nothing to learn from. {_FIX}"
        )
    encoded: Any = tokenizer.apply_chat_template(
        list(_PROBE), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    marked = [token for token, inside in zip(ids, mask, strict=True) if inside]
    # Some templates put a line break after the end-of-turn token.
    while marked and not str(tokenizer.decode([marked[-1]])).strip():
        marked.pop()
    if not marked or marked[-1] not in stop_token_ids:
        stops = ", ".join(sorted(repr(tokenizer.decode([token])) for token in stop_token_ids))
        raise InputError(
            "the chat template leaves the end of the assistant's turn out of {% generation %}: the "
            f"marked words do not end with a token that stops generation ({stops}), so the adapter "
            "would never learn to stop. Move that token in front of {% endgeneration %}. " + _FIX
        )


def check_renders_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError unless the assistant's tool calls are rendered, and marked as its words.

    A template that skips them would train on answers that come out of nowhere.
    """
    problem = "does not render tool calls"
    try:
        encoded: Any = tokenizer.apply_chat_template(
            list(_PROBE_WITH_CALL),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except (jinja2.TemplateError, TypeError) as error:
        problem = f"refuses tool calls ({error})"
    else:
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        if _CALLED in str(tokenizer.decode([t for t, said in zip(ids, mask, strict=True) if said])):
            return
        if _CALLED in str(tokenizer.decode(ids)):
            problem = "leaves tool calls out of {% generation %}"
    raise InputError(
        f"some training rows hold tool calls, but the chat template {problem}. Name one that does "
        "under base_model.chat_template, or keep such rows out with prepare.tool_calls: quarantine."
    )
