"""The neighbours of a chat under fire, a server between them, and what must never stand in a log.

All that a caller, a model or a row says in these suites holds the canary, and so do the key and the DSN.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dari.adapters.local_model.model_files import ModelFile
from tests.fix_postgres import PostgresDsns
from tests.fix_server import StartServer
from tests.flowise_stand_in import FLOW_ID, StandIn, openai_answer
from tests.support.fault_proxy import FaultProxy, PostgresProxy
from tests.support.running_dari import SOON_S, RunningDari

CANARY = "canary-5e1f"
QUESTION = f"Where is LGA? {CANARY}"
AIRPORTS = f"faa,name,city\nLGA,La Guardia {CANARY},New York\nICN,인천 국제공항 {CANARY},서울\n"
STAND_IN_ANSWER = f"{CANARY}-from another model"
NEVER_OPENS = {"circuit_consecutive_failures": 1_000, "circuit_min_outcomes": 1_000}
"""For tests that make one upstream fail again and again and want it to be asked again and again."""
QUICK_S = 0.5
"""A model's timer in tests that wait for it to ring."""
PATIENT_S = 600.0
"""A model's timer in tests in which something else must end the wait."""
LOCAL_ANSWER_TOKENS = 24
"""Enough to cut in the middle, and soon over."""

StartDari = Callable[..., RunningDari]


@pytest.fixture(autouse=True)
def no_canary_in_a_log(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """O7 in short: whatever these tests make the servers say, on any level, nothing of what was said to them is in it.

    Looked at when the servers of a test have stopped: this fixture is the first to be set up.
    """
    yield
    written = capfd.readouterr()
    assert '"event": "serving"' in written.err
    assert CANARY not in written.err + written.out


@pytest.fixture
def start_dari(database: PostgresDsns, start_server: StartServer) -> StartDari:
    """Start servers over the test's database that tell all they can, with settings of the test's choice."""

    def start(dsn: str = database.service_dsn, **settings: object) -> RunningDari:
        told = {"log_level": "debug", "secrets": {"key": f"{CANARY}-key"}}
        return start_server(**told, database_dsn=f"{dsn} application_name={CANARY}", **settings).dari

    return start


@pytest.fixture
def start_local(start_dari: StartDari, tmp_path: Path, default_model: ModelFile) -> StartDari:
    """Start servers with the real local model, as `local`, in a child process of their own."""
    (tmp_path / "models").symlink_to(default_model.path.parent)

    def start(stall_timeout_s: float = SOON_S, **settings: object) -> RunningDari:
        dari = start_dari(local_model=default_model.id, **settings)
        # It may have to load first, on a machine that does other things too.
        waits = {"first_token_timeout_s": 2 * SOON_S, "stall_timeout_s": stall_timeout_s, "total_timeout_s": PATIENT_S}
        dari.make_local("local", max_answer_tokens=LOCAL_ANSWER_TOKENS, **waits)
        return dari

    return start


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def openai() -> Iterator[StandIn]:
    """The model behind Flowise in most chains: a server with OpenAI's API, which always answers."""
    with StandIn() as stand_in:
        stand_in.always(openai_answer(STAND_IN_ANSWER))
        yield stand_in


@pytest.fixture
def before_flowise(flowise: StandIn) -> Iterator[FaultProxy]:
    """The network between dari and Flowise."""
    with FaultProxy(("127.0.0.1", flowise.port)) as proxy:
        yield proxy


@pytest.fixture
def before_postgres(database: PostgresDsns) -> Iterator[PostgresProxy]:
    """The network between dari and PostgreSQL."""
    with PostgresProxy(database.service_dsn) as proxy:
        yield proxy


@pytest.fixture
def make_bot(flowise: StandIn, openai: StandIn) -> Callable[..., RunningDari]:
    """Make `bot` on a server: it asks `flow`, then `server`, over `airports`, which both may see."""

    def make(dari: RunningDari, url: str = flowise.url, **timeouts: float) -> RunningDari:
        dari.make_flowise("flow", url, FLOW_ID, secret="key", **timeouts)
        dari.make_openai("server", openai.url)
        dari.make_knowledge_base("airports", AIRPORTS)
        dari.make_chat("bot", "flow", "server", over=("airports",))
        return dari

    return make
