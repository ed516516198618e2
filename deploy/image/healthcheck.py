"""Exit 0 if the exporter in this container is healthy. The image's HEALTHCHECK runs this because there is no curl.

It tries the first address in COMMS_EXPORTER_WEB_LISTEN_ADDRESS, with and without TLS. If the address is set by a flag, or
clients need a certificate, configure your own health check.
"""
# ruff: noqa: INP001  a script

import http.client
import os
import ssl
import sys

SECONDS = 2.0
# A 401 also shows that the server responds.
HEALTHY = {200, 401}


def main() -> int:
    """Ask over HTTP, then over HTTPS, and return the exit code."""
    first = os.environ.get("COMMS_EXPORTER_WEB_LISTEN_ADDRESS", ":10067").replace(",", " ").split()[0]
    host, _, port = first.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104  not bound to
    # No verification: this is our own loopback address, and the certificate is for another name.
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
