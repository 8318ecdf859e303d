"""Errors of failed downloads, against a local stand-in for the hub."""

import errno
import http.server
import json
import threading
import time
import urllib.parse

import pytest

from smolvla_gym.agent.checkpoint.hub import download, find_checkpoint_folder
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.errors import CheckpointError

pytest.importorskip("lerobot")

COMMIT = "a" * 40


class Hub(http.server.ThreadingHTTPServer):
    """A stand-in for the hub: serves a folder as owner/name, or refuses everything."""

    daemon_threads = True

    def __init__(self):
        self.status, self.headers, self.asked, self.folder = 404, {"X-Error-Code": "RepoNotFound"}, [], None
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self):
        hub = self.server
        hub.asked.append(self.path)
        parts = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        if hub.folder is None:
            self.reply(hub.status, **hub.headers)
        elif parts[4:5] == ["tree"]:
            files = [path for path in hub.folder.rglob("*") if path.is_file()]
            found = [
                {"type": "file", "path": str(f.relative_to(hub.folder)), "size": f.stat().st_size, "oid": "b" * 40}
                for f in files
            ]
            self.reply(200, json.dumps(found).encode(), Content_Type="application/json")
        elif parts[0] == "api":
            found = {"id": "owner/name", "sha": COMMIT, "siblings": []}
            self.reply(200, json.dumps(found).encode(), Content_Type="application/json")
        else:
            content = hub.folder.joinpath(*parts[4:]).read_bytes()
            self.reply(200, content, ETag=f'"{len(content)}{parts[-1]}"', X_Repo_Commit=COMMIT)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub. Its client reads the settings once, so they are set where it keeps them."""
    from huggingface_hub import constants

    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits before it tries again
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "does not exist, or is private"),
        (401, {"X-Error-Code": "RepoNotFound"}, "does not exist, or is private"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated.*hf auth login"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision 'step-4000'"),
        (429, {"Retry-After": "17"}, "429.*17 s"),
        (503, {}, "503"),
    ],
)
def test_a_refusal_of_the_hub_is_explained(hub, status, headers, said):
    hub.status, hub.headers = status, headers
    with pytest.raises(CheckpointError, match=said) as caught:
        download("owner/name", "step-4000", ["config.json"])
    assert "HF_HUB_OFFLINE" not in str(caught.value)


def test_a_hub_that_is_not_there_is_explained(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"cannot be reached.*hf download owner/name"):
        download("owner/name", None, ["config.json"])


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "full.*HF_HOME"), (errno.EACCES, "written.*HF_HOME")])
def test_a_cache_that_cannot_be_written_is_explained(monkeypatch, code, said):
    import huggingface_hub
    from huggingface_hub import constants

    def fail(*_, **__):
        raise OSError(code, "no")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=said):
        download("owner/name", None, ["config.json"])


def test_a_repository_is_loaded_also_beside_a_folder_named_like_its_owner(hub, tiny, tmp_path, monkeypatch):
    hub.folder = tiny
    (tmp_path / "owner" / "notes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("owner/name", device="cpu").spec.directory.name == COMMIT
    # All files are of one commit.
    fetched = {path.split("/resolve/")[1] for path in hub.asked if "/resolve/" in path}
    assert all(path.startswith(f"{COMMIT}/") for path in fetched)
    assert f"{COMMIT}/model.safetensors" in fetched


def test_a_mistyped_folder_is_corrected_where_there_is_no_such_repository(hub, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "run-12").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not exist.*Did you mean 'outputs/run-12'"):
        load_checkpoint("outputs/run12")


@pytest.mark.parametrize("name", ["\0", "x" * 5000, "a/b/c", "~nobody_of_this_name/x", "../x", "ö/x", "\x1b[31m"])
def test_names_that_are_neither_folder_nor_repository(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint_folder(name)
    assert str(caught.value).isprintable()
