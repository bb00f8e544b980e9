"""Environment of every test: no network but loopback, no home, no Xet, real data if it is there."""

import os
import tempfile
from pathlib import Path

import pytest

# Read by huggingface_hub when it is imported, so before any test module imports it. The port is
# nobody's: a test that reaches for the default Hub by mistake fails at once instead of waiting.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="ct_llm_hf_")
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(name, None)

pytest_plugins = ["tests.hub_fixture", "tests.real_tasks"]

REAL_DATA = Path(
    os.environ.get("CT_LLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")
).resolve()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real benchmarks, instruction data and a tiny real Llama; not part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA} (set CT_LLM_REAL_DATA)")
    return REAL_DATA
