"""What a database that goes away does to the store: nothing that was written is lost, nothing is written twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from threading import Thread

import pytest

from stoker.errors import Fenced, StoreError
from stoker.store.base import RowsRefused, StoreUnavailable
from stoker.store.postgres import connections
from stoker.store.postgres.address import Address
from stoker.store.postgres.store import PostgresStore, look
from tests.postgres import PASSWORD, PostgresServer
from tests.store.rows import accepted, settled, spec
from tests.tcp_proxy import CuttingProxy
from tests.waiting import wait_until


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(postgres.port) as found:
        yield found


@pytest.fixture
def store(address: Address, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
    """Open a store behind the proxy, as the only server."""
    monkeypatch.setattr(connections, "AWAY_S", 0.0)
    far = replace(address, parameters={**address.parameters, "port": str(proxy.port)})
    found = PostgresStore.exclusive(far)
    yield found
    found.close()


def test_a_broken_connection_is_made_anew_for_the_next_write(store: PostgresStore, proxy: CuttingProxy) -> None:
    epoch = store.begin_term()
    store.write(epoch, [accepted(1)])
    for seq in range(2, 5):
        proxy.cut()
        written_in_the_end(store, epoch, seq)
    assert [row.call.seq for row in store.pending(after_seq=0, limit=10)] == [1, 2, 3, 4]


def written_in_the_end(store: PostgresStore, epoch: int, seq: int) -> None:
    def tried() -> bool:
        try:
            store.write(epoch, [accepted(seq)])
        except StoreUnavailable:
            return False
        return True

    wait_until(tried, message=f"{seq} is written")


def test_readers_find_a_new_connection_by_themselves(store: PostgresStore, proxy: CuttingProxy) -> None:
    store.write(store.begin_term(), [accepted(1)])
    assert store.pending_count() == 1
    proxy.cut()
    assert store.pending_count() == 1


def test_while_it_is_away_everything_says_so_and_nothing_is_fenced(store: PostgresStore, proxy: CuttingProxy) -> None:
    epoch = store.begin_term()
    proxy.refusing = True
    proxy.cut()
    for attempt in (
        lambda: store.write(epoch, [accepted(1)]),
        lambda: store.prove(epoch),
        lambda: store.pending_count(),
        lambda: store.begin_term(),
    ):
        with pytest.raises(StoreUnavailable, match=r"could be made|cannot be reached") as found:
            attempt()
        assert PASSWORD not in str(found.value)
    proxy.refusing = False
    written_in_the_end(store, epoch, 1)
    assert store.pending_count() == 1


@pytest.mark.chaos
def test_a_commit_whose_answer_was_lost_is_found_to_be_made(store: PostgresStore, proxy: CuttingProxy) -> None:
    epoch = store.begin_term()
    proxy.lose_answer_to = b"COMMIT"
    store.write(epoch, [accepted(1), settled(1)])
    assert proxy.lost == 1
    record = store.call("c-0k3v9.000001")
    assert record is not None
    assert record.settled is not None
    proxy.lose_answer_to = b"COMMIT"
    assert store.deploy(epoch, "digits", [spec()], now=1.0).version == 1
    assert [made.version for made in store.deployments()] == [1]
    assert proxy.lost == 2


@pytest.mark.chaos
def test_a_commit_that_never_arrived_is_found_not_to_be_made_and_never_is(
    store: PostgresStore, proxy: CuttingProxy
) -> None:
    epoch = store.begin_term()
    proxy.hold = b"COMMIT"
    with pytest.raises(StoreUnavailable):
        store.write(epoch, [accepted(1)])
    wait_until(lambda: proxy.held, message="the request is held")
    store.write(epoch, [accepted(1, id="another's")])
    assert b"COMMIT" not in proxy.release(), "its session has been ended"
    assert store.known(["c-0k3v9.000001", "another's"]) == {"another's"}


@pytest.mark.chaos
def test_an_outcome_that_nobody_can_tell_is_safe_to_write_again(
    store: PostgresStore, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OUTCOME_S", 0.5)
    epoch = store.begin_term()
    proxy.lose_answer_to, proxy.refusing = b"COMMIT", True
    with pytest.raises(StoreUnavailable, match="broke within a commit"):
        store.write(epoch, [accepted(1), accepted(2), settled(2, payload=b"first")])
    proxy.refusing = False
    store.write(epoch, [accepted(1), accepted(2), settled(2, payload=b"again")])
    record = store.call("c-0k3v9.000002")
    assert record is not None
    assert record.settled is not None
    assert record.settled.payload == b"first"
    assert store.pending_count() == 1


@pytest.mark.chaos
def test_what_was_written_survives_a_database_that_is_killed_under_load(
    postgres: PostgresServer, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "AWAY_S", 0.05)
    store = PostgresStore.exclusive(address)
    epoch = store.begin_term()
    written: list[int] = []
    failures: list[StoreError] = []

    def write() -> None:
        seq = 1
        while seq < 4000 and not failures:
            try:
                store.write(epoch, [accepted(seq), settled(seq - 1)])
            except StoreUnavailable:
                continue
            except StoreError as error:
                failures.append(error)
                return
            written.append(seq)
            seq += 1

    thread = Thread(target=write)
    thread.start()
    for _ in range(3):
        before = len(written)
        wait_until(lambda before=before: len(written) > before + 100, timeout=30)  # type: ignore[misc]
        postgres.stop(signal.SIGQUIT)
        postgres.start()
    wait_until(lambda: len(written) > 500, timeout=30)
    failures.append(StoreError("enough"))
    thread.join(30)
    assert [str(failure) for failure in failures] == ["enough"]
    assert [row.call.seq for row in store.pending(after_seq=0, limit=10)] == [written[-1]]
    assert store.last_seq() == written[-1] == len(written)
    store.close()


def test_a_second_server_is_refused_and_told_who_has_the_store(address: Address) -> None:
    first = PostgresStore.exclusive(address)
    with pytest.raises(StoreError, match=r"Another server works on .*: server \S+ pid \d+.*since \d{4}-.*--standby"):
        PostgresStore.exclusive(address)
    first.close()
    second = PostgresStore.exclusive(address)
    second.close()


@pytest.mark.chaos
def test_a_standby_waits_and_takes_over_and_the_first_can_write_no_more(
    address: Address, postgres: PostgresServer
) -> None:
    first = PostgresStore.exclusive(address)
    epoch = first.begin_term()
    first.write(epoch, [accepted(1)])
    holders: list[str] = []
    taken: list[PostgresStore] = []
    thread = Thread(target=lambda: taken.append(PostgresStore.exclusive(address, standby=holders.append)))
    thread.start()
    wait_until(lambda: holders, message="the standby waits")
    assert "pid" in holders[0]
    assert not taken
    with postgres.connect() as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE locktype = 'advisory' AND application_name LIKE 'stoker server %'"
        ).fetchall()
    assert ended == [(True,)]
    thread.join(20)
    (second,) = taken
    with pytest.raises(StoreUnavailable, match="has it now"):
        first.write(epoch, [settled(1)])
    assert second.begin_term() == epoch + 1
    with pytest.raises(StoreError):
        first.write(epoch, [settled(1)])
    second.write(epoch + 1, [settled(1, payload=b"the second's")])
    record = second.call("c-0k3v9.000001")
    assert record is not None
    assert record.settled is not None
    assert record.settled.payload == b"the second's"
    first.close()
    second.close()


@pytest.mark.chaos
def test_a_turn_whose_connection_broke_is_taken_again_before_the_next_write(
    store: PostgresStore, postgres: PostgresServer, address: Address
) -> None:
    epoch = store.begin_term()
    with postgres.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'stoker server %'"
        )
        wait_until(
            lambda: (
                not connection.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'stoker server %'"
                ).fetchall()
            )
        )

        def is_taken_again() -> bool:
            written_in_the_end(store, epoch, 1)  # until the broken connection's end has come through the proxy
            query = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'stoker server %'"
            return bool(connection.execute(query).fetchall())

        wait_until(is_taken_again)
    with pytest.raises(StoreError, match="Another server works on"):
        PostgresStore.exclusive(address)


def test_a_term_that_was_overtaken_is_fenced_by_a_proof_alone(address: Address) -> None:
    older, newer = PostgresStore(address), PostgresStore(address)
    epoch = older.begin_term()
    newer.begin_term()
    with pytest.raises(Fenced, match="term 2 has taken it over"):
        older.prove(epoch)
    older.close()
    newer.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "s3cret-wrong"}, "user or the password is wrong"),
        ({"user": "stranger", "password": "s3cret-wrong"}, "user or the password is wrong"),
        ({"dbname": "nowhere"}, '"nowhere" does not exist.*createdb'),
        ({"host": "no-such-host.invalid"}, "No such host is known"),
        ({"port": "1"}, "Start it, or correct the host and the port"),
        ({"sslmode": "require"}, "sslmode"),
        ({"nonsense": "1"}, "invalid connection option"),
        ({"sslmode": "nonsense"}, "sslmode"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_its_password(
    address: Address, change: dict[str, str], said: str
) -> None:
    wrong = replace(address, parameters={**address.parameters, **change})
    for attempt in (look, PostgresStore.exclusive):
        with pytest.raises(StoreError, match=rf"(?s)postgresql://.*{said}") as found:
            attempt(wrong)
        assert PASSWORD not in str(found.value)
        assert "s3cret" not in str(found.value)


def test_a_user_without_rights_is_told_what_to_grant(address: Address, postgres: PostgresServer) -> None:
    user = f"guest_{address.schema}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'guest'".encode())
        guest = replace(address, parameters={**address.parameters, "user": user, "password": "guest"})
        try:
            with pytest.raises(StoreError, match="Grant it CREATE on the database") as found:
                PostgresStore.exclusive(guest)
            assert not isinstance(found.value, (StoreUnavailable, RowsRefused))
            assert connection.execute("SELECT to_regnamespace(%s)", (address.schema,)).fetchone() == (None,)
            owner = PostgresStore(address)
            owner.close()
            with pytest.raises(StoreError, match=r"Grant it|may not read"):
                PostgresStore.exclusive(guest)
        finally:
            connection.execute(f"DROP ROLE {user}".encode())
