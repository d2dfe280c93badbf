/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The object is built for little-endian BPF only. */
#include <linux/byteorder/little_endian.h>
