/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A YAML (or JSON) document as a tree whose every node knows its line and column.
 *
 *	mapping  -> items: key, value, key, value ...	keys are scalars
 *	sequence -> items
 *	scalar   -> text (NUL inside is an error)
 *
 * Invariants: one document; depth is capped; a repeated key is an error; anchors and aliases work,
 * and what they repeat is capped, so the tree is not much larger than its text; tags are an error.
 */
#ifndef TALLY_BASE_YAML_H
#define TALLY_BASE_YAML_H

#include "base/diag.h"

#define TALLY_YAML_DEPTH 32
#define TALLY_YAML_COPIES 100000 /* nodes that aliases make */

enum tally_yaml_kind { TALLY_YAML_SCALAR, TALLY_YAML_SEQUENCE, TALLY_YAML_MAPPING };

struct tally_yaml {
	enum tally_yaml_kind kind;
	bool plain; /* scalar without quotes */
	struct tally_place place;
	char *text;		   /* scalar */
	struct tally_yaml **items; /* others */
	size_t n_items;
};

/* -EINVAL: see diag; -ENOMEM. *ret_root is NULL for an empty document. */
TALLY_MUST int tally_yaml_parse(const char *text, size_t bytes, struct tally_diag *diag,
				struct tally_yaml **ret_root);
/* Wipes the texts: secrets and hashes pass through here. */
void tally_yaml_free(struct tally_yaml *node);
/* Value of a key of a mapping, or NULL. */
const struct tally_yaml *tally_yaml_get(const struct tally_yaml *mapping, const char *key);

TALLY_CLEANUP(struct tally_yaml *, tally_yaml_freep, tally_yaml_free)

#endif
