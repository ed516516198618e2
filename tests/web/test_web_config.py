"""The format of the web config file: exporter-toolkit's keys and values, and errors that help without showing secrets."""

import re
import ssl
import subprocess

import pytest
from web.certificates import HASH, HEADERS, MUTUAL, TLS, USER, copy_files

from comms_exporter.web.tls import create_context
from comms_exporter.web.web_config import RateLimit, WebConfig, parse
from comms_exporter.web.yaml_nodes import WebConfigError


def check(text, directory):
    """Return *text* as a web config, with a valid TLS configuration."""
    config = parse(text.encode(), directory)
    if config.tls:
        create_context(config.tls)
    return config


VALID = {
    "an empty file": "",
    "only a comment": "# nothing\n",
    "an empty mapping": "{}\n",
    "empty parts": "tls_server_config:\nhttp_server_config:\nbasic_auth_users:\nrate_limit:\n",
    "a byte order mark": "\ufeff{}\n",
    "certificate and key": TLS,
    "empty client_auth_type": f"{TLS}  client_auth_type: ''\n",
    "versions without a certificate": "tls_server_config:\n  min_version: TLS12\n",
    "both a file and a text": f"{TLS}  cert: whatever\n  key: whatever\n",
    "no client certificate": f"{TLS}  client_auth_type: NoClientCert\n",
    "a client certificate requested": f"{TLS}  client_auth_type: RequestClientCert\n  client_ca_file: ca.pem\n",
    "a client certificate verified if given": f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n",
    "any client certificate": f"{TLS}  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem\n",
    "any client certificate, by its alias": f"{TLS}  client_auth_type: RequireClientCert\n  client_ca_file: ca.pem\n",
    "a client certificate required": MUTUAL,
    "the system's CA certificates": f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n",
    "allowed names of clients": f"{MUTUAL}  client_allowed_sans: [prometheus.example, 127.0.0.1, 1]\n",
    "null for allowed names": f"{TLS}  client_allowed_sans:\n",
    **{f"from {v}": f"{TLS}  min_version: {v}\n" for v in ("TLS10", "TLS11", "TLS12", "TLS13", "~")},
    **{f"up to {v}": f"{TLS}  max_version: {v}\n" for v in ("TLS12", "TLS13")},
    "ciphers": f"{TLS}  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA]\n",
    "ciphers of TLS 1.3": f"{TLS}  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
    "no ciphers": f"{TLS}  cipher_suites: []\n",
    **{f"curve {c}": f"{TLS}  curve_preferences: [{c}]\n" for c in ("CurveP256", "CurveP384", "CurveP521", "X25519")},
    "several curves": f"{TLS}  curve_preferences: [X25519, CurveP256]\n",
    **{f"{b} for a boolean": f"{TLS}  prefer_server_cipher_suites: {b}\n" for b in ("yes", "Off", "y", "true", "~")},
    "http2": "http_server_config:\n  http2: true\n",
    "no http2": "http_server_config:\n  http2: false\n",
    "all headers": f"{HEADERS}Content-Security-Policy: x\n    X-Frame-Options: deny\n    X-Content-Type-Options: nosniff\n"
    "    X-XSS-Protection: 0\n    Strict-Transport-Security: max-age=1\n",
    "the other frame option": f"{HEADERS}X-Frame-Options: sameorigin\n",
    "an empty header": f"{HEADERS}Content-Security-Policy: ''\n",
    "a user": f"{USER}{HASH}\n",
    **{f"{p} hash": f"{USER}{HASH.replace('$2y$', p)}\n" for p in ("$2a$", "$2b$", "$2x$")},
    "the lowest cost": f"{USER}{HASH.replace('$10$', '$04$')}\n",
    "unusual user names": f"basic_auth_users:\n  1: {HASH}\n  true: {HASH}\n  '': {HASH}\n  'a:b': {HASH}\n",
    "an alias": f"basic_auth_users:\n  a: &x {HASH}\n  b: *x\n",
    "a tag": f"{USER}!foo {HASH}\n",
    **{
        f"rate {i}": f"rate_limit:\n  interval: {i}\n  burst: 1\n"
        for i in ("1s", "1m30s", "1.5s", ".5s", "1µs", "0", "~")
    },
    "only a burst": "rate_limit:\n  burst: 1\n",
}

