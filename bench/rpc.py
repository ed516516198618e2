"""Calls from the benchmark to its worker processes: one line of JSON in each direction. End of input stops the worker."""

import asyncio
import json
import sys


def reply(result):
    """Send *result* to the benchmark."""
    print(json.dumps(result), flush=True)


def dispatch(line, handlers):
    """Call the handler that the request in *line* names, and reply with its result."""
    request = json.loads(line)
    reply(handlers[request.pop("do")](**request))


async def serve(handlers):
    """Handle requests on this loop until the benchmark closes the pipe."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        dispatch(line, handlers)


def serve_blocking(handlers):
    """Handle requests without an event loop."""
    for line in sys.stdin:
        dispatch(line, handlers)
