/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * Names of maps, programs and pins, shared by bpf/ and user/collect/. A map is pinned under its
 * name in the pin folder; epochs under epoch-<number>-{rows,spill,totals}.
 */
#ifndef TALLY_MAPS_H
#define TALLY_MAPS_H

/*
 * name            type                    key -> value
 * conns           sk_storage              socket -> struct tally_conn (bpf/engine/conn.h)
 * epoch           array[1]                0 -> struct tally_epoch
 * epochs_rows     array of maps[2]        epoch index -> hash(tally_row_key -> tally_row)
 * epochs_spill    array of maps[2]        epoch index -> hash(tally_row_key -> tally_row)
 * epochs_totals   array of maps[2]        epoch index -> percpu array(TALLY_TOTALS_AT -> tally_totals)
 * places          array[2 * TALLY_PLACES] TALLY_PLACE_AT -> struct tally_row_place
 * clock           array[1]                0 -> struct tally_clock
 * settings        array[1]                0 -> struct tally_settings
 * services        array[TALLY_SERVICES]   service -> struct tally_service
 * rulesets        array[TALLY_RULESET_SLOTS] slot -> struct tally_rules
 * scopes          hash[4096]              struct tally_scope_key -> struct tally_scope
 * ports           array[65536]            local port, host order -> u8, its mark: TALLY_PORT_WANTED
 * dictionary      hash                    hash of key -> struct tally_key_entry
 * candidates      array[TALLY_CANDIDATES] id -> struct tally_candidate
 * candidates_long array[TALLY_CANDIDATES_LONG]
 * parked          array[TALLY_PARK_POOL]  id -> struct tally_parked (pieces.h)
 * deferred        hash                    struct tally_deferred_key -> struct tally_deferred
 * scratch, nest   per-CPU arrays
 *
 * programs: tally_ingress, tally_egress (cgroup_skb), tally_sockops (sockops); in object meter.bpf.o,
 * skeleton build/meter.skel.h
 */
#define TALLY_PIN_DIR "/sys/fs/bpf/tallyd"

#endif
