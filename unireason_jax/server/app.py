"""The routes of a server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from unireason_jax.inference.continuous_batching import News
from unireason_jax.server import answers, fields, orders
from unireason_jax.server.errors import Refusal, of, wrong
from unireason_jax.server.guards import Guard
from unireason_jax.server.model_names import Models
from unireason_jax.server.orders import Limits, Order
from unireason_jax.server.scheduler import Scheduler
from unireason_jax.server.stream import Events, until_gone

PAGE = Path(__file__).parent / "page.html"
BODY_SECONDS = 60
_QUIET = 5.0  # seconds without news, after which a stream says that it lives
_FILES = 16


class Service:
    """What the routes do.

    Args:
      models: what can be asked for.
      scheduler: does it.
      limits: of a request.
    """

    def __init__(self, models: Models, scheduler: Scheduler, limits: Limits):
        self.models, self.scheduler, self.limits = models, scheduler, limits
        self.started = int(time.time())
        self.readers = anyio.CapacityLimiter(2)

    async def health(self) -> JSONResponse:
        """200 while requests are taken, else 503."""
        scheduler = self.scheduler
        well = scheduler.is_alive() and not scheduler.closing
        told = {"status": "ok" if well else "closing", "running": len(scheduler.running)}
        return JSONResponse(told | {"waiting": len(scheduler.waiting)}, 200 if well else 503)

    async def metrics(self) -> Response:
        """All counts."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.scheduler.metrics.text(), media_type=kind)

    async def list_models(self) -> dict[str, Any]:
        """All models."""
        return {"object": "list", "data": [self._model(name) for name in self.models.names]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """One model."""
        if name not in self.models.names:
            self.models.preset(name, "generate")
        return self._model(name)

    async def chat(self, request: Request) -> Response:
        """A chat completion."""
        raw = await _body(request)
        order = await self._read(lambda: orders.chat(fields.body(raw), self.models, self.limits))
        return await self._answer(request, order, answers.Chat(order))

    async def draw(self, request: Request) -> Response:
        """Images of a prompt."""
        raw = await _body(request)
        order = await self._read(
            lambda: orders.draw(fields.body(raw), [], self.models, self.limits)
        )
        return await self._answer(request, order, answers.Drawing(order, "image_generation"))

    async def edit(self, request: Request) -> Response:
        """Edits of images."""
        given, files = await _form(request)

        def read() -> Order:
            if not files:
                raise wrong("'image' is missing; send the picture as a file.", "image")
            data = [fields.checked(file, "image", self.limits.pixels) for file in files]
            return orders.draw(given, data, self.models, self.limits)

        order = await self._read(read)
        return await self._answer(request, order, answers.Drawing(order, "image_edit"))

    def _model(self, name: str) -> dict[str, Any]:
        told = {"id": name, "object": "model", "created": self.started}
        return told | {"owned_by": "unireason_jax", "description": self.models.names.get(name, "")}

    async def _read(self, make: Callable[[], Order]) -> Order:
        """An order, made on a thread: pictures take time."""
        try:
            return await anyio.to_thread.run_sync(make, limiter=self.readers)
        except Refusal:
            self.scheduler.metrics.refused.labels("wrong").inc()
            raise

    async def _answer(self, request: Request, order: Order, form: Any) -> Response:
        """Puts an order into the queue and answers it, whole or as it is made."""
        loop, feed = asyncio.get_running_loop(), asyncio.Queue()

        def tell(number: int, news: News) -> None:
            try:
                loop.call_soon_threadsafe(feed.put_nowait, (number, news))
            except RuntimeError:
                return  # the server has ended meanwhile

        tickets = self.scheduler.submit(order.jobs, tell)

        def leave() -> None:
            self.scheduler.leave(tickets)

        if order.stream:
            return Events(_events(feed, len(tickets), form), leave)
        try:
            traces = await until_gone(request.receive, _traces(feed, len(tickets)))
        finally:
            leave()
        if traces is None:
            return Response(status_code=499)
        whole = await anyio.to_thread.run_sync(form.whole, traces, limiter=self.readers)
        return JSONResponse(whole)


async def _traces(feed: asyncio.Queue, count: int) -> list[Any]:
    """The traces of all jobs. Raises what went wrong with one."""
    traces: dict[int, Any] = {}
    while len(traces) < count:
        number, news = await feed.get()
        if news.kind == "error":
            raise of(news.error)
        if news.kind == "end":
            traces[number] = news.trace
    return [traces[number] for number in range(count)]


async def _events(feed: asyncio.Queue, count: int, form: Any) -> AsyncIterator[bytes]:
    """What a stream says."""
    for chunk in form.first():
        yield chunk
    traces: dict[int, Any] = {}
    while len(traces) < count:
        try:
            number, news = await asyncio.wait_for(feed.get(), _QUIET)
        except TimeoutError:
            yield b": waiting\n\n"
            continue
        if news.kind == "error":
            yield answers.event(of(news.error).body)
            yield answers.DONE
            return
        for chunk in await anyio.to_thread.run_sync(form.chunks, number, news):
            yield chunk
        if news.kind == "end":
            traces[number] = news.trace
    for chunk in form.last([traces[number] for number in range(count)]):
        yield chunk


async def _body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.body()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_SECONDS} seconds.") from None


async def _form(request: Request) -> tuple[dict[str, Any], list[bytes]]:
    """Fields and pictures of a form, or of a JSON body whose `image` is a data URI or a list."""
    if "multipart" not in request.headers.get("content-type", ""):
        given = fields.body(await _body(request))
        shown = given.pop("image", None)
        shown = shown if isinstance(shown, list) else [] if shown is None else [shown]
        return given, [fields.picture(url, "image", 1 << 62) for url in shown]
    given, files = {}, []
    try:
        async with asyncio.timeout(BODY_SECONDS), request.form(max_files=_FILES) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name not in ("image", "image[]"):
                        raise wrong(f"'{name}' is not supported; leave it out.", name)
                    files.append(await value.read())
                else:
                    given[name] = _plain(name, value)
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_SECONDS} seconds.") from None
    except HTTPException as error:
        raise wrong(f"the form is damaged: {error.detail}") from None
    return given, files


def _plain(name: str, value: str) -> Any:
    """A form's field, which is text, as JSON would have it."""
    if name in ("prompt", "model", "size", "id", "renorm", "solver", "user"):
        return value
    try:
        return fields.body(b'{"value": ' + value.encode() + b"}")["value"]
    except Refusal:
        return value


def make(service: Service, *, key: str = "", body: int, memory: int) -> Any:
    """The application.

    Args:
      service: what the routes do.
      key: of all under /v1; empty for none.
      body: most bytes of a request.
      memory: most bytes of all requests at a time.
    """
    app = FastAPI(title="unireason", docs_url=None, redoc_url=None)
    app.get("/health")(service.health)
    app.get("/metrics")(service.metrics)
    app.get("/v1/models")(service.list_models)
    app.get("/v1/models/{name:path}")(service.one_model)
    app.post("/v1/chat/completions", response_model=None)(service.chat)
    app.post("/v1/images/generations", response_model=None)(service.draw)
    app.post("/v1/images/edits", response_model=None)(service.edit)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        told = f"{request.method} {request.url.path}: {str(error.detail).lower()}."
        refusal = Refusal(error.status_code, told, code="unknown_url")
        return JSONResponse(refusal.body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(of(error).body, of(error).status)

    metrics = service.scheduler.metrics
    return Guard(app, key=key, most=body, memory=memory, metrics=metrics)
