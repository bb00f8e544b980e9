"""`ct-llm watch --serve` over real HTTP: what it takes, what it starts, and how often."""

import json
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import WebhookPayload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ct_llm.config import CTConfig, validate
from ct_llm.cycle_dir import write_record
from ct_llm.errors import ConfigError, InputError
from ct_llm.hub_server import RunningHub
from ct_llm.records import DatasetState, TriggerDecision, TriggerReason
from ct_llm.watch.webhook.app import MAX_BODY_BYTES
from ct_llm.watch.webhook.events import Ignored, followed_refs, read_event
from ct_llm.watch.webhook.queue import MAX_REMEMBERED, QueueState
from ct_llm.watch.webhook.serve import make_endpoint, make_server
from ct_llm.watch.webhook.start import BUDGET_SECONDS, DispatchWorkflow, held_seconds
from tests.loop_world import LoopWorld
from tests.unit.watch.test_metrics import parse

SECRET = "a secret of the Hub's settings-ü"
TOKEN = "ghp_only_for_github"
PATIENCE = 60.0

# Says over a socket that it runs and ends as it is told to, so that a test is ahead of each step.
CHILD = """
import os, signal, socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def stopped(*_):
    line.sendall(b"stopped ")
    sys.exit(130)
signal.signal(signal.SIGTERM, stopped)
line.sendall(b"secret " if "CT_LLM_WEBHOOK_SECRET" in os.environ else b"running ")
sys.exit(int(line.recv(8)))
"""


class Run:
    """One child process that has started; it ends with this object at the latest."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        line.settimeout(PATIENCE)
        assert self.heard() == "running"

    def heard(self) -> str:
        return self._line.recv(8).decode().strip()

    def end(self, code: int = 0) -> None:
        self._line.sendall(str(code).encode())

    def close(self) -> None:
        self._line.close()


class Runs:
    """Where the children report."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._runs: list[Run] = []
        self.command = [sys.executable, "-c", CHILD, str(self._listener.getsockname()[1])]

    def next(self) -> Run:
        self._runs.append(Run(self._listener.accept()[0]))
        return self._runs[-1]

    def are_none(self) -> bool:
        self._listener.setblocking(False)
        try:
            self._listener.accept()
        except BlockingIOError:
            return True
        finally:
            self._listener.settimeout(PATIENCE)
        return False

    def close(self) -> None:
        for run in self._runs:
            run.close()
        self._listener.close()


@dataclass
class Served:
    url: str
    stop: Callable[[], None]
    said: "queue.Queue[str]"
    client: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=PATIENCE))

    def post(
        self, event: Any, secret: str | None = SECRET, path: str = "/webhook"
    ) -> httpx2.Response:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        headers = secret_header(secret) if secret is not None else {}
        return self.client.post(self.url + path, content=body, headers=headers)

    def answer(self, event: Any) -> tuple[int, str]:
        response = self.post(event)
        return response.status_code, response.json()["status"]

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.client.get(self.url + path, headers=headers)

    def settled(self) -> str:
        """Wait until a start has ended, well or badly."""
        return self.said.get(timeout=PATIENCE)

    @property
    def is_starting(self) -> bool:
        return self.get("/healthz").json()["starting"]


def secret_header(secret: str, name: bytes = b"X-Webhook-Secret") -> dict[bytes, bytes]:
    return {name: secret.encode()}


def push(
    sha: str = "a" * 40,
    *,
    repo: str = "acme/rows",
    type: str = "dataset",
    ref: str = "refs/heads/main",
    action: str = "update",
    scope: str = "repo.content",
    new: str | None = "",
) -> dict[str, Any]:
    event = {
        "event": {"action": action, "scope": scope},
        "repo": {
            "type": type,
            "name": repo,
            "id": "621ffdc036468d709f17434d",
            "private": True,
            "url": {"web": f"https://huggingface.co/{repo}", "api": "https://huggingface.co/api"},
            "owner": {"id": "628b753283ef59b5be89e937"},
            "headSha": sha,
        },
        "webhook": {"id": "6390e855e30d9209411de93b", "version": 3},
        "updatedRefs": [{"ref": ref, "oldSha": "b" * 40, "newSha": sha if new == "" else new}],
    }
    WebhookPayload(**event)  # what the tests send is what the Hub sends
    return event


