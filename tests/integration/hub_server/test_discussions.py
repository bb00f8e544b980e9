"""Discussions and pull requests, from opening to merge."""

import copy

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from ct_llm.hub_server import add_token


def add(path: str, content: bytes = b"x") -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_a_discussion_with_comments_a_new_title_and_a_status(api, repo):
    opened = api.create_discussion(repo, "Title", description="First")
    assert (opened.num, opened.status, opened.is_pull_request) == (1, "open", False)
    said = api.comment_discussion(repo, 1, "Second <b>")
    assert said.content == "Second <b>" and "<b>" not in said.rendered
    edited = api.edit_discussion_comment(repo, 1, said.id, "Better")
    assert edited.edited and edited.content == "Better" and edited.number_of_edits == 1
    with pytest.warns(UserWarning):
        hidden = api.hide_discussion_comment(repo, 1, said.id)
    assert hidden.hidden and hidden.content == "" and hidden.edit_history == []
    renamed = api.rename_discussion(repo, 1, "New title")
    assert (renamed.old_title, renamed.new_title) == ("Title", "New title")
    closed = api.change_discussion_status(repo, 1, "closed", comment="Done")
    assert closed.new_status == "closed"
    details = api.get_discussion_details(repo, 1)
    assert (details.title, details.status, details.author) == ("New title", "closed", "local")
    kinds = [event.type for event in details.events]
    assert kinds == ["comment", "comment", "title-change", "comment", "status-change"]
    assert api.change_discussion_status(repo, 1, "open").new_status == "open"
    with pytest.raises(HfHubHTTPError) as error:
        api.get_discussion_details(repo, 2)
    assert status_of(error) == 404


def test_the_list_is_filtered_and_paged(api, repo):
    for number in range(52):
        api.create_discussion(repo, f"d{number}")
    api.create_pull_request(repo, "pr")
    api.change_discussion_status(repo, 1, "closed")
    assert [d.num for d in api.get_repo_discussions(repo)] == list(range(53, 0, -1))
    pulls = list(api.get_repo_discussions(repo, discussion_type="pull_request"))
    assert [(d.num, d.title, d.is_pull_request) for d in pulls] == [(53, "pr", True)]
    closed = list(api.get_repo_discussions(repo, discussion_status="closed"))
    assert [d.num for d in closed] == [1]
    assert not list(api.get_repo_discussions(repo, author="nobody"))


