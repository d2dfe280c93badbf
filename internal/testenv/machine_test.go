package testenv

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestFindCgroup2(t *testing.T) {
	tests := map[string]struct{ mountinfo, want string }{
		"unified":  {"24 1 0:21 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"},
		"hybrid":   {"37 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw\n38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n", "/sys/fs/cgroup/unified"},
		"a space":  {`38 31 0:38 / /mnt/a\040b rw - cgroup2 none rw` + "\n", "/mnt/a b"},
		"v1 only":  {"37 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup2 rw\n", ""},
		"nonsense": {"- cgroup2 \n\n38 - cgroup2 none rw\n", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := findCgroup2(strings.NewReader(test.mountinfo))
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("found %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestIsLeftover(t *testing.T) {
	const noProcess = 1<<22 + 1 // above the kernel's PID_MAX_LIMIT
	tests := map[string]struct {
		name string
		want bool
	}{
		"of a dead process":   {fmt.Sprintf("%s%d-1", prefix, noProcess), true},
		"of ours":             {fmt.Sprintf("%s%d-1", prefix, os.Getpid()), false},
		"of init":             {prefix + "1-1", false},
		"of no process":       {prefix + "x-1", false},
		"of a process group":  {prefix + "-5-1", false},
		"somebody else's":     {fmt.Sprintf("system.slice-%d-1", noProcess), false},
		"svcproxy's own pins": {"svcproxy", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := isLeftover(test.name); got != test.want {
				t.Errorf("isLeftover(%q) = %v, want %v", test.name, got, test.want)
			}
		})
	}
}
