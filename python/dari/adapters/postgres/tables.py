"""The metadata tables as peewee models, the same as the migrations make them.

The models are bound to no database: a query is run by `query.execute(transaction.peewee)`, so that one process may
serve several databases.
"""

from typing import Any

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    DoubleField,
    Field,
    IntegerField,
    Model,
    TextField,
    UUIDField,
)
from playhouse.postgres_ext import ArrayField, DateTimeTZField
from psycopg2.extras import Json

__all__ = [
    "AiModelChatConfigurations",
    "AiModelKnowledgeBases",
    "AiModels",
    "ChatConfigurationKnowledgeBases",
    "ChatConfigurations",
    "Conversations",
    "KnowledgeBaseSources",
    "KnowledgeBaseVersions",
    "KnowledgeBases",
    "RejectedRows",
    "Turns",
    "UploadBatches",
    "Uploads",
    "VersionSegments",
]


class JsonbField(Field):
    """jsonb, in and out as Python values."""

    field_type = "JSONB"

    def db_value(self, value: Any) -> Json | None:
        """Wrap for the driver."""
        return None if value is None else Json(value)


def _texts() -> Any:
    return ArrayField(TextField)


class _Table(Model):
    class Meta:
        schema = "dari"
        legacy_table_names = False


class AiModels(_Table):
    """dari.ai_models"""

    tenant = TextField()
    id = TextField()
    display_name = TextField()
    kind = TextField()
    base_url = TextField(null=True)
    flow_id = UUIDField(null=True)
    remote_model = TextField(null=True)
    api_key_secret = TextField(null=True)
    model_file = TextField(null=True)
    first_token_timeout_s = DoubleField()
    stall_timeout_s = DoubleField()
    total_timeout_s = DoubleField()
    max_answer_tokens = IntegerField()
    context_tokens = IntegerField()
    labels = JsonbField()
    knowledge_base_selector = TextField()
    disabled = BooleanField()
    revision = BigIntegerField()
    request_id = UUIDField(null=True)
    create_time = DateTimeTZField()
    update_time = DateTimeTZField()

    class Meta:
        table_name = "ai_models"
        primary_key = CompositeKey("tenant", "id")


class ChatConfigurations(_Table):
    """dari.chat_configurations"""

    tenant = TextField()
    id = TextField()
    display_name = TextField()
    instructions = TextField()
    max_rows = IntegerField()
    stand_by = TextField()
    stand_by_after_s = DoubleField()
    labels = JsonbField()
    knowledge_base_selector = TextField()
    disabled = BooleanField()
    revision = BigIntegerField()
    request_id = UUIDField(null=True)
    create_time = DateTimeTZField()
    update_time = DateTimeTZField()

    class Meta:
        table_name = "chat_configurations"
        primary_key = CompositeKey("tenant", "id")


class KnowledgeBases(_Table):
    """dari.knowledge_bases"""

    tenant = TextField()
    id = TextField()
    display_name = TextField()
    description = TextField()
    current_version = BigIntegerField(null=True)
    labels = JsonbField()
    disabled = BooleanField()
    revision = BigIntegerField()
    request_id = UUIDField(null=True)
    create_time = DateTimeTZField()
    update_time = DateTimeTZField()

    class Meta:
        table_name = "knowledge_bases"
        primary_key = CompositeKey("tenant", "id")


class KnowledgeBaseSources(_Table):
    """dari.knowledge_base_sources, what operators say of it; see `sync_store` for the rest"""

    tenant = TextField()
    knowledge_base = TextField()
    uri = TextField()
    credentials_secret = TextField()
    interval_s = DoubleField()
    cron = TextField()
    on_shrink = TextField()
    max_shrink_share = DoubleField()
    key_columns = ArrayField(TextField)
    paused = BooleanField()

    class Meta:
        table_name = "knowledge_base_sources"
        primary_key = CompositeKey("tenant", "knowledge_base")


class AiModelChatConfigurations(_Table):
    """dari.ai_model_chat_configurations"""

    tenant = TextField()
    chat_configuration = TextField()
    ai_model = TextField()
    priority = IntegerField()
    disabled = BooleanField()
    create_time = DateTimeTZField()

    class Meta:
        table_name = "ai_model_chat_configurations"
        primary_key = CompositeKey("tenant", "chat_configuration", "ai_model")


class ChatConfigurationKnowledgeBases(_Table):
    """dari.chat_configuration_knowledge_bases"""

    tenant = TextField()
    chat_configuration = TextField()
    knowledge_base = TextField()
    effect = TextField()
    create_time = DateTimeTZField()

    class Meta:
        table_name = "chat_configuration_knowledge_bases"
        primary_key = CompositeKey("tenant", "chat_configuration", "knowledge_base")


