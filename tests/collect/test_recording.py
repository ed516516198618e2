"""A recording gets what the polls of an account bring, once."""

import pytest
from operations import NOW, listing, operation

from comms_exporter.api.errors import REASONS, CommsError, ThrottledError
from comms_exporter.collect.recording import AccountRecording, answer_of


class Recorder:
    """Keeps the calls of its methods."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def recording(recorder):
    return AccountRecording(recorder, "shop", now=lambda: NOW)


def test_a_listing_that_brings_nothing_new_is_not_recorded(recording, recorder):
    changed = operation("a")
    recording.listed(listing(changed))
    recording.listed(listing(ids={"a"}))

    assert [("changed", "shop", NOW, [changed])] == recorder.calls


def test_a_poll_that_ends_like_the_one_before_is_not_recorded(recording, recorder):
    throttled = ThrottledError("rate_limited", "429: slow down", 60.0)
    for error in (None, None, throttled, throttled, CommsError("auth", "401: no"), None):
        recording.polled(error, began=NOW)

    assert [("ok", None), (429, 60.0), (401, None), ("ok", None)] == [call[3:] for call in recorder.calls]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_an_answer(reason):
    assert answer_of(CommsError(reason, "why")) in {400, 401, 403, 404, 429, 500, "timeout", "connection"}


def test_a_503_is_told_from_a_500():
    assert 503 == answer_of(ThrottledError("server", "503: later", None))


def test_without_a_recorder_nothing_happens():
    recording = AccountRecording(None, "shop", now=lambda: NOW)

    recording.listed(listing(operation("a")))
    recording.gone("a")
    recording.polled(None, began=NOW)
