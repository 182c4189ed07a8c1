from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.storage.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("keys")) as store:
        yield store


def test_a_key_opens_its_project_and_no_other_text_does(store):
    project = store.keys.create_project("tickets")
    key, text = store.keys.create(project.id, "laptop", admin=True)
    assert store.keys.find(text) == key
    assert key.project == project.id
    assert key.admin
    for wrong in (text[:-1], text + "0", text.replace("sk-", "pk-"), text.swapcase(), "sk-" + key.id, "sk-" + key.id + "-", ""):
        assert store.keys.find(wrong) is None


@given(st.text())
def test_no_text_whatever_is_a_key_or_an_error(store, text):
    assert store.keys.find(text) is None
    assert store.keys.find("sk-" + text) is None


def test_the_secret_is_nowhere_on_disk(store):
    _, text = store.keys.create(LOCAL_PROJECT, "secret one")
    secret = text.rpartition("-")[2].encode()
    assert len(secret) == 64  # 256 bits in hex
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes()


def test_a_revoked_key_opens_nothing(store):
    key, text = store.keys.create(LOCAL_PROJECT, "short-lived")
    assert key in store.keys.list(LOCAL_PROJECT)
    assert store.keys.revoke(key.id)
    assert store.keys.find(text) is None
    assert key not in store.keys.list()
    assert not store.keys.revoke(key.id)


def test_a_key_needs_a_project_that_is_there(store):
    with pytest.raises(UsageError, match="There is no project 'proj_x'"):
        store.keys.create("proj_x", "lost")


def test_this_machine_is_a_project_from_the_start(store):
    assert store.keys.projects()[0].id == LOCAL_PROJECT
