"""Settings, and where each value came from: flags, then ``STOKER_*``, then the project's file, then the user's.

Everything below the command line goes by the environment variables alone: `export` sets them for this process and all
that it starts.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

from stoker.blobs.location import BlobLocation, shown_address
from stoker.client.endpoints import CA_VARIABLE
from stoker.core.callback_targets import Allowed
from stoker.errors import InvalidOption
from stoker.quantities import parse_duration, parse_size, stated
from stoker.store.postgres.address import parse
from stoker.store.postgres.address import shown as shown_url
from stoker.transport.addresses import SCHEME, parse_address
from stoker.transport.current import FINGERPRINT_VARIABLE, SERVER_VARIABLE

PROJECT_FILE = "stoker.toml"
USER_FILE = "config.toml"
DEFAULT = "default"
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Setting:
    """``name`` is the key in files, ``check`` returns the value as a text, or raises."""

    name: str
    variable: str
    help: str
    default: str
    check: Callable[[Any, str], str]
    is_path: bool = False
    shown: Callable[[str], str] = str  # a value for people: without what is secret in it


@dataclass(frozen=True)
class Resolved:
    """A setting's value. ``source``: ``flag``, the variable, the file, or ``default`` (``value`` describes it)."""

    setting: Setting
    value: str
    source: str

    @property
    def shown(self) -> str:
        """Return the value as it may be shown."""
        return self.value if self.source == DEFAULT else self.setting.shown(self.value)

    @property
    def is_directory(self) -> bool:
        """Tell whether it names a directory of the user's choice, to be used or made."""
        return self.source != DEFAULT and self.setting.check is _path

    @property
    def said(self) -> str:
        """What the user wrote, for messages."""
        flag = f"--{self.setting.name.replace('_', '-')}"
        name = {"flag": flag, self.setting.variable: self.setting.variable}
        return stated(name.get(self.source, f"{self.source}: {self.setting.name}"), self.shown)


def _path(value: Any, option: str) -> str:
    if isinstance(value, (str, Path)) and str(value):
        return str(Path(value).expanduser().absolute())
    raise InvalidOption(f"{stated(option, value)} is not a path. Write it as a text.")


def _file(value: Any, option: str) -> str:
    return _path(value, option)


def _cores(value: Any, option: str) -> str:
    try:
        cores = float(value)
    except (TypeError, ValueError):
        cores = 0.0
    if isinstance(value, bool) or not 0 < cores < 1e6:
        raise InvalidOption(f"{stated(option, value)} is not a positive number of cores.")
    return f"{cores:g}"


def _size(value: Any, option: str) -> str:
    is_count = isinstance(value, str) and value.isdigit()
    return str(parse_size(int(value) if is_count else value, option=option))


def _duration(value: Any, option: str) -> str:
    is_count = isinstance(value, str) and value.replace(".", "", 1).isdigit()
    return f"{parse_duration(float(value) if is_count else value, option=option):g}"


def _http(value: Any, option: str) -> str:
    return "off" if value in {"off", False} else _place(value, option)


def _yes_or_no(value: Any, option: str) -> str:
    found = {True: "yes", False: "no", "yes": "yes", "no": "no"}.get(value) if isinstance(value, (bool, str)) else None
    if found is None:
        raise InvalidOption(f"{stated(option, value)} is neither yes nor no.")
    return found


def _traces(value: Any, option: str) -> str:
    if value not in {"otlp", "off"} and value is not False:
        raise InvalidOption(f"{stated(option, value)}: traces go by otlp, or are off.")
    return str(value or "off")


def _place(value: Any, option: str) -> str:
    text = str(value)
    example = f"127.0.0.1:{text}" if text.isascii() and text.isdigit() and len(text) < 6 else "127.0.0.1:7411"
    return str(parse_address(text, option=option, example=example)).removeprefix(SCHEME)


def _server(value: Any, option: str) -> str:
    return value if str(value).startswith("/") else str(parse_address(str(value), option=option))


def _fingerprint(value: Any, option: str) -> str:
    from stoker.transport.tls import parse_fingerprint  # with `ssl`: most commands need neither

    return f"sha256:{parse_fingerprint(str(value), option=option)}"


