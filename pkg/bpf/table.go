package bpf

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// table is an array that we write as memory and that can grow: the inner map of a one-entry outer map
// (bpf/maps.h, TABLE). Programs find it through the outer map on every lookup, so installing a larger
// copy there is all that growing takes.
type table[T any] struct {
	outer *ebpf.Map
	inner *ebpf.Map
	mem   []byte
	limit uint32
}

const initialTableLen = 1024

// openTable adopts the table that outer holds, or installs an empty one.
func openTable[T any](outer *ebpf.Map, template *ebpf.MapSpec, limit uint32) (*table[T], error) {
	t := &table[T]{outer: outer, limit: limit}
	var inner *ebpf.Map
	err := outer.Lookup(uint32(0), &inner)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return t, t.install(template, initialTableLen)
	case err != nil:
		return nil, fmt.Errorf("look up inner map of %s: %w", template.Name, err)
	}
	mem, err := mapMemory[T](template.Name, inner)
	if err != nil {
		inner.Close()
		return nil, err
	}
	t.inner, t.mem = inner, mem
	return t, nil
}

// install makes an inner map of n entries, copies what the present one holds, and puts it in its place.
// The outer map's update returns when no program can still be using the old one.
func (t *table[T]) install(template *ebpf.MapSpec, n uint32) error {
	spec := template.InnerMap.Copy()
	spec.Name = template.Name
	spec.MaxEntries = n
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("create %s with %d entries: %w", template.Name, n, err)
	}
	mem, err := mapMemory[T](template.Name, inner)
	if err != nil {
		inner.Close()
		return err
	}
	copy(mem, t.mem)
	if err := t.outer.Put(uint32(0), inner); err != nil {
		return errors.Join(fmt.Errorf("install %s with %d entries: %w", template.Name, n, err), unix.Munmap(mem), inner.Close())
	}
	old := t.close()
	t.inner, t.mem = inner, mem
	return old
}

// grow makes the table at least n entries long; doubling keeps the number of copies small.
func (t *table[T]) grow(template *ebpf.MapSpec, n uint32) error {
	have := t.len()
	if n <= have {
		return nil
	}
	if n > t.limit {
		return fmt.Errorf("grow %s to %d entries: %w at %d", template.Name, n, ErrFull, t.limit)
	}
	return t.install(template, min(max(n, 2*have), t.limit))
}

func (t *table[T]) len() uint32 { return uint32(len(t.mem)) / uint32(unsafe.Sizeof(*new(T))) }

// entries is the table's memory: what is written here, programs see.
func (t *table[T]) entries() []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(t.mem))), t.len())
}

func (t *table[T]) close() error {
	if t.inner == nil {
		return nil
	}
	return errors.Join(unix.Munmap(t.mem), t.inner.Close())
}

// mapMemory maps an array's elements, which lie eight bytes apart at least.
func mapMemory[T any](name string, m *ebpf.Map) ([]byte, error) {
	if size := uint32(unsafe.Sizeof(*new(T))); size%8 != 0 {
		return nil, fmt.Errorf("%s: values of %d bytes do not lie side by side", name, size)
	} else if m.ValueSize() != size {
		return nil, fmt.Errorf("%s has values of %d bytes, want %d: another version's table", name, m.ValueSize(), size)
	}
	size := int(m.MaxEntries()) * int(m.ValueSize())
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory of %s: %w", name, err)
	}
	return mem, nil
}
