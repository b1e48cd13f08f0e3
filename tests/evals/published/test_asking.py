"""A judge at a local endpoint that fails in every way: retried, then missing, never zero."""

import http.server
import json
import threading
import time

import numpy as np
import pytest

from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.evals.published import SUITES, scoring
from unireason_jax.evals.published.asking import ask_all, collect
from unireason_jax.evals.published.base import Item, Question
from unireason_jax.evals.published.endpoint_judge import EndpointJudge
from unireason_jax.storage.journal import Journal

SUITE = SUITES["wise"]
PICTURE = np.zeros((8, 8, 3), np.uint8)


class Mock(http.server.ThreadingHTTPServer):
    """Answers chat requests by a script: a list of faults by the word in the prompt."""

    def __init__(self, script):
        self.script, self.seen, self.bodies = script, {}, []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = body["messages"][0]["content"][0]["text"]
        self.server.bodies.append((self.path, self.headers["Authorization"], body))
        name = next(n for n in self.server.script if f"<{n}>" in words)
        number = self.server.seen[name] = self.server.seen.get(name, 0) + 1
        fault = self.server.script[name][min(number, len(self.server.script[name])) - 1]
        self.answer(fault)

    def answer(self, fault):
        if fault == "slow":
            time.sleep(1.6)
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "0.01")
            self.end_headers()
            return
        message = {"content": None, "refusal": "no"} if fault == "refusal" else {"content": fault}
        found = {"choices": [{"message": message, "finish_reason": "stop"}]}
        found["usage"] = {"prompt_tokens": 1000, "completion_tokens": 10}
        data = b"{" if fault == "broken" else json.dumps(found).encode()
        self.send_response(200)
        if fault == "cut":
            self.send_header("Content-Length", str(len(data) + 1))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            pass  # the caller has gone

    def log_message(self, *_):
        pass


@pytest.fixture
def mock():
    servers = []

    def start(script):
        servers.append(Mock(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def judge(server, **options):
    return EndpointJudge(
        server.url, "m", **({"wait": 0.01, "retries": 2, "timeout": 0.8} | options)
    )


def questions(names):
    items = [Item(name, name, (), {}) for name in names]
    return [Question(n.id, "verified", f"<{n.id}>", (PICTURE,), n) for n in items]


SCRIPT = {
    "good": ["Score: 1"],
    "busy": [429, 429, "Score: 0"],
    "down": [503, "broken", "Score: 1"],
    "torn": ["cut", "Score: 1"],
    "late": ["slow", "Score: 1"],
    "vague": ["well", "it depends", "Score: 1"],
    "always_vague": ["hm"],
    "always_busy": [429],
    "always_late": ["slow"],
    "refused": ["refusal"],
    "wrong": [400],
}
RIGHT = {"good": 1, "busy": 0, "down": 1, "torn": 1, "late": 1, "vague": 1}
LOST = {
    "always_vague": "malformed",
    "always_busy": "rate limit",
    "always_late": "timeout",
    "refused": "refusal",
    "wrong": "request",
}


def test_every_failure_is_tried_again_and_then_missing(mock, tmp_path):
    server = mock(SCRIPT)
    journal = Journal(tmp_path / "j", {})
    done = []
    late = [name for name in SCRIPT if "late" in name]  # a limit of time is for these alone
    for names, options in ((late, {}), (SCRIPT.keys() - late, {"timeout": 120})):
        ask_all(SUITE, questions(names), judge(server, **options), journal, progress=done.append)
    assert sum(done) == len(SCRIPT)
    for name, score in RIGHT.items():
        assert journal.rows[name]["scores"] == {"score": score}, name
    for name, kind in LOST.items():
        row = journal.rows[name]
        assert row["scores"] is None and row["reason"].startswith(kind), row
    assert server.seen["wrong"] == 3  # a wrong request is not tried again within an attempt
    assert server.seen["always_busy"] == 9  # three attempts of a call and two retries
    # asked again after a restart: only what is missing
    before = dict(server.seen)
    server.script |= {name: ["Score: 1"] for name in LOST}
    patient = judge(server, timeout=120)
    ask_all(SUITE, questions(SCRIPT), patient, Journal(tmp_path / "j", {}))
    assert {n for n in SCRIPT if server.seen[n] > before[n]} == set(LOST)


def test_missing_is_left_out_of_the_mean_and_stated(tmp_path):
    items = [Item(str(n), "p", (), {"Explanation": "e"}) for n in (1, 2, 3)]
    for item in items[:2]:
        (tmp_path / f"{item.id}.png").write_bytes(b"x")
    journal = Journal(tmp_path / "j", {})
    journal.add(
        [
            {"key": "1.png/verified", "scores": {"score": 1.0}, "reason": ""},
            {"key": "2.png/verified", "scores": None, "reason": "refusal: no"},
        ]
    )
    scored, missing = collect(SUITE, items, tmp_path, journal, dict(SUITE.rubrics))
    assert missing == {"2.png": "refusal: no", "3.png": "no image"}
    numbers = scoring.report(SUITE, scored, missing, {}, tmp_path / "out")
    assert numbers["overall"] == 1.0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 of 3 images have all their scores" in text and "missing, refusal: 1" in text
    assert scoring.report(SUITE, [], missing, {}, tmp_path / "none") == {}


def test_what_is_sent_and_the_cache_and_the_bill(mock, tmp_path):
    server = mock({"good": ["Score: 1"], "vague": ["hm", "Score: 1"]})
    options = {"cache": tmp_path / "cache", "key": "k", "prices": (2.0, 10.0)}
    asked = judge(server, **options, extra={"seed": 1})
    (good,) = questions(["good"])
    assert not asked(good, 0).cached and asked(good, 0).cached and server.seen["good"] == 1
    assert asked.spent == pytest.approx((1000 * 2 + 10 * 10) / 1e6)
    path, key, body = server.bodies[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer k")
    assert set(body) == {"model", "messages", "temperature", "max_tokens", "seed"}
    picture = body["messages"][0]["content"][1]["image_url"]["url"]
    assert picture.startswith("data:image/png;base64,")
    # an unreadable answer is not taken from the cache again
    (vague,) = questions(["vague"])
    journal = Journal(tmp_path / "j", {})
    ask_all(SUITE, [vague], asked, journal)
    assert journal.rows["vague"]["scores"] == {"score": 1.0} and server.seen["vague"] == 2


def test_the_bill_has_refusals_and_what_earlier_starts_paid(mock, tmp_path):
    server, price = mock({"refused": ["refusal"]}), 1000 * 2 / 1e6
    for start in (1, 2):
        journal = Journal(tmp_path / "j", {})
        asked = judge(server, prices=(2.0, 0.0))
        ask_all(SUITE, questions(["refused"]), asked, journal, attempts=2)
        assert asked.spent == pytest.approx(2 * price)
        assert journal.rows["refused"]["cost"] == pytest.approx(2 * start * price)


def test_rate_limit_and_budget(mock):
    server = mock({"good": ["Score: 1"]})
    (good,) = questions(["good"])
    paced = judge(server, per_minute=600)
    started = time.monotonic()
    for _ in range(4):
        paced(good, 1)
    assert time.monotonic() - started >= 0.3
    poor = judge(server, prices=(1000.0, 0.0), budget=1.5)
    poor(good, 1)
    poor(good, 1)
    with pytest.raises(CallFailure, match=r"2 of 1\.5"):
        poor(good, 1)
