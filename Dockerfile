# The server alone: the built wheel, a runtime and no torch. Build and run:
#   docker build -t pocketgan .
#   docker run --rm -p 8000:8000 --read-only -v "$PWD/build/restore/cpu/bundle:/bundle:ro" pocketgan

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m pip install --no-cache-dir build hatchling
COPY . .
RUN python -m build --wheel --no-isolation --outdir /wheel
RUN python -m venv /opt/pocketgan
# what this line installs is proven by tests/test_wheel.py, which reads the extras from it
RUN /opt/pocketgan/bin/pip install --no-cache-dir --constraint constraints.txt "$(echo /wheel/*.whl)[serving,openvino]"

FROM python:3.11-slim
COPY --from=build /opt/pocketgan /opt/pocketgan
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
