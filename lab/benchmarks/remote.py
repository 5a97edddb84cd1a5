"""Run a system on this machine, with proxies in the connections that are remote in Azure."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.benchmarks.rig import ROOT, ProbedProgram
from loosely.local.environment import read_environment, shared_environment
from loosely.local.parts import SystemSettings, loosely_parts
from loosely.local.ports import Ports
from tests.ports import free_ports

StartProxies = Callable[[Sequence[int]], contextlib.AbstractContextManager[list[int]]]
"""Starts proxies for the ports of the Functions host, Service Bus, its management API, and blobs.

The context manager yields the ports of the proxies, in the same order.
"""


@dataclass(frozen=True, slots=True)
class ProxiedSystem:
    """A running system with proxies in some of its connections.

    `local` has the ports on which the components listen, and `remote` has the ports of the proxies
    that forward to them. `programs` maps the name of each component to its running program.
    """

    local: SystemSettings
    remote: SystemSettings
    programs: dict[str, ProbedProgram] = field(default_factory=dict)


@contextlib.contextmanager
def run_behind_proxies(
    folder: Path,
    start_proxies: StartProxies,
    engine_options: tuple[str, ...] = (),
    catalogue: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ProxiedSystem]:
    """Run a system during the `with` block, with proxies between the components.

    These connections go through proxies, because they are remote in Azure: from the gateway's app
    and the Functions host to Service Bus and to blob storage, and from the worker to Service Bus,
    to blob storage and to the gateway. The worker runs only the models that the environment
    variable WORKER_MODELS lists, by default `noop`.

    Args:
        folder: The data directory of the system.
        start_proxies: A function that starts a proxy for each given port, and returns a context
            manager that yields the ports of the proxies.
        engine_options: Additional command-line options of the Functions host.
        catalogue: The file with the models' settings; None for the repository's own file.
        environment: Additional environment variables of all components.
    """
    local = SystemSettings(
        ROOT,
        folder,
        Ports.from_base(free_ports(5)),
        "hops" * 16,
        "warning",
        catalogue=catalogue,
        engine_options=engine_options,
    )
    ports = local.ports
    targets = (ports.functions, ports.servicebus, ports.servicebus_admin, ports.blobs)
    shared = shared_environment(ROOT, read_environment()) | {"WORKER_MODELS": "noop"}
    shared |= environment or {}
    with contextlib.ExitStack() as stack:
        functions, servicebus, servicebus_admin, blobs = stack.enter_context(start_proxies(targets))
        remote_ports = Ports(functions, servicebus, servicebus_admin, blobs, ports.worker_health)
        remote = replace(local, ports=remote_ports)
        system = ProxiedSystem(local, remote)
        for part, part_behind_proxies in zip(
            loosely_parts(local), loosely_parts(remote), strict=True
        ):
            if (preparation := part.preparation) is not None:
                if preparation.catalogue is not None:
                    for copy in (preparation.temporary, preparation.checked):
                        copy.write_bytes(preparation.catalogue.read_bytes())
                printed = subprocess.run(
                    preparation.command, env=shared, capture_output=True, check=True
                ).stdout
                for path, content in preparation.read_contents(printed).items():
                    path.write_bytes(content)
            system.programs[part.name] = program = ProbedProgram.start(
                *part.command[part.command.index("-m") + 1 :],
                probe=f"http://127.0.0.1:{part.probe.port}{part.probe.path}",
                log=folder / f"{part.name}.log",
                ready_status=part.probe.status,
                # The components listen on their own ports, and connect to the proxies.
                **{**shared, **part_behind_proxies.environment},
            )
            stack.callback(program.stop)
        yield system
