package config

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// FindCgroupRoot returns where the cgroup2 hierarchy is mounted. In a container there may be two mounts,
// of its own cgroup and of the host's: ids are given in the order of creation, so the smallest is that of
// the one that holds the others.
func FindCgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("look for cgroup2: %w", err)
	}
	defer f.Close()
	mounts, err := cgroup2Mounts(f)
	if err != nil {
		return "", err
	}
	root, smallest := "", ^uint64(0)
	for _, path := range mounts {
		var s unix.Stat_t
		if unix.Stat(path, &s) == nil && s.Ino < smallest {
			root, smallest = path, s.Ino
		}
	}
	if root == "" {
		return "", fmt.Errorf("look for cgroup2: not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified, or name it with --cgroup-root)")
	}
	return root, nil
}

// cgroup2Mounts returns the cgroup2 mount points of a mountinfo (proc_pid_mountinfo(5)).
func cgroup2Mounts(mountinfo io.Reader) ([]string, error) {
	var mounts []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(kind) > 0 && kind[0] == "cgroup2" {
			mounts = append(mounts, strings.ReplaceAll(fields[4], `\040`, " "))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("look for cgroup2: %w", err)
	}
	return mounts, nil
}
