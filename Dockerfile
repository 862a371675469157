# make wheel && docker build --tag fewmask . && docker run --rm --volume "$PWD:/data" fewmask check DATASET
# PyTorch's wheels for Linux bring CUDA along: with a GPU, add --gpus all --shm-size 2g.
FROM python:3.12-slim-bookworm

# The versions that the tests pass with.
COPY constraints.txt dist/*.whl /tmp/fewmask/
RUN pip install --no-cache-dir --constraint /tmp/fewmask/constraints.txt /tmp/fewmask/*.whl \
    && rm -r /tmp/fewmask \
    && useradd --create-home --uid 1000 fewmask

# What is written belongs to this user: --user "$(id -u):$(id -g)" makes it yours.
USER 1000
ENV MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
ENTRYPOINT ["fewmask"]
CMD ["--help"]
