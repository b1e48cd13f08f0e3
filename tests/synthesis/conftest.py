"""What tests of recipes share: the key of the world's server, and servers that end with a test."""

import pytest

from tests.synthesis import agents


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("WORLD_KEY", agents.KEY)


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, **options):
        servers.append(agents.serve(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
