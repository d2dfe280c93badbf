/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * maps.h: every map, and nothing else. All are pinned by name below the agent's --bpf-root.
 *
 * pools, slots and backends are arrays that Go writes as memory. Each sits in a one-entry outer map:
 * installing a larger copy there is how they grow without a program being touched (DESIGN D3).
 *
 * A hash has 16 bytes of buckets for each entry it may ever have, from the beginning: a limit is memory that every node
 * pays. Those of LRU maps are entries that are all there from the beginning.
 */
#ifndef SVCPROXY_MAPS_H
#define SVCPROXY_MAPS_H

#include <linux/bpf.h>
#include <bpf_helpers.h>
#include "packet.h"

/* A pointer keeps a type in the BTF that the compiler would leave out, because it never looks inside. */
#define KEEP(kind, type) kind type *keep_##type __attribute__((unused))

#define TABLE(name, value_type)                                                      \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                            \
		__uint(max_entries, 1);                                              \
		__type(key, __u32);                                                  \
		__uint(pinning, LIBBPF_PIN_BY_NAME);                                 \
		__array(                                                             \
			values, struct {                                             \
				__uint(type, BPF_MAP_TYPE_ARRAY);                    \
				__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP); \
				__uint(max_entries, 1);                              \
				__type(key, __u32);                                  \
				__type(value, value_type);                           \
			});                                                          \
	} name SEC(".maps")

/* frontends: what a client dials → its pools. Written by Go only, read by every hook that meets a new
 * connection. Full: the Services that do not fit are not served, named in an error and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 19);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} frontends SEC(".maps");

/* pools: pool id → range of slots and verdict, one word. Written by Go with one atomic store. */
TABLE(pools, __u64);

/* slots: the choices of all pools, each pool owning a range. A published range is never written again
 * until no program can still see it. */
TABLE(slots, struct slot);
KEEP(struct, slot);

/* backends: backend id → address. Entry 0 is never used. */
TABLE(backends, struct backend);
KEEP(struct, backend);

/* members: which backends are in a pool, for pools of Services with session affinity. Written by Go,
 * after the pool is published: who is missing for a moment is chosen anew. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct member);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} members SEC(".maps");

/* affinity: the backend that a client had last. Written by the data path. Full: who was not seen for the
 * longest time is forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct affinity_key);
	__type(value, struct affinity_entry);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} affinity SEC(".maps");

/* source_ranges: clients that may use frontends with FRONTEND_RANGES → the key's bits. Written by Go. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct source_range);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} source_ranges SEC(".maps");

/* services: service id → name. No program reads it: it makes dumps readable and ids survive restarts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct service);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} services SEC(".maps");

/* address_filter: a bit for each address that some frontend or live flow has (hash_address), so that a
 * packet for anybody else costs one array read. False positives cost a lookup. Written by Go only. */
#define ADDRESS_FILTER_BITS 20
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << (ADDRESS_FILTER_BITS - 6));
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} address_filter SEC(".maps");

/* reply_filter: at which hooks answers of a backend may come by, so that what backends send otherwise costs one array
 * read: a byte for each, in the order of FLOW_AT_*. 1: written by the data path when a flow begins. 2: put there
 * by the collector before it walks the flows, and turned to 0 afterwards if it met no flow that needs it. */
#define REPLY_FILTER_BITS 15
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << REPLY_FILTER_BITS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} reply_filter SEC(".maps");

/* flows: established flows through the packet path, two entries each. Full: new connections stay
 * embryonic and are counted, nobody's established flow is harmed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 19);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows SEC(".maps");

/* embryos: flows whose client has not yet answered the backend's answer. A flood of spoofed clients
 * evicts only others of its kind. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} embryos SEC(".maps");

/* detours: packets on their way through the stack, between their ingress and their egress rewrite.
 * Rewritten by every such packet at ingress, so an eviction loses nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} detours SEC(".maps");

/* fragments: what was done to the first fragment of a datagram, for those that follow it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, struct fragment_key);
	__type(value, struct flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fragments SEC(".maps");

/* sockets: the record of D5, in the socket itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_record);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sockets SEC(".maps");

/* socket_peers: see struct socket_peer_key. An eviction makes one datagram choose anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct socket_peer_key);
	__type(value, struct socket_peer);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} socket_peers SEC(".maps");

/* uplinks: ifindex → its SNAT addresses; a link that is not in here leads to this node's own backends. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct uplink);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} uplinks SEC(".maps");

/* pod_links: ifindex → what a pod's link is like. A link that is not in here has no program of ours. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct pod_link);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pod_links SEC(".maps");

/* service_ranges: one entry, the ranges that ClusterIPs are allocated from (ServiceCIDR objects). Written by Go. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct service_range_list);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} service_ranges SEC(".maps");

/* stats: enum stat → count since load. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAT_MAX);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} stats SEC(".maps");

/* scratch: what does not fit on a program's 512 bytes of stack. Each CPU runs
 * one packet program at a time. */
struct scratch {
	struct packet packet;
	struct tuple answer;
	struct tuple detour;
	struct flow flow;
	struct flow room;
	struct bpf_fib_lookup route;
	/* icmp.h */
	struct packet quoted;	 /* what an ICMP error quotes */
	struct tuple quotes;	 /* what it is to quote */
	struct address reporter; /* who sends it */
	/* reject.h */
	__u64 errors_since;
	__u32 errors_left;
	__u8 quote[128];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

#endif
