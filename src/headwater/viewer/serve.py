"""Opens the page for a browser, for this machine alone unless a password is given."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headwater.attribution.session import Session
from headwater.errors import HeadwaterError, ParameterError
from headwater.viewer.desk import Desk
from headwater.viewer.uploads import MOST_BYTES

_EXTRA = "pip install 'headwater[viewer]'"
# Loading a model holds up all else: it waits for the first visitor so many seconds, and for so many
# until the page is drawn.
_FIRST_VISIT, _PAGE_DRAWN = 20.0, 0.5
# What comes of clicks comes by a stream, which gradio (6.31) closes after the last of them. A
# browser that is told that its next click is taken, and only then that the stream is closed, opens
# no other: the click does nothing. So it is told of the click these seconds later.
_TOLD = 0.1
log = logging.getLogger(__name__)


def serve(
    sessions: Mapping[str, Session],
    host: str,
    port: int,
    auth: str | None = None,
    note: Callable[[str], None] = print,
) -> None:
    """Show a page on some indexes until Ctrl-C.

    Args:
        sessions: by the name that stands for each on the page.
        host: where it can be reached; another than this machine needs `auth`.
        auth: "user:password" that is asked for.
        note: is told the address.

    Raises:
        ParameterError: as of `require_page`.
    """
    pair = require_page(host, port, auth)
    with tempfile.TemporaryDirectory(prefix="headwater-view-") as folder:
        _keep_to(Path(folder))
        import_gradio()
        from starlette.middleware import Middleware

        from headwater.viewer.page import build, looks

        desk = Desk(sessions, Path(folder))
        page = build(desk)
        page.queue(default_concurrency_limit=4, max_size=64, api_open=False)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            auth=pair,
            quiet=True,
            prevent_thread_lock=True,
            inbrowser=False,
            share=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            max_file_size=MOST_BYTES,
            app_kwargs={"middleware": [Middleware(told_later)]},
            **looks(),
        )
        note(f"{address.rstrip('/')}  (Ctrl-C ends it)")
        threading.Thread(target=_warm, args=(desk,), daemon=True).start()
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def require_page(host: str, port: int, auth: str | None) -> tuple[str, str] | None:
    """The user and password of `auth`, if a page can be opened so.

    Raises:
        ParameterError: it is no pair, or there is none and others can reach the host; the port is
            none or taken; or gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ParameterError(f"the page needs gradio: {_EXTRA}")
    if not 0 < port < 65536:
        raise ParameterError(f"--port {port} is none: give one from 1 to 65535")
    pair = _credentials(host, auth)
    try:
        with socket.create_server((host, port), family=_family(host)):
            pass
    except OSError as error:
        said = error.strerror or error
        raise ParameterError(
            f"no page can be opened at {host} --port {port} ({said}): give another"
        ) from None
    return pair


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _credentials(host: str, auth: str | None) -> tuple[str, str] | None:
    if auth is not None:
        user, colon, password = auth.partition(":")
        if not (user and colon and password):
            raise ParameterError("--auth must be user:password, neither of them empty")
        return user, password
    if not _is_this_machine(host):
        raise ParameterError(
            f"--host {host} lets others in: give --auth user:password, or leave --host out"
        )
    return None


def _is_this_machine(host: str) -> bool:
    """Whether only programs of this machine reach a host.

    >>> _is_this_machine("127.0.0.1"), _is_this_machine("0.0.0.0")
    (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keep_to(folder: Path) -> None:
    """Let gradio keep its files here, and tell nobody of its use."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def import_gradio() -> None:
    """Import gradio, without a stub for type checkers of each of its components.

    It reads its own source and compares it with the stub beside it at every import, nearly half of
    the time that this takes (gradio 6.31), but for classes that lie in no file.
    """
    file_of = inspect.getfile

    def file_of_others(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("a component that is to have no stub")
        return file_of(thing)

    inspect.getfile = file_of_others
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = file_of


def told_later(app: Callable[..., Any]) -> Callable[..., Any]:
    """An ASGI application whose answers that a click is taken come `_TOLD` seconds later."""

    async def called(scope: Mapping[str, Any], receive: Any, send: Callable[..., Any]) -> None:
        async def later(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(_TOLD)
            await send(message)

        taken = scope["type"] == "http" and scope["path"].endswith("/queue/join")
        await app(scope, receive, later if taken else send)

    return called


def _warm(desk: Desk) -> None:
    """Load the models while people look for what to ask, once they have something to look at."""
    desk.visited.wait(_FIRST_VISIT)
    time.sleep(_PAGE_DRAWN)
    for session in desk.sessions.values():
        try:
            with session.lock:
                _ = session.denoiser
        except HeadwaterError as error:  # of a question it is said again
            log.info("%s", error)
