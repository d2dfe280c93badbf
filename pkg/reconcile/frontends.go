package reconcile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// A frontend is an entry of the frontends table, and who claims it.
type frontend struct {
	key     bpf.FrontendKey
	claims  []claim // the one that has it first
	touched bool    // its claims or their values have changed in this call
	adopted bool    // so not to be deleted before Prune

	// What the kernel may hold: one value once a write has succeeded, several after writes that failed
	// and may nevertheless have been made. absent: or nothing.
	kernel   []bpf.Frontend
	absent   bool
	filtered bool // the address has been added to the filter

	// Where claims and kernel are as long as they have one element, which is nearly always.
	oneClaim [1]claim
	oneValue [1]bpf.Frontend
}

// newFrontend makes f a frontend of that key that is neither claimed nor in the kernel.
func newFrontend(f *frontend, key bpf.FrontendKey) {
	f.key, f.absent = key, true
	f.claims, f.kernel = f.oneClaim[:0], f.oneValue[:0]
}

// A claim is a port's to a frontend.
type claim struct {
	port  *port
	value bpf.Frontend // what the entry is if the claim wins
	pass  uint64       // of the last update that made it
	loser *port        // to whom it was last said to have lost
}

// A Conflict is a frontend that several ports claim.
type Conflict struct {
	Address  netip.AddrPort
	Protocol endpoints.Protocol
	Winner   endpoints.PortName
	Losers   []endpoints.PortName
}

// Conflicts returns the frontends that several ports claim, sorted.
func (r *Reconciler) Conflicts() []Conflict {
	list := make([]Conflict, 0, r.contested.len())
	for _, f := range slices.SortedFunc(slices.Values(r.contested.list), compareFrontends) {
		c := Conflict{
			Address:  f.key.AddrPort(),
			Protocol: endpoints.Protocol(f.key.Protocol),
			Winner:   f.claims[0].port.name,
		}
		for _, l := range f.claims[1:] {
			c.Losers = append(c.Losers, l.port.name)
		}
		list = append(list, c)
	}
	return list
}

// claim makes the claims of p those of want.
func (r *Reconciler) claim(p *port, want *endpoints.Resolved) {
	if r.claimed(p, want) {
		return
	}
	before := p.frontends
	p.created = want.Created
	p.frontends = make([]*frontend, len(want.Frontends))
	var fresh []frontend // made together, for they go together
	for i := range want.Frontends {
		key := frontendKey(want, i)
		f := r.frontends[key]
		if f == nil {
			if len(fresh) == 0 {
				fresh = make([]frontend, len(want.Frontends)-i)
			}
			f, fresh = &fresh[0], fresh[1:]
			newFrontend(f, key)
			r.frontends[key] = f
		}
		p.frontends[i] = f
		c := f.claimOf(p)
		if c == nil {
			f.claims = append(f.claims, claim{port: p})
			c = &f.claims[len(f.claims)-1]
		}
		c.value, c.pass = p.frontend(want, i), r.pass
		slices.SortStableFunc(f.claims, compareClaims)
		r.touch(f)
	}
	for _, f := range before {
		if c := f.claimOf(p); c.pass != r.pass {
			r.unclaim(f, p)
		}
	}
}

// claimed reports whether the claims of p are those of want already.
func (r *Reconciler) claimed(p *port, want *endpoints.Resolved) bool {
	if len(p.frontends) != len(want.Frontends) || !p.created.Equal(want.Created) {
		return false
	}
	for i, f := range p.frontends {
		if f.key != frontendKey(want, i) || f.claimOf(p).value != p.frontend(want, i) {
			return false
		}
	}
	return true
}

func (r *Reconciler) unclaim(f *frontend, p *port) {
	f.claims = slices.DeleteFunc(f.claims, func(c claim) bool { return c.port == p })
	r.touch(f)
}

func (r *Reconciler) touch(f *frontend) {
	if !f.touched {
		f.touched = true
		r.touched = append(r.touched, f)
	}
}

