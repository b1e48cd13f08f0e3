"""A server of two processes that share a model: its answers are those of one process."""

import base64
import concurrent.futures
import http.client
import io
import json
import re
import signal
import sys
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

from launch.local import LocalJob
from tests import untrained
from tests.conftest import REPOSITORY
from tests.server import canned
from tests.server.test_protocol import counted, post, until, uri
from unireason_jax.inference.load import load
from unireason_jax.pods import sharding
from unireason_jax.server import process

CHAT = "/v1/chat/completions"
ASKED = "a red circle"
SHORT = {"timesteps": 4, "max_text": 8, "size": "24x24"}


def asked(text=ASKED, picture=None, **more):
    """A body of a chat."""
    parts = [{"type": "text", "text": text}]
    if picture is not None:
        parts.append({"type": "image_url", "image_url": {"url": uri(picture)[0]}})
    return {"messages": [{"role": "user", "content": parts}], **SHORT, **more}


def edited():
    """With a picture."""
    return asked("make it blue", canned.picture(9), model="unireason:edit", seed=3)


def planned():
    """Words, then a picture."""
    return asked(model="unireason:think_t2i", seed=4, previews=1)


def answer(address, body):
    """Text and pictures of a chat."""
    status, _, told = post(address, body)
    assert status == 200, told
    message = told["choices"][0]["message"]
    return message.get("content"), [pixels(shown) for shown in message["images"]]


def pixels(shown):
    data = base64.b64decode(shown["image_url"]["url"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def same(one, other):
    """The same words, and pixels within one of 255 levels: sums are of another order."""
    assert one[0] == other[0] and len(one[1]) == len(other[1])
    for a, b in zip(one[1], other[1]):
        assert a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1


def streamed(address, body):
    """The words of a chat as they came, in how many pieces."""
    data = json.dumps(body | {"stream": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(address + CHAT, data), timeout=300) as told:
        lines = [line[6:] for line in told.read().decode().splitlines() if line[:6] == "data: "]
    assert lines.pop() == "[DONE]"
    words = [json.loads(line)["choices"][0]["delta"].get("content") for line in lines]
    return "".join(filter(None, words))


def vanish(address):
    """Asks for a picture of more steps than anybody waits for, and leaves at its first word."""
    where = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
    body = asked(stream=True, previews=1) | {"timesteps": 100_000}
    where.request("POST", CHAT, json.dumps(body).encode())
    assert where.getresponse().readline()
    until(lambda: counted(address, "unireason_running") == 1, 120)
    where.close()
    until(lambda: counted(address, "unireason_running") == 0, 120)


class Served:
    """`unireason serve` in two joined processes of two devices each."""

    def __init__(self, run):
        self.output = ["", ""]
        command = [sys.executable, "-m", "unireason_jax.serve", "--checkpoint", str(run)]
        command += ["--port", "0"]
        more = {"processes": 2, "devices": 2, "sink": self._note, "directory": REPOSITORY}
        quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as `quick_compile` does here
        self.job = LocalJob(command, environment=quick, **more)

    def _note(self, number, line):
        self.output[number] += line

    def address(self):
        """Where process 0 answers."""

        def there():
            assert all(member.poll() is None for member in self.job.members), self.output
            return re.search(r"serving .* at (http://\S+)", self.output[0])

        until(there, 600)
        return there()[1]


@pytest.fixture
def served(tmp_path):
    found = Served(untrained.write_drawing(tmp_path / "run"))
    yield found
    found.job.send(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
def test_two_processes_serve_one_model_and_end_together(served, tmp_path):
    mesh = sharding.make_mesh({"tensor": 4}, devices=jax.devices()[:4])
    with process.running(load(tmp_path / "run", mesh=mesh), rows=4) as (alone, _):
        wanted = [answer(alone, edited()), answer(alone, planned())]
    assert len(np.unique(wanted[0][1][0])) > 20 and wanted[1][0]
    address = served.address()
    same(answer(address, edited()), wanted[0])
    assert streamed(address, planned()) in wanted[1][0]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found, one in zip(pool.map(answer, [address] * 2, [edited(), planned()]), wanted):
            same(found, one)
        vanish(address)
        last = pool.submit(answer, address, planned() | {"timesteps": 40})
        until(lambda: counted(address, "unireason_running") == 1 or last.done(), 120)
        served.job.send(signal.SIGTERM, 1)
        assert last.result()[1]
    assert served.job.wait(timeout=120) == [0, 0], served.output
