"""Outputs of az, in the form that Microsoft documents for each command."""

from typing import Any

Output = Any


# https://learn.microsoft.com/cli/azure/manage-azure-subscriptions-azure-cli
def account(subscription: str) -> Output:
    return {
        "environmentName": "AzureCloud",
        "homeTenantId": "33333333-3333-3333-3333-333333333333",
        "id": subscription,
        "isDefault": True,
        "managedByTenants": [],
        "name": "A subscription",
        "state": "Enabled",
        "tenantId": "33333333-3333-3333-3333-333333333333",
        "user": {"name": "someone@example.org", "type": "user"},
    }


# `az vm list-skus`: https://learn.microsoft.com/rest/api/compute/resource-skus/list
# Without `--all`, az leaves out machines with a restriction of the type Location:
# https://learn.microsoft.com/cli/azure/vm#az-vm-list-skus
def sku(name: str, family: str, cores: int, *restrictions: str, gpus: int = 0) -> Output:
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "tier": "Standard",
        "size": name.removeprefix("Standard_"),
        "family": family,
        "locations": ["swedencentral"],
        "locationInfo": [{"location": "swedencentral", "zones": ["1", "2", "3"]}],
        "capabilities": [
            {"name": "MaxResourceVolumeMB", "value": "0"},
            {"name": "vCPUs", "value": str(cores)},
            {"name": "vCPUsAvailable", "value": str(cores)},
            *([{"name": "GPUs", "value": str(gpus)}] if gpus else []),
        ],
        "restrictions": [
            {
                "type": kind,
                "values": ["swedencentral"],
                "restrictionInfo": {"locations": ["swedencentral"]},
                "reasonCode": "NotAvailableForSubscription",
            }
            for kind in restrictions
        ],
    }


# The families, with their blanks and their mixed case: "Tested instance types for Azure" of
# https://github.com/openshift/installer/blob/main/docs/user/azure/tested_instance_types_x86_64.md,
# and https://github.com/skypilot-org/skypilot/issues/464 for those with blanks.
SKUS = {
    "Standard_D4as_v5": sku("Standard_D4as_v5", "standardDASv5Family", 4),
    "Standard_NC4as_T4_v3": sku("Standard_NC4as_T4_v3", "Standard NCASv3_T4 Family", 4, gpus=1),
    "Standard_ND96asr_v4": sku("Standard_ND96asr_v4", "Standard NDASv4_A100 Family", 96, gpus=8),
    "Standard_NC24ads_A100_v4": sku(
        "Standard_NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, gpus=1
    ),
}


# `az vm list-usage`: https://learn.microsoft.com/rest/api/compute/usage/list
# The command turns both numbers into texts, transform_vm_usage_list in
# https://github.com/Azure/azure-cli/blob/dev/src/azure-cli/azure/cli/command_modules/vm/_format.py
def usage(name: str, limit: int, used: int = 0) -> Output:
    return {
        "currentValue": str(used),
        "limit": str(limit),
        "localName": name,
        "name": {"localizedValue": name, "value": name},
        "unit": "Count",
    }


# The quota that deploy.md asks for, and no core more. Published lists have the same family
# both as `Standard NCASv3_T4 Family` and as `standard NCASv3_T4 Family`.
USAGES = {
    "cores": usage("cores", 20),
    "lowPriorityCores": usage("lowPriorityCores", 4),
    "standardDASv5Family": usage("standardDASv5Family", 16),
    "Standard NCASv3_T4 Family": usage("standard NCASv3_T4 Family", 4),
    "Standard NDASv4_A100 Family": usage("Standard NDASv4_A100 Family", 0),
}

# `az functionapp list-flexconsumption-locations`:
# https://learn.microsoft.com/azure/azure-functions/flex-consumption-how-to#view-currently-supported-regions
FLEX_REGIONS = [{"name": "eastus"}, {"name": "swedencentral"}]


# `az provider show`:
# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-providers-and-types
def provider(namespace: str, kind: str, locations: list[str]) -> Output:
    return {
        "namespace": namespace,
        "registrationState": "Registered",
        "resourceTypes": [
            {"resourceType": "operations", "apiVersions": [], "locations": []},
            {"resourceType": kind, "apiVersions": [], "locations": locations},
        ],
    }


# `az containerapp env workload-profile list-supported`:
# https://learn.microsoft.com/rest/api/containerapps/available-workload-profiles/get
def workload_profile(name: str) -> Output:
    return {
        "name": name,
        "location": "swedencentral",
        "type": "Microsoft.App/availableWorkloadProfiles",
        "properties": {"category": "Consumption", "displayName": name, "cores": 8, "memoryGiB": 56},
    }


# `az aks list`: https://learn.microsoft.com/rest/api/aks/managed-clusters/list
def cluster(pools: dict[str, int]) -> Output:
    profiles = [
        {"name": name, "count": count, "provisioningState": "Succeeded", "osType": "Linux"}
        for name, count in pools.items()
    ]
    return {"name": "aks-trial", "location": "swedencentral", "agentPoolProfiles": profiles}


# `az acr repository show --image`:
# https://learn.microsoft.com/azure/container-registry/container-registry-image-lock
def image(name: str, digest: str) -> Output:
    return {
        "changeableAttributes": {"deleteEnabled": True, "writeEnabled": True},
        "createdTime": "2026-01-01T00:00:00.0000000Z",
        "digest": digest,
        "name": name.partition(":")[2],
        "signed": False,
    }


# `az keyvault secret list` and `show`:
# https://learn.microsoft.com/rest/api/keyvault/secrets/get-secrets/get-secrets and
# https://learn.microsoft.com/azure/key-vault/secrets/quick-create-cli
def secret(name: str, **value: str) -> Output:
    return {
        "attributes": {"enabled": True},
        "contentType": None,
        "id": f"https://kv-trial.vault.azure.net/secrets/{name}",
        "name": name,
        **value,
    }


# `az storage blob show`: https://learn.microsoft.com/azure/storage/blobs/storage-blob-properties-metadata
def blob(name: str, digest: str) -> Output:
    return {"container": "weights", "metadata": {"sha256": digest}, "name": name}


# A query of Log Analytics: https://learn.microsoft.com/azure/azure-monitor/logs/api/response-format
def count_of_rows(rows: int) -> Output:
    columns = [{"name": "Count", "type": "long"}]
    return {"tables": [{"name": "PrimaryResult", "columns": columns, "rows": [[rows]]}]}


# `az servicebus queue show`: https://learn.microsoft.com/rest/api/servicebus/stable/queues/get
def queue(name: str, active: int) -> Output:
    counts = {"activeMessageCount": active, "deadLetterMessageCount": 0}
    return {"name": name, "countDetails": counts, "status": "Active"}


# `az containerapp show`: https://learn.microsoft.com/rest/api/containerapps/container-apps/get
def container_app(profile: str) -> Output:
    return {"name": "worker-classifier", "properties": {"workloadProfileName": profile}}


# `az ad app list` and `create`: https://learn.microsoft.com/graph/api/application-list
def application(client_id: str) -> Output:
    return {"appId": client_id, "displayName": "loosely-github", "id": "a-directory-object"}


REGION = {
    "flex_regions": FLEX_REGIONS,
    "scheduler_regions": ["East US", "Sweden Central"],
    "dashboard_regions": ["East US", "Sweden Central"],
    "gpu_profiles": ["Consumption", "Consumption-GPU-NC8as-T4"],
    "skus": SKUS,
    "usages": USAGES,
}
"""What the region of a deployment offers, and the quota there."""
