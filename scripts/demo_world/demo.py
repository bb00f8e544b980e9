"""The demo: a Hub on loopback, a tiny base model, data that grows, and the real `ct-llm` command.

    python -m scripts.demo_world.demo [--folder demo] [--seed 0]

Nothing is told that did not happen in this run: the commands' own output is shown, and the end
compares it with what was expected.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import yaml
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from ct_llm.comparison import Comparison
from ct_llm.cycle_dir import CycleDir, WorkDir, read_record
from ct_llm.records import GateDecision
from scripts.demo_world.story import STORY, Step
from scripts.demo_world.world import write_base
from scripts.demo_world.write_suites import write_suites

BASE_MODEL = "demo/tiny-llama"
DATASET = "demo/instructions"
ADAPTER = "demo/assistant-lora"
PORT = 8970
MARKER = ".ct_llm_demo"
CODES = {0: "promote", 10: "nothing to do", 11: "reject", 12: "inconclusive"}

console = Console(highlight=False)


@dataclass
class World:
    """The demo's folder, and the environment of every command that is run in it."""

    folder: Path
    seed: int
    env: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "ct.yaml"

    def ct_llm(self, *arguments: str) -> int:
        """Show a command, run it, return its exit code."""
        shown = " ".join(f"'{part}'" if " " in part else part for part in arguments)
        console.print(f"\n[bold cyan]$ ct-llm {shown}[/]")
        command = [sys.executable, "-m", "ct_llm.cli.main", *arguments]
        code = subprocess.run(command, env=self.env, check=False).returncode
        console.print(f"[dim]exit code {code}[/]")
        return code


