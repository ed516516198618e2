"""exporter-toolkit's web config file: the same keys, meanings and refusals, and a handshake as it says."""

import re
import ssl
import subprocess

import pytest
from web.tls import MUTUAL, TLS, lay_out, trusting

from comms_exporter.web.web_config import Rate, WebConfig, WebConfigError, WebConfigFile, parse, tls_context

HASH = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
HEADERS = "http_server_config:\n  headers:\n    "
USER = "basic_auth_users:\n  alice: "


def indented(path):
    return path.read_text().replace("\n", "\n    ")


def check(text, directory):
    """Return what we make of a file, as our caller would."""
    config = parse(text.encode(), directory)
    if config.tls:
        tls_context(config.tls)
    return config


GOOD = {
    "nothing": "",
    "only a comment": "# nothing\n",
    "nothing in braces": "{}\n",
    "empty parts": "tls_server_config:\nhttp_server_config:\nbasic_auth_users:\nrate_limit:\n",
    "a byte order mark": "\ufeff{}\n",
    "certificate and key": TLS,
    "empty client_auth_type": f"{TLS}  client_auth_type: ''\n",
    "versions without a certificate": "tls_server_config:\n  min_version: TLS12\n",
    "a file and inline": f"{TLS}  cert: whatever\n  key: whatever\n",
    "no client certificate": f"{TLS}  client_auth_type: NoClientCert\n",
    "a client certificate asked for": f"{TLS}  client_auth_type: RequestClientCert\n  client_ca_file: ca.pem\n",
    "a client certificate checked": f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n",
    "any client certificate": f"{TLS}  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem\n",
    "any client certificate, by its old name": f"{TLS}  client_auth_type: RequireClientCert\n  client_ca_file: ca.pem\n",
    "a client certificate required": MUTUAL,
    "the system's authorities": f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n",
    "names of clients": f"{MUTUAL}  client_allowed_sans: [prometheus.example, 127.0.0.1, 1]\n",
    "null for names": f"{TLS}  client_allowed_sans:\n",
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
    "another frame option": f"{HEADERS}X-Frame-Options: sameorigin\n",
    "a blank header": f"{HEADERS}Content-Security-Policy: ''\n",
    "a user": f"{USER}{HASH}\n",
    **{f"{p} hash": f"{USER}{HASH.replace('$2y$', p)}\n" for p in ("$2a$", "$2b$", "$2x$")},
    "lowest cost": f"{USER}{HASH.replace('$10$', '$04$')}\n",
    "odd users": f"basic_auth_users:\n  1: {HASH}\n  true: {HASH}\n  '': {HASH}\n  'a:b': {HASH}\n",
    "an alias": f"basic_auth_users:\n  a: &x {HASH}\n  b: *x\n",
    "a tag": f"{USER}!foo {HASH}\n",
    **{
        f"rate {i}": f"rate_limit:\n  interval: {i}\n  burst: 1\n"
        for i in ("1s", "1m30s", "1.5s", ".5s", "1µs", "0", "~")
    },
    "only a burst": "rate_limit:\n  burst: 1\n",
}

