"""What `make load` does, step by step, and what each step came to.

Every step is one kind of call, with so many clients for so many seconds, against dari or against the bare server that
does nothing (`load.bare_server`), by the same client processes. The last is all kinds at once with faults in between.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.generate_csv import MEGABYTE, Generated, cached
from load import ghz, k6
from load.clients import Running, Seen
from load.faults import Fault, breaking
from load.judge import Judged, judge
from load.sampling import INTERVAL_S, Meter, Sample, Sampler
from load.system import CHAT, FLOWISE, KNOWLEDGE_BASE, ROWS_ONLY_CHAT, System, make_knowledge_base
from load.usage import children_cpu_s
from load.worker import CANCELLED, OK, UNARY, UPLOAD, Called, Plan
from load.worker import CHAT as CHAT_CALL

DARI, BARE = "dari", "bare grpcio"
GHZ = "ghz"
PYTHON = "Python"
CLIENTS = "clients"
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    step_s: float
    unary_clients: tuple[int, ...]
    chat_clients: tuple[int, ...]
    upload_clients: tuple[int, ...]
    upload_megabytes: tuple[float, ...]
    fault_s: float
    fault_rounds: int
    fault_chats: int
    fault_uploads: int


FULL = Size(10.0, (1, 4, 16, 64), (1, 16, 64, 200), (1, 2, 4, 8), (2.0, 8.0), 60.0, 4, 24, 4)
SHORT = Size(0.6, (4,), (2, 4), (2,), (0.2,), 4.0, 1, 3, 2)


@dataclass(frozen=True, slots=True)
class Step:
    """One step, as it was."""

    kind: str
    peer: str
    clients: int
    client: str
    from_s: float
    to_s: float
    calls: int
    failed: dict[str, int]
    megabytes: float
    latencies_ms: dict[int, float]
    first_token_ms: dict[int, float]
    cores: dict[str, float]
    """By who used them: each replica, PostgreSQL, the clients; and the whole machine."""
    machine_cores: float

    @property
    def rate(self) -> float:
        """Calls a second; of uploads, megabytes a second."""
        length_s = max(self.to_s - self.from_s, 1e-9)
        return (self.megabytes if self.kind == UPLOAD else self.calls) / length_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a run came to."""

    size: Size
    steps: tuple[Step, ...]
    samples: tuple[Sample, ...]
    faults: tuple[Fault, ...]
    mixed: tuple[Called, ...]
    """Calls of the last step, that with the faults."""
    mixed_s: tuple[float, float]
    judged: Judged
    tools: dict[str, str]
    by_k6: dict[str, k6.Ran] = field(default_factory=dict)


def run(system: System, size: Size, cache: Path, say: Callable[[str], None]) -> Outcome:
    """Run all of it. Generated files stay in `cache`."""
    return _Run(system, size, cache, say).run()