INVALID = {
    "a list": ("[]\n", "is not a mapping"),
    "a string": ("hello\n", "is not a mapping"),
    "an unknown key": (
        "tls_config: 1\n",
        "line 1: tls_config: unknown key; did you mean tls_server_config?",
    ),
    "an unknown key for TLS": (
        f"{TLS}  cert_path: 1\n",
        "line 4: tls_server_config.cert_path: unknown key; did you mean cert?",
    ),
    "an unknown key for HTTP": (
        "http_server_config:\n  port: 1\n",
        "line 2: http_server_config.port: unknown key; valid keys are http2, headers",
    ),
    "an unknown key for rates": (
        "rate_limit:\n  foo: 1\n",
        "line 2: rate_limit.foo: unknown key; valid keys are interval, burst",
    ),
    "a duplicate part": ("rate_limit: {}\nrate_limit: {}\n", "line 2: not valid YAML; duplicate key"),
    "a duplicate key": (
        "http_server_config:\n  http2: true\n  http2: true\n",
        "line 3: not valid YAML; duplicate key",
    ),
    "a duplicate user": (f"{USER}{HASH}\n  alice: {HASH}\n", "line 3: not valid YAML; duplicate key"),
    "a string for TLS": ("tls_server_config: x\n", "tls_server_config: is not a mapping"),
    "no key": (
        "tls_server_config:\n  cert_file: cert.pem\n",
        "tls_server_config.key_file: is missing; set it, or key",
    ),
    "no certificate": (
        "tls_server_config:\n  key_file: key.pem\n",
        "tls_server_config.cert_file: is missing; set it, or cert",
    ),
    "only client_auth_type": (
        "tls_server_config:\n  client_auth_type: NoClientCert\n",
        "tls_server_config.cert_file: is missing; set it, or cert",
    ),
    "a certificate file that does not exist": (
        TLS.replace("cert.pem", "no.pem"),
        "tls_server_config.cert_file: cannot read {}/no.pem: No such file or directory",
    ),
    "a list for a certificate": (TLS.replace("cert.pem", "[a]"), "tls_server_config.cert_file: is not a string"),
    "an empty certificate file": (
        TLS.replace("cert.pem", "nothing.pem"),
        "tls_server_config.cert_file: contains no PEM certificate",
    ),
    "a certificate for a key": (
        TLS.replace("key.pem", "cert.pem"),
        "tls_server_config.key_file: contains no PEM key",
    ),
    "the key of another certificate": (
        TLS.replace("key.pem", "other.key"),
        "tls_server_config.key_file: does not belong to the certificate",
    ),
    "an encrypted key": (
        TLS.replace("key.pem", "encrypted.key"),
        "tls_server_config.key_file: cannot be used with its certificate: it is damaged, or encrypted",
    ),
    "an unknown client_auth_type": (
        f"{TLS}  client_auth_type: requireandverifyclientcert\n",
        "tls_server_config.client_auth_type: 'requireandverifyclientcert' is unknown; did you mean RequireAndVerifyClientCert?",
    ),
    "a client CA without client_auth_type": (
        f"{TLS}  client_ca_file: ca.pem\n",
        "tls_server_config.client_ca_file: needs client_auth_type; set it to RequireAndVerifyClientCert",
    ),
    "a client CA file that does not exist": (
        MUTUAL.replace("ca.pem", "no.pem"),
        "tls_server_config.client_ca_file: cannot read {}/no.pem: No such file or directory",
    ),
    "a directory for a client CA": (
        MUTUAL.replace("ca.pem", "."),
        "tls_server_config.client_ca_file: cannot read {}: Is a directory",
    ),
    "a string for allowed names": (
        f"{MUTUAL}  client_allowed_sans: foo\n",
        "tls_server_config.client_allowed_sans: is not a list",
    ),
    "mappings for allowed names": (
        f"{MUTUAL}  client_allowed_sans: [a: b]\n",
        "tls_server_config.client_allowed_sans: is not a string",
    ),
    **{
        f"{key} {version or 'empty'}": (
            f"{TLS}  {key}: '{version}'\n",
            f"tls_server_config.{key}: '{version}' is {problem}",
        )
        for key in ("min_version", "max_version")
        for version, problem in (
            ("TLS1.2", "unknown; did you mean TLS12?"),
            ("tls14", "not one of TLS10, TLS11, TLS12, TLS13"),
            ("", "not one of TLS10, TLS11, TLS12, TLS13"),
        )
    },
    "OpenSSL's name of a cipher": (
        f"{TLS}  cipher_suites: [ECDHE-ECDSA-AES128-GCM-SHA256]\n",
        (
            "tls_server_config.cipher_suites: 'ECDHE-ECDSA-AES128-GCM-SHA256' is unknown; "
            "did you mean TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256?"
        ),
    ),
    "an insecure cipher": (
        f"{TLS}  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n",
        (
            "tls_server_config.cipher_suites: 'TLS_RSA_WITH_AES_128_CBC_SHA' is unknown; "
            "did you mean TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA?"
        ),
    ),
    "a string for ciphers": (
        f"{TLS}  cipher_suites: TLS_AES_128_GCM_SHA256\n",
        "tls_server_config.cipher_suites: is not a list",
    ),
    "an unknown curve": (
        f"{TLS}  curve_preferences: [P256]\n",
        "tls_server_config.curve_preferences: 'P256' is unknown; did you mean CurveP256?",
    ),
    "a number for a boolean": (
        f"{TLS}  prefer_server_cipher_suites: 1\n",
        "tls_server_config.prefer_server_cipher_suites: is not true or false",
    ),
    "a string for a boolean": (
        "http_server_config:\n  http2: 'true'\n",
        "http_server_config.http2: is not true or false",
    ),
    "a list for headers": ("http_server_config:\n  headers: []\n", "http_server_config.headers: is not a mapping"),
    "an unsupported header": (
        f"{HEADERS}Server: x\n",
        (
            "line 3: http_server_config.headers.Server: unknown key; valid keys are Content-Security-Policy, "
            "Strict-Transport-Security, X-Content-Type-Options, X-Frame-Options, X-XSS-Protection"
        ),
    ),
    "a header in lower case": (
        f"{HEADERS}x-frame-options: deny\n",
        "line 3: http_server_config.headers.x-frame-options: unknown key; did you mean X-Frame-Options?",
    ),
    "a header value in upper case": (
        f"{HEADERS}X-Frame-Options: DENY\n",
        "http_server_config.headers.X-Frame-Options: is not deny or sameorigin",
    ),
    "an empty header value": (
        f"{HEADERS}X-Frame-Options:\n",
        "http_server_config.headers.X-Frame-Options: is not deny or sameorigin",
    ),
    "an invalid header value": (
        f"{HEADERS}X-Content-Type-Options: sniff\n",
        "http_server_config.headers.X-Content-Type-Options: is not nosniff",
    ),
    "a list for users": ("basic_auth_users: [a]\n", "basic_auth_users: is not a mapping"),
    **{
        f"{kind} for a hash": (
            f"{USER}{text}\n",
            'basic_auth_users.alice: is not a bcrypt hash; create one with htpasswd -nBC 10 ""',
        )
        for kind, text in {
            "a password": "hunter2",
            "an empty file": "",
            "a number": "1",
            "version 3": HASH.replace("$2y$", "$3y$"),
            "a hash without its first letter": HASH[1:],
            "a cost with one digit": HASH.replace("$10$", "$9$"),
            "letters for a cost": HASH.replace("$10$", "$ab$"),
            "a space": f"' {HASH}'",
        }.items()
    },
    **{
        f"cost {cost}": (
            f"{USER}{HASH.replace('$10$', f'${cost}$')}\n",
            "basic_auth_users.alice: has a bcrypt cost outside 4 to 16; create a hash with cost 10",
        )
        for cost in ("00", "03", "32", "99")
    },
    **{
        f"rate {interval}": (
            f"rate_limit:\n  interval: {interval}\n  burst: 1\n",
            "rate_limit.interval: is not a duration; write 1s or 100ms",
        )
        for interval in ("1d", "abc", "'1'")
    },
    "a rate that is too long": (
        "rate_limit:\n  interval: 99999999999h\n  burst: 1\n",
        "rate_limit.interval: is too long",
    ),
    **{
        f"burst {burst}": (
            f"rate_limit:\n  interval: 1s\n  burst: {burst}\n",
            "rate_limit.burst: is not a whole number; write 1 or more",
        )
        for burst in ("x", "'5'", "true", "99999999999999999999")
    },
    "a tab": ("tls_server_config:\n\tfoo: 1\n", "line 2: not valid YAML; a tab is used for indentation"),
    "an unknown alias": ("basic_auth_users: *hunter2\n", "line 1: not valid YAML; syntax error"),
    "a missing bracket": (f"{USER}[{HASH}\n", "line 3: not valid YAML; syntax error"),
}

