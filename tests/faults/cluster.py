# SPDX-License-Identifier: Apache-2.0
"""The broker of the runs, with a proxy before it, and producers made to interfere.

Ports: 27000 broker, 27001 controller, 27002 behind the proxy, 27003 the proxy.
"""

import contextlib
import ctypes
import os

from broker import Broker
from proxy import Proxy

PORT = int(os.environ.get("FAULTS_PORT", "27000"))
PROXIED = (f"\nlisteners=PLAINTEXT://127.0.0.1:{PORT},CONTROLLER://127.0.0.1:{PORT + 1},"
           f"PROXIED://127.0.0.1:{PORT + 2}"
           f"\nadvertised.listeners=PLAINTEXT://127.0.0.1:{PORT},PROXIED://127.0.0.1:{PORT + 3}"
           "\nlistener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
           "PROXIED:PLAINTEXT\ninter.broker.listener.name=PLAINTEXT"
           "\nfetch.max.wait.ms=50"
           "\nauthorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
           "\nallow.everyone.if.no.acl.found=true")


class Cluster(Broker):
    """One KRaft node and the proxy that tallyd goes through."""

    def __init__(self, jars, folder):
        super().__init__(jars, folder, PORT, PROXIED)
        self.start()
        self.proxy = Proxy(PORT + 3, ("127.0.0.1", PORT + 2))

    def close(self):
        self.proxy.stop()
        self.erase()

    def revive(self):
        """Serves, whatever the round before left of it."""
        self.proxy.set("pass")
        if self.proc is None or self.proc.poll() is not None or not self.answers():
            self.kill()
            self.start()

    def create(self, topic, partitions):
        with contextlib.closing(Admin(self.address)) as admin:
            admin.create(topic, partitions)

    def delete(self, topic):
        with contextlib.closing(Admin(self.address)) as admin:
            admin.delete(topic)

    def config(self, topic, **settings):
        """These settings, and the defaults for all others."""
        with contextlib.closing(Admin(self.address)) as admin:
            admin.config(topic, settings)

    @contextlib.contextmanager
    def forbid(self, topic):
        """Nobody may write it, for the time of the block."""
        with contextlib.closing(Admin(self.address)) as admin:
            admin.forbid(topic)
            try:
                yield
            finally:
                admin.allow(topic)


LIB = ctypes.CDLL("librdkafka.so.1")
POINTER, TEXT, INT, SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
for _name, _result, _args in (
        ("conf_new", POINTER, []), ("new", POINTER, [INT, POINTER, TEXT, SIZE]),
        ("conf_set", INT, [POINTER, TEXT, TEXT, TEXT, SIZE]), ("err2str", TEXT, [INT]),
        ("destroy_flags", None, [POINTER, INT]), ("queue_new", POINTER, [POINTER]),
        ("queue_destroy", None, [POINTER]), ("queue_poll", POINTER, [POINTER, INT]),
        ("event_destroy", None, [POINTER]), ("event_error", INT, [POINTER]),
        ("NewTopic_new", POINTER, [TEXT, INT, INT, TEXT, SIZE]), ("NewTopic_destroy", None, [POINTER]),
        ("DeleteTopic_new", POINTER, [TEXT]), ("DeleteTopic_destroy", None, [POINTER]),
        ("AclBinding_new", POINTER, [INT, TEXT, INT, TEXT, TEXT, INT, INT, TEXT, SIZE]),
        ("AclBindingFilter_new", POINTER, [INT, TEXT, INT, TEXT, TEXT, INT, INT, TEXT, SIZE]),
        ("AclBinding_destroy", None, [POINTER]),
        ("ConfigResource_new", POINTER, [INT, TEXT]),
        ("ConfigResource_destroy", None, [POINTER]),
        ("ConfigResource_set_config", INT, [POINTER, TEXT, TEXT]),
        ("topic_new", POINTER, [POINTER, TEXT, POINTER]), ("topic_destroy", None, [POINTER]),
        ("produce", INT, [POINTER, ctypes.c_int32, INT, TEXT, SIZE, POINTER, SIZE, POINTER]),
        ("flush", INT, [POINTER, INT]), ("error_string", TEXT, [POINTER]),
        ("init_transactions", POINTER, [POINTER, INT]), ("begin_transaction", POINTER, [POINTER]),
        ("commit_transaction", POINTER, [POINTER, INT]),
        ("abort_transaction", POINTER, [POINTER, INT])):
    getattr(LIB, "rd_kafka_" + _name).restype = _result
    getattr(LIB, "rd_kafka_" + _name).argtypes = _args