BAD = {
    "a list": ("[]\n", "is not a mapping"),
    "a word": ("hello\n", "is not a mapping"),
    "an unknown key": (
        "tls_config: 1\n",
        "line 1: tls_config: is unknown; write tls_server_config",
    ),
    "an unknown key within": (
        f"{TLS}  cert_path: 1\n",
        "line 4: tls_server_config.cert_path: is unknown; write cert",
    ),
    "an unknown key for HTTP": (
        "http_server_config:\n  port: 1\n",
        "line 2: http_server_config.port: is unknown; write http2 or headers",
    ),
    "an unknown key for rates": (
        "rate_limit:\n  foo: 1\n",
        "line 2: rate_limit.foo: is unknown; write interval or burst",
    ),
    "a part twice": ("rate_limit: {}\nrate_limit: {}\n", "line 2: not valid YAML; duplicate key"),
    "a key twice": (
        "http_server_config:\n  http2: true\n  http2: true\n",
        "line 3: not valid YAML; duplicate key",
    ),
    "a user twice": (f"{USER}{HASH}\n  alice: {HASH}\n", "line 3: not valid YAML; duplicate key"),
    "TLS that is a word": ("tls_server_config: x\n", "tls_server_config: is not a mapping"),
    "no key": (
        "tls_server_config:\n  cert_file: cert.pem\n",
        "tls_server_config.key_file: is missing; write it, or key",
    ),
    "no certificate": (
        "tls_server_config:\n  key_file: key.pem\n",
        "tls_server_config.cert_file: is missing; write it, or cert",
    ),
    "only client_auth_type": (
        "tls_server_config:\n  client_auth_type: NoClientCert\n",
        "tls_server_config.cert_file: is missing; write it, or cert",
    ),
    "a certificate that is not there": (
        TLS.replace("cert.pem", "no.pem"),
        "tls_server_config.cert_file: cannot read {}/no.pem: No such file or directory",
    ),
    "a certificate that is a list": (TLS.replace("cert.pem", "[a]"), "tls_server_config.cert_file: is not text"),
    "a certificate that is empty": (
        TLS.replace("cert.pem", "nothing.pem"),
        "tls_server_config.cert_file: has no certificate in PEM form in it",
    ),
    "a certificate for a key": (
        TLS.replace("key.pem", "cert.pem"),
        "tls_server_config.key_file: has no key in PEM form in it",
    ),
    "another's key": (
        TLS.replace("key.pem", "other.key"),
        "tls_server_config.key_file: does not belong to the certificate",
    ),
    "an encrypted key": (
        TLS.replace("key.pem", "encrypted.key"),
        "tls_server_config.key_file: cannot be used with its certificate: it is damaged, or encrypted",
    ),
    "an unknown client_auth_type": (
        f"{TLS}  client_auth_type: requireandverifyclientcert\n",
        "tls_server_config.client_auth_type: 'requireandverifyclientcert' is unknown; write RequireAndVerifyClientCert",
    ),
    "an authority without a policy": (
        f"{TLS}  client_ca_file: ca.pem\n",
        "tls_server_config.client_ca_file: needs client_auth_type; write RequireAndVerifyClientCert",
    ),
    "an authority that is not there": (
        MUTUAL.replace("ca.pem", "no.pem"),
        "tls_server_config.client_ca_file: cannot read {}/no.pem: No such file or directory",
    ),
    "an authority that is a directory": (
        MUTUAL.replace("ca.pem", "."),
        "tls_server_config.client_ca_file: cannot read {}: Is a directory",
    ),
    "names that are a word": (
        f"{MUTUAL}  client_allowed_sans: foo\n",
        "tls_server_config.client_allowed_sans: is not a list",
    ),
    "names that are mappings": (
        f"{MUTUAL}  client_allowed_sans: [a: b]\n",
        "tls_server_config.client_allowed_sans: is not text",
    ),
    **{
        f"{key} {version or 'empty'}": (
            f"{TLS}  {key}: '{version}'\n",
            f"tls_server_config.{key}: '{version}' is unknown; write {choice}",
        )
        for key in ("min_version", "max_version")
        for version, choice in (
            ("TLS1.2", "TLS12"),
            ("tls14", "TLS10, TLS11, TLS12 or TLS13"),
            ("", "TLS10, TLS11, TLS12 or TLS13"),
        )
    },
    "a cipher's OpenSSL name": (
        f"{TLS}  cipher_suites: [ECDHE-ECDSA-AES128-GCM-SHA256]\n",
        (
            "tls_server_config.cipher_suites: 'ECDHE-ECDSA-AES128-GCM-SHA256' is unknown; "
            "write TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
        ),
    ),
    "an insecure cipher": (
        f"{TLS}  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n",
        (
            "tls_server_config.cipher_suites: 'TLS_RSA_WITH_AES_128_CBC_SHA' is unknown; "
            "write TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"
        ),
    ),
    "ciphers that are a word": (
        f"{TLS}  cipher_suites: TLS_AES_128_GCM_SHA256\n",
        "tls_server_config.cipher_suites: is not a list",
    ),
    "an unknown curve": (
        f"{TLS}  curve_preferences: [P256]\n",
        "tls_server_config.curve_preferences: 'P256' is unknown; write CurveP256",
    ),
    "a number for a boolean": (
        f"{TLS}  prefer_server_cipher_suites: 1\n",
        "tls_server_config.prefer_server_cipher_suites: is not true or false",
    ),
    "text for a boolean": ("http_server_config:\n  http2: 'true'\n", "http_server_config.http2: is not true or false"),
    "headers that are a list": ("http_server_config:\n  headers: []\n", "http_server_config.headers: is not a mapping"),
    "another header": (
        f"{HEADERS}Server: x\n",
        (
            "line 3: http_server_config.headers.Server: is unknown; write Content-Security-Policy, "
            "Strict-Transport-Security, X-Content-Type-Options, X-Frame-Options or X-XSS-Protection"
        ),
    ),
    "a header in small letters": (
        f"{HEADERS}x-frame-options: deny\n",
        "line 3: http_server_config.headers.x-frame-options: is unknown; write X-Frame-Options",
    ),
    "a value in capital letters": (
        f"{HEADERS}X-Frame-Options: DENY\n",
        "http_server_config.headers.X-Frame-Options: is not deny or sameorigin",
    ),
    "a blank value": (
        f"{HEADERS}X-Frame-Options:\n",
        "http_server_config.headers.X-Frame-Options: is not deny or sameorigin",
    ),
    "another value": (
        f"{HEADERS}X-Content-Type-Options: sniff\n",
        "http_server_config.headers.X-Content-Type-Options: is not nosniff",
    ),
    "users that are a list": ("basic_auth_users: [a]\n", "basic_auth_users: is not a mapping"),
    **{
        f"{kind} for a hash": (
            f"{USER}{text}\n",
            'basic_auth_users.alice: is not a bcrypt hash; make one with htpasswd -nBC 10 ""',
        )
        for kind, text in {
            "a password": "hunter2",
            "nothing": "",
            "a number": "1",
            "version 3": HASH.replace("$2y$", "$3y$"),
            "a stripped hash": HASH[1:],
            "a cost of one digit": HASH.replace("$10$", "$9$"),
            "a cost in letters": HASH.replace("$10$", "$ab$"),
            "a space": f"' {HASH}'",
        }.items()
    },
    **{
        f"cost {cost}": (
            f"{USER}{HASH.replace('$10$', f'${cost}$')}\n",
            "basic_auth_users.alice: has a cost that is not from 4 to 16; make another of cost 10",
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
    "a rate for ever": ("rate_limit:\n  interval: 99999999999h\n  burst: 1\n", "rate_limit.interval: is too long"),
    **{
        f"burst {burst}": (
            f"rate_limit:\n  interval: 1s\n  burst: {burst}\n",
            "rate_limit.burst: is not a whole number; write 1 or more",
        )
        for burst in ("x", "'5'", "true", "99999999999999999999")
    },
    "a tab": ("tls_server_config:\n\tfoo: 1\n", "line 2: not valid YAML; a tab is used for indentation"),
    "an unknown alias": ("basic_auth_users: *hunter2\n", "line 1: not valid YAML; syntax error"),
    "a bracket too few": (f"{USER}[{HASH}\n", "line 3: not valid YAML; syntax error"),
}

# What promtool lets pass, and we do not: it would let in nobody, or everybody, or fail at the first request.
STRICTER = {
    "two documents": ("{}\n---\n{}\n", "line 2: not valid YAML; found another document"),
    "a merge": (
        "rate_limit:\n  <<: {burst: 1}\n",
        "line 2: rate_limit.a key: is unknown; write interval or burst",
    ),
    "an authority without a certificate": (
        MUTUAL.replace("ca.pem", "nothing.pem"),
        "tls_server_config.client_ca_file: has no certificate in PEM form in it",
    ),
    "an inline authority without a certificate": (
        f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca: x\n",
        "tls_server_config.client_ca: has no certificate in PEM form in it",
    ),
    "anybody with a certificate": (
        f"{TLS}  client_auth_type: RequireAnyClientCert\n",
        (
            "tls_server_config.client_auth_type: RequireAnyClientCert lets every certificate in, which is not offered here; "
            "write RequireAndVerifyClientCert and client_ca_file"
        ),
    ),
    # Newer exporter-toolkits refuse this, too.
    "names that nobody need have": (
        f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_allowed_sans: [a]\n",
        "tls_server_config.client_allowed_sans: needs certificates; write client_auth_type: RequireAndVerifyClientCert",
    ),
    "no names": (
        f"{MUTUAL}  client_allowed_sans: []\n",
        "tls_server_config.client_allowed_sans: is empty, so nobody could come in; name somebody",
    ),
    "versions the wrong way round": (
        f"{TLS}  min_version: TLS13\n  max_version: TLS12\n",
        "tls_server_config.max_version: is below the lowest version; no client could come in",
    ),
    "null for a cipher": (
        f"{TLS}  curve_preferences: [~]\n",
        "tls_server_config.curve_preferences: '' is unknown; write CurveP256, CurveP384, CurveP521 or X25519",
    ),
    "a header of two lines": (
        f'{HEADERS}Content-Security-Policy: "a\\nb"\n',
        "http_server_config.headers.Content-Security-Policy: has a line break or a control character in it; remove it",
    ),
    **{
        f"{kind} for a hash": (
            f"{USER}'{text}'\n",
            'basic_auth_users.alice: is not a bcrypt hash; make one with htpasswd -nBC 10 ""',
        )
        for kind, text in {
            "half a hash": HASH[:-1],
            "more than a hash": f"{HASH}x",
            "a letter that no hash has": f"{HASH[:-1]}!",
            "a salt that Python refuses": f"{HASH[:28]}f{HASH[29:]}",
            "an unknown version": HASH.replace("$2y$", "$2z$"),
        }.items()
    },
    "a cost that takes hours": (
        f"{USER}{HASH.replace('$10$', '$31$')}\n",
        "basic_auth_users.alice: has a cost that is not from 4 to 16; make another of cost 10",
    ),
    **{
        f"rate {interval}": (
            f"rate_limit:\n  interval: {interval}\n  burst: 1\n",
            "rate_limit.interval: is not a duration; write 1s or 100ms",
        )
        for interval in ("1", "-1s", "1.5")  # to Go, a bare number is nanoseconds
    },
    **{
        f"burst {burst}": (f"rate_limit:\n  interval: 1s\n  burst: {burst}\n", complaint)
        for burst, complaint in {
            "0": "rate_limit.burst: would refuse every request; write 1 or more",
            "~": "rate_limit.burst: would refuse every request; write 1 or more",
            "-1": "rate_limit.burst: is not a whole number; write 1 or more",
            "1.5": "rate_limit.burst: is not a whole number; write 1 or more",
        }.items()
    },
}


@pytest.fixture(scope="module")
def promtool(prometheus_binaries, made, tmp_path_factory):
    """What promtool says of all files: True for the good ones."""
    directory = tmp_path_factory.mktemp("agreement")
    lay_out(directory, made)
    texts = {**GOOD, **{name: text for table in (BAD, STRICTER) for name, (text, _) in table.items()}}
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


# 2.42 knows neither rate_limit nor half of the refusals.
@pytest.mark.parametrize("prometheus_binaries", [pytest.param(3, id="3")], indirect=True)
class TestAgreement:
    """Our parser and Prometheus's own."""

    @pytest.mark.parametrize("name", GOOD)
    def test_on_what_is_good(self, promtool, here, name):
        assert isinstance(check(GOOD[name], here), WebConfig)
        assert promtool[name]

    @pytest.mark.parametrize("name", BAD)
    def test_on_what_is_bad(self, promtool, here, name):
        with pytest.raises(WebConfigError):
            check(BAD[name][0], here)
        assert not promtool[name]

    @pytest.mark.parametrize("name", STRICTER)
    def test_is_not_sought_where_a_file_serves_nobody(self, promtool, here, name):
        with pytest.raises(WebConfigError):
            check(STRICTER[name][0], here)
        assert promtool[name]


class TestParse:
    @pytest.mark.parametrize("name", [*BAD, *STRICTER])
    def test_says_in_one_line_which_key_is_wrong(self, here, name):
        text, complaint = {**BAD, **STRICTER}[name]
        with pytest.raises(WebConfigError) as caught:
            check(text, here)
        assert complaint.replace("{}", str(here)) == str(caught.value)
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
        """Not even to whoever looks at what led to the error."""
        with pytest.raises(WebConfigError) as caught:
            check(text, here)
        error = caught.value
        while error is not None:
            assert "canary" not in str(error)
            assert "canary" not in repr(error)
            error = error.__cause__ or error.__context__
        assert "canary" not in repr(WebConfig(users={b"alice": b"canary"}))

    def test_knows_what_was_meant(self, here):
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
        assert not config.tls.server_prefers
        assert (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2) == (config.tls.min_version, config.tls.max_version)
        assert {"X-XSS-Protection": "0"} == config.headers
        assert {b"alice": HASH.encode()} == config.users
        assert Rate(60.5, 7) == config.rate
        assert () == config.warnings

    @pytest.mark.parametrize(
        ("text", "warning"),
        [
            (
                "http_server_config:\n  http2: true\n",
                "http_server_config.http2: is ignored; this exporter speaks HTTP/1.1",
            ),
            (f"{TLS}  cert: x\n", "tls_server_config.cert: is not used, since cert_file is given"),
            (
                "tls_server_config:\n  min_version: TLS13\n",
                "tls_server_config: has no certificate, so there is no TLS",
            ),
            (
                f"{TLS}  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem\n",
                "tls_server_config.client_auth_type: RequireAnyClientCert is taken for RequireAndVerifyClientCert",
            ),
            (
                f"{TLS}  curve_preferences: [X25519, CurveP256]\n",
                "tls_server_config.curve_preferences: only a single curve can be asked for; OpenSSL chooses among its own",
            ),
        ],
    )
    def test_warns_of_what_is_not_as_written(self, here, text, warning):
        assert (warning,) == check(text, here).warnings

    def test_is_not_upset_by_depth(self, here):
        with pytest.raises(WebConfigError, match="not valid YAML"):
            check("[" * 100_000, here)


def shake(server, client):
    """Return the client's side of a handshake between two contexts, or raise what stopped it."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(ours, theirs, server_side=True)
    two = client.wrap_bio(theirs, ours, server_hostname="localhost")
    left = [two, one]
    while left:
        for side in list(left):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(side)
    return two


class TestHandshake:
    def serve(self, text, directory):
        return tls_context(parse(text.encode(), directory).tls)

    def test_takes_what_is_written_in_the_file_itself(self, here, made):
        text = f"tls_server_config:\n  cert: |\n    {indented(made / 'server.pem')}\n  key: |\n    {indented(made / 'server.key')}\n"
        assert "TLSv1.3" == shake(self.serve(text, here), trusting(made / "server.pem")).version()

    @pytest.mark.parametrize("auth", ["NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven"])
    def test_needs_no_certificate_where_none_is_required(self, here, made, auth):
        ca = "" if auth == "NoClientCert" else "  client_ca_file: ca.pem\n"
        assert shake(self.serve(f"{TLS}  client_auth_type: {auth}\n{ca}", here), trusting(made / "server.pem"))

    def test_does_not_look_at_a_certificate_that_is_only_asked_for(self, here, made):
        server = self.serve(f"{TLS}  client_auth_type: RequestClientCert\n  client_ca_file: ca.pem\n", here)
        assert shake(server, trusting(made / "server.pem", made / "stranger"))

    @pytest.mark.parametrize("auth", ["VerifyClientCertIfGiven", "RequireAnyClientCert", "RequireAndVerifyClientCert"])
    def test_refuses_a_stranger(self, here, made, auth):
        server = self.serve(f"{TLS}  client_auth_type: {auth}\n  client_ca_file: ca.pem\n", here)
        assert shake(server, trusting(made / "server.pem", made / "friend"))
        with pytest.raises(ssl.SSLError):
            shake(server, trusting(made / "server.pem", made / "stranger"))

    def test_refuses_who_shows_nothing(self, here, made):
        with pytest.raises(ssl.SSLError):
            shake(self.serve(MUTUAL, here), trusting(made / "server.pem"))

    def test_trusts_no_stranger_where_no_authority_is_named(self, here, made):
        server = self.serve(f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n", here)
        with pytest.raises(ssl.SSLError):
            shake(server, trusting(made / "server.pem", made / "friend"))

    @pytest.mark.parametrize("name", ["prometheus.example", "spiffe://x/y", "fe80::1"])
    def test_admits_those_who_are_named(self, here, made, name):
        server = self.serve(f"{MUTUAL}  client_allowed_sans: [other.example, '{name}']\n", here)
        assert shake(server, trusting(made / "server.pem", made / "friend"))
        with pytest.raises(ssl.SSLError, match="no allowed name"):
            shake(server, trusting(made / "server.pem", made / "guest"))

    def test_speaks_the_versions_that_are_asked_for(self, here, made):
        server = self.serve(f"{TLS}  min_version: TLS13\n", here)
        client = trusting(made / "server.pem")
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            shake(server, client)
        assert (
            "TLSv1.2"
            == shake(self.serve(f"{TLS}  max_version: TLS12\n", here), trusting(made / "server.pem")).version()
        )

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    @pytest.mark.parametrize(("name", "version"), [("TLS10", "TLSv1"), ("TLS11", "TLSv1.1")])
    def test_speaks_with_the_old_where_told_to(self, here, made, name, version):
        client = trusting(made / "server.pem")
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = {"TLS10": ssl.TLSVersion.TLSv1, "TLS11": ssl.TLSVersion.TLSv1_1}[name]
        client.set_ciphers("DEFAULT:@SECLEVEL=0")
        assert version == shake(self.serve(f"{TLS}  min_version: {name}\n", here), client).version()
        with pytest.raises(ssl.SSLError):
            shake(self.serve(TLS, here), client)

    def test_uses_the_ciphers_that_are_asked_for(self, here, made):
        text = f"{TLS}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA]\n"
        client = trusting(made / "server.pem")
        client.set_ciphers("ECDHE+AES:@SECLEVEL=1")
        assert "ECDHE-ECDSA-AES256-SHA" == shake(self.serve(text, here), client).cipher()[0]

    def test_leaves_the_old_out_where_only_new_ciphers_are_asked_for(self, here, made):
        client = trusting(made / "server.pem")
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            shake(self.serve(f"{TLS}  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", here), client)

    def test_shakes_hands_with_x25519_on_every_python(self, here, made):
        assert shake(self.serve(f"{TLS}  curve_preferences: [X25519]\n", here), trusting(made / "server.pem"))

    def test_leaves_openssl_its_curves_where_python_cannot_ask_for_x25519(self, here, made, monkeypatch):
        """Python 3.11.2, which Debian 12 has, raises here; every Go exporter takes the file."""

        def refuse(*_):
            raise ssl.SSLError(129, "[EC: UNKNOWN_GROUP] unknown group")

        monkeypatch.setattr(ssl.SSLContext, "set_ecdh_curve", refuse)
        text = f"{TLS}  curve_preferences: [X25519]\n"
        (warning,) = check(text, here).warnings
        assert warning.startswith(
            "tls_server_config.curve_preferences: this Python cannot restrict handshakes to X25519"
        )
        assert shake(self.serve(text, here), trusting(made / "server.pem"))

    def test_uses_the_curve_that_is_asked_for(self, here, made):
        server = self.serve(f"{TLS}  curve_preferences: [CurveP521]\n", here)
        client = trusting(made / "server.pem")
        assert shake(server, client)
        client.set_ecdh_curve("prime256v1")
        with pytest.raises(ssl.SSLError):
            shake(server, client)


class TestFile:
    def test_refuses_to_begin_with_one_that_is_bad(self, here, log):
        (here / "web.yml").write_text("foo: 1\n")
        with pytest.raises(WebConfigError) as caught:
            WebConfigFile(here / "web.yml", log=log.log)
        assert str(caught.value).startswith(f"{here}/web.yml: line 1: foo: is unknown")
        with pytest.raises(WebConfigError) as caught:
            WebConfigFile(here / "no.yml", log=log.log)
        assert f"{here}/no.yml: cannot read {here}/no.yml: No such file or directory" == str(caught.value)

    def test_is_read_only_when_it_has_changed(self, here, log):
        (here / "web.yml").write_text(TLS)
        file = WebConfigFile(here / "web.yml", log=log.log)
        assert file.current() is file.current()
        (here / "web.yml").write_text(f"{TLS}{USER}{HASH}\n")
        assert {b"alice": HASH.encode()} == file.current().config.users
        assert [("info", "web config read again")] == log.lines

    def test_gives_a_new_certificate_to_those_who_come_later(self, here, made, log):
        (here / "web.yml").write_text(TLS)
        file = WebConfigFile(here / "web.yml", log=log.log)
        assert shake(file.current().context, trusting(made / "server.pem"))
        (here / "cert.pem").write_bytes((made / "other.pem").read_bytes())
        assert shake(file.current().context, trusting(made / "server.pem")), "the new key is yet to come"
        (here / "key.pem").write_bytes((made / "other.key").read_bytes())
        assert shake(file.current().context, trusting(made / "other.pem"))
        with pytest.raises(ssl.SSLError):
            shake(file.current().context, trusting(made / "server.pem"))

    def test_trusts_a_new_authority_at_once(self, here, made, log):
        (here / "web.yml").write_text(MUTUAL)
        file = WebConfigFile(here / "web.yml", log=log.log)
        friend, stranger = (trusting(made / "server.pem", made / name) for name in ("friend", "stranger"))
        assert shake(file.current().context, friend)
        (here / "ca.pem").write_bytes((made / "stranger.pem").read_bytes())
        assert shake(file.current().context, stranger)
        with pytest.raises(ssl.SSLError):
            shake(file.current().context, friend)

    def test_follows_a_link_that_points_elsewhere(self, here, made, log):
        """As Kubernetes changes what it mounts."""
        for name in ("one", "two"):
            (here / name).mkdir()
        (here / "data").symlink_to("one")
        for name, source in (("one", "server"), ("two", "other")):
            (here / name / "cert.pem").write_bytes((made / f"{source}.pem").read_bytes())
            (here / name / "key.pem").write_bytes((made / f"{source}.key").read_bytes())
        (here / "web.yml").write_text(TLS.replace(": cert", ": data/cert").replace(": key", ": data/key"))
        file = WebConfigFile(here / "web.yml", log=log.log)
        assert shake(file.current().context, trusting(made / "server.pem"))
        (here / "new").symlink_to("two")
        (here / "new").rename(here / "data")
        assert shake(file.current().context, trusting(made / "other.pem"))

    def test_keeps_the_last_good_one_and_complains_once(self, here, log):
        path = here / "web.yml"
        path.write_text(f"{USER}{HASH}\n")
        file = WebConfigFile(path, log=log.log)
        path.write_text(f"{USER}hunter2\n")
        for _ in range(3):
            assert {b"alice": HASH.encode()} == file.current().config.users
        path.write_text(f"{USER}hunter22\n")
        assert {b"alice": HASH.encode()} == file.current().config.users
        assert 1 == len(log.lines), "the same complaint about other bytes is no news"
        path.unlink()
        assert {b"alice": HASH.encode()} == file.current().config.users
        path.write_text("http_server_config:\n  http2: true\n")
        assert {} == file.current().config.users
        assert [
            (
                "error",
                "web config cannot be used: the last good one stays",
                f'{path}: basic_auth_users.alice: is not a bcrypt hash; make one with htpasswd -nBC 10 ""',
            ),
            (
                "error",
                "web config cannot be used: the last good one stays",
                f"{path}: cannot read {path}: No such file or directory",
            ),
            ("info", "web config read again"),
            ("warning", "web config", "http_server_config.http2: is ignored; this exporter speaks HTTP/1.1"),
        ] == log.lines

    @pytest.mark.parametrize(("first", "then"), [("", TLS), (TLS, "")])
    def test_turns_tls_neither_on_nor_off(self, here, log, first, then):
        (here / "web.yml").write_text(first)
        file = WebConfigFile(here / "web.yml", log=log.log)
        before = file.current()
        (here / "web.yml").write_text(then)
        assert before is file.current()
        assert "turns TLS on or off, which takes a restart" in log.lines[0][2]
