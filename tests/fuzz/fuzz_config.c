// SPDX-License-Identifier: Apache-2.0
/*
 * Any bytes as a configuration. What loads must also compile for the kernel and come back from its
 * canonical JSON; what does not must say why.
 */
#include "identify/rules.h"

static void check_service(const struct tally_config_service *service)
{
	static const struct tally_rules_target target = { .secret = { 1, 2 } };
	struct tally_rules *rules = malloc(sizeof(*rules));

	if (!rules || tally_rules_compile(service, &target, rules) < 0)
		abort();
	free(rules);
}

static void check_view(const struct tally_config *config)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = NULL;
	_cleanup_free_ char *json = NULL;
	char id[TALLY_RULESET_ID];

	if (tally_rules_id(config, id) < 0 || tally_rules_dump(config, NULL, &json) < 0 ||
	    tally_ruleset_load(json, strlen(json), &view) < 0 ||
	    strcmp(id, tally_ruleset_id(view)) != 0)
		abort();
	for (size_t i = 0; i < config->n_services; i++)
		if (strcmp(tally_ruleset_service(view, (uint16_t)i), config->services[i].name) != 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct tally_diag diag;
	int r;

	tally_diag_init(&diag, "fuzz");
	r = tally_config_parse((const char *)data, size,
			       TALLY_CONFIG_NO_SECRETS | TALLY_CONFIG_FAULTY_TOO, &diag, &config);
	if ((r < 0) != (diag.errors > 0))
		abort();
	if (config && tally_rules_check(config, &diag) < 0 && diag.errors == 0)
		abort();
	if (diag.errors == 0) {
		for (size_t i = 0; i < config->n_services; i++)
			check_service(&config->services[i]);
		check_view(config);
	}
	tally_diag_done(&diag);
	return 0;
}