class Client:
    """A producer of librdkafka, by its C interface."""

    def __init__(self, address, **settings):
        conf, text = LIB.rd_kafka_conf_new(), ctypes.create_string_buffer(512)
        for key, value in {"bootstrap.servers": address, **settings}.items():
            if LIB.rd_kafka_conf_set(conf, key.replace("_", ".").encode(), value.encode(), text, 512):
                raise RuntimeError(text.value.decode())
        self.client = LIB.rd_kafka_new(0, conf, text, 512)
        if not self.client:
            raise RuntimeError(text.value.decode())

    def close(self):
        LIB.rd_kafka_destroy_flags(self.client, 0x4 | 0x8)


class Admin(Client):
    """What kafka-topics.sh and kafka-configs.sh do, without a JVM for each."""

    def create(self, topic, partitions):
        self._ask("CreateTopics", LIB.rd_kafka_NewTopic_new(topic.encode(), partitions, 1, None, 0),
                  LIB.rd_kafka_NewTopic_destroy)

    def delete(self, topic):
        self._ask("DeleteTopics", LIB.rd_kafka_DeleteTopic_new(topic.encode()),
                  LIB.rd_kafka_DeleteTopic_destroy)

    def config(self, topic, settings):
        resource = LIB.rd_kafka_ConfigResource_new(2, topic.encode())   # 2: a topic
        for key, value in settings.items():
            LIB.rd_kafka_ConfigResource_set_config(resource, key.replace("_", ".").encode(),
                                                   value.encode())
        self._ask("AlterConfigs", resource, LIB.rd_kafka_ConfigResource_destroy)

    # 2: a topic, 3: literally, 4: to write, 2: is denied
    ACL = (3, b"User:ANONYMOUS", b"*", 4, 2, None, 0)

    def forbid(self, topic):
        self._ask("CreateAcls", LIB.rd_kafka_AclBinding_new(2, topic.encode(), *self.ACL),
                  LIB.rd_kafka_AclBinding_destroy)

    def allow(self, topic):
        self._ask("DeleteAcls", LIB.rd_kafka_AclBindingFilter_new(2, topic.encode(), *self.ACL),
                  LIB.rd_kafka_AclBinding_destroy)

    def _ask(self, what, item, destroy):
        items, queue = (POINTER * 1)(item), LIB.rd_kafka_queue_new(self.client)
        function = getattr(LIB, "rd_kafka_" + what)
        function.argtypes = [POINTER, POINTER * 1, SIZE, POINTER, POINTER]
        function.restype = None
        function(self.client, items, 1, None, queue)
        event = LIB.rd_kafka_queue_poll(queue, 30000)
        error = self._answer(what, event) if event else -185    # timed out
        if event:
            LIB.rd_kafka_event_destroy(event)
        LIB.rd_kafka_queue_destroy(queue)
        destroy(item)
        if error:
            raise RuntimeError(f"{what}: {LIB.rd_kafka_err2str(error).decode()}")

    @staticmethod
    def _answer(what, event):
        """The error of the request, or of the one thing that it was about."""
        error = LIB.rd_kafka_event_error(event)
        if error or "Acls" in what:     # whoever asks for those sees whether they hold
            return error
        kind, one = ("resources", "ConfigResource") if what == "AlterConfigs" else \
            ("topics", "topic_result")
        result = getattr(LIB, f"rd_kafka_event_{what}_result")
        items = getattr(LIB, f"rd_kafka_{what}_result_{kind}")
        result.restype, items.restype = POINTER, ctypes.POINTER(POINTER)
        count = SIZE(0)
        return getattr(LIB, f"rd_kafka_{one}_error")(
            POINTER(items(POINTER(result(POINTER(event))), ctypes.byref(count))[0]))


class Producer(Client):
    """With transactions."""

    def __init__(self, address, transactional_id):
        super().__init__(address, transactional_id=transactional_id)

    def _ask(self, name, *args):
        error = getattr(LIB, "rd_kafka_" + name)(self.client, *args)
        if error:
            raise RuntimeError(LIB.rd_kafka_error_string(error).decode())

    def fence(self, timeout_ms=20000):
        """Every earlier producer of this id is a zombie from here on."""
        self._ask("init_transactions", timeout_ms)

    def write(self, topic, values, commit):
        handle = LIB.rd_kafka_topic_new(self.client, topic.encode(), None)
        self._ask("begin_transaction")
        for value in values:
            if LIB.rd_kafka_produce(handle, 0, 2, value, len(value), None, 0, None):
                raise RuntimeError("not queued")
        LIB.rd_kafka_flush(self.client, 10000)
        self._ask("commit_transaction" if commit else "abort_transaction", 10000)
        LIB.rd_kafka_topic_destroy(handle)


def check_consumer(cluster, consumer_class):
    """kcat is a fit witness only if it hides what was aborted, and shows it when asked to."""
    topic = "selftest"
    cluster.create(topic, 1)
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
