/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Kafka broker for the demo and for tests: librdkafka's mock cluster in a process of its own. Any
 * Kafka client on this host can reach it. It keeps messages in memory (the newest 5 MiB of each
 * partition), knows idempotent and transactional producers, and dies with its process.
 *
 *	demo-broker [-b BROKERS] [-p PARTITIONS] [-w FILE] [TOPIC...]
 *
 * Prints the bootstrap servers on a line (and into FILE, whole or not at all), then serves until
 * SIGINT or SIGTERM. Topics named here have PARTITIONS partitions; others are made when first used.
 */
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

struct options {
	int brokers;
	int partitions;
	const char *file;
	char **topics;
};

static int parse_count(const char *text, int max)
{
	char *end;
	long n = strtol(text, &end, 10);

	return *end || end == text || n < 1 || n > max ? -1 : (int)n;
}

static int parse(int argc, char **argv, struct options *ret)
{
	struct options o = { .brokers = 1, .partitions = 4 };
	int c;

	while ((c = getopt(argc, argv, "b:p:w:")) != -1) {
		if (c == 'b')
			o.brokers = parse_count(optarg, 16);
		else if (c == 'p')
			o.partitions = parse_count(optarg, 128);
		else if (c == 'w')
			o.file = optarg;
		else
			return -EINVAL;
	}
	if (o.brokers < 0 || o.partitions < 0)
		return -EINVAL;
	o.topics = argv + optind;
	*ret = o;
	return 0;
}

/* Readers wait for the file to appear, so it appears with its content. */
static int write_file(const char *path, const char *text)
{
	char tmp[4096];
	FILE *f;
	int n = snprintf(tmp, sizeof(tmp), "%s.new", path);

	if (n < 0 || (size_t)n >= sizeof(tmp))
		return -ENAMETOOLONG;
	f = fopen(tmp, "we");
	if (!f)
		return -errno;
	n = fprintf(f, "%s\n", text);
	if (fclose(f) || n < 0)
		return -EIO;
	return rename(tmp, path) ? -errno : 0;
}

static int create_topics(rd_kafka_mock_cluster_t *cluster, const struct options *o)
{
	for (char **topic = o->topics; *topic; topic++) {
		rd_kafka_resp_err_t err =
			rd_kafka_mock_topic_create(cluster, *topic, o->partitions, 1);

		if (err) {
			fprintf(stderr, "demo-broker: topic %s: %s\n", *topic,
				rd_kafka_err2str(err));
			return -EINVAL;
		}
	}
	return 0;
}

static int serve(rd_kafka_t *rk, const struct options *o, const sigset_t *stop)
{
	rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(rk, o->brokers);
	const char *servers;
	int err, sig;

	if (!cluster) {
		fprintf(stderr, "demo-broker: no mock cluster\n");
		return EX_UNAVAILABLE;
	}
	servers = rd_kafka_mock_cluster_bootstraps(cluster);
	err = create_topics(cluster, o);
	if (!err && o->file)
		err = write_file(o->file, servers);
	if (err) {
		fprintf(stderr, "demo-broker: %s\n", strerror(-err));
	} else {
		puts(servers);
		fflush(stdout);
		sigwait(stop, &sig);
	}
	rd_kafka_mock_cluster_destroy(cluster);
	return err ? EX_CANTCREAT : EX_OK;
}

/* The client that carries the mock cluster; it talks to no broker itself, and shall not warn of it. */
static rd_kafka_t *carrier_new(char *error, size_t size)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk = NULL;

	if (rd_kafka_conf_set(conf, "log_level", "3", error, size) == RD_KAFKA_CONF_OK)
		rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, size);
	if (!rk)
		rd_kafka_conf_destroy(conf);
	return rk;
}

int main(int argc, char **argv)
{
	struct options o;
	rd_kafka_t *rk;
	sigset_t stop;
	char error[256];
	int rc;

	if (parse(argc, argv, &o)) {
		fprintf(stderr, "usage: demo-broker [-b BROKERS] [-p PARTITIONS] [-w FILE] "
				"[TOPIC...]\n");
		return EX_USAGE;
	}
	/* Blocked before librdkafka's threads exist, so that only sigwait takes them. */
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	sigprocmask(SIG_BLOCK, &stop, NULL);

	rk = carrier_new(error, sizeof(error));
	if (!rk) {
		fprintf(stderr, "demo-broker: %s\n", error);
		return EX_UNAVAILABLE;
	}
	rc = serve(rk, &o, &stop);
	rd_kafka_destroy(rk);
	return rc;
}
