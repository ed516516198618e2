"""A stream that tests log to."""

import io
import re

_TIME = re.compile(r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")


class LogStream(io.StringIO):
    """Remembers what was logged."""

    @property
    def lines(self):
        """What was logged in logfmt, without the time."""
        lines = self.getvalue().splitlines()
        assert all(_TIME.match(line) for line in lines)
        return [_TIME.sub("", line) for line in lines]
