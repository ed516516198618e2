"""Fetches the pages of a listing with aiohttp and discards them: the minimum cost of a poll.

Usage: python -m bench.collect.reader BASE_URL PAGE_SIZE.
"""

import asyncio
import re
import sys
import time

import aiohttp

from bench.rpc import reply, serve


async def main(base, size):
    """Fetch all pages once per call."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        laps = asyncio.Queue()

        async def lap():
            began = time.process_time()
            token = None
            while True:
                parameters = {"pageSize": size} if token is None else {"pageSize": size, "pageToken": token}
                async with session.get(f"{base}/Emails/Operations", params=parameters) as response:
                    body = await response.read()
                following = re.search(rb'"next":"([^"]+)"', body[-200:])
                if following is None:
                    return time.process_time() - began
                token = following[1].decode()

        async def run():
            while True:
                await laps.get()
                reply(await lap())

        running = asyncio.create_task(run())
        reply("ready")
        await serve({"lap": lambda: laps.put_nowait(1)})
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
