"""Messages through apprise to a server on loopback, and what never gets out: the URL."""

import logging
import socket
import subprocess
import sys

import pytest
from pydantic import SecretStr

from dari.adapters.notifier import AppriseTarget, UnknownUrl, apprise_targets
from dari.core.alerts import Message, Severity
from tests.support.operators import Operators

CANARY = "canary-5d1e"
MESSAGE = Message("dari: a title", "what\nwhere, 한국\nwhat to do <b>&amp;", Severity.BAD)


def target(url: str) -> AppriseTarget:
    return AppriseTarget("ops", SecretStr(url))


@pytest.mark.parametrize(
    ("severity", "type_"), [(Severity.GOOD, "success"), (Severity.WARNING, "warning"), (Severity.BAD, "failure")]
)
def test_a_message_arrives_as_it_is(severity: Severity, type_: str) -> None:
    with Operators() as operators:
        assert target(operators.url).send(Message(MESSAGE.title, MESSAGE.body, severity))
        assert (operators.titles(), operators.bodies()) == (["a title"], [MESSAGE.body])
        assert operators.types() == [type_]


def test_a_target_that_refuses_or_is_not_there_has_not_got_it() -> None:
    with Operators() as operators:
        sending = target(operators.url)
        operators.go_down()
        assert not sending.send(MESSAGE)
        operators.come_back()
        assert sending.send(MESSAGE), "the same target works when it is back"
    assert not sending.send(MESSAGE)


def test_a_target_that_takes_the_connection_and_never_answers_has_not_got_it() -> None:
    """The limit is the URL's here, and apprise's own where it names none."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not target(f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=0.2").send(MESSAGE)


WRONG_URLS = ["", "nonsense", f"nothing://{CANARY}", f"json://:{CANARY}:x/", "slack://", f"/etc/{CANARY}"]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_url_that_fits_no_service_is_refused_without_being_shown(
    url: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(UnknownUrl) as raised:
        target(url)
    assert str(raised.value) == "ops"
    assert CANARY not in caplog.text + "".join(capsys.readouterr())


def test_all_wrong_urls_are_named_together() -> None:
    targets, unknown = apprise_targets(
        {"good": SecretStr("json://127.0.0.1:1/"), "bad": SecretStr("x"), "worse": SecretStr("y://")}
    )
    assert ([target.name for target in targets], unknown) == (["good"], ["bad", "worse"])


def test_neither_success_nor_failure_logs_the_url(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor the message; whatever level is asked for, and whatever handlers there are."""
    with caplog.at_level(logging.DEBUG), Operators(CANARY) as operators:
        sending = target(operators.url)
        assert sending.send(MESSAGE)
        operators.go_down()
        assert not sending.send(MESSAGE)
    assert not sending.send(MESSAGE)
    shown = caplog.text + "".join(capsys.readouterr()) + repr(sending) + repr(vars(sending))
    assert CANARY not in shown
    assert MESSAGE.title not in shown


def test_the_server_loads_apprise_only_where_somebody_is_to_be_told() -> None:
    script = "import sys, dari.server; assert 'apprise' not in sys.modules and 'requests' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
