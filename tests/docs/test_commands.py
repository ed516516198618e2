"""Every command in the documentation has a proof: it runs here, or the tool that reads it accepts it."""

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from argparse import REMAINDER, ArgumentParser
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from textwrap import dedent
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import bcrypt
import messages
import postgres
import process
import psycopg
import pytest
import yaml
from aiohttp.test_utils import TestServer
from alerts.judge import __main__ as judge
from deploy.test_deploy import fetched, output
from prometheus import error_output
from sharing.fleet import Fleet
from sharing.world import World

from comms_exporter import __version__, cli, simulator
from comms_exporter.config import load
from comms_exporter.rules import config as rules_config
from comms_exporter.rules.render import render
from comms_exporter.simulator.scenarios import SCENARIOS
from comms_exporter.web import tls, web_config
from deploy import test_deploy as deploy
from docs import test_docs as docs

ROOT = docs.ROOT
IMAGE = f"comms-exporter:{__version__}"
CREDENTIALS = {"TWILIO_ACCOUNT_SID": "AC...", "TWILIO_AUTH_TOKEN": "canary"}
# Inline code that starts with one of these is a command.
PROGRAM = re.compile(r"(comms-exporter|docker|helm|kubectl|make|promtool|python3?|sed|sudo|systemctl|uv)( |$)")


@dataclass(frozen=True)
class Block:
    """A code block: *text* in a *language*, under a heading of a page."""

    page: str
    heading: str
    language: str
    text: str


def blocks(path, text):
    """Yield the code blocks of the page at *path*; indented ones are YAML if they look like it, PromQL on some pages, or else sh."""
    page = str(path.relative_to(ROOT))
    indented = "promql" if page == "docs/cookbook.md" or page.startswith("docs/runbooks/") else "sh"
    heading = ""
    pattern = r"^#+ (?P<heading>.+)$|^ *```(?P<language>\w*)\n(?P<fenced>[\s\S]*?)^ *```$|(?P<indented>(?:^ {4}.*\n)+)"
    for match in re.finditer(pattern, text, re.MULTILINE):
        if match["heading"]:
            heading = match["heading"]
        elif match["indented"]:
            language = "yaml" if re.match(r" *\w+: ", match["indented"]) else indented
            yield Block(page, heading, language, dedent(match["indented"]))
        else:
            yield Block(page, heading, match["language"], dedent(match["fenced"]))


BLOCKS = [block for path, text in docs.PAGES.items() for block in blocks(path, text)]


def under(page, heading, language="sh"):
    """Return the blocks below a heading as one text."""
    found = [block.text for block in BLOCKS if (block.page, block.heading, block.language) == (page, heading, language)]
    assert found
    return "".join(found)


def lines(text):
    """Yield the lines of *text* as a shell reads them; a backslash or an open quote continues a line."""
    line = ""
    for each in text.splitlines(keepends=True):
        line += each
        if line.endswith("\\\n"):
            line = line[:-2]
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # an open quote
        if words:
            yield line.strip()
        line = ""
    assert "" == line


def simple(line):
    """Yield (words, variables) of each command in *line*."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = []
    for word in [*lexer, "&&"]:
        if word not in {"&&", "|"}:
            words.append(word)
            continue
        words = list(takewhile(">".__ne__, words))
        variables = {}
        while words and (match := re.fullmatch(r"(\w+)=(.*)", words[0])):
            variables[match[1]] = match[2]
            del words[0]
        yield words, variables
        words = []


def printed():
    """Yield (page, words, variables) of every command in blocks and inline code."""
    for block in BLOCKS:
        if block.language == "sh":
            yield from ((block.page, *command) for line in lines(block.text) for command in simple(line))
    for path, text in docs.PAGES.items():
        for span in re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)):
            if PROGRAM.match(span) or ((ROOT / span).is_file() and os.access(ROOT / span, os.X_OK)):
                yield from ((str(path.relative_to(ROOT)), *command) for command in simple(span))


COMMANDS = list(printed())


# Proofs of single commands: functions that raise.


def is_made(words, _):
    """The target and the scenario exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target, *settings = words[1:]

    assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)
    for name, value in (setting.split("=", 1) for setting in settings):
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE)
        if name == "JUDGE":
            judge.make_parser().parse_args(shlex.split(value))
        else:
            assert value in {*SCENARIOS, "...", "week.jsonl"}


