"""Fake programs that tests use in place of az, azd, kubectl, kubelogin and docker.

`install` writes the programs into a folder, which the test puts on PATH. Each program appends its
arguments to `calls.jsonl` in this folder. All programs store their common state in `state.json`, so
that a program finds what earlier calls have changed. `kubectl kustomize` runs the real kubectl. An
unknown command exits with 64. Scripts start many programs, so what most do not need is imported
late.

The functions for az return the outputs in azure_outputs.py, whose form Microsoft documents. The
fake az evaluates `--query` and `--output` on them.
"""

import fcntl
import itertools
import json
import os
import re
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.infra import azure_outputs as outputs

PROGRAMS: Final = ("az", "azd", "kubectl", "kubelogin", "docker")
UNKNOWN: Final = 64
NOT_FOUND: Final = 3

NOT_AUTHORIZED: Final = (
    "ERROR: (AuthorizationFailed) The client 'someone@example.org' with object id "
    "'55555555-5555-5555-5555-555555555555' does not have authorization over scope "
    "'/subscriptions/66666666-6666-6666-6666-666666666666/resourceGroups/rg-trial'"
)
"""An error of az, with names that nobody should send to others."""

State = dict[str, Any]


class ProgramError(Exception):
    """An error that ends a fake program with the exit code `code`."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


def install(folder: Path, state: State) -> None:
    """Write the fake programs az, azd, kubectl, kubelogin and docker into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "calls.jsonl").touch()
    paths = [str(Path(__file__).parents[2]), sysconfig.get_path("purelib")]
    start = f"#!{sys.executable} -IS\nimport sys\nsys.path += {paths}\n"
    for name in PROGRAMS:
        program = folder / name
        program.write_text(start + "from tests.infra.fake_cloud import run\nrun()\n")
        program.chmod(0o755)


