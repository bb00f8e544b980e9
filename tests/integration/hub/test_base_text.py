"""Template and tokenizer of a base model on the embedded Hub."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from ct_llm.config import BaseModelConfig
from ct_llm.errors import HubNotFoundError
from ct_llm.hub.base_text import read_base_text, token_lengths
from ct_llm.hub_server import RunningHub


def test_the_weights_are_not_fetched(hub: RunningHub, real_data: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("base_text/model")
    model = real_data / "model_stories260k"
    files = [
        CommitOperationAdd(path.name, path.read_bytes())
        for path in model.iterdir()
        if path.name
        in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    ]
    files.append(CommitOperationAdd("chat_template.jinja", b"{{ messages }}"))
    commit = api.create_commit("base_text/model", files, commit_message="model")

    found = read_base_text(api, BaseModelConfig(repo="base_text/model"))

    assert found.revision == commit.oid
    assert found.chat_template == "{{ messages }}"
    assert found.tokenizer_json is not None
    assert token_lengths(["Once upon a time"], found.tokenizer_json) == [4]
    names = {path.name for path in found.tokenizer_json.parent.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_a_model_that_is_not_there(hub: RunningHub) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    with pytest.raises(HubNotFoundError):
        read_base_text(api, BaseModelConfig(repo="base_text/nobody"))
