"""Credentials that change while the exporter runs."""

import aiohttp
import pytest
from process import exporter, scrape, until
from simulated_api import SimulatedApi, sample

from comms_exporter.api.credentials import ReloadingCredentials
from comms_exporter.base.redaction import Redactor


class Log:
    def __init__(self):
        self.warnings = []

    def warning(self, event, **fields):
        self.warnings.append((event, fields))


class TestReloadingCredentials:
    @pytest.fixture
    def token(self, tmp_path):
        token = tmp_path / "token"
        token.write_text("first-canary")
        return token

    @pytest.fixture
    def log(self):
        return Log()

    @pytest.fixture
    def make(self, token, log):
        def read():
            try:
                return "AC", token.read_text()
            except OSError as error:
                raise ValueError(error.strerror) from None

        return lambda redactor=None: ReloadingCredentials(read, files=[token], redactor=redactor or Redactor(), log=log)

    def test_a_changed_file_is_read_before_the_next_request(self, make, token):
        credentials = make()
        assert aiohttp.encode_basic_auth("AC", "first-canary") == credentials.header()
        token.write_text("the-second-canary")
        assert aiohttp.encode_basic_auth("AC", "the-second-canary") == credentials.header()

    def test_a_refresh_returns_whether_they_changed(self, make, token):
        credentials = make()
        assert not credentials.refresh()
        token.write_text("the-second-canary")
        assert credentials.refresh()
        assert not credentials.refresh()

    def test_unreadable_ones_keep_the_previous_ones_and_are_logged_once(self, make, token, log):
        credentials = make()
        token.unlink()
        for _ in range(3):
            assert not credentials.refresh()
        assert aiohttp.encode_basic_auth("AC", "first-canary") == credentials.header()
        event = "cannot reload credentials, using the previous ones"
        assert [(event, {"error": "No such file or directory"})] == log.warnings

        token.write_text("first-canary")
        credentials.refresh()
        token.unlink()
        credentials.refresh()
        assert [event, event] == [event for event, _ in log.warnings]

    def test_unreadable_ones_at_the_start_raise(self, make, token):
        token.unlink()
        with pytest.raises(ValueError, match="No such file"):
            make()

    def test_every_secret_is_masked(self, make, token):
        redactor = Redactor()
        credentials = make(redactor)
        token.write_text("the-second-canary")
        credentials.header()
        assert "*** ***" == redactor.mask("first-canary the-second-canary")


class TestSecretFiles:
    async def test_a_rotated_token_is_used_without_a_restart(self, tmp_path):
        """The file changes, as with Kubernetes Secrets."""
        token = tmp_path / "token"
        token.write_text("first-canary\n")
        credentials = {"ACtest": "first-canary"}
        environ = {"TWILIO_AUTH_TOKEN": "", "TWILIO_AUTH_TOKEN_FILE": str(token)}
        async with (
            SimulatedApi(credentials) as api,
            exporter(api.url, "--collect.interval=100ms", environ=environ) as process,
        ):
            await until(process.url, "^comms_up.* 1")

            credentials["ACtest"] = "second-canary"
            await until(process.url, "^comms_up.* 0")
            await until(process.url, '^comms_exporter_poll_failures_total.*reason="auth"} [1-9]')
            token.write_text("second-canary\n")

            await until(process.url, "^comms_up.* 1")
            assert "canary" not in process.stderr

    async def test_a_missing_file_keeps_the_previous_credentials(self, tmp_path):
        token = tmp_path / "token"
        token.write_text("first-canary\n")
        environ = {"TWILIO_AUTH_TOKEN": "", "TWILIO_AUTH_TOKEN_FILE": str(token)}
        async with SimulatedApi() as api, exporter(api.url, "--collect.interval=100ms", environ=environ) as process:
            await until(process.url, "^comms_up.* 1")
            token.unlink()
            polls = process.stderr.count("msg=polled")
            await process.until(f"(?s)(msg=polled.*){{{polls + 3}}}")

            assert 1 == sample(await scrape(process.url), 'comms_up{account="ACtest"}')
            assert 1 == process.stderr.count("cannot reload credentials, using the previous ones")