def is_valid(words, variables):
    """Our command line accepts it."""
    command = words[1] if words[1:] and not words[1].startswith("-") else "serve"
    flags = [word for word in words[1:] if word != command]
    if command == "simulator":
        simulator.parse_arguments(flags)
    elif flags == ["--version"]:
        assert output(sys.executable, "-m", "comms_exporter", *flags)
    elif command == "operations":
        load(flags, {**CREDENTIALS, **variables}, parser=cli.operations_parser())
    elif command == "rules":
        cli.rules_parser().parse_args(flags)
    elif command == "operation":
        load(flags, {**CREDENTIALS, **variables}, parser=cli.operation_parser())
    elif command == "email":
        load(flags, {**CREDENTIALS, **variables}, parser=cli.email_parser())
    elif command == "state":
        assert flags[:1] in (["import"], ["export"])
        load(flags, variables, accounts=(), parser=cli.state_parser())
    else:
        assert command in {"serve", "check", "demo"}
        load([flag for flag in flags if flag != "--json"], {**CREDENTIALS, **variables})


def is_benchmark(words, _):
    """The benchmark has these parts and flags."""
    known = output(sys.executable, *words[1:3], "--help")

    given = {word for word in words[3:] if not (ROOT / word).is_file()}
    assert given <= set(re.findall(r"[\w-]+", known))


def exists(words, _):
    """It is an executable script of ours."""
    assert os.access(ROOT / words[0], os.X_OK) or words[0].endswith(".py")


def is_built(words, _):
    """With a tag that other commands use."""
    match words[1:]:
        case ["build", "-t", tag, "."] | ["push", tag]:
            assert tag in {IMAGE, f"registry.acme.example/{IMAGE}"}
        case _:
            pytest.fail("unknown form of docker build")


def is_run(words, _):
    """Port and volume are those of the image, variables and arguments are valid for the exporter."""
    parser = ArgumentParser(exit_on_error=False)
    for flag in ("--rm", "-d", "--read-only"):
        parser.add_argument(flag, action="store_true")
    for flag in ("--name", "-p", "-v", "-e"):
        parser.add_argument(flag, action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=REMAINDER)
    args = parser.parse_args(words[2:])
    environ = dict(variable.split("=") for variable in args.e)
    mounted = {volume.split(":")[1] for volume in args.v}
    files = {name: environ.pop(name) for name in list(environ) if name.endswith("_FILE")}

    assert IMAGE == args.image
    assert [
        f"127.0.0.1:{port}:{port}" for port in re.findall(r"^EXPOSE (\d+)", deploy.DOCKERFILE, re.MULTILINE)
    ] == args.p
    if args.arguments != ["demo"]:
        assert {*re.findall(r"^VOLUME (\S+)", deploy.DOCKERFILE, re.MULTILINE), *files.values()} == mounted
        assert {"TWILIO_AUTH_TOKEN_FILE"} == set(files)
        load(args.arguments, {**environ, "TWILIO_AUTH_TOKEN": "canary"})


def is_composed(words, variables):
    """Docker Compose accepts the file with these flags and variables."""
    compose = fetched("docker-compose", "compose")
    assert ["up", "--build"] == words[-2:]
    output(compose, *words[2:-2], "config", "--quiet", environ={"HOME": "/nonexistent", **variables})


# Proofs by command: a function, or a test that runs it together with its neighbors.
PROOFS = {
    r"make( .+)?": is_made,
    r"comms-exporter( .+)?": is_valid,
    r"python -m bench( .+)?": is_benchmark,
    r"(deploy|tools|\.ci)/\S+": exists,
    r"docker (build|push) .+": is_built,
    r"docker run .+": is_run,
    r"docker compose .+": is_composed,
    r"curl .+|": "TestSimulator",
    r"(kubectl create|helm install) .+": "TestKubernetes",
    r"kubectl get prometheusrule .+": "TestAlerts",
    r"(docker|kubectl) exec .+|sudo (-u|env) .+|docker volume rm .+|helm uninstall .+": "TestDeployed",
    r"sudo (?!-u|env).+|echo \S+": "TestSystemd",
    r"apt install .+|(cp|chgrp|chmod|echo|systemctl enable) .*(--now|auth_token).*": "TestDebian",
    r"python3 -m venv comms|\. comms/bin/activate|pip install \.|export .+": "TestPip",
    r"(install|openssl) .+": "TestCompose",
    r"promtool check web-config": "TestYaml",
    r"(python3 -c|sqlite3) .+": docs.TestTrue.test_backup,
    r"pg_(dump|restore) .+": "TestDatabase",
}


