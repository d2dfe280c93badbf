package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// UplinkConfig is a link that the packet programs are to be attached to.
type UplinkConfig struct {
	Index        int
	Name         string
	SNAT4, SNAT6 netip.Addr // source of what is SNATed out of it; zero: no flow of that family
}

// Our filters on clsact, before 6.6. A fixed place, so that replacing a program is one atomic step and
// cleaning up finds them.
const (
	filterName     = "svcproxy"
	filterPriority = 1
	filterHandle   = 0x5eb
)

// PodLinkConfig is a link to a pod, for what the pod sends that no socket hook has seen.
type PodLinkConfig struct {
	Index        int
	Name         string
	SNAT4, SNAT6 netip.Addr // the node, for a pod that reaches itself through a Service; zero: it cannot
	NetnsCookie  uint64     // of the pod; 0: unknown
	Bridge       int        // the bridge it is a port of, if netfilter does not see what is bridged; else 0
}

// direction is one of the two hooks of a link.
type direction struct {
	name, program string
	attach        ebpf.AttachType
	parent        uint32 // of the clsact filter
}

// Egress first: what ingress rewrites must find its way back.
func directions(egress, ingress string) []direction {
	return []direction{
		{"egress", egress, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
		{"ingress", ingress, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	}
}

// linkSet is the links of one role: the map that says what they are like, and the programs on them.
type linkSet[C comparable] struct {
	table      string
	directions []direction
	value      func(C) any
	name       func(C) string
	have       map[int]C // as attached by this process
}

func newUplinks() *linkSet[UplinkConfig] {
	return &linkSet[UplinkConfig]{
		table: "uplinks", directions: directions("egress_l2", "ingress_l2"),
		value: func(l UplinkConfig) any {
			return Uplink{Snat4: NewAddress(l.SNAT4), Snat6: NewAddress(l.SNAT6)}
		},
		name: func(l UplinkConfig) string { return l.Name },
	}
}

func newPodLinks() *linkSet[PodLinkConfig] {
	return &linkSet[PodLinkConfig]{
		table: "pod_links", directions: directions("pod_egress_l2", "pod_ingress_l2"),
		value: func(l PodLinkConfig) any {
			return PodLink{Snat4: NewAddress(l.SNAT4), Snat6: NewAddress(l.SNAT6), NetnsCookie: l.NetnsCookie, Bridge: uint32(l.Bridge)}
		},
		name: func(l PodLinkConfig) string { return l.Name },
	}
}

// SetLinks makes the packet programs sit on exactly these links. One link's failure does not keep the
// others from being attached; a link that has vanished meanwhile is none.
func (d *Datapath) SetLinks(uplinks []UplinkConfig, pods []PodLinkConfig) error {
	wantUplinks, wantPods := make(map[int]UplinkConfig), make(map[int]PodLinkConfig)
	for _, l := range uplinks {
		wantUplinks[l.Index] = l
	}
	for _, l := range pods {
		wantPods[l.Index] = l
	}
	return errors.Join(d.uplinks.set(d, wantUplinks), d.podLinks.set(d, wantPods))
}

func (s *linkSet[C]) set(d *Datapath, want map[int]C) error {
	var errs []error
	// What goes first, for a link may have changed its role.
	attached, err := attachedLinks(d.coll.Maps[s.table])
	errs = append(errs, err)
	for _, index := range attached {
		if _, ok := want[index]; !ok {
			errs = append(errs, s.remove(d, index))
		}
	}
	have := make(map[int]C, len(want))
	for index, l := range want {
		if before, ok := s.have[index]; ok && before == l {
			have[index] = l
			continue
		}
		if err := s.add(d, index, l); err == nil {
			have[index] = l
		} else if !linkGone(index) {
			errs = append(errs, err)
		}
	}
	s.have = have
	return errors.Join(errs...)
}

func (s *linkSet[C]) add(d *Datapath, index int, l C) error {
	if err := d.coll.Maps[s.table].Put(uint32(index), s.value(l)); err != nil {
		return fmt.Errorf("put %s into %s: %w", s.name(l), s.table, err)
	}
	if _, ok := s.have[index]; ok {
		return nil // the programs are there
	}
	for _, dir := range s.directions {
		prog := d.coll.Programs[dir.program]
		var err error
		if d.opts.Features.TCX {
			err = d.attachTCX(index, dir, prog)
		} else {
			err = attachFilter(index, dir.parent, prog)
		}
		if err != nil {
			return fmt.Errorf("attach to %s of %s: %w", dir.name, s.name(l), err)
		}
	}
	return nil
}

func (s *linkSet[C]) remove(d *Datapath, index int) error {
	var errs []error
	for _, dir := range s.directions {
		pin := linkPin(d.opts.Root, index, dir.name)
		errs = append(errs, removeLinkPin(pin), d.letGo(pin))
	}
	errs = append(errs, removeFilters(index))
	if err := d.coll.Maps[s.table].Delete(uint32(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, fmt.Errorf("delete link %d from %s: %w", index, s.table, err))
	}
	return errors.Join(errs...)
}

// attachedLinks lists the links that this or an earlier run has put on the map.
func attachedLinks(m *ebpf.Map) ([]int, error) {
	var indexes []int
	var index uint32
	var value []byte
	entries := m.Iterate()
	for entries.Next(&index, &value) {
		indexes = append(indexes, int(index))
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", m, err)
	}
	return indexes, nil
}

func linkPin(root string, index int, direction string) string {
	return filepath.Join(root, "links", fmt.Sprintf("%d-%s", index, direction))
}

func (d *Datapath) attachTCX(index int, dir direction, prog *ebpf.Program) error {
	pin := linkPin(d.opts.Root, index, dir.name)
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		if onDevice(old, index) {
			return errors.Join(old.Update(prog), d.hold(pin, old))
		}
		defer old.Close()
		// The device it sat on has gone, and its index was given to this one.
		if err := os.Remove(pin); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("load pinned link: %w", err)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: dir.attach})
	if err != nil {
		return err
	}
	return d.pinLink(pin, l)
}

