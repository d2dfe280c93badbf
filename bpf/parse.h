/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * parse.h: from an skb to a struct packet. Reads through bpf_skb_load_bytes, which works whatever part of
 * the packet is linear: pulling data out of GSO packets has crashed kernels (before 6.16).
 */
#ifndef SVCPROXY_PARSE_H
#define SVCPROXY_PARSE_H

#include <bpf_endian.h>
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

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define MAX_EXTENSION_HEADERS 6

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct tuple tuple; /* ports are zero in a later fragment */
	__u32 l3;	    /* offsets from skb->data */
	__u32 l4;
	__u32 length; /* of the IP packet, as its header says */
	__u32 fragment_id;
	__u32 seq; /* TCP, host order */
	__u32 ack;
	bool v6;
	bool fragment;	     /* part of a datagram */
	bool later_fragment; /* and not its first part: no transport header */
	bool dont_fragment;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 transport; /* bytes of TCP or UDP header */
	__u8 reserved;
};

enum parsed {
	PARSED,
	PARSED_OTHER,	  /* nothing we translate */
	PARSED_MALFORMED, /* shorter than its headers say */
};

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

	if (bpf_skb_load_bytes(skb, packet->l3, &ip, sizeof(ip)))
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

	if (bpf_skb_load_bytes(skb, packet->l3, &ip, sizeof(ip)))
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

/* Reads the headers of an IP packet that starts at offset l3; *packet must be zero. */
static __always_inline enum parsed parse(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	enum parsed parsed;
	__u32 udp_length;
	struct {
		__be16 sport, dport;
		__be32 seq, ack;
		__u8 offset, flags;
	} tcp;

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

	if (packet->tuple.protocol != IPPROTO_TCP && packet->tuple.protocol != IPPROTO_UDP)
		return PARSED_OTHER;
	if (packet->later_fragment)
		return PARSED;
	if (packet->tuple.protocol == IPPROTO_TCP) {
		/* 20 bytes of header; the four that follow the flags are checksum and urgent pointer */
		if (packet->l4 + 20 > l3 + packet->length || bpf_skb_load_bytes(skb, packet->l4, &tcp, 14))
			return PARSED_MALFORMED;
		packet->seq = bpf_ntohl(tcp.seq);
		packet->ack = bpf_ntohl(tcp.ack);
		packet->tcp_flags = tcp.flags;
		packet->transport = tcp.offset >> 4 << 2;
		if (packet->transport < 20 || packet->l4 + packet->transport > l3 + packet->length)
			return PARSED_MALFORMED;
	} else {
		if (packet->l4 + 8 > l3 + packet->length || bpf_skb_load_bytes(skb, packet->l4, &tcp, 8))
			return PARSED_MALFORMED;
		udp_length = bpf_ntohl(tcp.seq) >> 16; /* of the whole datagram, in its first fragment too */
		if (udp_length < 8 || (!packet->fragment && packet->l4 + udp_length > l3 + packet->length))
			return PARSED_MALFORMED;
		packet->transport = 8;
	}
	packet->tuple.sport = tcp.sport;
	packet->tuple.dport = tcp.dport;
	return PARSED;
}

#endif
