"""Exit 0 where the exporter in this container is healthy; the image's HEALTHCHECK runs this, for want of curl.

It looks where COMMS_EXPORTER_WEB_LISTEN_ADDRESS says, with and without TLS. Whoever sets the address by a flag, or
asks clients for certificates, brings a check of their own.
"""
# ruff: noqa: INP001  a script

import http.client
import os
import ssl
import sys

SECONDS = 2.0
# Who asks for a password is there to ask.
HEALTHY = {200, 401}


def main() -> int:
    """Ask over HTTP, then over HTTPS, and return the exit code."""
    first = os.environ.get("COMMS_EXPORTER_WEB_LISTEN_ADDRESS", ":10067").replace(",", " ").split()[0]
    host, _, port = first.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104  not bound to
    # Nobody else can have this address, and the name in the certificate is not localhost.
    trusting = ssl._create_unverified_context()  # noqa: S323, SLF001
    answers = []
    for connection in (
        http.client.HTTPConnection(host, int(port), timeout=SECONDS),
        http.client.HTTPSConnection(host, int(port), timeout=SECONDS, context=trusting),
    ):
        try:
            connection.request("GET", "/-/healthy")
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            answers.append(f"{type(error).__name__}: {error}")
        else:
            if answer.status in HEALTHY:
                return 0
            answers.append(f"{answer.status} {answer.reason}")
        finally:
            connection.close()
    sys.stderr.write(f"{host}:{port}: {'; '.join(answers)}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
