/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * types.h: every struct that Go also sees. The Go twins are generated from here (pkg/bpf/gen.go), so
 * a field is declared once. Addresses and ports are in network byte order, everything else in host
 * order; only pkg/bpf/types.go converts. Padding is named and must be zero: these structs are hash keys.
 */
#ifndef SVCPROXY_TYPES_H
#define SVCPROXY_TYPES_H

#include <linux/bpf.h>
#include <linux/types.h>

#define ASSERT_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type " changed size")

/* An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), in network byte order. */
struct address {
	__be32 word[4];
};
ASSERT_SIZE(address, 16);

/* What a client dials. */
struct frontend_key {
	struct address addr;
	__be16 port;
	__u8 protocol; /* IPPROTO_* */
	__u8 reserved;
};
ASSERT_SIZE(frontend_key, 20);

enum frontend_kind {
	FRONTEND_CLUSTER_IP = 1,
	FRONTEND_NODE_PORT = 2,
	FRONTEND_EXTERNAL_IP = 3,
	FRONTEND_LOAD_BALANCER = 4,
};

enum frontend_flag {
	/* 127.0.0.1 and ::1: a NodePort only for processes in the node's own network namespace */
	FRONTEND_HOST_ONLY = 1,
	/* the socket hooks must leave it to the packet path (source ranges; masquerade-all, but for the node's own) */
	FRONTEND_NO_SOCKET = 2,
	/* only clients in source_ranges may use it (parity) */
	FRONTEND_RANGES = 4,
	/* which of the Service's sets the pools are: for the agent, which takes them over at a restart */
	FRONTEND_INSIDE_LOCAL = 8,
	FRONTEND_OUTSIDE_LOCAL = 16,
	/* the pools are Maglev tables: packets choose by the hash of their client */
	FRONTEND_MAGLEV = 32,
};

/* Which pool answers, seen from the two kinds of clients (DESIGN D4). */
struct frontend {
	__u32 service;
	__u32 inside;	/* pool for host processes, and for pods where a local detector is configured */
	__u32 outside;	/* pool for everybody else */
	__u32 affinity; /* seconds a client keeps its backend; 0: no session affinity */
	__u16 flags;	/* enum frontend_flag */
	__u8 kind;	/* enum frontend_kind */
	__u8 reserved;
};
ASSERT_SIZE(frontend, 20);

/*
 * A pool is one 64-bit word so that one atomic store publishes a changed set:
 * bits 0-31 first slot, bits 32-59 number of slots, bits 60-63 enum verdict.
 * The all-zero word is a pool that was never published: VERDICT_NONE, leave the packet alone.
 */
enum verdict {
	VERDICT_NONE = 0,
	VERDICT_SERVE = 1,
	VERDICT_REJECT = 2,
	VERDICT_DROP = 3,
};

/* One choice in a pool's range of slots. */
struct slot {
	__u32 backend;
	__u32 generation; /* of the backend at the time of writing */
};
ASSERT_SIZE(slot, 8);

enum backend_state {
	BACKEND_LOCAL = 1, /* on this node, says its EndpointSlice */
	BACKEND_READY = 2,
	BACKEND_SERVING = 4,
	BACKEND_TERMINATING = 8,
};

/*
 * Who answers. An id stored elsewhere (sockets, flows, affinity) is valid only while the generation
 * stored beside it equals the entry's: the entry may have been reused since. Generation 0: free.
 */
struct backend {
	struct address addr;
	__be16 port;
	__u8 protocol; /* IPPROTO_* */
	__u8 state;    /* enum backend_state, any number of them */
	__u32 generation;
	__u32 service;
	__u32 reserved;
};
ASSERT_SIZE(backend, 32);

/* The name behind a service id, for people and for taking ids over at a restart: namespace/name:port
 * (63 bytes each at most), NUL padded. */
struct service {
	char name[192];
	__u8 protocol; /* IPPROTO_* */
	__u8 reserved[7];
};
ASSERT_SIZE(service, 200);

/* What identifies a packet's flow in one direction. */
struct tuple {
	struct address src;
	struct address dst;
	__be16 sport;
	__be16 dport;
	__u8 protocol; /* IPPROTO_* */
	__u8 reserved[3];
};
ASSERT_SIZE(tuple, 40);

