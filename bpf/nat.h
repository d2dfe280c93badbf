/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * nat.h: rewrites a packet's addresses and ports, and every checksum that covers them: the incremental
 * update of RFC 1624, with what CHECKSUM_PARTIAL and CHECKSUM_COMPLETE need done by the kernel's helpers.
 */
#ifndef SVCPROXY_NAT_H
#define SVCPROXY_NAT_H

#include "flow.h"
#include "sctp.h"

#define L3_V4_TTL 8
#define L3_V4_CHECK 10
#define L3_V4_ADDRESSES 12
#define L3_V6_HOP_LIMIT 7
#define L3_V6_ADDRESSES 8

/* The two addresses of a packet: how a tuple begins. */
struct ends {
	struct address src, dst;
};

/* icmp.h: gives the ICMP error in the scratch what it is to quote. */
int translate_error(struct __sk_buff *skb);

/* What is left of a sum when its carries are added, inverted: a checksum (RFC 1071). */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline long rewrite_addresses(struct __sk_buff *skb, const struct packet *packet,
					      const struct ends *from, const struct ends *into, __s64 *diff)
{
	__be32 old[2], v4[2];
	long err;

	if (packet->v6) {
		*diff = bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)into, sizeof(*into), 0);
		/* Recompute: no header checksum makes up for the change, and before 6.16 the transport
		 * checksum's update alone leaves skb->csum wrong on CHECKSUM_COMPLETE. */
		return bpf_skb_store_bytes(skb, packet->l3 + L3_V6_ADDRESSES, into, sizeof(*into),
					   BPF_F_RECOMPUTE_CSUM);
	}
	old[0] = from->src.word[3];
	old[1] = from->dst.word[3];
	v4[0] = into->src.word[3];
	v4[1] = into->dst.word[3];
	*diff = bpf_csum_diff(old, sizeof(old), v4, sizeof(v4), 0);
	err = bpf_l3_csum_replace(skb, packet->l3 + L3_V4_CHECK, 0, *diff, 0);
	if (err)
		return err;
	return bpf_skb_store_bytes(skb, packet->l3 + L3_V4_ADDRESSES, v4, sizeof(v4), 0);
}

/* Makes an ICMP error one about the packet that the flow's other side has sent. 0, or negative errno. */
static __always_inline long rewrite_error(struct __sk_buff *skb, const struct packet *packet, const struct flow *to)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return -1;
	answer_tuple(to, packet->tuple.protocol, &s->quotes);
	return translate_error(skb);
}

/* Gives the packet the flow's addresses, and its ports unless it is a later fragment. 0, or negative errno. */
static __always_inline long rewrite(struct __sk_buff *skb, const struct packet *packet, const struct flow *to)
{
	bool udp = packet->tuple.protocol == IPPROTO_UDP;
	__u32 check = packet->l4 + (udp ? 6 : 16);
	__u64 udp_flag = udp ? BPF_F_MARK_MANGLED_0 : 0; /* an absent UDP checksum stays absent */
	__be16 ports[2] = { to->sport, to->dport };
	__be16 old_ports[2] = { packet->tuple.sport, packet->tuple.dport };
	struct ends addresses = { to->src, to->dst };
	__be32 from, into;
	__s64 diff;
	long err;

	if (packet->error)
		return rewrite_error(skb, packet, to);
	err = rewrite_addresses(skb, packet, (const struct ends *)&packet->tuple, &addresses, &diff);
	if (err || packet->later_fragment)
		return err;
	__builtin_memcpy(&from, old_ports, 4);
	__builtin_memcpy(&into, ports, 4);
	if (packet->tuple.protocol == IPPROTO_SCTP) {
		if (from == into)
			return 0;
		if (packet->fragment)
			return -1; /* the rest of what the checksum covers is not in this packet */
		err = update_sctp_check(skb, packet, from, into);
	} else {
		err = bpf_l4_csum_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | udp_flag);
		if (err || from == into)
			return err;
		err = bpf_l4_csum_replace(skb, check, from, into, 4 | udp_flag);
	}
	if (err)
		return err;
	return bpf_skb_store_bytes(skb, packet->l4, ports, sizeof(ports), 0);
}

/* What a router does to a packet that it passes on. The caller has seen that ttl is above 1. */
static __always_inline long decrement_ttl(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 ttl = packet->ttl - 1;
	long err;

	if (packet->v6)
		return bpf_skb_store_bytes(skb, packet->l3 + L3_V6_HOP_LIMIT, &ttl, 1, BPF_F_RECOMPUTE_CSUM);
	err = bpf_l3_csum_replace(skb, packet->l3 + L3_V4_CHECK, bpf_htons(packet->ttl << 8), bpf_htons(ttl << 8), 2);
	if (err)
		return err;
	return bpf_skb_store_bytes(skb, packet->l3 + L3_V4_TTL, &ttl, 1, 0);
}

#endif
