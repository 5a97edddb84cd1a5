"""The shared access policies of a namespace, its queues and its topics.

A client signs its tokens with a key of a policy.
"""

from collections.abc import Iterable, Mapping
from hmac import compare_digest

from emulator.servicebus.broker.authorization import AccessRight, AuthorizationRule
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import ArgumentError

# The key in the documented connection string of Microsoft's emulator. The key is public, so it is
# not a secret.
DEVELOPMENT_KEY_NAME = "RootManageSharedAccessKey"
DEVELOPMENT_KEY = "SAS_KEY_VALUE"


def check_keys(rules: Iterable[AuthorizationRule]) -> None:
    """Raise ArgumentError if a policy has the key of Microsoft's emulator, which is public."""
    for rule in rules:
        if DEVELOPMENT_KEY in rule.keys:
            raise ArgumentError(
                f"the key of the policy {rule.name!r} is public, but other machines can connect: "
                "use a secret key"
            )


class AccessPolicies:
    """The shared access policies of one namespace.

    A policy of the namespace is either set when the emulator starts (`configured`), or created with
    the management API, which stores it in the broker's database. The policies of a queue or topic
    are stored in its settings. The policies of a topic are also valid for its subscriptions.
    """

    def __init__(
        self, configured: Iterable[AuthorizationRule], broker: Broker | None = None
    ) -> None:
        """Create the policies. Raises ArgumentError if two `configured` ones share a name."""
        self._broker = broker
        self._configured: dict[str, AuthorizationRule] = {}
        for rule in configured:
            if rule.name in self._configured:
                raise ArgumentError(f"two policies of the namespace have the name {rule.name!r}")
            self._configured[rule.name] = rule

    @property
    def configured(self) -> Mapping[str, AuthorizationRule]:
        """The policies that were set at the start, by name. The API cannot change them."""
        return self._configured

    @property
    def of_namespace(self) -> Mapping[str, AuthorizationRule]:
        """All policies of the namespace, by name."""
        stored = {} if self._broker is None else self._broker.authorization_rules
        return {**stored, **self._configured}

    def find_public(self) -> str | None:
        """Return which policy, of what, has Microsoft's public key; None if all keys are secret."""
        for rule in self.of_namespace.values():
            if DEVELOPMENT_KEY in rule.keys:
                return rule.name
        if self._broker is None:
            return None
        for owner in (*self._broker.queues(), *self._broker.topics()):
            for rule in owner.settings.authorization_rules:
                if DEVELOPMENT_KEY in rule.keys:
                    return f"{rule.name} of the {owner.settings.KIND} {owner.address}"
        return None

    def find(self, name: str, resource: str) -> list[AuthorizationRule]:
        """Return the policies with this name whose keys may sign a token for a resource.

        Only a policy of the namespace can sign for the whole namespace, whose path is empty.
        """
        found = [self.of_namespace[name]] if name in self.of_namespace else []
        owner = None if self._broker is None else self._broker.find_policy_owner(resource)
        if owner is not None:
            found += [rule for rule in owner.settings.authorization_rules if rule.name == name]
        return found

    def allows(self, rule: AuthorizationRule, resource: str, path: str) -> bool:
        """Return whether a policy that signed for a resource, or its parent, also covers `path`."""
        if self._broker is None or self.of_namespace.get(rule.name) is rule:
            return True
        owner = self._broker.find_policy_owner(resource)
        return owner is self._broker.find_policy_owner(path)

    def rights_of(self, name: str, key: str) -> frozenset[AccessRight]:
        """Return the rights of a namespace's policy for one of its keys; none for another key."""
        rule = self.of_namespace.get(name)
        # Compare bytes, because compare_digest accepts only ASCII texts.
        if rule is None or not any(
            compare_digest(valid.encode(), key.encode()) for valid in rule.keys
        ):
            return frozenset()
        return rule.rights
