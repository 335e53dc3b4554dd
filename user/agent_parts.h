/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the agent, which share one struct:
 *
 *	agent.c		start, loop, signals, reload, end
 *	agent_kernel.c	open and close the kernel's side; capabilities
 *	agent_rules.c	generations of rules, indices of services; who owns a key (the resolver)
 *	agent_tags.c	services -> cgroups and ports, kept up to date
 *	agent_plan.c	which cgroups and ports those are, and what does not fit
 *	agent_executables.c	processes that run a service's file -> their cgroups and ports
 *	agent_origins.c	numbers of where requests are answered -> what records say of it
 *	agent_pods.c	pods of the API server -> services, and where their cgroups are
 *	agent_books.c	close a window, seal what is frozen, release it
 *	agent_sinks.c	sinks of the config, the shipper in the loop
 *	agent_usage.c	sums of the last window and of now; a short history
 *	agent_live.c	what the control socket answers
 *	agent_hops.c	services of one host that call each other
 *	agent_warnings.c what an operator should know
 *	agent_metrics.c	what /metrics answers
 *	agent_page.c	what the status page shows
 *	agent_http.c	who may see which path
 *
 * Invariants: G1 nothing is released that was not sealed; G2 a window is closed only when all
 * windows before it are sealed, so that without a disk the open one grows; G3 the JSON of a
 * generation of rules is durable before the kernel has it; G4 rules are there before the scopes that
 * need them, and until no scope does, scopes before hooks; G5 what is invalid in a reloaded config changes nothing.
 */
#ifndef TALLY_AGENT_PARTS_H
#define TALLY_AGENT_PARTS_H

#include <jansson.h>
#include <sys/stat.h>

#include "account/account.h"
#include "base/config.h"
#include "base/loop.h"
#include "collect/attach.h"
#include "collect/clock.h"
#include "collect/keys.h"
#include "collect/ledger.h"
#include "collect/pieces.h"
#include "collect/rulesets.h"
#include "collect/scopes.h"
#include "deliver/ship.h"
#include "identify/catalog.h"
#include "identify/kubernetes_cgroup.h"
#include "identify/kubernetes_watch.h"
#include "identify/rules.h"
#include "observe/control.h"
#include "observe/http.h"
#include "resolve.h"

#define TALLY_AGENT_GRACE_NS (20 * TALLY_NS_PER_S) /* for shipping at the end */
#define TALLY_AGENT_TICK_NS (TALLY_NS_PER_S / 4)
#define TALLY_AGENT_SINKS 16
#define TALLY_AGENT_LOOKS 10	/* at a file that changes all the time, until it is read so */
#define TALLY_AGENT_VIEWS 16	/* rulesets read back at a time */
#define TALLY_AGENT_LIVE 100000 /* rows of the last window kept for `connections` */
#define TALLY_AGENT_PEEK 20000	/* rows of the open window read for a person, at most */
#define TALLY_AGENT_SUMS 65536	/* sums by key and route of one window */
#define TALLY_AGENT_SECONDS 300 /* of history, one sample each */
#define TALLY_AGENT_WINDOWS 360 /* of history */

/* One ruleset of the past or of now. */
struct tally_agent_view {
	uint32_t generation;
	struct tally_ruleset_view *view;
};

struct tally_agent_rules {
	uint32_t generation;	     /* in force */
	char *names[TALLY_SERVICES]; /* by index; also of services that are gone */
	struct tally_agent_view views[TALLY_AGENT_VIEWS];
	size_t next_view;
	struct tally_resolve resolve; /* the last answer */
};

/* Sinks that are made and not in use yet. */
struct tally_agent_sinks {
	struct tally_sink *fresh[TALLY_AGENT_SINKS];
	size_t n;
};

/* A file, once a second, to see whether somebody writes it. */
struct tally_agent_look {
	struct stat file; /* as the last one found it */
	uint32_t changes; /* looks in a row that found it changed */
};

/* The catalog that kept a config from being in force: when it changes, both are tried again. */
struct tally_agent_refused {
	char *catalog; /* NULL: none did */
	struct stat file;
};

/* Why a service is not attached, or not everywhere. */
enum tally_agent_trouble_kind {
	TALLY_AGENT_UNTROUBLED,
	TALLY_AGENT_FULL,  /* a table is */
	TALLY_AGENT_DEEP,  /* its cgroup lies too deep */
	TALLY_AGENT_TAKEN, /* another service has the same cgroup and port */
	TALLY_AGENT_TROUBLES
};

