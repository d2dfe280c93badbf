package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/namespaces"
)

// Options says how the programs are to be loaded.
type Options struct {
	Root       string // a directory on a bpffs, ours alone; made if it is not there
	PodsInside bool   // a local detector is configured: pods are inside clients (DESIGN D4)
	ForceStack bool   // --north-south=stack
	// MasqueradeAll: backends see the node in the place of who dials a ClusterIP.
	MasqueradeAll bool
	// ClusterCIDRs are the pods of the cluster, at most one prefix a family: inside clients wherever they
	// come from.
	ClusterCIDRs []netip.Prefix
	// FirstSNATPort and LastSNATPort bound the source ports of SNATed flows.
	FirstSNATPort, LastSNATPort uint16
	// How long established flows may be silent; zero: what bpf/config.h says.
	TCPEstablishedTimeout, TCPHalfClosedTimeout, UDPTimeout time.Duration
	Features                                                Features
}

// Datapath is the loaded programs and their maps. Closing it leaves the data path at work: programs,
// links and maps are pinned below Options.Root.
type Datapath struct {
	opts    Options
	coll    *ebpf.Collection
	destroy *ebpf.Program // nil: the kernel cannot
	stats   []string
	*Tables
	*Flows
	pinned   []string             // names of the maps that outlive us
	links    map[string]link.Link // by pin: held, so that they outlive the pin as well
	uplinks  *linkSet[UplinkConfig]
	podLinks *linkSet[PodLinkConfig]
}

// Load loads the programs, adopting the maps that an earlier run has pinned. Nothing is attached yet.
func Load(opts Options) (*Datapath, error) {
	if opts.FirstSNATPort == 0 || opts.LastSNATPort < opts.FirstSNATPort {
		return nil, fmt.Errorf("SNAT ports %d-%d are no range", opts.FirstSNATPort, opts.LastSNATPort)
	}
	if err := makeRoot(opts.Root); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise memory lock limit: %w", err)
	}
	spec, err := loadSvcproxy()
	if err != nil {
		return nil, fmt.Errorf("read embedded programs: %w", err)
	}
	cookie, err := namespaces.Cookie()
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		"host_netns_cookie": cookie,
		"pods_inside":       opts.PodsInside,
		"cluster_cidrs":     clusterCIDRs(opts.ClusterCIDRs),
		"force_stack":       opts.ForceStack,
		"masquerade_all":    opts.MasqueradeAll,
		"snat_first_port":   opts.FirstSNATPort,
		"snat_last_port":    opts.LastSNATPort,
		"have_set_retval":   opts.Features.SetRetval,
		"have_coarse_clock": opts.Features.CoarseClock,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	for name, d := range map[string]time.Duration{
		"tcp_established_timeout": opts.TCPEstablishedTimeout, "tcp_half_closed_timeout": opts.TCPHalfClosedTimeout, "udp_timeout": opts.UDPTimeout,
	} {
		if d <= 0 {
			continue
		}
		if err := spec.Variables[name].Set(uint64(d)); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Maps: ebpf.MapOptions{PinPath: filepath.Join(opts.Root, "maps")},
	})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("adopt maps below %s, which another version has made (svcproxy cleanup removes them): %w", opts.Root, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	d := &Datapath{opts: opts, coll: coll, links: make(map[string]link.Link), uplinks: newUplinks(), podLinks: newPodLinks()}
	for name, m := range spec.Maps {
		if m.Pinning == ebpf.PinByName {
			d.pinned = append(d.pinned, name)
		}
	}
	if d.stats, err = statNames(spec); err == nil {
		d.Tables, err = openTables(coll.Maps, spec.Maps)
	}
	if err != nil {
		coll.Close()
		return nil, err
	}
	if d.destroy, err = loadDestroyer(coll.Maps); err != nil {
		d.Tables.close()
		coll.Close()
		return nil, err
	}
	d.Flows = &Flows{maps: coll.Maps, collect: coll.Programs["collect"], filter: d.Tables.filter}
	return d, nil
}

// Close releases what this process holds; what is pinned stays.
func (d *Datapath) Close() error {
	err := errors.Join(d.Flows.close(), d.Tables.close())
	if d.destroy != nil {
		err = errors.Join(err, d.destroy.Close())
	}
	for _, l := range d.links {
		err = errors.Join(err, l.Close())
	}
	d.coll.Close()
	return err
}

// Counters returns the data path's counters by name.
func (d *Datapath) Counters() (map[string]uint64, error) {
	return readStats(d.coll.Maps["stats"], d.stats)
}

// clusterCIDRs is the programs' form: IPv4, IPv6, zeroes where there is none.
func clusterCIDRs(prefixes []netip.Prefix) (ranges [2]ServiceRange) {
	for _, p := range prefixes {
		if p.Addr().Is4() {
			ranges[0] = newRange(p)
		} else {
			ranges[1] = newRange(p)
		}
	}
	return ranges
}

// makeRoot makes the directories of pins.
func makeRoot(root string) error {
	there := root // or what of it is
	var s unix.Statfs_t
	err := unix.Statfs(there, &s)
	for ; errors.Is(err, fs.ErrNotExist) && there != filepath.Dir(there); err = unix.Statfs(there, &s) {
		there = filepath.Dir(there)
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", there, err)
	}
	if uint32(s.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not on a bpffs: mount one (mount -t bpf bpf /sys/fs/bpf) or name another place with --bpf-root", root)
	}
	for _, dir := range []string{"maps", "links"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return fmt.Errorf("make %s for pinned maps and links: %w", root, err)
		}
	}
	return nil
}

// View is a running data path seen from outside: its pinned maps, read only by convention.
type View struct {
	*Tables
	*Flows
	root  string
	stats []string
	maps  map[string]*ebpf.Map
}

// Open opens what an agent has pinned below root, for commands that look. The error wraps fs.ErrNotExist
// when there is nothing.
func Open(root string) (*View, error) {
	spec, err := loadSvcproxy()
	if err != nil {
		return nil, fmt.Errorf("read embedded programs: %w", err)
	}
	v := &View{root: root, maps: make(map[string]*ebpf.Map)}
	if v.stats, err = statNames(spec); err != nil {
		return nil, err
	}
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinByName {
			continue
		}
		path := filepath.Join(root, "maps", name)
		v.maps[name], err = ebpf.LoadPinnedMap(path, nil)
		if errors.Is(err, fs.ErrNotExist) {
			v.Close()
			return nil, fmt.Errorf("no agent has run with --bpf-root %s: %w", root, err)
		}
		if err == nil {
			err = m.Compatible(v.maps[name])
		}
		if err != nil {
			v.Close()
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
	}
	if v.Tables, err = openTables(v.maps, spec.Maps); err != nil {
		v.Close()
		return nil, err
	}
	v.Flows = &Flows{maps: v.maps, filter: v.Tables.filter}
	return v, nil
}

// Counters returns the data path's counters by name.
func (v *View) Counters() (map[string]uint64, error) { return readStats(v.maps["stats"], v.stats) }

// Close releases the maps.
func (v *View) Close() error {
	var err error
	if v.Tables != nil {
		err = v.Tables.close()
	}
	for _, m := range v.maps {
		err = errors.Join(err, m.Close())
	}
	return err
}
