"""Ctrl-C while a module is imported, and at any other time."""

import importlib
import signal
import time

import pytest

from headwater.runtime.interrupt import ctrl_c_after_imports

SWALLOWS = """
import signal
try:
    for _ in range({presses}):
        signal.raise_signal(signal.SIGINT)
except BaseException:
    heard = True
else:
    heard = False
"""


@pytest.fixture(autouse=True)
def heard():
    """Tests that run in the background of a shell would ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Imports a module in which Ctrl-C is pressed so often, and which swallows what comes of it."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(name: str, presses: int):
        (tmp_path / f"{name}.py").write_text(SWALLOWS.format(presses=presses))
        return importlib.import_module(name)

    return load


def test_it_comes_when_the_import_is_done(imported):
    loaded = []
    with pytest.raises(KeyboardInterrupt), ctrl_c_after_imports():
        loaded.append(imported("swallows_once", 1))
        for _ in range(600):  # it comes long before
            time.sleep(0.1)
    assert [module.heard for module in loaded] == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_does_not_wait(imported):
    with ctrl_c_after_imports():
        assert imported("swallows_twice", 2).heard


def test_at_any_other_time_it_comes_at_once():
    with pytest.raises(KeyboardInterrupt), ctrl_c_after_imports():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("not interrupted")


def test_what_has_ended_is_not_interrupted(imported):
    with ctrl_c_after_imports():
        imported("swallows_at_the_end", 1)
    time.sleep(0.3)


def test_where_it_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ctrl_c_after_imports():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
