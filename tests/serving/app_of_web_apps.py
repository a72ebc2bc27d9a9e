"""An app with web apps of users' own: of ASGI, of WSGI, and servers that it starts."""

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import stoker

app = stoker.App("webapps")


def make_site(greeting: str) -> Any:
    import asyncio
    import hashlib

    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    gone: list[int] = []
    released = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"greeting": greeting}
        print("the lifespan has ended")

    async def hello(request: Request) -> Response:
        return JSONResponse(
            {
                "greeting": request.state.greeting,
                "path": request.url.path,
                "root": request.scope["root_path"],
                "query": dict(request.query_params),
                "authorization": request.headers.get("authorization"),
                "cookies": request.cookies,
            }
        )

    async def double(request: Request) -> Response:
        return JSONResponse({"x": 2 * (await request.json())["x"]})

    async def digest(request: Request) -> Response:
        found, size, pieces = hashlib.sha256(), 0, 0
        async for piece in request.stream():
            found.update(piece)
            size += len(piece)
            pieces += 1
        return JSONResponse({"sha256": found.hexdigest(), "size": size, "pieces": pieces})

    async def echo_stream(request: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            async for piece in request.stream():
                yield piece.upper()

        return StreamingResponse(lines(), media_type="text/plain")

    async def big(request: Request) -> Response:
        size = int(request.query_params["size"])
        return Response(b"x" * size, media_type="application/octet-stream")

    async def fails(_: Request) -> Response:
        raise ValueError("it cannot be done")

    async def half(_: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"the first half"
            await asyncio.sleep(0.05)
            raise ValueError("there is no second half")

        return StreamingResponse(pieces())

    async def dies(request: Request) -> Response:
        import os

        async def pieces() -> AsyncIterator[bytes]:
            yield b"the first half"
            await asyncio.sleep(0.2)
            os._exit(3)

        if request.query_params.get("when") == "before":
            os._exit(3)
        return StreamingResponse(pieces())

    async def cookies(_: Request) -> Response:
        answer = PlainTextResponse("two cookies")
        answer.set_cookie("a", "1")
        answer.set_cookie("b", "2")
        return answer

    async def splits(_: Request) -> Response:
        answer = PlainTextResponse("")
        answer.raw_headers.append((b"x-bad", b"1\r\nx-worse: 2"))
        return answer

    async def later(request: Request) -> Response:
        async def in_the_background() -> None:
            await released.wait()
            gone.append(0)

        async def pieces() -> AsyncIterator[bytes]:
            yield b"at "
            yield b"once"

        task = BackgroundTask(in_the_background)
        if request.query_params.get("streams"):
            return StreamingResponse(pieces(), background=task)
        return PlainTextResponse("at once", background=task)

    async def release(_: Request) -> Response:
        released.set()
        return PlainTextResponse("")

    async def unread(_: Request) -> Response:
        return PlainTextResponse("too much", status_code=413)

    async def unchanged(request: Request) -> Response:
        answer = Response(status_code=int(request.query_params.get("status", "304")))
        answer.raw_headers = [(b"content-length", request.query_params["length"].encode())]
        return answer

    async def denies(socket: WebSocket) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"not "
            yield b"you"

        await socket.send_denial_response(StreamingResponse(pieces(), status_code=418))

    async def closes(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(4003)
        await asyncio.sleep(0.2)
        gone.append(4003)

    async def chat(socket: WebSocket) -> None:
        await socket.accept(subprotocol="shout" if "shout" in socket.scope["subprotocols"] else None)
        try:
            while True:
                said = await socket.receive()
                if said["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(said["code"])
                if said.get("text") == "bye":
                    await socket.close(4001, "as you wish")
                    return
                if said.get("text") == "fail":
                    raise ValueError("it cannot be said")
                if said.get("text") is not None:
                    await socket.send_text(said["text"].upper())
                else:
                    await socket.send_bytes(said["bytes"][::-1])
        except WebSocketDisconnect as end:
            gone.append(end.code)

    async def refuses(socket: WebSocket) -> None:
        await socket.close()

    async def left(_: Request) -> Response:
        return JSONResponse(gone)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", hello),
            Route("/hello/{name:path}", hello),
            Route("/double", double, methods=["POST"]),
            Route("/digest", digest, methods=["POST"]),
            Route("/echo", echo_stream, methods=["POST"]),
            Route("/big", big),
            Route("/fails", fails),
            Route("/half", half),
            Route("/dies", dies),
            Route("/cookies", cookies),
            Route("/splits", splits),
            Route("/left", left),
            Route("/later", later),
            Route("/release", release),
            Route("/unread", unread, methods=["POST"]),
            Route("/unchanged", unchanged),
            WebSocketRoute("/denies", denies),
            WebSocketRoute("/closes", closes),
            WebSocketRoute("/chat", chat),
            WebSocketRoute("/refuses", refuses),
        ],
    )


@app.function()
@stoker.asgi_app()
def site() -> Any:
    return make_site("hello")


@app.function()
@stoker.asgi_app(requires_token=False)
async def public_site() -> Any:
    return make_site("welcome")


@app.function(max_workers=1, lost_retries=0)
@stoker.asgi_app()
def broken() -> Any:
    return 7


@app.cls(concurrency=8)
class Pages:
    word: str = stoker.parameter(default="page")

    @stoker.enter()
    def load(self) -> None:
        self.loaded = f"{self.word}, loaded"

    @stoker.asgi_app()
    def site(self) -> Any:
        return make_site(self.loaded)


@app.function()
@stoker.wsgi_app()
def classic() -> Any:
    import hashlib

    from flask import Flask, Response, request

    made = Flask("classic")

    @made.get("/")
    def hello() -> Any:
        return {"path": request.path, "root": request.script_root, "query": dict(request.args)}

    @made.post("/double")
    def double() -> Any:
        return {"x": 2 * request.get_json()["x"]}

    @made.post("/digest")
    def digest() -> Any:
        found, size = hashlib.sha256(), 0
        while piece := request.stream.read(64 << 10):
            found.update(piece)
            size += len(piece)
        return {"sha256": found.hexdigest(), "size": size}

    @made.get("/lines")
    def lines() -> Any:
        def made_lines() -> Iterator[str]:
            for number in range(3):
                yield f"line {number}\n"

        return Response(made_lines(), mimetype="text/plain")

    @made.get("/big")
    def big() -> Any:
        return Response(b"x" * int(request.args["size"]))

    @made.get("/fails")
    def fails() -> Any:
        raise ValueError("it cannot be done")

    return made


OWN_SERVER = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[2])
    import uvicorn
    from app_of_web_apps import make_site
    uvicorn.run(make_site("from a server of its own"), port=int(sys.argv[1]), log_level="warning")
""")


@app.function()
@stoker.web_server()
def server(port: int) -> Any:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", OWN_SERVER, str(port), here])


@app.function(lost_retries=0)
@stoker.web_server()
def ends_at_once(port: int) -> Any:
    return subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])


@app.function()
@stoker.endpoint()
def weigh(file: stoker.File, name: str = "") -> dict[str, Any]:
    import hashlib

    found = hashlib.sha256()
    with file.open() as source:
        while piece := source.read(1 << 20):
            found.update(piece)
    return {"size": file.size, "sha256": found.hexdigest(), "name": name}
