package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the name of everything in a file system that belongs to a cluster; the owner's process
// id follows. Network namespaces need no name: the kernel ends them with the last process in them.
const prefix = "svcproxy-testenv-"

var clusters atomic.Int64

// newName returns a name that no other cluster on this machine has.
func newName() string { return fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), clusters.Add(1)) }

// Sweep removes from dir what clusters of dead processes left there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !isLeftover(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil {
			errs = append(errs, removeCgroup(path))
		} else {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// TempDir makes a directory for files that a killed run may leave behind: the next one sweeps them up.
func TempDir() (string, error) {
	if err := Sweep(os.TempDir()); err != nil {
		return "", fmt.Errorf("sweep %s: %w", os.TempDir(), err)
	}
	return os.MkdirTemp("", newName()+"-")
}

func isLeftover(name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return false
	}
	owner, _, _ := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(owner)
	return err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// removeCgroup removes a cgroup with all below it, ending the processes in it.
func removeCgroup(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // another run may be sweeping too
		return fmt.Errorf("remove cgroup: %w", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for _, dir := range slices.Backward(dirs) { // children come after their parents
		for {
			if err := killCgroup(dir); err != nil {
				return err
			}
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			// A process is gone from cgroup.procs before it is done with the cgroup.
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup: %w", err)
			}
			awaitChange(filepath.Join(dir, "cgroup.events"))
		}
	}
	return nil
}

// killCgroup kills the processes of one cgroup. (cgroup.kill exists since 5.14 only.)
func killCgroup(dir string) error {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read cgroup: %w", err)
	}
	for pid := range strings.FieldsSeq(string(procs)) {
		n, err := strconv.Atoi(pid)
		if err != nil || n <= 0 {
			return fmt.Errorf("cgroup %s holds process %q of another pid namespace", dir, pid)
		}
		if err := unix.Kill(n, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d of cgroup %s: %w", n, dir, err)
		}
	}
	return nil
}

// awaitChange waits a moment for the kernel to say that a cgroup.events file has changed.
func awaitChange(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	const milliseconds = 10
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, milliseconds)
}
