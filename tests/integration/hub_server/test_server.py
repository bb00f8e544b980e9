"""The process: who may reach it, what it logs, and what a kill leaves behind."""

import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from ct_llm.errors import InputError
from ct_llm.hub_server import app, running_hub, serve
from tests.integration.hub_server.conftest import REPOSITORY


def request(endpoint: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_only_loopback_names_are_answered(hub):
    for host in ("127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:9"):
        assert request(hub.endpoint, "GET", "/api/models", {"Host": host})[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", ""):
        assert request(hub.endpoint, "GET", "/api/models", {"Host": host})[0] in (400, 421)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_binding_beyond_loopback_is_refused(tmp_path, host):
    with pytest.raises(InputError, match="loopback"):
        serve(tmp_path, host=host)


def test_a_root_has_one_server_and_a_port_one_listener(hub, tmp_path):
    with pytest.raises(InputError, match="running"), running_hub(hub.root):
        pass
    port = urlsplit(hub.endpoint).port
    assert port is not None
    with pytest.raises(InputError, match="Port"), running_hub(tmp_path, port):
        pass


def test_bodies_have_a_limit(hub, raw, monkeypatch):
    headers = {"Host": "localhost", "Content-Length": str(10**12)}
    assert request(hub.endpoint, "POST", "/api/repos/create", headers)[0] == 413
    monkeypatch.setitem(app.MAX_BODY, "small", 1000)
    chunks = (b"x" * 600 for _ in range(2))
    assert raw.post("/api/validate-yaml", content=chunks).status_code == 413


def test_unknown_pages_and_bad_bodies_are_errors_in_json(raw, repo):
    for method, path, status in [
        ("GET", "/", 404),
        ("GET", "/api/collections", 404),
        ("POST", "/v1/telemetry", 404),
        ("GET", f"/api/models/{repo}/xet-write-token/main", 404),
        ("PATCH", f"/api/models/{repo}", 405),
        ("POST", f"/api/models/{repo}/discussions", 400),
    ]:
        answer = raw.request(method, path, content=b"[" if method == "POST" else None)
        assert answer.status_code == status, path
        assert answer.json()["error"] and answer.headers["x-request-id"]


def test_neither_tokens_nor_signed_links_are_logged(hub, api, repo, caplog):
    with caplog.at_level(logging.DEBUG):
        api.create_commit(repo, [CommitOperationAdd("w.bin", b"logged?")], commit_message="m")
        headers = {"Host": "localhost", "Authorization": "Bearer hf_mistyped"}
        assert request(hub.endpoint, "GET", "/api/whoami-v2", headers)[0] == 401
    server = [r for r in caplog.records if r.name.startswith(("ct_llm", "uvicorn", "starlette"))]
    text = "\n".join(record.getMessage() for record in server)
    assert "PUT /lfs/" in text
    for secret in (hub.token, "hf_mistyped", "signature="):
        assert secret not in text


SERVE = (
    "import sys\n"
    "from pathlib import Path\n"
    "from ct_llm.hub_server import serve\n"
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]), ready=lambda *said: print(*said, flush=True))\n"
)


class Process:
    """A server in a process of its own, to be killed."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(root), str(port)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        endpoint, token = self.popen.stdout.readline().split()
        self.api = HfApi(endpoint=endpoint, token=token)

    def stop(self, number: int) -> int:
        self.popen.send_signal(number)
        with self.popen:
            return self.popen.wait(timeout=20)


def test_a_kill_under_load_loses_no_acknowledged_commit(tmp_path):
    first = Process(tmp_path)
    first.api.create_repo("acme/model")
    # Enough objects for a pack, so that fsck sees packed and loose ones.
    many = [CommitOperationAdd(f"many/{i}", str(i).encode()) for i in range(60)]
    first.api.create_commit("acme/model", many, commit_message="many")
    acknowledged: list[str] = []
    enough, stop = threading.Event(), threading.Event()

    def commit_until_stopped(worker: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            operations = [
                CommitOperationAdd(f"w{worker}.bin", os.urandom(2000)),
                CommitOperationAdd(f"f{worker}", str(number).encode()),
            ]
            try:
                done = first.api.create_commit("acme/model", operations, commit_message="m")
            except (httpx2.TransportError, HfHubHTTPError):
                continue  # The kill hit this one: it was not acknowledged.
            acknowledged.append(done.oid)
            if len(acknowledged) >= 12:
                enough.set()

    workers = [threading.Thread(target=commit_until_stopped, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    assert enough.wait(30)
    first.stop(signal.SIGKILL)
    stop.set()
    # What a kill can leave at its worst moment.
    (repository,) = (tmp_path / "repos").iterdir()
    (repository / "refs" / "heads" / "main.lock").touch()
    (repository / "objects" / "tmp_obj_left").touch()
    (tmp_path / "repos" / "half-created.git").mkdir()
    (tmp_path / "lfs" / "incoming" / "half-uploaded").touch()

    # On the same port, so that uploads under way go on where the kill interrupted them.
    second = Process(tmp_path, urlsplit(first.api.endpoint).port or 0)
    try:
        for worker in workers:
            worker.join(60)
        history = {commit.commit_id for commit in second.api.list_repo_commits("acme/model")}
        assert set(acknowledged) <= history
        after = CommitOperationAdd("after", b"the kill")
        second.api.create_commit("acme/model", [after], commit_message="after")
        assert list((tmp_path / "repos").iterdir()) == [repository]
        assert not list((tmp_path / "lfs" / "incoming").iterdir())
        assert not (repository / "objects" / "tmp_obj_left").exists()
        # Every file, so also every large one that a commit names, is complete.
        second.api.snapshot_download("acme/model", local_dir=tmp_path / "down")
    finally:
        second.stop(signal.SIGTERM)
    assert list((repository / "objects" / "pack").glob("*.idx"))
    checked = subprocess.run(
        ["git", "-C", str(repository), "fsck", "--full", "--strict"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "missing" not in checked.stdout and "corrupt" not in checked.stdout


def test_serve_stops_on_ctrl_c_and_frees_its_port(tmp_path):
    server = Process(tmp_path)
    port = urlsplit(server.api.endpoint).port
    assert server.stop(signal.SIGINT) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_client_asks_who_runs_it_no_more_than_once(hub, run_client, repo, caplog):
    asking = f"from huggingface_hub import HfApi; print(HfApi().model_info({repo!r}).id)"
    with caplog.at_level(logging.INFO, logger="ct_llm.hub_server"):
        assert run_client(asking) == repo
        caplog.clear()
        assert run_client(asking) == repo
    paths = [r.args[1] for r in caplog.records if r.name == "ct_llm.hub_server"]
    assert paths == [f"/api/models/{repo}"]
