"""A server whose blobs are in a bucket, in real processes: what it refuses to start with, and what it keeps there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.blobs.base import BlobStore
from stoker.blobs.location import BlobLocation
from tests.waiting import wait_until

from . import s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

STORAGE_PAGE = Path(__file__).parents[2] / "docs" / "storage.md"
PROGRAM = """
import stoker

app = stoker.App("big")

@app.function()
def double(data: bytes) -> bytes:
    return data * 2
"""
SPAWN = 'import stoker; print(stoker.Function.from_name("big", "double").spawn(b"x" * 2_000_000).id)'
READ = "import sys, stoker; print(len(stoker.Call.from_id(sys.argv[1]).result(timeout=60)))"


def run(*command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"{command}: {done.stdout}\n{done.stderr}"
    assert s3.SECRET_KEY not in done.stdout + done.stderr
    return done


def python(code: str, *arguments: str) -> str:
    return run(sys.executable, "-c", code, *arguments).stdout.strip()


def stoker(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "stoker.cli", *arguments, status=status)


@pytest.fixture
def home(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "prog.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    yield own_home
    stoker("server", "stop")


def refused(address: str, *, status: int = 1) -> str:
    """Start a server and return why it does not."""
    error = " ".join(stoker("server", "start", "--blobs", address, status=status).stderr.split())
    assert "Traceback" not in error
    return error


def test_big_payloads_are_in_the_bucket_and_outlive_the_servers_disk(
    home: Path, address: str, open_store: Callable[[str], BlobStore], proxy: s3.FaultyProxy
) -> None:
    stoker("server", "start", "--blobs", address)
    stoker("deploy", "prog.py")
    call = python(SPAWN)
    assert python(READ, call) == "4000000"
    blobs = open_store(address)
    assert [blobs.size(key) > 4_000_000 for key in blobs.keys("payload")] == [True]
    assert len(blobs.keys("bundle")) == 1
    assert "s3://bucket-" in stoker("server", "status").stdout
    stoker("server", "stop")
    for place in (home / "server" / "payloads", home / "blob-cache", home / "blobs", home / "bundles"):
        shutil.rmtree(place, ignore_errors=True)
    stoker("--blobs", address, "server", "start")
    assert python(READ, call) == "4000000"
    proxy.add("status", "PUT", "/payload/", status=503, times=2)
    proxy.add("cut", "GET", "/bundle/", times=1)
    assert python(READ, python(SPAWN)) == "4000000"


def test_a_bucket_that_goes_away_refuses_big_spawns_and_nothing_accepted_is_lost(
    home: Path, address: str, proxy: s3.FaultyProxy
) -> None:
    stoker("server", "start", "--blobs", address)
    stoker("deploy", "prog.py")
    call = python(SPAWN)
    assert python(READ, call) == "4000000"
    proxy.add("status", "PUT", status=503)
    code = f"import sys, stoker\ntry:\n    {SPAWN}\nexcept stoker.StoreError as error:\n    sys.exit(str(error))"
    error = run(sys.executable, "-c", code, status=1).stderr
    assert "was not accepted" in error
    assert "503" in error
    small = 'import stoker; print(len(stoker.Function.from_name("big", "double").spawn(b"x").result(timeout=60)))'
    assert python(small) == "2"
    proxy.faults.clear()
    assert python(READ, python(SPAWN)) == python(READ, call) == "4000000"


def test_a_call_waits_for_its_code_while_the_bucket_is_away(home: Path, address: str, proxy: s3.FaultyProxy) -> None:
    stoker("server", "start", "--blobs", address)
    stoker("deploy", "prog.py")
    proxy.add("status", "HEAD", "/bundle/", status=503)
    call = python(SPAWN)
    wait_until(lambda: "503" in stoker("calls", "show", call).stdout, timeout=30.0, message="the reason is shown")
    proxy.faults.clear()
    assert python(READ, call) == "4000000"


def test_a_bucket_that_is_not_there(home: Path, address: str) -> None:
    error = refused(address.replace("s3://bucket-", "s3://nobody-has-"))
    assert "there is no bucket 'nobody-has-" in error
    assert "Create it" in error


def test_a_bucket_that_is_read_only(home: Path, address: str, proxy: s3.FaultyProxy) -> None:
    for method in ("PUT", "POST", "DELETE"):
        proxy.add("status", method, status=403)
    error = refused(address)
    assert "not permitted (it answered 403 Forbidden (AccessDenied))" in error
    assert "lack the right to write objects there" in error


def test_a_bucket_of_another_server(home: Path, address: str, open_store: Callable[[str], BlobStore]) -> None:
    open_store(address).put("owner/server", [json.dumps({"store": "x", "said": "host:/srv/stoker"}).encode()])
    assert "belong to another server (host:/srv/stoker)" in refused(address)


def test_another_bucket_than_that_of_what_still_runs(home: Path, address: str) -> None:
    stoker("server", "start")
    os.kill(json.loads(stoker("server", "status", "--json").stdout)["pid"], signal.SIGKILL)
    assert "Start it with the same --blobs as before" in refused(address)
    stoker("server", "stop")
    stoker("server", "start", "--blobs", address)
    os.kill(json.loads(stoker("server", "status", "--json").stdout)["pid"], signal.SIGKILL)
    stoker("server", "start", "--blobs", address)


def test_no_credentials(home: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.CREDENTIALS:
        monkeypatch.delenv(name)
    # What a machine without a role answers; the address of the real service is nobody's here.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    error = refused(address)
    assert "no credentials for S3 were found" in error
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in error


def test_an_endpoint_that_does_not_answer(home: Path, bucket: str) -> None:
    began = time.monotonic()
    error = refused(f"s3://{bucket}?endpoint=http://127.0.0.1:9&allow_http=true")
    assert "S3 did not answer" in error
    assert "Check the endpoint and the network" in error
    assert time.monotonic() - began < 30.0


def test_addresses_that_are_none(home: Path, bucket: str) -> None:
    assert "ftp:// is no blob store that Stoker knows" in refused("ftp://host/path", status=2)
    assert "Did you mean gs://?" in refused("gcs://bucket/x", status=2)
    assert "not encrypted" in refused(f"s3://{bucket}?endpoint=http://127.0.0.1:9")


def test_secrets_are_shown_nowhere(home: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.CREDENTIALS:
        monkeypatch.delenv(name)
    secret = f"{address}&access_key_id={s3.ACCESS_KEY}&secret_access_key={s3.SECRET_KEY}"
    stoker("server", "start", "--blobs", secret)
    said = [stoker("server", "status").stdout, stoker("server", "status", "--json").stdout]
    monkeypatch.setenv("STOKER_BLOBS", secret)
    said += [stoker("config", "show").stdout, stoker("config", "show", "--json").stdout, stoker("doctor").stdout]
    assert all("secret_access_key=***" in text for text in said)
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".db"]
    assert not [path for path in files if s3.SECRET_KEY.encode() in path.read_bytes()]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes() if process.stat().st_uid == os.getuid() else b""
            except OSError:
                continue  # it has ended
            assert s3.SECRET_KEY.encode() not in words


def test_the_doctor_tells_of_blobs(home: Path, address: str) -> None:
    assert "this machine's disk" in stoker("doctor").stdout
    assert "written, read, listed and deleted" in stoker("--blobs", address, "doctor").stdout
    missing = address.replace("s3://bucket-", "s3://nobody-has-")
    assert "A server cannot start with it." in stoker("--blobs", missing, "doctor", status=1).stdout


def section() -> str:
    """Return what the documentation says of object storage."""
    return STORAGE_PAGE.read_text(encoding="utf-8").partition("## Object storage")[2].partition("\n## ")[0]


def test_every_command_of_the_documentation_works(home: Path, address: str, bucket: str, s3_port: int) -> None:
    commands = [line for block in section().split("```bash\n")[1:] for line in block.partition("```")[0].splitlines()]
    assert sum(line.startswith("stoker ") for line in commands) == len(commands) - 2
    for line in commands:
        if line.startswith("stoker "):
            here = line.replace("'s3://my-bucket/stoker?region=eu-central-1'", f"'{address}'")
            here = here.replace("my-bucket", bucket).replace("127.0.0.1:9000", f"127.0.0.1:{s3_port}")
            run("bash", "-c", here.replace("stoker ", f"{sys.executable} -m stoker.cli ", 1))
        else:
            assert line.startswith(("pip install '.[objects]'", "export AWS_ACCESS_KEY_ID="))


def test_every_option_of_the_documentation_is_one() -> None:
    for row in section().splitlines():
        cells = row.split("|")
        if len(cells) == 5 and "://" in cells[1]:
            address = cells[1].strip(" `")
            for option in cells[3].replace("`", "").split(","):
                value = "true" if "request" in option or "skip" in option or "emulator" in option else "value"
                assert BlobLocation.parse(f"{address}?{option.strip()}={value}").options
