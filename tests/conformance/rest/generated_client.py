"""Import all modules of a generated client, and send requests with it.

Arguments: the gateway's URL, and the folder that contains the client. The interpreter must have the
client's dependencies.
"""

import importlib
import pkgutil
import sys


def main(url: str, folder: str) -> None:
    sys.path.insert(0, folder)
    package = importlib.import_module("generated")
    for module in pkgutil.walk_packages(package.__path__, "generated."):
        importlib.import_module(module.name)
    api, models = (
        importlib.import_module("generated.api"),
        importlib.import_module("generated.models"),
    )
    jobs = importlib.import_module(f"{api.__name__}.jobs.submit_job")
    look = importlib.import_module(f"{api.__name__}.jobs.get_job")
    with package.Client(base_url=url, timeout=60) as client:
        body = models.SubmitJobJsonBody.from_dict({"input": {"text": "hello"}, "priority": "low"})
        job = jobs.sync("noop", client=client, body=body)
        assert job.status == "succeeded", job
        assert look.sync(job.id, client=client).id == job.id
        refusal = jobs.sync("nop", client=client, body=body)
        assert refusal.code == "unknown-model", refusal


if __name__ == "__main__":
    main(*sys.argv[1:])
