"""Settings: wrong ones stop the start, all named together, none shown."""

from pathlib import Path

import pytest

from dari.settings import Settings, SettingsError, load_settings

CANARY = "canary-4711"


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DARI_SETTINGS_FILE", *(f"DARI_{field.upper()}" for field in Settings.model_fields)):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_complete_and_bind_loopback_only() -> None:
    settings = load_settings()
    assert settings.listen_address.startswith("127.0.0.1:")
    assert settings.admin_address.startswith("127.0.0.1:")
    assert settings.database_dsn is None
    assert settings.secrets == {}


def test_all_wrong_and_unknown_settings_are_named_together_and_no_value_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DARI_LISTEN_ADDRESS", CANARY)
    monkeypatch.setenv("DARI_MAX_UNARY_CALLS", CANARY)
    monkeypatch.setenv("DARI_BATCH_BYTES", "1")
    monkeypatch.setenv("DARI_TENANT", CANARY.upper())
    monkeypatch.setenv("DARI_LOG_LEVEL", CANARY)
    monkeypatch.setenv("DARI_LISTEN_ADRESS", CANARY)
    monkeypatch.setenv("DARI_PASSWORD", CANARY)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    text = str(raised.value)
    for name in ("listen_address", "max_unary_calls", "batch_bytes", "tenant", "log_level"):
        assert name in text
    for name in ("DARI_LISTEN_ADRESS: no such setting", "DARI_PASSWORD: no such setting"):
        assert name in raised.value.problems
    assert CANARY not in text
    assert CANARY.upper() not in text
    assert len(raised.value.problems) == 7


def test_what_is_missing_is_named_beside_what_is_wrong_and_what_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the unknown one stands in the file: one start tells all that keeps the next from succeeding."""
    file = tmp_path / "dari.toml"
    file.write_text(f'nothing_known = "{CANARY}"\ntls_certificate_file = "{CANARY}"\n')
    monkeypatch.setenv("DARI_SETTINGS_FILE", str(file))
    monkeypatch.setenv("DARI_LISTEN_ADDRESS", "0.0.0.0:50051")
    monkeypatch.setenv("DARI_MAX_CHATS", CANARY)
    monkeypatch.setenv("DARI_NO_SUCH", CANARY)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    text = str(raised.value)
    for problem in (
        "max_chats: ",
        "nothing_known: ",
        "DARI_NO_SUCH: no such setting",
        "tls_certificate_file and tls_key_file go together",
        "listen_address is open to other machines: set tokens_file",
    ):
        assert problem in text
    assert CANARY not in text


def test_a_wrong_setting_is_not_named_as_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARI_PLAINTEXT_LISTEN_ALLOWED", CANARY)
    monkeypatch.setenv("DARI_LISTEN_ADDRESS", "0.0.0.0:50051")
    with pytest.raises(SettingsError) as raised:
        load_settings(tokens_file="tokens.toml")
    (problem,) = raised.value.problems
    assert problem.startswith("plaintext_listen_allowed: ")


def test_a_structured_variable_that_cannot_be_read_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARI_SECRETS", "{" + CANARY)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert CANARY not in str(raised.value)


def test_variables_of_tools_and_tests_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARI_ADDRESS", "elsewhere:1")
    monkeypatch.setenv("DARI_TEST_SEEDS", "3")
    load_settings()


def test_secrets_have_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARI_SECRETS", f'{{"flowise-main": "{CANARY}"}}')
    monkeypatch.setenv("DARI_NOTIFY_URLS", f'{{"ops": "slack://{CANARY}"}}')
    settings = load_settings(database_dsn=f"host=db password={CANARY}")
    assert settings.notify_urls["ops"].get_secret_value() == f"slack://{CANARY}"
    assert settings.secrets["flowise-main"].get_secret_value() == CANARY
    for text in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert CANARY not in text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().max_unary_calls = 5


def test_the_environment_wins_over_the_file_and_arguments_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dari.toml"
    file.write_text('max_unary_calls = 10\nmax_open_uploads = 10\ntenant = "from-file"\n')
    monkeypatch.setenv("DARI_SETTINGS_FILE", str(file))
    monkeypatch.setenv("DARI_MAX_OPEN_UPLOADS", "11")
    monkeypatch.setenv("DARI_TENANT", "from-environment")
    settings = load_settings(tenant="from-argument")
    assert (settings.max_unary_calls, settings.max_open_uploads, settings.tenant) == (10, 11, "from-argument")


@pytest.mark.parametrize("content", [f"{CANARY}", f'nothing_known = "{CANARY}"', f'max_unary_calls = "{CANARY}"'])
def test_a_wrong_settings_file_is_refused_without_its_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "dari.toml"
    file.write_text(content)
    monkeypatch.setenv("DARI_SETTINGS_FILE", str(file))
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert CANARY not in str(raised.value)


def test_a_settings_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DARI_SETTINGS_FILE", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match="DARI_SETTINGS_FILE: no such file"):
        load_settings()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listen_address", "localhost"),
        ("listen_address", "127.0.0.1:"),
        ("upload_idle_timeout_s", 0),
        ("chat_timeout_s", -1),
        ("max_open_uploads", 0),
        ("batch_bytes", 1024**3),
        ("max_columns", 1_501),
        ("tenant", "Tenant"),
        ("tenant", ""),
        ("log_format", "xml"),
        ("notify_urls", {"Ops Room": "json://127.0.0.1:1/"}),
        ("notify_urls", {f"t{number}": "json://127.0.0.1:1/" for number in range(21)}),
        ("notify_quiet_s", 0),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=field):
        load_settings(**{field: value})
