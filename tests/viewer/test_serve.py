"""Who may look at a page, what it says where it cannot be opened, and when it says what it does."""

import asyncio
import socket
import subprocess
import sys

import pytest

from headwater.errors import ParameterError
from headwater.viewer import serve as serving
from headwater.viewer.serve import require_page, told_later


@pytest.fixture(scope="module")
def port() -> int:
    """One that is free."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.0.1"])
def test_this_machine_needs_no_password(host, port):
    assert require_page(host, port, None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_need_one(host, port):
    said = f"--host {host} lets others in: give --auth user:password, or leave --host out"
    with pytest.raises(ParameterError) as caught:
        require_page(host, port, None)
    assert str(caught.value) == said


def test_with_one_others_may(port):
    assert require_page("0.0.0.0", port, "me:a:b") == ("me", "a:b")


@pytest.mark.parametrize("auth", ["", "me", "me:", ":secret"])
def test_half_a_pair_is_refused(auth, port):
    with pytest.raises(ParameterError, match="--auth must be user:password, neither of them"):
        require_page("127.0.0.1", port, auth)


@pytest.mark.parametrize("wrong", [0, -1, 65536])
def test_no_port_is_refused(wrong):
    with pytest.raises(ParameterError, match=f"--port {wrong} is none: give one from 1 to 65535"):
        require_page("127.0.0.1", wrong, None)


def test_without_gradio_it_says_what_to_install(monkeypatch, port):
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"needs gradio: pip install 'headwater\[viewer\]'"):
        require_page("127.0.0.1", port, None)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ParameterError, match=f"--port {port} .*in use.*: give another"):
            require_page("127.0.0.1", port, None)


# --- clicks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, late", [("/gradio_api/queue/join", 1), ("/gradio_api/queue/data", 0), ("/config", 0)]
)
def test_that_a_click_is_taken_is_told_after_what_was_said_before(monkeypatch, path, late):
    """The click itself does not wait."""
    events: list[object] = []

    async def app(scope, receive, send):
        events.append("taken")
        await send({"type": "http.response.start"})
        await send({"type": "http.response.body"})

    async def sleep(seconds):
        events.append("waited" if seconds > 0 else "")

    async def send(message):
        events.append(message["type"])

    monkeypatch.setattr(serving.asyncio, "sleep", sleep)
    asyncio.run(told_later(app)({"type": "http", "path": path}, None, send))
    told = ["http.response.start", "http.response.body"]
    assert events == ["taken", *["waited"] * late, *told]


def test_what_is_no_request_passes():
    """As the start and the end of the server, which have no path."""
    passed: list[object] = []

    async def app(*given):
        passed.extend(given)

    asyncio.run(told_later(app)({"type": "lifespan"}, 1, 2))
    assert passed == [{"type": "lifespan"}, 1, 2]


def test_gradio_is_imported_without_a_look_at_its_own_source():
    """In a process of its own: here it may have been imported by another test."""
    look = """
import ast, inspect
from headwater.viewer.serve import import_gradio
looked_at, found, file_of = [], ast.get_source_segment, inspect.getfile
ast.get_source_segment = lambda *of: looked_at.append(of[1].name) or found(*of)
import_gradio()
import gradio
print(looked_at, inspect.getfile is file_of, gradio.Textbox.__name__)
"""
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["[]", "True", "Textbox"]
