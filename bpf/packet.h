/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* packet.h: what a packet's headers say, as far as we care. */
#ifndef SVCPROXY_PACKET_H
#define SVCPROXY_PACKET_H

#include "config.h"
#include "types.h"

struct packet {
	struct tuple tuple; /* ports are zero in a later fragment */
	__u32 l3;	    /* offsets from skb->data */
	__u32 l4;
	__u32 length; /* of the IP packet, as its header says */
	__u32 fragment_id;
	__u32 seq; /* TCP, host order; SCTP: the verification tag */
	__u32 ack; /* TCP, host order; SCTP INIT ACK: the tag that the client is to use */
	bool v6;
	bool fragment;	     /* part of a datagram */
	bool later_fragment; /* and not its first part: no transport header */
	bool dont_fragment;
	bool translatable; /* of a protocol that Services have; the tuple is whole */
	bool begins;	   /* may be the first of a connection */
	bool answers;	   /* TCP SYN-ACK, SCTP INIT ACK: what only a real client can answer; any UDP packet */
	bool resets;	   /* ends the connection at once */
	__u8 ttl;
	__u8 tcp_flags;
	__u8 transport; /* bytes of TCP or UDP header */
	__be16 check;	/* of the IPv4 header */
};

#endif
