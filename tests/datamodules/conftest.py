import os
import socket
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Looking up a name or connecting fails as it does on a machine without network."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def elbo_data():
    """The root folder of the real files."""
    if "ELBO_DATA" not in os.environ:
        pytest.skip("needs the published files: set ELBO_DATA to the folder that holds MNIST and BinaryMNIST")
    return Path(os.environ["ELBO_DATA"])