enum flow_flag {
	FLOW_REPLY = 1,	     /* the entry of packets from the backend (record); otherwise from the client (stub) */
	FLOW_REMOTE = 2,     /* outside client, backend behind an uplink: SNAT and redirect */
	FLOW_REPLIED = 4,    /* the backend has answered */
	FLOW_FIN_CLIENT = 8, /* TCP FIN seen from the client */
	FLOW_FIN_BACKEND = 16,
	FLOW_RST = 32,	       /* TCP RST seen from either */
	FLOW_ESTABLISHED = 64, /* the client has answered the answer; the entry lives in `flows` */
	FLOW_BRIDGED = 128,    /* a pod and its backend on one bridge, or one and the same: netfilter sees none of it */
	/* The hooks at which packets of this entry are met. A tuple may pass others, where it is left alone. */
	FLOW_AT_UPLINK_INGRESS = 0x100,
	FLOW_AT_UPLINK_EGRESS = 0x200,
	FLOW_AT_POD_INGRESS = 0x400,
	FLOW_AT_POD_EGRESS = 0x800,
	FLOW_AT = 0xf00,
	/* The same for the flow's other entry, four bits further up. */
	FLOW_OTHER_AT = 0xf000,
	FLOW_STACK = 0x20000, /* with FLOW_REMOTE: always by the stack, whatever link client and backend are behind */
	FLOW_LOOP = 0x40000,  /* this node is client and backend: what it sends is turned round at the uplink */
};

/*
 * The whole rewrite of a packet that matches the key, so that a flow depends on no Service or backend
 * that has since gone. Stub and record hold the same facts: either can be computed from the other.
 */
struct flow {
	struct address src; /* the packet's new source and destination */
	struct address dst;
	__be16 sport;
	__be16 dport;
	__u32 flags; /* enum flow_flag */
	__u32 service;
	__u32 backend;
	__u32 generation; /* of the backend when the flow began */
	__u32 ifindex;	  /* the link the client's packets come in by; its replies leave by it */
	__u32 nonce;	  /* the same in both entries of a flow */
	__u32 seq;	  /* embryonic TCP: the acknowledgment number that promotes */
	__u64 last_seen;  /* CLOCK_MONOTONIC nanoseconds, at most a second behind */
	__u64 packets;
	__u64 bytes; /* length of the IP packets */
};
ASSERT_SIZE(flow, 88);

/* What a link that our packet programs are attached to is like. Written by Go. */
struct uplink {
	struct address snat4; /* source address for IPv4 flows that leave by this link; zero: none */
	struct address snat6;
};
ASSERT_SIZE(uplink, 32);

/* A link that leads to a pod. Written by Go. */
struct pod_link {
	struct address snat4; /* the node's address for a pod that reaches itself through a Service; zero: none */
	struct address snat6;
	__u64 netns_cookie; /* of the pod, 0 if unknown: its identity for session affinity, as at its sockets */
	__u32 bridge;	    /* the bridge it is a port of, if netfilter does not see what is bridged; else 0 */
	__u32 reserved;
};
ASSERT_SIZE(pod_link, 48);

/* The ranges that ClusterIPs are allocated from. Written by Go. */
#define MAX_SERVICE_RANGES 16
struct service_range {
	struct address addr;
	struct address mask;
};
struct service_range_list {
	__u32 count;
	__u32 reserved;
	struct service_range range[MAX_SERVICE_RANGES];
};

/* Socket storage: what our hooks did to this socket (DESIGN D5). Never evicted, freed with the socket. */
struct socket_record {
	struct bpf_spin_lock lock; /* udp sendmsg takes no socket lock: two threads may be here */
	__u8 version;
	__u8 flags;  /* enum socket_flag */
	__be16 port; /* of the frontend */
	struct address addr;
	struct address backend_addr;
	__be16 backend_port;
	__u16 reserved;
	__u32 backend;
	__u32 generation;
	__u32 reserved2;
	__u64 last_used; /* CLOCK_MONOTONIC nanoseconds */
};
ASSERT_SIZE(socket_record, 64);

enum socket_flag {
	SOCKET_CONNECTED = 1, /* made by connect(): sendmsg() to another frontend must not replace it */
	SOCKET_MANY = 2,      /* the socket talks to further frontends: see map socket_peers */
};

/* One UDP socket talking to several Services: both directions of each pair after the first. */
struct socket_peer_key {
	__u64 cookie;
	struct address addr;
	__be16 port;
	__u8 reply; /* 0: addr is a frontend, the value its backend; 1: the other way round */
	__u8 reserved[5];
};
ASSERT_SIZE(socket_peer_key, 32);

struct socket_peer {
	struct address addr;
	__be16 port;
	__u16 reserved;
	__u32 backend;
	__u32 generation;
	__u32 reserved2;
};
ASSERT_SIZE(socket_peer, 32);