class AiModelKnowledgeBases(_Table):
    """dari.ai_model_knowledge_bases"""

    tenant = TextField()
    ai_model = TextField()
    knowledge_base = TextField()
    effect = TextField()
    create_time = DateTimeTZField()

    class Meta:
        table_name = "ai_model_knowledge_bases"
        primary_key = CompositeKey("tenant", "ai_model", "knowledge_base")


class Uploads(_Table):
    """dari.uploads"""

    tenant = TextField()
    id = TextField()
    knowledge_base = TextField()
    mode = TextField()
    hints = JsonbField()
    replaces_invalid_bytes = BooleanField()
    keeps_ragged_rows = BooleanField()
    max_rejected_rows = BigIntegerField()
    max_rejected_share = DoubleField()
    state = TextField()
    writer_epoch = BigIntegerField()
    committed_offset_bytes = BigIntegerField()
    next_line = BigIntegerField()
    rows_stored = BigIntegerField()
    rows_rejected = BigIntegerField()
    lines_set_aside = BigIntegerField()
    rows_ragged = BigIntegerField()
    rows_repaired = BigIntegerField()
    rows_replaced = BigIntegerField()
    columns = _texts()
    reading = JsonbField(null=True)
    parser_state = BlobField()
    segment = TextField()
    sha256 = BlobField(null=True)
    version = BigIntegerField(null=True)
    index_duration_s = DoubleField(null=True)
    failure = TextField()
    create_time = DateTimeTZField()
    update_time = DateTimeTZField()
    complete_time = DateTimeTZField(null=True)

    class Meta:
        table_name = "uploads"
        primary_key = CompositeKey("tenant", "id")


class UploadBatches(_Table):
    """dari.upload_batches"""

    tenant = TextField()
    upload = TextField()
    start_offset_bytes = BigIntegerField()
    end_offset_bytes = BigIntegerField()
    rows_stored = BigIntegerField()
    rows_rejected = BigIntegerField()
    commit_time = DateTimeTZField()

    class Meta:
        table_name = "upload_batches"
        primary_key = CompositeKey("tenant", "upload", "start_offset_bytes")


class RejectedRows(_Table):
    """dari.rejected_rows"""

    tenant = TextField()
    upload = TextField()
    offset_bytes = BigIntegerField()
    line = BigIntegerField()
    length_bytes = BigIntegerField()
    reason = TextField()
    raw_bytes = BlobField(column_name="raw")

    class Meta:
        table_name = "rejected_rows"
        primary_key = CompositeKey("tenant", "upload", "offset_bytes")


class KnowledgeBaseVersions(_Table):
    """dari.knowledge_base_versions"""

    tenant = TextField()
    knowledge_base = TextField()
    number = BigIntegerField()
    row_count = BigIntegerField()
    columns = _texts()
    create_time = DateTimeTZField()

    class Meta:
        table_name = "knowledge_base_versions"
        primary_key = CompositeKey("tenant", "knowledge_base", "number")


class VersionSegments(_Table):
    """dari.version_segments"""

    tenant = TextField()
    knowledge_base = TextField()
    version = BigIntegerField()
    ordinal = IntegerField()
    segment = TextField()
    rows_before = BigIntegerField()
    row_count = BigIntegerField()

    class Meta:
        table_name = "version_segments"
        primary_key = CompositeKey("tenant", "knowledge_base", "version", "ordinal")


class Conversations(_Table):
    """dari.conversations"""

    tenant = TextField()
    id = UUIDField()
    chat_configuration = TextField(null=True)
    turn_count = IntegerField()
    create_time = DateTimeTZField()
    update_time = DateTimeTZField()

    class Meta:
        table_name = "conversations"
        primary_key = CompositeKey("tenant", "id")


class Turns(_Table):
    """dari.turns"""

    tenant = TextField()
    conversation = UUIDField()
    number = IntegerField()
    request_id = UUIDField(null=True)
    question = TextField()
    answer = TextField()
    state = TextField()
    answered_by = TextField(null=True)
    ai_model = TextField()
    attempts = JsonbField()
    citations = JsonbField()
    degraded_reasons = _texts()
    knowledge_bases = _texts()
    deadline_time = DateTimeTZField()
    create_time = DateTimeTZField()
    complete_time = DateTimeTZField(null=True)

    class Meta:
        table_name = "turns"
        primary_key = CompositeKey("tenant", "conversation", "number")
