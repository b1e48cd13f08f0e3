"""Clients against a server that fails in every way: one answer, one clear line, no key anywhere."""

import asyncio
import http.server
import json
import math
import threading
import time

import numpy as np
import pytest

from unireason_jax.endpoints import chat, drawing, reward_client
from unireason_jax.endpoints.billing import Budget, Sent, tokens
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.loopback import Faults, Loopback, completion, drawn
from unireason_jax.endpoints.pictures import opened, png
from unireason_jax.endpoints.role import Role
from unireason_jax.endpoints.settings import Endpoint
from unireason_jax.endpoints.transport import seconds

KEY = "sk-very/secret-0123456789"
PICTURE = np.full((8, 8, 3), 7, np.uint8)


def ask(words):
    return {"messages": chat.messages(words), "max_tokens": 64}


def world(path, body):
    if path == "chat/completions":
        return completion("said " + body["messages"][0]["content"][0]["text"])
    return drawn(png(PICTURE))


@pytest.fixture
def serve():
    servers = []

    def start(answer=world, *arguments, **options):
        servers.append(Loopback(answer, *arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def endpoint(url, **options):
    return Endpoint(url=url, model="m", **({"wait": 0.01, "retries": 2, "timeout": 2} | options))


def run(role, *calls):
    """Results of coroutines made by `calls`, failures among them."""

    async def all_of_them():
        try:
            return await asyncio.gather(*(call(role) for call in calls), return_exceptions=True)
        finally:
            await role.close()

    return asyncio.run(all_of_them())


class Raw(http.server.ThreadingHTTPServer):
    """Answers every POST by a function of the handler, and remembers what was sent to it."""

    daemon_threads = True

    def __init__(self, answer):
        self.seen = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                server.seen.append(dict(self.headers))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                try:
                    answer(self)
                except OSError:
                    pass  # the caller has gone

            do_GET = do_POST

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@pytest.fixture
def raw():
    servers = []

    def start(answer):
        servers.append(Raw(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(handler, status=200, body=b"", **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_words_and_pictures_go_in_and_out(serve):
    server = serve()
    request = drawing.Request("a cat", size=(8, 8), seed=3)
    said, made, edited = run(
        Role("r", [endpoint(server.url)]),
        lambda r: r.chat(ask("hello")),
        lambda r: r.generate(request),
        lambda r: r.edit(drawing.Request("a dog", (png(PICTURE),))),
    )
    assert said.text == "said hello" and said.model == "m"
    assert (opened(made.pictures[0]) == PICTURE).all() and edited.pictures == made.pictures


@pytest.mark.parametrize("fault", ["429", "500", "cut", "malformed", "parts", "usage"])
def test_a_passing_fault_is_no_fault(serve, fault):
    server = serve(world, Faults({fault: 1.0}))
    role = Role("r", [endpoint(server.url, prices=(1.0, 1.0))])
    (said,) = run(role, lambda r: r.chat(ask("hello")))
    assert said.text == "said hello" and 0 < role.bill.cost < 1
    assert role.bill.retries == (fault not in ("parts", "usage"))


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_the_limit_of_time_is_that_of_the_whole_answer(serve, fault):
    server = serve(world, Faults({fault: 1.0}, seconds=20.0))
    role = Role("r", [endpoint(server.url, timeout=0.4, retries=0)])
    started = time.monotonic()
    (failure,) = run(role, lambda r: r.chat(ask("hello")))
    assert failure.kind == "timeout" and time.monotonic() - started < 15


@pytest.mark.parametrize(("fault", "kind"), [("refusal", "refusal"), ("null", "server")])
def test_an_answer_of_no_use_is_one_line_and_is_paid_once(serve, tmp_path, fault, kind):
    server = serve(world, Faults({fault: 1.0}))
    for _ in range(2):
        role = Role("r", [endpoint(server.url)], journal=CallJournal(tmp_path))
        (failure,) = run(role, lambda r: r.chat(ask("hello")))
        assert failure.kind == kind and "\n" not in str(failure)
    assert sum(server.calls.values()) == 1
    (again,) = run(
        Role("r", [endpoint(server.url)], journal=CallJournal(tmp_path)),
        lambda r: r.chat(ask("hello"), attempt=1),
    )
    assert again.text == "said hello"


def test_an_answer_that_is_too_large_is_not_read(raw):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b" " * 100_000)

    server = raw(endless)
    role = Role("r", [endpoint(server.url, max_bytes=1 << 20, retries=0, timeout=20)])
    (failure,) = run(role, lambda r: r.chat(ask("hello")))
    assert "more than 1,048,576 bytes" in str(failure)  # and not that the time was up


def test_the_key_goes_to_no_other_host(raw, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    other = raw(lambda handler: reply(handler, body=json.dumps(completion("x")).encode()))
    for status in (301, 302, 307, 308):
        first = raw(lambda handler, status=status: reply(handler, status, Location=other.url))
        role = Role("r", [endpoint(first.url, key="A_KEY", retries=0)])
        (failure,) = run(role, lambda r: r.chat(ask("hello")))
        assert failure.kind == "request" and other.url in str(failure)
        assert first.seen[0]["Authorization"] == f"Bearer {KEY}"
    assert not other.seen


ECHOES = [KEY, f"Bearer {KEY}", json.dumps({"e": KEY}), "x" * 190 + KEY]
ECHOES += [KEY.replace("/", other) for other in ("\\/", "%2F", "\\u002f")]


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 401, 302])
def test_an_echoed_key_is_shown_to_nobody(raw, monkeypatch, tmp_path, echo, status):
    monkeypatch.setenv("A_KEY", KEY)
    server = raw(lambda handler: reply(handler, status, echo.encode(), Location=echo))
    role = Role("r", [endpoint(server.url, key="A_KEY", retries=0)], journal=CallJournal(tmp_path))
    (failure,) = run(role, lambda r: r.chat(ask("hello")))
    assert isinstance(failure, CallFailure) and KEY[:12] not in str(failure)


def test_an_answer_that_holds_the_key_is_kept_without_it(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("A_KEY", KEY)
    server = serve(lambda path, body: completion(f"your key is {KEY}"), key=KEY)
    role = Role("r", [endpoint(server.url, key="A_KEY")], journal=CallJournal(tmp_path))
    (said,) = run(role, lambda r: r.chat(ask("hello")))
    assert said.text == "your key is [key]"
    for file in filter(lambda f: f.is_file(), tmp_path.rglob("*")):
        assert KEY.encode() not in file.read_bytes()


@pytest.mark.parametrize("key", ["sk-\u00e9", "sk-\n2", "sk-\x00"])
def test_a_key_that_fits_no_header_is_named_by_its_variable(monkeypatch, key):
    monkeypatch.setattr("os.environ", {"A_KEY": key})
    with pytest.raises(ValueError, match="A_KEY holds characters") as failure:
        Role("r", [endpoint("http://127.0.0.1:1", key="A_KEY")])
    assert "sk-" not in str(failure.value)


STRANGE = (
    "\u00b2",
    "\u0663",
    "1e9",
    "nan",
    "inf",
    "-1",
    "",
    "soon",
    "Wed, 21 Oct 2015 07:28:00 GMT",
)


def test_strange_digits_of_retry_after_are_no_pause():
    assert (seconds("2"), seconds(" 0.5"), seconds("9999999")) == (2, 0.5, 60)
    assert [seconds(asked) for asked in STRANGE] == [0] * len(STRANGE)


NO_COUNTS = (None, math.nan, -1, 0, 10**30, math.inf, True, "9")
COUNTS = [{"prompt_tokens": n, "completion_tokens": n} for n in NO_COUNTS]


@pytest.mark.parametrize("usage", [None, "many", [], {}, *COUNTS])
def test_usage_is_believed_within_what_can_be_true(usage):
    read, written = tokens(usage, Sent(text=16_000, pictures=1, most_written=500), 1_600)
    assert 1_000 <= read <= 16_000 + 32_000 + 1_000
    assert 100 <= written <= 1_600


def test_a_budget_holds_back_what_is_in_flight(serve):
    server = serve(seconds=0.05)
    prices = {"prices": (0.0, 1e6 / 64), "concurrency": 50}
    role = Role("r", [endpoint(server.url, **prices)], budget=Budget(5.0, name="r"))
    found = run(role, *(lambda r, n=n: r.chat(ask(f"{n}")) for n in range(50)))
    late = [each for each in found if isinstance(each, CallFailure)]
    assert len(late) == 45 and all(each.kind == "budget" for each in late)
    assert role.budget.spent <= 5


def test_a_call_is_paid_once_however_often_it_is_asked(serve, tmp_path):
    server = serve(seconds=0.05)
    role = Role("r", [endpoint(server.url)], journal=CallJournal(tmp_path))
    request = drawing.Request("a cat")
    found = run(role, *[lambda r: r.chat(ask("x"))] * 5, *[lambda r: r.generate(request)] * 5)
    again = Role("r", [endpoint("http://127.0.0.1:9/v1")], journal=CallJournal(tmp_path))
    later = run(again, lambda r: r.chat(ask("x")), lambda r: r.generate(request))
    assert sum(server.calls.values()) == 2 and again.bill.calls == 0 and again.bill.cached == 2
    assert {each.text for each in found[:5]} == {later[0].text}
    assert {each.pictures for each in found[5:]} == {later[1].pictures}


def test_endpoints_of_a_role_share_its_calls_and_stand_in_for_each_other(serve):
    servers = [serve(), serve()]
    ends = [endpoint(each.url) for each in servers] + [endpoint("http://127.0.0.1:9/v1")]
    role = Role("r", ends)
    found = run(role, *(lambda r, n=n: r.chat(ask(f"{n}")) for n in range(60)))
    assert [each.text for each in found] == [f"said {n}" for n in range(60)]
    assert all(sum(each.calls.values()) > 10 for each in servers)


def test_who_asks_for_patience_gets_it(raw):
    times = []

    def busy(handler):
        times.append(time.monotonic())
        if len(times) == 1:
            reply(handler, 429, Retry_After="0.5")
        else:
            reply(handler, body=json.dumps(completion("x")).encode())

    run(Role("r", [endpoint(raw(busy).url)]), lambda r: r.chat(ask("a")))
    assert times[1] - times[0] >= 0.5


@pytest.mark.parametrize(
    "answer",
    [[], None, 7, {"data": []}, {"data": [None]}, {"data": [{"url": "http://x"}]}]
    + [{"data": [{"b64_json": word}]} for word in ("!!", "aGVsbG8=", 7)],
)
def test_what_is_no_picture_is_one_line(raw, answer):
    server = raw(lambda handler: reply(handler, body=json.dumps(answer).encode()))
    role = Role("r", [endpoint(server.url, retries=0)])
    (failure,) = run(role, lambda r: r.generate(drawing.Request("a cat", size=(8, 8))))
    assert failure.kind == "server" and "\n" not in str(failure)


def test_a_picture_of_another_size_is_refused(serve):
    role = Role("r", [endpoint(serve().url)])
    (failure,) = run(role, lambda r: r.generate(drawing.Request("a cat", size=(16, 8))))
    assert "8 x 8 pixels instead of 16 x 8" in str(failure)


@pytest.mark.parametrize(
    ("found", "scores"),
    [
        ({"rewards": 0.5}, {"reward": [0.5]}),
        ({"rewards": {"a": [1], "b": 0}}, {"a": [1.0], "b": [0.0]}),
        *(({"rewards": bad}, None) for bad in (None, [], [1, 2], "1", True, 10**400, math.nan)),
        ([], None),
    ],
)
def test_rewards_are_finite_numbers_one_a_picture(raw, found, scores):
    server = raw(lambda handler: reply(handler, body=json.dumps(found).encode()))
    client = reward_client.RewardClient(Endpoint(url=server.url, wait=0.01))
    try:
        if scores is None:
            with pytest.raises(CallFailure, match="finite numbers"):
                client("a cat", [PICTURE])
        else:
            assert client("a cat", [PICTURE]) == scores
    finally:
        client.close()


def test_an_endpoint_of_several_roles_is_one(serve):
    server, wires = serve(seconds=0.05), {}
    both = [Role(name, [endpoint(server.url, concurrency=3)], wires=wires) for name in "ab"]

    async def ask_both():
        await asyncio.gather(*(r.chat(ask(f"{r.name} {n}")) for r in both for n in range(8)))
        await both[0].close()

    asyncio.run(ask_both())
    assert server.most == 3


def test_tokens_have_a_budget_too(serve):
    server = serve()
    role = Role("r", [endpoint(server.url)], budget=Budget(tokens=300))
    for number in range(4):  # 100 tokens are read for each, and a few written
        run(role, lambda r, n=number: r.chat(ask(f"{n}")))
    (failure,) = run(role, lambda r: r.chat(ask("one more")))
    assert failure.kind == "budget" and "of 300 tokens" in str(failure)
    assert sum(server.calls.values()) == 3