def _paths(value: Any, option: str) -> str:
    parts = value.split(":") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise InvalidOption(f"{stated(option, value)} is not a list of paths.")
    return ":".join(_path(part, option) for part in parts if part)


def _blobs(value: Any, option: str) -> str:
    if not isinstance(value, str):
        raise InvalidOption(f"{stated(option, value)} is no address of a blob store. Write it as a text.")
    try:
        BlobLocation.parse(value)
    except InvalidOption as error:
        raise InvalidOption(f"{option}: {error}") from None
    return value


def _callbacks(value: Any, option: str) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    Allowed.parse(text, option=option)
    return text


def _engine(value: Any, option: str) -> str:
    if value not in ENGINES:
        raise InvalidOption(f"{stated(option, value)} is no engine. There are: {', '.join(ENGINES)}.")
    return str(value)


def _ray_address(value: Any, option: str) -> str:
    if not isinstance(value, str) or not value or value.startswith("ray://"):
        raise InvalidOption(
            f"{stated(option, value)} is no address of a Ray cluster. Write `auto` for the one that this machine is a "
            "node of, or HOST:PORT of its head (6379 if it was started without a port). A ray:// address is for "
            "clients that are no node; the server has to run on one."
        )
    return value


def _store(value: Any, option: str) -> str:
    if not isinstance(value, str):
        raise InvalidOption(f"{option} is not a text. Write the URL of a PostgreSQL database.")
    parse(value, option=option)
    return value


