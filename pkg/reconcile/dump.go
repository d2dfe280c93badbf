package reconcile

import (
	"fmt"
	"slices"
	"strings"
)

// Dump returns the snapshot as canonical text, a sorted line for each thing. It leaves out the ids and
// generations: two kernels that do the same dump the same.
func (s *Snapshot) Dump() string {
	var lines []string
	for i := range s.Services {
		svc := &s.Services[i]
		lines = append(lines, fmt.Sprintf("service %s/%s\n", svc.Name, svc.Protocol))
		for j := range svc.Frontends {
			lines = append(lines, svc.Frontends[j].line(svc.Name))
		}
		for j := range svc.Backends {
			lines = append(lines, svc.Backends[j].line(svc))
		}
	}
	for _, p := range s.Problems {
		lines = append(lines, "problem "+p+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func (f *FrontendEntry) line(service string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "frontend %s/%s %s %s", f.Address, f.Protocol, f.Kind, service)
	if f.AffinitySeconds != 0 {
		fmt.Fprintf(&b, " affinity=%ds", f.AffinitySeconds)
	}
	if f.HostOnly {
		b.WriteString(" host-only")
	}
	if f.NoSocket {
		b.WriteString(" no-socket")
	}
	for i, clients := range f.SourceRanges {
		fmt.Fprintf(&b, "%s%s", [...]string{" ranges=", ","}[min(i, 1)], clients)
	}
	if inside, outside := f.Inside.String(), f.Outside.String(); f.Inside.ID == f.Outside.ID && inside == outside {
		fmt.Fprintf(&b, " → %s\n", inside)
	} else {
		fmt.Fprintf(&b, " → inside %s, outside %s\n", inside, outside)
	}
	return b.String()
}

// String returns the set, the verdict and the backends.
func (p *PoolEntry) String() string {
	s := []string{p.Set, p.Verdict}
	for _, b := range p.Backends {
		s = append(s, b.String())
	}
	return strings.Join(s, " ")
}

func (b *BackendEntry) line(svc *ServiceEntry) string {
	line := fmt.Sprintf("backend %s/%s %s", b.Address, svc.Protocol, svc.Name)
	for _, s := range []struct {
		on   bool
		name string
	}{{b.Local, "local"}, {b.Ready, "ready"}, {b.Serving, "serving"}, {b.Terminating, "terminating"}} {
		if s.on {
			line += " " + s.name
		}
	}
	return line + "\n"
}