struct tally_agent_trouble {
	enum tally_agent_trouble_kind kind;
	size_t left_out; /* pairs of cgroup and port */
	char text[256];	 /* for people */
};

/* What is to be written to the maps and attached. */
struct tally_agent_plan {
	struct tally_scope_want scopes[TALLY_SCOPES_MAX];
	const char *paths[TALLY_SCOPES_MAX]; /* of their cgroups, below the mount; NULL: any */
	size_t n;
	struct tally_cgroups cgroups;
	struct tally_agent_trouble troubles[TALLY_SERVICES]; /* by index */
};

struct tally_agent_tags {
	char mount[256];
	struct tally_cgroup_watch watch;
	struct tally_loop_source *watcher, *again;
	uint64_t again_ns; /* when the next look is due; 0: none is */
	int64_t credit_ns; /* time that may be spent on looking now */
	uint64_t credit_at_ns;
	struct tally_cgroups cgroups; /* matched, before covered ones are left out */
	struct tally_agent_trouble troubles[TALLY_SERVICES]; /* by index */
	uint32_t attached, failed, scopes;
	uint64_t errors[TALLY_AGENT_TROUBLES]; /* since start; [0]: cgroups not attached */
	uint64_t failures;		       /* looks that failed, since start */
	int error;			       /* of the last look */
};

enum { TALLY_AGENT_CLASSES = 6 }; /* of a status: none, 1xx .. 5xx */

#define TALLY_AGENT_PODS 4096 /* known at a time */
#define TALLY_AGENT_CLAIMS 8  /* services of one pod */

struct tally_agent_claim {
	const char *service;
	uint32_t origin;
	const struct tally_option_ports *ports;
};

#define TALLY_AGENT_RUNNERS 4096 /* processes of services matched by executable */

/* A process, the file that it ran, and whose that was. */
struct tally_agent_run {
	pid_t pid;
	dev_t dev;
	ino_t ino;
	char service[65];
};

struct tally_agent_exe {
	int fd; /* tells of processes; only with source */
	struct tally_loop_source *source;
	struct tally_agent_run *runs; /* of the last look */
	size_t n_runs;
	bool unresolved; /* one of them does not listen yet */
	uint32_t tries;
	uint64_t events, lost, refused;
	json_t *cgroups; /* {service: [path, ...]} */
};

#define TALLY_AGENT_ORIGINS 8192 /* kept by number */

struct tally_agent_origin; /* agent_origins.c */

struct tally_agent_origins {
	struct tally_agent_origin *by_id, *by_name;
	size_t n;
	uint32_t next;
	bool changed;
	uint64_t refused;
};

struct tally_agent_pod; /* agent_pods.c */

struct tally_agent_pods {
	struct tally_kubernetes_watch *watch; /* NULL: none */
	struct tally_loop_source *timer;
	uint64_t timer_ns; /* when it is set for; 0: it is not */
	struct tally_agent_pod *by_uid, *by_folder;
	size_t n;
	uint64_t refused; /* beyond TALLY_AGENT_PODS */
	bool changed;
	char node[256];
	uint32_t verdicts[TALLY_KUBERNETES_VERDICT_COUNT];
};

/* Sums since start, for /metrics. */
struct tally_agent_counters {
	struct tally_totals totals[TALLY_SERVICES];
	struct tally_totals gone; /* of services whose index another has now */
	uint64_t requests[TALLY_SERVICES][TALLY_PROTO_COUNT];
	uint64_t classes[TALLY_SERVICES][TALLY_AGENT_CLASSES];
	uint64_t duration_ns[TALLY_SERVICES];
	uint64_t uncatalogued; /* attributed to a key that the catalog does not have */
	uint64_t windows, swap_errors, seal_errors;
	uint64_t swap_ns_last, swap_ns_max;
	uint64_t rows_last, rows;   /* read from the last epoch; from all */
	uint64_t map_rows_last;	    /* of rows_last, those that fill a map */
	uint64_t drain_ns, seal_ns; /* spent on reading epochs, and on making them durable */
	uint64_t rows_overflow;	    /* exchanges that found no row */
	uint64_t reloads, reload_errors;
	bool reload_ok, catalog_ok;
	const char *restart_for; /* an option that only a restart puts in force; NULL: none */
};

