"""What an endpoint takes and gives, by its function's signature: how a request becomes its arguments.

GET, HEAD and DELETE take all from the query. The others take JSON: an object with a field for each parameter, or,
where one parameter alone is a model (a dataclass, a model of pydantic or msgspec, a TypedDict), the model itself, and
the rest from the query. Files come as parts of a form, or one alone as the whole body. A `Request` is handed on as it
is.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from difflib import get_close_matches
from functools import cached_property
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl

from stoker.errors import InvalidOption
from stoker.protocol.encoded import Buffer
from stoker.web.annotations import Unreadable, Unresolved, hints_of
from stoker.web.conversion import (
    LISTED,
    UNIONS,
    converter,
    from_text,
    is_array,
    is_of_ours,
    is_pydantic,
    is_struct,
    meant,
    refused,
    taken,
    unreadable_are,
)
from stoker.web.multipart import PARTS_MAX, fields_of_form, fields_of_multipart, media_type_of
from stoker.web.scalars import Convert, Invalid
from stoker.web.things import File, Request

BODILESS = frozenset({"GET", "HEAD", "DELETE"})
NEAR = 0.75  # how alike a name is that is taken for a misspelt one: "nane" for "name", "bye" for "by"
_VISITORS = "utm_"  # how what those add begins who count visitors: utm_source is no misspelt source
_NO_PATH = ("", "/")
REQUIRED = inspect.Parameter.empty


class BadRequest(Exception):
    """A request that cannot be read at all; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def kind(self) -> str:
        return "NotFound" if self.status == 404 else "BadRequest"


@dataclasses.dataclass(frozen=True)
class Input:
    """One parameter. ``source``: ``query`` · ``field`` · ``body`` (all of it) · ``file`` · ``request``."""

    name: str
    annotation: Any
    default: Any
    source: str
    convert: Convert

    @cached_property
    def path(self) -> str:
        """Where it stands in a request, for people."""
        return "$" if self.source == "body" else f"$.{self.name}"

    @cached_property
    def is_required(self) -> bool:
        return self.default is REQUIRED

    @property
    def is_many(self) -> bool:
        """Tell whether several values of one name in a query or a form are meant."""
        return _is_many(self.annotation)


