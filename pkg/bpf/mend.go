package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Mend puts back what somebody has taken away since it was made: pins of maps and links, whose files may have
// been removed, and programs, which may have been detached. What we hold has lived on meanwhile: all state of
// the data path is where it was. It says what it has put back. Used by who calls AttachCgroup and SetLinks.
func (d *Datapath) Mend(cgroup string) (mended []string, err error) {
	if err := makeRoot(d.opts.Root); err != nil {
		return nil, err
	}
	var errs []error
	note := func(what string, done bool, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("put back %s: %w", what, err))
		} else if done {
			mended = append(mended, what)
		}
	}
	for _, name := range d.pinned {
		done, err := mendMapPin(filepath.Join(d.opts.Root, "maps", name), d.coll.Maps[name])
		note("pin of map "+name, done, err)
	}
	for _, hook := range cgroupHooks {
		if hook.ipv6 && !d.opts.Features.IPv6 {
			continue
		}
		pin := cgroupPin(d.opts.Root, hook.program)
		if l := d.links[pin]; l != nil && sameCgroup(l, cgroup) {
			done, err := mendLinkPin(pin, l)
			note("pin of program "+hook.program, done, err)
			continue
		}
		note("program "+hook.program, true, d.attachCgroupHook(cgroup, hook.program, hook.attach))
	}
	d.uplinks.mend(d, note)
	d.podLinks.mend(d, note)
	return mended, errors.Join(errs...)
}

// mend is Mend for the links of one role. What is with a device that has gone is not our concern any more.
func (s *linkSet[C]) mend(d *Datapath, note func(what string, done bool, err error)) {
	for index, l := range s.have {
		for _, dir := range s.directions {
			what := dir.name + " of " + s.name(l)
			if !d.opts.Features.TCX {
				if !hasFilter(index, dir.parent) && !linkGone(index) {
					note("program at "+what, true, attachFilter(index, dir.parent, d.coll.Programs[dir.program]))
				}
				continue
			}
			pin := linkPin(d.opts.Root, index, dir.name)
			if held := d.links[pin]; held != nil && onDevice(held, index) {
				done, err := mendLinkPin(pin, held)
				note("pin of program at "+what, done, err)
			} else if !linkGone(index) {
				note("program at "+what, true, d.attachTCX(index, dir, d.coll.Programs[dir.program]))
			}
		}
	}
}

// mendMapPin makes path the pin of m; true if it was not.
func mendMapPin(path string, m *ebpf.Map) (bool, error) {
	have, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err == nil {
		defer have.Close()
		a, errA := have.Info()
		b, errB := m.Info()
		if err := errors.Join(errA, errB); err != nil {
			return false, err
		}
		idA, _ := a.ID()
		idB, _ := b.ID()
		if idA == idB {
			return false, nil
		}
	}
	// A library object remembers where it is pinned: that must be undone first.
	return true, errors.Join(m.Unpin(), removeFile(path), m.Pin(path))
}

// mendLinkPin makes path the pin of l; true if it was not.
func mendLinkPin(path string, l link.Link) (bool, error) {
	have, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		defer have.Close()
		a, errA := have.Info()
		b, errB := l.Info()
		if err := errors.Join(errA, errB); err != nil || a.ID == b.ID {
			return false, err
		}
	}
	return true, errors.Join(l.Unpin(), removeFile(path), l.Pin(path))
}

// pinLink pins a new link and holds it.
func (d *Datapath) pinLink(pin string, l link.Link) error {
	if err := l.Pin(pin); err != nil {
		return errors.Join(fmt.Errorf("pin link: %w", err), l.Close())
	}
	return d.hold(pin, l)
}

// hold keeps a link, and lets go of the one of that pin before it.
func (d *Datapath) hold(pin string, l link.Link) error {
	err := d.letGo(pin)
	d.links[pin] = l
	return err
}

func (d *Datapath) letGo(pin string) error {
	l := d.links[pin]
	if l == nil {
		return nil
	}
	delete(d.links, pin)
	return l.Close()
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
