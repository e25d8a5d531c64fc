# The server alone: the built wheel and a runtime; no torch, no compiler, no pip. Build and run:
#   docker build -t pocketgan --build-arg EXTRAS=serving,openvino .
#   docker run --rm -p 8000:8000 --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -v "$PWD/build/restore/cpu/bundle:/bundle:ro" pocketgan
# Without the argument there is ONNX Runtime only. docs/containers.md says what is what.

# a tag moves; for an image that can be made again, name the digest instead:
#   --build-arg PYTHON=python:3.11-slim@sha256:...  (docker buildx imagetools inspect python:3.11-slim)
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ARG EXTRAS=serving
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN python -m pip install --constraint constraints.txt build hatchling \
    && python -m build --wheel --no-isolation --outdir /wheel
RUN python -m venv --without-pip /opt/pocketgan
# wheels only: what has none for this architecture ends the build with its name
# what this line installs is proven by tests/test_wheel.py
RUN python -m pip --python /opt/pocketgan/bin/python install --only-binary :all: --constraint constraints.txt "$(echo /wheel/*.whl)[${EXTRAS}]"

FROM ${PYTHON}
COPY --from=build /opt/pocketgan /opt/pocketgan
# the byte code came with the wheel's installation; there is nothing left to write
ENV PATH=/opt/pocketgan/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    POCKETGAN_HOST=0.0.0.0 \
    POCKETGAN_PORT=8000
# nobody, by number, so that an orchestrator can see that it is not root
USER 65534:65534
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['POCKETGAN_PORT']}/readyz\", timeout=4)"]
ENTRYPOINT ["pocketgan"]
CMD ["serve", "/bundle"]
