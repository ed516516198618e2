"""Image, Compose file, chart, systemd unit and workflows are valid for the tools that read them."""

import configparser
import importlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import tomllib
from contextlib import contextmanager
from functools import cache, lru_cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from prometheus import error_output

from comms_exporter import __version__, simulator
from comms_exporter.config import load
from comms_exporter.simulator.mail import TAGS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/comms-exporter"
UNIT = DEPLOY / "systemd/comms-exporter.service"
COMPOSE = DEPLOY / "compose.yaml"
TOOLS = ROOT / ".tools"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
RULES = sorted((DEPLOY / "prometheus").glob("comms-exporter.*.yml"))
MESSAGES = DEPLOY / "alertmanager/comms-exporter.tmpl"
DASHBOARDS = sorted((ROOT / "grafana/dashboards").glob("*.json"))

every_case = pytest.mark.parametrize("case", CASES)
both_helms = pytest.mark.parametrize("helm", [3, 4])


def missing(what, remedy):
    """Skip the test because a tool is missing; fail in CI."""
    message = f"no {what}: {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def program(name, *folders, remedy="it is in the development lock"):
    """Return the path of a program in *folders*, next to Python, or on PATH."""
    path = os.pathsep.join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])
    return shutil.which(name, path=path) or missing(name, remedy)


def fetched(name, tool):
    return program(name, TOOLS / tool, remedy="run deploy/tools/fetch.py")


def output(*command, text=None, environ=None, code=0):
    """Return the stdout of *command*, or its stderr if it is expected to fail with *code*."""
    done = subprocess.run(
        list(map(str, command)),
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=None if environ is None else {"PATH": os.environ["PATH"], **environ},
        timeout=60,
        check=False,
    )
    assert code == done.returncode, f"{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def settings_from(arguments, environ):
    """Return the settings that the exporter loads from *arguments* and *environ*."""
    return load(list(arguments), environ)


@contextmanager
def health_server(status):
    """Serve /-/healthy with *status*."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/-/healthy" else 500)
            self.end_headers()

        def log_message(self, *_):
            pass

    class Server(HTTPServer):
        def handle_error(self, *_):
            """Ignore clients with the wrong protocol."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def check_health(address, *, code):
    """Return the output of the image's health check for the exporter at *address*."""
    script = DEPLOY / "image/healthcheck.py"
    return output(sys.executable, script, environ={"COMMS_EXPORTER_WEB_LISTEN_ADDRESS": address}, code=code)


class TestImage:
    def test_dockerfile_passes_hadolint(self):
        assert "" == error_output(program("hadolint"), "--failure-threshold", "warning", ROOT / "Dockerfile")

    def test_dockerignore_allows_exactly_what_is_copied(self):
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        kept = {line[1:] for line in lines if line.startswith("!")}
        copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", DOCKERFILE, re.MULTILINE)

        assert "*" in lines
        assert kept == {word for words in copied for word in words.split()}
        assert all((ROOT / name).exists() for name in kept)

    def test_the_build_lock_agrees_with_the_development_lock(self):
        def pinned(path):
            return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE))

        build, development = pinned("deploy/image/build.lock"), pinned("requirements-dev.lock")

        assert "hatchling" in build
        assert build.items() <= development.items()

    def test_structure_test_agrees_with_the_dockerfile(self):
        """On the user, the volume, the port and the entry point."""
        structure = yaml.safe_load((DEPLOY / "image/structure.yaml").read_text(encoding="utf-8"))["metadataTest"]

        assert "structure.yaml" in (DEPLOY / "image/build-and-test").read_text(encoding="utf-8")
        assert f"USER {structure['user']}\n" in DOCKERFILE
        assert f"VOLUME {structure['volumes'][0]}\n" in DOCKERFILE
        assert f"EXPOSE {structure['exposedPorts'][0]}\n" in DOCKERFILE
        assert f"ENTRYPOINT {json.dumps(structure['entrypoint'])}\n" in DOCKERFILE

    def test_build_script_has_valid_syntax(self):
        output("bash", "-n", DEPLOY / "image/build-and-test")
        output("bash", "-n", DEPLOY / "debian/build-and-test")

    def test_environment_is_valid_for_the_exporter(self):
        environ = dict(re.findall(r"(COMMS_EXPORTER_\w+|XDG_STATE_HOME)=(\S+)", DOCKERFILE))
        settings = settings_from([], {**environ, "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "canary"})

        assert Path("/var/lib/comms-exporter/state.db") == settings.state_path
        assert [":10067"] == [str(address) for address in settings.web_listen_address]

    @pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (503, 1), (404, 1)])
    def test_health_check_accepts_200_and_401(self, status, code):
        with health_server(status) as server:
            check_health(f":{server.server_port}", code=code)

    def test_health_check_works_with_tls(self, tmp_path):
        """It accepts any certificate."""
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        openssl = program("openssl", remedy="install openssl")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)
        output(openssl, "req", "-x509", *curve, "-out", certificate, "-subj", "/CN=nobody")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with health_server(200) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            assert "" == check_health(f"127.0.0.1:{server.server_port}", code=0)

    def test_health_check_prints_the_reason(self):
        error_message = check_health("127.0.0.1:1 [::1]:1", code=1)

        assert error_message.startswith("127.0.0.1:1: ConnectionRefusedError: ")


