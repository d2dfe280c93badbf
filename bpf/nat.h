/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * nat.h: rewrites a packet's addresses and ports, and every checksum that covers them: the incremental
 * update of RFC 1624, with what CHECKSUM_PARTIAL and CHECKSUM_COMPLETE need done by the kernel's helpers.
 */
#ifndef SVCPROXY_NAT_H
#define SVCPROXY_NAT_H

#include "sctp.h"

#define L3_V4_TTL 8
#define L3_V6_HOP_LIMIT 7

/* The sum of a and b in ones' complement. */
static __always_inline __u32 csum_add(__u32 a, __u32 b)
{
	__u64 sum = (__u64)a + b;

	return sum + (sum >> 32);
}

/* An IPv4 header checksum after a change of what it covers by diff (RFC 1624, eqn. 3). */
static __always_inline __be16 csum_fold(__be16 check, __u32 diff)
{
	__u64 sum = (__u64)(__u16)~check + diff;

	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* Calls of helpers are what a rewrite costs: 20 ns each, measured here. So what lies together is written together. */

/* Writes an IPv4 packet's ttl and addresses, and its ports where they follow. *diff is what the addresses have changed,
 * for the transport checksum. */
static __always_inline long rewrite_v4(struct __sk_buff *skb, const struct packet *packet, const struct flow *to,
				       __u8 ttl, __u32 *diff)
{
	struct {
		__u8 ttl, protocol;
		__be16 check;
		__be32 src, dst;
		__be16 sport, dport;
	} ip = { .ttl = ttl, .protocol = packet->tuple.protocol, .sport = to->sport, .dport = to->dport };
	__u32 sum;
	long err;

	ip.src = to->src.word[3];
	ip.dst = to->dst.word[3];
	sum = csum_add(csum_add(~packet->tuple.src.word[3], ip.src), csum_add(~packet->tuple.dst.word[3], ip.dst));
	*diff = sum;
	sum = csum_add(sum, csum_add((__u16)~bpf_htons(packet->ttl << 8), bpf_htons(ttl << 8)));
	ip.check = csum_fold(packet->check, sum);
	if (packet->later_fragment)
		return bpf_skb_store_bytes(skb, packet->l3 + L3_V4_TTL, &ip, sizeof(ip) - 4, 0);
	if (packet->l4 == packet->l3 + 20)
		return bpf_skb_store_bytes(skb, packet->l3 + L3_V4_TTL, &ip, sizeof(ip), 0);
	err = bpf_skb_store_bytes(skb, packet->l3 + L3_V4_TTL, &ip, sizeof(ip) - 4, 0);
	return err ? err : bpf_skb_store_bytes(skb, packet->l4, &ip.sport, 4, 0);
}

static __always_inline long rewrite_v6(struct __sk_buff *skb, const struct packet *packet, const struct flow *to,
				       __u8 ttl, __u32 *diff)
{
	struct {
		__u8 reserved[7], ttl;
		struct address src, dst;
	} ip = { .ttl = ttl, .src = to->src, .dst = to->dst };
	__be16 ports[2] = { to->sport, to->dport };
	const __be32 *old = packet->tuple.src.word, *new = ip.src.word;
	__u32 sum = 0;
	long err;
	int i;

	for (i = 0; i < 8; i++)
		sum = csum_add(sum, csum_add(~old[i], new[i]));
	*diff = sum;
	/* Recompute: no header checksum makes up for the change, and before 6.16 the transport checksum's update
	 * alone leaves skb->csum wrong on CHECKSUM_COMPLETE. The change of ports it does make up for. */
	err = bpf_skb_store_bytes(skb, packet->l3 + L3_V6_HOP_LIMIT, &ip.ttl, 33, BPF_F_RECOMPUTE_CSUM);
	if (err || packet->later_fragment)
		return err;
	return bpf_skb_store_bytes(skb, packet->l4, ports, sizeof(ports), 0);
}

/* Gives the packet the flow's addresses, its ports unless it is a later fragment, and a time to live. 0, or
 * negative errno, and then the packet is good for nothing. */
static __always_inline long rewrite_ttl(struct __sk_buff *skb, const struct packet *packet, const struct flow *to,
					__u8 ttl)
{
	bool udp = packet->tuple.protocol == IPPROTO_UDP;
	__u32 check = packet->l4 + (udp ? 6 : 16);
	__u64 udp_flag = udp ? BPF_F_MARK_MANGLED_0 : 0; /* an absent UDP checksum stays absent */
	__be16 ports[2] = { to->sport, to->dport };
	__be16 old_ports[2] = { packet->tuple.sport, packet->tuple.dport };
	__be32 from, into;
	__u32 diff;
	long err;

	err = packet->v6 ? rewrite_v6(skb, packet, to, ttl, &diff) : rewrite_v4(skb, packet, to, ttl, &diff);
	if (err || packet->later_fragment)
		return err;
	__builtin_memcpy(&from, old_ports, 4);
	__builtin_memcpy(&into, ports, 4);
	if (packet->tuple.protocol == IPPROTO_SCTP) {
		if (from == into)
			return 0;
		if (packet->fragment)
			return -1; /* the rest of what the checksum covers is not in this packet */
		return update_sctp_check(skb, packet, from, into);
	}
	/* CHECKSUM_PARTIAL covers addresses, but not yet ports: two calls. */
	err = bpf_l4_csum_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | udp_flag);
	if (err || from == into)
		return err;
	return bpf_l4_csum_replace(skb, check, from, into, 4 | udp_flag);
}

static __always_inline long rewrite(struct __sk_buff *skb, const struct packet *packet, const struct flow *to)
{
	return rewrite_ttl(skb, packet, to, packet->ttl);
}

/* As a router that passes the packet on. The caller has seen that its time to live is above 1. */
static __always_inline long rewrite_routed(struct __sk_buff *skb, const struct packet *packet, const struct flow *to)
{
	return rewrite_ttl(skb, packet, to, packet->ttl - 1);
}

#endif