def configured(work_dir: Path, **watch: Any) -> CTConfig:
    config = {
        "base_model": {"repo": "acme/base"},
        "datasets": [{"repo": "acme/rows"}, {"repo": "acme/more", "revision": "live"}],
        "adapter_repo": "acme/adapter",
        "work_dir": str(work_dir),
        "watch": {"webhook": watch},
    }
    return validate(CTConfig, config, "test")


@contextmanager
def serving(config: CTConfig, command: Sequence[str] = ("false",), **env: str) -> Iterator[Served]:
    said: queue.Queue[str] = queue.Queue()
    ready: queue.Queue[str] = queue.Queue()
    environment = {"CT_LLM_WEBHOOK_SECRET": SECRET, **env}
    endpoint = make_endpoint(
        config, command, environment, say=said.put, retry_seconds=(0.0, 0.0, 0.01)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(endpoint, listener, ready.put)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)

        def stop() -> None:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()

        thread.start()
        served = Served(ready.get(timeout=PATIENCE), stop, said)
        try:
            yield served
        finally:
            served.client.close()
            stop()


@pytest.fixture
def runs() -> Iterator[Runs]:
    found = Runs()
    yield found
    found.close()


@pytest.fixture
def served(tmp_path: Path, runs: Runs) -> Iterator[Served]:
    write_record(tmp_path / "work" / "decision.json", decided())
    with serving(configured(tmp_path / "work"), runs.command) as running:
        has_looked(running, runs)
        yield running


def has_looked(served: Served, runs: Runs) -> None:
    """The look of the server's start, or that after a cycle, is over: there was nothing to do."""
    runs.next().end(10)
    served.settled()


def decided(
    *brakes: TriggerReason, due: bool = False, reason_value: float | None = 5, num_new: int = 0
) -> TriggerDecision:
    reason = TriggerReason(
        rule="volume", value=reason_value, threshold=10, met=due, sentence="some rows"
    )
    rows = DatasetState(
        name="acme/rows",
        repo="acme/rows",
        revision="a" * 40,
        as_of=None,
        num_rows=10,
        num_unseen_rows=num_new,
        num_new_rows=num_new,
        counted_by="files",
    )
    return TriggerDecision(
        should_train=False,
        sentence="not training",
        reasons=(reason, *brakes),
        checked_at="2026-07-03T12:00:00Z",
        datasets=(rows,),
    )


def brake(
    rule: str, value: float | None, threshold: float | None, *, met: bool = True
) -> TriggerReason:
    return TriggerReason(
        rule=rule, kind="brake", value=value, threshold=threshold, met=met, sentence="wait"
    )


# ---------------------------------------------------------------- what it takes


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", SECRET[:-1], SECRET.upper()])
def test_without_the_secret_nothing_starts(served: Served, runs: Runs, secret: str | None) -> None:
    assert served.post(push(), secret).status_code == 401
    assert served.post(b"{", secret).status_code == 401, "the secret is asked for first"
    assert not served.is_starting
    assert runs.are_none()


def test_a_push_starts_a_run_and_is_answered_at_once(served: Served, runs: Runs) -> None:
    assert served.answer(push()) == (202, "accepted")
    run = runs.next()
    assert served.is_starting
    run.end(0)
    served.settled()
    assert not served.is_starting


def test_both_paths_take_events(served: Served, runs: Runs) -> None:
    assert served.post(push("1" * 40), path="/").status_code == 202
    runs.next().end(10)
    assert served.post(push("2" * 40), path="/webhook").status_code == 202
    runs.next().end(10)
    assert served.post(push("3" * 40), path="/other").status_code == 404
    assert served.get("/webhook").status_code == 405


