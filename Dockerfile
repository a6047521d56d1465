# syntax=docker/dockerfile:1
# A small CPU image. The package index is an argument, so that the CPU build of torch is taken:
#   docker build --build-arg TORCH_INDEX=<index with CPU wheels of torch> -t onnxcompress .
#   docker run --rm --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" -v "$PWD:/models" \
#       onnxcompress in.onnx --method lc-quant --bits 4
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/onnxcompress
ENV PATH=/opt/onnxcompress/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN pip install torch -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
RUN python -c "import torch; assert torch.version.cuda is None, 'name an index with CPU wheels: TORCH_INDEX'"
COPY pyproject.toml README.md LICENSE ./
COPY onnxcompress ./onnxcompress
RUN pip install . -c constraints.txt

FROM python:${PYTHON}-slim
COPY --from=build /opt/onnxcompress /opt/onnxcompress
RUN useradd --uid 1000 --no-create-home onnxcompress && mkdir /models && chown onnxcompress /models
ENV PATH=/opt/onnxcompress/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
USER onnxcompress
WORKDIR /models
ENTRYPOINT ["onnxcompress"]
CMD ["--help"]
