/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * config.h: what is known when the programs are loaded. Constants, so that the verifier removes the
 * branches not taken; a changed setting means loading again and swapping the links.
 */
#ifndef SVCPROXY_CONFIG_H
#define SVCPROXY_CONFIG_H

#include "types.h"

typedef _Bool bool;
#define true 1
#define false 0

/* bpf_get_netns_cookie of the network namespace whose processes are the node's own. */
const volatile __u64 host_netns_cookie = 0;
/* Pods count as inside clients: a local detector is configured (parity 4.2). */
const volatile bool pods_inside = false;
/* The pods of the cluster, by detectLocalMode ClusterCIDR: inside clients wherever they come from (parity 4.2).
 * IPv4, IPv6; an all-zero mask is none. */
const volatile struct service_range cluster_cidrs[2] = {};
/* Backends see the node in the place of who dials a ClusterIP (--masquerade-all). */
const volatile bool masquerade_all = false;
/* First and last source port of SNATed flows, host order. */
const volatile __u16 snat_first_port = 0;
const volatile __u16 snat_last_port = 0;
/* All packets to other nodes' backends go through the stack (--north-south=stack). */
const volatile bool force_stack = false;
/* Kernel features: bpf_set_retval (5.18), bpf_ktime_get_coarse_ns (5.11). */
const volatile bool have_set_retval = false;
const volatile bool have_coarse_clock = false;
/* How long an established flow may be silent, nanoseconds (parity 6.3). */
const volatile __u64 tcp_established_timeout = 86400000000000ULL;
const volatile __u64 tcp_half_closed_timeout = 3600000000000ULL;
const volatile __u64 tcp_closed_timeout = 120000000000ULL;
const volatile __u64 tcp_reset_timeout = 10000000000ULL;
const volatile __u64 udp_timeout = 120000000000ULL;

#endif