/* Of connections that cannot be metered, both directions. */
static inline uint64_t tally_agent_mptcp_bytes(const struct tally_totals *totals)
{
	return totals->unparsed_bytes[0][TALLY_UNPARSED_MPTCP] +
	       totals->unparsed_bytes[1][TALLY_UNPARSED_MPTCP];
}

/* Rows added up that have the same key, with the members that do not count set to 0. */
struct tally_agent_sum {
	struct tally_row_key key;
	struct tally_row row;
	uint64_t by_class[TALLY_AGENT_CLASSES]; /* requests */
	uint64_t who;				/* hash of the first key seen */
	uint32_t keys;				/* changes of it, at least */
	uint8_t attribution;			/* of the first */
};

struct tally_agent_sums {
	struct tally_agent_sum *items;
	size_t n, cap;
	uint32_t *slots; /* hash -> index + 1 */
	size_t n_slots;
	uint64_t left_out; /* requests beyond the cap */
	uint64_t start_ns, end_ns;
};

/* What is kept for people to look at: the last window, and how the last ones were. */
struct tally_agent_window {
	uint64_t start_s, end_s;
	uint64_t classes[TALLY_AGENT_CLASSES];
	uint64_t bytes[2];
	uint64_t unattributed;
	uint64_t rows;
};

struct tally_agent_live {
	struct tally_frozen_row *rows; /* copied; the first TALLY_AGENT_LIVE */
	size_t n_rows, n_left_out;
	uint64_t start_ns, end_ns;
	struct tally_agent_sums usage; /* of the last window, by key and route */
	struct tally_agent_sums now;   /* and the open one; read again after a second */
	uint64_t now_at_ns;

	/* Rings: the sample or window of number i stands at i % size. */
	float seconds[TALLY_AGENT_SECONDS][TALLY_SERVICES]; /* final response heads per second */
	uint64_t second, second_at_ns;
	uint64_t seen[TALLY_SERVICES];
	struct tally_agent_window windows[TALLY_AGENT_WINDOWS];
	uint64_t window;

	char *page; /* the last answer */
	uint64_t page_at_ns;
};

/* [i][n]: when the service of index n was last seen calling the one of index i; 0: never. */
struct tally_agent_hops {
	uint64_t seen_s[TALLY_SERVICES][TALLY_SERVICES];
	size_t next; /* to be looked at */
};

struct tally_agent {
	const char *config_path;
	struct tally_config *config;
	struct stat config_file, catalog_file; /* as last read, or tried */
	struct {
		struct tally_agent_look config, catalog, refused;
	} looks;
	struct tally_agent_refused refused;
	struct tally_loop *loop;

	struct tally_load *load;
	struct tally_clock_map *clock;
	struct tally_ledger *ledger;
	struct tally_rulesets *rulesets;
	struct tally_keys *keys;
	struct tally_pieces *pieces;

	struct tally_catalog *catalog;
	char *fleet_secret;
	struct tally_agent_rules rules;
	struct tally_agent_tags tags;
	struct tally_agent_pods pods;
	struct tally_agent_exe exe;
	struct tally_agent_origins origins;
	/* The config with services of pods added: what is in force. Only services and kubernetes. */
	struct tally_config view;
	size_t view_own; /* where they begin */

	struct tally_ship *ship;
	struct tally_loop_source *ship_source, *ship_timer;
	struct tally_loop_source *window_timer, *tick_timer, *signals;
	struct tally_control *control;
	struct tally_http *http; /* NULL: off, or its address is not there (yet) */
	bool http_awaited;	 /* the latter was said */

	struct tally_agent_counters counters;
	struct tally_agent_live live;
	struct tally_agent_hops hops;
	uint64_t started_ns, watchdog_ns, watchdog_at_ns, slow_at_ns;
	bool recovering; /* the open window began under an agent before us */
	bool opened;	 /* the spool knows that we run */
	bool ready;
	bool stopping;
};

