// Package bpf is the only place that touches the kernel's BPF: it loads and pins the programs and maps
// of ../../bpf, attaches them to cgroups and links, and offers the maps as typed tables. It decides
// nothing, and it is the only place with byte order.
package bpf
