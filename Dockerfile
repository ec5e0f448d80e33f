# Serves a model to OpenAI's clients; see docs/serving.md. Not built by its authors' tests, which have no Docker.
#
#     docker build -t hicom . && docker run --rm --gpus all -p 8000:8000 -e HICOM_API_KEY=... hicom hicom-7b
#
# Without a model at the end, the packaged hicom-tiny is served; without a GPU, leave out --gpus.
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[serve]' && rm -rf /src && useradd --create-home hicom
USER hicom
WORKDIR /home/hicom
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["hicom", "serve", "--host", "0.0.0.0"]
