package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// Source ranges fail closed. They are put before the frontends that ask for them; those that cannot be
// hold their frontends back. They are deleted when no frontend asks, or when the model admits others.

// A restriction is what the frontends of one family of a service ask of the source ranges.
type restriction struct {
	service uint32
	ipv6    bool
}

// restrictionOf returns what the entry of a frontend asks; false: nothing.
func restrictionOf(key bpf.FrontendKey, v bpf.Frontend) (restriction, bool) {
	return restriction{v.Service, key.AddrPort().Addr().Is6()}, v.Flags&bpf.FlagRanges != 0
}

// sourceList returns the ranges of the clients that want's frontends are for, sorted.
func (p *port) sourceList(want *endpoints.Resolved) []bpf.SourceRange {
	var list []bpf.SourceRange
	for i := range want.Frontends {
		for _, clients := range want.Frontends[i].SourceRanges {
			list = append(list, bpf.NewSourceRange(p.id, clients))
		}
	}
	slices.SortFunc(list, compareSources)
	return slices.Compact(list)
}

// restricted reports whether the model has source ranges of the family for p.
func (p *port) restricted(ipv6 bool) bool {
	return slices.ContainsFunc(p.sourcesWanted, func(s bpf.SourceRange) bool {
		_, clients := s.Parse()
		return clients.Addr().Is6() == ipv6
	})
}

// admits reports whether all source ranges of the family are in the kernel.
func (p *port) admits(ipv6 bool) bool {
	return !slices.ContainsFunc(p.sourcesWanted, func(s bpf.SourceRange) bool {
		_, clients := s.Parse()
		return clients.Addr().Is6() == ipv6 && !p.sources[s]
	})
}

var errNotAdmitting = errors.New("its source ranges are not in the kernel")

// putSources puts the ranges that p lacks: all that can be, the first error is returned.
func (r *Reconciler) putSources(p *port) error {
	var first error
	for _, s := range p.sources.missing(p.sourcesWanted) {
		if p.sources == nil {
			p.sources = make(listing[bpf.SourceRange])
		}
		r.stats.Ranges++
		err := r.tables.PutSourceRange(s)
		p.sources[s] = err == nil
		if err != nil && first == nil {
			_, clients := s.Parse()
			first = fmt.Errorf("admit %s to %s: %w", clients, p.name, err)
		}
	}
	return first
}

// retireSources deletes the source ranges that nobody is to use any more, once the frontends are written.
func (r *Reconciler) retireSources() []error {
	type deletion struct {
		port  *port // nil: an orphan
		entry bpf.SourceRange
	}
	var now, later []deletion
	for _, p := range r.retiring.list {
		if len(p.sources) == 0 {
			continue
		}
		for _, s := range p.sources.surplus(p.sourcesWanted, compareSources) {
			_, clients := s.Parse()
			ipv6 := clients.Addr().Is6()
			switch {
			case p.restricted(ipv6):
				now = append(now, deletion{p, s}) // others are admitted, these no more
			case r.restricting[restriction{p.id, ipv6}] == 0:
				later = append(later, deletion{p, s})
			}
		}
	}
	if r.pruned {
		for _, s := range r.orphans.sources {
			service, clients := s.Parse()
			if r.restricting[restriction{service, clients.Addr().Is6()}] == 0 {
				later = append(later, deletion{nil, s})
			}
		}
	}
	var errs []error
	if len(later) > 0 {
		// Whoever has just read a frontend that asked must still find them.
		if err := r.tables.Quiesce(); err != nil {
			errs = append(errs, fmt.Errorf("wait for the readers of source ranges: %w", err))
			later = nil
		}
	}
	for _, d := range append(now, later...) {
		r.stats.Ranges++
		err := r.tables.DeleteSourceRange(d.entry)
		switch {
		case err == nil && d.port != nil:
			delete(d.port.sources, d.entry)
		case err == nil:
			r.orphans.sources = slices.DeleteFunc(r.orphans.sources, func(s bpf.SourceRange) bool { return s == d.entry })
		case d.port != nil:
			d.port.sources[d.entry] = false
			errs = append(errs, fmt.Errorf("delete a source range of %s: %w", d.port.name, err))
		default:
			errs = append(errs, fmt.Errorf("delete a source range of nobody: %w", err))
		}
	}
	return errs
}

func compareSources(a, b bpf.SourceRange) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Bits, b.Bits), slices.Compare(a.Client.Word[:], b.Client.Word[:]))
}
