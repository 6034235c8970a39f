"""Define the tables, and upgrade older databases.

`metrics` has one row a call; its first columns are those of the original program, whose databases are upgraded in
place.  `llr_sums` holds aggregates of the same calls, so that a summary of a million rows costs no more than one of
few.  `llr_responses` holds the data that /v1/responses needs to continue conversations.  No model is bound to a
database: each query names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peewee import (
    AutoField,
    BigIntegerField,
    BooleanField,
    CompositeKey,
    Context,
    Database,
    DoubleField,
    Field,
    IntegerField,
    Model,
    PostgresqlDatabase,
    SqliteDatabase,
    TextField,
    fn,
)
from playhouse.migrate import PostgresqlMigrator, SqliteMigrator, migrate
from playhouse.sqlite_ext import AutoIncrementField


class _RowId(AutoIncrementField):  # type: ignore[misc]
    """Number rows in ascending order, and use no number twice.  PostgreSQL always does so; SQLite needs a keyword."""

    def ddl(self, ctx: Context) -> object:
        postgres = isinstance(self.model._meta.database, PostgresqlDatabase)
        return AutoField.ddl(self, ctx) if postgres else super().ddl(ctx)


class Metric(Model):
    """Hold one call to one target."""

    id = _RowId()
    ts = BigIntegerField(index=True)  # Unix ms
    backend = TextField()
    latency_ms = IntegerField()
    ok = BooleanField()
    error = TextField(null=True)
    fallback_for = TextField(null=True)
    shadow = BooleanField(
        default=False
    )  # True for all calls but live ones, so that queries of the original program stay correct
    model = TextField(null=True)
    route = TextField(null=True)
    surface = TextField(null=True)
    stream = BooleanField(null=True)
    task = TextField(null=True)
    complexity = TextField(null=True)
    ttfb_ms = IntegerField(null=True)
    input_tokens = IntegerField(null=True)
    output_tokens = IntegerField(null=True)
    cost_usd = DoubleField(null=True)
    outcome = TextField(null=True)  # ok | error | cancelled
    request_id = TextField(null=True)
    kind = TextField(null=True)  # live | shadow | probe | verify
    reason = TextField(null=True)  # why this target: route | pin | spill | fallback | …
    destination = TextField(null=True)  # host:port, of calls to targets that are not local: the egress ledger
    sent_bytes = IntegerField(null=True)
    sensitivity = TextField(null=True)
    modality = TextField(null=True)
    family = TextField(null=True)
    tokens = IntegerField(null=True)
    difficulty = DoubleField(null=True)
    confidence = DoubleField(null=True)
    client = TextField(null=True)  # the program that asks
    tools = BooleanField(null=True)
    purpose = TextField(null=True)  # interactive | agent | background
    sensitivity_reason = TextField(null=True)  # header | detector:NAME | pattern:patterns[N] | conversation
    policy = TextField(
        null=True
    )  # these three columns are set for the first call of a request: the facts of its decision
    asked_model = TextField(null=True)
    basis = TextField(null=True)  # JSON, as routing/basis.py writes it
    finish = TextField(null=True)  # why the answer ended: stop | length | tool_calls | content_filter | refusal | …
    answer_chars = IntegerField(null=True)
    live_ts = BigIntegerField(null=True)  # of a shadow call: `ts` of its live call
    wait_ms = IntegerField(null=True)
    load_ms = IntegerField(null=True)
    lane = TextField(null=True)  # interactive | agent | background
    pool = TextField(null=True)  # the pool that the backend was chosen from
    verified = TextField(null=True)  # kept | escalated | released | observed
    doubt = DoubleField(null=True)  # of the answer
    fault = TextField(null=True)
    verified_reason = TextField(null=True)
    agreement = DoubleField(null=True)
    held_ms = IntegerField(null=True)
    live_doubt = DoubleField(null=True)

    class Meta:
        table_name = "metrics"


class StoredAggregate(Model):
    """Add up calls of `span` seconds from `bucket` (Unix s) on; of all time where both are 0."""

    span = IntegerField()
    bucket = BigIntegerField()
    backend = TextField()
    model = TextField()
    route = TextField()
    kind = TextField()
    calls = BigIntegerField()
    requests = BigIntegerField()
    spills = BigIntegerField()
    successes = BigIntegerField()
    cancelled = BigIntegerField()
    fallbacks = BigIntegerField()
    input_tokens = BigIntegerField()
    output_tokens = BigIntegerField()
    counted = BigIntegerField()
    priced = BigIntegerField()
    cost_usd = DoubleField()
    latency = TextField()  # Spread.dump()
    ttfb = TextField()
    wait = TextField(null=True)  # None = no call waited
    load = TextField(null=True)
    verified = TextField(default="")  # "" = the answers were not judged
    verified_reason = TextField(default="")
    held = TextField(null=True)

    class Meta:
        table_name = "llr_sums"
        primary_key = CompositeKey("span", "bucket", "backend", "model", "route", "kind", "verified", "verified_reason")


class Refusals(Model):
    """Count requests that were refused before any call, in `span` seconds from `bucket` (Unix s) on; of all time
    where both are 0."""

    span = IntegerField()
    bucket = BigIntegerField()
    code = TextField()
    requests = BigIntegerField()

    class Meta:
        table_name = "llr_refusals"
        primary_key = CompositeKey("span", "bucket", "code")


class State(Model):
    """Hold numbers: `rolled_to` (the last row in the aggregates), `backlog_after` and `backlog_to` (the range of
    rows before it that are not in them yet), `dropped` (rows lost because the queue was full), `stored_rows` and
    `stored_bytes` (the size of `llr_responses`)."""

    name = TextField(primary_key=True)
    value = BigIntegerField(default=0)

    class Meta:
        table_name = "llr_state"


class Worker(Model):
    """Hold the report of each worker process, so that every worker can show all of them."""

    name = TextField(primary_key=True)
    ts = BigIntegerField()  # Unix ms
    document = TextField()

    class Meta:
        table_name = "llr_workers"


class StoredResponse(Model):
    """Keep one turn of a conversation, for `previous_response_id` and retrieval."""

    owner = TextField(default="")  # the id of the client's key; "" = no keys were set
    id = TextField()
    ts = BigIntegerField(index=True)  # Unix ms
    size_bytes = BigIntegerField(
        default=0
    )  # stands before the long columns, because SQLite reads a row from its beginning
    previous_id = TextField(null=True)
    backend = TextField()
    model = TextField()
    native = BooleanField()  # the backend stores the turn itself; then `input` and `response` are empty
    private = BooleanField()
    input = TextField()  # JSON array: this turn's input items
    response = TextField()  # JSON: the Response object

    class Meta:
        table_name = "llr_responses"
        primary_key = CompositeKey("owner", "id")


class StoredItem(Model):
    """Hold the turn of each item, because a client can refer to an item by its id."""

    owner = TextField(default="")
    id = TextField()
    response_id = TextField(index=True)

    class Meta:
        table_name = "llr_response_items"
        primary_key = CompositeKey("owner", "id")


ROLLED_TO, DROPPED = "rolled_to", "dropped"
BACKLOG_AFTER, BACKLOG_TO = "backlog_after", "backlog_to"
STORED_ROWS, STORED_BYTES = "stored_rows", "stored_bytes"


_TABLES = (Metric, StoredAggregate, State, Worker, StoredResponse, StoredItem)


def _v1_tables(database: Database) -> None:
    """Add the new columns to the table of the original program, and create the other tables."""
    with database.bind_ctx(_TABLES):
        if Metric.table_exists():
            _add_missing_columns(database)
        database.create_tables(_TABLES, safe=True)
        for name in (ROLLED_TO, DROPPED):
            State.insert(name=name, value=0).on_conflict_ignore().execute()


def _add_missing_columns(database: Database, model: type[Model] = Metric) -> None:
    """Add the columns of the model that its table lacks."""
    table = model._meta.table_name
    present = {column.name for column in database.get_columns(table)}
    sqlite = isinstance(database, SqliteDatabase)
    migrator = SqliteMigrator(database) if sqlite else PostgresqlMigrator(database)
    missing = [field for field in model._meta.sorted_fields if field.column_name not in present]
    migrate(*(migrator.add_column(table, field.column_name, _nullable(field)) for field in missing))


def _nullable(field: Field[object]) -> Field[object]:
    """Return a column that can be added to a table with rows."""
    added = field.clone()
    added.null = added.default is None
    return added


def _v2_refusals(database: Database) -> None:
    with database.bind_ctx((Refusals,)):
        database.create_tables((Refusals,), safe=True)


def _v3_answer_facts(database: Database) -> None:
    """Add the columns `finish`, `answer_chars` and `live_ts`, and an index of the few shadow calls."""
    _add_missing_columns(database)
    database.execute_sql("CREATE INDEX IF NOT EXISTS llr_metrics_shadow ON metrics (ts) WHERE shadow")


def _v4_owners(database: Database) -> None:
    """Give stored responses and their items an owner, which is part of their key, and a size.  Older ones belong to no
    key."""
    with database.bind_ctx(_TABLES):
        _rebuild(database, StoredResponse, {"owner": "''", "size_bytes": "length(input) + length(response)"})
        _rebuild(database, StoredItem, {"owner": "''"})
        rows, size = StoredResponse.select(fn.COUNT(StoredResponse.id), fn.SUM(StoredResponse.size_bytes)).scalar(
            as_tuple=True
        )
        for name, value in ((STORED_ROWS, rows), (STORED_BYTES, size or 0)):
            State.insert(name=name, value=value).on_conflict_ignore().execute()


def _rebuild(database: Database, model: type[Model], values: Mapping[str, str]) -> None:
    """Copy a table into a table with the columns and the key of `model`, because SQLite cannot change a key in place.
    `values` has SQL for columns that the old table lacks; the other columns get their default."""
    table = model._meta.table_name
    if {*database.get_primary_keys(table)} == {field.column_name for field in model._meta.get_primary_keys()}:
        return
    columns = [column.name for column in database.get_columns(table)]
    for index in database.get_indexes(table):
        if not index.unique:  # the new table needs an index with the same name
            database.execute_sql(f'DROP INDEX "{index.name}"')
    database.execute_sql(f"ALTER TABLE {table} RENAME TO {table}_old")
    model.create_table()
    sources = {**{name: name for name in columns}, **values}
    select = f"SELECT {', '.join(sources.values())} FROM {table}_old"
    database.execute_sql(f"INSERT INTO {table} ({', '.join(sources)}) {select}")
    database.execute_sql(f"DROP TABLE {table}_old")


def _v5_reason(database: Database) -> None:
    """Add the column `sensitivity_reason`."""
    _add_missing_columns(database)


def _v6_waits(database: Database) -> None:
    """Add the columns `wait_ms`, `load_ms`, `lane` and `pool`."""
    _add_missing_columns(database)


def _v7_summed_waits(database: Database) -> None:
    """Add the columns `wait` and `load` to the aggregates.  Older aggregates have none."""
    _add_missing_columns(database, StoredAggregate)


def _v7_clients(database: Database) -> None:
    """Add the columns `client`, `tools` and `purpose`."""
    _add_missing_columns(database)


def _v9_verdicts(database: Database) -> None:
    """Add the columns of judged answers, and an index of the few rows that have them."""
    _add_missing_columns(database)
    database.execute_sql("CREATE INDEX IF NOT EXISTS llr_metrics_verified ON metrics (ts) WHERE verified IS NOT NULL")


def _v10_judged_sums(database: Database) -> None:
    """Give the aggregates the result of the judgement, which is part of their key, and the time for which answers were
    held."""
    with database.bind_ctx((StoredAggregate,)):
        _rebuild(database, StoredAggregate, {"verified": "''", "verified_reason": "''"})


MIGRATIONS: tuple[Callable[[Database], None], ...] = (
    _v1_tables,
    _v2_refusals,
    _v3_answer_facts,
    _v4_owners,
    _v5_reason,
    _v6_waits,
    _v7_summed_waits,
    _v7_clients,
    _v9_verdicts,
    _v10_judged_sums,
)
"""Numbered by position, from 1.  A change of the tables is a new function at the end; none is ever edited."""

_UPGRADE_LOCK = 5_241_752  # any number, the same on every machine


def upgrade(database: Database) -> None:
    """Run the migrations that this database lacks, each in a transaction of its own."""
    for number in range(_version(database) + 1, len(MIGRATIONS) + 1):
        with database.atomic("IMMEDIATE") if isinstance(database, SqliteDatabase) else database.atomic():
            if isinstance(database, PostgresqlDatabase):
                database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_UPGRADE_LOCK,))
            if _version(database) < number:  # another worker may have been first
                MIGRATIONS[number - 1](database)
                _set_version(database, number)


def is_current(database: Database) -> bool:
    """Return True when every migration has run."""
    return _version(database) >= len(MIGRATIONS)


def _version(database: Database) -> int:
    if isinstance(database, PostgresqlDatabase):
        if not database.table_exists("llr_version"):
            return 0
        row = database.execute_sql("SELECT max(number) FROM llr_version").fetchone()
    else:
        row = database.execute_sql("PRAGMA user_version").fetchone()
    return int(row[0] or 0)


def _set_version(database: Database, number: int) -> None:
    if isinstance(database, PostgresqlDatabase):
        database.execute_sql("CREATE TABLE IF NOT EXISTS llr_version (number INTEGER NOT NULL)")
        database.execute_sql("INSERT INTO llr_version VALUES (%s)", (number,))
    else:
        database.execute_sql(f"PRAGMA user_version = {number}")