@cache
def composed(*flags, files=(COMPOSE,), **environ):
    compose = fetched("docker-compose", "compose")
    environ = {"HOME": "/nonexistent", **environ}
    files = [word for file in files for word in ("--file", file)]
    return json.loads(output(compose, *flags, *files, "config", "--format", "json", environ=environ))


def demo():
    return composed("--env-file", DEPLOY / "compose/demo.env")


def shared():
    """Return the demo with PostgreSQL."""
    return composed("--env-file", DEPLOY / "compose/demo.env", files=(COMPOSE, DEPLOY / "compose/postgresql.yaml"))


def own():
    return composed(TWILIO_ACCOUNT_SID="AC1")


def targets(name):
    """Return what Prometheus scrapes with this configuration; the rest is always the same."""
    config = yaml.safe_load((DEPLOY / "compose" / name).read_text(encoding="utf-8"))
    (scraped,) = config["scrape_configs"][0].pop("static_configs")
    first = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text(encoding="utf-8"))
    del first["scrape_configs"][0]["static_configs"]
    assert first == config
    return scraped["targets"]


class TestCompose:
    def test_the_demo_adds_a_simulator(self):
        everything = {"exporter", "prometheus", "alertmanager", "grafana"}

        assert everything == set(own()["services"])
        assert everything | {"simulator"} == set(demo()["services"])

    def test_an_account_sid_is_required(self):
        compose = fetched("docker-compose", "compose")
        error_message = output(compose, "--file", COMPOSE, "config", environ={"HOME": "/nonexistent"}, code=1)

        assert (
            "TWILIO_ACCOUNT_SID is missing a value: set it to the SID of the account that the auth token belongs to"
            in error_message
        )

    @pytest.mark.parametrize(("project", "state"), [(demo, "state"), (shared, "postgresql")])
    def test_mounted_files_exist_and_are_read_only(self, project, state):
        """Docker creates a folder in place of a missing file."""
        mounts = [mount for service in project()["services"].values() for mount in service.get("volumes", [])]
        sources = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind"]
        secrets = [Path(secret["file"]) for secret in project()["secrets"].values()]

        assert [] == [path for path in sources + secrets if not path.exists()]
        assert all(mount.get("read_only") for mount in mounts if mount["type"] == "bind")
        assert {state, "prometheus", "alertmanager", "grafana"} == {
            mount["source"] for mount in mounts if mount["type"] == "volume"
        }

    def test_secrets_are_files(self):
        assert {DEPLOY / "compose/secrets" / name for name in ("twilio_auth_token", "grafana_admin_password")} == {
            Path(secret["file"]) for secret in own()["secrets"].values()
        }
        assert "/secrets/\n" == (DEPLOY / "compose/.gitignore").read_text(encoding="utf-8")

    def test_services_are_hardened(self):
        """Images are pinned, ports are local, health is checked, and there are no capabilities."""
        for name, service in shared()["services"].items():
            assert re.search(r":(v?\d+\.)?\d+\.\d+$", service["image"]), name
            assert {"127.0.0.1"} >= {port["host_ip"] for port in service.get("ports", [])}, name
            assert "healthcheck" in service or name.startswith("exporter"), name  # its image has one
            assert ["ALL"] == service["cap_drop"], name
            assert ["no-new-privileges:true"] == service["security_opt"], name

    def test_the_exporter_has_the_current_version_and_a_read_only_root(self):
        for name in ("exporter", "exporter-2", "simulator"):
            service = shared()["services"][name]

            assert f"comms-exporter:{__version__}" == service["image"]
            assert __version__ == service["build"]["args"]["VERSION"]
            assert service["read_only"]

    def test_settings_are_valid_for_the_exporter(self):
        service = demo()["services"]["exporter"]
        token = demo()["secrets"]["twilio_auth_token"]["file"]
        settings = settings_from([], {**service["environment"], "TWILIO_AUTH_TOKEN_FILE": token})

        assert "http://simulator:10068/v1" == settings.api_base_url
        assert "ACdemo" == settings.accounts[0].name
        assert ("all", tuple(TAGS)) == (settings.emails_collect, settings.emails_tags)

    def test_two_exporters_share_a_database(self):
        services, secrets = shared()["services"], shared()["secrets"]
        url = settings_from(
            [],
            {
                **services["exporter"]["environment"],
                "TWILIO_AUTH_TOKEN_FILE": secrets["twilio_auth_token"]["file"],
                "COMMS_EXPORTER_STATE_URL_FILE": secrets["state_url"]["file"],
            },
        ).state_url
        password = Path(secrets["postgresql_password"]["file"]).read_text(encoding="utf-8").strip()

        assert services["exporter"]["environment"] == services["exporter-2"]["environment"]
        assert f"postgresql://{services['postgresql']['environment']['POSTGRES_USER']}:{password}@postgresql/comms" == (
            url.secret
        )
        assert {"exporter:10067", "exporter-2:10067"} == set(targets("postgresql-prometheus.yml"))
        assert {"exporter:10067"} == set(targets("prometheus.yml"))

    def test_emails_are_collected_in_the_demo_only(self):
        environment = own()["services"]["exporter"]["environment"]

        assert ("off", "5m", "") == tuple(
            environment[f"COMMS_EXPORTER_EMAILS_{name}"] for name in ("COLLECT", "INTERVAL", "TAGS")
        )

    def test_flags_are_valid_for_the_simulator(self):
        command, *flags = demo()["services"]["simulator"]["command"]

        assert "simulator" == command
        assert ":10068" == simulator.parse_arguments(flags).listen_address

    def test_prometheus_finds_its_rules(self, tmp_path, prometheus_binaries):
        for mount in demo()["services"]["prometheus"]["volumes"]:
            if mount["type"] == "bind":
                shutil.copy(mount["source"], tmp_path / Path(mount["target"]).name)

        assert "" == error_output(prometheus_binaries.promtool, "check", "config", tmp_path / "prometheus.yml")

    def test_rules_can_be_those_of_another_folder(self, tmp_path):
        service = composed(TWILIO_ACCOUNT_SID="AC1", RULES_DIR=str(tmp_path))["services"]["prometheus"]
        sources = {Path(mount["target"]).name: Path(mount["source"]) for mount in service["volumes"]}

        assert [tmp_path / path.name for path in RULES] == [sources[path.name] for path in RULES]

    def test_services_reach_each_other_by_name(self):
        config = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text(encoding="utf-8"))
        example = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
        sources = (ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
        called = json.dumps([config["alerting"], config["scrape_configs"]])

        assert ["alertmanager:9093", "exporter:10067"] == re.findall(r"[a-z]+:\d+", called)
        assert "url: http://prometheus:9090" in sources
        assert called.replace("alertmanager:", "localhost:").replace("exporter:", "localhost:") == json.dumps(
            [example["alerting"], example["scrape_configs"]]
        )

    def test_grafana_finds_the_dashboards(self):
        mounts = {mount["target"]: mount["source"] for mount in demo()["services"]["grafana"]["volumes"]}
        (provider,) = yaml.safe_load(
            (ROOT / "grafana/provisioning/dashboards/comms-exporter.yml").read_text(encoding="utf-8")
        )["providers"]
        home = Path(demo()["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])

        assert str(ROOT / "grafana/dashboards") == mounts[provider["options"]["path"]]
        assert provider["options"]["path"] == str(home.parent)
        assert (ROOT / "grafana/dashboards" / home.name).exists()


@cache
def rendered(helm, case, *flags):
    """Return the objects that Helm renders with the values of *case*."""
    values = CHART / f"ci/{case}-values.yaml"
    text = output(fetched("helm", f"helm-{helm}"), "template", "rel", CHART, "--values", values, *flags)
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


def one(objects, kind):
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def pod_of(objects):
    (workload,) = [each for each in objects if each["kind"] in {"Deployment", "StatefulSet"}]
    return workload["spec"]["template"]["spec"]


class TestChart:
    @both_helms
    @every_case
    def test_passes_helm_lint(self, helm, case):
        output(fetched("helm", f"helm-{helm}"), "lint", "--strict", CHART, "--values", CHART / f"ci/{case}-values.yaml")

    @every_case
    def test_renders_the_same_with_both_helms(self, case):
        assert rendered(3, case) == rendered(4, case)

    @every_case
    @pytest.mark.parametrize("kubernetes", ["1.28", "1.37"])
    def test_objects_are_valid_for_kubernetes(self, case, kubernetes):
        """For the oldest version that the chart allows and for the newest."""
        try:
            validate = importlib.import_module("kubernetes_validate")
        except ModuleNotFoundError:
            missing("kubernetes-validate", "it is in the development lock")
        # Without a cache, it reads a large file for every object.
        module = importlib.import_module("kubernetes_validate.utils")
        if not hasattr(module.schema_contents, "cache_info"):
            module.schema_contents = lru_cache(module.schema_contents)
        for each in rendered(4, case):
            if not each["apiVersion"].startswith("monitoring.coreos.com/"):
                validate.validate(each, kubernetes, strict=True)

    def test_objects_are_valid_for_the_operator(self):
        """ServiceMonitors and PrometheusRules follow the schemas of the operator, which reject a mistake."""
        node = program("node", remedy="install Node")
        if not (TOOLS / "crds").exists():
            missing("schemas of the operator", "run deploy/tools/fetch.py")
        resources = [
            each
            for case in CASES
            for each in rendered(4, case)
            if each["apiVersion"].startswith("monitoring.coreos.com/")
        ]
        invalid = json.loads(json.dumps(one(rendered(4, "operator"), "ServiceMonitor")))
        invalid["spec"]["endpoints"][0]["interval"] = "30 secs"

        def errors(*resources):
            return output(node, DEPLOY / "tools/validate-crds.mjs", text=json.dumps(resources))

        assert {"ServiceMonitor", "PrometheusRule"} == {each["kind"] for each in resources}
        assert "" == errors(*resources)
        assert errors(invalid).startswith("ServiceMonitor/spec/endpoints/0/interval: ")

    @every_case
    def test_pods_are_restricted(self, case):
        """They meet the level "restricted" of PodSecurity, and have a read-only root and no token."""
        pod = pod_of(rendered(4, case))

        assert pod["securityContext"]["runAsNonRoot"] is True
        assert 65532 == pod["securityContext"]["runAsUser"]
        assert "RuntimeDefault" == pod["securityContext"]["seccompProfile"]["type"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {"configMap", "emptyDir", "persistentVolumeClaim", "secret"} >= {
            kind for volume in pod["volumes"] for kind in set(volume) - {"name"}
        }
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"drop": ["ALL"]} == container["securityContext"]["capabilities"]
            assert not any("hostPort" in port for port in container.get("ports", []))
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True

    @every_case
    def test_settings_are_valid_for_the_exporter(self, case, tmp_path):
        """Flags, variables and the config file, with a Secret for every account."""
        container = pod_of(rendered(4, case))["containers"][0]
        for folder in ("config", "database", "secrets", "web"):
            (tmp_path / folder).mkdir()
        (tmp_path / "database/url").write_text("postgresql://comms:canary@db.example/comms\n", encoding="utf-8")
        for key in ("account-sid", "auth-token", "api-key", "api-secret", "shop", "newsletter"):
            (tmp_path / "secrets" / key).write_text("canary\n", encoding="utf-8")
        (tmp_path / "web/web-config.yml").touch()

        def here(text):
            return text.replace("/etc/comms-exporter/", f"{tmp_path}/").replace("$(POD_INDEX)", "0")

        for each in rendered(4, case):
            if "config.yaml" in each.get("data", {}):
                (tmp_path / "config/config.yaml").write_text(here(each["data"]["config.yaml"]), encoding="utf-8")
        environ = {each["name"]: here(each["value"]) for each in container["env"] if "value" in each}
        flags = [here(flag) for flag in container["args"]]
        settings = settings_from(flags, {key: value for key, value in environ.items() if not key.endswith("_PROXY")})

        if case == "database":
            assert (None, "postgresql://comms:canary@db.example/comms") == (
                settings.state_path,
                settings.state_url.secret,
            )
            stored_at = "/etc/comms-exporter/database"
        else:
            assert Path("/var/lib/comms-exporter/state.db") == settings.state_path
            stored_at = "/var/lib/comms-exporter"
        assert settings.accounts
        assert {stored_at} < {mount["mountPath"] for mount in container["volumeMounts"]}

    @every_case
    def test_probes_use_the_health_endpoints(self, case):
        """With TLS or a password, they only connect."""
        container = pod_of(rendered(4, case))["containers"][0]
        probes = {name: container[f"{name}Probe"] for name in ("liveness", "readiness")}

        if case == "web-config":
            assert {"liveness": {"tcpSocket": {"port": "http"}}, "readiness": {"tcpSocket": {"port": "http"}}} == probes
        else:
            assert {"liveness": "/-/healthy", "readiness": "/-/ready"} == {
                name: probe["httpGet"]["path"] for name, probe in probes.items()
            }

    def test_never_runs_two_at_a_time(self):
        deployment = one(rendered(4, "default"), "Deployment")

        assert 1 == deployment["spec"]["replicas"]
        assert {"type": "Recreate"} == deployment["spec"]["strategy"]

    def test_shards_have_an_index_and_a_volume(self):
        """The index comes from the pod, and Prometheus scrapes each pod."""
        objects = rendered(4, "shards")
        stateful = one(objects, "StatefulSet")["spec"]
        container = stateful["template"]["spec"]["containers"][0]
        (index,) = [each for each in container["env"] if each["name"] == "POD_INDEX"]

        assert "metadata.labels['apps.kubernetes.io/pod-index']" == index["valueFrom"]["fieldRef"]["fieldPath"]
        assert ["--shard.index=$(POD_INDEX)", "--shard.total=3"] == container["args"][-2:]
        assert 3 == stateful["replicas"]
        assert ["state"] == [claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]]
        assert "None" == one(objects, "Service")["spec"]["clusterIP"]
        assert "PersistentVolumeClaim" not in {each["kind"] for each in objects}

    def test_replicas_share_a_database(self):
        """There is no volume, and a new pod is ready before an old one stops."""
        objects = rendered(4, "database")
        deployment = one(objects, "Deployment")["spec"]
        disruption = one(objects, "PodDisruptionBudget")["spec"]

        assert 3 == deployment["replicas"]
        assert {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}} == deployment[
            "strategy"
        ]
        assert {"PersistentVolumeClaim", "StatefulSet"}.isdisjoint(each["kind"] for each in objects)
        assert {"secrets", "config", "database"} == {volume["name"] for volume in pod_of(objects)["volumes"]}
        assert {"maxUnavailable": 1, "selector": deployment["selector"]} == disruption
        assert "None" == one(objects, "Service")["spec"]["clusterIP"]
        assert [53, 53, 443, 5432] == [
            port["port"] for rule in one(objects, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]
        ]

    def test_replicas_are_spread_unless_the_values_say_how(self):
        spread = pod_of(rendered(4, "database"))["topologySpreadConstraints"]
        own = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
        flags = ("--set-json", f"topologySpreadConstraints={json.dumps([own])}")

        assert ["kubernetes.io/hostname", "topology.kubernetes.io/zone"] == [each["topologyKey"] for each in spread]
        assert {"ScheduleAnyway"} == {each["whenUnsatisfiable"] for each in spread}
        assert [own] == pod_of(rendered(4, "database", *flags))["topologySpreadConstraints"]
        assert "topologySpreadConstraints" not in pod_of(rendered(4, "default"))

    def test_one_replica_needs_no_disruption_budget(self):
        """It would keep nodes from being drained."""
        for case, flags in (("default", ()), ("database", ("--set", "replicas=1"))):
            assert "PodDisruptionBudget" not in {each["kind"] for each in rendered(4, case, *flags)}

    def test_the_url_of_the_database_is_in_no_object(self):
        """Only the name of the Secret and where it is mounted."""
        (url,) = [each for each in pod_of(rendered(4, "database"))["containers"][0]["env"] if "URL" in each["name"]]

        assert {"name": "COMMS_EXPORTER_STATE_URL_FILE", "value": "/etc/comms-exporter/database/url"} == url

    def test_rules_are_those_of_the_repository(self):
        """Those in the values come after them."""
        groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
        rule = one(rendered(4, "operator"), "PrometheusRule")

        assert [*groups, "ours"] == [*rule["spec"]["groups"][:-1], rule["spec"]["groups"][-1]["name"]]
        assert "monitoring" == rule["metadata"]["labels"]["release"]

    def test_service_monitor_has_all_values(self):
        """The schemas of the operator accept unknown keys, so this compares all of it."""
        (endpoint,) = one(rendered(4, "operator"), "ServiceMonitor")["spec"]["endpoints"]

        assert {
            "port": "http",
            "path": "/metrics",
            "scheme": "http",
            "interval": "1m",
            "scrapeTimeout": "20s",
            "honorLabels": False,
            "relabelings": [{"targetLabel": "cluster", "replacement": "mail"}],
            "metricRelabelings": [
                {"sourceLabels": ["__name__"], "regex": "comms_email_operation_.+", "action": "drop"}
            ],
        } == endpoint

    def test_the_job_label_is_the_one_in_the_rules(self):
        objects = rendered(4, "operator")
        label = one(objects, "ServiceMonitor")["spec"]["jobLabel"]

        assert "comms-exporter" == one(objects, "Service")["metadata"]["labels"][label]

    def test_dashboards_are_those_of_the_repository(self):
        """With the label that Grafana's sidecar looks for."""
        (found,) = [each for each in rendered(4, "operator") if each["metadata"]["name"].endswith("-dashboards")]

        assert {path.name: path.read_text(encoding="utf-8").removesuffix("\n") for path in DASHBOARDS} == found["data"]
        assert "1" == found["metadata"]["labels"]["grafana_dashboard"]

    def test_messages_are_those_of_the_repository(self):
        (found,) = [each for each in rendered(4, "operator") if each["metadata"]["name"].endswith("-messages")]

        assert {MESSAGES.name: MESSAGES.read_text(encoding="utf-8").removesuffix("\n")} == found["data"]

    def test_files_of_the_chart_are_links(self):
        """Helm packages their targets."""
        linked = {path.resolve() for path in (CHART / "files").rglob("*.*")}

        assert {*RULES, *DASHBOARDS, MESSAGES} == linked

    @both_helms
    def test_package_has_all_files_and_no_tests(self, helm, tmp_path):
        output(fetched("helm", f"helm-{helm}"), "package", CHART, "--destination", tmp_path)
        with tarfile.open(tmp_path / f"comms-exporter-{chart()['version']}.tgz") as package:
            members = {member.name: member for member in package.getmembers()}
            packed = {name: package.extractfile(name).read() for name in members if "/files/" in name}

        assert {path.name: path.read_bytes() for path in (*RULES, *DASHBOARDS, MESSAGES)} == {
            Path(name).name: content for name, content in packed.items()
        }
        assert not any("/ci/" in name for name in members)

    def test_network_policy_allows_the_container_port(self):
        """Not the port of the Service. Outgoing, it allows DNS, HTTPS and what the values add."""
        objects = rendered(4, "network-policy")
        policy = one(objects, "NetworkPolicy")["spec"]
        (ingress,) = policy["ingress"]
        (port,) = pod_of(objects)["containers"][0]["ports"]

        assert 80 == one(objects, "Service")["spec"]["ports"][0]["port"]
        assert [port["containerPort"]] == [each["port"] for each in ingress["ports"]]
        assert [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}] == ingress[
            "from"
        ]
        assert [53, 53, 443, 3128] == [each["port"] for rule in policy["egress"] for each in rule["ports"]]

    def test_service_monitor_can_use_tls_and_a_password(self):
        (endpoint,) = one(rendered(4, "web-config"), "ServiceMonitor")["spec"]["endpoints"]

        assert "https" == endpoint["scheme"]
        assert "ca.crt" == endpoint["tlsConfig"]["ca"]["secret"]["key"]
        assert {"name": "scraper", "key": "password"} == endpoint["basicAuth"]["password"]

    @both_helms
    @pytest.mark.parametrize(
        ("flags", "error_message"),
        [
            pytest.param(
                ["existingSecret="], "set it to the name of the Secret with Twilio's credentials", id="no secret"
            ),
            pytest.param(["shards=0"], "shards", id="no shards"),
            pytest.param(["shards=2", "persistence.existingClaim=x"], "shards cannot share a claim", id="one claim"),
            pytest.param(
                ["shards=2", "database.existingSecret=x"], "leave it at 1, and set replicas", id="shards of a database"
            ),
            pytest.param(["replicas=2"], "replicas: more than 1 need a database", id="replicas without a database"),
            pytest.param(
                ["persistence.existingClaim=x", "database.existingSecret=x"],
                "persistence.existingClaim: the counters are in the database",
                id="claim and database",
            ),
            pytest.param(["config.state.url=postgresql://x:canary@y/z"], "url", id="URL in a ConfigMap"),
            pytest.param(
                ["config.state\\.url=postgresql://x:canary@y/z"], "state.url", id="URL in a ConfigMap, as one word"
            ),
            pytest.param(["database.url=postgresql://x:canary@y/z"], "url", id="URL in the values"),
            pytest.param(["podDisruptionBudget.maxUnavailable=0"], "maxUnavailable", id="no drain"),
            pytest.param(["service.prot=1"], "prot", id="unknown value"),
            pytest.param(["image.tag=latest"], "tag", id="moving tag"),
            pytest.param(["config.accounts[0].auth_token=canary"], "auth_token", id="secret in a ConfigMap"),
            pytest.param(["serviceMonitor.interval=30 secs"], "interval", id="no duration"),
            pytest.param(["prometheusRule.config.job=7"], "job", id="no job"),
            pytest.param(["prometheusRule.runbookUrl=https://wiki/"], "runbookUrl", id="value of an older chart"),
        ],
    )
    def test_rejects_invalid_values(self, helm, flags, error_message):
        sets = [word for flag in flags for word in ("--set", flag)]
        values = CHART / "ci/default-values.yaml"
        command = (fetched("helm", f"helm-{helm}"), "template", "rel", CHART, "--values", values, *sets)

        assert error_message in output(*command, code=1)

    def test_schema_covers_every_value(self):
        """Those in values.yaml, those that Helm adds, and no others."""
        values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
        schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
        fixed = {key: part for key, part in schema["properties"].items() if part.get("additionalProperties") is False}

        assert set(values) | {"global"} == set(schema["properties"])
        assert schema["additionalProperties"] is False
        assert {key: set(values[key]) for key in fixed} == {key: set(part["properties"]) for key, part in fixed.items()}

    def test_notes_list_the_next_steps(self):
        helm, values = fetched("helm", "helm-4"), CHART / "ci/everything-values.yaml"
        notes = output(helm, "install", "rel", CHART, "--dry-run=client", "--values", values).partition("NOTES:")[2]

        assert "kubectl --namespace mail port-forward service/rel-comms-exporter 10067:10067" in notes
        assert "THE COUNTERS ARE NOT PERSISTED" in notes
        assert "Prometheus does not scrape it yet" in notes
        assert "PLACEHOLDER" not in notes


