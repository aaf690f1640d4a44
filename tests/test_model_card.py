"""A trained model's README, and its way to a hub: a small server that speaks the hub's upload."""

import base64
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

torch = pytest.importorskip("torch")
from huggingface_hub import constants, metadata_load  # noqa: E402

from chainofstep.models.vlm import load_vlm  # noqa: E402
from chainofstep.training.common import Lora  # noqa: E402
from chainofstep.training.model_card import push, write_card  # noqa: E402
from chainofstep.training.sft import SftConfig  # noqa: E402
from small_training import small, write_inputs  # noqa: E402

HISTORY = [{"loss": 2.5, "grad_norm": 1.0, "step": 1}, {"loss": 0.25, "grad_norm": 0.5, "step": 2}, {"train_loss": 1.0}]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def card(vlm, folder, config=SftConfig()):  # noqa: B008
    return write_card(vlm, folder, "SFT", config, HISTORY, 3).read_text()


def test_a_card_says_what_was_trained_and_how(inputs, tmp_path):
    text = card(load_vlm(inputs / "model"), tmp_path / "mine")
    head = metadata_load(tmp_path / "mine" / "README.md")
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "image-text-to-text"
    assert head["tags"] == ["chain-of-step", "sft"] and "base_model" not in head and "license" not in head
    assert "# mine" in text and "License: not stated." in text
    assert "2 updates of 64 rows on 1 process(es), 3 rows left out" in text
    assert "| loss | 2.5000 | 0.2500 |" in text and "| grad_norm | 1.0000 | 0.5000 |" in text
    settings = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    assert settings["learning_rate"] == 5e-4 and settings["machine"]["precision"] == "float32"
    assert f"torch {torch.__version__}" in text and str(inputs) not in text


def test_base_and_license_come_from_the_base_and_its_readme(inputs, tmp_path):
    vlm = load_vlm(inputs / "model")
    readme = inputs / "model" / "README.md"
    readme.write_text("---\nlicense: apache-2.0\nbase_model: some/base\n---\n# A model\n")
    try:
        text = card(vlm, tmp_path / "mine", replace(SftConfig(), lora=Lora(rank=4)))
    finally:
        readme.unlink()
    head = metadata_load(tmp_path / "mine" / "README.md")
    assert (head["base_model"], head["license"]) == ("some/base", "apache-2.0") and "lora" in head["tags"]
    assert "starting from\nsome/base." in text and "License: apache-2.0." in text and "`adapter/`" in text
    named = small()
    named.model.name_or_path = "llava-hf/llava-1.5-7b-hf"
    card(named, tmp_path / "hub")
    assert metadata_load(tmp_path / "hub" / "README.md")["base_model"] == "llava-hf/llava-1.5-7b-hf"


class Hub(BaseHTTPRequestHandler):
    """The hub's part of an upload: a repository is made, small files come in one commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/taken/" in self.path:
            return self.answer(403, {"error": "not yours"})
        if self.path.endswith("/validate-yaml"):
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/repos/create"):
            asked = json.loads(body)
            self.server.made.append(asked)
            return self.answer(200, {"url": f"{self.server.address}/{asked['organization']}/{asked['name']}"})
        if "/preupload/" in self.path:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer(200, {"files": modes})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = {"commitUrl": f"{self.server.address}/me/mine/commit/1", "commitOid": "1", "success": True}
        return self.answer(200, commit | {"pullRequestUrl": None})

    def do_GET(self):
        self.answer(200, {"id": "me/mine", "siblings": []})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.made = {}, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def online(monkeypatch):
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield server


def finished(folder):
    for name in (
        "config.json",
        "README.md",
        "adapter/a.json",
        "checkpoints/c/o.json",
        "features/f.json",
        "made_from.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{{}}\n{name}")
    return folder


def test_a_push_takes_the_model_and_no_checkpoints(online, tmp_path):
    assert push(finished(tmp_path), "me/mine").endswith("/me/mine/commit/1")
    assert {name: content.decode() for name, content in online.files.items()} == {
        name: f"{{}}\n{name}" for name in ("config.json", "README.md", "adapter/a.json")
    }
    (made,) = online.made
    assert (made["organization"], made["name"]) == ("me", "mine")
    assert made.get("private") is True or made.get("visibility") == "private"


def test_a_push_that_cannot_work_says_so(online, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json: give a folder that training wrote"):
        push(tmp_path, "me/mine")
    with pytest.raises(ValueError, match=r"me/taken: .*hf auth login"):
        push(finished(tmp_path), "me/taken")
    with pytest.raises(ValueError, match="a b/c: "):
        push(tmp_path, "a b/c")


def test_a_push_without_a_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with pytest.raises(ValueError, match=r"me/mine: the hub cannot be reached \(.*; check the network") as caught:
        push(finished(tmp_path), "me/mine")
    assert "\n" not in str(caught.value)
