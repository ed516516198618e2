"""The web config file is reloaded when it or a file that it names changes, and an invalid version changes nothing."""

import ssl

import pytest
from web.certificates import HASH, MUTUAL, TLS, USER, handshake, trusting

from comms_exporter.web.web_config_file import WebConfigFile
from comms_exporter.web.yaml_nodes import WebConfigError


class TestWebConfigFile:
    def test_raises_an_error_if_the_file_is_invalid_at_first(self, here, log):
        (here / "web.yml").write_text("foo: 1\n")
        with pytest.raises(WebConfigError) as caught:
            WebConfigFile(here / "web.yml", log=log.log)
        assert str(caught.value).startswith(f"{here}/web.yml: line 1: foo: unknown key")
        with pytest.raises(WebConfigError) as caught:
            WebConfigFile(here / "no.yml", log=log.log)
        assert f"{here}/no.yml: cannot read {here}/no.yml: No such file or directory" == str(caught.value)

    def test_is_reloaded_only_after_a_change(self, here, log):
        (here / "web.yml").write_text(TLS)
        file = WebConfigFile(here / "web.yml", log=log.log)
        assert file.current() is file.current()
        (here / "web.yml").write_text(f"{TLS}{USER}{HASH}\n")
        assert {b"alice": HASH.encode()} == file.current().config.users
        assert [("info", "web config reloaded")] == log.lines

    def test_uses_a_new_certificate_for_new_connections(self, here, made, log):
        (here / "web.yml").write_text(TLS)
        file = WebConfigFile(here / "web.yml", log=log.log)
        assert handshake(file.current().context, trusting(made / "server.pem"))
        (here / "cert.pem").write_bytes((made / "other.pem").read_bytes())
        # The key does not match until it changes, too.
        assert handshake(file.current().context, trusting(made / "server.pem"))
        (here / "key.pem").write_bytes((made / "other.key").read_bytes())
        assert handshake(file.current().context, trusting(made / "other.pem"))
        with pytest.raises(ssl.SSLError):
            handshake(file.current().context, trusting(made / "server.pem"))

    def test_trusts_a_new_client_ca_at_once(self, here, made, log):
        (here / "web.yml").write_text(MUTUAL)
        file = WebConfigFile(here / "web.yml", log=log.log)
        friend, stranger = (trusting(made / "server.pem", made / name) for name in ("friend", "stranger"))
        assert handshake(file.current().context, friend)
        (here / "ca.pem").write_bytes((made / "stranger.pem").read_bytes())
        assert handshake(file.current().context, stranger)
        with pytest.raises(ssl.SSLError):
            handshake(file.current().context, friend)

    def test_follows_a_symbolic_link_that_changes(self, here, made, log):
        """Kubernetes updates mounted files that way."""
        for name in ("one", "two"):
            (here / name).mkdir()
        (here / "data").symlink_to("one")
        for name, source in (("one", "server"), ("two", "other")):
            (here / name / "cert.pem").write_bytes((made / f"{source}.pem").read_bytes())
            (here / name / "key.pem").write_bytes((made / f"{source}.key").read_bytes())
        (here / "web.yml").write_text(TLS.replace(": cert", ": data/cert").replace(": key", ": data/key"))
        file = WebConfigFile(here / "web.yml", log=log.log)
        assert handshake(file.current().context, trusting(made / "server.pem"))
        (here / "new").symlink_to("two")
        (here / "new").rename(here / "data")
        assert handshake(file.current().context, trusting(made / "other.pem"))

    def test_keeps_the_last_valid_config_and_logs_each_error_once(self, here, log):
        path = here / "web.yml"
        path.write_text(f"{USER}{HASH}\n")
        file = WebConfigFile(path, log=log.log)
        path.write_text(f"{USER}hunter2\n")
        for _ in range(3):
            assert {b"alice": HASH.encode()} == file.current().config.users
        path.write_text(f"{USER}hunter22\n")
        assert {b"alice": HASH.encode()} == file.current().config.users
        # The file is different, but the error is the same.
        assert 1 == len(log.lines)
        path.unlink()
        assert {b"alice": HASH.encode()} == file.current().config.users
        path.write_text("http_server_config:\n  http2: true\n")
        assert {} == file.current().config.users
        assert [
            (
                "error",
                "web config is invalid, keeping the previous one",
                f'{path}: basic_auth_users.alice: is not a bcrypt hash; create one with htpasswd -nBC 10 ""',
            ),
            (
                "error",
                "web config is invalid, keeping the previous one",
                f"{path}: cannot read {path}: No such file or directory",
            ),
            ("info", "web config reloaded"),
            ("warning", "web config", "http_server_config.http2: ignored; only HTTP/1.1 is supported"),
        ] == log.lines

    @pytest.mark.parametrize(("first", "then"), [("", TLS), (TLS, "")])
    def test_does_not_turn_tls_on_or_off(self, here, log, first, then):
        (here / "web.yml").write_text(first)
        file = WebConfigFile(here / "web.yml", log=log.log)
        before = file.current()
        (here / "web.yml").write_text(then)
        assert before is file.current()
        assert "turning TLS on or off needs a restart" in log.lines[0][2]
