from __future__ import annotations

import threading

import stoker
from tests.client.conftest import until
from tests.client.fake_server import FakeServer, Gate
from tests.client.test_remote import serve


def test_every_way_to_call_sends_the_deadline_of_its_options(server: FakeServer, app: stoker.App) -> None:
    @app.function(deadline="1m")
    def double(x: int) -> int:
        return 2 * x

    serve(server, app)
    with app.run():
        hurried = double.with_options(deadline=30)
        assert hurried.remote(1) == 2
        assert list(hurried.map([1, 2])) == [2, 4]
        assert hurried.spawn(3).result(10) == 6
        assert [call.result(10) for call in hurried.spawn_map([4])] == [8]
        assert {submit.deadline for submit in server.submits} == {30.0}
        server.submits.clear()
        assert double.remote(1) == 2
        assert double.with_options(deadline=None).remote(1) == 2
        assert stoker.Function.from_name("test", "double").with_options(deadline=5).remote(1) == 2
        assert [submit.deadline for submit in server.submits] == [60.0, None, 5.0]


def test_what_is_sent_again_gets_the_time_that_is_left(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function(deadline=30)
    def wait(x: int) -> int:
        gate.wait(10)
        return x

    serve(server, app)
    with app.run():
        found: list[int] = []
        threads = [threading.Thread(target=lambda n=n: found.append(wait.remote(n))) for n in range(2)]
        for n, thread in enumerate(threads):
            thread.start()
            until(lambda n=n: len(server.ran) == n + 1)  # type: ignore[misc]
        server.submits.clear()
        server.restart(forget=True)
        until(lambda: len(server.ran) == 4)
        gate.set()
        for thread in threads:
            thread.join(10)
    again = [submit.deadline for submit in server.submits]
    assert len(again) == 2  # each has a time of its own
    assert all(left is not None and 0 < left < 30 for left in again)
    assert sorted(found) == [0, 1]
