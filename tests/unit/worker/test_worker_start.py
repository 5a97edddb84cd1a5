"""Test the start of a worker: the garbage collector is enabled when the worker runs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

PROGRAM = """
import gc
from os import environ
from worker import __main__ as worker_main
from worker.settings import WorkerSettings

gc.disable()  # as the module does before its imports if it runs as the main program
code = worker_main.run_worker(WorkerSettings.from_env(environ), None)
print(code, gc.isenabled())
"""


def test_running_worker_collects_garbage() -> None:
    # The worker ends at once, because its health port is in use.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {
            "SERVICE_BUS": "Endpoint=sb://localhost;SharedAccessKeyName=any;SharedAccessKey=any",
            "PAYLOAD_STORAGE": "DefaultEndpointsProtocol=http;AccountName=any;AccountKey=bm9uZQ==;"
            "BlobEndpoint=http://127.0.0.1:1/any;",
            "REPLY_HOSTS": "127.0.0.1:1",
            "HEALTH_HOST": "127.0.0.1",
            "HEALTH_PORT": str(taken.getsockname()[1]),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}",
        }
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.stdout == "98 True\n", ended.stderr
