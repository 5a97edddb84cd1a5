"""Test topics: which subscriptions get a message, and that all of them or none get it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.clock import WallClock
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import (
    ArgumentError,
    EntityAlreadyExists,
    EntityDisabled,
    EntityNotFound,
    MessageNotFound,
    MessageStoreError,
    NotAllowed,
    QuotaExceeded,
)
from emulator.servicebus.broker.message import MessageDelivery, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import (
    QueueSettings,
    QueueStatus,
    SubscriptionSettings,
    TopicSettings,
)
from emulator.servicebus.broker.subscription_rules import (
    BooleanFilter,
    CorrelationFilter,
    SqlAction,
    SqlFilter,
    SubscriptionRule,
)
from file_sizes import no_space
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message

KILLED_PROCESS = Path(__file__).with_name("killed_publisher.py")
RED = SubscriptionRule("red", SqlFilter("color = 'red'"))
BLUE = SubscriptionRule("blue", CorrelationFilter({}, {"color": "blue"}))
BIG = SubscriptionRule("big", SqlFilter("size LIKE 'XX%'"))
NOTHING = SubscriptionRule("none", BooleanFilter(selects_all=False))


def subscription(name: str, *rules: SubscriptionRule) -> SubscriptionSettings:
    settings = SubscriptionSettings(f"t/Subscriptions/{name}")
    return settings if not rules else SubscriptionSettings(settings.name, rules=rules)


@pytest.fixture
async def topics(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """Run a broker with the topic `t` and four subscriptions."""
    topics = await RunningBroker.open(
        tmp_path,
        TopicSettings("t"),
        subscription("all"),
        subscription("red", RED, BIG),
        subscription("blue", BLUE),
        subscription("none", NOTHING),
    )
    yield topics
    await topics.broker.close()


def bodies(topics: RunningBroker) -> dict[str, list[str]]:
    found = topics.broker.topic("t").subscriptions
    return {each.address.rpartition("/")[2]: topics.bodies(each.address) for each in found}


async def test_each_matching_subscription_gets_one_copy(
    topics: RunningBroker,
) -> None:
    both = "color=red size=XXL"
    numbers = await topics.queue("t").send([message(both), message("color=blue"), message("x")])
    assert numbers == [1, 2, 3]
    expected = {
        "all": [both, "color=blue", "x"],
        "red": [both],
        "blue": ["color=blue"],
        "none": [],
    }
    assert bodies(topics) == expected
    (copy,) = topics.queue("T/subscriptions/BLUE").peek(0, 10)
    assert (copy.sequence_number, copy.enqueue_sequence_number) == (1, 2)
    await topics.restart()
    assert bodies(topics) == expected


async def test_copies_are_settled_independently(
    topics: RunningBroker,
) -> None:
    await topics.queue("t").send([message("color=red")])
    held = lock_token_of(topics.receive("t/Subscriptions/all"))
    await topics.queue("t/Subscriptions/all").dead_letter(held, "why", None)
    topics.receive("t/Subscriptions/red", ReceiveMode.RECEIVE_AND_DELETE)
    topics.broker.transactions.tick()
    assert topics.bodies("t/Subscriptions/red") == []
    assert topics.bodies("t/Subscriptions/all/$DeadLetterQueue") == ["color=red"]
    counts = topics.queue("t/Subscriptions/all").counts()
    assert (counts.active, counts.dead_letter) == (0, 1)


async def test_each_rule_with_an_action_makes_a_copy(
    tmp_path: Path,
) -> None:
    actions = [
        SubscriptionRule("one", RED.filter, SqlAction("SET n = 'x'; REMOVE color")),
        SubscriptionRule("two", BooleanFilter(), SqlAction("SET n = 'y' + color")),
        SubscriptionRule("no", NOTHING.filter, SqlAction("SET n = 'z'")),
    ]
    plain = [RED, SubscriptionRule("any"), SubscriptionRule("more")]
    topics = await RunningBroker.open(
        tmp_path,
        TopicSettings("t"),
        subscription("five", *actions, *plain),
        subscription("one", actions[0]),
    )
    await topics.queue("t").send([message("color=red")])
    expected = {
        "five": ["color=red", "n=x rulename=one", "color=red n=yred rulename=two"],
        "one": ["n=x rulename=one"],
    }
    assert bodies(topics) == expected
    await topics.restart()
    assert bodies(topics) == expected
    await topics.broker.close()


async def test_copy_that_an_action_made_too_large_dead_letters(
    tmp_path: Path,
) -> None:
    grow = SqlAction(" ".join(["SET big = color;", *["SET big = big + big;"] * 18]))
    topics = await RunningBroker.open(
        tmp_path,
        TopicSettings("t"),
        subscription("grown", SubscriptionRule("grow", BooleanFilter(), grow)),
        subscription("all"),
    )
    await topics.queue("t").send([message("color=red")])
    assert bodies(topics) == {"all": ["color=red"], "grown": []}
    (dead,) = topics.queue("t/Subscriptions/grown/$DeadLetterQueue").peek(0, 10)
    assert dead.dead_letter_reason == "HeaderSizeExceeded"
    await topics.broker.close()


async def test_unselected_message_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    topics = await RunningBroker.open(tmp_path, TopicSettings("t"), subscription("red", RED))
    await topics.queue("t").send([message("color=green"), message("color=red"), message("x")])
    assert topics.broker.topic("t").dropped_count == 2
    assert topics.queue("t").counts().total == 0
    assert bodies(topics) == {"red": ["color=red"]}
    await topics.broker.close()


async def test_unwritten_message_is_not_counted_as_dropped(tmp_path: Path) -> None:
    topics = await RunningBroker.open(tmp_path, TopicSettings("t"), subscription("red", RED))
    due = topics.after(60)
    await topics.queue("t").schedule([message("color=green", scheduled_at=due)])
    with no_space(0):
        with pytest.raises(MessageStoreError):
            await topics.queue("t").send([message("color=blue")])
        topics.advance(60)
        assert topics.broker.topic("t").dropped_count == 0
    topics.retry_write()
    assert topics.broker.topic("t").dropped_count == 1
    await topics.broker.close()


async def test_many_due_messages_take_several_transactions(
    tmp_path: Path,
) -> None:
    topics = await RunningBroker.open(tmp_path, TopicSettings("t"), subscription("all"))
    due = topics.after(60)
    count, body = 100, "x" * 200_000
    for _ in range(count):
        await topics.queue("t").schedule([message(body, scheduled_at=due)])
    inserted = [0]

    def count_inserted(statement: str) -> None:
        if statement.startswith("INSERT INTO messages"):
            inserted[-1] += 1
        elif statement == "COMMIT":
            inserted.append(0)

    sequence_numbers: list[int] = []
    complete = asyncio.Event()

    def deliver(delivery: MessageDelivery) -> None:
        sequence_numbers.append(delivery.message.sequence_number)
        if len(sequence_numbers) == count:
            complete.set()

    topics.broker.transactions.store.connection.set_trace_callback(count_inserted)
    receiver = topics.queue("t/Subscriptions/all").subscribe(ReceiveMode.PEEK_LOCK, deliver)
    receiver.set_credit(count)
    topics.advance(60)
    await asyncio.wait_for(complete.wait(), timeout=30)
    assert sequence_numbers == list(range(1, count + 1))
    assert sum(inserted) == count
    assert max(inserted) * len(body) < 9 * 1024 * 1024
    await topics.broker.close()


async def test_due_message_goes_to_current_subscriptions(
    topics: RunningBroker,
) -> None:
    due = topics.after(60)
    (number,) = await topics.queue("t").schedule([message("color=red", scheduled_at=due)])
    assert bodies(topics)["all"] == []
    assert topics.queue("t").counts().scheduled == 1
    await topics.restart()
    await topics.broker.delete_queue("t/Subscriptions/red")
    await topics.broker.create_subscription(subscription("late", RED))
    await topics.broker.subscription("t", "blue").add_rule(RED)
    topics.advance(60)
    assert topics.queue("t").counts().scheduled == 0
    expected = {"all": ["color=red"], "blue": ["color=red"], "late": ["color=red"], "none": []}
    assert bodies(topics) == expected
    (copy,) = topics.queue("t/Subscriptions/late").peek(0, 10)
    assert (copy.enqueue_sequence_number, copy.scheduled_at) == (number, due)
    assert (copy.state, copy.enqueued_at) == (MessageState.ACTIVE, due)
    topics.settings = ()
    await topics.restart()
    assert bodies(topics) == expected


async def test_cancelled_scheduled_message_is_not_sent(topics: RunningBroker) -> None:
    (number,) = await topics.queue("t").schedule(
        [message("color=red", scheduled_at=topics.after(60))]
    )
    await topics.queue("t").cancel_scheduled([number])
    with pytest.raises(MessageNotFound):
        await topics.queue("t").cancel_scheduled([number])
    topics.advance(60)
    assert bodies(topics)["all"] == []


async def test_duplicate_is_dropped_until_the_window_ends(
    tmp_path: Path,
) -> None:
    settings = TopicSettings("t", duplicate_detection_window=timedelta(minutes=1))
    topics = await RunningBroker.open(tmp_path, settings, subscription("all"))
    first = await topics.queue("t").send([message("a", message_id="1")])
    await topics.restart()
    assert await topics.queue("t").send([message("b", message_id="1")]) == first
    assert bodies(topics) == {"all": ["a"]}
    topics.advance(60)
    await topics.queue("t").send([message("c", message_id="1")])
    assert bodies(topics) == {"all": ["a", "c"]}
    await topics.broker.close()


async def test_topic_and_subscription_limit_the_lifetime(
    tmp_path: Path,
) -> None:
    topics = await RunningBroker.open(
        tmp_path,
        TopicSettings("t", default_message_time_to_live=timedelta(seconds=20)),
        SubscriptionSettings(
            "t/Subscriptions/short",
            default_message_time_to_live=timedelta(seconds=10),
            dead_lettering_on_message_expiration=True,
        ),
        SubscriptionSettings(
            "t/Subscriptions/long", default_message_time_to_live=timedelta(seconds=99)
        ),
    )
    await topics.queue("t").send([message("a"), message("b", time_to_live_seconds=5)])
    topics.advance(5)
    assert bodies(topics) == {"short": ["a"], "long": ["a"]}
    topics.advance(5)
    assert bodies(topics) == {"short": [], "long": ["a"]}
    assert topics.bodies("t/Subscriptions/short/$DeadLetterQueue") == ["a", "b"]
    topics.advance(10)
    assert bodies(topics) == {"short": [], "long": []}
    await topics.broker.close()


async def test_unwritten_message_reaches_no_subscription(
    topics: RunningBroker,
) -> None:
    due = topics.after(60)
    await topics.queue("t").schedule([message("color=red later", scheduled_at=due)])
    with no_space(0):
        with pytest.raises(MessageStoreError):
            await topics.queue("t").send([message("color=red")])
        topics.advance(60)
        assert set(map(tuple, bodies(topics).values())) == {()}
        assert topics.queue("t").counts().scheduled == 1
    assert not topics.broker.transactions.contents.unwritten_bytes
    assert await topics.queue("t").send([message("color=red")]) == [2]
    topics.retry_write()
    await asyncio.sleep(0)
    found = bodies(topics)
    assert sorted(found["all"]) == sorted(found["red"]) == ["color=red", "color=red later"]
    await topics.restart()
    assert bodies(topics) == found


async def test_due_message_waits_for_its_content(
    topics: RunningBroker,
) -> None:
    due = topics.after(60)
    await topics.queue("t").schedule([message("color=red", scheduled_at=due)])
    await topics.restart()
    store = topics.broker.transactions.store
    store.connection.execute("ALTER TABLE messages RENAME COLUMN bare TO hidden")
    topics.advance(60)
    assert topics.queue("t").counts().scheduled == 1
    store.connection.execute("ALTER TABLE messages RENAME COLUMN hidden TO bare")
    topics.advance(1)
    assert topics.queue("t").counts().scheduled == 0
    assert bodies(topics)["red"] == ["color=red"]


async def test_changed_rule_applies_to_later_messages(
    topics: RunningBroker,
) -> None:
    none = topics.broker.subscription("t", "none")
    await topics.queue("t").send([message("color=red 1")])
    await none.add_rule(RED)
    await topics.queue("t").send([message("color=red 2"), message("color=blue 2")])
    await none.replace_rule(SubscriptionRule("RED", SqlFilter("color = 'blue'")))
    await topics.queue("t").send([message("color=red 3"), message("color=blue 3")])
    await none.remove_rule("red")
    await topics.queue("t").send([message("color=blue 4")])
    assert bodies(topics)["none"] == ["color=red 2", "color=blue 3"]
    assert [rule.name for rule in none.rules] == ["none"]
    with pytest.raises(EntityAlreadyExists, match="the rule 'NONE' of 't/Subscriptions/none'"):
        await none.add_rule(SubscriptionRule("NONE"))
    for operation in (none.remove_rule("red"), none.replace_rule(RED)):
        with pytest.raises(EntityNotFound, match=r"t/Subscriptions/none/Rules/red' could not"):
            await operation
    await none.remove_rule("none")
    await topics.queue("t").send([message("x")])
    assert len(bodies(topics)["none"]) == 2


async def test_rules_and_subscriptions_survive_a_restart(topics: RunningBroker) -> None:
    await topics.broker.subscription("t", "none").add_rule(BLUE)
    await topics.broker.delete_queue("t/Subscriptions/all")
    topics.settings = ()
    await topics.restart()
    assert topics.broker.subscription("t", "none").rules == (NOTHING, BLUE)
    assert sorted(bodies(topics)) == ["blue", "none", "red"]
    await topics.queue("t").send([message("color=blue")])
    assert bodies(topics) == {"blue": ["color=blue"], "none": ["color=blue"], "red": []}


async def test_configured_rules_apply_at_each_start(
    topics: RunningBroker,
) -> None:
    await topics.queue("t").send([message("color=red")])
    await topics.broker.subscription("t", "red").add_rule(BLUE)
    await topics.restart()
    assert topics.broker.subscription("t", "red").rules == (RED, BIG)
    assert bodies(topics)["red"] == ["color=red"]


async def test_deletion_includes_subscriptions_and_messages(
    topics: RunningBroker,
) -> None:
    topic, red = topics.queue("t"), topics.queue("t/Subscriptions/red")
    await topic.send([message("color=red")])
    await topic.schedule([message("later", scheduled_at=topics.after(60))])
    await topics.broker.delete_queue("T")
    for address in ("t", "t/Subscriptions/red", "t/Subscriptions/red/$DeadLetterQueue"):
        with pytest.raises(EntityNotFound):
            topics.queue(address)
    with pytest.raises(EntityNotFound):
        await topic.send([message("x")])
    with pytest.raises(EntityNotFound):
        red.counts()
    topics.settings = ()
    await topics.restart()
    assert not topics.broker.topics()
    with pytest.raises(EntityNotFound):
        await topics.broker.create_subscription(subscription("all"))
    await topics.broker.create_topic(TopicSettings("t"))
    await topics.broker.create_subscription(subscription("red"))
    topics.advance(60)
    assert bodies(topics) == {"red": []}


async def test_topic_only_sends_and_subscription_only_receives(
    topics: RunningBroker,
) -> None:
    with pytest.raises(NotAllowed, match="which is a topic: receive them from one of"):
        topics.queue("t").subscribe(ReceiveMode.PEEK_LOCK, print)
    with pytest.raises(NotAllowed, match="which is a subscription: send them to its topic"):
        await topics.queue("t/Subscriptions/all").send([message("x")])
    with pytest.raises(NotAllowed, match="which is a dead-letter queue"):
        await topics.queue("t/Subscriptions/all/$DeadLetterQueue").send([message("x")])


async def test_disabled_topic_refuses_messages(topics: RunningBroker) -> None:
    await topics.broker.update_queue(TopicSettings("t", status=QueueStatus.SEND_DISABLED))
    with pytest.raises(EntityDisabled, match="localhost:Topic:t' is currently disabled for Send"):
        await topics.queue("t").send([message("x")])


async def test_receive_disabled_subscription_gets_messages(
    topics: RunningBroker,
) -> None:
    settings = SubscriptionSettings("t/Subscriptions/all", status=QueueStatus.RECEIVE_DISABLED)
    await topics.broker.update_queue(settings)
    await topics.queue("t").send([message("x")])
    assert bodies(topics)["all"] == ["x"]
    with pytest.raises(EntityDisabled, match="localhost:Subscription:t/Subscriptions/all"):
        topics.queue("t/Subscriptions/all").subscribe(ReceiveMode.PEEK_LOCK, print)


async def test_full_topic_refuses_until_a_message_is_received(
    tmp_path: Path,
) -> None:
    settings = TopicSettings("t", max_size_bytes=100)
    topics = await RunningBroker.open(tmp_path, settings, subscription("a"), subscription("b"))
    await topics.queue("t").send([message("x" * 40)])
    with pytest.raises(QuotaExceeded, match="the topic 't' is full"):
        await topics.queue("t").send([message("x" * 40)])
    topics.receive("t/Subscriptions/a", ReceiveMode.RECEIVE_AND_DELETE)
    await topics.queue("t").send([message("x" * 40)])
    assert topics.queue("t").counts().size_bytes == 120
    await topics.broker.close()


async def test_invalid_or_used_name_is_refused(
    topics: RunningBroker,
) -> None:
    create = topics.broker
    with pytest.raises(EntityAlreadyExists, match="the topic 'T' already exists"):
        await create.create_queue(QueueSettings("T"))
    with pytest.raises(EntityAlreadyExists, match="the subscription 't/Subscriptions/ALL' already"):
        await create.create_subscription(SubscriptionSettings("T/Subscriptions/ALL"))
    topics.settings = [QueueSettings("t")]
    with pytest.raises(EntityAlreadyExists, match="the database has a topic with this name"):
        await topics.restart()
    assert [queue.address for queue in topics.broker.queues()] == []
    for name in ("", "a/b", "$x", "x" * 51):
        with pytest.raises(ArgumentError, match="is not a valid subscription name"):
            SubscriptionSettings(f"t/Subscriptions/{name}")
    SubscriptionSettings("x" * 260 + "/Subscriptions/" + "y" * 50)
    topics.settings = ()
    await topics.restart()


async def test_policies_cover_the_subscriptions(
    topics: RunningBroker,
) -> None:
    topic = topics.queue("t")
    for path in (
        "t",
        "T/Subscriptions",
        "t/Subscriptions/red",
        "t/subscriptions/red/$DeadLetterQueue/$management",
        "t/subscriptions/red/rules/x",
    ):
        assert topics.broker.find_policy_owner(path) is topic
    assert topics.broker.find_policy_owner("other/subscriptions/red") is None
    assert topics.broker.find_policy_owner("t/other") is None


def _publish_until_killed(database: Path, report_count: int, *arguments: str) -> set[str]:
    """Run killed_publisher.py, kill it after `report_count` sends, and return the sent bodies.

    `arguments` are further arguments of killed_publisher.py. They may make the process kill itself
    earlier.
    """
    process = subprocess.Popen(
        [sys.executable, str(KILLED_PROCESS), str(database), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        lines = [process.stdout.readline() for _ in range(report_count)]
        process.kill()
        lines += process.stdout.readlines()
    assert process.wait() == -signal.SIGKILL
    reports = [json.loads(line) for line in lines if line.endswith("\n")]
    assert len(reports) >= (1 if arguments else report_count)
    return {body for bodies in reports for body in bodies}


async def _check_after_kill(tmp_path: Path, report_count: int, *arguments: str) -> None:
    """Check that each message that a killed process sent is in all subscriptions or in none."""
    names = [f"s{at}" for at in range(6)]
    settings = [TopicSettings("t"), *(subscription(name) for name in names)]
    database = tmp_path / "topics.sqlite"
    await (await Broker.open(database, settings, WallClock())).close()
    acknowledged = _publish_until_killed(database, report_count, *arguments)

    broker = await Broker.open(database, settings, WallClock())
    found = []
    for name in names:
        peeked = broker.subscription("t", name).peek(0, 100_000)
        found.append([each.bare.split()[0].decode() for each in peeked])
    assert len(found[0]) == len(set(found[0]))
    assert acknowledged <= set(found[0])
    assert all(each == found[0] for each in found), "a message is only in some subscriptions"
    assert len(found[0]) <= len(acknowledged) + 3
    await broker.close()


@pytest.mark.parametrize("report_count", [1, 100])
async def test_acknowledged_message_survives_a_kill_everywhere(
    tmp_path: Path, report_count: int
) -> None:
    await _check_after_kill(tmp_path, report_count)


@pytest.mark.parametrize("statement", [8, 14, 24])
async def test_kill_during_the_write_leaves_all_or_none(tmp_path: Path, statement: int) -> None:
    await _check_after_kill(tmp_path, 1000, str(statement))
