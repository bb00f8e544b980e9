"""Templates as models really have them: without `{% generation %}`, known to TRL or not."""

from pathlib import Path

import pytest
import trl
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ct_llm.errors import InputError
from ct_llm.train.chat_template import check_chat_template, training_template
from scripts.demo_world.world import BASE

pytestmark = pytest.mark.e2e
TEMPLATES = Path(trl.__file__).parent / "chat_templates"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    """The demo's, with the tokens that end a turn in the families below."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "<|eot_id|>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize(
    ("name", "end"), [("qwen3", "<|im_end|>"), ("qwen2_5", "<|im_end|>"), ("llama3", "<|eot_id|>")]
)
def test_a_well_known_template_is_trained_with_as_it_is(
    tokenizer: PreTrainedTokenizerBase, name: str, end: str
) -> None:
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    assert "generation %}" not in str(tokenizer.chat_template)
    tokenizer.chat_template = training_template(tokenizer)
    stop = tokenizer.convert_tokens_to_ids(end)
    assert isinstance(stop, int)
    check_chat_template(tokenizer, {stop})


def test_an_unknown_one_without_marks_says_what_to_do(tokenizer: PreTrainedTokenizerBase) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.chat_template = template
    assert training_template(tokenizer) == template
    with pytest.raises(InputError, match=r"base_model\.chat_template"):
        check_chat_template(tokenizer, {0})


def test_one_that_marks_its_words_is_left_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    assert training_template(tokenizer) == tokenizer.chat_template
