"""Discussions and pull requests.

A pull request is a discussion with a ref of its own, `refs/pr/N`. Its commits are read from git, not
recorded twice, so the two cannot disagree after a kill.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from dataclasses import dataclass
from typing import Any

from ct_llm.hub_server.auth import Identity
from ct_llm.hub_server.database import Database
from ct_llm.hub_server.git_store import PULLS, CommitInfo, GitStore
from ct_llm.hub_server.merge import merged_tree, plan_merge
from ct_llm.hub_server.repos import RepoRecord
from ct_llm.hub_server.wire import (
    WireError,
    bad_request,
    conflict,
    forbidden,
    format_time,
    revision_not_found,
)

MAX_DIFF_CHARS = 1_000_000


@dataclass(frozen=True)
class Discussion:
    """A discussion's row."""

    repo_id: str
    num: int
    title: str
    status: str
    is_pull_request: bool
    author: str
    created_at: float
    target: str | None
    """The full ref that a pull request merges into."""
    base: str | None
    """The commit that a pull request was made from."""
    merge_commit: str | None

    @property
    def ref(self) -> str:
        return f"{PULLS}{self.num}"

    @property
    def is_open(self) -> bool:
        return self.status in ("open", "draft")


class Discussions:
    """Reads and changes discussions. Callers have checked that the repo may be seen."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, repo: RepoRecord, num: int) -> Discussion:
        """Raises 404 when there is none."""
        row = self._database.row(
            "SELECT * FROM discussions WHERE repo_id = ? AND num = ?", (repo.id, num)
        )
        if row is None:
            raise WireError(404, f"{repo.repo_id} has no discussion {num}.")
        return _discussion(row)

    def search(
        self, repo: RepoRecord, *, kind: str | None, status: str | None, author: str | None
    ) -> list[Discussion]:
        """Newest first. `kind` is 'discussion' or 'pull_request', `status` 'open' or 'closed'."""
        rows = self._database.rows(
            "SELECT * FROM discussions WHERE repo_id = ? ORDER BY num DESC", (repo.id,)
        )
        found = []
        for discussion in map(_discussion, rows):
            if kind in ("discussion", "pull_request") and (
                discussion.is_pull_request is not (kind == "pull_request")
            ):
                continue
            if status in ("open", "closed") and discussion.is_open is not (status == "open"):
                continue
            if author is not None and discussion.author != author:
                continue
            found.append(discussion)
        return found

    def open_discussion(
        self, repo: RepoRecord, store: GitStore, author: str, title: str, description: str
    ) -> Discussion:
        """Start a discussion without a pull request."""
        with store.lock:
            return self._insert(repo, author, title, description, status="open")

    def open_pull_request(
        self,
        repo: RepoRecord,
        store: GitStore,
        author: str,
        title: str,
        description: str,
        *,
        target: str,
        base: str,
        head: str,
        status: str,
    ) -> Discussion:
        """Start a pull request whose ref points to `head`, made from `base`."""
        with store.lock:
            # The ref first: a kill in between leaves a ref that the next pull request overwrites.
            store.set_ref(f"{PULLS}{self._next_num(repo)}", head)
            return self._insert(
                repo, author, title, description, status=status, target=target, base=base
            )

    def comment(self, discussion: Discussion, author: str, content: str) -> dict[str, Any]:
        """Add a comment and return its event."""
        return self._add_event(discussion, "comment", author, _comment_data(content))

    def edit_comment(
        self, discussion: Discussion, identity: Identity, event_id: str, content: str | None
    ) -> dict[str, Any]:
        """Replace a comment's text, or hide it for good when `content` is None.

        Raises:
            WireError: 404 when there is no such comment, 403 for another's comment.
        """
        with self._database.transaction():
            row = self._database.row(
                "SELECT * FROM events WHERE id = ? AND repo_id = ? AND num = ? AND type = 'comment'",
                (event_id, discussion.repo_id, discussion.num),
            )
            if row is None:
                raise WireError(404, f"Discussion {discussion.num} has no comment {event_id}.")
            if not (identity.is_admin or identity.user == row["author"]):
                raise forbidden("Only a comment's author may change it.")
            data = json.loads(row["data"])
            if content is None:
                data = {**_comment_data(""), "hidden": True}
            else:
                history = [*data["history"], data["latest"]]
                edited = {"edited": True, "history": history, "numEdits": len(history)}
                data = {**_comment_data(content, identity.user), **edited}
            self._database.execute(
                "UPDATE events SET data = ? WHERE id = ?", (json.dumps(data), event_id)
            )
        return _event(row, data)

    def change_status(
        self, discussion: Discussion, author: str, status: str, comment: str | None
    ) -> dict[str, Any]:
        """Open or close.

        Raises:
            WireError: 400 for another status, 409 when it is merged already.
        """
        if status not in ("open", "closed"):
            raise bad_request(f"Status must be 'open' or 'closed', not {status!r}.")
        if discussion.status == "merged":
            raise conflict(f"Pull request {discussion.num} is merged already.")
        with self._database.transaction():
            if comment:
                self._add_event(discussion, "comment", author, _comment_data(comment))
            self._set(discussion, "status", status)
            return self._add_event(discussion, "status-change", author, {"status": status})

    def rename(self, discussion: Discussion, author: str, title: str) -> dict[str, Any]:
        """Change the title."""
        if not title:
            raise bad_request("A title must not be empty.")
        with self._database.transaction():
            self._set(discussion, "title", title)
            change = {"from": discussion.title, "to": title}
            return self._add_event(discussion, "title-change", author, change)

    def merge(
        self, repo: RepoRecord, store: GitStore, num: int, author: str, comment: str | None
    ) -> str:
        """Squash a pull request onto its target and return the target's new tip.

        Raises:
            WireError: 400 for a plain discussion, 409 when it is not open or files conflict.
        """
        with store.lock:
            discussion = self.get(repo, num)
            if not discussion.is_pull_request:
                raise bad_request(f"Discussion {num} is not a pull request.")
            if not discussion.is_open:
                raise conflict(f"Pull request {num} is {discussion.status}.")
            base, target, ours, theirs = _sides(store, discussion)
            if ours is None:
                raise revision_not_found(target)
            plan = plan_merge(store, base=base, ours=ours, theirs=theirs)
            if plan.conflicts:
                raise WireError(
                    409,
                    f"Pull request {num} conflicts with {target}: {', '.join(plan.conflicts)}.",
                    body={"filesWithConflicts": plan.conflicts},
                )
            tree, trees = merged_tree(store, ours, plan.changes).write()
            merged = ours
            # An equal tree: a merge that was killed before its row was written, or nothing to do.
            if tree != store.commit(ours).tree:
                subjects = [f"- {info.title} ({info.oid})" for info in _commits(store, discussion)]
                commit = store.new_commit(
                    tree, ours, author, f"{discussion.title} (#{num})", "\n".join(subjects)
                )
                store.store([*trees, commit])
                merged = commit.id.decode()
                if not store.move_ref(target, ours, merged):
                    raise conflict(f"{target} moved during the merge; try again.")
            with self._database.transaction():
                if comment:
                    self._add_event(discussion, "comment", author, _comment_data(comment))
                self._set(discussion, "status", "merged")
                self._set(discussion, "merge_commit", merged)
                self._add_event(discussion, "status-change", author, {"status": "merged"})
        return merged

    def summary(self, repo: RepoRecord, discussion: Discussion) -> dict[str, Any]:
        """A discussion as the list shows it."""
        return {
            "num": discussion.num,
            "title": discussion.title,
            "status": discussion.status,
            "isPullRequest": discussion.is_pull_request,
            "createdAt": format_time(discussion.created_at),
            "author": {"name": discussion.author},
            "repo": {"name": repo.repo_id, "type": repo.type},
        }

    def details(
        self, repo: RepoRecord, store: GitStore, discussion: Discussion, *, with_diff: bool
    ) -> dict[str, Any]:
        """A discussion with its events and, for a pull request, its changes."""
        rows = self._database.rows(
            "SELECT * FROM events WHERE repo_id = ? AND num = ? ORDER BY seq",
            (repo.id, discussion.num),
        )
        timed = [(row["created_at"], _event(row, json.loads(row["data"]))) for row in rows]
        wire = self.summary(repo, discussion)
        if discussion.is_pull_request:
            base, target, ours, theirs = _sides(store, discussion)
            for info in reversed(_commits(store, discussion)):
                # Git counts whole seconds; a commit of the opening second comes after the opening.
                moment = max(float(info.time), discussion.created_at)
                timed.append((moment, _commit_event(info.oid, info.author, moment, info.title)))
            wire["changes"] = {"base": target}
            if discussion.merge_commit is not None:
                wire["changes"]["mergeCommitId"] = discussion.merge_commit
            wire["filesWithConflicts"] = []
            if discussion.is_open and ours is not None:
                plan = plan_merge(store, base=base, ours=ours, theirs=theirs)
                wire["filesWithConflicts"] = plan.conflicts
            wire["diff"] = store.diff(base, theirs)[:MAX_DIFF_CHARS] if with_diff else ""
        wire["events"] = [event for _, event in sorted(timed, key=lambda pair: pair[0])]
        return wire

    def _next_num(self, repo: RepoRecord) -> int:
        sql = "SELECT coalesce(max(num), 0) + 1 AS next FROM discussions WHERE repo_id = ?"
        return self._database.rows(sql, (repo.id,))[0]["next"]

    def _insert(
        self,
        repo: RepoRecord,
        author: str,
        title: str,
        description: str,
        *,
        status: str,
        target: str | None = None,
        base: str | None = None,
    ) -> Discussion:
        if not title:
            raise bad_request("A title must not be empty.")
        # One moment for both: the opening comment must not come after a commit of the same second.
        now = time.time()
        with self._database.transaction():
            num = self._next_num(repo)
            self._database.execute(
                "INSERT INTO discussions (repo_id, num, title, status, is_pull_request, author,"
                " created_at, target, base) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (repo.id, num, title, status, base is not None, author, now, target, base),
            )
            discussion = self.get(repo, num)
            self._add_event(discussion, "comment", author, _comment_data(description), now)
        return discussion

    def _add_event(
        self,
        discussion: Discussion,
        kind: str,
        author: str,
        data: dict[str, Any],
        now: float | None = None,
    ) -> dict[str, Any]:
        event_id = uuid.uuid4().hex
        self._database.execute(
            "INSERT INTO events (id, repo_id, num, type, author, created_at, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                event_id,
                discussion.repo_id,
                discussion.num,
                kind,
                author,
                time.time() if now is None else now,
                json.dumps(data),
            ),
        )
        row = self._database.rows("SELECT * FROM events WHERE id = ?", (event_id,))[0]
        return _event(row, data)

    def _set(self, discussion: Discussion, column: str, value: str) -> None:
        # `column` is always a literal of this file, never input.
        self._database.execute(
            f"UPDATE discussions SET {column} = ? WHERE repo_id = ? AND num = ?",
            (value, discussion.repo_id, discussion.num),
        )


def _discussion(row: sqlite3.Row) -> Discussion:
    return Discussion(
        repo_id=row["repo_id"],
        num=row["num"],
        title=row["title"],
        status=row["status"],
        is_pull_request=bool(row["is_pull_request"]),
        author=row["author"],
        created_at=row["created_at"],
        target=row["target"],
        base=row["base"],
        merge_commit=row["merge_commit"],
    )


def _sides(store: GitStore, discussion: Discussion) -> tuple[str, str, str | None, str]:
    """A pull request's base commit, target ref, target tip (None: deleted) and own tip."""
    theirs = store.branch_tip(discussion.ref)
    if discussion.base is None or discussion.target is None or theirs is None:
        raise revision_not_found(discussion.ref)
    return discussion.base, discussion.target, store.branch_tip(discussion.target), theirs


def _commits(store: GitStore, discussion: Discussion) -> list[CommitInfo]:
    """A pull request's own commits, newest first."""
    own = []
    tip = store.branch_tip(discussion.ref)
    for info in store.history(tip) if tip is not None else ():
        if info.oid == discussion.base:
            break
        own.append(info)
    return own


def _comment_data(content: str, author: str | None = None) -> dict[str, Any]:
    latest: dict[str, Any] = {
        "raw": content,
        # No web page shows it; the raw text must still not turn into markup for who embeds it.
        "html": content.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
        "updatedAt": format_time(time.time()),
    }
    if author is not None:
        latest["author"] = {"name": author}
    return {"edited": False, "hidden": False, "latest": latest, "history": [], "numEdits": 0}


def _event(row: sqlite3.Row, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "type": row["type"],
        "createdAt": format_time(row["created_at"]),
        "author": {"name": row["author"]},
        "data": data,
    }


def _commit_event(oid: str, author: str, moment: float, subject: str) -> dict[str, Any]:
    return {
        "id": oid,
        "type": "commit",
        "createdAt": format_time(moment),
        "author": {"name": author},
        "data": {"subject": subject, "oid": oid},
    }
