package endpoints

import "net/netip"

// Origin is where a connection comes from, as far as traffic policies tell clients apart.
type Origin uint8

const (
	// FromHost is a process in the node's own network namespace.
	FromHost Origin = iota
	// FromInside is a pod that the configured local detector knows.
	FromInside
	// FromOutside is everybody else; pods too where no local detector is configured.
	FromOutside
)

func (o Origin) String() string { return [...]string{"host", "inside", "outside"}[o] }

// Client is who opens a connection.
type Client struct {
	Origin Origin
	Addr   netip.Addr // the source of its packets before anybody translates them; for source ranges
}

// Answer is what the first packet of a connection gets.
type Answer struct {
	Port     PortName
	Frontend Frontend
	Verdict  Verdict
	Backends []Backend // who may answer, sorted by address and port; some exactly when the verdict is Serve
	// Masqueraded: whoever answers sees the node in the client's place, wherever either is. Without it
	// backends see the client, but for those that would otherwise not answer by way of this node: the client itself
	// and other nodes' where the client is outside.
	Masqueraded bool
}

// Answer returns what client gets when it opens a connection of r's protocol to dial; false if that is
// no frontend of r for this client, and r leaves the packet alone. It is the rule, not the draw: which
// one of the backends answers is up to session affinity and chance.
func (r *Resolved) Answer(client Client, dial netip.AddrPort) (Answer, bool) {
	f := r.frontend(client, dial)
	if f == nil {
		return Answer{}, false
	}
	a := Answer{Port: r.Port, Frontend: *f, Masqueraded: f.Kind == ClusterIP && f.NoSocket}
	if !f.admits(client.Addr) {
		a.Verdict = Drop // even where others would be rejected (§14)
		return a, true
	}
	scope := f.Outside
	if client.Origin != FromOutside {
		scope = f.Inside
	}
	p := r.pool(PoolName{IPv6: f.Addr.Is6(), Scope: scope})
	a.Verdict = p.Verdict
	for _, i := range p.Backends {
		a.Backends = append(a.Backends, r.Backends[i])
	}
	return a, true
}

// frontend returns the frontend at dial that client can reach, nil if there is none.
func (r *Resolved) frontend(client Client, dial netip.AddrPort) *Frontend {
	addr := dial.Addr().Unmap()
	for i := range r.Frontends {
		f := &r.Frontends[i]
		if f.Addr == addr && f.Port == dial.Port() && (!f.HostOnly || client.Origin == FromHost) {
			return f
		}
	}
	return nil
}

// admits reports whether the source ranges let addr in.
func (f *Frontend) admits(addr netip.Addr) bool {
	for _, p := range f.SourceRanges {
		if p.Contains(addr.Unmap()) {
			return true
		}
	}
	return len(f.SourceRanges) == 0
}

// pool returns the pool of that name; [Resolve] makes all that frontends name.
func (r *Resolved) pool(name PoolName) *Pool {
	for i := range r.Pools {
		if r.Pools[i].Name == name {
			return &r.Pools[i]
		}
	}
	return &Pool{Name: name, Verdict: Reject}
}
