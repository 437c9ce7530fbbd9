"""`make load` and `make soak` in short, on the real thing; and their judges, which must be able to say no."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - psycopg2 names a class in lower case

from bench.generate_csv import Generated, cached
from dari.v1.ingest_pb2 import ListUploadsRequest
from load import matrix
from load.clients import Running
from load.faults import Fault, break_in_turn
from load.judge import judge
from load.sampling import Sample
from load.soak import ALLOWED, MIB, Soaked, slopes, soak
from load.system import CHAT, FLOWISE, System, make_knowledge_base
from load.usage import Usage
from load.worker import BROKEN, CANCELLED, OK, UPLOAD, Called, Plan
from load.worker import CHAT as CHAT_CALL

FACTS: dict[str, object] = {"cpu": "of a test", "cores": 2}


@contextmanager
def _as_administrator(system: System) -> Iterator[Cursor]:
    with closing(psycopg2.connect(system.admin_dsn)) as session, session.cursor() as cursor:
        session.autocommit = True
        yield cursor


@pytest.fixture(scope="module")
def outcome(system: System, cache: Path) -> matrix.Outcome:
    return matrix.run(system, matrix.SHORT, cache, lambda _: None)


def test_under_load_and_faults_nothing_fails_and_all_is_stored_once(outcome: matrix.Outcome) -> None:
    assert [step.failed for step in outcome.steps] == [{}] * len(outcome.steps)
    assert all(step.calls > 0 for step in outcome.steps)
    assert [fault.what for fault in outcome.faults] == ["killed", "frozen"]
    assert {one.status for one in outcome.mixed} <= {OK, CANCELLED}
    assert {one.kind for one in outcome.mixed} == {CHAT_CALL, UPLOAD}
    assert (outcome.judged.complaints, outcome.judged.uploads > 0, outcome.judged.chats > 0) == ((), True, True)


def test_every_step_has_its_peer_and_tells_who_used_the_cpu(outcome: matrix.Outcome) -> None:
    steps = {(step.kind, step.clients, step.peer) for step in outcome.steps}
    assert steps == {(kind, clients, peer) for kind, clients, _ in steps for peer in (matrix.DARI, matrix.BARE)}
    for step in outcome.steps:
        servers = {"replica 1", "replica 2"} if step.peer == matrix.DARI else {"bare grpcio 1", "bare grpcio 2"}
        assert servers & step.cores.keys(), step
        assert step.cores[matrix.CLIENTS] > 0


def test_the_report_is_one_page_with_all_plots_and_its_numbers_are_json(outcome: matrix.Outcome) -> None:
    pytest.importorskip("matplotlib", reason="what draws the report is locked apart: make .venv/load-installed")
    from load.report import PLOTS, figures, page

    told = page(outcome, FACTS)
    assert told.count("<svg") == len(PLOTS) == 6
    for name, (title, _) in PLOTS.items():
        assert f'<figure id="{name}"><svg' in told
        assert title in told
    # Loaded from nowhere: a name space of XML is none.
    assert not [piece for piece in ("<script", "<link", "<img", "src=", "@import") if piece in told]
    assert "passed" in told
    assert "replica 1 killed" in json.dumps(figures(outcome, FACTS))


def test_a_report_of_a_run_that_failed_says_so(outcome: matrix.Outcome) -> None:
    pytest.importorskip("matplotlib", reason="what draws the report is locked apart: make .venv/load-installed")
    from load.report import figures, page

    failed = replace(outcome.mixed[0], status="UNAVAILABLE")
    lost = replace(outcome, judged=replace(outcome.judged, complaints=("upload x: <b>lost</b>",)))
    for bad in (
        lost,
        replace(outcome, mixed=(*outcome.mixed, failed)),
        replace(outcome, steps=(replace(outcome.steps[0], failed={"INTERNAL": 1}), *outcome.steps[1:])),
    ):
        assert figures(bad, FACTS)["passed"] is False
    told = page(lost, FACTS)
    assert ">failed<" in told
    assert "<b>lost" not in told


@pytest.fixture
def told(system: System, cache: Path) -> tuple[list[Called], dict[str, Generated]]:
    """One upload and one chat that were told complete, and the file."""
    path, generated = cached(cache, 100_000)
    base = "knowledgeBases/judged"
    with system.client() as client:
        if not client.ingests.ListUploads(ListUploadsRequest(knowledge_base=base)).uploads:
            make_knowledge_base(client, base)
    plan = Plan(UPLOAD, system.addresses, system.token, 1, 0.01, names=(base,), paths=(str(path),), replaces=True)
    chat = replace(plan, kind=CHAT_CALL, names=(CHAT,))
    called = [one for each in (plan, chat) for one in Running(each).wait().called]
    assert [(one.kind, one.status) for one in called] == [(UPLOAD, OK), (CHAT_CALL, OK)]
    assert judge(system.admin_dsn, called, {str(path): generated}).complaints == ()
    return called, {str(path): generated}


@pytest.mark.parametrize(
    ("wrong", "statement"),
    [
        ("a row is lost", "DELETE FROM {rows} WHERE row_number = 7"),
        ("a row is there twice", "INSERT INTO {rows} SELECT * FROM {rows} WHERE row_number = 7"),
        ("a cell is another", "UPDATE {rows} SET c2 = 'x' WHERE row_number = 7"),
        ("a range is not in the ledger", "DELETE FROM dari.upload_batches WHERE upload = '{upload}'"),
        ("other rows are visible", "UPDATE dari.knowledge_base_versions SET row_count = row_count + 1"),
        ("a turn is lost", "DELETE FROM dari.turns WHERE request_id = '{chat}'"),
    ],
)
def test_the_judge_says_no_where(
    wrong: str, statement: str, system: System, told: tuple[list[Called], dict[str, Generated]]
) -> None:
    called, files = told
    upload, chat = called
    with _as_administrator(system) as cursor:
        cursor.execute("SELECT 'dari_rows.rows_' || segment FROM dari.uploads WHERE id = %s", (upload.id,))
        ((rows,),) = cursor.fetchall()
        cursor.execute(statement.format(rows=rows, upload=upload.id, chat=chat.id))
        assert cursor.rowcount > 0
    assert len(judge(system.admin_dsn, called, files).complaints) == 1, wrong


def test_the_judge_says_no_where_a_chat_ended_well_without_its_end(
    system: System, told: tuple[list[Called], dict[str, Generated]]
) -> None:
    called, files = told
    broken = [*called, replace(called[1], status=BROKEN, id="another")]
    assert judge(system.admin_dsn, broken, files).complaints == ("chat another: it ended OK without `completed`",)


def test_faults_come_one_after_the_other_and_are_healed(system: System) -> None:
    seen: list[Fault] = []
    pids = system.pids()
    break_in_turn(system, 2.0, 1, seen)
    first, second = seen
    assert (first.whom, second.whom) == ("replica 1", FLOWISE)
    assert first.to_s <= second.from_s < second.to_s
    assert system.pids()["replica 1"] != pids["replica 1"]
    with system.client() as client:
        assert client.ask(CHAT, "Where is GMP?").answer


def test_a_short_soak_runs_and_is_judged(system: System, cache: Path) -> None:
    soaked = soak(system, 3.0, cache, interval_s=0.1)
    assert soaked.judged.complaints == ()
    assert {one.status for one in soaked.called if one.kind == CHAT_CALL} == {OK, CANCELLED}
    assert any(one.kind == UPLOAD and one.status == OK for one in soaked.called)
    # Whether three seconds are flat says nothing; that both replicas are looked at does.
    assert {"replica 1", "replica 2"} <= soaked.slopes.keys()
    assert all(slope.level > 0 for quantities in soaked.slopes.values() for slope in quantities.values())


@pytest.mark.parametrize("growing", [None, "memory", "descriptors", "threads"])
def test_the_soak_says_no_where_something_grows(growing: str | None, outcome: matrix.Outcome) -> None:
    def usage(share: float) -> Usage:
        more = {name: 2 * allowed * share if name == growing else 0.0 for name, allowed in ALLOWED.items()}
        memory = int((200 + more["memory"]) * MIB)
        return Usage(0.0, memory, 30 + round(more["descriptors"]), 40 + round(more["threads"]))

    samples = tuple(Sample(at * 5.0, {"replica 1": usage(at / 700)}, 0.0) for at in range(700))
    calm = replace(outcome.judged, complaints=())
    soaked = Soaked(3_500.0, samples, (), calm, slopes(samples))
    assert [told.partition(" +")[0] for told in soaked.growing] == ([f"replica 1: {growing}"] if growing else [])
    assert soaked.is_passed is (growing is None)