/* agent_kernel.c */
/* Load or find the meter; adopt: only find it. */
TALLY_MUST int tally_agent_kernel_open(struct tally_agent *agent, bool adopt);
void tally_agent_kernel_close(struct tally_agent *agent);
/* Why it failed, said to the operator; the exit code. otherwise: that where nothing is known to be missing. */
int tally_agent_kernel_explain(const struct tally_agent *agent, int err, int otherwise);
/* Keep only the capabilities that the loop needs, for this thread and those it starts. */
TALLY_MUST int tally_agent_kernel_drop(const struct tally_agent *agent);
/* All is set up: only the system calls of the loop from here on. */
TALLY_MUST int tally_agent_kernel_confine(void);
/* -EPERM: this config needs a capability that was given up; said in the log. */
TALLY_MUST int tally_agent_kernel_enough(const struct tally_config *config);

/* agent_rules.c */
TALLY_MUST int tally_agent_rules_open(struct tally_agent *agent);
void tally_agent_rules_close(struct tally_agent *agent);
/* Put the rules of a config in force, if they differ. */
TALLY_MUST int tally_agent_rules_apply(struct tally_agent *agent,
				       const struct tally_config *config);
/* The scopes are those of agent->view: services that are gone need no rules any more. */
TALLY_MUST int tally_agent_rules_drop_gone(struct tally_agent *agent);
/* Index of a service by name. -ENOENT. */
TALLY_MUST int tally_agent_rules_index(const struct tally_agent *agent, const char *name,
				       uint16_t *ret_index);
void tally_agent_rules_resolver(struct tally_agent *agent, struct tally_resolver *ret_resolver);
/* (Re)load the key catalog of the config. -EINVAL: said in the log, the old one stays. */
TALLY_MUST int tally_agent_rules_catalog(struct tally_agent *agent,
					 const struct tally_config *config);
/* Its two halves: read it (NULL: the config names none), put it in force. */
TALLY_MUST int tally_agent_rules_read(struct tally_agent *agent, const struct tally_config *config,
				      struct tally_catalog **ret_catalog);
void tally_agent_rules_take(struct tally_agent *agent, struct tally_catalog *catalog);

/* agent_tags.c */
TALLY_MUST int tally_agent_tags_open(struct tally_agent *agent);
void tally_agent_tags_close(struct tally_agent *agent);
/* Look for the cgroups again; write scopes; attach and detach. */
TALLY_MUST int tally_agent_tags_apply(struct tally_agent *agent);

/* Look as soon as that may be, once for many calls. gone: only something ended, which has time. */
void tally_agent_tags_soon(struct tally_agent *agent, bool gone);
/* Once a second: what failed is tried again, and what nobody told of is found. */
void tally_agent_tags_tick(struct tally_agent *agent);
/* Does the kernel tell of all folders that come and go? */
bool tally_agent_tags_watched(const struct tally_agent *agent);

/* agent_plan.c */
TALLY_MUST int tally_agent_plan_make(struct tally_agent *agent, struct tally_agent_plan **ret_plan);
void tally_agent_plan_free(struct tally_agent_plan *plan);
TALLY_CLEANUP(struct tally_agent_plan *, tally_agent_plan_freep, tally_agent_plan_free)

/* agent_executables.c */
bool tally_agent_exe_wanted(const struct tally_config *config);
/* Hear of processes, if a service asks for it. */
void tally_agent_exe_open(struct tally_agent *agent);
void tally_agent_exe_close(struct tally_agent *agent);
/* Call back for each cgroup and port (0: any) of each service. -EEXIST to any: port by port, then. */
typedef int (*tally_agent_exe_fn)(void *ctx, const char *path, const char *service, uint16_t port);
TALLY_MUST int tally_agent_exe_look(struct tally_agent *agent, tally_agent_exe_fn fn, void *ctx);
/* Is another look worth while, though nothing was told? */
bool tally_agent_exe_again(struct tally_agent *agent);
json_t *tally_agent_exe_cgroups(const struct tally_agent *agent, const char *service);

/* agent_origins.c */
TALLY_MUST int tally_agent_origins_load(struct tally_agent *agent);
void tally_agent_origins_close(struct tally_agent *agent);
void tally_agent_origins_save(struct tally_agent *agent);
void tally_agent_origins_unmark(struct tally_agent *agent);
/* The number of what records shall say of this pod; 0: nothing. */
uint32_t tally_agent_origins_of(struct tally_agent *agent, const struct tally_kubernetes_pod *pod);
/* struct tally_resolver.origin */
void tally_agent_origins_find(void *ctx, __u32 id, struct tally_origin *ret_origin);