func (f *frontend) claimOf(p *port) *claim {
	for i := range f.claims {
		if f.claims[i].port == p {
			return &f.claims[i]
		}
	}
	return nil
}

func compareClaims(a, b claim) int { return a.model().Compare(b.model()) }

func (c *claim) model() endpoints.Claim {
	m := endpoints.Claim{Created: c.port.created, Port: c.port.name}
	if c.value.Kind == bpf.KindNodePort {
		m.Kind = endpoints.NodePort
	}
	return m
}

func frontendKey(want *endpoints.Resolved, i int) bpf.FrontendKey {
	w := &want.Frontends[i]
	return bpf.NewFrontendKey(netip.AddrPortFrom(w.Addr, w.Port), uint8(want.Port.Protocol))
}

// frontend returns the entry of want.Frontends[i], once the pools have their ids.
func (p *port) frontend(want *endpoints.Resolved, i int) bpf.Frontend {
	w := &want.Frontends[i]
	ipv6 := w.Addr.Unmap().Is6()
	f := bpf.Frontend{
		Service:  p.id,
		Inside:   p.pools[poolIndex(ipv6, w.Inside)].id,
		Outside:  p.pools[poolIndex(ipv6, w.Outside)].id,
		Affinity: uint32((want.Affinity + time.Second - 1) / time.Second),
		Kind:     kind(w.Kind),
	}
	if w.HostOnly {
		f.Flags |= bpf.FlagHostOnly
	}
	if w.NoSocket {
		f.Flags |= bpf.FlagNoSocket
	}
	if len(w.SourceRanges) > 0 {
		f.Flags |= bpf.FlagRanges
	}
	if want.Maglev {
		f.Flags |= bpf.FlagMaglev
	}
	if w.Inside == endpoints.Local {
		f.Flags |= bpf.FlagInsideLocal
	}
	if w.Outside == endpoints.Local {
		f.Flags |= bpf.FlagOutsideLocal
	}
	return f
}

func kind(k endpoints.Kind) uint8 {
	switch k {
	case endpoints.NodePort:
		return bpf.KindNodePort
	case endpoints.ExternalIP:
		return bpf.KindExternalIP
	case endpoints.LoadBalancer:
		return bpf.KindLoadBalancer
	}
	return bpf.KindClusterIP
}

// settleFrontends writes the frontends that were touched: puts before deletes, so that what moves from
// one port to another is replaced in place.
func (r *Reconciler) settleFrontends() []error {
	var puts, deletes []*frontend
	var errs []error
	for _, f := range r.touched {
		f.touched = false
		r.judge(f)
		switch {
		case len(f.claims) == 0 && len(f.kernel) > 0:
			if f.adopted && !r.pruned {
				continue // a Service that we have not heard of yet may claim it
			}
			deletes = append(deletes, f)
		case len(f.claims) == 0:
			r.forget(f)
		case f.absent || len(f.kernel) != 1 || f.kernel[0] != f.claims[0].value:
			c := &f.claims[0]
			if ask, ok := restrictionOf(f.key, c.value); ok && !c.port.admits(ask.ipv6) {
				errs = append(errs, fmt.Errorf("put frontend %s of %s: %w", f, c.port.name, errNotAdmitting))
				r.unsettled.add(f)
				continue
			}
			puts = append(puts, f)
		default:
			r.unsettled.remove(f)
		}
	}
	clear(r.touched)
	r.touched = r.touched[:0]
	errs = append(errs, r.putFrontends(puts)...)
	return append(errs, r.deleteFrontends(deletes)...)
}

// judge keeps the list of conflicts, and tells those who have lost that they have.
func (r *Reconciler) judge(f *frontend) {
	if len(f.claims) < 2 {
		r.contested.remove(f)
		return
	}
	r.contested.add(f)
	winner := f.claims[0].port
	f.claims[0].loser = nil
	for i := range f.claims[1:] {
		if c := &f.claims[1+i]; c.loser != winner {
			c.loser = winner
			r.stats.Conflicts++
			r.log.Warn("frontend is another Service's already",
				"frontend", f.String(), "service", c.port.name.String(), "winner", winner.name.String())
		}
	}
}

