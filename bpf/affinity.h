/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * affinity.h: session affinity. A client keeps its backend as long as it makes new connections often
 * enough, whichever of the Service port's frontends it dials, and the pool of that frontend has it.
 */
#ifndef SVCPROXY_AFFINITY_H
#define SVCPROXY_AFFINITY_H

#include "lookup.h"

#define NANOSECONDS 1000000000ULL

/* A process's client identity: its network namespace. 0x01... in the first byte is no source address. */
static __always_inline void namespace_client(__u64 cookie, struct address *client)
{
	client->word[0] = bpf_htonl(0x01000000);
	client->word[1] = 0;
	client->word[2] = cookie >> 32;
	client->word[3] = cookie;
}

/*
 * The backend for a new connection of the client: what choose_backend chooses with `random`, unless the frontend has
 * session affinity and the client a backend that still serves and is in the pool.
 */
static __always_inline const struct backend *choose_for_client(const struct frontend *frontend, __u32 pool,
							       const struct address *client, bool v6, __u32 random,
							       struct slot *slot, enum verdict *verdict)
{
	struct affinity_key key = { .service = frontend->service, .v6 = v6 };
	const struct backend *backend;
	struct affinity_entry fresh = {};
	struct affinity_entry *known;
	struct member member = { .pool = pool };
	__u64 time;

	if (!frontend->affinity)
		return choose_backend(pool, random, slot, verdict);
	time = now();
	key.client = *client;
	known = bpf_map_lookup_elem(&affinity, &key);
	if (known && (__s64)(time - known->last_used) <= (__s64)(frontend->affinity * NANOSECONDS)) {
		slot->backend = known->backend;
		slot->generation = known->generation;
		member.backend = slot->backend;
		backend = find_kept_backend(slot->backend, slot->generation);
		if (backend && bpf_map_lookup_elem(&members, &member)) {
			known->last_used = time;
			*verdict = VERDICT_SERVE;
			count(STAT_AFFINITY);
			return backend;
		}
	}
	backend = choose_backend(pool, random, slot, verdict);
	if (backend) {
		fresh.backend = slot->backend;
		fresh.generation = slot->generation;
		fresh.last_used = time;
		bpf_map_update_elem(&affinity, &key, &fresh, BPF_ANY);
		count(STAT_AFFINITY_NEW);
	}
	return backend;
}

#endif
