package watch

import (
	"cmp"
	"net/netip"
	"slices"
)

// serviceCIDRs is the part of a [State] that is about ServiceCIDR objects. Two of them may name one prefix.
type serviceCIDRs struct {
	objects map[string][]netip.Prefix // by name; those with none are not there
	known   bool                      // all of them
	pending bool
}

func (s *serviceCIDRs) set(name string, prefixes []netip.Prefix) (changed bool) {
	if slices.Equal(s.objects[name], prefixes) {
		return false
	}
	if len(prefixes) == 0 {
		delete(s.objects, name)
	} else {
		s.objects[name] = prefixes
	}
	s.pending = s.known
	return s.known
}

func (s *serviceCIDRs) sync() { s.known, s.pending = true, true }

// take returns all prefixes, nil if none has changed.
func (s *serviceCIDRs) take() []netip.Prefix {
	if !s.pending {
		return nil
	}
	s.pending = false
	all := []netip.Prefix{}
	for _, prefixes := range s.objects {
		all = append(all, prefixes...)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(all)
}
