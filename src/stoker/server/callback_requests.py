"""One try of a callback: a POST over HTTP/1.1, to an address that was looked at, with bounds on all that comes back.

Of the answer its status counts; its body is not read, and nobody is followed elsewhere. A host is looked up once, and
the connection goes to an address that was found allowed: a name that leads elsewhere a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping

from stoker._version import __version__
from stoker.core.callback_targets import Allowed, Target
from stoker.core.callbacks import Answer
from stoker.errors import PermissionDenied

TRY_SECONDS = 10.0  # for all of it: whoever takes longer to answer does its work after it has
LOOKUP_SECONDS = 3.0
HEAD_BYTES = 16 << 10
ADDRESSES_MAX = 3  # of a host that has many
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |$)")
_RETRY_AFTER = re.compile(rb"^retry-after:[ \t]*([0-9]{1,9})[ \t]*$", re.IGNORECASE | re.MULTILINE)


async def addresses_of(target: Target, allowed: Allowed) -> list[str]:
    """Return the addresses to which a callback may go.

    Raises:
        PermissionDenied: it may go to none of those there are.
        OSError: the host is not known, or its name could not be looked up in time.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LOOKUP_SECONDS):
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    permitted = addresses if allowed.names(target.host) else [one for one in addresses if allowed.permits(one)]
    if not permitted:
        where = target.host if target.host in addresses else f"{target.host} ({', '.join(addresses[:3])})"
        raise PermissionDenied(
            f"Callbacks may not go to {where}: this server allows public addresses, or what its owner lists. The "
            "setting `callbacks` (STOKER_CALLBACKS) of the server takes hosts and networks: public,10.0.0.0/8,ci.lan."
        )
    return permitted[:ADDRESSES_MAX]


async def post(target: Target, allowed: Allowed, *, headers: Mapping[str, str], body: bytes) -> Answer:
    """Try once; whatever goes wrong is an answer of status 0."""
    try:
        async with asyncio.timeout(TRY_SECONDS):
            return await _post(target, await addresses_of(target, allowed), headers=headers, body=body)
    except TimeoutError:
        return Answer(0, f"no answer within {TRY_SECONDS:g} s")
    except PermissionDenied as error:
        return Answer(0, str(error))
    except socket.gaierror as error:
        return Answer(0, f"the host {target.host} was not found: {error.strerror}")
    except ssl.SSLCertVerificationError as error:
        return Answer(0, f"its certificate is not trusted here: {error.verify_message}")
    except ssl.SSLError as error:
        return Answer(0, f"no TLS with it: {error.reason or error}")
    except asyncio.IncompleteReadError:
        return Answer(0, "no answer: it has hung up")
    except asyncio.LimitOverrunError:
        return Answer(0, f"no answer: its headers have more than {HEAD_BYTES >> 10} KiB")
    except OSError as error:  # its text may be the loop's own, with an address in it
        return Answer(0, f"no answer: {os.strerror(error.errno) if error.errno else error}")


async def _post(target: Target, addresses: list[str], *, headers: Mapping[str, str], body: bytes) -> Answer:
    reader, writer = await _connect(target, addresses)
    try:
        writer.write(_head(target, headers, len(body)) + body)
        await writer.drain()
        return await _read(reader)
    finally:
        writer.transport.abort()  # what comes after the answer's head is nothing to us


async def _connect(target: Target, addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = await asyncio.to_thread(ssl.create_default_context) if target.scheme == "https" else None
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(
                address,
                target.port,
                limit=HEAD_BYTES,
                ssl=context,
                server_hostname=target.host if context is not None else None,
            )
        except OSError as error:
            failure = error
    raise failure


def _head(target: Target, headers: Mapping[str, str], size: int) -> bytes:
    lines = {
        "host": target.authority,
        "user-agent": f"stoker/{__version__}",
        "content-type": "application/json",
        "content-length": str(size),
        "connection": "close",
        **headers,
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target.path} HTTP/1.1\r\n{text}\r\n".encode("ascii")


async def _read(reader: asyncio.StreamReader) -> Answer:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        found = _STATUS.match(head.split(b"\r\n", 1)[0])
        if found is None:
            return Answer(0, "what came back is no answer of HTTP")
        status = int(found[1])
        if status >= 200:
            break
    after = _RETRY_AFTER.search(head.replace(b"\r\n", b"\n"))
    said = f"answered {status}" + ("; it is not followed elsewhere" if 300 <= status < 400 else "")
    return Answer(status, said, float(after[1]) if after is not None else 0.0)