def proofs(words):
    text = " ".join(words)
    return [proof for pattern, proof in PROOFS.items() if re.fullmatch(pattern, text, re.DOTALL)]


class TestEveryCommand:
    @pytest.mark.parametrize(
        ("words", "variables"),
        [pytest.param(*command, id=f"{page} {' '.join(command[0])[:40]}") for page, *command in COMMANDS],
    )
    def test_has_a_proof(self, words, variables):
        """A new command needs an entry in PROOFS."""
        (proof,) = proofs(words)

        if isinstance(proof, str):
            assert proof in globals()
        elif proof.__module__ == __name__:
            proof(words, variables)

    def test_every_kind_of_block_is_examined(self):
        assert {"sh", "promql", "sql", "yaml", "text"} == {block.language for block in BLOCKS}
        assert 40 < len(COMMANDS)

    def test_every_proof_is_used(self):
        words = [words for _, words, _ in COMMANDS]

        assert len(PROOFS) == len({id(proof) for each in words for proof in proofs(each)})

    def test_quick_starts_have_at_most_ten_lines(self):
        assert 10 >= max(block.text.count("\n") for block in BLOCKS if block.page == "README.md")

    def test_every_scenario_is_mentioned(self):
        for page in ("README.md", "docs/alerts.md"):
            assert set() == set(SCENARIOS) - set(re.findall(r"[\w-]+", docs.PAGES[ROOT / page]))


def bash(text, folder, functions="", **environ):
    """Return the output of *text* in bash, in *folder*, with *functions* in place of programs."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{functions}\n{text}"],
        cwd=folder, env={"PATH": os.environ["PATH"], **environ}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def quick_start(*first_words):
    """Return the lines of the README's section on installation that start with *first_words*."""
    section = under("README.md", "Install")
    return [line for line in lines(section) if line.startswith(first_words)]


class TestPip:
    def test_commands(self, tmp_path):
        """The installed program accepts the exported variables."""
        stand_in = f"""
            python3() {{ command {sys.executable} -m venv --without-pip "${{@:3}}"; }}
            pip() {{
                [ "$*" = "install ." ]
                printf '#!/bin/sh\\nexec {sys.executable} -m comms_exporter "$@" --config.check\\n' > comms/bin/comms-exporter
                chmod +x comms/bin/comms-exporter
            }}
        """

        printed = bash(under("README.md", "Use it"), tmp_path, stand_in, HOME="/nonexistent", PYTHONPATH=str(ROOT))

        assert "The settings are valid: 1 account(s).\n" == printed
        assert (tmp_path / "comms/bin/comms-exporter").exists()


