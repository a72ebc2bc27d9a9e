"""How a request becomes the arguments of a function, by its signature."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NewType

import numpy as np
import pytest

import stoker
from stoker.client.web import Endpoint
from stoker.web.interface import BadRequest, Interface
from stoker.web.openapi import describe
from stoker.web.scalars import Invalid
from stoker.web.things import Headers, Request


@dataclass
class Point:
    x: float
    y: float = 0.0


class Plain:
    pass


class Code(str):
    __slots__ = ()


Ident = NewType("Ident", int)


def request(
    body: bytes | Any = b"", *, method: str = "POST", query: str = "", kind: str = "application/json"
) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(method, "", query, Headers([("Content-Type", kind)]), data)


def read(function: Any, given: Request) -> dict[str, Any]:
    return Interface(function, [given.method], label="app.f").read(given)


def scalars(x: float, name: str = "a", *, flag: bool = False) -> None: ...
def model(point: Point, scale: int = 1) -> None: ...
def models(a: Point, b: Point) -> None: ...
def many(ids: list[int], tags: list[str] | None = None) -> None: ...
def one_file(file: stoker.File, threshold: float = 0.5) -> None: ...
def files(images: list[bytes], note: str = "") -> None: ...
def array(x: np.ndarray) -> None: ...
def names(ident: Ident, each: Iterable[float], code: Code) -> None: ...
def whole(request: stoker.Request) -> None: ...
def chosen(kind: Literal["a", "b"], ident: str) -> None: ...


def test_fields_of_an_object_are_arguments() -> None:
    assert read(scalars, request({"x": 1, "flag": True})) == {"x": 1.0, "flag": True}


@pytest.mark.parametrize(
    ("function", "body", "said"),
    [
        (scalars, b' {"x": 1}', "looks like JSON. Send it with -H 'content-type: application/json'"),
        (model, b"[1]", "looks like JSON"),
        (
            one_file,
            b"\x89PNG\r\n\xff",
            "no UTF-8, as forms are. Send a file with its own type, as -H 'content-type: image/png'",
        ),
        (scalars, b"x=1&name=\xff", "no UTF-8, as forms are."),
    ],
)
def test_what_curl_calls_a_form_and_is_none_is_told_its_type(function: Any, body: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(function, request(body, kind="application/x-www-form-urlencoded"))
    assert caught.value.status == 415
    assert said in str(caught.value)
    assert "which is what curl says of -d" in str(caught.value)


def test_one_model_alone_is_the_whole_body_and_the_rest_comes_by_the_query() -> None:
    assert read(model, request({"x": 1}, query="scale=3")) == {"point": Point(1.0), "scale": 3}
    assert read(models, request({"a": {"x": 1}, "b": {"x": 2}})) == {"a": Point(1.0), "b": Point(2.0)}


def test_a_get_takes_all_from_the_query() -> None:
    assert read(scalars, request(method="GET", query="x=1e3&name=12&flag=true")) == {
        "x": 1000.0,
        "name": "12",
        "flag": True,
    }
    assert read(many, request(method="GET", query="ids=1&ids=2&tags=3")) == {"ids": [1, 2], "tags": ["3"]}
    assert read(chosen, request(method="GET", query="kind=a&ident=007")) == {"kind": "a", "ident": "007"}


def test_forms_and_files() -> None:
    assert read(scalars, request(b"x=1&name=b+c", kind="application/x-www-form-urlencoded")) == {
        "x": 1.0,
        "name": "b c",
    }
    form = (
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\nContent-Type: image/png\r\n\r\n'
        b"\x00\r\n--X\xff\r\n"
        b'--XX\r\nContent-Disposition: form-data; name="threshold"\r\n\r\n0.25\r\n--XX--\r\n'
    )
    assert read(one_file, request(form, kind="multipart/form-data; boundary=XX")) == {
        "file": stoker.File(b"\x00\r\n--X\xff", "a.bin", "image/png"),
        "threshold": 0.25,
    }
    alone = read(one_file, request(b"\x01\x02", kind="application/octet-stream", query="threshold=1"))
    assert alone == {"file": stoker.File(b"\x01\x02", "", "application/octet-stream"), "threshold": 1.0}
    several = read(files, request(b"\x01", kind="image/png"))
    assert several == {"images": [b"\x01"]}
    unnamed = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n\xff\r\n--XX--\r\n'
    assert read(one_file, request(unnamed, kind="multipart/form-data; boundary=XX"))["file"].content == b"\xff"
    empty = read(one_file, request(b"", kind="application/octet-stream"))
    assert empty["file"] == stoker.File(b"", "", "application/octet-stream")
    assert read(files, request({"images": ["YWI=", ""]})) == {"images": [b"ab", b""]}


def test_arrays_come_as_lists_or_as_a_file_of_numpy() -> None:
    assert read(array, request({"x": [[1, 2]]}))["x"].shape == (1, 2)
    out = io.BytesIO()
    np.save(out, np.arange(6).reshape(2, 3))
    assert read(array, request(out.getvalue(), kind="application/x-npy"))["x"].shape == (2, 3)
    with pytest.raises(Invalid, match=r"a file of numpy\.save"):
        read(array, request(b"\x93NUMPY", kind="application/x-npy"))


def test_the_request_itself_is_handed_on() -> None:
    given = request({"a": 1}, query="b=2")
    assert read(whole, given) == {"request": given} and given.headers["content-TYPE"] == "application/json"


@pytest.mark.parametrize(
    ("function", "given", "path"),
    [
        (scalars, request({}), "$.x"),
        (scalars, request({"x": 1, "y": 2}), "$.y"),
        (scalars, request([1]), "$"),
        (scalars, request(method="GET", query="x=1&x=2"), "$.x"),
        (scalars, request(method="GET", query="x=abc"), "$.x"),
        (model, request(), "$"),
        (model, request({"x": "a"}), "$.x"),
        (many, request(method="GET", query="ids=1&ids=b"), "$.ids[1]"),
        (chosen, request(method="GET", query="kind=c&ident=1"), "$.kind"),
        (one_file, request(b"a", kind="multipart/form-data; boundary=XX"), "$"),
        (one_file, request(b"a", kind="multipart/form-data"), "$"),
        (one_file, request(b"", kind=""), "$.file"),
        (one_file, request(b"", kind="application/x-www-form-urlencoded"), "$.file"),
        (scalars, request({"x": 1}, query="nane=b"), "$.nane"),
        (model, request({"x": 1}, query="Scale_=3"), "$.Scale_"),
        (scalars, request(b"x=1&name=%ff", kind="application/x-www-form-urlencoded"), "$"),
        (
            scalars,
            request(
                b'--XX\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--XX--\r\n',
                kind="multipart/form-data; boundary=XX",
            ),
            "$.name",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_path(function: Any, given: Request, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(function, given)
    assert caught.value.path == path


def test_what_else_is_wrong_is_counted() -> None:
    with pytest.raises(Invalid, match=r"^\$\.x: .*not the text \"a\" \(and 2 more\)$"):
        read(scalars, request({"x": "a", "name": 1, "flag": 2}))
    with pytest.raises(Invalid, match=r"^\$\.x: this argument is missing$"):
        read(scalars, request(method="GET", query="name=b&nam=c"))


def test_what_others_add_to_an_address_is_passed_over() -> None:
    added = "utm_name=mail&_=1754000000&v=2&fbclid=a&name=b"
    assert read(scalars, request({"x": 1}, query=added)) == {"x": 1.0, "name": "b"}
    for path in ("", "/"):
        assert Interface(scalars, ["POST"], label="f").read(Request("POST", path, "", Headers([]), b'{"x": 1}'))
    given = Request("GET", "/a/b", "reqest=1", Headers([]))
    assert read(whole, given) == {"request": given}  # which may read the rest of the path, and the query, itself


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (model, "the body is empty, and is to be a Point, as JSON"),
        (scalars, "this argument is missing: the body is empty"),
    ],
)
def test_an_empty_body_is_called_so(function: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read(function, request(b""))


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (request(b'{"x": '), 400),
        (request(b'{"x": NaN}'), 400),
        (request(b"\xff"), 400),
        (request(b"[" * 100_000), 400),
        (request(b'{"x": ' + b"9" * 5000 + b"}"), 400),
        (request(b"x", kind="text/plain"), 415),
        (Request("POST", "/extra", "", Headers([]), b'{"x": 1}'), 404),
        (request(method="GET", query="x=%ff"), 400),
        (request(method="GET", query="&".join(f"a{i}=1" for i in range(2000))), 400),
    ],
)
def test_what_cannot_be_read_has_its_status(given: Request, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        read(scalars, given)
    assert caught.value.status == status


def test_what_no_request_could_give_is_refused_where_it_is_written() -> None:
    def any_names(**names: int) -> None: ...
    def by_place(x: int, /) -> None: ...

    for function in (any_names, by_place):
        with pytest.raises(stoker.InvalidOption, match="has no name"):
            Interface(function, ["POST"], label="app.f")

    def maybe(file: stoker.File | None) -> None: ...

    takes_file: tuple[Any, ...] = (one_file, maybe)
    for function in takes_file:
        with pytest.raises(stoker.InvalidOption, match="a GET has no body"):
            Interface(function, ["GET"], label="app.f", runs_elsewhere=True)


def test_what_no_request_could_be_read_as_is_refused_where_it_is_written() -> None:
    def plain(x: Plain) -> None: ...
    def mixed(file: stoker.File | str) -> None: ...

    for function, said in (
        (plain, "names Plain, and nothing that a request brings"),
        (mixed, r"names File among others, .* File \| None or list\[File\]"),
    ):
        with pytest.raises(stoker.InvalidOption, match=said):
            Interface(function, ["POST"], label="app.f", runs_elsewhere=True)


def test_a_file_and_the_request_may_be_optional() -> None:
    def maybe(file: stoker.File | None = None, note: str = "") -> None: ...
    def asked(x: int, request: stoker.Request | None = None) -> None: ...

    assert read(maybe, request({"note": "a"})) == {"note": "a"}
    assert read(maybe, request({"file": None})) == {"file": None}
    assert read(maybe, request({"file": "YWI="}))["file"].content == b"ab"
    assert read(maybe, request(b"ab", kind="image/png"))["file"].content == b"ab"
    assert read(maybe, request(b"")) == {}
    given = request({"x": 1})
    assert read(asked, given) == {"x": 1, "request": given}


def test_a_batch_is_annotated_as_lists_of_what_requests_give() -> None:
    def item(x: int) -> None: ...
    def array(x: np.ndarray) -> None: ...
    def lists(a: list[int], b: list, c: Any, d, e: Sequence[float]) -> None: ...  # type: ignore[no-untyped-def, type-arg]

    for function in (item, array):
        with pytest.raises(stoker.InvalidOption, match=r"'x' is annotated as .*Write list\["):
            Interface(function, ["POST"], label="app.f", is_batched=True, runs_elsewhere=True)
    found = Interface(lists, ["POST"], label="app.f", is_batched=True).inputs
    assert [one.annotation for one in found] == [int, Any, Any, Any, float]


def test_a_batch_may_be_whatever_a_list_is_one_of() -> None:
    def each(a: Iterable[int], b: Collection[str], c: tuple[int, ...], d: list[float] | np.ndarray) -> None: ...

    class Model:
        def each(self: Model, xs: list[int]) -> None: ...  # whose name means nothing to who reads it

    found = Interface(each, ["POST"], label="app.f", is_batched=True, runs_elsewhere=True).inputs
    assert [one.annotation for one in found] == [int, str, int, float]
    found = Interface(Model.each, ["POST"], label="m", is_method=True, is_batched=True, runs_elsewhere=True).inputs
    assert [(one.name, one.annotation) for one in found] == [("xs", int)]


def test_what_is_refused_says_where_it_is_written() -> None:
    def all_of_them(*args: int) -> None: ...

    class Model:
        def forgot(x: int) -> None: ...  # type: ignore[misc]
        def nothing() -> None: ...  # type: ignore[misc]
        def well(self, x: int) -> None: ...

    made = Endpoint("POST", requires_token=True)
    with pytest.raises(
        stoker.InvalidOption, match=r"\*args: .*int.* has no name.* It is written at .*/test_interface\.py:\d+"
    ):
        made.to_spec(all_of_them, label="app.f", streams=False)
    for function, said in ((Model.forgot, r"'x', .*write def forgot\(self, x\)"), (Model.nothing, r"nothing\(self\)")):
        with pytest.raises(stoker.InvalidOption, match=said):
            made.to_spec(function, label="app.Model.f", streams=False, is_method=True)
    assert made.to_spec(Model.well, label="app.Model.f", streams=False, is_method=True).methods == ["POST"]


def test_its_page_says_what_it_takes() -> None:
    told = json.loads(describe(model, Interface(model, ["POST"], label="app.f"), method="POST", streams=False))
    operation = told["operation"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Point"}
    assert told["schemas"]["Point"]["required"] == ["x"]
    (scale,) = operation["parameters"]
    assert scale == {"name": "scale", "in": "query", "required": False, "schema": {"type": "integer", "default": 1}}
    form = json.loads(describe(one_file, Interface(one_file, ["POST"], label="f"), method="POST", streams=True))
    assert {"multipart/form-data", "application/octet-stream"} == form["operation"]["requestBody"]["content"].keys()
    event = form["operation"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert event["properties"]["data"]["contentMediaType"] == "application/json"
    named = json.loads(describe(names, Interface(names, ["POST"], label="f"), method="POST", streams=False))
    properties = named["operation"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert properties == {
        "ident": {"type": "integer"},
        "each": {"type": "array", "items": {"type": "number"}},
        "code": {"type": "string"},
    }
    many_files = json.loads(describe(files, Interface(files, ["POST"], label="f"), method="POST", streams=False))
    schema = many_files["operation"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["properties"]["images"]["minItems"] == 1
