package bpf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// Growing a table keeps what is in it, and programs read the new one from then on.
func TestTablesGrow(t *testing.T) {
	n := ownNode(t)
	f := families[0]
	before, after := at(f.node, nodePort), at(f.node, nodePort+1)
	n.serve(t, before, udp, at(f.pod, 53))
	far := uint32(5000)
	for what, grow := range map[string]func(uint32) error{"pools": n.GrowPools, "slots": n.GrowSlots, "backends": n.GrowBackends} {
		if err := grow(far + 1); err != nil {
			t.Fatalf("grow %s: %v", what, err)
		}
		if err := grow(1 << 31); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), what) {
			t.Errorf("grow %s beyond all measure: %v", what, err)
		}
	}
	if n.PoolsLen() <= far || n.SlotsLen() <= far || n.BackendsLen() <= far {
		t.Fatalf("lengths %d, %d, %d, want more than %d", n.PoolsLen(), n.SlotsLen(), n.BackendsLen(), far)
	}
	in := f.first(udp, 40000, before)
	n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 53)), "flow_new forward_local"))

	in.dst = after
	n.addFrontend(t, after, udp, Frontend{Outside: far, Kind: KindNodePort})
	n.must(t, ingress(n.eth0, in, next, in, ""))
	n.SetBackend(far, NewBackend(at(f.pod, 54), udp, BackendReady, 1, 7))
	n.SetSlots(far, []Slot{{Backend: far, Generation: 7}})
	n.SetPool(far, Pool{Offset: far, Length: 1, Verdict: VerdictServe})
	n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 54)), "flow_new forward_local"))
	if err := n.Quiesce(); err != nil {
		t.Error(err)
	}
	if got, want := n.Pool(far), (Pool{Offset: far, Length: 1, Verdict: VerdictServe}); got != want {
		t.Errorf("pool %+v, want %+v", got, want)
	}
	if got := n.Backend(far).AddrPort(); got != at(f.pod, 54) {
		t.Errorf("backend %s", got)
	}
}

// More frontends than one batch, removed together with some that are not there.
func TestFrontendsInBatches(t *testing.T) {
	n := newNode(t)
	want := make(map[FrontendKey]Frontend)
	var keys []FrontendKey
	for i := range 3 * batchSize {
		key := NewFrontendKey(at(nth(addr("10.96.0.0"), i), 80), tcp)
		want[key] = Frontend{Service: uint32(i), Kind: KindClusterIP}
		if keys = append(keys, key); i%1000 == 0 {
			keys = append(keys, NewFrontendKey(at(nth(addr("10.97.0.0"), i), 80), tcp))
		}
	}
	if err := n.PutFrontends(want); err != nil {
		t.Fatal(err)
	}
	got, err := n.Frontends()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(len(want), len(got)); diff != "" {
		t.Error(diff)
	}
	for key, f := range want {
		if got[key] != f {
			t.Fatalf("%s is %+v, want %+v", key.AddrPort(), got[key], f)
		}
	}
	if err := n.DeleteFrontends(keys); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Frontends(); err != nil || len(got) != 0 {
		t.Errorf("%d frontends are left, %v", len(got), err)
	}
}

// A second agent on the same pins takes everything over, living flows included.
func TestLoadAdopts(t *testing.T) {
	n := ownNode(t)
	f := families[1]
	frontend, backend := at(f.node, nodePort), at(f.pod, 53)
	pool := n.serve(t, frontend, udp, backend)
	if err := n.GrowSlots(3000); err != nil {
		t.Fatal(err)
	}
	in, sent := n.establish(t, f.first(udp, 40000, frontend))

	first := n.Datapath
	n.mustDo(t, func() (err error) {
		if n.Datapath, err = Load(first.opts); err != nil {
			return err
		}
		return n.SetLinks(n.uplinkConfigs(), nil)
	})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := n.SlotsLen(); got < 3000 {
		t.Errorf("%d slots, want those of the first agent", got)
	}
	if got := n.Pool(pool); got.Verdict != VerdictServe || got.Length != 1 {
		t.Errorf("pool is %+v", got)
	}
	frontends, err := n.Frontends()
	if _, ok := frontends[NewFrontendKey(frontend, udp)]; !ok || err != nil {
		t.Errorf("frontends are %v, %v", frontends, err)
	}
	n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
	reply := sent.answer(0, 0, 0, "answer")
	n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
	n.mustBeIn(t, "flows", in, sent)
	begin := f.first(udp, 40001, frontend)
	n.must(t, ingress(n.eth0, begin, next, begin.to(backend), "flow_new forward_local"))
}

// After a restart the filter of addresses stays open, though nobody has asked for them again yet.
func TestCollectBeforeFirstSync(t *testing.T) {
	n := ownNode(t)
	f := families[0]
	frontend := at(f.node, nodePort)
	n.serve(t, frontend, udp, at(f.pod, 53))
	first := n.Datapath
	n.mustDo(t, func() (err error) {
		n.Datapath, err = Load(first.opts)
		return err
	})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	n.mustCollect(t, 0)
	in := f.first(udp, 40000, frontend)
	n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 53)), "flow_new forward_local"))
}

