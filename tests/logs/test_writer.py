"""Logging never blocks the process, and loses no line that can be written."""

import io
import os
import re
import subprocess
import sys

import pytest

from comms_exporter import logs
from comms_exporter.logs.writer import MAX_QUEUED_BYTES

SECRET = "c4n4ry/5ecret+value"


class TestStream:
    def test_is_stderr_by_default(self, capsys):
        logs.configure("info", "logfmt").info("x")
        out, err = capsys.readouterr()
        assert "" == out
        assert err.endswith("level=info msg=x\n")

    def test_a_closed_one_is_ignored(self, stream):
        log = logs.configure("info", "logfmt", stream)
        stream.close()
        log.info("x")

    def test_an_ascii_stream_gets_escaped_characters(self):
        raw = io.BytesIO()
        logs.configure("info", "logfmt", io.TextIOWrapper(raw, "ascii")).info("x", city="Zürich")
        assert raw.getvalue().endswith(b"city=Z\\xfcrich\n")

    @pytest.mark.parametrize("style", ["logfmt", "json"])
    def test_a_long_value_is_truncated_after_masking(self, stream, style):
        logs.configure("info", style, stream, [SECRET]).info(
            "x", value="a" * 10_000_000 + SECRET, deep=[["b"] * 100_000]
        )
        assert len(stream.getvalue()) < 20_000
        assert "***" in stream.getvalue()

    def test_a_process_without_stderr_can_log(self, monkeypatch):
        monkeypatch.setattr("sys.stderr", None)
        logs.configure("info", "logfmt").error("x")

    def test_a_blocked_one_drops_and_counts_lines_instead_of_blocking(self):
        reading, writing = os.pipe()
        with os.fdopen(reading) as reader, os.fdopen(writing, "w") as pipe:
            log = logs.configure("info", "logfmt", pipe)
            for number in range(50_000):
                log.info("x", number=number)
            lines = []
            while not lines or "number=49999" not in lines[-1]:
                lines.append(reader.readline())
        dropped = [int(match[1]) for line in lines if (match := re.search(r"dropped.* lines=(\d+)", line))]
        assert 50_000 == len(lines) - len(dropped) + sum(dropped)
        assert 1 == len(dropped)
        assert sum(map(len, lines)) < 2 * MAX_QUEUED_BYTES

    def test_a_non_blocking_one_gets_every_line(self):
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with os.fdopen(reading) as reader, os.fdopen(writing, "w") as pipe:
            log = logs.configure("info", "logfmt", pipe)
            for number in range(3000):
                log.info("x" * 300, number=number)
            assert list(range(3000)) == [int(reader.readline().rpartition("=")[2]) for _ in range(3000)]

    @pytest.mark.parametrize(
        ("end", "code"), [("", 0), ("raise SystemExit(3)", 3), ("raise RuntimeError", 1), ("asyncio.run(crash())", 1)]
    )
    def test_gets_all_lines_before_the_process_ends(self, end, code):
        done = subprocess.run(
            [sys.executable, "-c", LOG_2000_LINES + end], capture_output=True, check=False, timeout=20
        )
        numbers = re.findall(rb"number=(\d+)", done.stderr)
        assert (code, 2000) == (done.returncode, len(numbers))

    def test_a_blocked_one_does_not_keep_the_process_alive(self):
        reading, writing = os.pipe()
        try:
            done = subprocess.run([sys.executable, "-c", LOG_2000_LINES], stderr=writing, check=False, timeout=20)
        finally:
            os.close(reading)
            os.close(writing)
        assert 0 == done.returncode


LOG_2000_LINES = """
import asyncio
from comms_exporter.logs import configure
log = configure("info", "logfmt")
for number in range(2000):
    log.info("x" * 200, number=number)
async def crash():
    raise RuntimeError
"""