func (r *Reconciler) putFrontends(list []*frontend) []error {
	if len(list) == 0 {
		return nil
	}
	puts := make(map[bpf.FrontendKey]bpf.Frontend, len(list))
	for _, f := range list {
		value := f.claims[0].value
		puts[f.key] = value
		if !f.filtered {
			r.tables.AddAddress(f.key.AddrPort().Addr())
			f.filtered = true
		}
		// From here on the kernel may hold it, whatever the write will say.
		if !slices.Contains(f.kernel, value) {
			f.kernel = append(f.kernel, value)
			r.link(f, value)
		}
	}
	r.stats.Frontends += uint64(len(puts))
	whole := r.tables.PutFrontends(puts)
	var errs []error
	for _, f := range list {
		err, value := whole, f.claims[0].value
		if whole != nil && len(list) > 1 { // one that fails must not keep the others out
			r.stats.Frontends++
			err = r.tables.PutFrontends(map[bpf.FrontendKey]bpf.Frontend{f.key: value})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("put frontend %s of %s: %w", f, f.claims[0].port.name, err))
			r.unsettled.add(f)
			continue
		}
		r.known(f, value)
	}
	return errs
}

// known records that the kernel holds value and nothing else.
func (r *Reconciler) known(f *frontend, value bpf.Frontend) {
	for _, v := range f.kernel {
		if v != value {
			r.unlink(f, v)
		}
	}
	f.kernel = append(f.kernel[:0], value)
	f.absent = false
	r.unsettled.remove(f)
}

func (r *Reconciler) deleteFrontends(list []*frontend) []error {
	if len(list) == 0 {
		return nil
	}
	keys := make([]bpf.FrontendKey, len(list))
	for i, f := range list {
		keys[i] = f.key
	}
	r.stats.Frontends += uint64(len(keys))
	whole := r.tables.DeleteFrontends(keys)
	var errs []error
	for i, f := range list {
		err := whole
		if whole != nil && len(list) > 1 {
			r.stats.Frontends++
			err = r.tables.DeleteFrontends(keys[i : i+1])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("delete frontend %s: %w", f, err))
			f.absent = true // perhaps
			r.unsettled.add(f)
			continue
		}
		for _, v := range f.kernel {
			r.unlink(f, v)
		}
		r.forget(f)
	}
	return errs
}

// forget lets go of a frontend that is neither claimed nor in the kernel.
func (r *Reconciler) forget(f *frontend) {
	if f.filtered {
		r.tables.RemoveAddress(f.key.AddrPort().Addr())
	}
	r.unsettled.remove(f)
	delete(r.frontends, f.key)
}

// link counts what a frontend's entry refers to: pools and source ranges live as long as anything does.
func (r *Reconciler) link(f *frontend, v bpf.Frontend) {
	r.links[v.Inside]++
	r.links[v.Outside]++
	if ask, ok := restrictionOf(f.key, v); ok {
		r.restricting[ask]++
	}
}

func (r *Reconciler) unlink(f *frontend, v bpf.Frontend) {
	for _, id := range [...]uint32{v.Inside, v.Outside} {
		if r.links[id]--; r.links[id] == 0 {
			delete(r.links, id)
		}
	}
	if ask, ok := restrictionOf(f.key, v); ok {
		if r.restricting[ask]--; r.restricting[ask] == 0 {
			delete(r.restricting, ask)
		}
	}
}

func compareFrontends(a, b *frontend) int {
	return cmp.Or(a.key.AddrPort().Compare(b.key.AddrPort()), cmp.Compare(a.key.Protocol, b.key.Protocol))
}

// String returns what a client dials.
func (f *frontend) String() string {
	return fmt.Sprintf("%s/%s", f.key.AddrPort(), bpf.ProtocolName(f.key.Protocol))
}
