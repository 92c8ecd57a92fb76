# Three images from one file: `docker build --target api|worker|trainer .`
#
# The CPU build of torch is taken unless TORCH_INDEX is empty: PyPI's own build for Linux is the CUDA one.
#   docker build --target worker --build-arg TORCH_INDEX= --tag sentiment-neuron-worker:cuda .
#
# What rarely changes comes first: a change of our code builds one wheel anew and installs it over its dependencies.

FROM python:3.11-slim AS python
# Safe path: no command takes a module of ours from the working directory, which may be a volume.
ENV PATH=/opt/neuron/bin:$PATH PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1
# Fixed numbers, so that volumes and Kubernetes can name them; a volume that is mounted for the first time takes over
# the owner of the directory.
RUN groupadd --gid 10001 neuron && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp neuron \
    && install --directory --owner=10001 --group=10001 /volume /volume/checkpoints /heads /batches \
    && python -m venv --without-pip /opt/neuron

FROM python AS wheel
WORKDIR /build
COPY requirements/build.txt .
RUN pip install --no-cache-dir --require-hashes --requirement build.txt
COPY . .
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python AS api
# S3=1: with what batches in a bucket need.
ARG S3=
COPY requirements/api.txt requirements/tracing.txt requirements/s3.txt /
RUN pip --python /opt/neuron/bin/python install --no-cache-dir --no-deps --require-hashes \
        --requirement /api.txt --requirement /tracing.txt ${S3:+--requirement /s3.txt} \
    && find /opt/neuron -type d -name tests -prune -exec rm -r {} +
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/neuron/bin/python install --no-cache-dir --no-deps /wheels/*.whl \
    && for unused in worker trainer evaluation sentiment_neuron engine model recurrent; do \
        rm -r "/opt/neuron/lib/python3.11/site-packages/$unused"; done
USER 10001:10001
ENV NEURON_API_HOST=0.0.0.0
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["neuron", "api"]

FROM python AS torch
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Triton, which comes with the CUDA build, needs a compiler. Debian keeps no version but the newest: none is pinned.
# hadolint ignore=DL3008
RUN if [ -z "$TORCH_INDEX" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi
COPY requirements/api.txt requirements/tracing.txt requirements/worker.txt /
RUN pip --python /opt/neuron/bin/python install --no-cache-dir --no-deps --require-hashes \
    --requirement /api.txt --requirement /tracing.txt --requirement /worker.txt
COPY requirements/torch.txt /
RUN pip --python /opt/neuron/bin/python install --no-cache-dir \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --requirement /torch.txt

FROM torch AS worker
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/neuron/bin/python install --no-cache-dir --no-deps /wheels/*.whl
USER 10001:10001
ENV NEURON_WORKER_METRICS_HOST=0.0.0.0
EXPOSE 9101
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9101/readyz', timeout=2)"]
CMD ["neuron", "worker"]

FROM torch AS trainer
# torch.compile fuses the element-wise work of a training step.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY requirements/trainer.txt /
RUN pip --python /opt/neuron/bin/python install --no-cache-dir --no-deps --require-hashes --requirement /trainer.txt
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/neuron/bin/python install --no-cache-dir --no-deps /wheels/*.whl
USER 10001:10001
WORKDIR /volume
EXPOSE 9102
STOPSIGNAL SIGTERM
ENTRYPOINT ["neuron"]
CMD ["train", "--help"]
