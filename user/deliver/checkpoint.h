/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A checkpoint in a file: of the state directory (sinks/<name>), for sinks that cannot keep their own,
 * or beside what it vouches for (_at), so that it outlives the state directory. With it stand a few
 * numbers of the sink. Written whole and durably.
 */
#ifndef TALLY_DELIVER_CHECKPOINT_H
#define TALLY_DELIVER_CHECKPOINT_H

#include "deliver/sink.h"

#define TALLY_CHECKPOINT_EXTRA 5

struct tally_checkpoint_file {
	struct tally_checkpoint at;
	__u64 extra[TALLY_CHECKPOINT_EXTRA];
};

/* -ENOENT: none, or of another agent. -EBADMSG: damaged (it is set aside). */
int tally_checkpoint_load(const char *state_dir, const char *name, const char *agent,
			  struct tally_checkpoint_file *ret_file)
	__attribute__((warn_unused_result));
int tally_checkpoint_save(const char *state_dir, const char *name, const char *agent,
			  const struct tally_checkpoint_file *file)
	__attribute__((warn_unused_result));
int tally_checkpoint_load_at(const char *path, const char *agent,
			     struct tally_checkpoint_file *ret_file)
	__attribute__((warn_unused_result));
int tally_checkpoint_save_at(const char *path, const char *agent,
			     const struct tally_checkpoint_file *file)
	__attribute__((warn_unused_result));

#endif
