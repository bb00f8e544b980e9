"""What users get wrong, through the real command against the embedded Hub: a message and a code."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd
from safetensors.numpy import save

from ct_llm.hub_server import RunningHub, add_token
from ct_llm.records import Lineage, SeenDataset
from scripts.demo_world.families import make_rows
from scripts.demo_world.world import BASE
from tests.loop_world import LoopWorld


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub, request: pytest.FixtureRequest) -> LoopWorld:
    name = request.node.name.split("[")[-1].strip("-]").replace("_", "-")
    owner = f"bad-{name[:30]}".strip("-")
    world = LoopWorld(
        tmp_path, hub, owner, {"watch": {"threshold_samples": 10}, "evaluate": {"suites": []}}
    )
    world.push_base(BASE)
    world.push_rows("data/one.parquet", make_rows(("chat_stars",), 40, 1))
    return world


def unknown_dataset(world: LoopWorld) -> None:
    world.config["datasets"] = [{"repo": f"{world.owner}/misspelt"}]


def unknown_dataset_revision(world: LoopWorld) -> None:
    world.config["datasets"] = [{"repo": world.dataset, "revision": "no-such-branch"}]


def unknown_base(world: LoopWorld) -> None:
    world.config["base_model"] = {"repo": f"{world.owner}/misspelt"}


def unknown_base_revision(world: LoopWorld) -> None:
    world.config["base_model"]["revision"] = "f" * 40


def no_token(world: LoopWorld) -> None:
    world.token = None


def wrong_token(world: LoopWorld) -> None:
    world.token = "hf_" + "x" * 34


def read_only_token(world: LoopWorld) -> None:
    world.token = add_token(world.hub.root, "reader", role="read")


def malformed_rows(world: LoopWorld) -> None:
    lines = ['{"messages": [{"role": "user", "content": "hi"}]}', "{broken", "[1, 2]"] * 20
    world.push("data/two.jsonl", "\n".join(lines).encode())


def broken_parquet(world: LoopWorld) -> None:
    world.push("data/two.parquet", b"PAR1 this is no parquet file")


def missing_column(world: LoopWorld) -> None:
    rows = [{"question": "1+1?", "reply": "2"}] * 20
    world.push("data/two.jsonl", "\n".join(map(json.dumps, rows)).encode())


def target_that_is_no_slice(world: LoopWorld) -> None:
    world.config["gate"] = {"target": "codding"}


def champion_of_another_base(world: LoopWorld) -> None:
    lineage = Lineage(
        version=1,
        cycle_id="c1",
        adapter_digest="0" * 64,
        base_model=f"{world.owner}/base",
        base_revision="a" * 40,
        parent_revision=None,
        datasets=(
            SeenDataset(name=world.dataset, repo=world.dataset, revision="b" * 40, num_rows=3),
        ),
        created_at="2026-01-01T00:00:00Z",
        ct_llm_version="0",
    )
    put_on_main(world, lineage.model_dump_json().encode())


def lineage_that_is_none(world: LoopWorld) -> None:
    put_on_main(world, b'{"version": "one"}')


def put_on_main(world: LoopWorld, lineage: bytes) -> None:
    world.api.create_repo(world.adapter)
    files = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": save({"a": np.zeros(1)}),
        "ct/lineage.json": lineage,
    }
    operations = [CommitOperationAdd(path, io.BytesIO(data)) for path, data in files.items()]
    world.api.create_commit(world.adapter, operations, commit_message="A champion")


Break = Callable[[LoopWorld], None]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unknown_dataset, ["misspelt", "no such repo"]),
        (unknown_dataset_revision, ["no-such-branch", "no such revision"]),
        (unknown_base, ["misspelt", "no such repo"]),
        (unknown_base_revision, ["ffff", "no such revision"]),
        (no_token, ["no token", "HF_TOKEN"]),
        (wrong_token, ["token"]),
        (read_only_token, ["write"]),
        (malformed_rows, ["unparsable", "role_order", "max_quarantine_fraction"]),
        (broken_parquet, ["two.parquet"]),
        (missing_column, ["question", "reply", "format"]),
        (target_that_is_no_slice, ["gate.target", "codding", "newest"]),
        (champion_of_another_base, ["base_model.revision", "a" * 40]),
        (lineage_that_is_none, ["ct/lineage.json", "version"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_input_is_exit_30_and_says_what_to_do(
    world: LoopWorld, spoil: Break, said: list[str]
) -> None:
    spoil(world)
    code, out, err = world.run_to_end("run")
    assert code == 30, f"{out}\n{err}"
    assert "Traceback" not in out + err
    assert [part for part in said if part not in err] == [], err
    assert world.hub.token not in out + err
    assert not list(world.folder.glob("work/cycles/*/promote.json"))


def test_an_empty_dataset_is_nothing_to_do_and_not_to_be_forced(world: LoopWorld) -> None:
    world.api.delete_file("data/one.parquet", world.dataset, repo_type="dataset")
    assert "holds rows" in world.ct_llm("watch", code=10)
    _, _, err = world.run_to_end("run", "--force")
    assert "nothing to train on" in err.replace("\n", " ")


def test_bad_rows_are_kept_with_reason_and_place(world: LoopWorld) -> None:
    import pyarrow.parquet as pq

    malformed_rows(world)
    world.ct_llm("run", code=30)
    (path,) = world.folder.glob("work/cycles/*/data/quarantine.parquet")
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 60
    assert {row["reason"] for row in rows} == {"unparsable", "role_order", "not_an_object"}
    assert all(row["path"] == "data/two.jsonl" and row["original"] for row in rows)


def test_a_failed_cycle_does_not_stand_in_the_way_of_mended_data(world: LoopWorld) -> None:
    malformed_rows(world)
    world.ct_llm("run", code=30)
    assert "stopped" in world.ct_llm("status")
    for command in (("run",), ("watch",)):
        out = " ".join(world.ct_llm(*command, code=10).split())
        assert "this data failed before" in out and "(mend it, or --force)" in out
    world.ct_llm("run", "--force", code=30)
    assert len(list(world.folder.glob("work/cycles/*"))) == 1
    world.api.delete_file("data/two.jsonl", world.dataset, repo_type="dataset")
    world.config["base_model"]["revision"] = "f" * 40  # so that it ends before training
    code, _, err = world.run_to_end("run")
    assert code == 30
    assert "no such revision" in err
    assert len(list(world.folder.glob("work/cycles/*"))) == 2