@pytest.mark.parametrize(
    "event",
    [
        push(repo="acme/adapter", type="model"),
        push(repo="acme/adapter", type="model", ref="refs/heads/ledger"),
        push(repo="acme/others"),
        push(repo="acme/rows", type="model"),
        push(ref="refs/heads/draft"),
        push(ref="refs/pr/3"),
        push(repo="acme/more", ref="refs/heads/main"),
        push(scope="discussion"),
        push(scope="discussion.comment", action="create"),
        push(scope="repo.config"),
        push(scope="repo", action="move"),
        push(scope="repo", action="delete"),
        push(action="delete"),
        push(new=None),
        push("0" * 40),
        {key: value for key, value in push().items() if key != "updatedRefs"},
    ],
)
def test_events_of_no_concern_are_ignored(
    served: Served, runs: Runs, event: dict[str, Any]
) -> None:
    assert served.answer(event) == (200, "ignored")
    assert not served.is_starting
    assert runs.are_none()


@pytest.mark.parametrize(
    "event",
    [
        push(repo="acme/more", ref="refs/heads/live"),
        push(repo="acme/more", ref="refs/tags/live"),
        push(repo="Acme/Rows"),
        push(scope="repo.content.something-finer"),
        push(action="create"),
        {**push(), "a field of tomorrow": {"x": 1}},
    ],
)
def test_events_that_concern_start_a_run(served: Served, runs: Runs, event: dict[str, Any]) -> None:
    assert served.answer(event) == (202, "accepted")
    runs.next().end()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"event": 1, "repo": 2}',
        b'{"event": {"action": "update", "scope": "repo.content"}}',
        json.dumps(push("not a sha")).encode(),
        json.dumps({**push(), "updatedRefs": "refs/heads/main"}).encode(),
        json.dumps({**push(), "updatedRefs": [{"ref": "r" * 2000}]}).encode(),
        json.dumps({**push(), "updatedRefs": push()["updatedRefs"] * 2000}).encode(),
    ],
    ids=range(13),
)
def test_what_is_no_event_is_refused(served: Served, runs: Runs, body: bytes) -> None:
    response = served.post(body)
    assert (response.status_code, response.json()["status"]) == (400, "refused")
    assert runs.are_none()


def test_a_body_that_is_too_large_is_refused(served: Served, runs: Runs) -> None:
    body = json.dumps({**push(), "padding": " " * MAX_BODY_BYTES}).encode()
    assert served.post(body).status_code == 413
    chunks = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    answer = served.client.post(
        f"{served.url}/webhook", content=chunks, headers=secret_header(SECRET)
    )
    assert answer.status_code == 413, "Content-Length is not trusted to be there"
    assert runs.are_none()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["event", "repo", "updatedRefs", "action", "scope", "name", "type"]
                ),
                inner,
                max_size=4,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        event = read_event(body, {"acme/rows": {"refs/heads/main"}}, "acme/adapter")
    except ValueError:
        return
    assert isinstance(event, Ignored)


def test_refs_of_datasets_wherever_they_are_named() -> None:
    config = validate(
        CTConfig,
        {
            "base_model": {"repo": "acme/base"},
            "adapter_repo": "acme/adapter",
            "datasets": [
                {"repo": "Acme/Rows"},
                {"path": "hf://datasets/acme/more@live/folder"},
                {"path": "hf://datasets/acme/rows/folder", "name": "folder"},
                {"path": "s3://bucket/rows"},
            ],
        },
        "test",
    )
    followed = followed_refs(config.datasets)
    assert set(followed) == {"acme/rows", "acme/more"}
    assert "refs/heads/live" in followed["acme/more"]
    assert "refs/heads/main" in followed["acme/rows"]


# ---------------------------------------------------------------- how often it starts