/* agent_pods.c */
/* What was known before; later the watch. Without the section `kubernetes` both do nothing. */
TALLY_MUST int tally_agent_pods_load(struct tally_agent *agent);
TALLY_MUST int tally_agent_pods_open(struct tally_agent *agent);
void tally_agent_pods_reopen(struct tally_agent *agent);
void tally_agent_pods_close(struct tally_agent *agent);
/* Do the two configs watch the same pods? */
bool tally_agent_pods_equal(const struct tally_config *a, const struct tally_config *b);
/* What is to be done by now: save, rules, cgroups. */
void tally_agent_pods_settle(struct tally_agent *agent);
/* A config with the services of pods added; then either install or done. */
TALLY_MUST int tally_agent_pods_view(struct tally_agent *agent, const struct tally_config *config,
				     struct tally_config *ret_view);
/* Leave out services of pods that no rules can be made of. How many. */
size_t tally_agent_pods_leave_out(struct tally_agent *agent, const struct tally_config *config,
				  struct tally_config *view);
/* It is in force, and takes the place of agent->view. */
void tally_agent_pods_install(struct tally_agent *agent, const struct tally_config *config,
			      struct tally_config *view);
void tally_agent_pods_view_done(const struct tally_config *config, struct tally_config *view);
/* Call back for each cgroup of a metered pod and each of its services. -E2BIG (there is no room) and
 * -EADDRINUSE (it is of another service) leave it out. */
typedef int (*tally_agent_pods_fn)(void *ctx, const char *path,
				   const struct tally_agent_claim *claim);
TALLY_MUST int tally_agent_pods_look(struct tally_agent *agent, tally_agent_pods_fn fn, void *ctx);
/* All pods and their states; the cgroups of a service's pods. */
json_t *tally_agent_pods_json(const struct tally_agent *agent);
/* How many there are, and whether the API server tells of them; null without the section `kubernetes`. */
json_t *tally_agent_pods_status(const struct tally_agent *agent);
json_t *tally_agent_pods_cgroups(const struct tally_agent *agent, const char *service);

/* agent_books.c */
/* Seal and release every frozen epoch. 0: none is left. */
/* We run: from here on a window that is not closed is a loss. Tried again until it is on the disk. */
void tally_agent_books_open(struct tally_agent *agent);
TALLY_MUST int tally_agent_books_settle(struct tally_agent *agent);
/* Close the open window and settle. An error leaves it open, and growing. */
TALLY_MUST int tally_agent_books_close(struct tally_agent *agent, uint64_t end_ns, uint64_t next_ns,
				       enum tally_close_cause cause);
/* Close it now, at the next whole second. */
TALLY_MUST int tally_agent_books_close_now(struct tally_agent *agent, enum tally_close_cause cause);
/* The system's clock was set: close the window under the old clock, go on under the new. */
TALLY_MUST int tally_agent_books_clock(struct tally_agent *agent);

/* agent_sinks.c */
/* Can they be made? They are let go of again. */
TALLY_MUST int tally_agent_sinks_check(const struct tally_agent *agent);
TALLY_MUST int tally_agent_sinks_open(struct tally_agent *agent);
TALLY_MUST int tally_agent_sinks_add(struct tally_agent *agent);
void tally_agent_sinks_close(struct tally_agent *agent);
/* Let the shipper do what it can now. */
void tally_agent_sinks_step(struct tally_agent *agent);
/* Ship until nothing is left or the grace is over. */
void tally_agent_sinks_flush(struct tally_agent *agent, uint64_t grace_ns);
/* Make the sinks of a config that the one in force has not, or has otherwise; changes nothing. */
TALLY_MUST int tally_agent_sinks_prepare(const struct tally_agent *agent,
					 const struct tally_config *config,
					 struct tally_agent_sinks *ret_sinks);
void tally_agent_sinks_discard(struct tally_agent_sinks *sinks);
/* Ship to the sinks of config from here on; takes them. On failure to those of before, which config then
 * has, too. */
TALLY_MUST int tally_agent_sinks_replace(struct tally_agent *agent, struct tally_config *config,
					 struct tally_agent_sinks *sinks);

