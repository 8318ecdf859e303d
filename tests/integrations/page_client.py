"""Client of the page that is no browser and can send any message."""

from __future__ import annotations

import socket
import time

import msgspec
import viser
import zstandard
from websockets.sync.client import connect

CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [1.0, 0.0, 1.0], "fov": 1.0, "near": 0.01,
    "far": 10.0, "image_height": 100, "image_width": 100, "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 0.0, 1.0],
}  # fmt: skip


class Client:
    """Client that knows the controls by their labels and keeps every text."""

    def __init__(self, url, host=None, **options):
        # The connection exists already, so that another host name is not looked up.
        name, _, port = url.removeprefix("http://").partition(":")
        self.ws = connect(
            f"ws://{host or url.removeprefix('http://')}", sock=socket.create_connection((name, int(port)), 5),
            subprotocols=[f"viser-v{viser.__version__}"], compression=None, max_size=None,
            open_timeout=5, close_timeout=0.2, **options,
        )  # fmt: skip
        self.uuids, self.texts, self.removed = {}, {}, []

    def send(self, **message):
        self.ws.send(msgspec.msgpack.encode(message))

    def update(self, label, /, **updates):
        self.send(type="GuiUpdateMessage", uuid=self.uuids[label], updates=updates)

    def press(self, label):
        self.update(label, value=True)

    def look(self, seconds=0.05):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                data = self.ws.recv(left)
            except TimeoutError:
                return
            size = int.from_bytes(data[8:16], "little")
            inner = zstandard.ZstdDecompressor().decompress(data[16 : 16 + size])
            for message in msgspec.msgpack.decode(inner)["messages"]:
                self._take(message)

    def _take(self, message):
        kind, props = message["type"], message.get("props", {})
        if kind == "GuiRemoveMessage":
            self.removed.append(message["uuid"])
        elif kind == "GuiUpdateMessage":
            self.texts[message["uuid"]] = message["updates"]
        elif kind.startswith("Gui") and "label" in props:
            self.uuids[props["label"]] = message["uuid"]
        elif kind == "GuiMarkdownMessage":
            self.texts[message["uuid"]] = props

    def wait(self, true, seconds=10.0):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.texts
            self.look()

    def sees(self, text):
        return any(text in str(seen) for seen in self.texts.values())

    def close(self):
        self.ws.close()
