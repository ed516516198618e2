# The image runs anywhere Python's official one does: what is compiled comes as wheels, for amd64 and for arm64.
#
# The tag moves with security fixes of Python 3.13 and Debian 13. Where a build must be repeatable, name a digest:
#   docker build --build-arg BASE=docker.io/library/python:3.13-slim-trixie@sha256:... .
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /build
# One environment to build with, and one without pip to keep.
RUN python -m venv tools && python -m venv --without-pip /opt/venv
COPY requirements.lock deploy/image/build.lock ./
RUN tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock \
 && tools/bin/pip install --no-cache-dir --require-hashes -r build.lock
COPY pyproject.toml README.md ./
COPY comms_exporter comms_exporter
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
# A new volume takes over the owner of the folder that it covers.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/comms-exporter
# The listen address is the default's; `demo` would choose one that nobody outside reaches.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    COMMS_EXPORTER_STATE_PATH=/var/lib/comms-exporter/state.db \
    COMMS_EXPORTER_WEB_LISTEN_ADDRESS=:10067
USER 65532:65532
VOLUME /var/lib/comms-exporter
EXPOSE 10067
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["/opt/venv/bin/python", "/opt/venv/bin/healthcheck"]
ENTRYPOINT ["/opt/venv/bin/comms-exporter"]
