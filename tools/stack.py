"""Run simulator, exporter, Prometheus with our rules and Alertmanager on this machine, and start an incident.

Usage: tools/stack.py SCENARIO [--after SECONDS]; or `make stack SCENARIO=failure-spike`. Ctrl-C stops everything.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from comms_exporter.simulator import Faults, World, make_app
from comms_exporter.simulator.scenarios import SCENARIOS

ROOT = Path(__file__).parents[1]
BINARIES = ROOT / ".tools" / "prometheus-3" / "bin"
WEEK = 7 * 86400.0


def main():
    parser = argparse.ArgumentParser(
        description="Watch alerts fire, without containers.",
        epilog="scenarios: " + "; ".join(f"{name}: {each.meaning}" for name, each in SCENARIOS.items()),
    )
    parser.add_argument("scenario", choices=SCENARIOS, nargs="?", default="failure-spike")
    parser.add_argument(
        "--after", type=float, default=60, metavar="SECONDS", help="delay of the incident (default %(default)g)"
    )
    parsed = parser.parse_args()
    if not (BINARIES / "prometheus").exists():
        sys.exit("Prometheus is not installed in .tools: run tools/fetch-prometheus, which needs apt-get.")
    asyncio.run(run(parsed.scenario, parsed.after))


async def run(scenario, after):
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    world = World(seed=0, clock=time.time, speed=60, rate=40, history_seconds=WEEK)
    faults = Faults()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comms-stack-")))
        api = await stack.enter_async_context(serving(make_app(world, faults), 0))
        pager = await stack.enter_async_context(serving(pager_app(), 0))
        for command in commands(folder, api, pager):
            await stack.enter_async_context(process(folder, *command))
        say(f"Scenario {scenario}: {SCENARIOS[scenario].meaning}. It starts in {after:g} s.")
        print("Exporter:     http://127.0.0.1:10067/")
        print("Prometheus:   http://127.0.0.1:9090/   (Debian's build has only the API, no pages)")
        print("Alertmanager: http://127.0.0.1:9093/   (likewise)")
        print(f"Simulator:    {api}/")
        print("docs/alerts.md says which alerts fire, and when. Ctrl-C stops everything.", flush=True)
        try:
            await asyncio.wait_for(stop.wait(), after)
        except TimeoutError:
            SCENARIOS[scenario].begin(world, faults)
            say(f"{scenario} has started")
            await stop.wait()
        say("stopping")


def commands(folder, api, pager):
    """Write the configuration of every program, and yield its name and command."""
    deploy = ROOT / "deploy"
    prometheus = (deploy / "prometheus" / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(
        re.sub(r"- (comms-exporter\.\w+\.yml)", rf"- {deploy}/prometheus/\1", prometheus).replace(
            "localhost", "127.0.0.1"
        )
    )
    alertmanager = (deploy / "alertmanager" / "alertmanager.yml").read_text()
    (folder / "alertmanager.yml").write_text(
        alertmanager.replace("http://127.0.0.1:9099", pager).replace(
            "comms-exporter.tmpl", f"{deploy}/alertmanager/comms-exporter.tmpl"
        )
    )
    yield (
        "exporter", sys.executable, "-m", "comms_exporter", f"--api.base-url={api}/v1", "--account.name=demo",
        "--web.listen-address=127.0.0.1:10067", f"--state.path={folder}/state.db", "--collect.interval=15s",
        "--emails.collect=all", "--emails.interval=1m", "--emails.tags=campaign",
    )  # fmt: skip
    yield (
        "alertmanager", BINARIES / "alertmanager", f"--config.file={folder}/alertmanager.yml", "--cluster.listen-address=",
        f"--storage.path={folder}/alertmanager", "--web.listen-address=127.0.0.1:9093",
    )  # fmt: skip
    yield (
        "prometheus", BINARIES / "prometheus", f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb", "--web.listen-address=127.0.0.1:9090",
    )  # fmt: skip


@asynccontextmanager
async def process(folder, name, *command):
    """Run a program in the context, with its output in a file, which is printed if the program does not start."""
    log = folder / f"{name}.log"
    environ = {**os.environ, "TWILIO_ACCOUNT_SID": "ACdemo", "TWILIO_AUTH_TOKEN": "demonstration"}
    with log.open("w") as output:
        running = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=environ, cwd=BINARIES.parent
        )
    try:
        try:
            await asyncio.wait_for(running.wait(), 1.5)
        except TimeoutError:
            yield
        else:
            sys.exit(f"{name} did not start:\n{log.read_text()}")
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


@asynccontextmanager
async def serving(app, port):
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def pager_app():
    async def receive(request):
        for alert in (await request.json())["alerts"]:
            labels = alert["labels"]
            account = f" account={labels['account']}" if "account" in labels else ""
            say(
                f"{request.match_info['receiver']}: {alert['status']} {labels['severity']} {labels['alertname']}{account}\n"
                f"          {alert['annotations']['description']}\n          {alert['annotations']['runbook_url']}"
            )
        return web.Response()

    app = web.Application()
    app.router.add_post("/{receiver}", receive)
    return app


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


if __name__ == "__main__":
    main()
