"""A verdict killed at random moments and started again until it is there: the same files, byte for byte."""

import dataclasses
import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ct_llm.evaluation import EVIDENCE
from ct_llm.gate.evidence import evidence_bytes, read_evidence
from scripts.bench.figures import Figure, run, say
from scripts.bench.verdict_once import DECISION, RESULT
from scripts.bench.verdict_stopping import Pair, choose, verdict_command

BATCH_ITEMS = 16
"""Small batches: many moments at which something is half done."""
FILES = ("items.parquet", "scores.parquet", DECISION)


def kills(folder: Path, pool_size: int, num_items: int, num_kills: int) -> Iterator[Figure]:
    """Runs of one verdict, each killed (SIGKILL) at a moment drawn evenly from the time in which an
    undisturbed run scores, once more at another such moment of its second start, then left alone.

    The files of all of them are compared with those of the run that nobody disturbed, but for the
    seconds that it took, which stand in the result and in the evidence.
    """
    pair = Pair(folder)
    population = choose(pair, pool_size, num_items)
    path, _ = pair.request(population, "undisturbed", batch_items=BATCH_ITEMS)
    begin, end = _scoring_time(path, pair.env)
    wanted = _files(path.parent)
    say(f"undisturbed: scores from {begin:.1f} to {end:.1f} s")
    rng = random.Random(0)
    same = num_resumed = 0
    for number in range(num_kills):
        path, _ = pair.request(population, f"killed{number}", batch_items=BATCH_ITEMS)
        batches = [_killed(path, rng.uniform(begin, end), pair.env) for _ in range(2)]
        num_resumed += max(batches) > 0
        if not path.with_name(DECISION).exists():  # else the second one was faster than its end
            run(verdict_command(path), env=pair.env)
        found = _files(path.parent)
        same += found == wanted
        if found != wanted:
            say(f"after {batches} batches: other {[n for n in wanted if found[n] != wanted[n]]}")
        shutil.rmtree(path.parent)
    yield Figure("verdicts killed twice at random moments and resumed", num_kills, None)
    yield Figure("… that went on from finished batches", num_resumed, None)
    yield Figure("… the same bytes as undisturbed, share", same / num_kills, 1.0, at_least=True)


def _scoring_time(path: Path, env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds from the start to the first sign of the journal, and to the end."""
    started = time.perf_counter()
    process = _start(path, env)
    begin = None
    while process.poll() is None:
        if begin is None and _journal(path).is_dir():
            begin = time.perf_counter() - started
        time.sleep(0.02)
    if process.returncode != 0 or begin is None:
        raise SystemExit(f"an undisturbed verdict ended with {process.returncode}")
    return begin, time.perf_counter() - started


def _killed(path: Path, after: float, env: Mapping[str, str]) -> int:
    """Kill a verdict after so many seconds; how many batches it had finished by then."""
    process = _start(path, env)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return len(list(_journal(path).glob("[0-9]*.json")))


def _start(path: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        verdict_command(path), env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _journal(path: Path) -> Path:
    return path.parent / "journal"


def _files(folder: Path) -> dict[str, bytes]:
    found = {name: (folder / name).read_bytes() for name in FILES}
    result = json.loads((folder / RESULT).read_bytes())
    result.pop("seconds")
    evidence = read_evidence(folder / EVIDENCE)
    timeless = evidence.result.model_copy(update={"seconds": 0.0})
    found[EVIDENCE] = evidence_bytes(dataclasses.replace(evidence, result=timeless))
    return {**found, RESULT: json.dumps(result, sort_keys=True).encode()}
