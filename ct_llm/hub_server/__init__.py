"""A Hub-compatible server for laptops, tests and air-gapped clusters.

The unmodified `huggingface_hub`, `datasets`, `transformers` and `peft` work against it; only
`HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1` have to be set before they are imported.
"""

from ct_llm.hub_server.auth import add_token, create_user
from ct_llm.hub_server.server import RunningHub, running_hub, serve

__all__ = ["RunningHub", "add_token", "create_user", "running_hub", "serve"]
