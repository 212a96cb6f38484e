"""Fixtures of the sweep tests."""

import pytest

from tests.postgres import Server


@pytest.fixture(scope="session")
def server():
    """One PostgreSQL server for all tests."""
    server = Server()
    yield server
    server.remove()
