from __future__ import annotations

import ctypes
import sys

import pytest

from devices.session import open_session
from devices.signal_stack import _call, _Stack, kept_signal_stack, signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stack_t is laid out otherwise")


def test_what_was_put_in_its_place_is_gone_afterwards():
    before = signal_stack()
    memory = ctypes.create_string_buffer(65536)
    with kept_signal_stack():
        _call(_Stack(ctypes.addressof(memory), 0, len(memory)), None)
        assert signal_stack() == (ctypes.addressof(memory), 0, 65536) != before
    assert signal_stack() == before


def test_an_error_keeps_it_too():
    before = signal_stack()
    memory = ctypes.create_string_buffer(65536)

    def fail():
        _call(_Stack(ctypes.addressof(memory), 0, len(memory)), None)
        raise KeyError

    with pytest.raises(KeyError), kept_signal_stack():
        fail()
    assert signal_stack() == before


def test_opening_openvino_leaves_it_alone(engine, profile):
    pytest.importorskip("openvino")
    before = signal_stack()
    open_session(engine, profile, backend="openvino", precision="fp32")
    assert signal_stack() == before
