/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pod as far as metering is concerned: who it is, what it says of itself, and which service of the
 * config it belongs to.
 *
 *	metadata of the API object ──> tally_kubernetes_pod
 *	  label app.kubernetes.io/name		app	  its service where no annotation names one
 *	  annotation tallyd.io/service		service
 *	  annotation tallyd.io/ports		ports	  "8443,8080", "all"
 *	  annotation tallyd.io/key		key	  "header:x-api-key, query:api_key"
 *	  annotation tallyd.io/tls		tls	  "openssl", "off"
 *	  annotation kubernetes.io/config.hash	folder	  static pods: what their cgroup is named by
 *
 * Invariants: P1 only metadata is read, and only what is named here is kept; P2 what the config says
 * wins over annotations; P3 no pod is believed to be another: its folder is its own UID, or, for the
 * mirror of a static pod (which its node owns), a hash that no UID can equal; P4 no text is longer than
 * what Kubernetes allows there, and names are graphic ASCII: an owner that says more is none.
 */
#ifndef TALLY_IDENTIFY_KUBERNETES_POD_H
#define TALLY_IDENTIFY_KUBERNETES_POD_H

#include <jansson.h>

#include "base/config.h"

#define TALLY_KUBERNETES_UID 40 /* with its NUL */
#define TALLY_KUBERNETES_KEYS 10

/* Texts belong to `object`, but for workload. NULL: not said. */
struct tally_kubernetes_pod {
	json_t *object; /* what was kept, in the API's shape */
	const char *uid, *namespace, *name;
	char folder[TALLY_KUBERNETES_UID]; /* the UID that its cgroup is named by, with '-' */
	char *workload;			   /* Deployment/geo-api; at most 317 characters */
	const char *app, *service, *ports, *key, *tls;
};

/* From an object of the API, or from ->object of another pod. -EINVAL: not a pod; -ENOMEM. */
TALLY_MUST int tally_kubernetes_pod_parse(const json_t *object,
					  struct tally_kubernetes_pod **ret_pod);
void tally_kubernetes_pod_free(struct tally_kubernetes_pod *pod);
bool tally_kubernetes_pod_equal(const struct tally_kubernetes_pod *a,
				const struct tally_kubernetes_pod *b);

/* Why a pod is metered, or not; for metrics, and for people. */
#define TALLY_KUBERNETES_VERDICTS(X)                                                              \
	X(METERED, "metered", NULL)                                                               \
	X(WAITING, "waiting", "its cgroup is not there (yet)")                                    \
	X(NO_SERVICE, "no_service",                                                               \
	  "no annotation tallyd.io/service, no label app.kubernetes.io/name")                     \
	X(NOT_LISTED, "not_listed", "no service of the config is for it (kubernetes.unlisted)")   \
	X(NO_PORTS, "no_ports", "neither the config nor tallyd.io/ports says which")              \
	X(BAD_PORTS, "bad_ports", "its annotation tallyd.io/ports cannot be read")                \
	X(BAD_KEY, "bad_key", "tallyd.io/key cannot be read, or does not fit its service's keys") \
	X(BAD_SERVICE, "bad_service", "what it calls its service cannot be a name")               \
	X(TAKEN, "taken", "a service by cgroup or unit has its ports")                            \
	X(SERVICES_FULL, "services_full", "more services than the kernel's tables hold")          \
	X(SCOPES_FULL, "scopes_full", "more ports of pods than the kernel's tables hold")
#define TALLY_KUBERNETES_ITEM(symbol, text, why) TALLY_KUBERNETES_##symbol,
enum tally_kubernetes_verdict {
	TALLY_KUBERNETES_VERDICTS(TALLY_KUBERNETES_ITEM) TALLY_KUBERNETES_VERDICT_COUNT
};
const char *tally_kubernetes_pod_verdict(enum tally_kubernetes_verdict verdict);
const char *tally_kubernetes_pod_why_not(enum tally_kubernetes_verdict verdict); /* NULL: it is */

/* The name of the service that the pod asks for; NULL: none. */
const char *tally_kubernetes_pod_service(const struct tally_kubernetes_pod *pod);

/* How firmly a service of the config claims the pod: 0 not at all; the greatest one gets it. */
int tally_kubernetes_pod_claim(const struct tally_kubernetes_pod *pod,
			       const struct tally_config_service *service);

/* "8443,8080" or "all"; ->list is to free. -EINVAL; -ENOMEM. */
TALLY_MUST int tally_kubernetes_pod_ports(const char *text, struct tally_option_ports *ret_ports);

/*
 * "header:authorization;scheme=bearer, query:api_key, response_header:x-customer": at most
 * TALLY_KUBERNETES_KEYS, and such as rules can be made of. To free with
 * tally_kubernetes_pod_keys_free(). -EINVAL; -ENOMEM.
 */
TALLY_MUST int tally_kubernetes_pod_keys(const char *text, struct tally_config_key **ret_keys,
					 size_t *ret_n);
void tally_kubernetes_pod_keys_free(struct tally_config_key *keys, size_t n);

TALLY_CLEANUP(struct tally_kubernetes_pod *, tally_kubernetes_pod_freep, tally_kubernetes_pod_free)

#endif
