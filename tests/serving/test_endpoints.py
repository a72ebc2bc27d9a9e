"""Endpoints as who calls them sees them: real servers, real requests."""

from __future__ import annotations

import json
import re
import socket
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.running import Serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


def error_of(answer: httpx.Response) -> dict[str, str]:
    found: dict[str, str] = answer.json()["error"]
    return found


def test_typed_json_in_and_out(served: Serving) -> None:
    with served.client() as client:
        answer = client.post("/shop/move?by=2", json={"x": 1})
        assert (answer.status_code, answer.json()) == (200, {"x": 3.0, "y": 0.0})
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-stoker-call-id"] in served.stoker("calls", "list")


def test_what_is_wrong_with_a_request_is_told(served: Serving) -> None:
    with served.client() as client:
        wrong = client.post("/shop/move", json={"x": "far"})
        assert wrong.status_code == 422 and error_of(wrong)["path"] == "$.x" and error_of(wrong)["call_id"]
        assert client.post("/shop/move", content=b"{", headers={"content-type": "application/json"}).status_code == 400
        assert client.post("/shop/move", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
        assert client.get("/shop/move").status_code == 405
        assert client.get("/shop/move").headers["allow"] == "POST"
        assert client.get("/shop/nothing").status_code == 404
        assert "stoker.endpoint" in error_of(client.get("/shop/hidden"))["message"]
        assert client.get("/nobody/nothing").status_code == 404
        misspelt = client.post("/shop/move?bye=2", json={"x": 1})
        assert misspelt.status_code == 422 and "Did you mean 'by'?" in error_of(misspelt)["message"]
        assert client.post("/shop/move?utm_by=2", json={"x": 1}).json()["x"] == 2.0
        below = client.post("/shop/move/extra", json={"x": 1})
        assert (below.status_code, error_of(below)["type"]) == (404, "NotFound")
        long = client.get(f"/shop/double?x={'1' * 60_000}")
        assert (long.status_code, error_of(long)["type"]) == (414, "BadRequest")
        large = client.post("/shop/move", content=b'{"x": 1e999}', headers={"content-type": "application/json"})
        assert large.status_code == 422 and "too large" in error_of(large)["message"]
        for path in (
            "/",
            "//",
            "/shop",
            "/shop/",
            "/../etc/passwd",
            "/shop/%2e%2e/move",
            "/%00/x",
            "/shop/" + "a" * 9000,
        ):
            assert client.get(path).status_code == 404, path


def test_the_list_of_calls_says_what_was_asked_and_how_it_was_answered(served: Serving) -> None:
    asked = [
        ("POST", "/shop/move?by=2", {"x": 1}, 200),
        ("POST", "/shop/move", {"x": "one"}, 422),
        ("POST", "/shop/fail", {"what": "it"}, 500),
        ("GET", "/shop/count?to=2", None, 200),
        ("GET", f"/shop/big?size={2 << 20}", None, 200),
    ]
    told: list[tuple[str, tuple[str, str, int], str]] = []
    with served.client() as client:
        for method, path, body, status in asked:
            answer = client.request(method, path, json=body)
            assert answer.status_code == status
            call_id = answer.headers["x-stoker-call-id"]
            told.append((call_id, (method, path.partition("?")[0], status), "failed" if status == 500 else "succeeded"))
    listed = {row["id"]: row for row in json.loads(served.stoker("calls", "list", "--json"))}
    for call_id, (method, path, status), state in told:
        reason = "ValidationError: $.x: expected a number" if status == 422 else ""
        assert listed[call_id]["http"] == {"method": method, "path": path, "status": status, "reason": reason}
        assert listed[call_id]["state"] == state
    refused = told[1][0]
    assert "succeeded, 422" in served.stoker("calls", "list", "--app", "shop")
    shown = served.stoker("calls", "show", refused)
    assert re.search(r"http +422 POST /shop/move *\n", shown)
    assert re.search(r"error +ValidationError: \$\.x: expected a number *\n", shown)


def test_a_request_is_found_by_its_own_id(served: Serving) -> None:
    with served.client() as client:
        made = client.post("/shop/move", json={"x": 1})
        own = client.post("/shop/fail", json={"what": "it"}, headers={"x-request-id": "order/7"})
        later = client.post("/shop/move", json={"x": 1}, headers={"prefer": "respond-async"})
    assert own.headers["x-request-id"] == "order/7"
    for answer in (made, own, later):
        shown = json.loads(served.stoker("calls", "show", answer.headers["x-request-id"], "--json"))
        assert (shown["id"], shown["request_id"]) == (
            answer.headers["x-stoker-call-id"],
            answer.headers["x-request-id"],
        )
    assert re.search(r"request +order/7\n", served.stoker("calls", "show", "order/7"))
    assert "KeyError: 'it'" in served.stoker("logs", "--call", "order/7")
    with pytest.raises(AssertionError, match="There is no call order/8"):
        served.stoker("calls", "show", "order/8")


def test_an_annotation_that_means_nothing_is_no_argument_that_takes_anything(served: Serving) -> None:
    source = """
    from __future__ import annotations
    import contextlib
    import stoker
    if IMPORT:
        from no_such_package import Picture

    app = stoker.App("pictures")

    @app.function()
    @stoker.endpoint(requires_token=False)
    def show(picture: Picture) -> int:
        return 1
    """
    source = textwrap.dedent(source)
    with pytest.raises(AssertionError, match="the annotation of 'picture' is 'Picture', which means nothing"):
        served.deploy(source.replace("IMPORT", "__import__('typing').TYPE_CHECKING"), "pictures")
    served.deploy(source.replace("if IMPORT", "with contextlib.suppress(ImportError)"), "pictures")
    answer = httpx.post(f"{served.url}/pictures/show", json={"picture": 1}, timeout=60)
    assert answer.status_code == 503
    assert error_of(answer)["type"] == "StartupError" and "'picture' is 'Picture'" in error_of(answer)["message"]


def test_a_token_is_asked_for_unless_the_endpoint_says_otherwise(served: Serving) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        refused = client.post("/shop/move", json={"x": 1})
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert error_of(refused)["type"] == "PermissionDenied"
        for wrong in ("Bearer stoker-00000000-wrong", "Basic YTpi", "Bearer", "Bearer \xff"):
            given = [(b"authorization", wrong.encode("latin-1"))]
            assert client.post("/shop/move", json={"x": 1}, headers=given).status_code == 401
            assert client.get("/shop/double?x=1", headers=given).json() == 2.0, "it asks for none"
        bare = client.post("/shop/move", json={"x": 1}, headers={"authorization": "stoker-00000000-wrong"})
        assert bare.status_code == 401 and "none after the word Bearer" in error_of(bare)["message"]
        assert client.get("/shop/double?x=1").json() == 2.0


def test_what_the_function_raises_is_told_by_name_alone(served: Serving) -> None:
    with served.client() as client:
        answer = client.post("/shop/fail", json={"what": "abc"})
        assert answer.status_code == 500
        error = error_of(answer)
        assert (error["type"], error["message"]) == ("KeyError", "'abc'") and "Traceback" not in answer.text
        assert error["call_id"] == answer.headers["x-stoker-call-id"]
    kept = served.stoker("logs", "--call", error["call_id"])  # for who keeps the function: the frames of its own
    assert "raise KeyError(what)" in kept and kept.count("File ") == 1 and "stderr" in kept


def test_responses_of_ones_own_and_the_request_itself(served: Serving) -> None:
    with served.client() as client:
        answer = client.post("/shop/custom/a/b?c=d", content=b"123", headers={"X-Asked": "me"})
        assert (answer.status_code, answer.text) == (201, "POST /a/b c=d me 3")
        assert answer.headers["x-answered"] == "yes" and answer.headers["content-type"].startswith("text/plain")


def test_files_come_in_and_big_answers_go_out(served: Serving) -> None:
    with served.client() as client:
        content = bytes(5_000_000)
        answer = client.post("/shop/length", files={"file": ("a.bin", content)})
        assert answer.json() == {"bytes": len(content), "name": "a.bin"}
        raw = client.post("/shop/length", content=content, headers={"content-type": "application/octet-stream"})
        assert raw.json()["bytes"] == len(content)
        chunked = client.post(
            "/shop/length", content=iter([b"abc", b"def"]), headers={"content-type": "application/octet-stream"}
        )
        assert chunked.json()["bytes"] == 6
        out = client.get("/shop/big?size=7000000")
        assert len(out.content) == 7_000_000 and out.headers["content-type"] == "application/octet-stream"


def test_generators_stream_as_events_or_as_lines(served: Serving) -> None:
    with served.client() as client:
        events = client.get("/shop/count?to=3")
        assert events.headers["content-type"] == "text/event-stream"
        call = events.headers["x-stoker-call-id"]
        assert events.text.split("\n\n") == [
            f'id: {call}:0\ndata: {{"i":0}}',
            f'id: {call}:1\ndata: {{"i":1}}',
            f'id: {call}:2\ndata: {{"i":2}}',
            "event: done\ndata: null",
            "",
        ]
        lines = client.get("/shop/count_async?to=200", headers={"accept": "application/x-ndjson"})
        assert list(map(json.loads, lines.text.splitlines())) == list(range(200))
        assert client.get("/shop/count?to=0").text == "event: done\ndata: null\n\n"
        assert client.get("/shop/count?to=a").status_code == 422


def test_a_stream_that_fails_says_so_at_its_end(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/shop/count?to=3&fail_at=1")
        assert answer.status_code == 200
        last = answer.text.split("\n\n")[-2]
        assert last.startswith("event: error\ndata: ") and json.loads(last.partition("data: ")[2])["error"]["message"]
        at_once = client.get("/shop/count?to=3&fail_at=0")
        assert at_once.status_code == 500 and error_of(at_once)["type"] == "ValueError"


def test_items_come_as_they_are_yielded(served: Serving) -> None:
    with served.client() as client, client.stream("GET", "/shop/count?to=1000&pause=0.5") as answer:
        lines = answer.iter_lines()
        assert next(lines) == f"id: {answer.headers['x-stoker-call-id']}:0" and next(lines) == 'data: {"i":0}'


def test_cors_for_those_that_are_named(served: Serving) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        asked = {"origin": "https://example.org", "access-control-request-method": "GET"}
        allowed = client.options("/shop/double", headers=asked)
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        answer = client.get("/shop/double?x=1", headers={"origin": "https://example.org"})
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert answer.headers["x-kind"] == "public"
        for path in ("/shop/double?x=1", "/shop/slowly?seconds=0"):
            assert client.get(path, headers={"origin": "https://evil.example"}).status_code == 403


def test_another_host_is_not_this_server(served: Serving) -> None:
    """A page of somebody's whose name leads here (DNS rebinding) reads nothing."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert client.get("/shop/double?x=1", headers={"host": "evil.example"}).status_code == 421
        assert client.get("/shop/double?x=1", headers={"host": "localhost:80"}).status_code == 200


def test_deadlines_come_from_the_client(served: Serving) -> None:
    with served.client() as client:
        assert client.get("/shop/slowly?seconds=0", headers={"x-stoker-deadline": "30"}).status_code == 200
        late = client.get("/shop/slowly?seconds=20", headers={"x-stoker-deadline": "300ms"})
        assert late.status_code in {503, 504}
        for wrong in ("soon", "-1", "nan", "inf"):
            assert client.get("/shop/slowly?seconds=0", headers={"x-stoker-deadline": wrong}).status_code == 400


def test_past_its_bound_a_queue_refuses_at_once(served: Serving, tmp_path: Path) -> None:
    def ask() -> httpx.Response:
        with served.client() as mine:
            return mine.get("/shop/narrow", params={"until": str(tmp_path / "go")})

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask)]
        wait_until((tmp_path / "go.awaited").exists, timeout=60, message="one runs")
        asked += [pool.submit(ask) for _ in range(7)]
        wait_until(lambda: sum(one.done() for one in asked) == 5, timeout=60, message="two wait, the others are told")
        (tmp_path / "go").touch()
        answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [*3 * [200], *5 * [503]]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert int(refused.headers["retry-after"]) >= 1 and error_of(refused)["type"] == "Overloaded"
    assert error_of(refused)["call_id"] is None and "x-stoker-call-id" not in refused.headers
    with pytest.raises(AssertionError, match="stoker_calls_refused_total"):
        served.stoker("calls", "list", "--state", "refused")


def test_a_worker_that_dies_under_a_request_is_replaced(served: Serving, tmp_path: Path) -> None:
    with served.client() as client:
        answer = client.get("/shop/dies_once", params={"marker": str(tmp_path / "died")})
        assert (answer.status_code, answer.json()) == (200, "answered by another worker")


def test_who_hangs_up_cancels_the_call(served: Serving, tmp_path: Path) -> None:
    marker = tmp_path / "cleaned"
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.sendall(f"GET /shop/hangs?marker={marker} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(Path(f"{marker}.began").exists, timeout=30, message="it runs")
        running = json.loads(served.stoker("server", "status", "--json"))["calls"]
        assert 1 <= running["running_http"] <= running["running"]
    wait_until(marker.exists, message="the function was interrupted, and has cleaned up")


def test_the_pages_of_an_app(served: Serving) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        page = client.get("/shop/docs")
        assert page.status_code == 200 and "shop" in page.text and "default-src 'none'" in str(page.headers)
        document = client.get("/shop/openapi.json").json()
        assert document["openapi"] == "3.1.0" and "hidden" not in str(document["paths"])
        assert document["paths"]["/shop/move"]["post"]["security"] == [{"token": []}]
        assert client.get("/nobody/docs").status_code == 404
        assert client.get("/healthz").json() == {"status": "ok"}


def test_deploy_prints_the_addresses(served: Serving) -> None:
    said = served.deploy((served.root / "endpoints.py").read_text(), "endpoints")
    assert f"{served.url}/shop/move" in said and f"{served.url}/shop/docs" in said
    assert served.url in served.stoker("server", "status")


def test_metrics_are_for_who_has_a_token(served: Serving) -> None:
    refused = httpx.get(f"{served.url}/metrics", timeout=60)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    with served.client() as client:
        assert "stoker_http_requests_total" in client.get("/metrics").text
    limited = json.loads(served.stoker("tokens", "create", "of one app", "--app", "shop", "--json"))["token"]
    refused = httpx.get(f"{served.url}/metrics", headers={"authorization": f"Bearer {limited}"}, timeout=60)
    assert (refused.status_code, error_of(refused)["type"]) == (403, "PermissionDenied")
