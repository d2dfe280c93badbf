package reconcile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// Snapshot is what the kernel's tables say, put together. It is read from the tables alone: no agent
// need run, and if one does, the snapshot may be of the middle of a change.
type Snapshot struct {
	Services []ServiceEntry `json:"services"` // sorted by name, protocol, id
	// Problems is what does not fit together, sorted. Readers of the tables leave such things alone.
	Problems []string `json:"problems,omitempty"`
}

// ServiceEntry is one port of a Service.
type ServiceEntry struct {
	ID        uint32          `json:"id"`
	Name      string          `json:"name"` // namespace/name:port
	Protocol  string          `json:"protocol"`
	Frontends []FrontendEntry `json:"frontends"` // sorted by kind, address
	Backends  []BackendEntry  `json:"backends"`  // sorted by address, id; in a pool or not
}

// FrontendEntry is what a client dials.
type FrontendEntry struct {
	Address         netip.AddrPort `json:"address"`
	Protocol        string         `json:"protocol"`
	Kind            string         `json:"kind"`
	AffinitySeconds uint32         `json:"affinitySeconds,omitempty"`
	HostOnly        bool           `json:"hostOnly,omitempty"`
	NoSocket        bool           `json:"noSocket,omitempty"`
	SourceRanges    []netip.Prefix `json:"sourceRanges,omitempty"` // of the only clients that may use it, sorted
	Inside          PoolEntry      `json:"inside"`                 // for processes of the node, and pods the local detector knows
	Outside         PoolEntry      `json:"outside"`                // for everybody else
	kind            uint8
}

// PoolEntry is who answers.
type PoolEntry struct {
	ID       uint32           `json:"id"`
	Set      string           `json:"set"` // cluster or local
	Verdict  string           `json:"verdict"`
	Slots    uint32           `json:"slots,omitempty"`
	Backends []netip.AddrPort `json:"backends,omitempty"` // in the order of their first slots
}

// BackendEntry is one that may answer.
type BackendEntry struct {
	ID          uint32         `json:"id"`
	Generation  uint32         `json:"generation"`
	Address     netip.AddrPort `json:"address"`
	Local       bool           `json:"local"`
	Ready       bool           `json:"ready"`
	Serving     bool           `json:"serving"`
	Terminating bool           `json:"terminating"`
}

// Read returns a snapshot of the tables.
func Read(tables Tables) (*Snapshot, error) {
	frontends, err := tables.Frontends()
	if err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	names, err := tables.Services()
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	sources, err := tables.SourceRanges()
	if err != nil {
		return nil, fmt.Errorf("read source ranges: %w", err)
	}
	sr := snapshotReader{
		tables: tables, names: names, sources: make(map[restriction][]netip.Prefix),
		services: make(map[uint32]*ServiceEntry),
	}
	for s := range sources {
		id, clients := s.Parse()
		of := restriction{id, clients.Addr().Is6()}
		sr.sources[of] = append(sr.sources[of], clients)
	}
	for _, list := range sr.sources {
		slices.SortFunc(list, netip.Prefix.Compare)
	}
	for id := range names {
		sr.service(id)
	}
	for id := uint32(1); id < tables.BackendsLen(); id++ {
		sr.backend(id, tables.Backend(id))
	}
	for key, value := range frontends {
		sr.frontend(key, value)
	}
	return sr.snapshot(), nil
}

type snapshotReader struct {
	tables   Tables
	names    map[uint32]bpf.Service
	sources  map[restriction][]netip.Prefix
	services map[uint32]*ServiceEntry
	problems []string
}

func (r *snapshotReader) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// service returns the entry of a service id; one that has no name gets the id for one.
func (r *snapshotReader) service(id uint32) *ServiceEntry {
	s := r.services[id]
	if s == nil {
		s = &ServiceEntry{ID: id, Name: fmt.Sprintf("#%d", id)}
		if n, ok := r.names[id]; ok {
			s.Name, s.Protocol = n.String(), bpf.ProtocolName(n.Protocol)
		} else {
			r.problem("service %d has no name", id)
		}
		r.services[id] = s
	}
	return s
}

func (r *snapshotReader) backend(id uint32, b bpf.Backend) {
	if b.Generation == 0 {
		return
	}
	s := r.service(b.Service)
	s.Backends = append(s.Backends, BackendEntry{
		ID:          id,
		Generation:  b.Generation,
		Address:     b.AddrPort(),
		Local:       b.State&bpf.BackendLocal != 0,
		Ready:       b.State&bpf.BackendReady != 0,
		Serving:     b.State&bpf.BackendServing != 0,
		Terminating: b.State&bpf.BackendTerminating != 0,
	})
}

