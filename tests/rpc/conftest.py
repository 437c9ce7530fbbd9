"""The neighbours that the models of a chat point at, and a server to ask."""

from collections.abc import Callable, Iterator

import pytest

from tests.fix_server import StartServer
from tests.flowise_stand_in import StandIn
from tests.support.running_dari import RunningDari

StartDari = Callable[..., RunningDari]


@pytest.fixture
def start_dari(start_server: StartServer) -> StartDari:
    """Start servers over the test's database, with settings of the test's choice."""

    def start(**settings: object) -> RunningDari:
        return start_server(**settings).dari

    return start


@pytest.fixture
def dari(start_dari: StartDari) -> RunningDari:
    """One server with no local model, and nothing in its mapping."""
    return start_dari()


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def openai() -> Iterator[StandIn]:
    """The model behind Flowise in most chains: a server with OpenAI's API."""
    with StandIn() as stand_in:
        yield stand_in
