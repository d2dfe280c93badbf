package reconcile

import (
	"net/netip"
	"time"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// A port is one port of a Service as it is in the kernel. It lives while the model has it or anything in
// the kernel is its.
type port struct {
	name    endpoints.PortName
	id      uint32    // of the service in the kernel; 0: not there yet
	created time.Time // of the Service
	pass    uint64    // of the last update that wanted it; 0: none has
	named   bool      // in the services table
	adopted bool      // and has not taken over what is its

	pools     [poolNames]pool
	backends  []backend // known to the model, sorted by address and port
	dropped   []backend // no longer, but a slot names them still
	frontends []*frontend

	affinity      bool                // so the backends of its pools are to be members
	members       listing[bpf.Member] // of its pools
	sourcesWanted []bpf.SourceRange   // sorted
	sources       listing[bpf.SourceRange]
}

// A pool is what the kernel holds under its id. Id 0: none.
type pool struct {
	id     uint32
	wanted bool // by the model
	word   bpf.Pool
	slots  []bpf.Slot
}

// A backend is an entry of the backends table.
type backend struct {
	id    uint32
	entry bpf.Backend
}

// poolNames is the number of values of [endpoints.PoolName].
const poolNames = 4

func poolIndex(ipv6 bool, scope endpoints.Scope) int {
	if ipv6 {
		return 2 + int(scope)
	}
	return int(scope)
}

// A plan is what it takes to bring a port up to date. It changes nothing, so it can be given up.
type plan struct {
	port     *port
	want     *endpoints.Resolved
	backends []backend // for want.Backends; id 0 where one is to be made
	states   bool      // some backend's state differs
	fresh    int       // backends to be made
	dropped  []backend // known before
	pools    [poolNames]poolPlan
}

type poolPlan struct {
	wanted  bool
	publish bool // the kernel's differs
	verdict bpf.Verdict
	choices []int // for each slot, which of the plan's backends
	span    span  // to write them to
}

// plan compares want with what the kernel holds. It changes no more than what we know of the kernel.
func (r *Reconciler) plan(want *endpoints.Resolved) plan {
	p := r.ports[want.Port]
	if p == nil {
		p = &port{name: want.Port}
	}
	adopted := p.adopted
	if adopted {
		r.takeOver(p)
	}
	pl := plan{port: p, want: want}
	pl.planBackends()
	for i := range want.Pools {
		w := &want.Pools[i]
		if i := poolIndex(w.Name.IPv6, w.Name.Scope); adopted && p.pools[i].id == 0 {
			r.findSpare(p, i, verdict(w.Verdict), pl.slots(w))
		}
		pl.planPool(w)
	}
	return pl
}

// planBackends walks the known and the wanted backends, both sorted, side by side.
func (pl *plan) planBackends() {
	have, protocol := pl.port.backends, uint8(pl.want.Port.Protocol)
	pl.backends = make([]backend, len(pl.want.Backends))
	for i := range pl.want.Backends {
		w := &pl.want.Backends[i]
		for len(have) > 0 && compareAddrPort(have[0].entry.AddrPort(), w.Addr) < 0 {
			pl.dropped = append(pl.dropped, have[0])
			have = have[1:]
		}
		b := &pl.backends[i]
		if len(have) > 0 && have[0].entry.AddrPort() == unmap(w.Addr) {
			*b, have = have[0], have[1:]
			if state := state(w); b.entry.State != state {
				b.entry.State = state
				pl.states = true
			}
			continue
		}
		b.entry = bpf.NewBackend(w.Addr, protocol, state(w), 0, 0)
		pl.fresh++
	}
	pl.dropped = append(pl.dropped, have...)
}

func (pl *plan) planPool(w *endpoints.Pool) {
	i := poolIndex(w.Name.IPv6, w.Name.Scope)
	have, pp := &pl.port.pools[i], &pl.pools[i]
	*pp = poolPlan{wanted: true, verdict: verdict(w.Verdict), choices: pl.choices(w)}
	pp.publish = have.id == 0 || have.word.Verdict != pp.verdict || have.word.Length != uint32(len(pp.choices)) ||
		len(have.slots) != len(pp.choices)
	for i := 0; i < len(pp.choices) && !pp.publish; i++ {
		b := &pl.backends[pp.choices[i]]
		pp.publish = have.slots[i] != bpf.Slot{Backend: b.id, Generation: b.entry.Generation}
	}
}

// choices returns what the slots of a pool hold, as indices of backends: each once, or a Maglev table.
func (pl *plan) choices(p *endpoints.Pool) []int {
	if pl.want.Maglev {
		return maglev(p.Backends, func(i int) netip.AddrPort { return pl.want.Backends[i].Addr })
	}
	return p.Backends
}

// slots returns the slots of a pool, as far as its backends are there.
func (pl *plan) slots(w *endpoints.Pool) []bpf.Slot {
	slots := make([]bpf.Slot, 0, len(w.Backends))
	for _, choice := range pl.choices(w) {
		b := &pl.backends[choice]
		slots = append(slots, bpf.Slot{Backend: b.id, Generation: b.entry.Generation})
	}
	return slots
}

func verdict(v endpoints.Verdict) bpf.Verdict {
	switch v {
	case endpoints.Serve:
		return bpf.VerdictServe
	case endpoints.Drop:
		return bpf.VerdictDrop
	}
	return bpf.VerdictReject
}

func state(b *endpoints.Backend) uint8 {
	var s uint8
	for _, bit := range [...]struct {
		on   bool
		mask uint8
	}{
		{b.Local, bpf.BackendLocal},
		{b.Ready, bpf.BackendReady},
		{b.Serving, bpf.BackendServing},
		{b.Terminating, bpf.BackendTerminating},
	} {
		if bit.on {
			s |= bit.mask
		}
	}
	return s
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func compareAddrPort(a, b netip.AddrPort) int { return a.Compare(unmap(b)) }