// onDevice reports whether the link sits on the device.
func onDevice(l link.Link, index int) bool {
	info, err := l.Info()
	return err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == index
}

func attachFilter(index int, parent uint32, prog *ebpf.Program) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact qdisc: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: filterName, DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("put filter: %w", err)
	}
	return nil
}

// removeFilters takes our filters off a link, and its clsact qdisc if nobody else has filters there.
func removeFilters(index int) error {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil // gone, and its filters with it
	}
	ours, others := 0, 0
	for _, dir := range directions("", "") {
		filters, err := netlink.FilterList(l, dir.parent)
		if err != nil {
			continue // no clsact here
		}
		for _, f := range filters {
			if !isOurs(f) {
				others++
				continue
			}
			ours++
			if err := netlink.FilterDel(f); err != nil {
				return fmt.Errorf("remove %s filter of %s: %w", dir.name, l.Attrs().Name, err)
			}
		}
	}
	if ours == 0 || others > 0 {
		return nil
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscDel(qdisc); err != nil {
		return fmt.Errorf("remove clsact qdisc of %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func isOurs(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && strings.HasPrefix(b.Name, filterName) && b.Priority == filterPriority
}

func removeLinkPin(path string) error {
	// Without the last reference the kernel detaches as well, but some time later.
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(l.Detach(), l.Close())
	}
	return errors.Join(err, os.Remove(path))
}

func linkGone(index int) bool {
	_, err := netlink.LinkByIndex(index)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// haveTCX asks the kernel by attaching to a device that cannot be: a kernel that knows tcx complains of
// the device, another one of the attach type.
func haveTCX() bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return false
	}
	defer prog.Close()
	_, err = link.AttachTCX(link.TCXOptions{Interface: 1 << 30, Program: prog, Attach: ebpf.AttachTCXIngress})
	return errors.Is(err, unix.ENODEV)
}
