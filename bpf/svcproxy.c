// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
#include "maps.h"
#include "stats.h"
SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { count(STAT_CONNECT); return 1; }

/* Types that only Go needs, or that maps name without the compiler looking inside: a pointer keeps each in the BTF. */
#define KEEP(kind, type) kind type *keep_##type __attribute__((unused))
KEEP(struct, slot);
KEEP(struct, backend);
KEEP(enum, stat);
KEEP(enum, verdict);
KEEP(enum, frontend_kind);
KEEP(enum, frontend_flag);
KEEP(enum, backend_state);
KEEP(enum, flow_flag);
KEEP(enum, socket_flag);

char LICENSE[] SEC("license") = "GPL";
