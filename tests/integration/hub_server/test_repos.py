"""Repos as a whole: creation to deletion, infos and lists."""

import base64
import json

import pytest
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError


def test_creating_twice_is_409_and_exist_ok_returns_the_same_url(api):
    url = api.create_repo("acme/twice")
    assert api.create_repo("acme/twice", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("acme/twice")
    assert error.value.response.status_code == 409


def test_a_model_and_a_dataset_may_share_a_name(api):
    api.create_repo("acme/shared")
    url = api.create_repo("acme/shared", repo_type="dataset")
    assert (url.repo_type, url.repo_id) == ("dataset", "acme/shared")
    assert api.dataset_info("acme/shared").sha != ""
    assert api.repo_info("acme/shared", repo_type="dataset").id == "acme/shared"


@pytest.mark.parametrize("repo_id", ["api/x", "acme/x.git", "datasets/x"])
def test_names_that_would_shadow_urls_are_refused(raw, repo_id):
    namespace, name = repo_id.split("/")
    answer = raw.post("/api/repos/create", json={"name": name, "organization": namespace})
    assert answer.status_code == 400


def test_deleting_removes_the_repo_and_frees_its_name(api, hub):
    api.create_repo("acme/gone")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="f", repo_id="acme/gone")
    folders = len(list((hub.root / "repos").iterdir()))
    api.delete_repo("acme/gone")
    assert len(list((hub.root / "repos").iterdir())) == folders - 1
    assert not api.repo_exists("acme/gone")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("acme/gone")
    api.delete_repo("acme/gone", missing_ok=True)
    api.create_repo("acme/gone")
    assert not api.file_exists("acme/gone", "f")


def test_moving_keeps_history_and_refuses_a_taken_name(api, repo):
    api.upload_file(path_or_fileobj=b"x", path_in_repo="f", repo_id=repo)
    api.create_repo("acme/taken")
    with pytest.raises(HfHubHTTPError) as error:
        api.move_repo(repo, "acme/taken")
    assert error.value.response.status_code == 409
    sha = api.model_info(repo).sha
    api.move_repo(repo, "beta/renamed")
    assert api.model_info("beta/renamed").sha == sha
    assert not api.repo_exists(repo)


def test_visibility_can_be_changed(api, anonymous, repo):
    api.update_repo_settings(repo, private=True)
    assert not anonymous.repo_exists(repo)
    api.update_repo_settings(repo, private=False)
    assert anonymous.repo_exists(repo)


def test_auth_check(api, anonymous, repo):
    api.auth_check(repo)
    api.auth_check(repo, write=True)
    anonymous.auth_check(repo)
    with pytest.raises(RepositoryNotFoundError):
        api.auth_check("acme/absent")


def test_info_has_card_tags_and_files(api, repo):
    card = (
        b"---\nbase_model: org/base\nlicense: mit\ntags: [lora]\nlibrary_name: peft\n---\n# Card\n"
    )
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)
    api.upload_file(path_or_fileobj=b"\0" * 1000, path_in_repo="w.bin", repo_id=repo)
    info = api.model_info(repo, files_metadata=True)
    assert {"base_model:org/base", "license:mit", "lora", "peft"} <= set(info.tags)
    assert (info.author, info.library_name, info.gated) == ("acme", "peft", False)
    assert info.card_data.base_model == "org/base"
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert set(files) == {".gitattributes", "README.md", "w.bin"}
    assert files["README.md"].size == len(card)
    assert files["w.bin"].lfs.size == 1000
    assert len(files["w.bin"].lfs.sha256) == 64
    assert files["w.bin"].blob_id != files["w.bin"].lfs.sha256


def test_info_at_a_revision_and_expanded(api, repo):
    first = api.model_info(repo).sha
    api.upload_file(path_or_fileobj=b"x", path_in_repo="f", repo_id=repo)
    assert api.model_info(repo, revision=first).sha == first
    assert len(api.model_info(repo, revision=first).siblings) == 1
    expanded = api.model_info(repo, expand=["sha", "tags"])
    assert expanded.sha == api.model_info(repo).sha
    assert expanded.siblings is None


def test_lists_filter_search_sort_and_page(api, raw):
    for name in ("one", "two", "three"):
        api.create_repo(f"lister/{name}")
    card = b"---\nbase_model: org/listed\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="lister/two")
    api.create_repo("lister/data", repo_type="dataset")
    ids = [model.id for model in api.list_models(author="lister")]
    assert sorted(ids) == ["lister/one", "lister/three", "lister/two"]
    assert [m.id for m in api.list_models(filter="base_model:org/listed")] == ["lister/two"]
    assert [m.id for m in api.list_models(author="lister", search="THRE")] == ["lister/three"]
    assert [d.id for d in api.list_datasets(author="lister")] == ["lister/data"]
    latest = next(iter(api.list_models(author="lister", sort="last_modified", full=True)))
    assert latest.last_modified is not None and latest.siblings is not None
    page = raw.get("/api/models", params={"author": "lister", "limit": 2})
    following = raw.get(page.links["next"]["url"])
    assert len(page.json()) == 2 and len(following.json()) == 1
    assert "next" not in following.links


def test_a_card_is_validated_before_its_commit(api, repo):
    with pytest.raises((ValueError, BadRequestError), match="not valid YAML"):
        api.upload_file(
            path_or_fileobj=b"---\na: [unclosed\n---\n", path_in_repo="README.md", repo_id=repo
        )
    assert not api.file_exists(repo, "README.md")


def test_dates_numbers_and_broken_cards_do_not_break_a_repo(api, raw, repo):
    card = b"---\ndate: 2026-11-24\n1: one\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)
    answer = raw.get(f"/api/models/{repo}").json()["cardData"]
    assert answer == {"date": "2026-11-24", "1": "one"}
    bomb = "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\n"
    assert raw.post("/api/validate-yaml", json={"content": bomb}).status_code == 400
    # A client that skips the check gets its file stored, and the repo stays readable.
    line = {"path": "README.md", "content": base64.b64encode(bomb.encode()).decode()}
    body = [{"key": "header", "value": {"summary": "m"}}, {"key": "file", "value": line}]
    content = "\n".join(map(json.dumps, body))
    assert raw.post(f"/api/models/{repo}/commit/main", content=content).status_code == 200
    assert raw.get(f"/api/models/{repo}").json()["cardData"] == {}


def test_text_that_is_not_unicode_is_refused(raw, repo):
    for path, body in [
        ("tag/main", b'{"tag": "\\ud800"}'),
        ("discussions", b'{"title": "\\ud800", "description": "d"}'),
    ]:
        assert raw.post(f"/api/models/{repo}/{path}", content=body).status_code == 400
