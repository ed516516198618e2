"""How the benchmark talks with its children: a line of JSON each way, and the end of the input is the end of the child."""

import asyncio
import json
import sys


def say(answer):
    """Tell the benchmark *answer*."""
    print(json.dumps(answer), flush=True)


def heard(line, orders):
    """Do what *line* orders, by one of *orders*, and tell what came of it."""
    order = json.loads(line)
    say(orders[order.pop("do")](**order))


async def obey(orders):
    """Do, on this loop, what is ordered, until the benchmark goes away."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        heard(line, orders)


def obey_without_loop(orders):
    """Do the same where there is no loop."""
    for line in sys.stdin:
        heard(line, orders)
