"""Mutations told to Kafka: who watches a lab's store reads them from topics, as from DVID.

====================================================  ==============================================================
topic                                                 what it gets
====================================================  ==============================================================
``<prefix>dvidrepo-<root>-data-<data uuid>[-suffix]``  mutations of a data instance: begun, done, ids handed out
``<prefix>dvidrepo-<root>-repo-ops``                  instances made, versions made, committed and noted on
``dvidactivity-<host>`` or as configured              a record of each request
====================================================  ==============================================================

A message is JSON with its keys sorted; the key is the nanosecond at which it was sent, as text. Brokers that can't be
reached slow no request down: messages wait in memory, up to the configured number, and the log says so.

The client is confluent-kafka (librdkafka), an optional package: ``pip install dvid-dask[kafka]``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.versions import Message
from dvid_dask.versions.feed import Seldom

from .config import ConfigError, KafkaConfig, ServerConfig

if TYPE_CHECKING:
    from types import TracebackType

    from confluent_kafka import KafkaError, Producer
    from confluent_kafka import Message as KafkaMessage

    from dvid_dask.versions import Datastore

__all__ = ["MAX_MESSAGE", "KafkaPublisher", "activity_topic", "publishing", "topic_of"]

log = logging.getLogger(__name__)

#: Bytes of a message from which on it is kept as a blob and its reference sent, as in DVID.
MAX_MESSAGE = 980 * 1024
#: Messages that wait before they are handed to the client, which has the larger queue.
_HANDOVER = 10_000
#: Seconds that delivery may take at the end, and where no broker answers anyway.
_LAST_WORDS = 10.0
_LAST_TRY = 1.0

_encode = msgspec.json.Encoder(order="sorted").encode


def topic_of(message: Message, config: KafkaConfig, activity: str) -> str:
    """The topic of a message.

    Parameters
    ----------
    message : Message
        Without a repository, it is a record of activity.
    config : KafkaConfig
    activity : str
        Topic of activity.

    Examples
    --------
    >>> config = KafkaConfig(topic_prefix="lab-", topic_suffixes=("d1:segmentation",))
    >>> topic_of(Message("r", "d1", {}), config, "activity"), topic_of(Message("r", "d2", {}), config, "activity")
    ('lab-dvidrepo-r-data-d1-segmentation', 'lab-dvidrepo-r-data-d2')
    >>> topic_of(Message("r", "", {}), config, "activity"), topic_of(Message("", "", {}), config, "activity")
    ('lab-dvidrepo-r-repo-ops', 'activity')
    """
    if not message.repo:
        return activity
    if not message.data:
        return _allowed(f"{config.topic_prefix}dvidrepo-{message.repo}-repo-ops")
    suffixes = dict(spec.split(":", 1) for spec in config.topic_suffixes)
    suffix = suffixes.get(message.data)
    tail = f"-{suffix}" if suffix else ""
    return _allowed(f"{config.topic_prefix}dvidrepo-{message.repo}-data-{message.data}{tail}")


def activity_topic(config: ServerConfig) -> str:
    """The topic that gets a record of each request."""
    return _allowed(config.kafka.topic_activity or f"dvidactivity-{config.host or socket.gethostname()}")


def _allowed(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


@contextlib.contextmanager
def publishing(datastore: Datastore, config: ServerConfig) -> Iterator[KafkaPublisher | None]:
    """Publish what happens in a datastore, where the configuration says so."""
    if not config.kafka.servers:
        yield None
        return
    with KafkaPublisher(datastore, config.kafka, activity=activity_topic(config)) as publisher:
        yield publisher


class KafkaPublisher:
    """Sends the mutations of a datastore to Kafka, in the background, until it is closed.

    Parameters
    ----------
    datastore : Datastore
        Mutations made through this object are sent; those of other processes are not heard of here.
    config : KafkaConfig
        Brokers and topics.
    activity : str
        Topic of what is handed to `activity`.

    Raises
    ------
    ConfigError
        The client package is missing, or refuses the configuration.

    Examples
    --------
    Without a server, around a script that edits:

    >>> import dvid_dask
    >>> ds = dvid_dask.create("memory://")
    >>> with KafkaPublisher(ds, KafkaConfig(servers=("kafka.lab.org:9092",))):  # doctest: +SKIP
    ...     ds[":master"]["segmentation"].merge(1, [2, 3])
    """

    def __init__(self, datastore: Datastore, config: KafkaConfig, *, activity: str = "dvidactivity") -> None:
        self._config = config
        self._activity = activity
        self._datastore = datastore
        self._unreachable = False
        self._given_up = 0
        self._last_error = "no broker answered"
        self._stopping = threading.Event()
        self._deadline = math.inf
        self._say_unreachable = Seldom(log)
        self._say_refused = Seldom(log)
        self._producer = _producer(config, self._on_error)
        self._poller = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._poller.start()
        self._watcher = datastore.feed.watch(self._send, waiting=_HANDOVER, name="Kafka")
        log.info("mutations are sent to Kafka at %s", config.addresses)

    def activity(self, record: dict[str, Any]) -> None:
        """Send a record to the topic of activity. Never waits."""
        self._watcher.put([Message("", "", record)])

    def close(self) -> None:
        """Send what waits, then stop. Takes some seconds at most; what can't be sent is counted in the log."""
        patience = _LAST_TRY if self._unreachable else _LAST_WORDS
        self._deadline = time.monotonic() + patience
        self._stopping.set()
        left = self._watcher.close(patience)
        self._poller.join(patience)
        left += self._producer.flush(max(0.1, self._deadline - time.monotonic()))
        left += self._given_up
        if left:
            log.warning("%d messages could not be sent to Kafka before the end", left)
            self._producer.purge()
            self._producer.poll(0)

    def __enter__(self) -> KafkaPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ in the watcher's thread

    def _send(self, message: Message) -> None:
        topic = topic_of(message, self._config, self._activity)
        value = _encode(message.record)
        if len(value) > MAX_MESSAGE:
            value = _encode(self._by_reference(message.record, value))
        while True:
            try:
                self._producer.produce(topic, value, str(time.time_ns()), on_delivery=self._on_delivery)
                return
            except BufferError:
                # the client's queue is full: ours fills up behind it
                if time.monotonic() > self._deadline:
                    self._given_up += 1
                    return
                self._producer.poll(0.05)

    def _by_reference(self, record: dict[str, Any], value: bytes) -> dict[str, Any]:
        kept = ("Action", "MutationID", "Timestamp", "UUID", "User", "App")
        short = {name: record[name] for name in kept if name in record}
        return {**short, "DataRef": self._datastore.put_blob(value)}

    # ------------------------------------------------------------------ in the poller's thread

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(0.2)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == error._ALL_BROKERS_DOWN:
            self._unreachable = True
            self._say_unreachable(
                "Kafka can't be reached: %s; %s. Mutations go on; %d messages wait",
                error.str(),
                self._last_error,
                len(self._producer),
            )
        else:
            # of one broker: the client goes on with the others, or all are down, which comes as an error of its own
            self._last_error = error.str()
            if error.fatal():
                self._say_refused("Kafka: %s", error.str())

    def _on_delivery(self, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is None:
            if self._unreachable:
                self._unreachable = False
                log.info("Kafka is reached (again)")
        elif self._stopping.is_set():
            self._given_up += 1
        else:
            self._say_refused("Kafka did not take a message for topic %s: %s", message.topic(), error.str())


def _producer(config: KafkaConfig, on_error: Any) -> Producer:
    try:
        from confluent_kafka import KafkaException, Producer
    except ImportError as error:
        raise ConfigError(
            f"[kafka] names servers, but the Kafka client can't be loaded ({error}): pip install 'dvid-dask[kafka]', "
            "or leave [kafka] out"
        ) from None
    given = {
        "security.protocol": config.sec_protocol,
        "sasl.mechanisms": config.sasl_mechanisms,
        "sasl.username": config.sasl_username,
        "sasl.password": config.sasl_password,
    }
    settings: dict[str, Any] = {
        "client.id": "dvid-dask",
        "bootstrap.servers": config.addresses,
        "message.max.bytes": MAX_MESSAGE + (16 << 10),
        # one after the other: what is sent again doesn't overtake
        "max.in.flight.requests.per.connection": 1,
        # what can't be sent waits as long as there is room, not for the usual five minutes
        "message.timeout.ms": 0,
        "queue.buffering.max.messages": config.buffer_size or 100_000,
        "queue.buffering.max.kbytes": 128 << 10,
        "linger.ms": 5,
        # what the client has to say comes through the error callback, and from there seldom
        "log_level": 0,
        # brokers close idle connections; that is no news
        "log.connection.close": False,
        "error_cb": on_error,
        **{name: value for name, value in given.items() if value},
    }
    try:
        return Producer(settings)
    except (KafkaException, ValueError, TypeError) as error:
        raise ConfigError(f"the Kafka client refuses the configuration: {error}") from None