# Files that promtool accepts and we reject: they would allow no client or every client, or fail at the first request.
STRICTER = {
    "two documents": ("{}\n---\n{}\n", "line 2: not valid YAML; found another document"),
    "a merge key": (
        "rate_limit:\n  <<: {burst: 1}\n",
        "line 2: rate_limit: unknown key; valid keys are interval, burst",
    ),
    "a client CA file without a certificate": (
        MUTUAL.replace("ca.pem", "nothing.pem"),
        "tls_server_config.client_ca_file: contains no PEM certificate",
    ),
    "a client CA text without a certificate": (
        f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca: x\n",
        "tls_server_config.client_ca: contains no PEM certificate",
    ),
    "any client certificate without a CA": (
        f"{TLS}  client_auth_type: RequireAnyClientCert\n",
        (
            "tls_server_config.client_auth_type: RequireAnyClientCert without a CA is not supported; "
            "use RequireAndVerifyClientCert and client_ca_file"
        ),
    ),
    # Newer versions of exporter-toolkit reject this, too.
    "allowed names for optional certificates": (
        f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_allowed_sans: [a]\n",
        "tls_server_config.client_allowed_sans: needs client_auth_type: RequireAndVerifyClientCert",
    ),
    "no allowed names": (
        f"{MUTUAL}  client_allowed_sans: []\n",
        "tls_server_config.client_allowed_sans: is empty, so no client could connect; add a name",
    ),
    "a maximum below the minimum version": (
        f"{TLS}  min_version: TLS13\n  max_version: TLS12\n",
        "tls_server_config.max_version: is below min_version; no client could connect",
    ),
    "null for a curve": (
        f"{TLS}  curve_preferences: [~]\n",
        "tls_server_config.curve_preferences: '' is not one of CurveP256, CurveP384, CurveP521, X25519",
    ),
    "a header of two lines": (
        f'{HEADERS}Content-Security-Policy: "a\\nb"\n',
        "http_server_config.headers.Content-Security-Policy: contains a line break or a control character; remove it",
    ),
    **{
        f"{kind} for a hash": (
            f"{USER}'{text}'\n",
            'basic_auth_users.alice: is not a bcrypt hash; create one with htpasswd -nBC 10 ""',
        )
        for kind, text in {
            "an incomplete hash": HASH[:-1],
            "a hash with another letter": f"{HASH}x",
            "a letter that hashes do not contain": f"{HASH[:-1]}!",
            "a salt that Python's bcrypt rejects": f"{HASH[:28]}f{HASH[29:]}",
            "an unknown version of bcrypt": HASH.replace("$2y$", "$2z$"),
        }.items()
    },
    "a cost that would take hours": (
        f"{USER}{HASH.replace('$10$', '$31$')}\n",
        "basic_auth_users.alice: has a bcrypt cost outside 4 to 16; create a hash with cost 10",
    ),
    **{
        f"rate {interval}": (
            f"rate_limit:\n  interval: {interval}\n  burst: 1\n",
            "rate_limit.interval: is not a duration; write 1s or 100ms",
        )
        for interval in ("1", "-1s", "1.5")  # Go reads a number without a unit as nanoseconds
    },
    **{
        f"burst {burst}": (f"rate_limit:\n  interval: 1s\n  burst: {burst}\n", message)
        for burst, message in {
            "0": "rate_limit.burst: 0 rejects every request; write 1 or more",
            "~": "rate_limit.burst: 0 rejects every request; write 1 or more",
            "-1": "rate_limit.burst: is not a whole number; write 1 or more",
            "1.5": "rate_limit.burst: is not a whole number; write 1 or more",
        }.items()
    },
}


