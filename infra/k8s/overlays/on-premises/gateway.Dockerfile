# The gateway's image: Microsoft's Functions host and our Function App. The context is the folder functions/:
#   docker build -f infra/k8s/overlays/on-premises/gateway.Dockerfile functions
# The image has the extension bundle, so that nothing is downloaded when a pod starts. Before you use it, pin the
# base by its digest, as worker/Dockerfile does.
FROM mcr.microsoft.com/azure-functions/python:4-python3.11
ENV AzureWebJobsScriptRoot=/home/site/wwwroot \
    AzureFunctionsJobHost__Logging__Console__IsEnabled=true \
    ASPNETCORE_URLS=http://+:8080 \
    PYTHONDONTWRITEBYTECODE=1
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt \
    && groupadd --gid 10002 gateway \
    && useradd --uid 10002 --gid 10002 --no-create-home --home-dir /home --shell /usr/sbin/nologin gateway \
    && install --directory --owner=10002 --group=10002 /home /home/data /home/LogFiles /azure-functions-host/Secrets
COPY . /home/site/wwwroot
USER 10002:10002
EXPOSE 8080
