// Package namespaces finds the network namespaces of this machine, and enters them.
package namespaces

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// All yields a path for each network namespace that can be seen: our own, those that container runtimes keep by
// name, and those of processes. Processes come last: they are many, and a caller may have found what it wants.
func All() iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := make(map[uint64]bool)
		for _, pattern := range []string{"/proc/self/ns/net", "/run/netns/*", "/var/run/docker/netns/*", "/proc/[0-9]*/ns/net"} {
			matches, _ := filepath.Glob(pattern) // the patterns are well-formed
			for _, path := range matches {
				var s unix.Stat_t
				if unix.Stat(path, &s) != nil || seen[s.Ino] {
					continue
				}
				seen[s.Ino] = true
				if !yield(path) {
					return
				}
			}
		}
	}
}

// Do runs f on a thread inside the network namespace at path.
func Do(path string, f func() error) error {
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

// Cookie returns the cookie of the network namespace that the calling thread is in (5.14).
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read cookie of the network namespace: %w", err)
	}
	return cookie, nil
}
