package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AttachedLink is a link of this node that our packet programs sit on.
type AttachedLink struct {
	Index    int        `json:"index"`
	Name     string     `json:"name"`
	Programs []string   `json:"programs"` // tcx ingress, clsact egress, …
	SNAT4    netip.Addr `json:"snat4"`
	SNAT6    netip.Addr `json:"snat6"`
}

// AttachedHooks returns which socket programs are attached, and to which cgroup: its path if it can be
// found below the cgroup2 mounts that this process sees, else its id.
func (v *View) AttachedHooks() (cgroup string, hooks []string, err error) {
	var id uint64
	for _, hook := range cgroupHooks {
		l, err := link.LoadPinnedLink(filepath.Join(v.root, "links", hook.program), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("open link of %s: %w", hook.program, err)
		}
		if info, err := l.Info(); err == nil && info.Cgroup() != nil {
			id = info.Cgroup().CgroupId
			hooks = append(hooks, hook.program)
		}
		l.Close()
	}
	slices.Sort(hooks)
	if id == 0 {
		return "none", hooks, nil
	}
	return cgroupPath(id), hooks, nil
}

// cgroupPath finds the directory of a cgroup: its id is the directory's inode.
func cgroupPath(id uint64) string {
	found := fmt.Sprintf("id %d", id)
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var s unix.Statfs_t
		if unix.Statfs(root, &s) != nil || uint32(s.Type) != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // gone meanwhile, or a file
			}
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil && st.Ino == id {
				found = path
				return filepath.SkipAll
			}
			return nil
		})
	}
	return found
}

// AttachedLinks returns the links of this network namespace that our packet programs sit on.
func (v *View) AttachedLinks() ([]AttachedLink, error) {
	entries, err := dump[uint32, Uplink](v.maps["uplinks"])
	if err != nil {
		return nil, err
	}
	var links []AttachedLink
	for index, u := range entries {
		a := AttachedLink{Index: int(index), Name: fmt.Sprintf("#%d", index), Programs: []string{}, SNAT4: address(u.Snat4), SNAT6: address(u.Snat6)}
		if i, err := net.InterfaceByIndex(int(index)); err == nil {
			a.Name = i.Name
		}
		for _, dir := range directions("", "") {
			if _, err := os.Stat(linkPin(v.root, int(index), dir.name)); err == nil {
				a.Programs = append(a.Programs, "tcx "+dir.name)
			}
			if hasFilter(int(index), dir.parent) {
				a.Programs = append(a.Programs, "clsact "+dir.name)
			}
		}
		links = append(links, a)
	}
	slices.SortFunc(links, func(a, b AttachedLink) int { return a.Index - b.Index })
	return links, nil
}

func hasFilter(index int, parent uint32) bool {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return false
	}
	filters, err := netlink.FilterList(l, parent)
	return err == nil && slices.ContainsFunc(filters, isOurs)
}

// address is the zero Addr where the kernel has none.
func address(a Address) netip.Addr {
	if a == (Address{}) {
		return netip.Addr{}
	}
	return a.Addr()
}
