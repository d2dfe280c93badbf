package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const bpffs = "/sys/fs/bpf"

// checkMachine says in one error everything that this process or machine lacks to make a cluster, and
// returns where the cgroup2 hierarchy is mounted.
func checkMachine() (cgroupRoot string, err error) {
	if missing := missingCapabilities(); missing != "" {
		return "", fmt.Errorf("a cluster of network namespaces needs root: this process lacks %s", missing)
	}
	var problems []error
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	defer mounts.Close()
	cgroupRoot, err = findCgroup2(mounts)
	if err != nil {
		problems = append(problems, err)
	}
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		problems = append(problems, errors.New("the kernel has no network namespaces (CONFIG_NET_NS)"))
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		problems = append(problems, errors.New("the kernel has no IPv6, or it was started with ipv6.disable=1"))
	}
	if err := mountBPF(); err != nil {
		problems = append(problems, err)
	}
	return cgroupRoot, errors.Join(problems...)
}

// missingCapabilities names those of the calling thread that a cluster needs and it does not have.
func missingCapabilities() string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return "everything: capget: " + err.Error()
	}
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	return strings.Join(missing, " and ")
}

// findCgroup2 returns the mount point of the cgroup2 hierarchy, from a mountinfo file (proc(5)).
func findCgroup2(mountinfo io.Reader) (string, error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		mount, fs, ok := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(mount); ok && len(fields) >= 5 && strings.HasPrefix(fs, "cgroup2 ") {
			return strings.ReplaceAll(fields[4], `\040`, " "), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	return "", errors.New("no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

// mountBPF mounts the BPF file system where everybody has it, if nobody has yet.
func mountBPF() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(bpffs, &fs); err == nil && fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		return fmt.Errorf("no BPF file system at %s, and mounting one: %w", bpffs, err)
	}
	return nil
}