SETTINGS = (
    Setting(
        "home",
        "STOKER_HOME",
        "where environments, deployments and logs are kept",
        "$XDG_DATA_HOME/stoker, or ~/.local/share/stoker",
        _path,
        is_path=True,
    ),
    Setting(
        "runtime_dir",
        "STOKER_RUNTIME_DIR",
        "where sockets and runs are; a short path",
        "$XDG_RUNTIME_DIR/stoker, or in the directory for temporary files",
        _path,
        is_path=True,
    ),
    Setting("node_cpus", "STOKER_NODE_CPUS", "cores of this machine that are Stoker's", "all", _cores),
    Setting("node_memory", "STOKER_NODE_MEMORY", "memory of this machine that is Stoker's", "all", _size),
    Setting(
        "result_retention", "STOKER_RESULT_RETENTION", "how long results of spawned calls are kept", "7d", _duration
    ),
    Setting("store", "STOKER_STORE", "the server's store: postgresql://…", "a file in home", _store, shown=shown_url),
    Setting("engine", "STOKER_ENGINE", "where the server that stays runs workers: local, ray", "local", _engine),
    Setting("ray_address", "STOKER_RAY_ADDRESS", "the Ray cluster: auto, HOST:PORT", "auto", _ray_address),
    Setting("node_lease", "STOKER_NODE_LEASE", "silence after which a node's workers count as lost", "30s", _duration),
    Setting("server", SERVER_VARIABLE, "the server to use: stoker://HOST:PORT", "the one here", _server),
    Setting("fingerprint", FINGERPRINT_VARIABLE, "of that server's certificate: sha256:…", "none", _fingerprint),
    Setting("ca", CA_VARIABLE, "file of the CA that vouches for that server", "the system's", _file, is_path=True),
    Setting("listen", "STOKER_LISTEN", "where a server here listens for programs with a token", "nowhere", _place),
    Setting("http", "STOKER_HTTP", "where endpoints are reached: HOST:PORT, or off", "127.0.0.1:7410", _http),
    Setting("metrics_public", "STOKER_METRICS_PUBLIC", "whether /metrics asks for no token: yes, no", "no", _yes_or_no),
    Setting(
        "traces", "STOKER_TRACES", "where the server sends traces: otlp (OTEL_* say where to), off", "off", _traces
    ),
    Setting(
        "callbacks", "STOKER_CALLBACKS", "where callbacks may go: public, networks, hosts; off", "public", _callbacks
    ),
    Setting("tls_cert", "STOKER_TLS_CERT", "certificate for that, as PEM", "one of its own", _file, is_path=True),
    Setting("tls_key", "STOKER_TLS_KEY", "its key, as PEM", "in the same file", _file, is_path=True),
    Setting(
        "blobs",
        "STOKER_BLOBS",
        "where the server that stays keeps blobs: s3://, gs:// or az://",
        "this machine's disk",
        _blobs,
        shown=shown_address,
    ),
    Setting("pythons", "STOKER_PYTHONS", "further interpreters, ':' between them", "none", _paths, is_path=True),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def resolve(flags: Mapping[str, str | None], environ: Mapping[str, str], cwd: Path) -> list[Resolved]:
    """Return every setting with its value and where that came from.

    Raises:
        InvalidOption: a file or a value cannot be read; the message names where it stands.
    """
    layers = [(path, _read(path)) for path in config_files(environ, cwd)]
    return [_resolve_one(setting, flags, environ, layers) for setting in SETTINGS]


def export(resolved: list[Resolved], environ: MutableMapping[str, str]) -> None:
    """Set what was resolved for this process and all that it starts."""
    for item in resolved:
        if item.source != DEFAULT:
            environ[item.setting.variable] = item.value


class Given(NamedTuple):
    """What was given as a flag: the ``option``, and its value as it may be ``shown``."""

    option: str
    shown: str


def export_flags(flags: Mapping[str, str], environ: MutableMapping[str, str]) -> dict[str, Given]:
    """Set what was given as a command's own flags, and return it; it goes before all else.

    Raises:
        InvalidOption: a value cannot be read.
    """
    given = {}
    for name, value in flags.items():
        setting, option = _BY_NAME[name], f"--{name.replace('_', '-')}"
        environ[setting.variable] = checked = setting.check(value, option)
        given[name] = Given(option, setting.shown(checked))
    return given


def is_alike(name: str, one: str, other: str) -> bool:
    """Tell whether two values of a setting, as they are shown, mean the same: names of this machine, ways to a file."""
    if one == other or not (one and other):
        return one == other
    setting = _BY_NAME[name]
    if setting.is_path:
        return Path(one).resolve() == Path(other).resolve()
    if setting.check in {_http, _place} and "off" not in {one, other}:
        places = [parse_address(text, option=name) for text in (one, other)]
        return places[0].port == places[1].port and not _numeric(places[0].host).isdisjoint(_numeric(places[1].host))
    return setting.check is _blobs and one.rstrip("/") == other.rstrip("/")


def _numeric(host: str) -> set[str]:
    """Return the addresses of a host, or its name where it has none."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return {host}


def config_files(environ: Mapping[str, str], cwd: Path) -> list[Path]:
    """Return the files there are, the project's first: `stoker.toml` here, or above in the same repository."""
    found = []
    for directory in (cwd, *cwd.parents):
        if (directory / PROJECT_FILE).is_file():
            found.append(directory / PROJECT_FILE)
            break
        if (directory / ".git").exists():
            break
    user = user_file(environ)
    return [*found, user] if user.is_file() else found


def user_file(environ: Mapping[str, str]) -> Path:
    """Return where the user's own file is, or would be."""
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config"
    return Path(base) / "stoker" / USER_FILE


def _resolve_one(
    setting: Setting,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    layers: list[tuple[Path, dict[str, Any]]],
) -> Resolved:
    flag = flags.get(setting.name)
    if flag is not None:
        return Resolved(setting, setting.check(flag, f"--{setting.name.replace('_', '-')}"), "flag")
    if given := environ.get(setting.variable):
        return Resolved(setting, setting.check(given, setting.variable), setting.variable)
    for path, values in layers:
        if setting.name in values:
            value = _beside(path, values[setting.name]) if setting.is_path else values[setting.name]
            return Resolved(setting, setting.check(value, f"{path}: {setting.name}"), str(path))
    return Resolved(setting, setting.default, DEFAULT)


def _beside(file: Path, value: Any) -> Any:
    """A relative path in a file is relative to that file."""
    if isinstance(value, list):
        return [_beside(file, item) for item in value]
    return str(file.parent / Path(value).expanduser()) if isinstance(value, str) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path} is not valid TOML: {error}.") from None
    for name in values:
        if name not in _BY_NAME:
            near = difflib.get_close_matches(name, _BY_NAME, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(_BY_NAME)}."
            raise InvalidOption(f"{path} sets {name!r}, which is no setting. {hint}")
    return values


def from_environment() -> list[Resolved]:
    """Resolve for this process, without flags."""
    return resolve({}, os.environ, Path.cwd())
