"""Check that the memory limits of the workers' pods permit the memory that a worker may use."""

from contract.catalogue import Catalogue
from infra.manifests import make_manifests
from worker.inputs.memory import SMALL_TOTAL_BYTES
from worker.inputs.payloads import LARGE_FILE_BYTES
from worker.pipeline.receive import MAX_OFFLOADED_COUNT
from worker.settings import DEFAULT_INPUT_MEMORY_BYTES

MIB = 1024 * 1024
# The memory of a worker with torch and the classifier, without its inputs.
PROCESS_BYTES = 600 * MIB


def test_limit_of_a_pod_exceeds_the_maximum() -> None:
    # Inputs of at most 1 MiB from blobs are in memory as a whole; larger ones are in files.
    files = MAX_OFFLOADED_COUNT * LARGE_FILE_BYTES
    needed = PROCESS_BYTES + DEFAULT_INPUT_MEMORY_BYTES + SMALL_TOTAL_BYTES + files
    catalogue = Catalogue.load()
    for name in catalogue:
        deployment, *_ = make_manifests(catalogue.model(name), [], 60)
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        limit: str = container["resources"]["limits"]["memory"]
        assert limit.endswith("Gi")
        assert needed < int(limit.removesuffix("Gi")) * 1024 * MIB, name
