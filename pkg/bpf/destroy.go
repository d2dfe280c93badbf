package bpf

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/svcproxy/svcproxy/internal/namespaces"
)

// loadDestroyer loads the program that ends stale UDP sockets, on the maps of the others. It is nil, without
// an error, on kernels that have no bpf_sock_destroy (before 6.5).
func loadDestroyer(maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	spec, err := loadDestroy()
	if err != nil {
		return nil, fmt.Errorf("read embedded program destroy_udp: %w", err)
	}
	var objects struct {
		Program *ebpf.Program `ebpf:"destroy_udp"`
	}
	replace := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m, ok := maps[name]; ok {
			replace[name] = m
		}
	}
	err = spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: replace})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load destroy_udp: %w", err)
	}
	return objects.Program, nil
}

// DestroyStaleSockets ends the connected UDP sockets, in every network namespace that can be found, whose
// backend is gone; their owners see ECONNABORTED and connect again. The error names the namespaces that
// could not be entered; the others are done.
func (d *Datapath) DestroyStaleSockets() error {
	if d.destroy == nil {
		return nil
	}
	iter, err := link.AttachIter(link.IterOptions{Program: d.destroy})
	if err != nil {
		return fmt.Errorf("attach destroy_udp: %w", err)
	}
	defer iter.Close()
	var errs []error
	for ns := range namespaces.All() {
		if err := namespaces.Do(ns, func() error { return runIter(iter) }); err != nil {
			errs = append(errs, fmt.Errorf("end stale sockets in %s: %w", ns.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// runIter walks the UDP sockets of the calling thread's network namespace.
func runIter(iter *link.Iter) error {
	r, err := iter.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}
