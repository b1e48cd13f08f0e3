"""OpenAI's protocol as its own client and curl speak it, and what happens when they misbehave."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import openai
import pytest
from PIL import Image

from tests.server import canned
from unireason_jax.server import app, process

PROMPT = "a red circle"
MESSAGES = [{"role": "user", "content": PROMPT}]


@contextlib.contextmanager
def serving(pause=0.0, **options):
    """Address and scheduler of a server with a canned model."""
    with process.running(canned.reasoner(), live=canned.Live(4, pause), rows=4, **options) as found:
        yield found


@pytest.fixture(scope="module")
def server():
    with serving(megabytes=8, pixels=1 << 20) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0, timeout=20)


@pytest.fixture
def slow():
    """One place, room for two to wait, and a model that takes its time."""
    with process.running(canned.reasoner(), live=canned.Live(1, 0.05), rows=1, queue=2) as found:
        yield found


def size(data):
    return Image.open(io.BytesIO(base64.b64decode(data))).size


def uri(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", file.getvalue()


def post(address, body, path="/v1/chat/completions", headers=()):
    """Status, headers and JSON of a raw call."""
    where = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        where.request("POST", path, data, dict(headers))
        answer = where.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        where.close()


def counted(address, name):
    """A figure of /metrics; 0 where it is not there."""
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    found = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0]) if found else 0.0


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_models_are_presets_of_this_checkpoint(client):
    names = [model.id for model in client.models.list()]
    assert names[0] == "unireason" and {"unireason:refine", "unireason:think_edit"} <= set(names)
    assert not any("bagel" in name or "janus" in name for name in names)
    assert client.models.retrieve("unireason:refine").owned_by == "unireason_jax"


def test_a_picture_of_a_prompt_and_several(client):
    made = client.images.generate(model="unireason:refine", prompt=PROMPT, n=3, size="24x24")
    assert len(made.data) == 3 and size(made.data[0].b64_json) == (24, 24)
    assert made.data[0].revised_prompt == canned.PLAN
    assert made.usage.output_tokens == 3 * 10
    web = client.images.generate(prompt=PROMPT, response_format="url", output_format="webp")
    assert web.data[0].url.startswith("data:image/webp;base64,")


def test_an_edit_of_a_picture(client):
    _, data = uri(canned.picture(3))
    made = client.images.edit(image=("in.png", data), prompt=PROMPT, n=2)
    assert len(made.data) == 2
    both = client.images.edit(image=[("a.png", data), ("b.png", data)], prompt=PROMPT)
    assert both.data[0].b64_json


def test_images_come_as_events(client):
    asked = {"prompt": PROMPT, "stream": True, "partial_images": 2}
    events = list(client.images.generate(**asked))
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed" and kinds.count(kinds[-1]) == 1
    assert set(kinds[:-1]) == {"image_generation.partial_image"}
    assert [e.partial_image_index for e in events[:-1]] == list(range(len(events) - 1))


def test_a_chat_answers_with_texts_and_pictures(client):
    made = client.chat.completions.create(model="unireason", messages=MESSAGES, n=2)
    message = made.choices[1].message
    assert message.content == f"{canned.PLAN}\n\n{canned.REFLECTION}"
    assert [image["index"] for image in message.images] == [0, 1]
    assert [step["role"] for step in message.steps] == ["plan", "draft", "reflection", "refined"]
    assert made.choices[0].finish_reason == "stop" and made.usage.completion_tokens == 20


def test_a_chat_streams_texts_as_they_are_written(client):
    asked = {"model": "unireason", "messages": MESSAGES, "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == f"{canned.PLAN}\n\n{canned.REFLECTION}"
    assert sum(map(bool, said)) == len((canned.PLAN + " " + canned.REFLECTION).split(" "))
    pictures = [
        c.choices[0].delta.images
        for c in chunks
        if hasattr(c.choices and c.choices[0].delta, "images")
    ]
    assert [found[0]["index"] for found in pictures] == [0, 1]
    assert chunks[-1].usage.total_tokens > 0 and chunks[-2].choices[0].finish_reason == "stop"
    roles = [
        c.unireason["role"]
        for c in chunks
        if getattr(c, "unireason", {"event": ""})["event"] == "step"
    ]
    assert roles == ["plan", "draft", "reflection", "refined"]


def test_a_chat_looks_at_the_last_picture(client, server):
    shown, _ = uri(canned.picture(7))
    parts = [
        {"type": "text", "text": "a red circle ?"},
        {"type": "image_url", "image_url": {"url": shown}},
    ]
    asked = [{"role": "user", "content": parts}]
    made = client.chat.completions.create(model="unireason", messages=asked, modalities=["text"])
    assert made.choices[0].message.content == "it is red"
    drawn = {"role": "assistant", "content": "", "images": [parts[1]]}
    later = [*MESSAGES, drawn, {"role": "user", "content": "a blue square"}]
    live = server[1].live
    heard = []
    plain, live.add = (
        live.add,
        lambda request, *rest: heard.append(request) or plain(request, *rest),
    )
    try:
        client.chat.completions.create(model="unireason:edit", messages=later)
    finally:
        live.add = plain
    assert heard[0].record.source == "edit"
    assert any(segment.image is not None for segment in heard[0].record.segments)


def test_it_goes_on_from_steps(client):
    shown, _ = uri(canned.picture(7))
    steps = [{"role": "plan", "text": "a blue square"}, {"role": "draft", "image": shown}]
    asked = {"model": "unireason:refine", "messages": MESSAGES}
    made = client.chat.completions.create(**asked, extra_body={"steps": steps})
    message = made.choices[0].message
    assert message.content == f"a blue square\n\n{canned.REFLECTION}" and len(message.images) == 2
    with pytest.raises(openai.BadRequestError, match="goes on with 'plan'"):
        client.chat.completions.create(**asked, extra_body={"steps": steps[1:]})


BASE64, WHERE = "data:image/png;base64,", "messages[0].content.image_url"


def picture(url):
    return {"type": "image_url", "image_url": {"url": url}}


def asked(content):
    return {"messages": [{"role": "user", "content": content}]}


WRONG = {
    "no json": (b"{", "invalid_json", None),
    "a list": (b"[]", "invalid_json", None),
    "deep": (b"[" * 200_000, "invalid_json", None),
    "no messages": ({"model": "unireason"}, None, "messages"),
    "empty prompt": (asked(" "), None, None),
    "odd role": ({"messages": [{"role": "judge", "content": "a"}]}, None, "messages[0]"),
    "unknown field": ({"messages": MESSAGES, "guidence": 2}, "unknown_parameter", "guidence"),
    "tools": ({"messages": MESSAGES, "tools": [{}]}, "unsupported_parameter", "tools"),
    "n": ({"messages": MESSAGES, "n": 10_000}, None, "n"),
    "size": ({"messages": MESSAGES, "size": "big"}, None, "size"),
    "huge size": ({"messages": MESSAGES, "size": "60000x60000"}, None, "size"),
    "temperature": ({"messages": MESSAGES, "temperature": -1}, None, "temperature"),
    "timesteps": ({"messages": MESSAGES, "timesteps": "many"}, None, "timesteps"),
    "unknown word": (asked("zebra"), None, "prompt"),
    "long": (asked("red " * 5000), "context_length_exceeded", None),
    "half a letter": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None, None),
    "an address": (asked([picture("http://localhost/")]), "invalid_image_url", WHERE),
    "a file": (asked([picture("/etc/passwd")]), "invalid_image_url", WHERE),
    "no base64": (asked([picture("data:image/png;base64,%%%")]), "invalid_image", WHERE),
    "broken picture": (asked([picture(f"{BASE64}iVBORw0KGgo=")]), "invalid_image", WHERE),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_told_in_the_form_of_the_protocol(server, kind):
    body, code, param = WRONG[kind]
    status, _, told = post(server[0], body)
    error = told["error"]
    assert (status, error["code"], error["param"]) == (400, code, param), error["message"]
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    assert len(error["message"]) < 2000


ASKS = {"chat/completions": {"messages": MESSAGES}, "images/generations": {"prompt": PROMPT}}


@pytest.mark.parametrize("path", ASKS)
def test_a_negative_prompt_is_refused_by_name(server, path):
    given = ASKS[path] | {"negative_prompt": "blue"}
    status, _, told = post(server[0], given, f"/v1/{path}")
    error = told["error"]
    assert (status, error["code"]) == (400, "unknown_parameter")
    assert error["param"] == "negative_prompt"
    assert "'negative_prompt' is not supported" in error["message"]


def test_unknown_models_and_paths(server, client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="dall-e-3", prompt=PROMPT)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):  # a preset, but none of this checkpoint
        client.images.generate(model="unireason:bagel_t2i", prompt=PROMPT)
    assert post(server[0], {}, "/v1/nothing")[0] == 404
    assert post(server[0], {}, "/v1/models")[2]["error"]["code"] == "unknown_url"


def test_a_picture_of_too_many_pixels_and_a_body_of_fifty_megabytes(server):
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    status, _, told = post(server[0], asked([picture(url)]))
    assert status == 400 and told["error"]["code"] == "image_too_large"
    for lead in ("content-length", "chunks"):
        body = b"x" * (50 << 20)
        data = body if lead == "content-length" else iter([body[: 1 << 20]] * 50)
        where = http.client.HTTPConnection(server[0].removeprefix("http://"), timeout=20)
        with contextlib.suppress(ConnectionError):  # it hears no more of it
            where.request("POST", "/v1/chat/completions", data, encode_chunked=lead == "chunks")
        answer = where.getresponse()
        assert answer.status == 413 and b"body_too_large" in answer.read()
        where.close()
    assert post(server[0], {"messages": MESSAGES})[0] == 200


def test_thirty_two_at_once(server, client):
    def ask(seed):
        made = client.images.generate(prompt=PROMPT, extra_body={"seed": seed})
        return made.data[0].b64_json

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(32)))
    assert len(set(found)) == 32 and server[1].live.most == 4


def test_a_full_queue_says_when_to_come_again(slow):
    address, scheduler = slow
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(post, address, {"messages": MESSAGES}) for _ in range(3)]
        until(lambda: len(scheduler.waiting) == 2)
        status, headers, told = post(address, {"messages": MESSAGES})
        assert status == 429 and told["error"]["code"] == "queue_full"
        assert int(headers["retry-after"]) >= 1
        assert [one.result()[0] for one in waiting] == [200] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_place(slow, stream):
    address, scheduler = slow
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"messages": MESSAGES, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(3):
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head.encode() + body)
            until(lambda: scheduler.running)
        until(lambda: not scheduler.running and not scheduler.live.guests, seconds=2)
    assert post(address, {"messages": MESSAGES})[0] == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_body_that_does_not_come_is_not_waited_for(server, kind, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    host, port = server[0].removeprefix("http://").split(":")
    head = f"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n--x".encode())
        assert b" 408 " in slow.recv(1000)


def test_one_that_takes_too_long_is_given_up():
    with serving(pause=0.1, seconds=0.3) as (address, scheduler):
        status, _, told = post(address, {"messages": MESSAGES})
        assert status == 504 and told["error"]["code"] == "timeout"
        until(lambda: not scheduler.running)


def test_a_fault_of_the_model_is_told_and_the_next_request_is_served(server, client, capfd):
    server[1].live.fault = RuntimeError("secret details")
    with pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt=PROMPT)
    assert "secret" not in str(caught.value) and "secret details" in capfd.readouterr().err
    asked = {"model": "unireason", "messages": MESSAGES, "stream": True}
    with pytest.raises(openai.APIError, match="RuntimeError"):
        list(client.chat.completions.create(**asked))
    server[1].live.fault = None
    assert client.images.generate(prompt=PROMPT).data


@pytest.mark.parametrize("stream", [False, True])
def test_if_the_thread_of_the_model_dies_nobody_waits_for_ever(capfd, stream):
    with serving(pause=0.05) as (address, scheduler):
        scheduler.live.work = lambda: 1 / 0
        body = json.dumps({"messages": MESSAGES, "stream": stream}).encode()
        answer = urllib.request.Request(f"{address}/v1/chat/completions", body)
        with contextlib.suppress(urllib.error.HTTPError):
            assert b"server_error" in urllib.request.urlopen(answer, timeout=20).read()
        until(lambda: not scheduler.is_alive())
        assert post(address, {"messages": MESSAGES})[0] == 503
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_key_is_asked_for_and_never_shown(capfd):
    with serving(key="s3cret") as (address, _):
        assert post(address, {"messages": MESSAGES})[0] == 401
        wrong = {"Authorization": "Bearer wrong"}
        status, _, told = post(address, {"messages": MESSAGES}, headers=wrong)
        assert status == 401 and told["error"]["code"] == "invalid_api_key"
        assert "s3cret" not in json.dumps(told)
        assert (
            post(address, {"messages": MESSAGES}, headers={"Authorization": "Bearer s3cret"})[0]
            == 200
        )
        assert urllib.request.urlopen(f"{address}/health").status == 200
        assert b"<title>" in urllib.request.urlopen(address).read()
    assert "s3cret" not in "".join(capfd.readouterr())


def test_curl_draws_and_streams(server):
    if not shutil.which("curl"):
        pytest.skip("this machine has no curl")
    body = json.dumps({"messages": MESSAGES, "stream": True})
    words = [
        "curl",
        "-sN",
        f"{server[0]}/v1/chat/completions",
        "-H",
        "Content-Type: application/json",
    ]
    said = subprocess.run([*words, "-d", body], capture_output=True, text=True, timeout=20).stdout
    assert said.endswith("data: [DONE]\n\n") and said.count('"event": "step"') == 4


def test_metrics_count_what_was_done(server, client):
    before = counted(server[0], "unireason_images_total")
    client.images.generate(prompt=PROMPT, n=2)
    assert counted(server[0], "unireason_images_total") == before + 4
    assert counted(server[0], "unireason_seconds_count") >= 2
    assert counted(server[0], "unireason_running") == 0


def test_closing_lets_what_was_taken_end_and_takes_no_more(slow):
    address, scheduler = slow
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        taken = pool.submit(post, address, {"messages": MESSAGES})
        until(lambda: scheduler.running)
        scheduler.close(drain=True)
        status, headers, told = post(address, {"messages": MESSAGES})
        assert status == 503 and told["error"]["code"] == "closing" and headers["retry-after"]
        assert taken.result()[0] == 200
    until(lambda: not scheduler.is_alive())
