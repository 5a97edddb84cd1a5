"""Nodes under the cluster autoscaler: asked for when a worker has none, given back when empty."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from loosely.planning.machines import Machines
from loosely.planning.timeline import Event, Timeline


@dataclass(eq=False, slots=True)
class Node:
    """One machine, from the request for it on."""

    asked_at_seconds: float
    is_up: bool = False
    has_image: bool = False
    empty_since_seconds: float | None = None
    workers: int = 0


class Pool:
    """The nodes that there are, and how long there have been any."""

    def __init__(self, machines: Machines, timeline: Timeline, settle: Callable[[], int]) -> None:
        """``settle`` puts workers on nodes that have room; it returns how many are left without."""
        self._machines = machines
        self._timeline = timeline
        self._settle = settle
        self._nodes = [Node(0.0, is_up=True, has_image=True) for _ in range(machines.least_nodes)]
        self._added_at_seconds = -math.inf
        self._is_scan_planned = False
        self._gone_seconds = 0.0
        self.most = len(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def node_seconds(self) -> float:
        """The time of all nodes so far, those that have gone included."""
        now = self._timeline.now_seconds
        return self._gone_seconds + sum(now - node.asked_at_seconds for node in self._nodes)

    def enter(self) -> tuple[Node, float] | None:
        """Take a worker in; the node, and the seconds that its image takes to come."""
        for node in self._nodes:
            if node.is_up and node.workers < self._machines.workers_per_node:
                node.workers += 1
                node.empty_since_seconds = None
                pull_seconds = 0.0 if node.has_image else self._machines.image_pull_seconds
                node.has_image = True
                return node, pull_seconds
        return None

    def leave(self, node: Node) -> None:
        """Let a worker go."""
        node.workers -= 1
        if node.workers == 0:
            node.empty_since_seconds = self._timeline.now_seconds
            self._plan_removal(node)

    def want(self, homeless: int) -> None:
        """Have the autoscaler's next scan ask for nodes if ``homeless`` workers need any."""
        if self._missing(homeless) > 0 and not self._is_scan_planned:
            self._is_scan_planned = True
            self._timeline.at(self._machines.next_scan(self._timeline.now_seconds), self._scan)

    def _missing(self, homeless: int) -> int:
        room = self._machines.workers_per_node
        coming = sum(not node.is_up for node in self._nodes) * room
        needed = math.ceil(max(0, homeless - coming) / room)
        return min(needed, self._machines.most_nodes - len(self._nodes))

    def _scan(self) -> None:
        self._is_scan_planned = False
        now = self._timeline.now_seconds
        for _ in range(self._missing(self._settle())):
            node = Node(now)
            self._nodes.append(node)
            self._added_at_seconds = now
            self._timeline.after(self._machines.node_start_seconds, self._coming_up(node))
        self.most = max(self.most, len(self._nodes))

    def _coming_up(self, node: Node) -> Event:
        def come_up() -> None:
            node.is_up, node.empty_since_seconds = True, self._timeline.now_seconds
            self._settle()
            self._plan_removal(node)

        return come_up

    def _plan_removal(self, node: Node) -> None:
        since = node.empty_since_seconds
        if since is None:
            return
        due = max(since + self._machines.unneeded_seconds, self._quiet_from_seconds)

        def remove() -> None:
            if node.empty_since_seconds != since or len(self._nodes) <= self._machines.least_nodes:
                return
            if self._timeline.now_seconds < self._quiet_from_seconds:
                self._plan_removal(node)  # another node was asked for meanwhile
                return
            self._nodes.remove(node)
            self._gone_seconds += self._timeline.now_seconds - node.asked_at_seconds

        self._timeline.at(self._machines.next_scan(due), remove)

    @property
    def _quiet_from_seconds(self) -> float:
        return self._added_at_seconds + self._machines.delay_after_add_seconds
