from __future__ import annotations

from pathlib import Path

import pytest

from stoker.cli.settings import export, is_alike, resolve, user_file
from stoker.errors import InvalidOption

from .conftest import Command


def _values(tmp_path: Path, flags: dict[str, str | None], environ: dict[str, str]) -> dict[str, tuple[str, str]]:
    found = resolve(flags, {"XDG_CONFIG_HOME": str(tmp_path / "config"), **environ}, tmp_path / "project" / "inner")
    return {item.setting.name: (item.value, item.source) for item in found}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The project's file and the user's, each setting two things."""
    (tmp_path / "project" / "inner").mkdir(parents=True)
    (tmp_path / "config" / "stoker").mkdir(parents=True)
    project = tmp_path / "project" / "stoker.toml"
    user = user_file({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    project.write_text('home = "state"\nnode_cpus = 3\n')
    user.write_text('node_cpus = 1\nresult_retention = "2h"\nnode_memory = "1GiB"\n')
    return project, user


def test_flags_go_before_variables_before_the_project_before_the_user(files: tuple[Path, Path], tmp_path: Path) -> None:
    project, user = files
    assert _values(tmp_path, {}, {})["node_cpus"] == ("3", str(project))
    assert _values(tmp_path, {}, {"STOKER_NODE_CPUS": "2"})["node_cpus"] == ("2", "STOKER_NODE_CPUS")
    assert _values(tmp_path, {"node_cpus": "0.5"}, {"STOKER_NODE_CPUS": "2"})["node_cpus"] == ("0.5", "flag")
    assert _values(tmp_path, {}, {})["result_retention"] == ("7200", str(user))
    assert _values(tmp_path, {}, {})["node_memory"] == (str(1 << 30), str(user))
    assert _values(tmp_path, {}, {})["runtime_dir"][1] == "default"


def test_a_path_in_a_file_is_relative_to_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert _values(tmp_path, {}, {})["home"][0] == str(tmp_path / "project" / "state")


def test_a_file_that_is_named_is_not_taken_for_a_directory(tmp_path: Path) -> None:
    environ = {
        "XDG_CONFIG_HOME": str(tmp_path),
        "STOKER_TLS_CERT": "/c.pem",
        "STOKER_CA": "/a.pem",
        "STOKER_HOME": "/h",
    }
    found = {item.setting.name: item.is_directory for item in resolve({}, environ, tmp_path)}
    assert [name for name, is_directory in found.items() if is_directory] == ["home"]


def test_a_file_above_the_repository_is_not_the_projects(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "project" / "inner" / ".git").mkdir()
    assert _values(tmp_path, {}, {})["home"][1] == "default"


def test_what_was_resolved_is_exported_and_defaults_are_not(files: tuple[Path, Path], tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    export(resolve({}, {"XDG_CONFIG_HOME": str(tmp_path / "config")}, tmp_path / "project"), environ)
    assert environ == {
        "STOKER_HOME": str(tmp_path / "project" / "state"),
        "STOKER_NODE_CPUS": "3",
        "STOKER_NODE_MEMORY": str(1 << 30),
        "STOKER_RESULT_RETENTION": "7200",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nod_cpus = 2", "Did you mean 'node_cpus'?"),
        ("node_cpus = -1", "not a positive number"),
        ("node_cpus = true", "not a positive number"),
        ('node_memory = "much"', "is not a size"),
        ("home = 3", "is not a path"),
        ("home = ", "not valid TOML"),
        ('result_retention = "a week"', "is not a duration"),
        ('server = "http://gpu-1"', "is no address. Write stoker://HOST:PORT"),
        ('listen = "7411"', "is no address. Write HOST:PORT, as 127.0.0.1:7411"),
        ('http = "7499"', "is no address. Write HOST:PORT, as 127.0.0.1:7499"),
        ('fingerprint = "42f1"', "is no fingerprint"),
        ("metrics_public = 1", "is neither yes nor no"),
        ('traces = "jaeger"', "traces go by otlp"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "stoker.toml").write_text(text)
    with pytest.raises(InvalidOption) as caught:
        resolve({}, {"XDG_CONFIG_HOME": str(tmp_path / "none")}, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "stoker.toml") in str(caught.value)


def test_config_show_says_where_each_value_came_from(stoker_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_NODE_CPUS", "1")
    shown = {row["name"]: row for row in stoker_command("--node-memory", "2GiB", "config", "show", "--json").json}
    monkeypatch.delenv("STOKER_NODE_MEMORY")
    assert shown["node_memory"]["source"] == "flag"
    assert shown["node_memory"]["value"] == str(2 << 30)
    assert shown["node_cpus"]["source"] == "STOKER_NODE_CPUS"
    assert shown["result_retention"] == {**shown["result_retention"], "value": None, "source": "default"}
    assert "node_cpus" in stoker_command("config", "show").out


def test_the_address_of_blobs_is_checked_and_its_secrets_are_not_shown(
    stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STOKER_BLOBS", raising=False)
    wrong = stoker_command("--blobs", "ftp://x/y", "config", "show")
    assert wrong.status == 2
    assert "--blobs: ftp:// is no blob store that Stoker knows." in " ".join(wrong.err.split())
    monkeypatch.setenv("STOKER_BLOBS", "s3://bucket/x?region=r&secret_access_key=do-not-show-this")
    shown = stoker_command("config", "show").out + stoker_command("config", "show", "--json").out
    assert "do-not-show-this" not in shown
    assert "secret_access_key=***" in shown


def test_a_stores_password_is_not_shown(tmp_path: Path, stoker_command: Command) -> None:
    found = resolve({"store": "postgresql://me:hidden@host/db"}, {}, tmp_path)
    (item,) = [item for item in found if item.setting.name == "store"]
    assert item.value == "postgresql://me:hidden@host/db"
    assert "hidden" not in item.shown + item.said
    refused = stoker_command("--store", "mysql://me:hidden@host/db", "config", "show")
    assert refused.status == 2
    assert "hidden" not in refused.out + refused.err


def test_numbers_that_nobody_could_reach_are_not_made_public(
    stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STOKER_HTTP", "STOKER_METRICS_PUBLIC"):
        monkeypatch.setenv(name, "")  # the command's flags become variables, which are to be gone afterwards
    done = stoker_command("server", "start", "--http", "off", "--metrics-public")
    assert (done.status, "--metrics-public goes with an address" in done.err) == (2, True)


def test_what_means_the_same_is_no_other_option(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    cert = str(tmp_path / "c.pem")
    for name, one, other in (
        ("http", "localhost:7410", "127.0.0.1:7410"),
        ("listen", "127.0.0.1:7411", "localhost:7411"),
        ("http", "off", "off"),
        ("tls_cert", f"{tmp_path}/../{tmp_path.name}/c.pem", cert),
        ("tls_cert", f"{tmp_path}/link/c.pem", cert),
        ("blobs", "s3://bucket/p/", "s3://bucket/p"),
    ):
        assert is_alike(name, one, other), (name, one)
    for name, one, other in (
        ("http", "localhost:7410", "127.0.0.1:7411"),
        ("http", "localhost:7410", "off"),
        ("http", "localhost:7410", "192.0.2.1:7410"),
        ("listen", "localhost:7411", ""),
        ("tls_cert", cert, ""),
        ("tls_cert", cert, str(tmp_path / "d.pem")),
        ("blobs", "s3://bucket/p", "s3://bucket/q"),
        ("engine", "ray", "local"),
    ):
        assert not is_alike(name, one, other), (name, one)
