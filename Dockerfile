# syntax=docker/dockerfile:1
#   docker build -t local-llm-router .
#   docker run -p 127.0.0.1:3030:3030 -v llr:/data local-llm-router
# With an Ollama on the host: --add-host host.docker.internal:host-gateway -e OLLAMA_HOST=host.docker.internal
# (Ollama must listen beyond loopback then).  With an Ollama beside it: deploy/compose.yaml.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /srv

# Requirements first: a change of our code does not install them again.
COPY requirements.txt .
RUN pip install -r requirements.txt

# /data belongs to the user before it is declared a volume, so a new volume is writable.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin llr \
    && install -d -o llr -g llr /data

COPY . .

# 0.0.0.0 is inside the container only: `docker run -p 127.0.0.1:3030:3030` decides who reaches it.
ENV LLR_HOST=0.0.0.0 \
    LLR_PORT=3030 \
    LLR_POLICY=/data/policy.yaml \
    LLR_DB=/data/metrics.db

USER 10001
VOLUME /data
EXPOSE 3030

HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"LLR_PORT\"]}/health', timeout=2)"]

# exec makes gunicorn process 1, so SIGTERM and SIGHUP reach it.  Its heartbeat files go to /dev/shm, because
# on the image's own file system a slow disk would look like a hung worker.
# Work in flight gets LLR_GRACEFUL_TIMEOUT (30 s) at the end, Docker's default is 10: use `docker stop -t 40`.
CMD ["sh", "-c", "if [ ! -e \"$LLR_POLICY\" ]; then flask init || exit; fi; exec gunicorn -c gunicorn.conf.py --worker-tmp-dir /dev/shm wsgi:app"]
