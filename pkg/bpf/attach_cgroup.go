package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The socket programs and where each is attached; IPv6 ones where the kernel has IPv6, whatever the cluster.
var cgroupHooks = []struct {
	program string
	attach  ebpf.AttachType
	ipv6    bool
}{
	// The translators of what is received and shown come first: nothing may be rewritten that cannot be
	// shown the right way round.
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, false},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, true},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername, false},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername, true},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, false},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, true},
	{"connect4", ebpf.AttachCGroupInet4Connect, false},
	{"connect6", ebpf.AttachCGroupInet6Connect, true},
}

// AttachCgroup attaches the socket programs to the cgroup2 directory at path, or swaps them into the links
// that an earlier run has pinned: each swap is atomic, no call is missed.
func (d *Datapath) AttachCgroup(path string) error {
	for _, hook := range cgroupHooks {
		if hook.ipv6 && !d.opts.Features.IPv6 {
			continue
		}
		if err := d.attachCgroupHook(path, hook.program, hook.attach); err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", hook.program, path, err)
		}
	}
	return nil
}

func (d *Datapath) attachCgroupHook(path, program string, attach ebpf.AttachType) error {
	pin := cgroupPin(d.opts.Root, program)
	prog := d.coll.Programs[program]
	old, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil:
		if sameCgroup(old, path) {
			return errors.Join(old.Update(prog), d.hold(pin, old))
		}
		// Another --cgroup-root than last time: the new link takes over before the old one goes.
		defer old.Close()
		aside := pin + "_old" // a bpffs allows no dots
		if err := os.Rename(pin, aside); err != nil {
			return err
		}
		defer os.Remove(aside)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("load pinned link: %w", err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: attach, Program: prog})
	if err != nil {
		return err
	}
	return d.pinLink(pin, l)
}

func cgroupPin(root, program string) string { return filepath.Join(root, "links", program) }

// sameCgroup reports whether the link sits on the cgroup at path.
func sameCgroup(l link.Link, path string) bool {
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	var s unix.Stat_t
	return unix.Stat(path, &s) == nil && s.Ino == info.Cgroup().CgroupId
}
