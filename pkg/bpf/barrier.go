package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// barrier waits for running programs by an update of a map of maps, which waits for just that
// (kernel/bpf/syscall.c, maybe_wait_bpf_programs), on one CPU and under nohz_full as well, where membarrier
// does not. The map is its own, so that it can be waited for beside everything else.
type barrier struct{ outer, inner *ebpf.Map }

func newBarrier() (*barrier, error) {
	inner := &ebpf.MapSpec{Name: "barrier", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer := &ebpf.MapSpec{Name: "barriers", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner}
	var b barrier
	var err error
	if b.inner, err = ebpf.NewMap(inner); err == nil {
		b.outer, err = ebpf.NewMap(outer)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create map to wait with: %w", err), b.close())
	}
	return &b, nil
}

func (b *barrier) wait() error {
	if err := b.outer.Put(uint32(0), b.inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

func (b *barrier) close() error { return errors.Join(b.outer.Close(), b.inner.Close()) }
