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
	MTU          int
	SNAT4, SNAT6 netip.Addr // source of what is SNATed out of it; zero: no flow of that family
}

// Our filters on clsact, before 6.6. A fixed place, so that replacing a program is one atomic step and
// cleaning up finds them.
const (
	filterName     = "svcproxy"
	filterPriority = 1
	filterHandle   = 0x5eb
)

var directions = []struct {
	name, program string
	attach        ebpf.AttachType
	parent        uint32 // of the clsact filter
}{
	// Egress first: what ingress rewrites must find its way back.
	{"egress", "egress_l2", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
	{"ingress", "ingress_l2", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
}

// SetUplinks makes the packet programs sit on exactly these links. One link's failure does not keep the
// others from being attached; a link that has vanished meanwhile is none.
func (d *Datapath) SetUplinks(links []UplinkConfig) error {
	var errs []error
	want := make(map[int]UplinkConfig, len(links))
	for _, l := range links {
		want[l.Index] = l
		if have, ok := d.uplinks[l.Index]; ok && have == l {
			continue
		}
		if err := d.addUplink(l); err != nil && !linkGone(l.Index) {
			errs = append(errs, err)
			delete(want, l.Index)
		}
	}
	attached, err := d.attachedUplinks()
	errs = append(errs, err)
	for _, index := range attached {
		if _, ok := want[index]; !ok {
			errs = append(errs, d.removeUplink(index))
		}
	}
	d.uplinks = want
	return errors.Join(errs...)
}

func (d *Datapath) addUplink(l UplinkConfig) error {
	value := Uplink{Snat4: NewAddress(l.SNAT4), Snat6: NewAddress(l.SNAT6), Mtu: uint32(l.MTU)}
	if err := d.coll.Maps["uplinks"].Put(uint32(l.Index), value); err != nil {
		return fmt.Errorf("put %s into uplinks: %w", l.Name, err)
	}
	for _, dir := range directions {
		prog := d.coll.Programs[dir.program]
		var err error
		if d.opts.Features.TCX {
			err = d.attachTCX(l.Index, dir.name, dir.attach, prog)
		} else {
			err = attachFilter(l.Index, dir.parent, prog)
		}
		if err != nil {
			return fmt.Errorf("attach to %s of %s: %w", dir.name, l.Name, err)
		}
	}
	return nil
}

// attachedUplinks lists the links that this or an earlier run has put on the map.
func (d *Datapath) attachedUplinks() ([]int, error) {
	entries, err := dump[uint32, Uplink](d.coll.Maps["uplinks"])
	if err != nil {
		return nil, err
	}
	var indexes []int
	for index := range entries {
		indexes = append(indexes, int(index))
	}
	return indexes, nil
}

func (d *Datapath) removeUplink(index int) error {
	var errs []error
	for _, dir := range directions {
		errs = append(errs, removeLinkPin(d.tcxPin(index, dir.name)))
	}
	errs = append(errs, removeFilters(index))
	if err := d.coll.Maps["uplinks"].Delete(uint32(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, fmt.Errorf("delete link %d from uplinks: %w", index, err))
	}
	return errors.Join(errs...)
}

func (d *Datapath) tcxPin(index int, direction string) string {
	return filepath.Join(d.opts.Root, "links", fmt.Sprintf("%d-%s", index, direction))
}

func (d *Datapath) attachTCX(index int, direction string, attach ebpf.AttachType, prog *ebpf.Program) error {
	pin := d.tcxPin(index, direction)
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer old.Close()
		if info, err := old.Info(); err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == index {
			return old.Update(prog)
		}
		// The device it sat on has gone, and its index was given to this one.
		if err := os.Remove(pin); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("load pinned link: %w", err)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: attach})
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
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
	for _, dir := range directions {
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