class Interface:
    """See the module.

    Raises:
        InvalidOption: the function takes what no request could give, or an annotation means nothing; the message names
            the parameter.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        methods: Sequence[str],
        *,
        label: str,
        is_method: bool = False,
        is_batched: bool = False,
        runs_elsewhere: bool = False,
    ) -> None:
        """``is_batched``: its parameters are lists, of which each request gives one item. ``runs_elsewhere``: an
        annotation that means nothing here may do so where the function runs, which has packages that this has not."""
        self.label = label
        self._runs_elsewhere = runs_elsewhere
        self.has_body = any(method not in BODILESS for method in methods)
        signature = inspect.signature(function)
        hints, missed = hints_of(inspect.unwrap(function))
        parameters = list(signature.parameters.values())[1 if is_method else 0 :]
        names = {one.name for one in parameters}
        for one in missed:
            if one.name in names:
                self._without_meaning(one, one.name)
        hints = {name: meant(hint) for name, hint in hints.items() if name in names or name == "return"}
        if is_batched:
            self._check_lists(names, hints)
            hints = {name: meant(_item_of(hint)) for name, hint in hints.items()}
        self.returns = hints.get("return", Any)
        self.inputs = self._inputs(parameters, hints)
        self.by_name = {one.name: one for one in self.inputs}
        sources = {one.source for one in self.inputs}
        # Those that come as they are: one alone may be the whole body.
        arrays = [one for one in self.inputs if one.source == "field" and is_array(one.annotation)]
        self._files = [one for one in self.inputs if one.source == "file" or one in arrays]
        self._whole = next((one for one in self.inputs if one.source == "body"), None)
        self.is_of_ours = all(is_of_ours(one.annotation) for one in self.inputs)  # reading runs no code of the user's
        self._takes_request = "request" in sources
        self._reads_body = self.has_body and ("request" not in sources or bool(sources & {"field", "file", "body"}))

    def _inputs(self, parameters: list[inspect.Parameter], hints: Mapping[str, Any]) -> list[Input]:
        for parameter in parameters:
            if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
                raise InvalidOption(
                    f"{self.label} is an endpoint, and a request names each of its arguments: {parameter} has no name "
                    "that one could give. Write it as an ordinary parameter."
                )
        annotations = {p.name: self._alone(hints.get(p.name, Any)) for p in parameters}
        models = [name for name, annotation in annotations.items() if is_model(annotation)]
        plain = [name for name, annotation in annotations.items() if is_plain(annotation)]
        files = [name for name, annotation in annotations.items() if is_file(annotation)]
        others = len(annotations) - len(models) - len(plain) - len(files)
        others -= sum(1 for annotation in annotations.values() if annotation is Request)
        whole = models[0] if len(models) == 1 and not others and not files and self.has_body else ""
        made = []
        for parameter in parameters:
            annotation = annotations[parameter.name]
            source = self._source(annotation, is_whole=parameter.name == whole, has_whole=bool(whole or files))
            one = self._input(parameter, annotation, source)
            if source == "file" and annotation is not hints[parameter.name]:  # which may be null
                one = dataclasses.replace(one, convert=_or_null(one.convert))
            made.append(one)
        return made

    def _alone(self, annotation: Any) -> Any:
        """Return what stands beside ``None`` where that is a `Request` or a file, which are found in a request by their
        types; any other annotation as it is."""
        args = [one for one in get_args(annotation) if one is not type(None)]
        if get_origin(annotation) not in UNIONS or len(args) != 1:
            return annotation
        alone = meant(args[0])
        return alone if alone is Request or (self.has_body and (alone is File or is_image(alone))) else annotation

    def _input(self, parameter: inspect.Parameter, annotation: Any, source: str) -> Input:
        if source == "request":
            return Input(parameter.name, annotation, parameter.default, source, converter(Any))
        # A request need not give what has a default. A worker starts with whatever was deployed, maybe by an earlier
        # version, which took more than this one does.
        otherwise = refused if parameter.default is not REQUIRED else None if self._runs_elsewhere else taken
        try:
            with unreadable_are(otherwise):
                convert = _file_converter(annotation) if source == "file" else converter(annotation)
        except Unresolved as error:
            self._without_meaning(error, parameter.name)
            annotation, convert = Any, converter(Any)
        except Unreadable as error:
            self._unreadable(error, parameter.name, annotation)
            annotation, convert = Any, converter(Any)
        return Input(parameter.name, annotation, parameter.default, source, convert)

    def _without_meaning(self, missed: Unresolved, name: str) -> None:
        """Refuse a parameter that could be given anything, unless it may mean something where the function runs."""
        if self._runs_elsewhere and not missed.is_final:
            return
        what = f"{missed.owner.__name__}.{missed.name} (of {name!r})" if isinstance(missed.owner, type) else repr(name)
        raise InvalidOption(
            f"{self.label}: the annotation of {what} is {missed.annotation!r}, which means nothing "
            f"when its module runs: {missed}. What requests bring is read by it. Import what it names at the module's "
            "top, not under TYPE_CHECKING alone; to take a file without its package write stoker.File, any JSON "
            "typing.Any."
        )

    def _unreadable(self, error: Unreadable, name: str, annotation: Any) -> None:
        """Refuse a parameter of a type that nothing a request brings is of, unless it may be another one elsewhere."""
        if not error.is_final:
            return
        of = "" if error.annotation is annotation else f" ({inspect.formatannotation(annotation)})"
        what = f"the annotation of {name!r}{of} names {error}"
        if error.annotation is File or is_image(error.annotation):
            self._check_body()
            raise InvalidOption(
                f"{self.label}: {what} among others, and a file comes as one: annotate {name!r} as {error}, "
                f"{error} | None or list[{error}], with a default if it may be left out."
            )
        raise InvalidOption(
            f"{self.label}: {what}, and nothing that a request brings can be read as that. Make it a dataclass, a "
            "TypedDict, or a model of pydantic or msgspec; give it a default, if no request is to bring it; take a "
            "file as stoker.File, alone or in a list; or any JSON as typing.Any."
        )

    def _check_lists(self, names: Set[str], hints: Mapping[str, Any]) -> None:
        """Refuse a batch's parameter that is said to be no list: each request gives one item, of what is said in it."""
        for name, hint in hints.items():
            if self._runs_elsewhere and name in names and not _may_be_list(hint):
                shown = inspect.formatannotation(hint)
                raise InvalidOption(
                    f"{self.label} takes batches, and {name!r} is annotated as {shown}: it is given a list, of one "
                    f"item from each request. Write list[{shown}]."
                )

    def _check_body(self) -> None:
        """Refuse a parameter that is a file, where requests bring none."""
        if not self.has_body:
            raise InvalidOption(f"{self.label}: a GET has no body, so it brings no file. Use method='POST'.")

    def _source(self, annotation: Any, *, is_whole: bool, has_whole: bool) -> str:
        if annotation is Request:
            return "request"
        if is_file(annotation):
            self._check_body()
            return "file"
        if is_whole:
            return "body"
        return "query" if not self.has_body or (has_whole and is_plain(annotation)) else "field"

    # Requests

    def read(self, request: Request) -> dict[str, Any]:
        """Return the arguments that a request gives.

        Raises:
            Invalid: some of them are missing, or not what the annotations say.
            BadRequest: its body cannot be read.
        """
        query = _query(request.query) if request.query else _NO_QUERY
        if not self._takes_request and request.path not in _NO_PATH:
            raise BadRequest(404, f"{self.label} has nothing at {request.path!r:.80}: its path ends before that.")
        fields = self._fields(request) if self._reads_body else {}
        found: dict[str, Any] = {}
        errors: list[Invalid] = []
        for one in self.inputs:
            try:
                if one.source == "request":
                    found[one.name] = request
                elif one.name in fields:
                    value = fields[one.name]
                    found[one.name] = _of_texts(one, value) if type(value) is _Texts else one.convert(value, one.path)
                elif one.name in query and one.source != "body":
                    found[one.name] = _of_texts(one, query[one.name])
                elif one.is_required:
                    errors.append(Invalid(one.path, self._missing(one, request)))
            except Invalid as error:
                errors.append(error)
        if query and not self._takes_request:
            self._check_query(query, fields)
        if errors:
            raise Invalid.all_of(errors)
        if not fields.keys() <= self.by_name.keys():
            unknown = [name for name in fields if name not in self.by_name]
            known = ", ".join(one.name for one in self.inputs if one.source != "request")
            raise Invalid(f"$.{unknown[0]}", f"there is no argument {unknown[0]!r}; there are: {known or 'none'}")
        return found

    def _check_query(self, query: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Refuse a name in the query that is nearly that of an argument which the request does not give.

        Others are passed over: they are what caches, proxies and those who count visitors add to an address.
        """
        if query.keys() <= self.by_name.keys():
            return
        given = query.keys() | fields.keys()
        left = [one.name for one in self.inputs if one.name not in given and one.source not in {"request", "body"}]
        for name in query:
            near = get_close_matches(name.lower(), [one.lower() for one in left], n=1, cutoff=NEAR)
            if name not in self.by_name and near and not name.startswith(_VISITORS):
                meant = next(one for one in left if one.lower() == near[0])
                raise Invalid(f"$.{name}", f"there is no argument {name!r:.80}. Did you mean {meant!r}?")

    def _missing(self, one: Input, request: Request) -> str:
        if request.size or not self.has_body or one.source == "query":
            return "this argument is missing"
        if one.source == "body":
            shown = getattr(one.annotation, "__name__", str(one.annotation))
            return f"the body is empty, and is to be a {shown}, as JSON"
        return "this argument is missing: the body is empty"

    def _fields(self, request: Request) -> dict[str, Any]:
        """Return what the body brings, by the names of parameters."""
        kind, parameters = media_type_of(request.content_type)
        if kind == "multipart/form-data":
            form = fields_of_multipart(request.view, parameters.get("boundary", ""))
            return {name: self._of_form(name, values) for name, values in form.items()}
        if kind == "application/x-www-form-urlencoded" and request.size:
            form = fields_of_form(self._text_of_form(request.body))
            return {name: self._of_form(name, values) for name, values in form.items()}
        files = self._files
        if not request.size and not (len(files) == 1 and is_file_type(kind)):
            return {}
        if kind not in {"", "application/json"} and not kind.endswith("+json"):
            if len(files) == 1:
                file = File(request.view, media_type=kind)
                if is_array(files[0].annotation):
                    return {files[0].name: _loaded(file)}
                return {files[0].name: [file] if files[0].is_many else file}
            raise BadRequest(415, f"{self.label} takes JSON, and what came is {kind}. Send it as application/json.")
        value = _json(request.view)
        if self._whole is not None:
            return {self._whole.name: value}
        if not isinstance(value, dict):
            names = ", ".join(one.name for one in self.inputs)
            raise Invalid("$", f"expected an object with the arguments by name: {names}")
        return value

    def _text_of_form(self, body: bytes) -> str:
        """Return a form's text.

        Raises:
            BadRequest: it is JSON, or a file, of a client that calls all it sends a form, as curl does.
        """
        came = "the body came as application/x-www-form-urlencoded, which is what curl says of -d and --data-binary"
        if body[:64].lstrip()[:1] in {b"{", b"["}:
            raise BadRequest(
                415, f"{self.label}: {came}, and looks like JSON. Send it with -H 'content-type: application/json'."
            )
        try:
            return str(body, "utf-8")
        except UnicodeDecodeError:
            wanted = "Send a file with its own type, as -H 'content-type: image/png'." if self._files else ""
            raise BadRequest(415, f"{self.label}: {came}, and is no UTF-8, as forms are. {wanted}".rstrip()) from None

    def _of_form(self, name: str, values: list[str | File]) -> Any:
        one = self.by_name.get(name)
        if one is not None and one.source == "file":
            if _is_many(one.annotation):
                return [value if isinstance(value, File) else File(value.encode()) for value in values]
            if len(values) > 1:
                raise Invalid(f"$.{name}", "it is given more than once")
            value = values[0]
            return value if isinstance(value, File) else File(value.encode())
        if any(isinstance(value, File) for value in values):
            raise Invalid(f"$.{name}", "a file came where none is expected")
        return _Texts(str(value) for value in values)


def is_file_type(kind: str) -> bool:
    """Tell whether a body of this media type is a file, also one of nothing."""
    return kind not in {"", "application/json", "application/x-www-form-urlencoded"} and not kind.endswith("+json")


def _loaded(file: File) -> Any:
    """Return the array in a file of NumPy's, of which nothing is unpickled."""
    try:
        return sys.modules["numpy"].load(file.open(), allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - whatever its reader raises on what is none
        raise Invalid("$", f"expected a file of numpy.save: {error}") from None


class _Texts(list[str]):
    """What a query or a form has for one name."""


def _of_texts(one: Input, texts: list[str]) -> Any:
    path = f"$.{one.name}"
    if one.is_many:
        return one.convert([_item(one, text) for text in texts], path)
    if len(texts) > 1:
        raise Invalid(path, "it is given more than once")
    if one.annotation is str:
        return texts[0]
    try:
        return one.convert(from_text(texts[0]), path)
    except Invalid as error:
        for other in (texts[0], _structured(texts[0])):
            try:
                return one.convert(other, path)
            except Invalid:
                continue
        raise error from None


def _structured(text: str) -> Any:
    """A list or an object may be written in a query as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _item(one: Input, text: str) -> Any:
    args = get_args(_listed(one.annotation))
    return text if args and args[0] is str else from_text(text)


_NO_QUERY: Mapping[str, list[str]] = {}


def _query(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=PARTS_MAX, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(400, "The query is no UTF-8.") from None
    except ValueError:
        raise BadRequest(400, f"The query has more than {PARTS_MAX} fields.") from None
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _json(body: Buffer) -> Any:
    try:
        text = str(body, "utf-8")
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except StopIteration:
            pass
        return _DECODER.decode(text)  # there is space around it, or something else
    except UnicodeDecodeError:
        raise BadRequest(400, "The body is no UTF-8, which JSON is written in.") from None
    except RecursionError:
        raise BadRequest(400, "The body is no JSON that could be read: it is nested too deeply.") from None
    except ValueError as error:
        raise BadRequest(400, f"The body is no JSON: {error}.") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_scan: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined] # as raw_decode does


# Annotations


def is_model(annotation: Any) -> bool:
    """Tell whether it is a class with fields of its own."""
    if not isinstance(annotation, type) or annotation is File or annotation is Request:
        return False
    return (
        dataclasses.is_dataclass(annotation)
        or is_pydantic(annotation)
        or is_struct(annotation)
        or typing.is_typeddict(annotation)
    )


def is_plain(annotation: Any) -> bool:
    """Tell whether a query can say it: one value, or several of one name."""
    if isinstance(annotation, type):
        containers = (Mapping, Sequence, Set)
        is_text = issubclass(annotation, str)
        return is_text or not (is_model(annotation) or is_array(annotation) or issubclass(annotation, containers))
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Literal:
        return True
    return bool(args) and origin is not None and not isinstance(origin, type) and all(map(is_plain, args))


def _may_be_list(annotation: Any) -> bool:
    """Tell whether a batch may be handed over as what is annotated: as a list, or what a list is one of."""
    annotation = meant(annotation)
    origin = get_origin(annotation)
    if origin in UNIONS:
        return any(map(_may_be_list, get_args(annotation)))
    kind = annotation if origin is None else origin
    if kind is Any or kind is object or kind in LISTED or getattr(kind, "_is_protocol", False):
        return True
    texts = (str, bytes, bytearray, memoryview)  # each a sequence as well
    return isinstance(kind, type) and issubclass(kind, (Sequence, Set)) and not issubclass(kind, texts)


def _item_of(annotation: Any) -> Any:
    """Return what a batch has for one request."""
    annotation = meant(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        return next((_item_of(one) for one in args if get_args(one) and _may_be_list(one)), Any)
    if origin is tuple and args[1:] != (Ellipsis,):
        return Any
    return args[0] if args and _may_be_list(annotation) else Any


def _is_many(annotation: Any) -> bool:
    return _listed(annotation) is not None


def _listed(annotation: Any) -> Any:
    """Return the annotation of a list or a set, also of one that may be left out; None where it is none."""
    origin = get_origin(annotation)
    if origin in UNIONS:
        return next((found for one in get_args(annotation) if (found := _listed(one)) is not None), None)
    is_list = isinstance(origin, type) and issubclass(origin, (Sequence, Set)) and origin is not tuple
    return annotation if is_list else None


def is_file(annotation: Any) -> bool:
    """Tell whether it is bytes that come as they are: a `File`, ``bytes``, an image of Pillow, or a list of these."""
    listed = _listed(annotation)
    if listed is not None and get_args(listed):
        return is_file(get_args(listed)[0])
    return annotation in {File, bytes} or is_image(annotation)


def _or_null(convert: Convert) -> Convert:
    return lambda value, path: None if value is None else convert(value, path)


def is_image(annotation: Any) -> bool:
    return isinstance(annotation, type) and annotation.__name__ == "Image" and annotation.__module__ == "PIL.Image"


def _file_converter(annotation: Any) -> Convert:
    if _is_many(annotation):
        one = _file_converter(get_args(_listed(annotation))[0])

        def convert_all(value: Any, path: str) -> Any:
            if not isinstance(value, list):
                raise Invalid(path, "expected files")
            return [one(item, f"{path}[{index}]") for index, item in enumerate(value)]

        return convert_all
    in_base64 = converter(bytes)

    def convert(value: Any, path: str) -> Any:
        file = value if isinstance(value, File) else File(in_base64(value, path))
        if annotation is File:
            return file
        return file.content if annotation is bytes else _image(file, path)

    return convert


def _image(file: File, path: str) -> Any:
    opened = sys.modules["PIL.Image"]
    try:
        image = opened.open(file.open())
        image.load()
    except Exception as error:  # noqa: BLE001 - decoders of images raise whatever they like on what is none
        raise Invalid(path, f"expected an image that can be opened: {error}") from None
    return image
