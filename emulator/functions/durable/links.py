"""The URLs by which instances are managed, and the client binding that carries them to the app.

Protocol source: the Durable extension's `BindingHelper` and `HttpApiHandler`.
"""

import json
from dataclasses import dataclass
from urllib.parse import quote

# Clients put the instance's id in the place of this word.
_ID_PLACEHOLDER = "INSTANCEID"
_CONNECTION = "Storage"


@dataclass(frozen=True, slots=True)
class Links:
    """Writes links for one task hub; `key` is the webhook's system key, part of every link."""

    task_hub: str
    key: str

    def client_binding(self, base_url: str, rpc_base_url: str) -> str:
        """Return the JSON text that a durable client is made from.

        `base_url` is where the management API is reached from outside, `rpc_base_url` where the
        app's own client reaches it.
        """
        base = base_url.rstrip("/")
        create = f"{base}/orchestrators/{{functionName}}[/{{instanceId}}]?"
        wait = "timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}&"
        code = f"code={self.key}"
        management = self._management(base, _ID_PLACEHOLDER)
        return json.dumps(
            {
                "taskHubName": self.task_hub,
                "connectionName": None,
                "creationUrls": {
                    "createNewInstancePostUri": create + code,
                    "createAndWaitOnNewInstancePostUri": create + wait + code,
                },
                "managementUrls": {"id": _ID_PLACEHOLDER, **management},
                "baseUrl": base,
                "requiredQueryStringParameters": code,
                "rpcBaseUrl": rpc_base_url.rstrip("/") + "/",
            }
        )

    def check_status(self, base_url: str, instance_id: str) -> dict[str, str]:
        """Return the body of an answer that an instance was started."""
        links = self._management(base_url.rstrip("/"), quote(instance_id, safe=""))
        del links["rewindPostUri"]
        return {"id": instance_id, **links}

    def _management(self, base: str, instance_id: str) -> dict[str, str]:
        instance = f"{base}/instances/{instance_id}"
        query = f"taskHub={quote(self.task_hub)}&connection={_CONNECTION}&code={self.key}"
        return {
            "statusQueryGetUri": f"{instance}?{query}",
            "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
            "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
            "rewindPostUri": f"{instance}/rewind?reason={{text}}&{query}",
            "purgeHistoryDeleteUri": f"{instance}?{query}",
            "restartPostUri": f"{instance}/restart?{query}",
            "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
            "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
        }
