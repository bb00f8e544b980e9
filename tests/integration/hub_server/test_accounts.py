"""Tokens, roles, namespaces, and what stays invisible."""

import stat
from functools import partial

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from ct_llm.errors import InputError
from ct_llm.hub_server import RunningHub, add_token, create_user, running_hub
from ct_llm.hub_server.auth import Role


def client(hub: RunningHub, user: str, role: Role) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=add_token(hub.root, user, role))


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_whoami_names_user_and_role(hub, api):
    assert api.whoami()["name"] == "local"
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    reader = client(hub, "ann", "read")
    assert reader.whoami()["name"] == "ann"
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"


def test_a_wrong_token_is_401_even_for_a_public_repo(hub, repo):
    stranger = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    for call in (stranger.whoami, lambda: stranger.model_info(repo)):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 401
        assert not isinstance(error.value, RepositoryNotFoundError)
        assert "Invalid user token" in str(error.value)


def test_reading_a_public_repo_needs_no_token_and_writing_does(anonymous, repo):
    assert anonymous.model_info(repo).id == repo
    with pytest.raises(HfHubHTTPError) as error:
        anonymous.create_tag(repo, tag="v1")
    assert status_of(error) == 401


def test_a_read_token_cannot_write(hub, api):
    api.create_repo("rita/model")
    reader = client(hub, "rita", "read")
    for call in (
        lambda: reader.create_repo("rita/other"),
        lambda: reader.create_tag("rita/model", tag="v1"),
        lambda: reader.delete_repo("rita/model"),
        lambda: reader.create_discussion("rita/model", "hello"),
        lambda: reader.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="rita/model"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 403


def test_a_user_writes_only_to_its_own_namespace(hub, repo):
    writer = client(hub, "wendy", "write")
    assert writer.create_repo("wendy/model").repo_id == "wendy/model"
    assert writer.create_repo("unnamed").repo_id == "wendy/unnamed"
    for call in (
        lambda: writer.create_repo("acme/mine"),
        lambda: writer.create_branch(repo, branch="mine"),
        lambda: writer.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repo),
        lambda: writer.move_repo("wendy/model", "acme/model"),
        lambda: writer.auth_check(repo, write=True),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 403


def test_another_users_private_repo_does_not_exist(hub, api, anonymous):
    api.create_repo("paul/secret", private=True)
    api.upload_file(path_or_fileobj=b"s", path_in_repo="f", repo_id="paul/secret")
    outsider, owner = client(hub, "olga", "write"), client(hub, "paul", "read")
    for stranger in (anonymous, outsider):
        assert not stranger.repo_exists("paul/secret")
        assert "paul/secret" not in [model.id for model in stranger.list_models()]
        for call in (
            partial(stranger.model_info, "paul/secret"),
            partial(stranger.hf_hub_download, "paul/secret", "f"),
            partial(stranger.create_tag, "paul/secret", tag="v1"),
            partial(stranger.auth_check, "paul/secret"),
            partial(stranger.list_repo_files, "paul/secret"),
        ):
            with pytest.raises(RepositoryNotFoundError):
                call()
    assert owner.model_info("paul/secret").private
    assert "paul/secret" in [model.id for model in owner.list_models()]


def test_a_gated_repo_shows_its_files_but_not_their_content(api, anonymous, repo):
    api.upload_file(path_or_fileobj=b"x", path_in_repo="f", repo_id=repo)
    api.update_repo_settings(repo, gated="manual")
    assert anonymous.model_info(repo).gated == "manual"
    with pytest.raises(GatedRepoError):
        anonymous.hf_hub_download(repo, "f")
    api.update_repo_settings(repo, gated=False)
    assert anonymous.model_info(repo).gated is False


def test_tokens_are_stored_as_hashes_and_the_admins_only_in_its_file(hub):
    token = add_token(hub.root, "hana", "write")
    for path in hub.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert token.encode() not in content
            assert path.name == "token" or hub.token.encode() not in content
    assert stat.S_IMODE((hub.root / "token").stat().st_mode) == 0o600


def test_the_admins_token_survives_a_restart(tmp_path):
    with running_hub(tmp_path) as first:
        HfApi(endpoint=first.endpoint, token=first.token).create_repo("acme/kept")
    with running_hub(tmp_path) as second:
        assert second.token == first.token
        assert HfApi(endpoint=second.endpoint, token=second.token).repo_exists("acme/kept")


def test_unusable_users_and_roles_are_refused(hub, tmp_path):
    for name in ("", "a/b", "..", "api", "x" * 60):
        with pytest.raises(InputError):
            create_user(hub.root, name)
    with pytest.raises(InputError, match="role"):
        add_token(hub.root, "ann", "admin")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="not a hub"):
        add_token(tmp_path / "absent", "ann")
