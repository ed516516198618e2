"""A recording has every change that the API returned, whatever the disk and other processes do meanwhile."""

import errno
import json
import os
import threading

import pytest
from harness import RecordingLog
from operations import NOW, as_json, operation

from comms_exporter.store import recording as module
from comms_exporter.store.errors import StateInUseError, StoreError
from comms_exporter.store.recording import Recording, check_recording

AT = "2026-11-21T12:00:00Z"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "week.jsonl"


@pytest.fixture
def log():
    return RecordingLog()


@pytest.fixture
def open_recording(path, log):
    """Return a function that opens a recording, which is closed after the test."""
    opened = []

    def open_recording(path=path, *, max_bytes=2**20, **options):
        opened.append(Recording(path, max_bytes=max_bytes, log=log, clock=lambda: NOW, **options))
        return opened[-1]

    yield open_recording
    for each in opened:
        if each._file >= 0:
            each.close()


def entries(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestLines:
    def test_of_a_new_recording(self, open_recording, path):
        recording = open_recording()
        recording.started(poll_interval=60, forgets=False)
        recording.known("shop", [operation("old", status="COMPLETED", total=1)])
        recording.changed("shop", NOW + 0.5, [operation("new", total=2, sent=None)])
        recording.deleted("shop", NOW + 1, "old")
        recording.answered("shop", NOW + 2, 503, 60.0)
        recording.answered("shop", NOW + 3, "ok", None)
        recording.close()

        changed = as_json(operation("new", total=2, sent=None))
        assert [
            {"time": AT, "poll_interval": 60},
            {"time": AT, "exporter": "up"},
            {"time": AT, "account": "shop", "operation": as_json(operation("old", status="COMPLETED", total=1))},
            {"time": "2026-11-21T12:00:00.500000Z", "account": "shop", "operation": changed},
            {"time": "2026-11-21T12:00:01Z", "account": "shop", "deleted": "old"},
            {"time": "2026-11-21T12:00:02Z", "api": 503, "account": "shop", "retry_after": 60.0},
            {"time": "2026-11-21T12:00:03Z", "api": "ok", "account": "shop"},
            {"time": AT, "exporter": "down"},
        ] == entries(path)

    def test_of_a_restart_are_appended(self, open_recording, path):
        """What the last process knew is in the file already."""
        open_recording().close()
        recording = open_recording()
        recording.started(poll_interval=60, forgets=True)
        recording.known("shop", [operation("old")])
        recording.close()

        assert [
            {"time": AT, "exporter": "down"},
            {"time": AT, "exporter": "up", "forgets": True},
            {"time": AT, "exporter": "down"},
        ] == entries(path)

    def test_half_a_line_of_a_killed_process_is_removed(self, open_recording, path):
        open_recording().close()
        with path.open("a") as file:
            file.write('{"time": "2026')
        open_recording().close()

        assert 2 == len(entries(path))

    def test_many_operations_are_all_written(self, open_recording, path):
        recording = open_recording()
        recording.changed("shop", NOW, [operation(f"a{n}") for n in range(1000)])
        recording.close()

        assert [f"a{n}" for n in range(1000)] == [each["operation"]["id"] for each in entries(path)[:-1]]


class TestOpening:
    def test_is_for_its_owner_alone(self, open_recording, path):
        open_recording()

        assert 0o600 == path.stat().st_mode & 0o777
        assert 0o700 == path.parent.stat().st_mode & 0o777

    def test_another_process_cannot_have_it_as_well(self, open_recording):
        open_recording()

        with pytest.raises(StateInUseError, match="in use by another process"):
            open_recording()

    def test_a_file_with_other_content_is_left_alone(self, open_recording, tmp_path):
        file = tmp_path / "notes"
        file.write_text("do not touch\nthis")

        with pytest.raises(StoreError, match="is not a recording"):
            open_recording(file)

        assert "do not touch\nthis" == file.read_text()

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_symbolic_link_is_not_followed(self, open_recording, path, tmp_path, exists):
        """Neither by the check at the start nor, if it is made after that, by the recording."""
        target = tmp_path / "target"
        if exists:
            target.write_text("")
        path.parent.mkdir()
        path.symlink_to(target)

        for attempt in (check_recording, open_recording):
            with pytest.raises(StoreError, match="symbolic link"):
                attempt(path)

        assert exists == target.exists()

    @pytest.mark.parametrize(("make", "why"), [(os.mkdir, "is a directory"), (os.mkfifo, "not a regular file")])
    def test_anything_but_a_file_is_reported(self, open_recording, tmp_path, make, why):
        make(tmp_path / "it")

        with pytest.raises(StoreError, match=why):
            open_recording(tmp_path / "it")


class TestSize:
    """A server that invents operations does not fill the disk."""

    def test_the_recording_ends_at_its_maximum(self, open_recording, path, log):
        recording = open_recording(max_bytes=1000)
        recording.changed("shop", NOW, [operation("before")])
        recording.changed("shop", NOW, [operation(f"a{n}") for n in range(1000)])
        recording.deleted("shop", NOW, "short")
        recording.close()

        assert ["before"] == [each["operation"]["id"] for each in entries(path)]
        ended = "recording has ended: the file has reached its maximum size"
        assert [(ended, None)] == log.events("error")

    def test_also_after_a_restart(self, open_recording, path, log):
        for _ in range(2):
            recording = open_recording(max_bytes=50)
            recording.changed("shop", NOW, [operation("a")])
            recording.close()

        assert [] == entries(path)
        assert 2 == len(log.events("error"))


class TestDisk:
    def test_a_full_disk_costs_lines_and_is_logged_once(self, open_recording, path, log, monkeypatch):
        recording = open_recording()
        full = [True, True]
        write = os.write

        def write_until_full(file, data):
            if full and full.pop():
                write(file, bytes(data[:5]))
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data)

        monkeypatch.setattr(module.os, "write", write_until_full)
        for n in range(3):
            recording.deleted("shop", NOW, f"a{n}")
        recording.close()

        assert ["a2"] == [each["deleted"] for each in entries(path) if "deleted" in each]
        assert [("recording failed: changes are missing from the file", None)] == log.events("error")
        assert [("recording continues", None)] == log.events("info")

    def test_a_slow_disk_does_not_take_the_memory(self, open_recording, log, monkeypatch):
        monkeypatch.setattr(module, "CLOSING_SECONDS", 0.0)
        released = threading.Event()
        recording = open_recording(max_waiting=10)
        monkeypatch.setattr(recording, "_append", lambda _: released.wait(10))
        try:
            for n in range(20):
                recording.deleted("shop", NOW, f"a{n}")
            assert 10 == recording._waiting
            recording.close()
        finally:
            released.set()
            recording._thread.join(10)

        events = [event for event, _ in log.events("error")]
        assert "recording failed: changes are missing from the file" == events[0]
        assert "recording is incomplete: the disk is too slow" == events[-1]
