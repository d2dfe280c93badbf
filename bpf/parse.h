/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * parse.h: from an skb to a struct packet. What is not in the linear part is read by bpf_skb_load_bytes:
 * pulling data out of GSO packets has crashed kernels (before 6.16).
 */
#ifndef SVCPROXY_PARSE_H
#define SVCPROXY_PARSE_H

#include "lookup.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_AH 51
#define IPPROTO_DSTOPTS 60
#ifndef IPPROTO_TCP
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#endif

#ifndef IPPROTO_SCTP
#define IPPROTO_SCTP 132
#endif

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define MAX_EXTENSION_HEADERS 6

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN_COMPLETE 14

enum parsed {
	PARSED,
	PARSED_OTHER,	  /* not IP */
	PARSED_MALFORMED, /* shorter than its headers say */
};

/* The highest offset of a header that is read directly: below what the verifier allows for a packet's offsets. */
#define DIRECT_OFFSET 0x1ff

/* Copies size bytes (a multiple of 4) of the packet: without a call where they are in the linear part. */
static __always_inline bool read_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	const void *data = (const void *)(long)skb->data, *end = (const void *)(long)skb->data_end;
	const __u32 *from;
	__u32 i;

	if (offset <= DIRECT_OFFSET) {
		from = data + offset;
		if ((const void *)from + size <= end) {
			for (i = 0; i < size / 4; i++)
				((__u32 *)to)[i] = from[i];
			return true;
		}
	}
	return !bpf_skb_load_bytes(skb, offset, to, size);
}

static __always_inline enum parsed parse_v4(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__u8 version_ihl, tos;
		__be16 length, id, fragment;
		__u8 ttl, protocol;
		__be16 check;
		__be32 src, dst;
	} ip;
	__u32 header;
	__u16 fragment;

	if (!read_bytes(skb, packet->l3, &ip, sizeof(ip)))
		return PARSED_MALFORMED;
	header = (ip.version_ihl & 0xf) * 4;
	packet->length = bpf_ntohs(ip.length);
	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip) || packet->length < header)
		return PARSED_MALFORMED;
	fragment = bpf_ntohs(ip.fragment);
	packet->fragment = fragment & (IP_MF | IP_OFFSET);
	packet->later_fragment = fragment & IP_OFFSET;
	packet->dont_fragment = fragment & IP_DF;
	packet->fragment_id = ip.id;
	packet->ttl = ip.ttl;
	packet->check = ip.check;
	packet->l4 = packet->l3 + header;
	packet->tuple.protocol = ip.protocol;
	set_v4(&packet->tuple.src, ip.src);
	set_v4(&packet->tuple.dst, ip.dst);
	return PARSED;
}

static __always_inline enum parsed parse_v6(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__be32 version_class_flow;
		__be16 payload;
		__u8 next, ttl;
		struct address src, dst;
	} ip;
	struct {
		__u8 next, length;
		__be16 offset;
		__be32 id;
	} extension;
	__u8 next;
	int i;

	if (!read_bytes(skb, packet->l3, &ip, sizeof(ip)))
		return PARSED_MALFORMED;
	if (bpf_ntohl(ip.version_class_flow) >> 28 != 6)
		return PARSED_MALFORMED;
	packet->v6 = true;
	packet->dont_fragment = true; /* routers never fragment IPv6 (RFC 8200, 5) */
	packet->length = bpf_ntohs(ip.payload) + sizeof(ip);
	packet->ttl = ip.ttl;
	packet->tuple.src = ip.src;
	packet->tuple.dst = ip.dst;
	packet->l4 = packet->l3 + sizeof(ip);
	next = ip.next;
	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT &&
		    next != IPPROTO_AH && next != IPPROTO_DSTOPTS)
			break;
		if (bpf_skb_load_bytes(skb, packet->l4, &extension, sizeof(extension)))
			return PARSED_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			packet->l4 += sizeof(extension);
			packet->fragment = bpf_ntohs(extension.offset) & ~6;
			packet->later_fragment = bpf_ntohs(extension.offset) & ~7;
			packet->fragment_id = extension.id;
		} else if (next == IPPROTO_AH) {
			packet->l4 += (extension.length + 2) * 4;
		} else {
			packet->l4 += (extension.length + 1) * 8;
		}
		next = extension.next;
		if (packet->later_fragment)
			break; /* what follows is the middle of somebody's payload */
	}
	packet->tuple.protocol = next;
	return PARSED;
}

