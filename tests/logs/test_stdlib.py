"""What libraries and the interpreter report is logged like everything else."""

import asyncio
import io
import logging
import re
import sys
import threading
import warnings

from comms_exporter import logs

SECRET = "c4n4ry/5ecret+value"


class TestLibraries:
    def test_warnings_of_libraries_are_logged(self, stream):
        logs.configure("info", "logfmt", stream, [SECRET])
        logging.getLogger("aiohttp.server").warning("odd %s", SECRET)
        assert ['level=warn msg="odd ***" logger=aiohttp.server'] == stream.lines

    def test_lower_levels_than_warning_are_not_logged(self, stream):
        logs.configure("debug", "logfmt", stream)
        logging.getLogger("asyncio").info("x")
        assert "" == stream.getvalue()

    def test_the_configured_level_applies(self, stream):
        logs.configure("error", "logfmt", stream)
        logging.getLogger("asyncio").warning("x")
        assert "" == stream.getvalue()

    def test_requests_are_not_logged(self, stream):
        logs.configure("debug", "logfmt", stream)
        logging.getLogger("aiohttp.access").error("GET /metrics")
        assert "" == stream.getvalue()

    def test_a_message_that_does_not_match_its_arguments_is_logged_without_them(self, stream, capfd):
        logs.configure("info", "logfmt", stream)
        logging.getLogger().handlers[:-1] = []  # pytest adds one that raises
        logging.getLogger("sloppy").error("%d", SECRET)
        assert ["level=error msg=%d logger=sloppy"] == stream.lines
        assert SECRET not in "".join(capfd.readouterr())

    def test_an_exception_in_an_abandoned_task_is_one_line(self, stream):
        logs.configure("info", "logfmt", stream, [SECRET])

        async def main():
            asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": ValueError(SECRET)})

        asyncio.run(main())
        (line,) = stream.lines
        assert "msg=lost logger=asyncio exception=" in line
        assert SECRET not in line

    def test_exc_info_outside_an_except_block_is_harmless(self, stream):
        logs.configure("info", "logfmt", stream)
        logging.getLogger("x").error("x", exc_info=True)  # noqa: LOG014  the case under test
        assert ["level=error msg=x logger=x"] == [line.partition(" exception")[0] for line in stream.lines]

    def test_a_flood_is_suppressed_and_counted(self, stream):
        logs.configure("info", "logfmt", stream)
        for _ in range(500):
            logging.getLogger("loud").warning("x")
        logging.getLogger("loud").error("y")
        logging.getLogger("quiet").warning("z")
        logging.getLogger().handlers[-1].close()
        assert [
            *(["level=warn msg=x logger=loud"] * 10),
            "level=error msg=y logger=loud",
            "level=warn msg=z logger=quiet",
            'level=warn msg="suppressed similar log lines" logger=loud suppressed=490',
        ] == stream.lines

    def test_configuring_twice_logs_every_line_once(self, stream):
        logs.configure("info", "logfmt", io.StringIO())
        logs.configure("info", "logfmt", stream)
        logging.getLogger("x").error("x")
        assert 1 == len(stream.lines)


class TestUncaught:
    def test_exceptions_in_threads_and_finalizers_and_warnings_are_logged(self, stream):
        log = logs.configure("info", "logfmt", stream, [SECRET])
        hooks_before = threading.excepthook, sys.unraisablehook

        class Finished:
            def __del__(self):
                raise ValueError(SECRET)

        with logs.log_uncaught(log):
            thread = threading.Thread(target=_fail, args=("x",))
            thread.start()
            thread.join()
            Finished()
            warnings.showwarning(SECRET, UserWarning, "x.py", 1)
        assert (threading.excepthook, sys.unraisablehook) == hooks_before
        assert ["thread crashed", "ignored exception", "x.py:1: UserWarning"] == [
            re.search(r'msg="(thread crashed|ignored exception|x.py:1: UserWarning)', line)[1] for line in stream.lines
        ]
        assert SECRET not in stream.getvalue()


def _fail(value):
    raise ValueError("on purpose")