@pytest.mark.timeout(120)
@postgres.needs_postgres
class TestDatabase:
    SECTION = "Several exporters, one database"

    async def test_commands(self, tmp_path):
        """The role owns the schema and nothing else, which is enough; a restored backup is caught up with."""
        with postgres.running() as server:
            with psycopg.connect(server.url, autocommit=True) as admin:
                admin.execute(under("docs/operating.md", self.SECTION, "sql"))
                own = server.url.replace("comms@", "comms_exporter@")
                async with World(7) as world:
                    fleet = Fleet(
                        tmp_path, world=world, database=own, schema="comms_exporter", accounts=["shop"], interval="1s"
                    )
                    async with fleet:
                        await self.count(fleet, world)
                        self.run("pg_dump", server, tmp_path)
                        await self.count(fleet, world)
                        await self.stop(fleet)
                        self.run("pg_restore", server, tmp_path)
                        await self.count(fleet, world)
                        await self.stop(fleet)
                        self.run("comms-exporter state export", server, tmp_path)
                        admin.execute("TRUNCATE comms_exporter.accounts, comms_exporter.operations")
                        self.run("comms-exporter state import", server, tmp_path)
                        await self.count(fleet, world)
                owned = admin.execute(
                    "SELECT count(*) FILTER (WHERE nspname = 'comms_exporter'), count(*) FROM pg_class c"
                    " JOIN pg_namespace n ON n.oid = relnamespace WHERE relowner = 'comms_exporter'::regrole"
                    " AND nspname !~ '^pg_'"
                ).fetchone()
            with psycopg.connect(own, autocommit=True) as role:
                for statement in ("CREATE SCHEMA more", "CREATE TABLE public.more (n integer)"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        role.execute(statement)

        assert owned[0] == owned[1] > 0

    def run(self, command, server, folder):
        """Run a command of the section on *server*."""
        (line,) = [each for each in lines(under("docs/operating.md", self.SECTION)) if each.startswith(command)]
        line = re.sub(
            r"postgresql://(\w+)@db\.example/monitoring",
            rf"postgresql://\1@127.0.0.1:{server.port}/postgres",
            line,
        )
        stand_in = f'comms-exporter() {{ {sys.executable} -m comms_exporter "$@"; }}'
        path = f"{postgres.programs()}:{os.environ['PATH']}"
        bash(line.replace("//admin@", "//comms@"), folder, stand_in, PATH=path, PYTHONPATH=str(ROOT), HOME=str(folder))

    async def count(self, fleet, world):
        """Let something happen, and wait until it is counted."""
        if not fleet.exporters:
            await fleet.start("a")
            await fleet.settle(30, lambda shown: shown["a"] == {"shop"} and world.requests["shop"] > 0)
            await process.until(fleet.exporters["a"].url, r'^comms_up\{account="shop"\} 1')
        world.send("shop", 10)
        world.progress("shop")
        await fleet.settle(30, lambda _: [] == fleet.differences())

    async def stop(self, fleet):
        assert 0 == await fleet.stop("a")


class TestCompose:
    def test_secrets(self, tmp_path):
        """They are where Compose expects them, readable in containers, but not by other users of the machine."""
        (tmp_path / "deploy/compose").mkdir(parents=True)
        (tmp_path / "token").write_text("canary", encoding="utf-8")
        bash("\n".join(quick_start("install", "openssl")), tmp_path)
        written = {path for path in (tmp_path / "deploy/compose/secrets").iterdir() if path.stat().st_mode & 0o004}

        assert 0o700 == (tmp_path / "deploy/compose/secrets").stat().st_mode & 0o777
        assert {ROOT / path.relative_to(tmp_path) for path in written} == {
            Path(secret["file"]) for secret in deploy.own()["secrets"].values()
        }

    @pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
    def test_service_runs(self, prometheus_three, tmp_path, name):
        """With the command, the files and the path of the health check of the service."""
        service = deploy.demo()["services"][name]
        for volume in service["volumes"]:
            target = tmp_path / volume["target"][1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir() if volume["type"] == "volume" else shutil.copy(volume["source"], target)
        command = [re.sub("=/", f"={tmp_path}/", word) for word in service["command"]]
        log = tmp_path / "log"
        with log.open("wb") as file:
            program = getattr(prometheus_three, name)
            server = subprocess.Popen(
                [program, *command, "--web.listen-address=127.0.0.1:0"],
                cwd=program.parent.parent, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            address = self.wait_for(
                lambda: re.search(r'Listening on"? .*?address=(\S+)', log.read_text()), server, log
            )[1]
            path = service["healthcheck"]["test"][-1].partition("/-")[2]
            self.wait_for(lambda: self.is_ready(f"http://{address}/-{path}"), server, log)
            if name == "alertmanager":
                # It serves requests before it handles SIGTERM, but answers a reload only after that.
                assert self.is_ready(Request(f"http://{address}/-/reload", method="POST"))
        finally:
            server.terminate()
            assert 0 == server.wait(10)

    def is_ready(self, request):
        try:
            with urlopen(request) as response:
                return response.status == 200
        except HTTPError:
            return False

    def wait_for(self, found, server, log):
        deadline = time.monotonic() + 30
        while not (answer := found()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        return answer


class TestKubernetes:
    @deploy.both_helms
    def test_commands(self, helm):
        """The chart accepts every flag, and uses the Secret and the image of the commands before it."""
        (build,) = quick_start("docker build -t registry.acme.example")
        (create,) = quick_start("kubectl")
        (install,) = quick_start("helm")
        words = shlex.split(install)
        text = output(fetched("helm", f"helm-{helm}"), "template", *words[2:])
        objects = list(filter(None, yaml.load_all(text, Loader=yaml.CSafeLoader)))
        pod = deploy.pod_of(objects)
        (container,) = pod["containers"]
        read = {
            Path(each["value"]).name
            for each in container["env"]
            if each["value"].startswith("/etc/comms-exporter/secrets/")
        }
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
        secret, *keys = shlex.split(create)[4:]

        assert secret == volume["secret"]["secretName"]
        assert read == {re.match(r"--from-(?:literal|file)=([\w-]+)=", key)[1] for key in keys}
        assert f"docker build -t {container['image']} . && docker push {container['image']}" == build
        assert "monitoring" == deploy.one(objects, "ServiceMonitor")["metadata"]["labels"]["release"]
        assert "release of kube-prometheus-stack called `monitoring`" in docs.PAGES[ROOT / "README.md"].replace(
            "\n", " "
        )


class TestSystemd:
    def test_commands(self, tmp_path):
        """They put every file where the unit expects it. The test runs them below another root."""
        stand_ins = """
            sudo() { "$@"; }
            systemctl() { echo "$*"; }
            python3() { mkdir -p "$3/bin" && printf '#!/bin/sh\\n> "$0.ran"\\n' > "$3/bin/pip" && chmod +x "$3/bin/pip"; }
        """
        (tmp_path / "etc/systemd/system").mkdir(parents=True)
        (tmp_path / "token").write_text("canary\n", encoding="utf-8")
        shutil.copytree(ROOT / "deploy/systemd", tmp_path / "deploy/systemd")
        text = "\n".join(quick_start("sudo", "echo TWILIO"))
        below = re.sub(r"(?<= )(sudo )?/(opt|etc)/", rf"\1{tmp_path}/\2/", text)

        printed = bash(below, tmp_path, stand_ins)

        unit = configured(tmp_path / "etc/systemd/system/comms-exporter.service")
        assert ["daemon-reload", "enable --now comms-exporter"] == printed.splitlines()[-2:]
        assert (tmp_path / unit["ExecStart"][1:]).with_name("pip.ran").exists()
        credential, _, source = unit["LoadCredential"].partition(":")
        assert (tmp_path / source[1:]).read_text() == "canary\n"
        assert 0o600 == (tmp_path / source[1:]).stat().st_mode & 0o777
        assert "%d/" + credential in unit["Environment"]
        environment = (tmp_path / unit["EnvironmentFile"][1:]).read_text()
        load([], {**dict([environment.strip().split("=")]), "TWILIO_AUTH_TOKEN": "canary"})


class TestDebian:
    def test_commands(self, tmp_path):
        """They configure the service of the package. The test runs them below another root."""
        package = tmp_path / "etc/comms-exporter"
        package.mkdir(parents=True)
        shutil.copy(ROOT / "deploy/debian/package/comms-exporter.yml", package)
        (tmp_path / "token").write_text("canary\n", encoding="utf-8")
        text = "\n".join(quick_start("apt", "cp", "chgrp", "chmod", "echo 'accounts", "systemctl"))
        below = text.replace("/etc/", f"{tmp_path}/etc/")

        printed = bash(below, tmp_path, 'apt() { echo "$2"; }; chgrp() { echo "$1"; }; systemctl() { echo "$*"; }')

        architecture = output("dpkg", "--print-architecture").strip() if shutil.which("dpkg") else "amd64"
        assert [
            f"./dist/comms-exporter_{__version__}_{architecture}.deb",
            "comms-exporter",
            "enable --now comms-exporter",
        ] == printed.splitlines()
        assert 0o640 == (package / "auth_token").stat().st_mode & 0o777
        (account,) = load([f"--config.file={package / 'comms-exporter.yml'}"], {"HOME": "/"}).accounts
        assert ("AC...", "canary") == account.credentials()[:2]
        drop_in = (ROOT / "deploy/debian/package/debian.conf").read_text(encoding="utf-8")
        assert "COMMS_EXPORTER_CONFIG_FILE=/etc/comms-exporter/comms-exporter.yml\n" in drop_in


def configured(path):
    """Return the settings of a unit; of several with the same name, the first."""
    found = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE):
        found.setdefault(name, value)
    return found


class TestDeployed:
    def commands(self):
        """Return the commands for a deployed exporter, each as a list of words."""
        section = under("docs/operating.md", "Commands on a deployed exporter")
        return [words for line in lines(section) for words, _ in simple(line)]

    def test_names_are_those_of_the_installation(self):
        """Of the container, of the service of the Compose file, and of the release of the chart."""
        container, compose, kubernetes, _, _ = self.commands()
        (run,) = quick_start("docker run -d")
        (install,) = quick_start("helm")
        composed = deploy.own()

        assert ["--name", container[2]] == shlex.split(run)[3:5]
        assert f"{composed['name']}-exporter-1" == compose[2]
        assert "exporter" in composed["services"]
        assert f"deployment/{shlex.split(install)[2]}" == kubernetes[2]
        for words in (container, compose, kubernetes):
            assert "comms-exporter check" == " ".join(words[words.index("--") + 1 :] if "--" in words else words[3:])

    @deploy.both_helms
    def test_config_file_is_that_of_the_chart(self, helm):
        words = ("template", "comms-exporter", deploy.CHART, "--set", "existingSecret=twilio", "--set")
        text = output(fetched("helm", f"helm-{helm}"), *words, "config.collect.interval=1m")
        objects = list(filter(None, yaml.load_all(text, Loader=yaml.CSafeLoader)))
        (container,) = deploy.pod_of(objects)["containers"]
        (given,) = [each for each in container["args"] if each.startswith("--config.file=")]

        assert "comms-exporter" == deploy.one(objects, "Deployment")["metadata"]["name"]
        assert f"`{given}`" in docs.page("operating.md")

    def test_files_are_those_of_the_units(self):
        *_, debian, systemd = self.commands()
        unit = configured(ROOT / "deploy/systemd/comms-exporter.service")
        credential, _, source = unit["LoadCredential"].partition(":")
        drop_in = (ROOT / "deploy/debian/package/debian.conf").read_text(encoding="utf-8")
        (config,) = re.findall(r"COMMS_EXPORTER_CONFIG_FILE=(.+)", drop_in)

        assert f"User={debian[2]}\n" in drop_in
        assert ["comms-exporter", "check", f"--config.file={config}"] == debian[3:]
        assert f"TWILIO_AUTH_TOKEN_FILE=%d/{credential}" == unit["Environment"]
        assert [
            "$(cat", f"{unit['EnvironmentFile']})", f"TWILIO_AUTH_TOKEN_FILE={source}", unit["ExecStart"], "check",
        ] == systemd[2:]  # fmt: skip

    def test_what_is_removed_is_what_was_installed(self):
        """The volume of the container, and the release of the chart."""
        (run,) = quick_start("docker run -d")
        (install,) = quick_start("helm")
        text = docs.page("operating.md")

        assert f"-v {re.search('`docker volume rm (.+?)`', text)[1]}:/var/lib/" in run
        assert re.search("`helm uninstall (.+?)`", text)[1] == shlex.split(install)[2]


class TestSimulator:
    async def test_commands(self):
        """Run by a shell against a simulator, none fails."""
        if not shutil.which("curl"):
            pytest.skip("curl is not installed")
        text = re.sub(r"^SIM=\S+", "", under("docs/simulator.md", "The simulator").partition("\n")[2])
        world = simulator.World(clock=time.time, speed=60)
        async with TestServer(simulator.make_app(world, simulator.Faults())) as server:
            address = str(server.make_url("")).rstrip("/")
            stand_in = 'curl() { command curl -sS --fail-with-body "$@"; echo; }'
            printed = await asyncio.to_thread(bash, text, ROOT, stand_in, SIM=address)

        answers = [json.loads(line) for line in printed.splitlines()]
        assert 9 == text.count("curl ") == len(answers)
        assert "operationId" in answers[2]
        assert {"recipient_domain", "provider", "sender_domain", "tag"} < answers[4].keys()
        assert [{"kind": "429", "times": 3, "retry_after": 7}] == [
            {key: fault[key] for key in ("kind", "times", "retry_after")} for fault in answers[5]["faults"]
        ]
        assert [0.3, 0.004] == [answer["failed"] for answer in answers[-2:]]

    def test_every_flag_is_documented(self):
        text = docs.PAGES[ROOT / "docs/simulator.md"]
        table = "".join(line for line in text.splitlines() if line.startswith("| `--"))

        assert docs.flags(simulator.build_parser()) - {"--help"} == set(re.findall(r"`(--[\w.-]+)", table))


class TestAlerts:
    def commands(self):
        """Return the commands below the headings, each as a list of words."""
        text = under("docs/alerts.md", "Load them") + under("docs/alerts.md", "Change thresholds")
        return [words for line in lines(text) for words, _ in simple(line)]

    def test_rules_can_be_written_and_checked(self, capsys, tmp_path, monkeypatch, prometheus_binaries):
        """As the page says, with its configuration and in its order."""
        (tmp_path / "rules.yml").write_text(under("docs/alerts.md", "Change thresholds", "yaml"), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        first, written, checked, asked, piped = self.commands()
        for command in (first, written, checked):
            assert 0 == cli.main([word.replace("/etc/prometheus", str(tmp_path)) for word in command[1:]])
        files = sorted((tmp_path / "rules").iterdir())
        groups = [group for file in files for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
        # What kubectl prints; the chart's test compares that with the files.
        monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump({"spec": {"groups": groups}})))

        assert ["kubectl", "get", "prometheusrule", "comms-exporter", "-o", "yaml"] == asked
        assert 0 == cli.main(piped[1:])
        assert ["no differences"] * 2 == capsys.readouterr().out.splitlines()[-2:]
        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", *files)

    def test_a_threshold_can_be_set_for_one_account(self, prometheus_binaries, tmp_path):
        """With the configuration of the page."""
        config = rules_config.parse(yaml.safe_load(under("docs/alerts.md", "Change thresholds", "yaml")))
        (tmp_path / "rules.yml").write_text(render(config)["comms-exporter.rules.yml"], encoding="utf-8")
        by_account = "account:threshold_comms_emails_undelivered:ratio_warning"
        test = {
            "rule_files": [str(tmp_path / "rules.yml")],
            "group_eval_order": ["comms-thresholds", "comms-thresholds-by-account"],
            "tests": [
                {
                    "input_series": [
                        {"series": f"comms_up{{account={name!r}}}", "values": "1 1"} for name in ("newsletter", "shop")
                    ],
                    "promql_expr_test": [
                        {
                            "expr": by_account,
                            "eval_time": "1m",
                            "exp_samples": [
                                {"labels": f'{by_account}{{account="newsletter"}}', "value": 0.08},
                                {"labels": f'{by_account}{{account="shop"}}', "value": 0.05},
                            ],
                        }
                    ],
                }
            ],
        }
        (tmp_path / "rules.test.yml").write_text(json.dumps(test), encoding="utf-8")

        assert "" == error_output(prometheus_binaries.promtool, "test", "rules", tmp_path / "rules.test.yml")


class TestYaml:
    def test_every_block_has_a_test(self):
        pages = [each.page for each in BLOCKS if each.language == "yaml"]

        assert [
            "README.md",
            "README.md",
            "SECURITY.md",
            "docs/alerts.md",
            "docs/configuration.md",
            "docs/configuration.md",
            "docs/configuration.md",
            "docs/messages.md",
            "docs/performance.md",
        ] == pages

    def test_payload_of_webhooks_is_the_one_that_is_tested(self, prometheus_three, tmp_path):
        block = yaml.safe_load(under("docs/messages.md", "Webhooks", "yaml"))
        config = tmp_path / "alertmanager.yml"
        config.write_text(yaml.safe_dump({**block, "route": {"receiver": "chat"}}), encoding="utf-8")

        assert messages.PAYLOAD == block["receivers"][0]["webhook_configs"][0]["payload"]
        assert "" == error_output(prometheus_three.amtool, "check-config", config)

    def test_accounts_can_be_in_a_folder(self, tmp_path):
        setting, _, account = under("docs/configuration.md", "accounts_dir", "yaml").partition("account_sid:")
        (tmp_path / "config.yml").write_text(setting, encoding="utf-8")
        (tmp_path / "accounts.d").mkdir()
        (tmp_path / "token").write_text("canary\n", encoding="utf-8")
        account = f"account_sid:{account}".replace("/run/secrets/shop", f"{tmp_path}/token")
        (tmp_path / "accounts.d" / "shop.yml").write_text(account, encoding="utf-8")

        settings = load([f"--config.file={tmp_path / 'config.yml'}"], {})

        assert [("shop", ("AC...", "canary"))] == [(each.name, each.credentials()) for each in settings.accounts]

    def test_mailbox_providers_can_be_added(self, tmp_path):
        (tmp_path / "config.yml").write_text(
            under("docs/configuration.md", "emails.providers", "yaml"), encoding="utf-8"
        )
        environ = {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token", "HOME": str(tmp_path)}

        settings = load([f"--config.file={tmp_path / 'config.yml'}"], environ)

        assert "lost" == settings.emails_collect
        assert (("acme", ("acme.example", "mail.acme.example")),) == settings.emails_providers

    def test_scrape_configuration_is_valid(self, prometheus_binaries, tmp_path):
        scrape, _, _ = under("README.md", "Use it", "yaml").partition("accounts:")
        (tmp_path / "prometheus.yml").write_text(scrape, encoding="utf-8")

        assert "" == error_output(prometheus_binaries.promtool, "check", "config", tmp_path / "prometheus.yml")

    def test_scrape_interval_for_many_series_is_valid(self, prometheus_binaries, tmp_path):
        slow = yaml.safe_load(under("docs/performance.md", "Beyond one process", "yaml"))
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"global": slow}), encoding="utf-8")

        assert "" == error_output(prometheus_binaries.promtool, "check", "config", tmp_path / "prometheus.yml")

    def test_accounts_are_valid(self, tmp_path):
        _, _, accounts = under("README.md", "Use it", "yaml").partition("accounts:")
        for name in ("shop", "newsletter"):
            (tmp_path / name).write_text(f"canary of {name}\n", encoding="utf-8")
        file = tmp_path / "comms.yml"
        file.write_text(f"accounts:{accounts}".replace("/run/secrets/", f"{tmp_path}/"), encoding="utf-8")
        settings = load([f"--config.file={file}"], {})

        assert [("AC...", "canary of shop"), ("SK...", "canary of newsletter")] == [
            account.credentials() for account in settings.accounts
        ]
        assert 60 == settings.collect_interval

    def test_web_config_file_is_valid(self, prometheus_three, tmp_path):
        """For promtool and for the exporter."""
        text = under("SECURITY.md", "Hardening", "yaml")
        # htpasswd uses the prefix $2y$ for the same kind of hash.
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
        (tmp_path / "web.yml").write_text(text.replace("$2y$10$...", hashed), encoding="utf-8")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl = deploy.program("openssl", remedy="install openssl")
        output(
            openssl,
            "req",
            "-x509",
            *curve,
            "-keyout",
            tmp_path / "tls.key",
            "-out",
            tmp_path / "tls.crt",
            "-subj",
            "/CN=x",
        )
        shutil.copy(tmp_path / "tls.crt", tmp_path / "ca.crt")
        config = web_config.parse((tmp_path / "web.yml").read_bytes(), tmp_path)

        assert "" == error_output(prometheus_three.promtool, "check", "web-config", tmp_path / "web.yml")
        assert frozenset({"prometheus.acme.example"}) == config.tls.allowed_sans
        assert tls.create_context(config.tls)


class TestReadme:
    def test_number_of_alerts_is_correct(self):
        names = {rule["alert"] for rule in docs.rules("comms-exporter.alerts.yml")}

        assert f"recording rules and {len(names)} alerts" in docs.PAGES[ROOT / "README.md"]

    def test_table_of_questions_has_valid_promql(self, prometheus_binaries, tmp_path):
        table = docs.PAGES[ROOT / "README.md"].partition("| question |")[2].partition("\n\n")[0]
        queries = re.findall(r"`([^`]+)`", table)
        rules = [{"record": f"r{number}", "expr": promql} for number, promql in enumerate(queries)]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "readme", "rules": rules}]}))

        assert 6 == len(rules)
        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", tmp_path / "rules.yml")