static __always_inline enum parsed parse_transport(struct __sk_buff *skb, struct packet *packet)
{
	__u32 end = packet->l3 + packet->length, udp_length;
	union {
		struct {
			__be16 sport, dport;
			__be32 seq, ack;
			__u8 offset, flags;
		} tcp;
		struct {
			__be16 sport, dport;
			__be32 tag, check;
			__u8 chunk, flags;
			__be16 length;
			__be32 init_tag;
		} sctp;
		struct {
			__be16 sport, dport, length, check;
		} udp;
	} h;

	if (packet->tuple.protocol == IPPROTO_TCP) {
		/* 20 bytes of header; the four that follow the flags are checksum and urgent pointer */
		if (packet->l4 + 20 > end || !read_bytes(skb, packet->l4, &h, 16))
			return PARSED_MALFORMED;
		packet->seq = bpf_ntohl(h.tcp.seq);
		packet->ack = bpf_ntohl(h.tcp.ack);
		packet->tcp_flags = h.tcp.flags;
		packet->transport = h.tcp.offset >> 4 << 2;
		if (packet->transport < 20 || packet->l4 + packet->transport > end)
			return PARSED_MALFORMED;
		packet->begins = (h.tcp.flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
		packet->answers = (h.tcp.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
		packet->resets = h.tcp.flags & TCP_RST;
	} else if (packet->tuple.protocol == IPPROTO_SCTP) {
		/* common header, and what the first chunk begins with; only an INIT's goes on with a tag */
		if (packet->l4 + 16 > end || !read_bytes(skb, packet->l4, &h, 16))
			return PARSED_MALFORMED;
		packet->begins = h.sctp.chunk == SCTP_INIT;
		packet->answers = h.sctp.chunk == SCTP_INIT_ACK;
		if (packet->answers &&
		    (packet->l4 + 20 > end || bpf_skb_load_bytes(skb, packet->l4 + 16, &h.sctp.init_tag, 4)))
			return PARSED_MALFORMED;
		packet->seq = h.sctp.tag;
		packet->ack = packet->answers ? h.sctp.init_tag : 0;
		packet->transport = 12;
		packet->resets = h.sctp.chunk == SCTP_ABORT || h.sctp.chunk == SCTP_SHUTDOWN_COMPLETE;
	} else {
		if (packet->l4 + 8 > end || !read_bytes(skb, packet->l4, &h, 8))
			return PARSED_MALFORMED;
		udp_length = bpf_ntohs(h.udp.length); /* of the whole datagram, in its first fragment too */
		if (udp_length < 8 || (!packet->fragment && packet->l4 + udp_length > end))
			return PARSED_MALFORMED;
		packet->transport = 8;
		packet->begins = true;
		packet->answers = true;
	}
	packet->tuple.sport = h.tcp.sport;
	packet->tuple.dport = h.tcp.dport;
	return PARSED;
}

/* Reads the headers of an IP packet that starts at offset l3; *packet must be zero. */
static __always_inline enum parsed parse(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	enum parsed parsed;

	packet->l3 = l3;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		parsed = parse_v4(skb, packet);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		parsed = parse_v6(skb, packet);
	else
		return PARSED_OTHER;
	if (parsed != PARSED)
		return parsed;
	if (packet->length + l3 > skb->len)
		return PARSED_MALFORMED;

	if (packet->tuple.protocol != IPPROTO_TCP && packet->tuple.protocol != IPPROTO_UDP &&
	    packet->tuple.protocol != IPPROTO_SCTP)
		return PARSED;
	packet->translatable = true;
	if (packet->later_fragment)
		return PARSED;
	return parse_transport(skb, packet);
}

#endif