class _Run:
    def __init__(self, system: System, size: Size, cache: Path, say: Callable[[str], None]) -> None:
        self._system = system
        self._size = size
        self._say = say
        made = [cached(cache, round(megabytes * MEGABYTE)) for megabytes in size.upload_megabytes]
        self._files: dict[str, Generated] = {str(path.resolve()): told for path, told in made}
        self._bases = tuple(f"knowledgeBases/load-{number}" for number in range(1, 5))
        self._called: list[Called] = []
        """All chats and uploads on dari, for the judge."""

    def run(self) -> Outcome:
        with self._system.client() as client:
            for name in (*self._bases, "knowledgeBases/k6"):
                make_knowledge_base(client, name)
        with ExitStack() as opened:
            bare = opened.enter_context(_bare_servers(len(self._system.addresses)))
            self._bare = bare
            interval_s = min(INTERVAL_S, self._size.step_s / 4)
            sampler = opened.enter_context(Sampler(lambda: {**self._system.pids(), **self._others()}, interval_s))
            self._samples = sampler.samples
            steps = list(self._steps())
            by_k6 = dict(self._k6_steps())
            mixed, mixed_s, faults = self._mixed()
        self._say("looking at what is stored")
        judged = judge(self._system.admin_dsn, self._called, self._files)
        tools = {
            name: "there" if found else "not there: see `make load-tools`"
            for name, found in (("ghz", ghz.find()), ("k6", k6.find()))
        }
        return Outcome(
            self._size, tuple(steps), tuple(self._samples), tuple(faults), tuple(mixed), mixed_s, judged, tools, by_k6
        )

    def _others(self) -> dict[str, int]:
        return {
            FLOWISE: self._system.flowise.pid,
            **{f"{BARE} {number}": pid for number, pid in enumerate(self._bare.pids, 1)},
        }

    def _steps(self) -> Iterator[Step]:
        for kind, counts in (
            (UNARY, self._size.unary_clients),
            (CHAT_CALL, self._size.chat_clients),
            (UPLOAD, self._size.upload_clients),
        ):
            for clients in counts:
                for peer in (DARI, BARE):
                    step = self._step(kind, peer, clients)
                    self._say(f"{kind:7} {peer:12} {clients:4} clients {step.rate:10,.1f}/s {step.failed or ''}")
                    yield step

    def _step(self, kind: str, peer: str, clients: int) -> Step:
        addresses = self._system.addresses if peer == DARI else self._bare.addresses
        program = ghz.find()
        if kind == UNARY and program is not None:
            return self._ghz_step(program, peer, addresses, clients)
        plan = self._plan(kind, clients, self._size.step_s, addresses)
        meter = self._meter(peer)
        seen = Running(plan).wait()
        cores, machine_cores = meter.read()
        if peer == DARI and kind != UNARY:
            self._called += seen.called
        return self._told(kind, peer, clients, seen, cores, machine_cores)

    def _plan(self, kind: str, clients: int, seconds: float, addresses: tuple[str, ...]) -> Plan:
        plan = Plan(kind, addresses, self._system.token, clients, seconds)
        match kind:
            case "unary":
                return replace(plan, names=(KNOWLEDGE_BASE,))
            case "chat":
                return replace(plan, names=(CHAT, CHAT, CHAT, ROWS_ONLY_CHAT))
            case _:
                return replace(plan, names=self._bases, paths=tuple(self._files))

    def _ghz_step(self, program: Path, peer: str, addresses: tuple[str, ...], clients: int) -> Step:
        """One ghz for each address, at the same time."""
        shares = [clients // len(addresses) + (at < clients % len(addresses)) for at in range(len(addresses))]
        asked = [(address, share) for address, share in zip(addresses, shares, strict=True) if share]

        def ask(place: int) -> ghz.Ran:
            address, share = asked[place]
            return ghz.run(
                program,
                address,
                "dari.v1.MappingService/GetKnowledgeBase",
                {"name": KNOWLEDGE_BASE},
                duration_s=self._size.step_s,
                concurrency=share,
                connections=4,
                token=self._system.token,
            )

        meter = self._meter(peer)
        before_cpu_s = children_cpu_s()
        with ThreadPoolExecutor(len(asked)) as pool:
            ran = list(pool.map(ask, range(len(asked))))
        to_s = time.monotonic()
        cores, machine_cores = meter.read()
        length_s = max(one.seconds for one in ran)
        failed = sum((Counter(one.statuses) for one in ran), Counter())
        calls = failed.pop(OK, 0)
        latencies = {
            percentile: max(one.latencies_ms.get(percentile, 0.0) for one in ran) for percentile in _PERCENTILES
        }
        cores[CLIENTS] = (children_cpu_s() - before_cpu_s) / length_s
        return Step(
            UNARY,
            peer,
            clients,
            GHZ,
            to_s - length_s,
            to_s,
            calls,
            dict(failed),
            0.0,
            latencies,
            {},
            cores,
            machine_cores,
        )

    def _told(
        self, kind: str, peer: str, clients: int, seen: Seen, cores: dict[str, float], machine_cores: float
    ) -> Step:
        ended = [one for one in seen.called if one.status == OK]
        failed = Counter(one.status for one in seen.called if one.status not in (OK, CANCELLED))
        first_s = [one.first_token_s for one in ended if one.first_token_s is not None]
        from_s = min(one.began_s for one in seen.called)
        to_s = max(one.began_s + one.took_s for one in seen.called)
        return Step(
            kind,
            peer,
            clients,
            PYTHON,
            from_s,
            to_s,
            len(ended),
            dict(failed),
            sum(self._files[one.path].size_bytes for one in ended if one.path) / MEGABYTE,
            percentiles_ms([one.took_s for one in ended]),
            percentiles_ms(first_s),
            {**cores, CLIENTS: seen.cpu_s / (to_s - from_s)},
            machine_cores,
        )

    def _meter(self, peer: str) -> Meter:
        ours = {**self._system.pids(), FLOWISE: self._system.flowise.pid}
        return Meter(ours if peer == DARI else {name: pid for name, pid in self._others().items() if name != FLOWISE})

    def _k6_steps(self) -> Iterator[tuple[str, k6.Ran]]:
        program = k6.find()
        if program is None:
            return
        for script, vus in (("ingest", 4), ("chat", 16)):
            ran = k6.run(
                program,
                script,
                vus=vus,
                seconds=self._size.step_s,
                token=self._system.token,
                ADDRESS=self._system.addresses[0],
                KNOWLEDGE_BASE="knowledgeBases/k6",
                CHAT=CHAT,
            )
            self._say(f"k6 {script}: {ran.streams} streams, {ran.failed} failed")
            yield script, ran

    def _mixed(self) -> tuple[list[Called], tuple[float, float], list[Fault]]:
        """Chats, of which some leave, and uploads at once, while things break."""
        size, seconds = self._size, self._size.fault_s
        self._say(f"chats and uploads with {2 * size.fault_rounds} faults for {seconds:g} s")
        addresses = self._system.addresses
        chats = replace(self._plan(CHAT_CALL, size.fault_chats, seconds, addresses), cancelled_share=0.2)
        uploads = self._plan(UPLOAD, size.fault_uploads, seconds, addresses)
        from_s = time.monotonic()
        running = [Running(chats, 2), Running(uploads, 1)]
        thread, faults = breaking(self._system, seconds, size.fault_rounds)
        called = [one for each in running for one in each.wait().called]
        thread.join()
        self._called += called
        return called, (from_s, time.monotonic()), faults


@dataclass(frozen=True, slots=True)
class _Bare:
    addresses: tuple[str, ...]
    pids: tuple[int, ...]


@contextmanager
def _bare_servers(count: int) -> Iterator[_Bare]:
    """As many as there are replicas."""
    processes: list[subprocess.Popen[str]] = []
    addresses = []
    try:
        for _ in range(count):
            command = [sys.executable, "-m", "load.bare_server"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout is not None
            addresses.append(f"127.0.0.1:{int(process.stdout.readline())}")
        yield _Bare(tuple(addresses), tuple(process.pid for process in processes))
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def percentiles_ms(values_s: Sequence[float]) -> dict[int, float]:
    """Those of `_PERCENTILES`, in milliseconds; none of no values."""
    ordered = sorted(values_s)
    return {
        percentile: round(1_000 * ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)], 2)
        for percentile in _PERCENTILES
        if ordered
    }
