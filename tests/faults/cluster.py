# SPDX-License-Identifier: Apache-2.0
"""The broker of the runs, with a proxy before it, and producers made to interfere.

Ports: 27000 broker, 27001 controller, 27002 behind the proxy, 27003 the proxy.
"""

import ctypes
import os
import subprocess

from broker import Broker
from proxy import Proxy

PORT = int(os.environ.get("FAULTS_PORT", "27000"))
PROXIED = (f"\nlisteners=PLAINTEXT://127.0.0.1:{PORT},CONTROLLER://127.0.0.1:{PORT + 1},"
           f"PROXIED://127.0.0.1:{PORT + 2}"
           f"\nadvertised.listeners=PLAINTEXT://127.0.0.1:{PORT},PROXIED://127.0.0.1:{PORT + 3}"
           "\nlistener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
           "PROXIED:PLAINTEXT\ninter.broker.listener.name=PLAINTEXT"
           "\nfetch.max.wait.ms=50")


class Cluster(Broker):
    """One KRaft node and the proxy that tallyd goes through."""

    def __init__(self, jars, folder):
        super().__init__(jars, folder, PORT, PROXIED)
        self.start()
        self.proxy = Proxy(PORT + 3, ("127.0.0.1", PORT + 2))

    def close(self):
        self.proxy.stop()
        self.erase()

    def tool(self, name, *args):
        return subprocess.run(self.java(name, "--bootstrap-server", self.address, *args,
                                        heap="128m"), check=True, capture_output=True, timeout=60)

    def topic(self, *args):
        return self.tool("kafka.admin.TopicCommand" if self._scala() else
                         "org.apache.kafka.tools.TopicCommand", *args)

    def config(self, topic, change):
        return self.tool("kafka.admin.ConfigCommand", "--alter", "--entity-type", "topics",
                         "--entity-name", topic, *change)

    def _scala(self):
        return False


class Producer:
    """A transactional producer of librdkafka, by its C interface."""

    def __init__(self, address, transactional_id):
        self.lib = ctypes.CDLL("librdkafka.so.1")
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_topic_new",
                     "rd_kafka_init_transactions", "rd_kafka_begin_transaction",
                     "rd_kafka_commit_transaction", "rd_kafka_abort_transaction"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.lib.rd_kafka_error_string.restype = ctypes.c_char_p
        conf, text = ctypes.c_void_p(self.lib.rd_kafka_conf_new()), ctypes.create_string_buffer(512)
        for key, value in (("bootstrap.servers", address), ("transactional.id", transactional_id)):
            if self.lib.rd_kafka_conf_set(conf, key.encode(), value.encode(), text, 512):
                raise RuntimeError(text.value.decode())
        self.client = ctypes.c_void_p(self.lib.rd_kafka_new(0, conf, text, 512))
        if not self.client.value:
            raise RuntimeError(text.value.decode())

    def _ask(self, name, *args):
        error = getattr(self.lib, "rd_kafka_" + name)(self.client, *args)
        if error:
            raise RuntimeError(self.lib.rd_kafka_error_string(ctypes.c_void_p(error)).decode())

    def fence(self, timeout_ms=20000):
        """Every earlier producer of this id is a zombie from here on."""
        self._ask("init_transactions", timeout_ms)

    def write(self, topic, values, commit):
        handle = ctypes.c_void_p(self.lib.rd_kafka_topic_new(self.client, topic.encode(), None))
        self._ask("begin_transaction")
        for value in values:
            if self.lib.rd_kafka_produce(handle, 0, 2, value, len(value), None, 0, None):
                raise RuntimeError("not queued")
        self.lib.rd_kafka_flush(self.client, 10000)
        self._ask("commit_transaction" if commit else "abort_transaction", 10000)
        self.lib.rd_kafka_topic_destroy(handle)

    def close(self):
        self.lib.rd_kafka_destroy_flags(self.client, 0x4 | 0x8)


def check_consumer(cluster, consumer_class):
    """kcat is a fit witness only if it hides what was aborted, and shows it when asked to."""
    topic = "selftest"
    cluster.topic("--create", "--topic", topic, "--partitions", "1")
    producer = Producer(cluster.address, "selftest")
    producer.fence()
    producer.write(topic, [b'"kept"'], True)
    producer.write(topic, [b'"aborted"'] * 3, False)
    producer.write(topic, [b'"kept"'], True)
    producer.close()
    seen = {mode: consumer_class(cluster.address, topic, 1).read(mode)
            for mode in ("read_committed", "read_uncommitted")}
    if seen["read_committed"] != ["kept"] * 2 or len(seen["read_uncommitted"]) != 5:
        raise RuntimeError(f"kcat does not honour isolation.level: {seen}")
    return f"kcat: read_committed {len(seen['read_committed'])} of " \
           f"{len(seen['read_uncommitted'])}, aborted ones hidden"
