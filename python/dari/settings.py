"""All settings in one frozen object, read once at start from the environment and an optional file.

Each setting is an environment variable `DARI_` + its name in capitals, or a key of the TOML file that
`DARI_SETTINGS_FILE` names; the environment wins. Wrong and unknown settings stop the start, all named together and
without their values.
"""

import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    IPvAnyNetwork,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

ENVIRONMENT_PREFIX = "DARI_"
SETTINGS_FILE_VARIABLE = "DARI_SETTINGS_FILE"
TOOL_VARIABLES = frozenset(
    {
        SETTINGS_FILE_VARIABLE,
        "DARI_ADDRESS",
        "DARI_TOKEN",
        "DARI_TOKEN_FILE",
        "DARI_TLS",
        "DARI_TLS_CA",
        "DARI_CLIENT_CERTIFICATE",
        "DARI_CLIENT_KEY",
        "DARI_IMPORT_DSN",
    }
)
"""Variables with our prefix that are no settings of the server: this module's own, and the command line's."""

MIB = 1024 * 1024
TIB = 1024 * 1024 * MIB


class SettingsError(Exception):
    """The settings cannot be used. `problems` names every wrong one, without its value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(["The settings cannot be used:", *(f"  {problem}" for problem in problems)]))
        self.problems = problems


def _host_and_port(address: str) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}", address):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051")
    return address


def _host_and_port_or_empty(address: str) -> str:
    return _host_and_port(address) if address else address


Address = Annotated[str, AfterValidator(_host_and_port)]
OptionalAddress = Annotated[str, AfterValidator(_host_and_port_or_empty)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
TargetName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
LongSeconds = Annotated[float, Field(ge=0, le=366 * 86_400)]


class Settings(BaseSettings):
    """Everything that an operator may choose. Units stand in the names."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    # Servers. Both bind loopback unless told otherwise.
    listen_address: Address = "127.0.0.1:50051"
    """Where Chat, Ingest and Mapping are served."""
    admin_address: Address = "127.0.0.1:50052"
    """Where health is served: apart, since health checks starve on a busy server."""

    # Life of a replica: docs/limits.md.
    database_start_timeout_s: float = Field(default=60.0, ge=0, le=86_400)
    """How long the start waits for a database that is not there yet; then it ends with exit code 69."""
    database_watch_interval_s: Seconds = 1.0
    """How often health looks whether the database answers."""
    stop_delay_s: float = Field(default=2.0, ge=0, le=3_600)
    """Behind SIGTERM, how long calls are still taken while health says NOT_SERVING: more than a balancer needs to see
    that. Ctrl-C does not wait."""
    drain_timeout_s: Seconds = 20.0
    """Then, how long open calls may go on."""
    max_connection_age_s: float | None = Field(default=None, ge=1, le=366 * 86_400)
    """Connections are asked to end at this age (a tenth more or less), so that clients behind a balancer of connections
    spread over replicas that came later. Calls under way go on. Default: never; a gateway spreads calls by itself."""

    # Limits. What is beyond them is refused at once, with RESOURCE_EXHAUSTED and when to come again: docs/limits.md.
    # Those of uploads and watchers stand with ingest.
    max_unary_calls: int = Field(default=64, ge=1, le=10_000)
    """Short calls under way at once: those that run, and those that wait for a thread."""
    unary_threads: int = Field(default=16, ge=1, le=256)
    """Short calls that run at once, each perhaps over a connection to the database."""
    max_chats: int = Field(default=200, ge=1, le=1_000)
    """Turns (Chat, Ask) at once; each holds a thread and some 0.15 MiB."""
    max_exports: int = Field(default=8, ge=1, le=1_000)
    """Exports and comparisons of versions at once; each holds a connection to the database."""
    caller_calls_at_once: int | None = Field(default=None, ge=1, le=10_000)
    """Calls of one caller under way at once, of all kinds. Default: no limit but those above."""
    caller_calls_per_s: float | None = Field(default=None, gt=0, le=1_000_000)
    """Calls that one caller may make on this server in the long run. Default: no limit."""
    caller_burst: int = Field(default=20, ge=1, le=1_000_000)
    """Calls that a caller who was silent may make at once, before `caller_calls_per_s` counts."""
    caller_tokens_per_day: int | None = Field(default=None, ge=1, le=10**15)
    """Tokens that models may read and write for one caller in a day (UTC), on all servers together."""
    tenant_tokens_per_day: int | None = Field(default=None, ge=1, le=10**15)
    """The same for all callers of a tenant."""

    # Callers. Without a tokens file and without keys of signed tokens everyone is an admin of `tenant`, and only this
    # machine may reach the server.
    tokens_file: Path | None = None
    """Who holds which token; `dari token create` makes its entries. Read again when it changes."""
    jwt_keys_file: Path | None = None
    """JSON Web Key Set that signs tokens (RS256, EdDSA). Read again when it changes."""
    jwt_keys_url: str = ""
    """The same by the issuer's https address, instead of a file."""
    jwt_issuer: str = ""
    """What `iss` must be."""
    jwt_audience: str = ""
    """What `aud` must name."""
    jwt_tenant_claim: str = "tenant"
    """Claim that holds the caller's tenant."""
    jwt_role_claim: str = "role"
    """Claim that holds reader, operator or admin, or a list with them."""
    jwt_leeway_s: float = Field(default=10.0, ge=0, le=300)
    """How far the issuer's clock may be from ours."""
    jwt_keys_refresh_interval_s: Seconds = 300.0
    """How often keys are fetched from `jwt_keys_url`."""
    jwt_keys_min_interval_s: Seconds = 10.0
    """Shortest time between two fetches, however many tokens name a key that is not known."""
    jwt_keys_timeout_s: Seconds = 5.0
    """Longest wait for the issuer."""
    file_check_interval_s: Seconds = 1.0
    """How often the files of tokens, keys and certificates are looked at for a change."""
    tls_certificate_file: Path | None = None
    """PEM, the server's own certificate first. With `tls_key_file` the server speaks TLS alone."""
    tls_key_file: Path | None = None
    """PEM, the key of that certificate."""
    tls_client_ca_file: Path | None = None
    """Clients must bring a certificate of one of these authorities. The tokens file can name callers by it."""
    plaintext_listen_allowed: bool = False
    """Take tokens without TLS from other machines: for a gateway on the same network that ends TLS."""

    # The audit.
    audit_dir: Path | None = None
    """Folder of changes.jsonl and refusals.jsonl, each process its own. Default: `audit` in `data_dir`."""
    audit_file_bytes: int = Field(default=64 * MIB, ge=1_024, le=TIB)
    """Size at which a file is numbered and a new one begins."""
    audit_files_kept: int = Field(default=16, ge=1, le=10_000)
    """Numbered files of each kind that stay."""

    # Data.
    data_dir: Path = Path(".dari")
    """Folder of the embedded database and the model files."""
    database_dsn: SecretStr | None = None
    """PostgreSQL to use, as a libpq DSN or URL. Default: an embedded one in `data_dir`."""
    migration_dsn: SecretStr | None = None
    """Whom `dari migrate` logs in as: it may create roles and tables, which the user of `database_dsn` need not. Past
    a pooler that hands a session to others between two transactions. The server never uses it. Default: `database_dsn`.
    """
    database_max_connections: int = Field(default=24, ge=2, le=1_000)
    """Connections of this server to PostgreSQL, at most."""
    database_wait_timeout_s: Seconds = 5.0
    """Longest wait for a connection, from the pool and from the server."""
    database_statement_timeout_s: Seconds = 60.0
    """Longest statement, index builds left out."""
    tenant: str = Field(default="default", pattern=r"^[a-z][a-z0-9-]{0,62}$")
    """The tenant of all callers where none is authenticated, and of the secrets whose names have no tenant before."""

    # Ingest.
    max_open_uploads: int = Field(default=16, ge=1, le=1_000)
    """Uploads that may stream at once. Each may take up to 32 MiB of memory and, as long as it stores, a connection to
    the database."""
    copy_streams: int = Field(default=2, ge=1, le=2)
    """Batches of an upload that are stored at once, each over a connection of its own. The second one's is of
    `database_max_connections` beyond those of `max_open_uploads` and a few for reading."""
    upload_idle_timeout_s: Seconds = 60.0
    """An upload stream that sends nothing for so long is ended; the upload itself can go on later."""
    batch_bytes: int = Field(default=4 * MIB, ge=64 * 1024, le=64 * MIB)
    """Bytes of a file between two checkpoints."""
    max_upload_bytes: int = Field(default=TIB, ge=1_024, le=1_024 * TIB)
    """Size of a file."""
    max_record_bytes: int = Field(default=1 * MIB, ge=1_024, le=16 * MIB)
    """Size of a record in the file; a longer one mostly means that a quote is unclosed."""
    max_cell_bytes: int = Field(default=1 * MIB, ge=1_024, le=16 * MIB)
    """Size of a cell."""
    max_header_bytes: int = Field(default=256 * 1024, ge=1_024, le=1 * MIB)
    """All records that name the columns, together."""
    max_columns: int = Field(default=1_500, ge=1, le=1_500)
    """PostgreSQL allows 1,600 columns in a table."""
    max_rejected_rows: int = Field(default=100_000, ge=0)
    """Rejected rows that an upload may have unless it asks for another limit."""
    max_rejected_share: float = Field(default=0.5, ge=0, le=1)
    """The same as a share of all rows."""
    max_watchers: int = Field(default=16, ge=1, le=1_000)
    """Callers of WatchUpload, WatchUpstreams and reflection at once; each holds a thread."""
    export_stall_timeout_s: Seconds = 60.0
    """An export whose caller takes nothing for so long is ended."""

    # Sources of knowledge bases.
    source_folders: tuple[Path, ...] = ()
    """Folders whose files may be sources (`file:`). Default: none."""
    source_networks_allowed: tuple[IPvAnyNetwork, ...] = ()
    """Networks that http(s) sources may be in though they are not public:
    DARI_SOURCE_NETWORKS_ALLOWED='["10.2.0.0/16"]'."""
    source_schemes: frozenset[str] = frozenset({"s3", "gs", "gcs", "az", "abfs", "adl", "oss"})
    """Schemes of sources that fsspec reads."""
    source_timeout_s: Seconds = 3_600.0
    """Longest fetch of a source, however often it breaks and goes on."""
    sync_poll_interval_s: Seconds = 2.0
    """Between two looks whether a source is due."""
    sync_lease_s: float = Field(default=30.0, ge=0.5, le=3_600)
    """How long after a server's death another one goes on with its sync."""
    max_syncs: int = Field(default=2, ge=1, le=100)
    """Sources that this server fetches at once; each takes an upload of `max_open_uploads`, and the size of the source
    on the disk of `data_dir`."""

    # Housekeeping.
    housekeeping_interval_s: Seconds = 30.0
    """Between two rounds that publish what was left unfinished and remove what is over."""
    version_grace_s: LongSeconds = 3_600.0
    """How long a version of a knowledge base stays after another has taken its place."""
    keep_versions: int = Field(default=1, ge=0, le=1_000)
    """Versions that stay beside the current one, however old."""
    upload_expiry_s: LongSeconds = 7 * 86_400.0
    """An open upload that gets no batch for so long fails, and its rows go."""

    # Chat.
    chat_timeout_s: Seconds = 60.0
    """Deadline of a turn whose caller sets none."""
    chat_database_timeout_s: Seconds = 2.0
    """Longest look of a turn at the database: beyond it the turn goes on as it does while the database is gone."""
    connect_timeout_s: Seconds = 1.0
    """Longest wait for a connection to an upstream."""
    first_event_timeout_s: Seconds = 3.0
    """Longest wait for a word of a Flowise whose flow streams: its headers come at once, those of a hung one never."""
    max_stand_bys: int = Field(default=16, ge=1, le=1_000)
    """Models that may answer in the background at once, each on a thread of its own; beyond it a slow model has no
    stand-by."""
    circuit_consecutive_failures: int = Field(default=3, ge=1, le=1_000)
    """Failures in a row that open an upstream's circuit."""
    circuit_failure_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of failures that opens it, among the outcomes of `circuit_window_s`."""
    circuit_min_outcomes: int = Field(default=10, ge=1, le=1_000)
    """Outcomes below which the share says nothing."""
    circuit_window_s: Seconds = 60.0
    """How far back outcomes count for that share."""
    circuit_open_s: Seconds = 5.0
    """How long a circuit first lets nothing through; twice as long each time it opens again soon."""
    circuit_max_open_s: Seconds = 60.0
    """Longest time for which a circuit opens."""
    probe_interval_s: Seconds = 2.0
    """How often a server whose circuit is open is asked whether it is back."""
    circuit_ramp_s: float = Field(default=5.0, ge=0, le=86_400)
    """Behind a close, how long until everyone goes through again and not a growing share."""
    secrets: dict[str, SecretStr] = Field(default_factory=dict)
    """API keys by name; AI models refer to them. DARI_SECRETS='{"flowise-main": "…"}'. Those of another tenant than
    `tenant` stand behind its id: "acme/flowise-main" is what models of acme call flowise-main."""

    # The local model.
    local_model: str | None = "smollm2-135m-instruct"
    """Id of the model file that the local engine runs, from `dari model list`. Empty: no local model."""
    local_engine: Literal["auto", "xllamacpp", "ctransformers"] = "auto"
    """Engine of the local model; auto reads the file's header."""
    local_threads: int | None = Field(default=None, ge=1, le=256)
    """Threads of the local engine. Default: one a physical core."""
    local_context_tokens: int = Field(default=2_048, ge=256, le=131_072)
    """Prompt and answer together."""
    local_queue_size: int = Field(default=4, ge=0, le=1_000)
    """Questions that may wait for the local engine; beyond it is busy."""
    local_slots: int = Field(default=1, ge=1, le=64)
    """Questions that the local engine answers at the same time, each with a context of its own (xllamacpp only)."""
    local_memory_limit_mib: int | None = Field(default=None, ge=64, le=1_048_576)
    """Memory of the local engine's process, beside the mapped model file; one that holds more is ended and started
    again. Default: 4 GiB and the size of the model file."""

    # Operators.
    notify_urls: dict[TargetName, SecretStr] = Field(default_factory=dict, max_length=20)
    """Where operators are told of failures, by a name of your choice: DARI_NOTIFY_URLS='{"ops": "slack://…"}'. The URLs
    are those of apprise, https://appriseit.com/services/. All servers over one database need the same."""
    notify_quiet_s: Seconds = 900.0
    """The same about the same thing is told once in so long; then how often it happened meanwhile."""

    # Telemetry.
    metrics_address: OptionalAddress = "127.0.0.1:50053"
    """Where Prometheus scrapes `/metrics`, over HTTP without a guard: names of methods and numbers. Empty: nowhere."""
    otlp_endpoint: str = Field(default="", pattern=r"^(https?://[^/@?#\s]+/?)?$")
    """Collector that takes traces over OTLP/gRPC, as http://HOST:PORT, or https:// for TLS. Empty: no traces."""
    otlp_headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Sent to the collector with every batch, such as its key: DARI_OTLP_HEADERS='{"authorization": "…"}'."""
    otlp_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of calls that are traced, where the caller's `traceparent` does not decide it."""

    # Logs.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least of what is logged."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or lines for a terminal."""

    @property
    def takes_signed_tokens(self) -> bool:
        """Whether there are keys to check them with."""
        return self.jwt_keys_file is not None or bool(self.jwt_keys_url)

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if problems := list(self._gaps()):
            raise ValueError("; ".join(problems))
        return self

    def _gaps(self) -> Iterator[str]:
        """What is missing for callers to be told apart, and for the wire to be closed."""
        if self.jwt_keys_file is not None and self.jwt_keys_url:
            yield "jwt_keys_file and jwt_keys_url exclude each other"
        if self.jwt_keys_url and not _is_safe_url(self.jwt_keys_url):
            yield "jwt_keys_url must begin with https://, or be on this machine"
        if self.takes_signed_tokens and not (self.jwt_issuer and self.jwt_audience):
            yield "signed tokens need jwt_issuer and jwt_audience"
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            yield "tls_certificate_file and tls_key_file go together"
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            yield "tls_client_ca_file needs tls_certificate_file and tls_key_file"
        if _is_loopback(self.listen_address.rpartition(":")[0]):
            return
        if self.tokens_file is None and not self.takes_signed_tokens:
            yield "listen_address is open to other machines: set tokens_file, jwt_keys_file or jwt_keys_url"
        if self.tls_certificate_file is None and not self.plaintext_listen_allowed:
            yield (
                "listen_address is open to other machines: set tls_certificate_file and tls_key_file, or"
                " plaintext_listen_allowed where a gateway ends TLS"
            )

    @property
    def model_dir(self) -> Path:
        """Where model files and their manifest are."""
        return self.data_dir / "models"

    @property
    def postgres_dir(self) -> Path:
        """Where the embedded database keeps its files."""
        return self.data_dir / "postgres"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        file = os.environ.get(SETTINGS_FILE_VARIABLE)
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(file))) if file else sources


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_safe_url(url: str) -> bool:
    """Whoever can change keys on their way signs tokens as they like."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` win over environment and file. Raises SettingsError."""
    settings, problems = load_usable_settings(**overrides)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def load_usable_settings(**overrides: Any) -> tuple[Settings | None, list[str]]:
    """The settings with the default for each that is wrong, and what is wrong; None where nothing can be said of them.

    For whoever looks at what there is. A server starts with `load_settings`, or not at all.
    """
    problems = list(_unknown_variables(os.environ))
    file = os.environ.get(SETTINGS_FILE_VARIABLE)
    if file and not Path(file).is_file():
        return None, [*problems, f"{SETTINGS_FILE_VARIABLE}: no such file"]
    try:
        return Settings(**overrides), problems
    except ValidationError as error:
        problems += _told(error)
        wrong = {str(detail["loc"][0]) for detail in error.errors(include_input=False) if detail["loc"]}
    except ValueError as error:
        problems.append(f"{SETTINGS_FILE_VARIABLE} or a structured variable cannot be read ({type(error).__name__})")
        return None, problems
    if not wrong:
        return None, problems
    # pydantic looks for what is missing only where all that is there is right.
    fields = Settings.model_fields
    instead = {name: fields[name].get_default(call_default_factory=True) for name in wrong & fields.keys()}
    try:
        return _Tolerant(**overrides | instead), problems
    except ValidationError as error:
        return None, problems + [gap for gap in _told(error) if not any(name in gap for name in wrong)]


class _Tolerant(Settings):
    """Settings whose unknown keys are nobody's concern."""

    model_config = SettingsConfigDict(extra="ignore")


def _told(error: ValidationError) -> list[str]:
    """What is wrong, without pydantic's own text: that shows the values, and a value may be a secret."""
    return [f"{_path(detail['loc'])}: {detail['msg']}" for detail in error.errors(include_input=False)]


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or variable in TOOL_VARIABLES or variable.startswith("DARI_TEST_"):
            continue
        if name.split("__")[0].lower() not in Settings.model_fields:
            yield f"{variable}: no such setting"


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"
