/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Somebody else's transaction: holder BROKERS TOPIC PARTITION writes one record into it, says "open", and
 * ends it as it is told: "commit" or "abort" on stdin.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 30000

static void must(rd_kafka_error_t *error)
{
	if (!error)
		return;
	fprintf(stderr, "%s\n", rd_kafka_error_string(error));
	exit(1);
}

static rd_kafka_t *connect_to(const char *brokers)
{
	const char *const settings[][2] = { { "bootstrap.servers", brokers },
					    { "transactional.id", "holder" },
					    { "transaction.timeout.ms", "50000" } };
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[256] = "";
	rd_kafka_t *client;

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		rd_kafka_conf_set(conf, settings[i][0], settings[i][1], error, sizeof(error));
	client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (client)
		return client;
	fprintf(stderr, "%s\n", error);
	exit(1);
}

int main(int argc, char **argv)
{
	static const char record[] = "{\"type\":\"com.example.other\",\"data\":{}}";
	rd_kafka_t *client;
	char word[16] = "";

	if (argc != 4)
		return 2;
	client = connect_to(argv[1]);
	must(rd_kafka_init_transactions(client, WAIT_MS));
	must(rd_kafka_begin_transaction(client));
	if (rd_kafka_producev(client, RD_KAFKA_V_TOPIC(argv[2]),
			      RD_KAFKA_V_PARTITION(atoi(argv[3])),
			      RD_KAFKA_V_VALUE((void *)record, strlen(record)), RD_KAFKA_V_END) ||
	    rd_kafka_flush(client, WAIT_MS))
		return 1;
	puts("open");
	fflush(stdout);
	if (fgets(word, sizeof(word), stdin) && strcmp(word, "commit\n") == 0)
		must(rd_kafka_commit_transaction(client, WAIT_MS));
	else
		must(rd_kafka_abort_transaction(client, WAIT_MS));
	rd_kafka_destroy(client);
	return 0;
}
