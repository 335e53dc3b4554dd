/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated world around the freeze-seal-ship core: a disk that forgets what was not synced, a
 * kernel that counts, clusters that lose answers, a clock that jumps. Everything follows from a seed.
 *
 *	kernel (truth) -> ship under test -> disk
 *	                        |
 *	                        v
 *	                 clusters: what consumers hold
 *
 * A stop of the agent is made by letting every operation after it fail without effect: the code
 * under test unwinds, is freed, and a new agent starts on what is left.
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include <stdbool.h>

#include "deliver/ship.h"

#define SIM_KEYS 5
#define SIM_SINKS 3
#define SIM_PINS 4

struct sim_dice {
	__u64 state;
};
__u64 sim_roll(struct sim_dice *dice, __u64 n); /* 0 .. n-1 */
bool sim_chance(struct sim_dice *dice, __u64 percent);

/* --- disk.c: see there for what a power cut leaves --- */
struct sim_disk;
struct sim_disk *sim_disk_new(struct sim_dice *dice);
void sim_disk_free(struct sim_disk *disk);
void sim_disk_fs(struct sim_disk *disk, struct tally_fs *ret_fs);
void sim_disk_size(struct sim_disk *disk, __u64 bytes);	   /* 0: it is never full */
void sim_disk_fuse(struct sim_disk *disk, int operations); /* dies after so many; -1: never */
void sim_disk_errors(struct sim_disk *disk, __u64 per_mille);
bool sim_disk_dead(const struct sim_disk *disk);
void sim_disk_revive(struct sim_disk *disk);
void sim_disk_power_cut(struct sim_disk *disk);
/* Flips a byte of some file of a folder. False: there is none. */
bool sim_disk_flip(struct sim_disk *disk, const char *dir);
/* Removes a file (dir "", name). */
bool sim_disk_remove(struct sim_disk *disk, const char *dir, const char *name);
struct sim_disk *sim_disk_copy(const struct sim_disk *disk);
size_t sim_disk_count(const struct sim_disk *disk, const char *dir);

/* --- cluster.c: a Kafka with transactions, or a sink without --- */
struct sim_cluster;
struct sim_sums {
	__u64 requests[SIM_KEYS], bytes[SIM_KEYS];
};
enum sim_delivery { SIM_EXACTLY_ONCE, SIM_AT_LEAST_ONCE };
struct sim_cluster *sim_cluster_new(struct sim_dice *dice, enum sim_delivery delivery);
void sim_cluster_free(struct sim_cluster *cluster);
void sim_cluster_health(struct sim_cluster *cluster, bool healthy, __u64 trouble_percent);
/* A new client of it, for one life of the agent. */
struct tally_sink *sim_cluster_sink(struct sim_cluster *cluster, const char *name, bool required);
/* Text of the first broken invariant, or NULL. */
const char *sim_cluster_fault(const struct sim_cluster *cluster);
/* Usage, deduplicated by id; dups: records, of connections too, more than once. */
void sim_cluster_sums(const struct sim_cluster *cluster, struct sim_sums *ret_sums,
		      __u64 *ret_dups);
/* Do the records of connections add up to the usage records of the batches that have any? */
bool sim_cluster_adds_up(const struct sim_cluster *cluster);
/* Batches arrived without a gap, each chained to the one before? */
bool sim_cluster_contiguous(const struct sim_cluster *cluster);

/* --- outage.c: hours without any sink, then all of it at once. Exit code. --- */
int sim_outage(unsigned int hours, unsigned int keys, unsigned int rows_per_key);

#endif
