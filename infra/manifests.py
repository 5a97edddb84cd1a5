"""The Kubernetes objects of one model: its Deployment, its ScaledObject and its disruption budget.

The values in capitals come from infra/k8s/base/workers/deployment.env when kustomize renders.
"""

from collections.abc import Iterable
from typing import Any

import yaml

from contract.catalogue import Model

# Per model, before an overlay that shares GPUs multiplies it: as many as there are GPU nodes.
MAX_GPU_NODES = 8
MAX_CPU_WORKERS = 4
HEALTH_PORT = 8081
USER_ID = 10001
# For a GPU node to come and to pull the image; deploy-worker.sh waits as long.
ROLLOUT_SECONDS = 1200
# From SIGTERM to the end of the grace, less what the process needs to end itself.
_AFTER_DRAIN_SECONDS = 15

Described = tuple[Model, list[dict[str, Any]], int]


def documents(models: Iterable[Described]) -> str:
    """The manifests of all models as one YAML stream."""
    every = [
        document
        for model, queues, grace in models
        for document in (deployment(model, grace), scaled_object(model, queues), budget(model))
    ]
    text: str = yaml.safe_dump_all(every, sort_keys=False, width=100)
    return f"# Made by `./dev infra` from the model catalogue: change that.\n{text}"


def deployment(model: Model, grace_seconds: int) -> dict[str, Any]:
    """One model's workers. KEDA sets the number of replicas, so none is given here."""
    pod: dict[str, Any] = {
        "serviceAccountName": "worker",
        "automountServiceAccountToken": False,
        "priorityClassName": "loosely-worker",
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(model, grace_seconds)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}},
            {"name": "cache", "emptyDir": {"sizeLimit": "16Gi"}},
            # Reservations of the device's memory, seen by all containers of the pod.
            {"name": "device", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
    if model.uses_gpu:
        pod["nodeSelector"] = {"loosely.dev/pool": "gpu"}
        pod["tolerations"] = [
            {
                "key": "nvidia.com/gpu",
                "operator": "Equal",
                "value": "present",
                "effect": "NoSchedule",
            }
        ]
    labels = _labels(model)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"worker-{model.name}", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/instance": model.name}},
            # A second worker needs a second GPU, and there may be none: the old one leaves first.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            },
            "progressDeadlineSeconds": ROLLOUT_SECONDS,
            "revisionHistoryLimit": 5,
            "template": {
                "metadata": {
                    "labels": {**labels, "azure.workload.identity/use": "true"},
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(HEALTH_PORT),
                        "prometheus.io/path": "/metrics",
                    },
                },
                "spec": pod,
            },
        },
    }


def _labels(model: Model) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "worker",
        "app.kubernetes.io/instance": model.name,
        "app.kubernetes.io/part-of": "loosely",
        "loosely.dev/device": "gpu" if model.uses_gpu else "cpu",
    }


def container(model: Model, grace_seconds: int) -> dict[str, Any]:
    """The worker process for one model."""
    resources: dict[str, Any] = {
        "requests": {"cpu": "2", "memory": "6Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": 1},
    }
    if not model.uses_gpu:
        resources = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    return {
        "name": model.name,
        "image": "IMAGE",
        "imagePullPolicy": "IfNotPresent",
        "envFrom": [{"configMapRef": {"name": "worker"}}],
        "env": [
            {"name": "WORKER_MODELS", "value": model.name},
            {"name": "WORKER_DRAIN_SECONDS", "value": str(grace_seconds - _AFTER_DRAIN_SECONDS)},
        ],
        "ports": [{"name": "health", "containerPort": HEALTH_PORT}],
        # A model may load for minutes: the loops turn meanwhile, which is what /live tells.
        "startupProbe": _probe("/live", period_seconds=5, failures=60),
        "livenessProbe": _probe("/live", period_seconds=10, failures=6),
        "readinessProbe": _probe("/ready", period_seconds=5, failures=2),
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the container's own
            {"name": "cache", "mountPath": "/var/cache/loosely"},
            {"name": "device", "mountPath": "/run/loosely"},
        ],
    }


def _probe(path: str, *, period_seconds: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "health"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def scaled_object(model: Model, queues: list[dict[str, Any]]) -> dict[str, Any]:
    """KEDA's view of one model: from none to as many as there are GPUs."""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": f"worker-{model.name}", "labels": _labels(model)},
        "spec": {
            "scaleTargetRef": {"name": f"worker-{model.name}"},
            "pollingInterval": 15,
            "cooldownPeriod": 300,
            "minReplicaCount": 0,
            "maxReplicaCount": MAX_GPU_NODES if model.uses_gpu else MAX_CPU_WORKERS,
            # What HPA stops is any pod, also a busy one: it stops few, late, and one at a time.
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {
                        "scaleUp": {
                            "stabilizationWindowSeconds": 0,
                            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
                        },
                        "scaleDown": {
                            "stabilizationWindowSeconds": 600,
                            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                        },
                    }
                }
            },
            "triggers": [
                {
                    "type": "azure-servicebus",
                    "metadata": {
                        "queueName": queue["name"],
                        "namespace": "SERVICE_BUS_NAMESPACE",
                        "messageCount": str(queue["messageCount"]),
                        "activationMessageCount": str(queue["activationMessageCount"]),
                    },
                    "authenticationRef": {"name": "servicebus"},
                }
                for queue in queues
            ],
        },
    }


def budget(model: Model) -> dict[str, Any]:
    """Node upgrades take one worker of a model at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"worker-{model.name}"},
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/instance": model.name}},
        },
    }
