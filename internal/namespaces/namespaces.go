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

// All yields each network namespace that can be seen, open as long as it is looked at: our own, those that container
// runtimes keep by name, and those of processes. Processes come last: they are many, and a caller may have found what
// it wants.
func All() iter.Seq[*os.File] {
	return func(yield func(*os.File) bool) {
		seen := make(map[uint64]bool)
		for _, pattern := range []string{"/proc/self/ns/net", "/run/netns/*", "/var/run/docker/netns/*", "/proc/[0-9]*/ns/net"} {
			matches, _ := filepath.Glob(pattern) // the patterns are well-formed
			for _, path := range matches {
				if !visit(path, seen, yield) {
					return
				}
			}
		}
	}
}

// visit yields the namespace at path, unless it has been seen or is gone.
func visit(path string, seen map[uint64]bool, yield func(*os.File) bool) bool {
	ns, err := os.Open(path)
	if err != nil {
		return true
	}
	defer ns.Close()
	var fs unix.Statfs_t // a name may be left of one that is gone
	var s unix.Stat_t    // of what is open: a process may have moved
	if unix.Fstatfs(int(ns.Fd()), &fs) != nil || uint32(fs.Type) != unix.NSFS_MAGIC ||
		unix.Fstat(int(ns.Fd()), &s) != nil || seen[s.Ino] {
		return true
	}
	seen[s.Ino] = true
	return yield(ns)
}

// Do runs f on a thread inside the network namespace.
func Do(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: a thread that has been elsewhere ends with its goroutine.
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
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
