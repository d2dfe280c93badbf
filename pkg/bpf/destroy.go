package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
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
	for _, path := range namespaces() {
		if err := inNamespace(path, func() error { return runIter(iter) }); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("end stale sockets in %s: %w", path, err))
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

// namespaces returns a path for each network namespace there is: our own, those of processes, and those that
// container runtimes keep by name.
func namespaces() []string {
	seen := make(map[uint64]bool)
	var paths []string
	for _, pattern := range []string{"/proc/self/ns/net", "/run/netns/*", "/var/run/docker/netns/*", "/proc/[0-9]*/ns/net"} {
		matches, _ := filepath.Glob(pattern) // the patterns are well-formed
		for _, path := range matches {
			var s unix.Stat_t
			if unix.Stat(path, &s) == nil && !seen[s.Ino] {
				seen[s.Ino] = true
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// inNamespace runs f on a thread inside the network namespace at path.
func inNamespace(path string, f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: a thread that has been elsewhere ends with its goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(path)
		if err == nil {
			defer ns.Close()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}
