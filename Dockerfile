# docker build -t slipstream .
# docker run --rm -p 127.0.0.1:8000:8000 -e SLIPSTREAM_API_KEY=KEY slipstream
#
# CPU only. The kernels for AVX-512, AVX2 and portable x86-64 are all inside; the machine decides at run time.

FROM python:3.11-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# CMake, Ninja and nanobind come from PyPI into pip's isolated build. The second line fails if the native module was left out.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m zipfile --list /wheels/slipstream-*.whl | grep 'slipstream/_native'

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 slipstream
# The CPU build of torch has the higher (local) version, so pip prefers it to PyPI's.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /wheels/slipstream-*.whl
USER slipstream
WORKDIR /home/slipstream
# Models by hub id are kept here; mount a volume to keep them longer than the container.
ENV HF_HOME=/home/slipstream/.cache/huggingface
RUN mkdir -p "$HF_HOME"
EXPOSE 8000
ENTRYPOINT ["slipstream"]
# All addresses, because this is what a published port reaches. Give a key with -e SLIPSTREAM_API_KEY=..., and not with --api-key,
# which every user of the host can read in the list of processes; without a key, whoever reaches the port may use the model.
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
