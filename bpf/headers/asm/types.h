/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The bpf target has no asm/ of its own; every architecture's is this one. */
#include <asm-generic/types.h>