def test_the_same_push_again_is_ignored(served: Served, runs: Runs) -> None:
    assert served.answer(push("1" * 40)) == (202, "accepted")
    runs.next().end(10)
    served.settled()
    assert served.answer(push("1" * 40)) == (200, "ignored")
    assert runs.are_none()
    assert served.answer(push("2" * 40)) == (202, "accepted")
    runs.next().end()


def test_a_burst_makes_one_run_and_one_more(served: Served, runs: Runs) -> None:
    shas = [f"{number:040x}" for number in range(1, 22)]
    assert served.answer(push(shas[0])) == (202, "accepted")
    first = runs.next()
    answers: list[tuple[int, str]] = []
    threads = [
        threading.Thread(target=lambda sha=sha: answers.append(served.answer(push(sha))))
        for sha in shas[1:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(202, "accepted")] * 20
    assert runs.are_none(), "one at a time"
    first.end()
    served.settled()
    second = runs.next()
    assert runs.are_none()
    second.end(10)
    served.settled()
    assert not served.is_starting
    assert runs.are_none()


@pytest.mark.parametrize("code", [10, 30, 40, 1])
def test_a_run_that_ended_for_good_is_not_repeated(served: Served, runs: Runs, code: int) -> None:
    served.post(push())
    runs.next().end(code)
    served.settled()
    assert not served.is_starting
    assert runs.are_none()


@pytest.mark.parametrize("code", [0, 11, 12])
def test_after_a_cycle_there_is_one_more_look(served: Served, runs: Runs, code: int) -> None:
    served.post(push())
    runs.next().end(code)
    served.settled()
    has_looked(served, runs)
    assert not served.is_starting
    assert runs.are_none()


def test_a_run_that_may_succeed_later_is_tried_until_it_does(
    tmp_path: Path, served: Served, runs: Runs
) -> None:
    def waiting() -> object:
        path = tmp_path / "work" / "webhook.json"
        return QueueState.model_validate_json(path.read_bytes()).waiting

    served.post(push())
    for _ in range(6):
        runs.next().end(20)
        assert "Trying again" in served.settled()
    last = runs.next()
    assert waiting() is not None, "a restart tries again"
    last.end(10)
    served.settled()
    assert not served.is_starting
    assert runs.are_none()


def test_what_a_brake_held_back_is_looked_at_once_more(
    tmp_path: Path, served: Served, runs: Runs
) -> None:
    decision = tmp_path / "work" / "decision.json"
    served.post(push())
    first = runs.next()
    write_record(decision, decided(brake("debounce", 1.5, 2), due=True))
    first.end(10)
    assert "held back until" in served.settled()
    assert runs.are_none(), "not before the brake ends"
    second = runs.next()
    write_record(decision, decided(brake("debounce", 3, 2, met=False)))
    second.end(10)
    assert served.settled() == "no reason to train"
    assert not served.is_starting
    assert runs.are_none()


def test_a_push_meanwhile_takes_the_place_of_that_look(
    tmp_path: Path, served: Served, runs: Runs
) -> None:
    decision = tmp_path / "work" / "decision.json"
    served.post(push("1" * 40))
    first = runs.next()
    write_record(decision, decided(brake("debounce", 0, 2), due=True))
    first.end(10)
    assert "held back until" in served.settled()
    served.post(push("2" * 40))
    second = runs.next()  # of the push; the brake still holds
    write_record(decision, decided(brake("debounce", 1.9, 2), due=True))
    second.end(10)
    assert "held back until" in served.settled()
    third = runs.next()
    write_record(decision, decided())
    third.end(10)
    served.settled()
    with pytest.raises(queue.Empty):
        served.said.get(timeout=2)  # the first look's 3 seconds end in this time
    assert runs.are_none()


@pytest.mark.parametrize(
    ("decision", "seconds"),
    [
        (decided(), None),
        (decided(due=True), None),
        (decided(brake("debounce", 20, 300)), None),
        (decided(brake("debounce", 20, 300), due=True), 281),
        (decided(brake("debounce", 400, 300, met=False), due=True), None),
        (decided(brake("debounce", 20, 300), brake("cooldown", 100, 3600), due=True), 3501),
        (decided(brake("debounce", 20, 300), brake("budget", 4, 4), due=True), BUDGET_SECONDS),
        (decided(brake("failed", None, None), due=True), None),
        (decided(brake("failed", None, None), brake("debounce", 20, 300), due=True), None),
        (decided(brake("debounce", 20, 300), reason_value=None, num_new=1), 281),
        (decided(brake("debounce", 20, 300), reason_value=None), None),
    ],
)
def test_how_long_brakes_alone_hold_back(decision: TriggerDecision, seconds: float | None) -> None:
    assert held_seconds(decision) == seconds


def test_pushes_while_no_server_listened_are_found_by_a_look(tmp_path: Path, runs: Runs) -> None:
    with serving(configured(tmp_path), runs.command) as served:
        runs.next().end(0)
        assert served.settled() == "promoted"
        runs.next()


def test_what_was_accepted_outlives_a_restart(tmp_path: Path, runs: Runs) -> None:
    config = configured(tmp_path / "work")
    write_record(tmp_path / "work" / "decision.json", decided())
    with serving(config, runs.command) as served:
        has_looked(served, runs)
        served.post(push("1" * 40))
        has_looked(served, runs)
        served.post(push("2" * 40))
        under_way = runs.next()
        served.stop()
        assert under_way.heard() == "stopped", "SIGTERM is passed on and the run waited for"
    with serving(config, runs.command) as served:
        runs.next().end(10)
        assert served.settled().startswith("acme/rows is at 222222222222: ")
        for sha in ("1" * 40, "2" * 40):
            assert served.answer(push(sha)) == (200, "ignored")
    with serving(config, runs.command) as served:
        runs.next().end(10)
        assert served.settled() == "no reason to train", "the push was dealt with"
        assert not served.is_starting
        assert runs.are_none()


def test_a_broken_state_file_keeps_nobody_out(tmp_path: Path, runs: Runs) -> None:
    (tmp_path / "webhook.json").write_text("{")
    with serving(configured(tmp_path), runs.command) as served:
        assert served.answer(push()) == (202, "accepted")
        runs.next().end()


def test_what_is_remembered_is_bounded(tmp_path: Path, runs: Runs) -> None:
    known = tuple(f"acme/rows refs/heads/main {number:040x}" for number in range(MAX_REMEMBERED))
    write_record(tmp_path / "webhook.json", QueueState(remembered=known))
    with serving(configured(tmp_path), runs.command) as served:
        served.post(push("f" * 40))
        runs.next().end()
        served.settled()
    state = QueueState.model_validate_json((tmp_path / "webhook.json").read_bytes())
    assert len(state.remembered) == MAX_REMEMBERED
    assert state.remembered[-1].endswith("f" * 40)
    assert known[0] not in state.remembered


def test_a_command_that_cannot_start_is_no_crash(tmp_path: Path) -> None:
    with serving(configured(tmp_path), [str(tmp_path / "missing")]) as served:
        served.post(push())
        for _ in range(4):
            served.settled()
        assert served.get("/healthz").status_code == 200


# ---------------------------------------------------------------- GitHub


class GitHub(ThreadingHTTPServer):
    """Where the outside world begins: it keeps what it is asked and answers what it is told to."""

    def __init__(self, answers: Sequence[tuple[int, dict[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), GitHubAnswer)
        self.asked: queue.Queue[tuple[str, dict[str, str], Any]] = queue.Queue()
        self.answers = list(answers)
        self.url = f"http://127.0.0.1:{self.server_port}"


class GitHubAnswer(BaseHTTPRequestHandler):
    server: GitHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.put((self.path, headers, body))
        code, headers = self.server.answers.pop(0) if self.server.answers else (204, {})
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def github(*answers: tuple[int, dict[str, str]]) -> Iterator[GitHub]:
    with GitHub(answers) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()


def dispatching(tmp_path: Path) -> CTConfig:
    return configured(tmp_path, start="github", github_repo="acme/training", github_event="rows")


def test_a_push_becomes_a_repository_dispatch(tmp_path: Path) -> None:
    with (
        github() as api,
        serving(dispatching(tmp_path), GITHUB_TOKEN=TOKEN, GITHUB_API_URL=api.url) as served,
    ):
        _, _, at_start = api.asked.get(timeout=PATIENCE)
        served.settled()
        assert served.answer(push()) == (202, "accepted")
        path, headers, body = api.asked.get(timeout=PATIENCE)
        served.settled()
    assert at_start == {"event_type": "rows", "client_payload": {"adapter_repo": "acme/adapter"}}
    assert path == "/repos/acme/training/dispatches"
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept"] == "application/vnd.github+json"
    assert body == {
        "event_type": "rows",
        "client_payload": {
            "dataset": "acme/rows",
            "ref": "refs/heads/main",
            "revision": "a" * 40,
            "adapter_repo": "acme/adapter",
        },
    }


@pytest.mark.parametrize(
    "answers",
    [
        [(500, {}), (502, {})],
        [(429, {"Retry-After": "1"})],
        [(403, {"x-ratelimit-remaining": "0"})],
    ],
)
def test_a_github_that_fails_is_asked_again(
    tmp_path: Path, answers: list[tuple[int, dict[str, str]]]
) -> None:
    with (
        github(*answers) as api,
        serving(dispatching(tmp_path), GITHUB_TOKEN=TOKEN, GITHUB_API_URL=api.url) as served,
    ):
        said = [served.settled() for _ in range(len(answers) + 1)]  # of the dispatch at start
        assert not served.is_starting
        assert api.asked.qsize() == len(answers) + 1
    assert not any(TOKEN in line or SECRET in line for line in said)


@pytest.mark.parametrize("code", [301, 401, 403, 404, 422])
def test_a_github_that_refuses_is_not_asked_again(tmp_path: Path, code: int) -> None:
    with (
        github((code, {"Location": "/elsewhere"})) as api,
        serving(dispatching(tmp_path), GITHUB_TOKEN=TOKEN, GITHUB_API_URL=api.url) as served,
    ):
        said = served.settled()
        assert not served.is_starting
        assert api.asked.qsize() == 1
    assert TOKEN not in said


def test_a_github_that_is_not_reachable_is_no_crash(tmp_path: Path) -> None:
    with serving(
        dispatching(tmp_path), GITHUB_TOKEN=TOKEN, GITHUB_API_URL="http://127.0.0.1:9"
    ) as served:
        served.post(push())
        said = [served.settled() for _ in range(4)]
        assert served.get("/healthz").status_code == 200
    assert not any(TOKEN in line for line in said)


def test_a_token_never_crosses_the_network_in_the_clear() -> None:
    def dispatch(api: str) -> DispatchWorkflow:
        return DispatchWorkflow("acme/training", "rows", TOKEN, "acme/adapter", api)

    for api in ("http://github.example", "http://127.0.0.1.evil.example", "ftp://x", "github.com"):
        with pytest.raises(ConfigError, match="https"):
            dispatch(api)
    assert TOKEN not in repr(dispatch("https://github.example/api/v3"))


# ---------------------------------------------------------------- before it starts, and beside it


@pytest.mark.parametrize(
    ("config", "env", "said"),
    [
        ({}, {}, "CT_LLM_WEBHOOK_SECRET is not set"),
        ({}, {"CT_LLM_WEBHOOK_SECRET": ""}, "CT_LLM_WEBHOOK_SECRET is not set"),
        ({"secret_env": "OTHER"}, {"CT_LLM_WEBHOOK_SECRET": "x"}, "OTHER is not set"),
        (
            {"start": "github", "github_repo": "acme/training"},
            {"CT_LLM_WEBHOOK_SECRET": "x"},
            "GITHUB_TOKEN",
        ),
    ],
)
def test_it_does_not_start_without_secrets(
    tmp_path: Path, config: dict[str, str], env: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_endpoint(configured(tmp_path, **config), ["false"], env, say=print)


def test_metrics_are_those_of_the_last_look(tmp_path: Path) -> None:
    with serving(configured(tmp_path)) as served:
        assert served.get("/metrics").status_code == 401
        assert served.get("/metrics", Authorization="Bearer wrong").status_code == 401
        nothing = _metrics(served)
        assert nothing.status_code == 200
        assert "ct_llm" not in nothing.text
        decision = TriggerDecision(
            should_train=True, sentence="", reasons=(), checked_at="2026-07-03T12:00:00Z"
        )
        write_record(tmp_path / "decision.json", decision)
        found = _metrics(served)
        assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'ct_llm_should_train{adapter="acme/adapter"} 1\n' in found.text
        (tmp_path / "decision.json").write_text("{")
        assert _metrics(served).status_code == 503


def _metrics(served: Served) -> httpx2.Response:
    bearer = secret_header(f"Bearer {SECRET}", b"Authorization")
    return served.client.get(f"{served.url}/metrics", headers=bearer)


# ---------------------------------------------------------------- the command


def test_the_command_serves_and_runs_real_cycles(
    tmp_path: Path, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LoopWorld(tmp_path, hub, "webhook")
    sha = world.push_rows("data.parquet", [{"prompt": "a", "completion": "b"}])
    monkeypatch.setenv("CT_LLM_WEBHOOK_SECRET", SECRET)
    process = world.start("watch", "--serve", "--port", "0", "--set", "watch.threshold_samples=5")
    assert process.stdout is not None and process.stderr is not None
    try:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/webhook", process.stdout.readline())
        assert found, process.stderr.read()
        served = Served(found[1], process.terminate, queue.Queue())
        assert process.stderr.readline() == "ct-llm: no reason to train\n", "the look at start"
        assert served.answer(push(sha, repo=world.dataset)) == (202, "accepted")
        assert process.stderr.readline(), "the run has ended"
        assert "ct_llm_rule_threshold{" in _metrics(served).text
        assert " 5\n" in _metrics(served).text, "--set reaches the run"
        served.client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGTERM)


def test_a_port_that_is_taken_is_a_message(
    tmp_path: Path, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LoopWorld(tmp_path, hub, "webhook")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("CT_LLM_WEBHOOK_SECRET", SECRET)
        code, _, err = world.run_to_end("watch", "--serve", "--port", port)
    assert code == InputError.exit_code
    assert port in err
    assert "Traceback" not in err


def test_a_missing_server_library_is_a_message_with_the_command_to_run(
    tmp_path: Path, hub: RunningHub
) -> None:
    world = LoopWorld(tmp_path, hub, "webhook")
    world.write_config()
    code = (
        "import sys\nsys.modules['uvicorn'] = None\nfrom ct_llm.cli.main import main\n"
        f"main(['watch', '--serve', '--config', {str(world.config_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == InputError.exit_code
    assert "pip install 'ct_llm[webhook]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_prometheus_text(tmp_path: Path, hub: RunningHub) -> None:
    world = LoopWorld(tmp_path, hub, "prometheus")
    world.push_rows("data.parquet", [{"prompt": "a", "completion": "b"}] * 3)
    found = parse(world.ct_llm("watch", "--prometheus", code=10))
    by_name = {sample.name: sample for sample in found}
    assert by_name["ct_llm_should_train"].value == 0
    assert by_name["ct_llm_new_rows"].value == 3
    assert by_name["ct_llm_new_rows"].labels == {
        "adapter": world.adapter,
        "dataset": world.dataset,
    }
    assert "ct_llm_drift_auc" not in by_name
