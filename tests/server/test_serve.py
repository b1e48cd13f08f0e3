"""The verb: a process that serves, ends when it is told to, and says what is wrong in one line."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests import untrained
from tests.conftest import REPOSITORY
from unireason_jax import bench, serve

SERVE = [sys.executable, "-m", "unireason_jax.serve"]


@pytest.mark.slow
def test_a_process_serves_and_drains(tmp_path):
    run = untrained.write(tmp_path / "run")
    command = [
        *SERVE,
        "--checkpoint",
        str(run),
        "--port",
        "0",
        "--max_text",
        "8",
        "--timesteps",
        "3",
    ]
    environment = {**os.environ, "UNIREASON_KEY": "s3cret", "XLA_FLAGS": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=environment, cwd=REPOSITORY, **pipes)
    try:
        line = server.stdout.readline()
        assert line.startswith("serving "), server.stderr.read()
        address = line.split(" at ")[1].strip()
        body = json.dumps({"prompt": "a red circle", "model": "unireason:think_t2i"}).encode()
        headers = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
        where = f"{address}/v1/images/generations"
        asked = urllib.request.Request(where, body, headers)
        with socket.create_connection(address.removeprefix("http://").split(":")) as open_socket:
            open_socket.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # and stays
            assert json.load(urllib.request.urlopen(asked))["data"][0]["b64_json"]
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        assert "s3cret" not in line + server.stdout.read() + server.stderr.read()
    finally:
        server.kill()
        server.wait()


def test_a_port_that_is_taken_is_told_before_the_model_is_read(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=f"cannot listen at 127.0.0.1:{port}.*--port 0"):
            serve.main(["--checkpoint", str(tmp_path / "none"), "--port", port])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--queue", "0"], "--queue must be >= 1"),
        (["--port", "70000"], "--port must be <= 65535"),
        (["--seconds", "nan"], "--seconds must be a number > 0"),
        (["--port", "0"], "none"),
    ],
)
def test_a_wrong_flag_or_checkpoint_is_one_line(tmp_path, flags, told):
    with pytest.raises(SystemExit) as caught:
        serve.main(["--checkpoint", str(tmp_path / "none"), *flags])
    assert told in str(caught.value) and str(caught.value).count("\n") == 0


def test_a_key_file_without_a_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SystemExit, match="there is no key in it"):
        serve.main(["--checkpoint", str(tmp_path), "--key_file", str(tmp_path / "key")])


def test_processes_with_other_flags_for_the_model_are_refused_before_it_is_read(monkeypatch):
    elsewhere = {"--port": "8001", "--max_text": "40"}
    monkeypatch.setattr(
        "unireason_jax.pods.pod.gather", lambda name, value: [value, elsewhere.get(name, value)]
    )
    with pytest.raises(SystemExit, match=r"process 1 has another --max_text .*\(here it is 20\)"):
        serve.run(serve.parser().parse_args(["--checkpoint", "nowhere", "--max_text", "20"]))
    del elsewhere["--max_text"]
    with pytest.raises(SystemExit, match="nowhere"):  # what only the first goes by may differ
        serve.run(serve.parser().parse_args(["--checkpoint", "nowhere", "--port", "0"]))


def test_bench_serve_loads_a_server(server, capsys):
    command = ["serve", "--address", server, "--rates", "40", "80", "--seconds", "0.2"]
    slow, fast = bench.main(command)
    assert [slow["rate_per_s"], fast["rate_per_s"]] == [40, 80]
    assert slow["requests"] == slow["answered"] == 8 and fast["requests"] == 16
    assert not slow["failed"] and slow["images_per_min"] > 0
    assert slow["words_p50_s"] <= slow["image_p50_s"] <= slow["end_p50_s"] <= slow["end_p99_s"]


@pytest.fixture
def server():
    from tests.server import canned
    from unireason_jax.server import process

    with process.running(canned.reasoner(), live=canned.Live(), rows=4) as found:
        yield found[0]