def test_a_pull_request_takes_commits_and_is_merged(api, repo):
    api.create_commit(repo, [add("kept"), add("removed")], commit_message="base")
    opened = api.create_pull_request(repo, "Challenger", description="Please review")
    assert (opened.status, opened.target_branch) == ("draft", "refs/heads/main")
    base = api.model_info(repo).sha
    operations = [add("adapter_model.safetensors", b"weights"), CommitOperationDelete("removed")]
    inside = api.create_commit(
        repo, operations, commit_message="in pr", revision="refs/pr/1", parent_commit=base
    )
    assert api.model_info(repo, revision="refs/pr/1").sha == inside.oid
    assert api.model_info(repo).sha == base
    (pull,) = api.list_repo_refs(repo, include_pull_requests=True).pull_requests
    assert (pull.name, pull.ref, pull.target_commit) == ("1", "refs/pr/1", inside.oid)
    details = api.get_discussion_details(repo, 1)
    assert details.conflicting_files == [] and "b/adapter_model.safetensors" in details.diff
    assert [event.type for event in details.events] == ["comment", "commit"]
    assert details.events[1].oid == inside.oid
    # main moves on without touching the same files
    api.create_commit(repo, [add("elsewhere")], commit_message="on main")
    api.merge_pull_request(repo, 1, comment="Looks good")
    merged = api.get_discussion_details(repo, 1)
    assert merged.status == "merged"
    assert merged.merge_commit_oid == api.model_info(repo).sha
    files = {".gitattributes", "kept", "elsewhere", "adapter_model.safetensors"}
    assert set(api.list_repo_files(repo)) == files
    newest = api.list_repo_commits(repo)[0]
    assert newest.title == "Challenger (#1)" and inside.oid in newest.message
    for call in (
        lambda: api.merge_pull_request(repo, 1),
        lambda: api.change_discussion_status(repo, 1, "closed"),
        lambda: api.create_commit(repo, [add("f")], commit_message="m", revision="refs/pr/1"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 409


def test_create_pr_opens_a_pull_request_from_the_given_parent(api, repo):
    parent = api.model_info(repo).sha
    api.create_commit(repo, [add("later")], commit_message="main moves on")
    info = api.create_commit(
        repo,
        [add("proposed"), add("w.bin")],
        commit_message="Proposal",
        commit_description="Because",
        parent_commit=parent,
        create_pr=True,
    )
    assert info.pr_url.endswith(f"/{repo}/discussions/1")
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    assert api.list_repo_commits(repo, revision="refs/pr/1")[1].commit_id == parent
    details = api.get_discussion_details(repo, 1)
    assert (details.title, details.status, details.events[0].content) == (
        "Proposal",
        "open",
        "Because",
    )
    assert not api.file_exists(repo, "proposed")
    api.merge_pull_request(repo, 1)
    assert set(api.list_repo_files(repo)) == {".gitattributes", "later", "proposed", "w.bin"}


@pytest.mark.parametrize(
    ("ours", "theirs", "conflicts"),
    [
        ([add("f", b"ours")], [add("f", b"theirs")], True),
        ([add("f", b"same")], [add("f", b"same")], False),
        ([CommitOperationDelete("f")], [add("f", b"theirs")], True),
        ([CommitOperationDelete("f")], [CommitOperationDelete("f")], False),
        ([add("new", b"ours")], [add("new", b"theirs")], True),
        ([add("new")], [add("new/inside")], True),
        ([add("other")], [CommitOperationDelete("f"), add("f/inside")], False),
    ],
)
def test_conflicts_are_409_and_leave_main_alone(api, repo, ours, theirs, conflicts):
    api.create_commit(repo, [add("f", b"base")], commit_message="base")
    # Operations remember their upload, and pytest hands out the same ones in each run.
    ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
    api.create_commit(repo, theirs, commit_message="theirs", create_pr=True)
    tip = api.create_commit(repo, ours, commit_message="ours").oid
    assert bool(api.get_discussion_details(repo, 1).conflicting_files) is conflicts
    if not conflicts:
        api.merge_pull_request(repo, 1)
        assert api.get_discussion_details(repo, 1).status == "merged"
        return
    with pytest.raises(HfHubHTTPError) as error:
        api.merge_pull_request(repo, 1)
    assert status_of(error) == 409
    assert api.model_info(repo).sha == tip
    assert api.get_discussion_details(repo, 1).status == "open"


def test_a_closed_pull_request_is_not_merged(api, repo):
    api.create_commit(repo, [add("f")], commit_message="m", create_pr=True)
    api.change_discussion_status(repo, 1, "closed")
    with pytest.raises(HfHubHTTPError) as error:
        api.merge_pull_request(repo, 1)
    assert status_of(error) == 409
    api.create_discussion(repo, "no pull request")
    with pytest.raises(HfHubHTTPError) as error:
        api.merge_pull_request(repo, 2)
    assert status_of(error) == 400


def test_a_contributor_may_propose_but_not_merge_or_touch_others(hub, api, repo):
    guest = HfApi(endpoint=hub.endpoint, token=add_token(hub.root, "guest", "write"))
    info = guest.create_commit(
        repo, [add("w.bin", b"from a guest")], commit_message="Proposal", create_pr=True
    )
    assert info.pr_num == 1
    guest.create_commit(repo, [add("more")], commit_message="m", revision=info.pr_revision)
    opened = api.create_pull_request(repo, "of the owner")
    for call in (
        lambda: guest.merge_pull_request(repo, 1),
        lambda: guest.create_commit(
            repo, [add("f")], commit_message="m", revision=opened.git_reference
        ),
        lambda: guest.rename_discussion(repo, opened.num, "mine"),
        lambda: guest.change_discussion_status(repo, opened.num, "closed"),
        lambda: guest.edit_discussion_comment(repo, opened.num, opened.events[0].id, "mine"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 403
    assert guest.comment_discussion(repo, opened.num, "a remark").author == "guest"
    api.merge_pull_request(repo, 1)
    assert api.file_exists(repo, "more")


def test_a_pull_request_into_a_branch(api, repo):
    api.create_branch(repo, branch="next")
    for number in (1, 2):
        operations = [add(f"f{number}")]
        api.create_commit(repo, operations, commit_message="m", revision="next", create_pr=True)
        assert api.get_discussion_details(repo, number).target_branch == "refs/heads/next"
    api.merge_pull_request(repo, 1)
    assert api.file_exists(repo, "f1", revision="next") and not api.file_exists(repo, "f1")
    # Without its target a pull request can be read, but not merged.
    api.delete_branch(repo, branch="next")
    assert api.get_discussion_details(repo, 1).status == "merged"
    assert api.get_discussion_details(repo, 2).status == "open"
    with pytest.raises(RevisionNotFoundError):
        api.merge_pull_request(repo, 2)
