"""A reload that fails changes nothing of what exporters share."""

import json

import structlog
from postgres import needs_postgres
from sharing.members import rows

from comms_exporter.base.redaction import Redactor
from comms_exporter.config import build_parser, load
from comms_exporter.service import exporter
from comms_exporter.store.errors import StoreError

pytestmark = needs_postgres


async def test_a_reload_that_fails_registers_no_account(tmp_path, server, schema):
    names = ["shop", "letter"]

    def read():
        # Nobody listens there.
        listed = [
            {"name": name, "account_sid": "ACtest", "auth_token": "canary", "base_url": "http://127.0.0.1:9/v1"}
            for name in names
        ]
        file = tmp_path / "accounts.yml"
        file.write_text(json.dumps({"accounts": listed}))
        flags = [f"--config.file={file}", f"--state.url={server.url}", f"--state.schema={schema}"]
        return load([*flags, "--web.listen-address=127.0.0.1:0"], {}, parser=build_parser())

    async def away(*_):
        raise StoreError("the database is away")

    def registered():
        return {name for (name,) in rows(server, schema, "SELECT name FROM {}.accounts")}

    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
    async with exporter(read(), load=read, log=log, redactor=Redactor([])) as (service, _):
        load_states, service._store.load = service._store.load, away
        names[:] = ["shop", "new"]

        assert "the database is away" == await service.reload()
        assert {"shop", "letter"} == registered()

        service._store.load = load_states
        assert await service.reload() is None
        assert {"shop", "letter", "new"} == registered()
