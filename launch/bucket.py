"""A bucket on this machine, for tests and drills: Google's storage protocol, without Google.

    python -m launch.bucket                          serves gs://bucket and says how to reach it
    python -m launch.kill_drill --bucket ...         starts one of its own

All that reads and writes buckets here (gcsfs, tensorstore, ArrayRecord) is the real thing; only the
server is an emulator (`gcp-storage-emulator`), which holds everything in memory.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from launch.local import free_port

NAME = "bucket"
REPOSITORY = Path(__file__).resolve().parent.parent


def environment(port: int) -> dict[str, str]:
    """The variables by which each library finds the emulator, and asks nobody for credentials."""
    address = f"http://localhost:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google for the bucket's kind
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "emulator",
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # ArrayRecord
    }


@contextlib.contextmanager
def emulated() -> Iterator[dict[str, str]]:
    """Serves gs://bucket until the block ends; gives the variables that lead there."""
    port = free_port()
    command = [sys.executable, "-m", "launch.bucket", "--port", str(port), "--quiet"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as server:
        try:
            _wait(port, server)
            yield environment(port)
        finally:
            server.kill()


def _wait(port: int, server: subprocess.Popen) -> None:
    """Returns once the emulator answers."""
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://localhost:{port}/", timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the emulator of a bucket did not start; is gcp-storage-emulator installed?")


def serve(port: int) -> None:
    """Serves gs://bucket until this process is killed."""
    from gcp_storage_emulator.handlers import objects

    plain = objects.download

    def download(request, response, storage, *rest, **named):
        """`objects.download`, which does not know that "bytes=-8" is the last 8 bytes."""
        headers = request._request_handler.headers
        if last := re.fullmatch(r"bytes=-(\d+)", headers.get("Range", "")):
            where = request.params["bucket_name"], request.params["object_id"]
            size = len(storage.get_file(*where))
            del headers["Range"]
            headers["Range"] = f"bytes={max(size - int(last.group(1)), 0)}-"
        return plain(request, response, storage, *rest, **named)

    objects.download = download  # before the server's table of handlers is made
    from gcp_storage_emulator.server import create_server

    create_server("localhost", port, in_memory=True, default_bucket=NAME).run()


def main() -> None:
    """Parses the command line and serves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=9023)
    parser.add_argument("--quiet", action="store_true", help="do not say how to reach it")
    options = parser.parse_args()
    if not options.quiet:
        lines = [f"export {key}={value}" for key, value in environment(options.port).items()]
        print(f"gs://{NAME} is served until this ends. Elsewhere:", *lines, sep="\n", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        serve(options.port)


if __name__ == "__main__":
    sys.exit(main())
