"""`ct-llm init`: the commented configuration to start from."""

from pathlib import Path

from ct_llm.cycle_dir import write_atomically
from ct_llm.errors import InputError

TEMPLATE = Path(__file__).parent / "ct.template.yaml"


def write_config(
    path: Path, base_model: str, dataset: str, adapter_repo: str, *, force: bool
) -> None:
    """Raises InputError when the file exists and `force` is not given."""
    if path.exists() and not force:
        raise InputError(f"{path} exists. Choose another path, or --force to overwrite it.")
    text = TEMPLATE.read_text(encoding="utf-8")
    for placeholder, value in (
        ("Qwen/Qwen3-0.6B", base_model),
        ("your-name/instructions", dataset),
        ("your-name/adapter", adapter_repo),
    ):
        text = text.replace(placeholder, value or placeholder)
    write_atomically(path, text.encode())
