"""TLS handshakes with the settings of the web config file."""

import ssl

import pytest
from web.certificates import MUTUAL, TLS, handshake, indented, trusting

from comms_exporter.web.tls import create_context
from comms_exporter.web.web_config import parse


class TestHandshake:
    def context(self, text, directory):
        return create_context(parse(text.encode(), directory).tls)

    def test_accepts_certificate_and_key_as_text(self, here, made):
        text = f"tls_server_config:\n  cert: |\n    {indented(made / 'server.pem')}\n  key: |\n    {indented(made / 'server.key')}\n"
        assert "TLSv1.3" == handshake(self.context(text, here), trusting(made / "server.pem")).version()

    @pytest.mark.parametrize("auth", ["NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven"])
    def test_needs_no_client_certificate_unless_required(self, here, made, auth):
        ca = "" if auth == "NoClientCert" else "  client_ca_file: ca.pem\n"
        assert handshake(self.context(f"{TLS}  client_auth_type: {auth}\n{ca}", here), trusting(made / "server.pem"))

    def test_does_not_verify_a_certificate_that_is_only_requested(self, here, made):
        server = self.context(f"{TLS}  client_auth_type: RequestClientCert\n  client_ca_file: ca.pem\n", here)
        assert handshake(server, trusting(made / "server.pem", made / "stranger"))

    @pytest.mark.parametrize("auth", ["VerifyClientCertIfGiven", "RequireAnyClientCert", "RequireAndVerifyClientCert"])
    def test_rejects_a_client_certificate_of_another_ca(self, here, made, auth):
        server = self.context(f"{TLS}  client_auth_type: {auth}\n  client_ca_file: ca.pem\n", here)
        assert handshake(server, trusting(made / "server.pem", made / "friend"))
        with pytest.raises(ssl.SSLError):
            handshake(server, trusting(made / "server.pem", made / "stranger"))

    def test_rejects_a_client_without_a_certificate(self, here, made):
        with pytest.raises(ssl.SSLError):
            handshake(self.context(MUTUAL, here), trusting(made / "server.pem"))

    def test_trusts_the_system_without_a_client_ca(self, here, made):
        server = self.context(f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n", here)
        with pytest.raises(ssl.SSLError):
            handshake(server, trusting(made / "server.pem", made / "friend"))

    @pytest.mark.parametrize("name", ["prometheus.example", "spiffe://x/y", "fe80::1"])
    def test_accepts_only_allowed_names(self, here, made, name):
        server = self.context(f"{MUTUAL}  client_allowed_sans: [other.example, '{name}']\n", here)
        assert handshake(server, trusting(made / "server.pem", made / "friend"))
        with pytest.raises(ssl.SSLError, match="no allowed name"):
            handshake(server, trusting(made / "server.pem", made / "guest"))

    def test_uses_the_configured_versions(self, here, made):
        server = self.context(f"{TLS}  min_version: TLS13\n", here)
        client = trusting(made / "server.pem")
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            handshake(server, client)
        assert (
            "TLSv1.2"
            == handshake(self.context(f"{TLS}  max_version: TLS12\n", here), trusting(made / "server.pem")).version()
        )

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    @pytest.mark.parametrize(("name", "version"), [("TLS10", "TLSv1"), ("TLS11", "TLSv1.1")])
    def test_supports_old_versions_if_configured(self, here, made, name, version):
        client = trusting(made / "server.pem")
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = {"TLS10": ssl.TLSVersion.TLSv1, "TLS11": ssl.TLSVersion.TLSv1_1}[name]
        client.set_ciphers("DEFAULT:@SECLEVEL=0")
        assert version == handshake(self.context(f"{TLS}  min_version: {name}\n", here), client).version()
        with pytest.raises(ssl.SSLError):
            handshake(self.context(TLS, here), client)

    def test_uses_the_configured_ciphers(self, here, made):
        text = f"{TLS}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA]\n"
        client = trusting(made / "server.pem")
        client.set_ciphers("ECDHE+AES:@SECLEVEL=1")
        assert "ECDHE-ECDSA-AES256-SHA" == handshake(self.context(text, here), client).cipher()[0]

    def test_needs_tls_1_3_if_only_its_ciphers_are_configured(self, here, made):
        client = trusting(made / "server.pem")
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            handshake(self.context(f"{TLS}  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", here), client)

    def test_supports_x25519_with_every_python(self, here, made):
        assert handshake(self.context(f"{TLS}  curve_preferences: [X25519]\n", here), trusting(made / "server.pem"))

    def test_uses_the_default_curves_if_python_cannot_set_x25519(self, here, made, monkeypatch):
        """Python 3.11.2, the version in Debian 12, raises an error; every Go exporter accepts the file."""

        def fail(*_):
            raise ssl.SSLError(129, "[EC: UNKNOWN_GROUP] unknown group")

        monkeypatch.setattr(ssl.SSLContext, "set_ecdh_curve", fail)
        text = f"{TLS}  curve_preferences: [X25519]\n"
        (warning,) = parse(text.encode(), here).warnings
        assert warning.startswith("tls_server_config.curve_preferences: ignored, because this Python cannot set X25519")
        assert handshake(self.context(text, here), trusting(made / "server.pem"))

    def test_uses_the_configured_curve(self, here, made):
        server = self.context(f"{TLS}  curve_preferences: [CurveP521]\n", here)
        client = trusting(made / "server.pem")
        assert handshake(server, client)
        client.set_ecdh_curve("prime256v1")
        with pytest.raises(ssl.SSLError):
            handshake(server, client)