func (r *snapshotReader) frontend(key bpf.FrontendKey, v bpf.Frontend) {
	s := r.service(v.Service)
	f := FrontendEntry{
		Address:         key.AddrPort(),
		Protocol:        bpf.ProtocolName(key.Protocol),
		Kind:            kindName(v.Kind),
		AffinitySeconds: v.Affinity,
		HostOnly:        v.Flags&bpf.FlagHostOnly != 0,
		NoSocket:        v.Flags&bpf.FlagNoSocket != 0,
		kind:            v.Kind,
	}
	name := fmt.Sprintf("frontend %s/%s", f.Address, f.Protocol)
	if ask, ok := restrictionOf(key, v); ok {
		if f.SourceRanges = r.sources[ask]; len(f.SourceRanges) == 0 {
			r.problem("%s is restricted to source ranges, and there are none", name)
		}
	}
	f.Inside = r.pool(name, v.Service, v.Inside)
	f.Outside = f.Inside
	if v.Outside != v.Inside {
		f.Outside = r.pool(name, v.Service, v.Outside)
	}
	f.Inside.Set = scope(v, bpf.FlagInsideLocal).String()
	f.Outside.Set = scope(v, bpf.FlagOutsideLocal).String()
	s.Frontends = append(s.Frontends, f)
}

func (r *snapshotReader) pool(frontend string, service, id uint32) PoolEntry {
	p := PoolEntry{ID: id, Verdict: "none"}
	if id == 0 || id >= r.tables.PoolsLen() {
		r.problem("%s names pool %d, which does not exist", frontend, id)
		return p
	}
	word := r.tables.Pool(id)
	p.Verdict = verdictName(word.Verdict)
	p.Slots = word.Length
	switch {
	case word.Verdict == bpf.VerdictNone || word.Verdict > bpf.VerdictDrop:
		r.problem("%s names pool %d, which has the verdict %s", frontend, id, p.Verdict)
		return p
	case word.Verdict != bpf.VerdictServe:
		return p
	case word.Length == 0 || uint64(word.Offset)+uint64(word.Length) > uint64(r.tables.SlotsLen()):
		r.problem("%s names pool %d, whose slots %d+%d do not exist", frontend, id, word.Offset, word.Length)
		return p
	}
	seen := make(map[uint32]bool)
	for i, slot := range r.tables.Slots(word.Offset, word.Length) {
		if seen[slot.Backend] {
			continue
		}
		seen[slot.Backend] = true
		if slot.Backend == 0 || slot.Backend >= r.tables.BackendsLen() {
			r.problem("%s: slot %d of pool %d names backend %d, which does not exist", frontend, i, id, slot.Backend)
			continue
		}
		b := r.tables.Backend(slot.Backend)
		if b.Generation != slot.Generation || b.Generation == 0 || b.Service != service {
			r.problem("%s: slot %d of pool %d names backend %d of another time", frontend, i, id, slot.Backend)
			continue
		}
		p.Backends = append(p.Backends, b.AddrPort())
	}
	return p
}

func (r *snapshotReader) snapshot() *Snapshot {
	slices.Sort(r.problems)
	s := &Snapshot{Services: make([]ServiceEntry, 0, len(r.services)), Problems: slices.Compact(r.problems)}
	for _, e := range r.services {
		slices.SortFunc(e.Frontends, func(a, b FrontendEntry) int {
			return cmp.Or(cmp.Compare(a.kind, b.kind), a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol))
		})
		slices.SortFunc(e.Backends, func(a, b BackendEntry) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.ID, b.ID))
		})
		s.Services = append(s.Services, *e)
	}
	slices.SortFunc(s.Services, func(a, b ServiceEntry) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.ID, b.ID))
	})
	return s
}

func kindName(kind uint8) string {
	switch kind {
	case bpf.KindClusterIP:
		return "ClusterIP"
	case bpf.KindNodePort:
		return "NodePort"
	case bpf.KindExternalIP:
		return "ExternalIP"
	case bpf.KindLoadBalancer:
		return "LoadBalancer"
	}
	return fmt.Sprintf("kind-%d", kind)
}

func verdictName(v bpf.Verdict) string {
	switch v {
	case bpf.VerdictNone:
		return "none"
	case bpf.VerdictServe:
		return "serve"
	case bpf.VerdictReject:
		return "reject"
	case bpf.VerdictDrop:
		return "drop"
	}
	return fmt.Sprintf("verdict-%d", v)
}
