# Builds on amd64 and arm64. All compiled dependencies are installed as wheels.
#
# The tag of the base image follows security fixes of Python 3.13 and Debian 13. For reproducible builds, pin a digest:
#   docker build --build-arg BASE=docker.io/library/python:3.13-slim-trixie@sha256:... .
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /build
# One virtual environment for the build, and one without pip for the image.
RUN python -m venv tools && python -m venv --without-pip /opt/venv
COPY requirements.lock deploy/image/build.lock ./
RUN tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock \
 && tools/bin/pip install --no-cache-dir --require-hashes -r build.lock
COPY pyproject.toml README.md ./
COPY comms_exporter comms_exporter
# The package links to them.
COPY deploy/prometheus/comms-exporter.rules.yml deploy/prometheus/comms-exporter.alerts.yml deploy/prometheus/
# It also installs a man page and completions.
COPY deploy/shell deploy/shell
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-index --no-deps wheels/*.whl
COPY --chmod=0555 deploy/image/healthcheck.py /opt/venv/bin/healthcheck

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="comms-exporter" \
      org.opencontainers.image.description="Prometheus exporter for the email operations of Twilio's Comms API" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/venv /opt/venv
# A new volume inherits the owner of this directory.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/comms-exporter
# Set the listen address for `demo` too, whose default is 127.0.0.1.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_STATE_HOME=/var/lib \
    COMMS_EXPORTER_WEB_LISTEN_ADDRESS=:10067
USER 65532:65532
VOLUME /var/lib/comms-exporter
EXPOSE 10067
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["/opt/venv/bin/python", "/opt/venv/bin/healthcheck"]
ENTRYPOINT ["/opt/venv/bin/comms-exporter"]