/* agent_usage.c */
/* Which members of a row's key count: those of the others are set to 0. */
typedef void (*tally_agent_mask)(struct tally_row_key *key);
void tally_agent_by_usage(struct tally_row_key *key);
void tally_agent_by_connection(struct tally_row_key *key);
void tally_agent_by_key(struct tally_row_key *key);
void tally_agent_by_service(struct tally_row_key *key);
void tally_agent_by_route(struct tally_row_key *key);
/* Add rows up. -ENOMEM. */
TALLY_MUST int tally_agent_sums_add(struct tally_agent_sums *sums,
				    const struct tally_frozen_row *rows, size_t n,
				    tally_agent_mask mask);
/* Sums of sums: by fewer members than before. Sorted. */
TALLY_MUST int tally_agent_sums_fold(const struct tally_agent_sums *from, tally_agent_mask mask,
				     struct tally_agent_sums *ret_sums);
/* Most requests first. Nothing can be added any more. */
void tally_agent_sums_sort(struct tally_agent_sums *sums);
void tally_agent_sums_done(struct tally_agent_sums *sums);
/* A window was sealed: count it, and keep what people may ask for. Takes its rows. */
void tally_agent_usage_sealed(struct tally_agent *agent, struct tally_frozen *frozen);
/* Once a second: one more sample. */
void tally_agent_usage_tick(struct tally_agent *agent);
/* The last window and, if it is not too large, the open one, by key and route, sorted. It is ours, and
 * stays as it is for a second. */
TALLY_MUST int tally_agent_usage_now(struct tally_agent *agent,
				     const struct tally_agent_sums **ret_sums);
/* The same by connection; the caller's. */
TALLY_MUST int tally_agent_usage_connections(struct tally_agent *agent,
					     struct tally_agent_sums *ret_sums);
void tally_agent_usage_close(struct tally_agent *agent);

/* agent_live.c */
/* tally_control_fn */
char *tally_agent_live_answer(void *ctx, const char *request);
/* Why a service is not metered now; NULL: it is. */
const char *tally_agent_service_why_not(const struct tally_agent *agent,
					const struct tally_config_service *service);
/* It is not, but a part of it is. */
bool tally_agent_service_is_partly(const struct tally_agent *agent,
				   const struct tally_config_service *service);
/* Matched by pods, and none of them runs on this node: nothing is wrong with it. */
bool tally_agent_service_is_idle(const struct tally_agent *agent,
				 const struct tally_config_service *service);
/* Services that should be metered now, and those that are. */
void tally_agent_services_count(const struct tally_agent *agent, uint32_t *ret_wanted,
				uint32_t *ret_attached);
/* Bytes that others than root can write below state_dir; 0: it cannot be told. */
uint64_t tally_agent_disk_free(const struct tally_agent *agent);

/* Members of a sum, and whose it is, as JSON. */
void tally_agent_live_put_who(struct tally_agent *agent, const struct tally_agent_sum *sum,
			      json_t *out);
void tally_agent_live_put_sums(const struct tally_agent_sum *sum, double period, json_t *out);
json_t *tally_agent_live_status(struct tally_agent *agent);
json_t *tally_agent_live_services(struct tally_agent *agent);

/* The cgroups where a service is metered: paths. */
json_t *tally_agent_service_cgroups(const struct tally_agent *agent,
				    const struct tally_config_service *service);

/* agent_hops.c */
/* Look at the next service. */
void tally_agent_hops_look(struct tally_agent *agent);
/* Pairs of services that count the same requests. */
uint32_t tally_agent_hops_count(const struct tally_agent *agent);
/* Names of the services that call this one. */
json_t *tally_agent_hops_callers(const struct tally_agent *agent, const char *service);

/* agent_warnings.c */
/* What an operator should know now: [{level, what, text}], the worst first; levels are critical, warning,
 * note. */
json_t *tally_agent_warnings(struct tally_agent *agent);

/* agent_page.c */
/* What the status page shows; NULL: no memory. Made again after a second. */
char *tally_agent_page_live(struct tally_agent *agent);
/* What its plots begin with. */
char *tally_agent_page_history(const struct tally_agent *agent);
void tally_agent_page_close(struct tally_agent *agent);

/* agent_metrics.c */
char *tally_agent_metrics(const struct tally_agent *agent);

/* agent_http.c */
/* Where it does not listen and should: an address may be up later, or free. Nothing else waits for it. */
void tally_agent_http_open(struct tally_agent *agent);
/* tally_http_fn */
void tally_agent_http_answer(void *ctx, const struct tally_http_request *request,
			     struct tally_http_reply *ret_reply);

#endif