@pytest.fixture(scope="module")
def promtool(prometheus_binaries, made, tmp_path_factory):
    """Which of all files promtool accepts, by their names."""
    directory = tmp_path_factory.mktemp("agreement")
    copy_files(directory, made)
    texts = {**VALID, **{name: text for table in (INVALID, STRICTER) for name, (text, _) in table.items()}}
    for number, text in enumerate(texts.values()):
        (directory / f"{number}.yml").write_text(text)
    done = subprocess.run(
        [prometheus_binaries.promtool, "check", "web-config", *(f"{number}.yml" for number in range(len(texts)))],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = dict(re.findall(r"^(\d+)\.yml (SUCCESS|FAILED)", done.stdout + done.stderr, re.MULTILINE))
    return {name: verdicts[str(number)] == "SUCCESS" for number, name in enumerate(texts)}


# Prometheus 2.42 does not know rate_limit, and accepts half of the invalid files.
@pytest.mark.parametrize("prometheus_binaries", [pytest.param(3, id="3")], indirect=True)
class TestAgreement:
    """Our parser agrees with promtool's."""

    @pytest.mark.parametrize("name", VALID)
    def test_on_valid_files(self, promtool, here, name):
        assert isinstance(check(VALID[name], here), WebConfig)
        assert promtool[name]

    @pytest.mark.parametrize("name", INVALID)
    def test_on_invalid_files(self, promtool, here, name):
        with pytest.raises(WebConfigError):
            check(INVALID[name][0], here)
        assert not promtool[name]

    @pytest.mark.parametrize("name", STRICTER)
    def test_has_these_exceptions(self, promtool, here, name):
        with pytest.raises(WebConfigError):
            check(STRICTER[name][0], here)
        assert promtool[name]


class TestParse:
    @pytest.mark.parametrize("name", [*INVALID, *STRICTER])
    def test_names_the_invalid_key_in_one_line(self, here, name):
        text, message = {**INVALID, **STRICTER}[name]
        with pytest.raises(WebConfigError) as caught:
            check(text, here)
        assert message.replace("{}", str(here)) == str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            f"{USER}hunter2-canary\n",
            f"{USER}canary{HASH}\n",
            f"basic_auth_users:\n  canary{HASH}: alice\n",
            f"canary{HASH}: alice\n",
            f"tls_server_config:\n  canary{HASH}: alice\n",
            f"basic_auth_users: *canary{HASH}\n",
            f"basic_auth_users: [canary{HASH}\n",
            f"basic_auth_users:\n  alice: !canary{HASH}! x\n",
            "tls_server_config:\n  cert: canary\n  key: canary\n",
        ],
    )
    def test_shows_no_secret(self, here, text):
        """Not even in the errors that caused it."""
        with pytest.raises(WebConfigError) as caught:
            check(text, here)
        error = caught.value
        while error is not None:
            assert "canary" not in str(error)
            assert "canary" not in repr(error)
            error = error.__cause__ or error.__context__
        assert "canary" not in repr(WebConfig(users={b"alice": b"canary"}))

    def test_returns_the_values(self, here):
        config = check(
            f"{MUTUAL}  client_allowed_sans: [a.example]\n  max_version: TLS12\n"
            "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n"
            "  curve_preferences: [CurveP384]\n  prefer_server_cipher_suites: false\n"
            f"{HEADERS}X-XSS-Protection: 0\n    Content-Security-Policy: ''\n{USER}{HASH}\n"
            "rate_limit:\n  interval: 1m0.5s\n  burst: 7\n",
            here,
        )
        assert config.tls is not None
        assert [here / "cert.pem", here / "key.pem", here / "ca.pem"] == config.files
        assert {"a.example"} == config.tls.allowed_sans
        assert ("ECDHE-ECDSA-AES128-GCM-SHA256",) == config.tls.ciphers
        assert "secp384r1" == config.tls.curve
        assert not config.tls.prefer_server_ciphers
        assert (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2) == (config.tls.min_version, config.tls.max_version)
        assert {"X-XSS-Protection": "0"} == config.headers
        assert {b"alice": HASH.encode()} == config.users
        assert RateLimit(60.5, 7) == config.rate_limit
        assert () == config.warnings

    @pytest.mark.parametrize(
        ("text", "warning"),
        [
            (
                "http_server_config:\n  http2: true\n",
                "http_server_config.http2: ignored; only HTTP/1.1 is supported",
            ),
            (f"{TLS}  cert: x\n", "tls_server_config.cert: ignored because cert_file is set"),
            (
                "tls_server_config:\n  min_version: TLS13\n",
                "tls_server_config: no certificate is set, so TLS is off",
            ),
            (
                f"{TLS}  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem\n",
                "tls_server_config.client_auth_type: RequireAnyClientCert is treated as RequireAndVerifyClientCert",
            ),
            (
                f"{TLS}  curve_preferences: [X25519, CurveP256]\n",
                "tls_server_config.curve_preferences: ignored, because only a single curve can be set here; OpenSSL uses its default list",
            ),
        ],
    )
    def test_warns_about_settings_that_are_ignored(self, here, text, warning):
        assert (warning,) == check(text, here).warnings

    def test_rejects_deep_nesting(self, here):
        with pytest.raises(WebConfigError, match="not valid YAML"):
            check("[" * 100_000, here)