def chart():
    return yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))


class TestUnit:
    def settings(self):
        parser = configparser.RawConfigParser(strict=False, interpolation=None, delimiters="=")
        parser.optionxform = str
        parser.read(UNIT, encoding="utf-8")
        return parser["Service"]

    def test_passes_systemd_analyze_verify(self, tmp_path):
        installed = self.settings()["ExecStart"]
        copy = tmp_path / UNIT.name
        copy.write_text(UNIT.read_text(encoding="utf-8").replace(installed, sys.executable), encoding="utf-8")
        systemd = program("systemd-analyze", remedy="install systemd")
        done = subprocess.run([systemd, "verify", "--man=no", copy], capture_output=True, text=True, check=False)

        assert (0, "") == (done.returncode, done.stderr)

    def test_is_hardened(self):
        """systemd's exposure score is at most 1.5 of 10."""
        systemd = program("systemd-analyze", remedy="install systemd")

        assert "" == error_output(systemd, "security", "--offline=true", "--threshold=15", "--no-pager", UNIT)

    def test_is_valid_and_hardened_in_the_debian_package(self, tmp_path):
        """With the drop-in that the package adds. deploy/debian/build-and-test runs the service."""
        drop_in = (DEPLOY / "debian/package/debian.conf").read_text(encoding="utf-8")
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(UNIT, tmp_path)
        program_of_package = re.findall(r"^ExecStart=(.+)$", drop_in, re.MULTILINE)
        (folder / "debian.conf").write_text(drop_in.replace(*program_of_package, sys.executable), encoding="utf-8")
        systemd = program("systemd-analyze", remedy="install systemd")
        environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
        done = subprocess.run(
            [systemd, "verify", "--man=no", UNIT.name], env=environ, capture_output=True, text=True, check=False
        )

        assert ["/usr/bin/comms-exporter"] == program_of_package
        assert (0, "") == (done.returncode, done.stderr)

    def test_settings_are_valid_for_the_exporter(self, tmp_path):
        (tmp_path / "auth_token").write_text("canary\n", encoding="utf-8")
        lines = re.findall(r"^Environment=(\w+)=(.+)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
        environ = {name: value.replace("%d", str(tmp_path)).replace("%S", "/var/lib") for name, value in lines}
        settings = settings_from([], {**environ, "TWILIO_ACCOUNT_SID": "AC1"})

        assert ("AC1", "canary") == settings.accounts[0].credentials()
        assert Path("/var/lib", self.settings()["StateDirectory"], "state.db") == settings.state_path

    def test_can_read_proc_stat(self):
        """Without it, prometheus_client has no process_* metrics."""
        assert "ProcSubset" not in self.settings()


class TestWorkflows:
    def test_pass_zizmor(self):
        assert "" == error_output(program("zizmor"), "--offline", "--no-progress", ROOT / ".github/workflows")

    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
    def test_actions_are_pinned(self, path):
        """To a commit, with the version in a comment."""
        used = re.findall(r"uses: (?!\./)(.+)", path.read_text(encoding="utf-8"))

        assert used
        assert [] == [each for each in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)]

    def test_run_existing_targets_and_scripts(self):
        text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
        targets = {target for line in re.findall(r"run: make (.+)", text) for target in line.split()}
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

        assert {"wheel", "sbom"} == targets
        assert [] == [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
        assert "bash .ci/run" in text
        assert (ROOT / ".ci/run").exists()


class TestRelease:
    def test_versions_agree(self):
        """Those of the package, the chart and the changelog."""
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

        assert ["version"] == pyproject["project"]["dynamic"]
        assert __version__ == chart()["appVersion"]
        assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    def test_release_notes_are_a_section_of_the_changelog(self):
        script = re.search(r"awk .*? (?='/)'.*?'", (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
        command = f"{script[0]} {ROOT / 'CHANGELOG.md'}"
        notes = output("bash", "-c", command, environ={"GITHUB_REF_NAME": f"v{__version__}"})

        assert "### " in notes
        assert "## [" not in notes.replace("### ", "")
        assert "" == output("bash", "-c", command, environ={"GITHUB_REF_NAME": "v99.0.0"}).strip()
