/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* lookup.h: frontend → pool → slot → backend. Takes addresses, never a context: every hook shares it. */
#ifndef SVCPROXY_LOOKUP_H
#define SVCPROXY_LOOKUP_H

#include <bpf_endian.h>
#include "config.h"
#include "maps.h"
#include "stats.h"

#define NULL ((void *)0)

static __always_inline __u64 now(void)
{
	return have_coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline bool same_tuple(const struct tuple *a, const struct tuple *b)
{
	return a->sport == b->sport && a->dport == b->dport && a->protocol == b->protocol &&
	       same_address(&a->src, &b->src) && same_address(&a->dst, &b->dst);
}

static __always_inline bool is_v4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline void set_v4(struct address *a, __be32 addr)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = bpf_htonl(0xffff);
	a->word[3] = addr;
}

/* The place of an address in a filter of 1 << bits entries. pkg/bpf/filter.go has the twin. */
static __always_inline __u32 hash_address(const struct address *a, __u32 bits)
{
	__u32 h = a->word[3] ^ a->word[2] * 0x85ebca6b ^ a->word[1] * 0xc2b2ae35 ^ a->word[0] * 0x27d4eb2f;

	return (h * 0x9e3779b1) >> (32 - bits);
}

static __always_inline void *table_entry(void *table, __u32 index)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(table, &zero);

	return inner ? bpf_map_lookup_elem(inner, &index) : NULL;
}

/* The backend behind an id, or NULL if the entry has been given to another since. */
static __always_inline const struct backend *find_backend(__u32 id, __u32 generation)
{
	const struct backend *backend = table_entry(&backends, id);

	return backend && backend->generation == generation && generation ? backend : NULL;
}

/* The same for an id that was kept from another time: a backend that is being let go has no state left, and
 * its generation only until whoever is on the way from a slot has passed. */
static __always_inline const struct backend *find_kept_backend(__u32 id, __u32 generation)
{
	const struct backend *backend = find_backend(id, generation);

	return backend && backend->state ? backend : NULL;
}

static __always_inline const struct frontend *find_frontend(const struct address *addr, __be16 port, __u8 protocol)
{
	struct frontend_key key = { .addr = *addr, .port = port, .protocol = protocol };

	return bpf_map_lookup_elem(&frontends, &key);
}

/* Whether a frontend's source ranges admit the client. */
static __always_inline bool may_dial(const struct frontend *frontend, const struct address *client)
{
	struct source_range key = { .bits = 32 + 128, .service = bpf_htonl(frontend->service), .client = *client };
	const __u32 *bits;

	if (!(frontend->flags & FRONTEND_RANGES))
		return true;
	bits = bpf_map_lookup_elem(&source_ranges, &key);
	/* IPv4 is mapped into ::/1, but is none of its clients. */
	return bits && (*bits >= 32 + 96 || !is_v4(client));
}

/* The same number for a client's connection at every node: not of the dialled address, which for a NodePort is the
 * node's own. The last lines are MurmurHash3's: every bit of the input moves every bit of the result. */
static __always_inline __u32 hash_client(const struct tuple *tuple)
{
	__u32 h = hash_address(&tuple->src, 31) ^ ((__u32)tuple->sport << 16 | tuple->dport) * 0xcc9e2d51 ^
		  tuple->protocol;

	h = (h ^ h >> 16) * 0x85ebca6b;
	h = (h ^ h >> 13) * 0xc2b2ae35;
	return h ^ h >> 16;
}

/*
 * Chooses one of a pool's backends. NULL: none, and *verdict says what to do instead. The pool word is read
 * once: it is all that publishes a set, so what it names stays as it is while this program runs.
 */
static __always_inline const struct backend *choose_backend(__u32 pool_id, __u32 random, struct slot *slot,
							    enum verdict *verdict)
{
	const volatile __u64 *pool = table_entry(&pools, pool_id);
	__u64 word = pool ? *pool : 0;
	__u32 length = word >> 32 & 0xfffffff;
	const struct backend *backend;
	const struct slot *chosen;

	*verdict = word >> 60;
	if (*verdict != VERDICT_SERVE)
		return NULL;
	if (length) {
		chosen = table_entry(&slots, (__u32)word + random % length);
		if (chosen) {
			*slot = *chosen;
			backend = find_backend(slot->backend, slot->generation);
			if (backend)
				return backend;
		}
	}
	count(STAT_BAD_BACKEND);
	*verdict = VERDICT_NONE;
	return NULL;
}

#endif