// Pins of another layout are named, and nothing of them is touched.
func TestLoadRefusesOtherLayout(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"frontends": func(path string) error {
			return pinMap(path, &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 20, ValueSize: 24, MaxEntries: 1 << 22, Flags: 1})
		},
		"backends": func(path string) error {
			inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 64, MaxEntries: 1024, Flags: 1<<10 | 1<<12}
			m, err := ebpf.NewMap(inner)
			if err != nil {
				return err
			}
			defer m.Close()
			return pinMap(path, &ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner,
				Contents: []ebpf.MapKV{{Key: uint32(0), Value: m}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := mustRoot(t)
			t.Cleanup(func() { os.RemoveAll(filepath.Dir(root)) })
			if err := os.MkdirAll(filepath.Join(root, "maps"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := make(filepath.Join(root, "maps", name)); err != nil {
				t.Fatal(err)
			}
			d, err := Load(Options{Root: root, FirstSNATPort: 61000, LastSNATPort: 61999, Features: ProbeFeatures()})
			if err == nil {
				d.Close()
				t.Fatal("was loaded")
			}
			if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "another version") {
				t.Errorf("error is %q: want it to name %s and say what is wrong", err, name)
			}
		})
	}
}

func pinMap(path string, spec *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Pin(path)
}

func TestLoadRefusesBadOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"no ports":       {Root: "/sys/fs/bpf/svcproxy-test-none"},
		"ports reversed": {Root: "/sys/fs/bpf/svcproxy-test-none", FirstSNATPort: 2, LastSNATPort: 1},
		"no bpffs":       {Root: t.TempDir(), FirstSNATPort: 61000, LastSNATPort: 61999},
	} {
		if d, err := Load(opts); err == nil {
			d.Close()
			t.Errorf("%s: was loaded", name)
		}
	}
}

// A command that looks sees what the agent has made.
func TestView(t *testing.T) {
	n := newNode(t)
	f := families[0]
	frontend := at(f.node, nodePort)
	pool := n.serve(t, frontend, tcp, at(f.pod, 8080))
	n.establish(t, f.first(tcp, 40000, frontend))
	v, err := Open(n.root)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	counters, err := v.Counters()
	if diff := cmp.Diff(n.counters(t), counters); diff != "" || err != nil {
		t.Errorf("counters %v -want +got:\n%s", err, diff)
	}
	if counters["flow_promoted"] != 1 {
		t.Errorf("counters %v", counters)
	}
	if got := v.Pool(pool); got != n.Pool(pool) {
		t.Errorf("pool %+v", got)
	}
	entries := 0
	if err := v.Walk(func(Tuple, *Flow) { entries++ }); err != nil || entries != 2 {
		t.Errorf("%d flow entries, %v, want 2", entries, err)
	}
	if _, err := v.Collect(); err == nil {
		t.Error("a view collects flows")
	}
	if _, err := Open(n.root + "-not"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening nothing: %v", err)
	}
}

// Cleanup leaves no pin, no program and no qdisc, whatever they were attached by.
func TestCleanup(t *testing.T) {
	for name, tcx := range map[string]bool{"tcx": true, "clsact": false} {
		t.Run(name, func(t *testing.T) {
			n := ownNode(t, func(o *Options) { o.Features.TCX = tcx })
			attached := func() (count int) {
				n.mustDo(t, func() error {
					l, err := netlink.LinkByIndex(n.eth0.index)
					if err != nil {
						return err
					}
					qdiscs, err := netlink.QdiscList(l)
					if err != nil {
						return err
					}
					for _, q := range qdiscs {
						if q.Type() == "clsact" {
							count++
						}
					}
					for _, dir := range directions("", "") {
						result, err := link.QueryPrograms(link.QueryOptions{Target: n.eth0.index, Attach: dir.attach})
						if err != nil {
							return err
						}
						count += len(result.Programs)
					}
					return nil
				})
				return count
			}
			if attached() == 0 {
				t.Fatal("nothing is attached")
			}
			n.mustDo(t, func() error { return n.SetLinks(n.uplinkConfigs()[:0], nil) })
			if got := attached(); got != 0 {
				t.Errorf("%d things are attached to a link that is no uplink any more", got)
			}
			n.mustDo(t, func() error { return errors.Join(n.SetLinks(n.uplinkConfigs(), nil), Cleanup(n.root)) })
			if got := attached(); got != 0 {
				t.Errorf("%d things are still attached", got)
			}
			if _, err := os.Stat(n.root); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", n.root, err)
			}
			n.mustDo(t, func() error { return Cleanup(n.root) })
		})
	}
}

// TestBackendZero: the reconciler's high-water mark of generations survives the process.
func TestBackendZero(t *testing.T) {
	n := newNode(t)
	n.SetBackend(0, Backend{Reserved: 8192})
	if got := n.Backend(0); got.Reserved != 8192 || got.Generation != 0 {
		t.Errorf("backend 0 is %+v", got)
	}
}