@contextmanager
def hub(folder: Path, port: int) -> Iterator[tuple[str, str]]:
    """`ct-llm hub serve` in the background; gives endpoint and token."""
    command = [sys.executable, "-m", "ct_llm.cli.main", "hub", "serve"]
    log = (folder / "hub.log").open("w")
    process = subprocess.Popen(
        [*command, "--root", str(folder / "hub"), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert process.stdout is not None
        exported = {}
        for line in process.stdout:
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals:
                exported[name] = value
            if "HF_HUB_DISABLE_XET" in exported:
                break
        else:
            process.wait()
            raise SystemExit(f"The Hub did not start: {(folder / 'hub.log').read_text()}")
        yield exported["HF_ENDPOINT"], exported["HF_TOKEN"]
    finally:
        process.terminate()
        process.wait()
        log.close()


def check_port(port: int) -> None:
    """Before anything is removed: the Hub of an earlier demo may still be open."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SystemExit(
                f"Port {port} is taken ({error.strerror}), perhaps by the Hub of an earlier demo. Stop "
                "it, or choose another --port."
            ) from None


def write_config(world: World, endpoint: str, slices: list[str]) -> None:
    """The configuration that a user would write, with a world's hyper-parameters."""
    config = {
        "base_model": {"repo": BASE_MODEL},
        "datasets": [{"repo": DATASET, "files": "data/*.parquet"}],
        "adapter_repo": ADAPTER,
        "work_dir": "work",
        "hub": {"endpoint": endpoint},
        "watch": {"threshold_samples": 300},
        "prepare": {"holdout_fraction": 0.1, "replay": {"rows_per_new_row": "all"}},
        "train": {
            "lora": {"r": 8, "alpha": 16},
            "learning_rate": 5e-3,
            "epochs": 5,
            "max_length": 128,
            "seed": world.seed,
        },
        "evaluate": {"suites": [f"suites/{name}.yaml" for name in slices]},
        "gate": {"target": "newest"},
    }
    world.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def push_base_and_repos(world: World, endpoint: str, token: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    write_base(world.folder / "base")
    api.create_repo(BASE_MODEL, exist_ok=True)
    api.upload_folder(repo_id=BASE_MODEL, folder_path=world.folder / "base")
    api.create_repo(DATASET, repo_type="dataset", exist_ok=True)


def push_rows(world: World, step: Step, endpoint: str, token: str) -> int:
    from huggingface_hub import HfApi

    rows = step.rows(world.seed)
    HfApi(endpoint=endpoint, token=token).upload_file(
        path_or_fileobj=step.parquet(world.seed),
        path_in_repo=step.file,
        repo_id=DATASET,
        repo_type="dataset",
        commit_message=f"Add {step.name}",
    )
    return len(rows)


def tell(title: str, text: str) -> None:
    console.print()
    console.print(Panel(text, title=title, title_align="left", border_style="cyan"))


def show_command(command: str) -> None:
    """To be copied: never wrapped."""
    console.print(f"  {command}", soft_wrap=True)


def last_cycle(world: World) -> CycleDir:
    return WorkDir(world.folder / "work").cycles()[-1]


def play(
    world: World, endpoint: str, token: str, steps: list[Step], *, without_coding: bool
) -> list[tuple[str, str, str]]:
    """Push, run, note what happened: (step, expected, happened)."""
    outcomes = []
    for number, step in enumerate(steps, start=1):
        num_rows = push_rows(world, step, endpoint, token)
        expected = f"{step.verdict}." if without_coding else step.expected
        tell(
            f"{number}. {step.name}",
            f"{num_rows} rows pushed to {DATASET} as {step.file}.\nExpected: {expected}",
        )
        code = world.ct_llm("run", "--config", str(world.config))
        happened = CODES.get(code)
        if happened is None:
            raise SystemExit(f"ct-llm run ended with exit code {code}; the demo stops here.")
        outcomes.append((step.name, step.verdict, happened))
        if happened == "reject":
            look_closer(world, endpoint, last_cycle(world))
    return outcomes


def look_closer(world: World, endpoint: str, cycle: CycleDir) -> None:
    """The point of it all, in this run's own numbers: all items of all slices, which the gate did
    not need."""
    decision = cycle.output("gate", GateDecision)
    num_used = sum(part.num_used for part in decision.slices if part.role != "anchor")
    num_items = sum(part.num_items for part in decision.slices if part.role != "anchor")
    tell(
        "A closer look",
        f"The gate stopped after {num_used} of {num_items} items: it was sure. What would all of them "
        "have said?",
    )
    out = world.folder / "compared"
    suites = sorted((world.folder / "suites").glob("*.yaml"))
    code = world.ct_llm(
        *("compare", ADAPTER, str(cycle.path / "adapter"), "--endpoint", endpoint),
        *(part for suite in suites for part in ("--slice", str(suite))),
        *("--samples", "2", "--out", str(out)),
    )
    if code != 0:
        raise SystemExit(f"ct-llm compare ended with exit code {code}")
    explain(read_record(out / "comparison.json", Comparison))


def explain(found: Comparison) -> None:
    before = fmean(part.champion_mean for part in found.slices if part.champion_mean is not None)
    after = fmean(part.challenger_mean for part in found.slices if part.challenger_mean is not None)
    fallen = [part for part in found.slices if part.delta is not None and part.delta < 0]
    falls = ", ".join(
        f"{part.slice} fell by {-100 * part.delta:.1f} points"
        for part in fallen
        if part.delta is not None
    )
    rose = after > before
    tell(
        "What just happened",
        f"The mean over the slices {'rose' if rose else 'fell'} from {100 * before:.1f} % to "
        f"{100 * after:.1f} %{', yet' if rose else ', and'} {falls}.\nOne number for the whole model "
        f"would have {'let this through' if rose else 'hidden where it broke'}; the gate looks at each "
        "slice and kept the champion. The challenger waits in a pull request, with the items that "
        "got worse.",
    )


def summary(outcomes: list[tuple[str, str, str]]) -> bool:
    table = Table("step", "expected", "happened", title="The story", title_justify="left")
    for name, expected, happened in outcomes:
        style = "green" if happened == expected else "bold yellow"
        table.add_row(name, expected, f"[{style}]{happened}[/]")
    console.print()
    console.print(table)
    as_told = all(happened == expected for _, expected, happened in outcomes)
    if not as_told:
        console.print(
            "This run did not go as expected (training differs a little between machines and "
            "seeds). The figures above are what happened."
        )
    return as_told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/demo")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of training")
    parser.add_argument("--port", type=int, default=PORT, help="of the Hub on loopback")
    arguments = parser.parse_args()
    started = time.monotonic()

    folder: Path = arguments.folder.resolve()
    check_port(arguments.port)
    if folder.exists():
        if not (folder / MARKER).exists():
            raise SystemExit(
                f"{folder} exists and is not a demo's folder; choose another --folder."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()

    from ct_llm.evaluate.sandbox import sandbox_problem

    problem = sandbox_problem()
    slices = ["coding", "reasoning", "chat"]
    steps = list(STORY)
    if problem is not None:
        slices.remove("coding")
        steps = [step for step in steps if step.verdict != "reject"]
        tell(
            "Left out",
            f"{problem}.\nGenerated code never runs outside a sandbox, so the coding slice is left "
            "out, and with it the last cycle, whose damage only that slice can see.",
        )

    with hub(folder, arguments.port) as (endpoint, token):
        env = {
            **os.environ,
            "HF_TOKEN": token,
            "HF_HOME": str(folder / "hf_home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONWARNINGS": "ignore",
        }
        os.environ.update(
            HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", NO_PROXY="127.0.0.1"
        )
        world = World(folder, arguments.seed, env)
        write_suites(folder / "suites", arguments.seed)
        write_config(world, endpoint, slices)
        push_base_and_repos(world, endpoint, token)
        tell(
            "A small world",
            f"A Hub of our own at {endpoint}, a Llama of 850,000 parameters in {BASE_MODEL}, an empty "
            f"dataset repo {DATASET}. The base model follows three kinds of instructions per slice "
            "and fails the rest; the data to come teaches some of them.\n"
            f"Configuration: {world.config}",
        )
        outcomes = play(world, endpoint, token, steps, without_coding=problem is not None)
        tell("Changing one's mind", "A promotion is one commit, and so is undoing it.")
        code = world.ct_llm(
            "rollback", "v1", "--reason", "the demo shows it", "--config", str(world.config)
        )
        if code != 0:
            raise SystemExit(f"ct-llm rollback ended with exit code {code}")
        world.ct_llm("history", "--config", str(world.config))

    as_told = summary(outcomes)
    command = Path(sys.executable).parent / "ct-llm"
    console.print(
        f"\nDone in {time.monotonic() - started:.0f} s. Everything is in {folder}: the Hub's git "
        "repositories in hub/, each cycle's records in work/cycles/.\nLook around; in one terminal"
    )
    show_command(f"{command} hub serve --root {folder / 'hub'} --port {arguments.port}")
    console.print("and in another")
    show_command(f"export HF_TOKEN=$(cat {folder / 'hub' / 'token'}) HF_HUB_DISABLE_XET=1")
    show_command(f"{command} status --config {world.config}")
    return 0 if as_told else 1


if __name__ == "__main__":
    sys.exit(main())
