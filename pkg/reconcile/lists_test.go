package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// join returns the prefixes as canonical text.
func join(list []netip.Prefix) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.String()
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " ")
}

// found returns what a program finds in source_ranges.
func (f *fake) found(r restriction) string {
	var list []netip.Prefix
	for s := range f.sources {
		if service, clients := s.Parse(); service == r.service && clients.Addr().Is6() == r.ipv6 {
			list = append(list, clients)
		}
	}
	return join(list)
}

// lists returns the members and source ranges that w wants, without ids.
func (w *world) lists() string {
	var lines []string
	for _, c := range w.services {
		for _, r := range endpoints.Resolve(c.Service, c.Slices, w.view) {
			for _, p := range r.Pools {
				var list []string
				for _, b := range p.Backends {
					list = append(list, r.Backends[b].Addr.String())
				}
				if slices.Sort(list); r.Affinity > 0 && len(list) > 0 {
					lines = append(lines, fmt.Sprintf("members %s %s", r.Port, strings.Join(list, " ")))
				}
			}
			for _, f := range r.Frontends {
				for _, p := range f.SourceRanges {
					lines = append(lines, fmt.Sprintf("range %s %s", r.Port, p))
				}
			}
		}
	}
	slices.Sort(lines)
	// A range of two frontends is one; pools of two sets with the same backends are two.
	lines = slices.CompactFunc(lines, func(a, b string) bool { return a == b && strings.HasPrefix(a, "range") })
	return strings.Join(lines, "\n")
}

// checkLists compares members and source ranges with what w wants.
func (f *fake) checkLists(t testing.TB, w *world) {
	t.Helper()
	pools := make(map[uint32][]string)
	owners := make(map[uint32]uint32)
	for m := range f.members {
		b := f.backends[m.Backend]
		pools[m.Pool] = append(pools[m.Pool], b.AddrPort().String())
		owners[m.Pool] = b.Service
	}
	name := func(id uint32) endpoints.PortName {
		p, _ := portName(f.services[id])
		return p
	}
	var lines []string
	for id, list := range pools {
		slices.Sort(list)
		lines = append(lines, fmt.Sprintf("members %s %s", name(owners[id]), strings.Join(list, " ")))
		if want := (answer{bpf.VerdictServe, strings.Join(list, " ")}); f.answer(id) != want {
			t.Errorf("pool %d answers %v, its members are %v", id, f.answer(id), want)
		}
	}
	for s := range f.sources {
		id, clients := s.Parse()
		lines = append(lines, fmt.Sprintf("range %s %s", name(id), clients))
	}
	slices.Sort(lines)
	diff(t, w.lists(), strings.Join(lines, "\n"))
}

// admission is what the source ranges of one family of a port may be at some moment: at least what all
// states of the model admit that restrict it, at most what one of them does.
type admission struct {
	least, most map[string]bool // nil: no state restricts it
}

func (wi *witness) admission(port endpoints.PortName, ipv6 bool) admission {
	var a admission
	for _, lists := range wi.sources {
		state := lists[portFamily{port, ipv6}]
		if len(state) == 0 {
			continue
		}
		if a.most == nil {
			a = admission{make(map[string]bool), make(map[string]bool)}
			for p := range state {
				a.least[p] = true
			}
		}
		for p := range a.least {
			if !state[p] {
				delete(a.least, p)
			}
		}
		for p := range state {
			a.most[p] = true
		}
	}
	return a
}

type portFamily struct {
	port endpoints.PortName
	ipv6 bool
}

// sourcesOf returns the source ranges of each port of w.
func (w *world) sourcesOf() map[portFamily]map[string]bool {
	all := make(map[portFamily]map[string]bool)
	for _, c := range w.services {
		for _, r := range endpoints.Resolve(c.Service, c.Slices, w.view) {
			for _, f := range r.Frontends {
				of := portFamily{r.Port, f.Addr.Is6()}
				for _, p := range f.SourceRanges {
					if all[of] == nil {
						all[of] = make(map[string]bool)
					}
					all[of][p.String()] = true
				}
			}
		}
	}
	return all
}

// lookSources checks what every program finds that has read a frontend since the last Quiesce.
func (wi *witness) lookSources(f *fake) {
	if f.readers == nil {
		return
	}
	checked := make(map[restriction]bool)
	for h := range f.readers.values {
		of := restriction{h.value.Service, h.ipv6}
		if h.value.Flags&bpf.FlagRanges == 0 || checked[of] {
			continue
		}
		checked[of] = true
		port, ok := portName(f.services[of.service])
		if !ok {
			continue // its name could not be written
		}
		found := f.found(of)
		words := strings.Fields(found)
		a := wi.admission(port, h.ipv6)
		if a.most == nil {
			f.violate("a frontend of %s asks for source ranges, and no state has some", port)
		}
		for _, p := range words {
			if !a.most[p] {
				f.violate("%s admits %s: no state does", port, p)
			}
		}
		for p := range a.least {
			if !slices.Contains(words, p) {
				f.violate("%s does not admit %s, as all states do, but %q", port, p, found)
			}
		}
	}
}