def calls(folder: Path) -> list[list[str]]:
    lines = (folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def state_of(folder: Path) -> State:
    state: State = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


class Call:
    """A call of a fake program: its command line, and the common state of all fake programs."""

    def __init__(self, program: str, arguments: list[str], state: State) -> None:
        self.words = [program]
        for argument in arguments:
            if argument.startswith("-"):
                break
            self.words.append(argument)
        self.options = dict(itertools.pairwise(arguments))
        self.state = state

    def option(self, name: str) -> str:
        """Return the value of an option. Raises ProgramError if the call lacks the option."""
        if name not in self.options:
            raise ProgramError(UNKNOWN, f"{' '.join(self.words)} without {name}")
        return str(self.options[name])

    def table(self, name: str) -> dict[str, Any]:
        """Return the dictionary `name` of the state. Create the dictionary if it is missing."""
        part: dict[str, Any] = self.state.setdefault(name, {})
        return part

    def get(self, table: str, key: str) -> str:
        if key not in self.table(table):
            raise ProgramError(NOT_FOUND, f"ERROR: {key} was not found")
        return str(self.table(table)[key])


def format_output(result: outputs.Output, options: dict[str, str]) -> str:
    """Return what az prints: https://github.com/microsoft/knack/blob/dev/knack/output.py"""
    if options.get("--output") == "none":
        return ""
    if "--query" in options:
        import jmespath  # noqa: PLC0415

        result = jmespath.search(options["--query"], result)
    if options.get("--output") != "tsv":
        return json.dumps(result)
    return "\n".join(_format_rows(result if isinstance(result, list) else [result]))


def _format_rows(rows: list[Any]) -> Iterator[str]:
    for row in rows:
        values = list(row.values()) if isinstance(row, dict) else row
        cells = values if isinstance(values, list) else [values]
        yield "\t".join("" if each is None else str(each) for each in cells)


def az_acr_build(call: Call) -> str:
    image = call.option("--image")
    if not Path(call.option("--file")).is_file():
        raise ProgramError(UNKNOWN, "no Dockerfile")
    call.table("images")[image] = f"sha256:{image.encode().hex()}"
    return "built"


def az_aks_list(call: Call) -> outputs.Output:
    group = call.option("--resource-group")
    if not call.state.get("group"):
        raise ProgramError(NOT_FOUND, f"ERROR: {group} was not found")
    pools = call.table("pools")
    return [outputs.cluster(pools)] if pools else []


def az_credentials(call: Call) -> str:
    Path(call.option("--file")).write_text("apiVersion: v1\nkind: Config\n", encoding="utf-8")
    return ""


def az_secret_set(call: Call) -> str:
    file = Path(call.option("--file"))
    if file.stat().st_mode & 0o077:
        raise ProgramError(UNKNOWN, "others can read the secret's file")
    call.table("secrets")[call.option("--name")] = file.read_text(encoding="utf-8")
    return ""


def az_rest(call: Call) -> str:
    path = "/config/configreferences/appsettings/refresh?api-version="
    site, _, _ = call.option("--url").partition(path)
    if not site.startswith("/subscriptions/") or call.option("--method") != "post":
        raise ProgramError(UNKNOWN, f"unknown call: {call.options}")
    call.state["cached"] = dict(call.table("secrets"))
    return ""


def az_queue(call: Call) -> outputs.Output:
    """Create or delete a queue of the Service Bus emulator, or return its number of messages.

    `state["service_bus_admin"]` is the URL of the emulator. Without it, the command fails as if az
    had no permission. `state["counts"]`, if it is set, is returned as the number of messages of
    each queue. `state["detects_duplicates"]`, if it is set, is used for a new queue instead of the
    value of the option `--enable-duplicate-detection`.
    """
    import urllib.request  # noqa: PLC0415

    address = call.state.get("service_bus_admin")
    if not address:
        raise ProgramError(1, NOT_AUTHORIZED)
    url, action = f"{address}/{call.option('--name')}?api-version=2021-05", call.words[3]
    if action == "show" and "counts" in call.state:
        return outputs.queue(call.option("--name"), int(call.state["counts"]))
    body = None
    if action == "create":
        detects = call.state.get("detects_duplicates", call.option("--enable-duplicate-detection"))
        values = {"LockDuration": call.option("--lock-duration")}
        values["RequiresDuplicateDetection"] = detects
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
        xml = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
        described = f'<QueueDescription xmlns="{xml}">{fields}</QueueDescription>'
        body = (
            '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
            f"{described}</content></entry>"
        ).encode()
    method = {"create": "PUT", "show": "GET", "delete": "DELETE"}[action]
    request = urllib.request.Request(url, body, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        text = response.read().decode()
    found = re.search(r"ActiveMessageCount>(\d+)<", text)
    if action != "show" or not found:
        return ""
    return outputs.queue(call.option("--name"), int(found[1]))


def az_rest_call(call: Call) -> outputs.Output:
    if call.option("--url").startswith("https://api.loganalytics.io/"):
        query = json.loads(call.option("--body"))["query"]
        is_known = re.fullmatch(
            r"search '[\w-]{36}' \| count|AppRequests \| where TimeGenerated > ago\(15m\) .*", query
        )
        return outputs.count_of_rows(call.state.get("telemetry_rows", 3) if is_known else 0)
    return az_rest(call)


def az_restart(call: Call) -> str:
    # A restart uses the cached values of the vault and does not read the vault again.
    call.state["gateway"] = call.state.get("cached", {})
    kill(call, "host")
    return ""


def az_blob_upload(call: Call) -> str:
    name = call.option("--name")
    if name in call.table("blobs") and call.option("--overwrite") == "false":
        raise ProgramError(1, "ERROR: the blob exists")
    _, _, digest = call.option("--metadata").partition("=")
    call.table("blobs")[name] = digest
    return ""


def az_list_skus(call: Call) -> outputs.Output:
    """Return the machines whose names contain the option `--size`, also restricted ones."""
    if "--all" not in call.options:
        raise ProgramError(UNKNOWN, "without --all, az leaves out restricted machines")
    size = call.option("--size")
    return [each for each in call.table("skus").values() if each and size in each["name"]]


def az_provider_show(call: Call) -> outputs.Output:
    namespace = call.option("--namespace")
    kind = {"Microsoft.DurableTask": "scheduler", "Microsoft.Dashboard": "dashboard"}[namespace]
    return outputs.provider(namespace, f"{kind}s", call.state[f"{kind}_regions"])


def az_app_create(call: Call) -> outputs.Output:
    call.state["app"] = "44444444-4444-4444-4444-444444444444"
    return outputs.application(call.state["app"])


def az_principal_create(call: Call) -> str:
    call.state["principal"] = call.option("--id")
    return ""


def az_principal_show(call: Call) -> str:
    if call.state.get("principal") != call.option("--id"):
        raise ProgramError(NOT_FOUND, "ERROR: the principal was not found")
    return ""


def az_credential_create(call: Call) -> str:
    credential = json.loads(call.option("--parameters"))
    if credential["name"] in call.table("credentials"):
        raise ProgramError(1, "ERROR: the credential exists")
    call.table("credentials")[credential["name"]] = credential["subject"]
    return ""


def az_role_assign(call: Call) -> str:
    call.table("assigned")[call.option("--role")] = call.options.get("--condition", "")
    return ""


def azd_get_value(call: Call) -> str:
    try:
        return call.get("values", call.words[3])
    except ProgramError as missing:
        # Some versions of azd print this to standard output.
        sys.stdout.write(f"{missing}\n")
        raise


def azd_set(call: Call) -> str:
    call.table("values")[call.words[3]] = call.words[4]
    return ""


def azd_provision(call: Call) -> str:
    call.state["apps"] = call.table("values").get("WORKER_IMAGE", "")
    return ""


def azd_down(call: Call) -> str:
    call.state["group"] = False
    return ""


def kubectl_apply(call: Call) -> str:
    if not Path(os.environ["KUBECONFIG"]).is_file():
        raise ProgramError(UNKNOWN, "no kubeconfig")
    text = Path(call.option("--filename")).read_text(encoding="utf-8")
    call.state["applied"] = [*call.state.get("applied", []), text]
    return ""


def kill(call: Call, name: str) -> None:
    """Kill a process. `state[name]` is the path of a file that contains the process id."""
    if file := call.state.get(name):
        with suppress(ProcessLookupError):
            os.kill(int(Path(file).read_text(encoding="utf-8")), signal.SIGKILL)


def kubectl_logs(call: Call) -> str:
    """Return the content of the file at the path `state["log"]`, or "" if there is no path."""
    file = call.state.get("log")
    return Path(file).read_text(encoding="utf-8") if file else ""


def kubectl_get_pods(call: Call) -> str:
    """Return a list with one pod: https://kubernetes.io/docs/reference/kubectl/quick-reference/"""
    if call.state.pop("pods", 1) == 0:
        return ""
    return "worker-classifier-0   1/1   Running   0   5m"


def kubectl_delete(call: Call) -> str:
    kill(call, "pod")
    return ""


def kubectl_exec(call: Call) -> str:
    if call.options.get("-c") != "import socket" and not call.state.get("open_network"):
        raise ProgramError(1, "command terminated with exit code 1")
    return ""


ANSWERS: Final[dict[str, Callable[[Call], outputs.Output]]] = {
    "az account show": lambda call: outputs.account(call.state.get("subscription", "mine")),
    "az provider register": lambda call: "",
    "az provider show": az_provider_show,
    "az functionapp list-flexconsumption-locations": lambda call: call.state["flex_regions"],
    "az containerapp env workload-profile list-supported": lambda call: [
        outputs.workload_profile(name) for name in call.state["gpu_profiles"]
    ],
    "az vm list-skus": az_list_skus,
    "az vm list-usage": lambda call: list(call.table("usages").values()),
    "az account get-access-token": lambda call: "a-token",
    "az acr repository show": lambda call: outputs.image(
        call.option("--image"), call.get("images", call.option("--image"))
    ),
    "az acr build": az_acr_build,
    "az acr run": lambda call: "",
    "az aks get-credentials": az_credentials,
    "az aks list": az_aks_list,
    "az keyvault secret list": lambda call: [*map(outputs.secret, call.table("secrets"))],
    "az keyvault secret show": lambda call: outputs.secret(
        call.option("--name"), value=call.get("secrets", call.option("--name"))
    ),
    "az keyvault secret set": az_secret_set,
    # https://learn.microsoft.com/rest/api/appservice/web-apps/get
    "az functionapp show": lambda call: {"id": f"/subscriptions/0/sites/{call.option('--name')}"},
    "az functionapp restart": az_restart,
    "az rest": az_rest_call,
    # https://learn.microsoft.com/rest/api/containerapps/container-apps-revision-replicas/list-replicas
    "az containerapp replica list": lambda call: [{"name": "worker-classifier--1-0"}],
    "az containerapp show": lambda call: outputs.container_app(
        call.state.get("profile", "Consumption")
    ),
    # https://learn.microsoft.com/rest/api/loganalytics/workspaces/list-by-resource-group
    "az monitor log-analytics workspace list": lambda call: [{"customerId": "1"}],
    "az ad app list": lambda call: [
        outputs.application(each) for each in [call.state.get("app")] if each
    ],
    "az ad app create": az_app_create,
    "az ad sp show": az_principal_show,
    "az ad sp create": az_principal_create,
    # https://learn.microsoft.com/graph/api/application-list-federatedidentitycredentials
    "az ad app federated-credential list": lambda call: [
        {"name": name} for name in call.table("credentials")
    ],
    "az ad app federated-credential create": az_credential_create,
    "az role assignment create": az_role_assign,
    # https://learn.microsoft.com/cli/azure/group#az-group-exists
    "az group exists": lambda call: bool(call.state.get("group")),
    # https://learn.microsoft.com/rest/api/resources/resources/list-by-resource-group
    "az resource list": lambda call: [{"name": "aks-trial", "type": "Microsoft.ContainerService"}],
    "az storage blob show": lambda call: outputs.blob(
        call.option("--name"), call.get("blobs", call.option("--name"))
    ),
    "az storage blob upload": az_blob_upload,
    "az servicebus queue create": az_queue,
    "az servicebus queue delete": az_queue,
    "az servicebus queue show": az_queue,
    "azd env get-value": azd_get_value,
    "azd env set": azd_set,
    "azd provision": azd_provision,
    "azd down": azd_down,
    "kubectl apply": kubectl_apply,
    "kubectl delete pod": kubectl_delete,
    "kubectl exec": kubectl_exec,
    "kubectl logs": kubectl_logs,
    "kubectl get deployment": lambda call: str(call.state.get("gpus", "")),
    "kubectl get scaledobject": lambda call: str(call.state.get("keda", "True")),
    "kubectl get pods": kubectl_get_pods,
    "kubectl rollout restart": lambda call: "",
    "kubectl rollout status": lambda call: "",
    "kubelogin convert-kubeconfig": lambda call: "",
    "docker compose": lambda call: "",
    # https://docs.docker.com/reference/cli/docker/buildx/imagetools/inspect/
    "docker buildx imagetools inspect": lambda call: str(call.state.get("digest", "")),
    "docker run": lambda call: str(call.state.get("python", "")),
}


def answer(call: Call) -> outputs.Output:
    """Return the output of a command, which is a text or a documented output of az.

    The keys of ANSWERS are the first words of commands. The function with the longest key that
    matches the command returns the output. The first `state["failing"][key]` calls fail.
    """
    for length in range(len(call.words), 1, -1):
        name = " ".join(call.words[:length])
        failing = call.table("failing")
        if failing.get(name, 0) > 0:
            failing[name] -= 1
            raise ProgramError(1, f"ERROR: {name}: not authorized yet")
        if name in ANSWERS:
            return ANSWERS[name](call)
    raise ProgramError(UNKNOWN, f"unknown call: {' '.join(call.words)}")


def main(folder: Path, program: str, arguments: list[str]) -> int:
    """Act as the program `program`: record the call, print its output, return its exit code."""
    if program == "kubectl" and arguments[:1] == ["kustomize"]:
        paths = (Path(entry) / program for entry in os.environ["PATH"].split(":"))
        real = next(path for path in paths if path.is_file() and path.parent != folder)
        os.execv(real, [program, *arguments])
    if arguments[:1] == ["--namespace"]:
        arguments = [*arguments[2:], *arguments[:2]]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (folder / "calls.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps([program, *arguments]) + "\n")
        state = state_of(folder)
        code, text = 0, ""
        try:
            call = Call(program, arguments, state)
            result = answer(call)
            text = result if isinstance(result, str) else format_output(result, call.options)
        except ProgramError as error:
            code = error.code
            sys.stderr.write(f"{error}\n")
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    if text:
        sys.stdout.write(f"{text}\n")
    return code


def run() -> None:
    """Act as the program whose file runs, and exit."""
    path = Path(sys.argv[0]).absolute()
    sys.exit(main(path.parent, path.name, sys.argv[1:]))