/* Fragments after the first carry no ports: they follow what was done to the first (RFC 791, RFC 8200 4.5). */
struct fragment_key {
	struct address src;
	struct address dst;
	__u32 id; /* as on the wire */
	__u8 protocol;
	__u8 egress;
	__u8 reserved[2];
};
ASSERT_SIZE(fragment_key, 40);

/* A backend that a pool holds: what a range of slots cannot be asked. */
struct member {
	__u32 pool;
	__u32 backend;
};
ASSERT_SIZE(member, 8);

/* Whose choice is remembered: a Service port and a client (parity ). */
struct affinity_key {
	__u32 service;
	__u32 v6; /* the families of a Service have backends of their own */
	/* The address that packets come from; of a process, its network namespace: cookie in words 2 and 3,
	 * and an address that nobody can have. */
	struct address client;
};
ASSERT_SIZE(affinity_key, 24);

struct affinity_entry {
	__u32 backend;
	__u32 generation;
	__u64 last_used; /* CLOCK_MONOTONIC nanoseconds */
};
ASSERT_SIZE(affinity_entry, 16);

/* Key of source_ranges: the clients that a Service port admits to its load balancer addresses. */
struct source_range {
	__u32 bits; /* of what follows: 32 for the service and the length of the prefix */
	__be32 service;
	struct address client;
};
ASSERT_SIZE(source_range, 24);

/* Why a packet or a call was counted. The names, in lower case and without STAT_, are the metric labels. */
enum stat {
	STAT_CONNECT,	     /* connect() translated */
	STAT_CONNECT_REJECT, /* refused: the frontend has no backend */
	STAT_CONNECT_DROP,   /* left alone for the packet path to drop: no backend on this node */
	STAT_SENDMSG,	     /* sendmsg() translated */
	STAT_SENDMSG_REJECT,
	STAT_SENDMSG_DROP,
	STAT_RECVMSG,		 /* recvmsg() source shown as the frontend */
	STAT_GETPEERNAME,	 /* getpeername() shown as the frontend */
	STAT_NO_RECORD,		 /* socket left to the packet path: no memory for its record */
	STAT_BAD_BACKEND,	 /* a pool named a backend that is not there: a bug or a torn table */
	STAT_PACKET_MALFORMED,	 /* shorter than its headers say */
	STAT_PACKET_REJECT,	 /* packet to a frontend without backends */
	STAT_PACKET_DROP,	 /* packet to a frontend with no backend on this node */
	STAT_PACKET_RANGE,	 /* packet from a client that the source ranges do not admit: dropped */
	STAT_AFFINITY,		 /* the remembered backend was used */
	STAT_AFFINITY_NEW,	 /* a backend was chosen and remembered */
	STAT_PACKET_UNALLOCATED, /* packet to an address of the Service ranges that no Service has: dropped */
	STAT_FLOW_NEW,
	STAT_FLOW_PROMOTED,    /* from embryonic to established */
	STAT_FLOW_RESELECTED,  /* the flow's backend is gone, another one was chosen */
	STAT_FLOW_FULL,	       /* could not be stored in `flows`: stays embryonic */
	STAT_FLOW_FAILED,      /* could not be stored at all: packet dropped */
	STAT_FLOW_COLLECTED,   /* expired entry removed */
	STAT_SNAT_RETRY,       /* source port taken, next one tried */
	STAT_SNAT_EXHAUSTED,   /* no free source port: packet dropped */
	STAT_SNAT_NO_ADDRESS,  /* the uplink has no address of this family: packet dropped */
	STAT_FORWARD_LOCAL,    /* to a backend on this node */
	STAT_FORWARD_REDIRECT, /* to a backend elsewhere, straight from link to link */
	STAT_FORWARD_STACK,    /* to a backend elsewhere, through the stack */
	STAT_REPLY_LOCAL,
	STAT_REPLY_REDIRECT,
	STAT_REPLY_STACK,
	STAT_POD_FORWARD, /* from a pod, on its link: to a backend */
	STAT_POD_REPLY,
	STAT_HOST_FORWARD, /* from this node, at an uplink: to a backend */
	STAT_HOST_REPLY,
	STAT_FRAGMENT,	       /* later fragment, followed its first */
	STAT_FRAGMENT_ORPHAN,  /* later fragment whose first was not seen: left alone */
	STAT_SOCKET_DESTROYED, /* connected UDP socket ended, its backend is gone */
	STAT_MAX,
};

#endif
