# SPDX-License-Identifier: Apache-2.0
"""A single-node Apache Kafka (KRaft) on loopback, for tests: start, kill, stop, start again.

The folder keeps its log between starts. A killed node is let in again when its session is over:
hence a short one. Ports: broker `port`, controller `port + 1`.
Also usable by hand: broker.py JARS FOLDER PORT runs one until it is interrupted.
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

LOG4J = """log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %m (%c)%n
"""

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/log
num.partitions=6
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
default.replication.factor=1
transaction.max.timeout.ms=60000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
{extra}
"""


class Broker:
    """One node. `start` returns when it serves; `kill` is SIGKILL, `stop` SIGTERM."""

    def __init__(self, jars, folder, port, extra=""):
        self.jars, self.folder, self.port = jars, os.path.abspath(folder), port
        self.proc = None
        self.log = None
        os.makedirs(self.folder, exist_ok=True)
        self._write("server.properties", PROPERTIES.format(
            port=port, controller=port + 1, folder=self.folder, extra=extra))
        self._write("log4j.properties", LOG4J)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def _write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as out:
            out.write(text)

    def java(self, *args, heap="512m"):
        return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                f"-Dlog4j.configuration=file:{self.folder}/log4j.properties",
                "-cp", os.path.join(self.jars, "*"), *args]

    def format(self):
        properties = os.path.join(self.folder, "server.properties")
        subprocess.run(self.java("kafka.tools.StorageTool", "format", "-t",
                                 "MkU3OEVBNTcwNTJENDM2Qg", "-c", properties),
                       check=True, stdout=subprocess.DEVNULL)

    def start(self, deadline=300):
        if not os.path.exists(os.path.join(self.folder, "log", "meta.properties")):
            self.format()
        # pylint: disable=consider-using-with
        self.log = open(os.path.join(self.folder, "broker.out"), "ab")
        self.proc = subprocess.Popen(
            self.java("kafka.Kafka", os.path.join(self.folder, "server.properties")),
            stdout=self.log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True)
        self.wait(deadline)

    def wait(self, deadline):
        """Serving means: a metadata request is answered with a controller."""
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            if self.proc.poll() is not None:
                raise RuntimeError(f"the broker ended: see {self.folder}/broker.out")
            if self.listens() and self.answers():
                return
            time.sleep(0.2)
        raise TimeoutError(f"the broker does not serve: see {self.folder}/broker.out")

    def listens(self):
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def answers(self):
        return subprocess.run(["kcat", "-b", self.address, "-L", "-m", "5"], check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def _end(self, sig, deadline):
        if self.proc is None:
            return
        self.proc.send_signal(sig)
        try:
            self.proc.wait(deadline)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait(10)
        self.proc = None
        self.log.close()

    def kill(self):
        self._end(signal.SIGKILL, 10)

    def stop(self):
        self._end(signal.SIGTERM, 30)

    def pause(self):
        self.proc.send_signal(signal.SIGSTOP)

    def resume(self):
        self.proc.send_signal(signal.SIGCONT)

    def erase(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    broker = Broker(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    broker.start()
    print(f"serving at {broker.address}", flush=True)
    try:
        broker.proc.wait()
    except KeyboardInterrupt:
        broker.stop()


if __name__ == "__main__":
    main()
